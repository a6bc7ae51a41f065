"""The CPU and the clock in the document."""

import pytest

from vmferryd.domains.model import Clock, ClockBasis, ClockOffset, CpuMatch, CpuMode

from .documents import parsed, refused_parts


def test_a_model_is_matched_exactly_unless_said_otherwise():
    """As in libvirt; without a model there is nothing to match."""
    assert CpuMatch.EXACT is parsed(general="<cpu><model>qemu64</model></cpu>").cpu.match
    assert parsed(general="<cpu mode='maximum'/>").cpu.match is None
    assert parsed().cpu is None


def test_a_cpu_may_have_only_a_topology():
    """The model is then the hypervisor's default."""
    cpu = parsed(general="<vcpu>4</vcpu><cpu><topology sockets='2' cores='2' threads='1'/></cpu>").cpu
    assert (CpuMode.CUSTOM, None, 4) == (cpu.mode, cpu.model, cpu.topology.vcpus)


def test_a_variable_clock_has_adjustment_and_basis():
    """Both have libvirt's defaults."""
    clock = parsed(general="<clock offset='variable'/>").clock
    assert Clock(offset=ClockOffset.VARIABLE, adjustment_s=0, basis=ClockBasis.UTC) == clock
    assert Clock() == parsed().clock


@pytest.mark.parametrize(
    ("general", "expected"),
    [
        ("<cpu mode='host'/>", {"/domain/cpu/@mode"}),
        ("<cpu mode='host-passthrough' match='exact'/>", {"/domain/cpu/@match"}),
        ("<cpu migratable='on'><model>qemu64</model></cpu>", {"/domain/cpu/@migratable"}),
        ("<cpu mode='maximum'><model>qemu64</model></cpu>", {"/domain/cpu/model/text()"}),
        ("<cpu><numa/></cpu>", {"/domain/cpu/numa"}),
        ("<cpu><topology sockets='1' cores='2' threads='1'/></cpu>", {"/domain/cpu/topology"}),
        ("<cpu><topology sockets='1' clusters='2' cores='1' threads='1'/></cpu>", {"/domain/cpu/topology/@clusters"}),
        ("<cpu><topology cores='1'/></cpu>", {"/domain/cpu/topology/@sockets", "/domain/cpu/topology/@threads"}),
        ("<cpu><feature name='a'/><feature name='a'/></cpu>", {"/domain/cpu/feature[2]/@name"}),
        ("<cpu><feature name='a' policy='maybe'/></cpu>", {"/domain/cpu/feature/@policy"}),
        ("<clock offset='timezone' timezone='Europe/Berlin'/>", {"/domain/clock/@offset", "/domain/clock/@timezone"}),
        ("<clock offset='utc' adjustment='reset'/>", {"/domain/clock/@adjustment"}),
        ("<clock><timer name='hypervclock' present='yes'/></clock>", {"/domain/clock/timer/@name"}),
        ("<clock><timer name='rtc' tickpolicy='discard'/></clock>", {"/domain/clock/timer/@tickpolicy"}),
        ("<clock><timer name='hpet' tickpolicy='delay'/></clock>", {"/domain/clock/timer/@tickpolicy"}),
        ("<clock><timer name='pit' frequency='5'/></clock>", {"/domain/clock/timer/@frequency"}),
        ("<clock><timer name='pit'/><timer name='pit'/></clock>", {"/domain/clock/timer[2]/@name"}),
    ],
)
def test_what_is_not_supported_is_refused(general, expected):
    """Each construct is reported where it stands."""
    assert expected == set(refused_parts(general=general))
