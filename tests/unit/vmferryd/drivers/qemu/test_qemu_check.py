"""What keeps a definition from starting is said at once, with what helps."""

from __future__ import annotations

import asyncio
import os
import subprocess
from dataclasses import replace

import pytest
from qemu_programs import program
from test_qemu_command import PLAIN, SERVER

from support.waiting import eventually
from vmferryd.domains.definition import parse
from vmferryd.drivers.qemu import memory_lock
from vmferryd.drivers.qemu.check import violations
from vmferryd.drivers.qemu.config import QemuConfig


def found(xml: str) -> dict[str, str]:
    """The descriptions, by subject."""
    return {one.subject: one.description for one in violations(parse(xml), program(), QemuConfig())}


def test_everything_that_is_missing_is_named() -> None:
    """In one answer, not one after another."""
    subjects = found(SERVER)
    assert subjects["type"] == "KVM cannot be used here"
    assert subjects["disk vda"] == "/srv/a.qcow2 does not exist"
    assert subjects["disk sda"] == "/dev/vg/b does not exist"
    assert subjects["disk sdb"] == "/srv/seed.iso does not exist"


@pytest.mark.parametrize(
    ("old", "new", "subject", "words"),
    [
        ("machine='pc'", "machine='pc-i440fx-99.0'", "os/type/@machine", "no machine type"),
        ("<memory unit='MiB'>128", "<memory unit='TiB'>128", "memory", "MiB are available"),
        ("<vcpu>1", "<vcpu>300", "vcpu", "at most 255"),
        ("/boot/vmlinuz", "/absent/vmlinuz", "os/kernel", "/absent/vmlinuz does not exist"),
        ("<devices>", "<on_poweroff>restart</on_poweroff><devices>", "on_poweroff", "not restarted"),
        ("<devices>", "<cpu mode='host-passthrough'/><devices>", "cpu", "without KVM"),
    ],
)
def test_a_finding(old: str, new: str, subject: str, words: str) -> None:
    """Each names its place and its reason."""
    assert words in found(PLAIN.replace(old, new))[subject]


@pytest.mark.parametrize(
    ("limit_bytes", "words"),
    [
        (None, ""),
        ((128 << 20) + memory_lock.OVERHEAD_BYTES, ""),
        ((128 << 20) + memory_lock.OVERHEAD_BYTES - 1024, "needs 1152 MiB with QEMU's own"),
        (64 << 10, "may lock 64 KiB"),
    ],
)
def test_memory_that_may_not_be_locked(limit_bytes: int | None, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon's limit, which is also that of each QEMU, has to have room for the guest and for QEMU itself."""
    monkeypatch.setattr(memory_lock, "limit_bytes", lambda: limit_bytes)
    locked = PLAIN.replace("<devices>", "<memoryBacking><locked/></memoryBacking><devices>")
    said = found(locked)
    assert said.keys() - found(PLAIN).keys() == ({"memoryBacking/locked"} if words else set())
    assert words in said.get("memoryBacking/locked", "")


def test_what_is_locked_may_take_its_time_to_be_up() -> None:
    """8 s more for each GiB, as the documents say; nothing is waited for that is not locked."""
    locked = parse(PLAIN.replace("<devices>", "<memoryBacking><locked/></memoryBacking><devices>"))
    locked_bytes = memory_lock.locked_bytes(locked)
    assert ((128 << 20) + memory_lock.OVERHEAD_BYTES, 0) == (locked_bytes, memory_lock.locked_bytes(parse(PLAIN)))
    assert (20.0, 29.0) == (QemuConfig().starting_s(0), QemuConfig().starting_s(locked_bytes))


@pytest.mark.parametrize(
    ("capabilities", "anything"), [("000001ffffffffff", True), ("0000000000004000", True), ("3fff", False)]
)
def test_a_process_with_the_capability_has_no_limit(capabilities: str, anything: bool) -> None:
    """The kernel does not look at its limit then, and neither does the check."""
    assert anything == memory_lock.may_lock_anything(f"Name:\tx\nCapEff:\t{capabilities}\nCapBnd:\t0\n")


def test_the_limit_that_is_found_is_the_processs_own() -> None:
    """As the kernel says it, and not as this test guesses."""
    words = ("prlimit", "--memlock=65536:65536", "sleep", "60")
    drop = ("setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock") if os.geteuid() == 0 else ()
    with subprocess.Popen((*drop, *words)) as sleeper:
        try:
            asyncio.run(eventually(lambda: memory_lock.limit_bytes(sleeper.pid) == 65536, 20))
        finally:
            sleeper.kill()


MODEL = "<cpu mode='custom' match='exact'{check}><model>{model}</model>{features}</cpu><devices>"


def about_the_cpu(cpu: str, *, kvm: bool) -> dict[str, str]:
    """What is found about the CPU; the domain type itself aside."""
    xml = PLAIN.replace("<devices>", cpu)
    said = found(xml.replace("type='qemu'", "type='kvm'") if kvm else xml)
    return {subject: words for subject, words in said.items() if subject.startswith("cpu")}


def model(name: str, features: str = "", check: str = "") -> str:
    """The element of a CPU of that model."""
    return MODEL.format(model=name, features=features, check=f" check='{check}'" if check else "")


def test_a_model_that_this_qemu_does_not_have() -> None:
    """Whatever runs the guest."""
    for kvm in (False, True):
        assert "has no CPU model 'Granite-v9'" in about_the_cpu(model("Granite-v9"), kvm=kvm)["cpu/model"]


@pytest.mark.parametrize(
    ("features", "check", "kvm", "missing"),
    [
        ("", "", True, "aes is missing"),
        ("", "partial", True, "aes is missing"),
        ("", "none", True, ""),
        ("<feature policy='disable' name='aes'/>", "", True, ""),
        ("", "", False, ""),
        ("", "full", False, "aes, xsavec are missing"),
    ],
)
def test_a_guest_is_not_given_less_than_its_model(features: str, check: str, kvm: bool, missing: str) -> None:
    """By KVM the host's CPU decides, unless the definition says not to check; by TCG only a full check does."""
    said = about_the_cpu(model("Skylake-Client", features, check), kvm=kvm)
    assert said.keys() == ({"cpu/model"} if missing else set())
    assert missing in "".join(said.values())


@pytest.mark.parametrize(
    ("feature", "policy", "words"),
    [
        ("aes", "require", "does not have the feature 'aes'"),
        ("aes", "optional", ""),
        ("sse4_1", "require", ""),
        ("telepathy", "require", "knows no CPU feature 'telepathy'"),
    ],
)
def test_a_feature_that_is_required_must_be_there(feature: str, policy: str, words: str) -> None:
    """Under any of its spellings."""
    said = about_the_cpu(model("qemu64", f"<feature policy='{policy}' name='{feature}'/>"), kvm=True)
    assert said.keys() == ({f"cpu/feature[@name='{feature}']"} if words else set())
    assert words in "".join(said.values())


def test_an_accelerator_that_answers_nothing_is_not_guessed_about() -> None:
    """Where KVM does not work there is one finding about that, and none about the CPU."""
    definition = parse(PLAIN.replace("<devices>", model("Skylake-Client")).replace("type='qemu'", "type='kvm'"))
    silent = replace(program(), cpus={})
    assert not [one for one in violations(definition, silent, QemuConfig()) if one.subject.startswith("cpu")]


def test_every_finding_has_a_remedy() -> None:
    """A reader is never left alone."""
    definition = replace(parse(SERVER), memory_bytes=1 << 60)
    assert all(one.remedy for one in violations(definition, program(), QemuConfig()))
