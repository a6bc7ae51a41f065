"""The CPU and the clock ↔ XML."""

from enum import StrEnum

from vmferryd.domains.model import (
    Clock,
    ClockBasis,
    ClockOffset,
    Cpu,
    CpuCheck,
    CpuFallback,
    CpuFeature,
    CpuFeaturePolicy,
    CpuMatch,
    CpuMode,
    CpuTopology,
    TickPolicy,
    Timer,
    TimerName,
)
from vmferryd.domains.reading import Element, Node
from vmferryd.domains.writing import add, add_text, on_off, yes_no

_MAXIMUM_ADJUSTMENT_S = 2**40
_MAXIMUM_FREQUENCY_HZ = 2**40
_FROM_HOST = frozenset({CpuMode.HOST_PASSTHROUGH, CpuMode.MAXIMUM})
_TICK_POLICIES = {
    TimerName.RTC: (TickPolicy.DELAY, TickPolicy.CATCHUP),
    TimerName.PIT: (TickPolicy.DELAY, TickPolicy.DISCARD),
}


class _Clusters(StrEnum):
    ONE = "1"


def read_cpu(domain: Element, vcpus: int) -> Cpu | None:
    """Return the CPU, None where the document leaves it to the hypervisor."""
    element = domain.child("cpu")
    if not element.present:
        return None
    mode = element.choice("mode", CpuMode) or CpuMode.CUSTOM
    model = element.child("model")
    name = model.text() if mode is CpuMode.CUSTOM else None
    return Cpu(
        mode=mode,
        match=_read_match(element, name),
        check=element.choice("check", CpuCheck),
        migratable=element.on_off("migratable") if mode in _FROM_HOST else None,
        model=name,
        fallback=model.choice("fallback", CpuFallback) if mode not in _FROM_HOST else None,
        vendor=element.child("vendor").text(),
        topology=_read_topology(element.child("topology"), vcpus),
        features=tuple(_read_feature(feature) for feature in element.children("feature")),
    )


def write_cpu(domain: Node, cpu: Cpu | None) -> None:
    """`domain` ends with the CPU, if there is one."""
    if cpu is None:
        return
    modes = {"mode": cpu.mode, "match": cpu.match, "check": cpu.check, "migratable": on_off(cpu.migratable)}
    node = add(domain, "cpu", modes)
    if cpu.model is not None or cpu.fallback is not None:
        add(node, "model", {"fallback": cpu.fallback}, cpu.model)
    add_text(node, "vendor", cpu.vendor)
    if cpu.topology is not None:
        sizes = {"sockets": cpu.topology.sockets, "dies": cpu.topology.dies}
        add(node, "topology", {**sizes, "cores": cpu.topology.cores, "threads": cpu.topology.threads})
    for feature in cpu.features:
        add(node, "feature", {"policy": feature.policy, "name": feature.name})


def read_clock(domain: Element) -> Clock:
    """Return the clock, UTC unless the document says otherwise."""
    element = domain.child("clock")
    offset = element.choice("offset", ClockOffset) or ClockOffset.UTC
    timers = tuple(_read_timer(timer) for timer in element.children("timer"))
    if offset is not ClockOffset.VARIABLE:
        return Clock(offset=offset, timers=timers)
    adjustment = element.integer("adjustment", -_MAXIMUM_ADJUSTMENT_S, _MAXIMUM_ADJUSTMENT_S)
    basis = element.choice("basis", ClockBasis) or ClockBasis.UTC
    return Clock(offset=offset, adjustment_s=adjustment or 0, basis=basis, timers=timers)


def write_clock(domain: Node, clock: Clock) -> None:
    """`domain` ends with the clock."""
    variable = {"adjustment": clock.adjustment_s, "basis": clock.basis}
    node = add(domain, "clock", {"offset": clock.offset, **variable})
    for timer in clock.timers:
        _write_timer(node, timer)


def _read_match(cpu: Element, model: str | None) -> CpuMatch | None:
    """Return how the model is matched; without a model there is nothing to match."""
    if model is None:
        return None
    return cpu.choice("match", CpuMatch) or CpuMatch.EXACT


def _read_topology(element: Element, vcpus: int) -> CpuTopology | None:
    if not element.present:
        return None
    element.choice("clusters", _Clusters)
    topology = CpuTopology(
        sockets=element.need_integer("sockets", 1),
        dies=element.integer("dies", 1) or 1,
        cores=element.need_integer("cores", 1),
        threads=element.need_integer("threads", 1),
    )
    if topology.vcpus != vcpus:
        remedy = "Make sockets x dies x cores x threads the number of vCPUs."
        element.refuse(f"the topology has {topology.vcpus} vCPUs and the guest {vcpus}", remedy)
    return topology


def _read_feature(element: Element) -> CpuFeature:
    name = element.need("name")
    element.claim("CPU feature", name, at="/@name")
    return CpuFeature(name, element.choice("policy", CpuFeaturePolicy) or CpuFeaturePolicy.REQUIRE)


def _read_timer(element: Element) -> Timer:
    name = element.kind("name", TimerName)
    element.claim("timer", name, at="/@name")
    allowed = _TICK_POLICIES.get(name, ())
    policy = element.choice("tickpolicy", TickPolicy) if allowed else None
    if policy is not None and policy not in allowed:
        remedy = "Supported: " + ", ".join(allowed) + "."
        element.refuse(f"the timer '{name}' has no tick policy '{policy}'", remedy, at="/@tickpolicy")
    frequency = element.integer("frequency", 1, _MAXIMUM_FREQUENCY_HZ) if name is TimerName.TSC else None
    return Timer(name=name, present=element.yes_no("present"), tick_policy=policy, frequency_hz=frequency)


def _write_timer(clock: Node, timer: Timer) -> None:
    settings = {"present": yes_no(timer.present), "frequency": timer.frequency_hz}
    add(clock, "timer", {"name": timer.name, "tickpolicy": timer.tick_policy, **settings})
