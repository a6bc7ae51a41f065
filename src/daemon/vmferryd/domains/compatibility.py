"""Whether a guest that runs as one definition can go on running as another.

What the guest can see must stay; what only its host knows may change. Everything counts as seen by the guest unless
it is in the table below, so that a new field is protected until somebody decides otherwise.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from vmferryd.domains.devices import (
    Channel,
    Console,
    Device,
    Disk,
    Graphics,
    Interface,
    Rng,
    Serial,
)
from vmferryd.domains.findings import Finding
from vmferryd.domains.locating import locate
from vmferryd.domains.model import Clock, Cpu, DomainDefinition

_REMEDY = "A running guest would see its hardware change; keep what the source has."

_XPATH_OF_FIELD = {
    "type": "/domain/@type",
    "uuid": "/domain/uuid",
    "memory_bytes": "/domain/memory",
    "vcpus": "/domain/vcpu",
    "os": "/domain/os",
    "features": "/domain/features",
    "cpu": "/domain/cpu",
    "clock": "/domain/clock",
    "power_management": "/domain/pm",
}

_MAY_CHANGE: dict[type, frozenset[str]] = {
    Clock: frozenset({"adjustment_s"}),
    Cpu: frozenset({"check"}),
    Device: frozenset({"alias"}),
    Disk: frozenset(
        {"type", "format", "source_path", "source_index", "without_backing_file", "shareable"}
        | {"cache", "io", "discard", "detect_zeroes"}
    ),
    Interface: frozenset({"type", "bridge", "target_device", "target_managed", "link"}),
    Serial: frozenset({"backend"}),
    Console: frozenset({"backend"}),
    Channel: frozenset({"backend", "state"}),
    Graphics: frozenset({"port", "autoport", "listen"}),
    Rng: frozenset({"path", "rate_bytes", "rate_period_ms"}),
}
_MAY_CHANGE_IN_OS = frozenset({"kernel", "initrd"})


def abi_differences(old: DomainDefinition, new: DomainDefinition) -> tuple[Finding, ...]:
    """Return what the guest would see change if it went on as `new`; empty if nothing.

    Both have their addresses assigned, or neither: an address that is only given in one of them is a difference.
    """
    sections = _sections(old, new)
    return (*sections, *_devices(old, new))


def _sections(old: DomainDefinition, new: DomainDefinition) -> Iterator[Finding]:
    for name, xpath in _XPATH_OF_FIELD.items():
        may_change = _MAY_CHANGE_IN_OS if name == "os" else frozenset[str]()
        yield from _differences(xpath, name, getattr(old, name), getattr(new, name), may_change)


def _devices(old: DomainDefinition, new: DomainDefinition) -> Iterator[Finding]:
    before, after = dict(locate(old.devices)), dict(locate(new.devices))
    for xpath, device in before.items():
        if xpath in after:
            yield from _differences(xpath, "device", device, after[xpath])
        elif not isinstance(device, Graphics):
            yield Finding(xpath, None, "the guest would lose this device", _REMEDY)
    for xpath, device in after.items():
        if xpath not in before and not isinstance(device, Graphics):
            yield Finding(xpath, None, "the guest would get this device", _REMEDY)


def _differences(
    xpath: str, name: str, old: object, new: object, may_change: frozenset[str] = frozenset()
) -> Iterator[Finding]:
    """Yield the differences, field by field where both are of one class."""
    if old == new:
        return
    if not is_dataclass(old) or type(old) is not type(new):
        label = name.replace("_", " ")
        yield Finding(xpath, None, f"{label} would change from {_shown(old)} to {_shown(new)}", _REMEDY)
        return
    exempt = may_change | _exempt(type(old))
    for field in fields(old):
        if field.name not in exempt:
            yield from _differences(xpath, field.name, getattr(old, field.name), getattr(new, field.name))


def _exempt(kind: type) -> frozenset[str]:
    return frozenset().union(*(_MAY_CHANGE.get(base, frozenset()) for base in kind.__mro__))


def _shown(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case tuple():
            return "(" + ", ".join(_shown(item) for item in value) + ")"
        case str() | int():
            return f"'{value}'"
    return str(value)
