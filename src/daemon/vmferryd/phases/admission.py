"""Whether a migration may begin at all, or be taken: every objection of one host, before anything is touched. Pure.

Both hosts judge by the same tables. What is asked for is honoured or refused, nothing is ignored, and whoever asks hears
everything that speaks against it at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vmferry.combinations import Place, broken, methods
from vmferry.errors import (
    HostIncompatible,
    InvalidParameter,
    InvalidState,
    MigrationUnsafe,
    NotSupported,
    Violation,
    VmferryError,
)
from vmferry.flags import BY_FLAG, NONE, STORAGE, Flag, names, unknown_bits
from vmferry.model import DomainState, Side
from vmferry.params import MigrationParams, given
from vmferryd.domains.devices import Disk
from vmferryd.domains.safety import DiskFacts, judge_disk
from vmferryd.drivers.base import DriverCapabilities, DriverFeature, GuestProbe, RunState, TransferState
from vmferryd.drivers.copies import disk_channel
from vmferryd.drivers.settings import MEMORY
from vmferryd.phases.settings import HONOURED, HONOURED_PARAMS


@dataclass(frozen=True, slots=True)
class Objection:
    """One thing that speaks against a migration, and the error that it would be alone."""

    error: type[VmferryError]
    violation: Violation


_MESSAGES: Mapping[type[VmferryError], str] = {
    InvalidParameter: "the flags and parameters of the migration do not fit",
    NotSupported: "the migration asks for what cannot be honoured",
    InvalidState: "the domain cannot be migrated as it is",
    HostIncompatible: "the two definitions are not of the same machine",
    MigrationUnsafe: "the guest could lose data, for its disks are not safe to hand over",
}
"""What an error says that stands for several objections; the gravest first."""


def refuse(objections: Iterable[Objection], detail: str = "") -> None:
    """Nothing speaks against the migration.

    Raises:
        InvalidParameter, NotSupported, InvalidState, HostIncompatible, MigrationUnsafe: the gravest kind of objection that
            there is; its `violations` are all of them.
    """
    found = tuple(objections)
    if not found:
        return
    gravest = min((objection.error for objection in found), key=list(_MESSAGES).index)
    violations = tuple(dict.fromkeys(objection.violation for objection in found))
    message = f"{_MESSAGES[gravest]}: {violations[0].description}" if len(violations) == 1 else _MESSAGES[gravest]
    remedy = violations[0].remedy if len(violations) == 1 else ""
    raise gravest(message, remedy=remedy, violations=violations, detail=detail)


# -- the request -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DriverNeed:
    """What a flag or a compression method demands of the hypervisors of `sides`."""

    subject: str
    feature: DriverFeature
    sides: frozenset[Side]
    flag: Flag | None = None
    method: str = ""
    remedy: str = "leave it out"
    unless: Flag = NONE

    def applies(self, flags: Flag, params: MigrationParams) -> bool:
        """The request has it."""
        by_flag = self.flag is not None and self.flag in flags and not self.unless & flags
        return by_flag or self.method in methods(flags, params)


_SOURCE, _BOTH = frozenset({Side.SOURCE}), frozenset(Side)
DRIVER_NEEDS: tuple[DriverNeed, ...] = (
    DriverNeed("AUTO_CONVERGE", DriverFeature.AUTO_CONVERGE, _SOURCE, flag=Flag.AUTO_CONVERGE),
    DriverNeed("POSTCOPY", DriverFeature.POSTCOPY, _BOTH, flag=Flag.POSTCOPY),
    DriverNeed(
        "POSTCOPY",
        DriverFeature.PAGES_ON_DEMAND,
        frozenset({Side.DESTINATION}),
        flag=Flag.POSTCOPY,
        remedy="the destination's kernel does not let its hypervisor fetch pages: set vm.unprivileged_userfaultfd to 1 "
        "there, or give it CAP_SYS_PTRACE; or leave POSTCOPY out",
    ),
    DriverNeed("NON_SHARED_DISK", DriverFeature.COPIES_DISKS, _BOTH, flag=Flag.NON_SHARED_DISK, unless=Flag.OFFLINE),
    DriverNeed("NON_SHARED_INC", DriverFeature.COPIES_DISKS, _BOTH, flag=Flag.NON_SHARED_INC, unless=Flag.OFFLINE),
    DriverNeed("xbzrle", DriverFeature.XBZRLE, _BOTH, method="xbzrle"),
    DriverNeed("TLS", DriverFeature.TLS, _BOTH, flag=Flag.TLS),
    DriverNeed("PARALLEL", DriverFeature.PARALLEL, _BOTH, flag=Flag.PARALLEL),
    DriverNeed("zlib", DriverFeature.PARALLEL_ZLIB, _BOTH, method="zlib"),
    DriverNeed("zstd", DriverFeature.PARALLEL_ZSTD, _BOTH, method="zstd"),
)


def of_request(side: Side, flags: Flag, params: MigrationParams, driver: DriverCapabilities) -> Iterator[Objection]:
    """What `side` cannot honour of the request, or what does not go together in it."""
    for bit in unknown_bits(flags.value):
        text = "is no flag that is known here"
        yield Objection(InvalidParameter, Violation(f"bit {bit}", text, "use a client and daemons of the same version"))
    place = Place.SOURCE if side is Side.SOURCE else Place.DESTINATION
    yield from (Objection(rule.error, rule.violation()) for rule in broken(flags, params, place))
    yield from (Objection(NotSupported, violation) for violation in _not_built(side, flags, params))
    for need in DRIVER_NEEDS:
        if side in need.sides and need.applies(flags, params) and need.feature not in driver.features:
            text = f"the {driver.name} driver ({driver.version}) cannot do it"
            yield Objection(NotSupported, Violation(need.subject, text, need.remedy))


_WHY_NOT: Mapping[Flag | str, str] = {
    Flag.ZEROCOPY: "the hypervisor's connections lead through a UNIX socket beside it, where whatever is sent is copied",
    Flag.RDMA_PIN_ALL: "no guest's memory goes by RDMA",
    "graphics_uri": "only a SPICE display can be led to another host, and guests here have none",
}
"""Where more can be said of a flag or a parameter than that it is not acted upon."""

_NO_METHOD: Mapping[str, tuple[str, str]] = {
    "mt": ("QEMU has given the method mt up (it is gone since 9.1)", "use --parallel with zlib or zstd, or xbzrle"),
}
"""Why a method of compression is not to be had, and what is."""


def _not_built(side: Side, flags: Flag, params: MigrationParams) -> Iterator[Violation]:
    missing = [flag for flag in Flag if flag in flags and flag not in HONOURED and side in BY_FLAG[flag].sides]
    for flag in missing:
        yield Violation(names(flag)[0], _WHY_NOT.get(flag, "this daemon does not act upon it"), "leave it out")
    for row in given(params):
        if side in row.sides and row.attribute not in HONOURED_PARAMS:
            yield Violation(row.name, _WHY_NOT.get(row.name, "this daemon does not act upon it"), "leave it out")
    for method in methods(flags, params):
        if method not in {need.method for need in DRIVER_NEEDS}:
            text, remedy = _NO_METHOD.get(method, (f"method {method} is not available here", "use xbzrle"))
            yield Violation("compression", text, remedy)


def of_certificates(flags: Flag, certificates: Path | None) -> Iterator[Objection]:
    """What this host lacks to encrypt what it was asked to."""
    if Flag.TLS in flags and certificates is None:
        remedy = "set `certificates` in the daemon's configuration to a folder that `vmferry pki issue host` made"
        yield Objection(NotSupported, Violation("TLS", "this host has no certificates", remedy))


def of_peer(peer: Side, capabilities: frozenset[str] | None, flags: Flag, params: MigrationParams) -> Iterator[Objection]:
    """What the other host's hypervisor lacks, as its cookie says; a host that does not say is believed to have all."""
    for need in DRIVER_NEEDS:
        lacks = capabilities is not None and need.feature not in capabilities
        if lacks and peer in need.sides and need.applies(flags, params):
            yield Objection(NotSupported, Violation(need.subject, f"the {peer}'s hypervisor cannot do it", need.remedy))


LANE_NEEDS: Mapping[Flag, str] = {Flag.PARALLEL: MEMORY}
"""The flags for which one data channel is not enough, and the one that they need besides."""


def of_lanes(peer: Side, lanes: frozenset[str] | None, flags: Flag, targets: Iterable[str] = ()) -> Iterator[Objection]:
    """What the other host's daemon lacks, as its cookie says: one that does not say knows one data channel alone.

    A destination has to name the channels that it takes. `targets` are the disks that are copied while their guest runs.
    """
    for target in targets:
        if lanes is None or (peer is Side.DESTINATION and disk_channel(target) not in lanes):
            text = f"the {peer}'s daemon takes no data channel for it in this migration"
            yield Objection(NotSupported, Violation(f"disk {target}", text, "use daemons of the same version"))
    for flag, channel in LANE_NEEDS.items():
        if flag in flags and (lanes is None or (peer is Side.DESTINATION and channel not in lanes)):
            text = f"the {peer}'s daemon takes no data channel for {channel} in this migration"
            yield Objection(NotSupported, Violation(names(flag)[0], text, "leave it out, or use daemons of the same version"))


def of_older_protocol(flags: Flag) -> Iterator[Objection]:
    """What protocols 1 and 2 cannot carry, whoever calls them by hand."""
    if flags & STORAGE:
        text, remedy = "protocols 1 and 2 do not say which disks are copied", "let both daemons announce protocol 3"
        yield from (Objection(NotSupported, Violation(name, text, remedy)) for name in names(flags & STORAGE))
    if Flag.OFFLINE in flags:
        text = "protocols 1 and 2 cannot move a definition without its guest"
        yield Objection(NotSupported, Violation("OFFLINE", text, "let both daemons announce protocol 3"))
    if Flag.POSTCOPY in flags:
        text = "protocols 1 and 2 have no hold of a source whose pages are needed"
        yield Objection(NotSupported, Violation("POSTCOPY", text, "let both daemons announce protocol 3"))


# -- the guest -------------------------------------------------------------------------------------------------------

_MOVABLE = (RunState.RUNNING, RunState.PAUSED, RunState.IO_ERROR)
_ANEW = "start it anew, or move its definition with OFFLINE"
_HELP = {RunState.GONE_OVER: "resume it first: a hypervisor sends a guest only once from where it stands"}
_BUSY = (TransferState.ACTIVE, TransferState.HELD, TransferState.COMPLETING)


def of_guest(name: str, probe: GuestProbe, flags: Flag, driver: DriverCapabilities) -> Iterator[Objection]:
    """What keeps a live guest from being moved (specification 1.9, "allowed" checks)."""
    if probe.run_state not in _MOVABLE:
        text = f"the guest is {probe.run_state} and cannot be moved"
        yield Objection(InvalidState, Violation(name, text, _HELP.get(probe.run_state, _ANEW)))
    if probe.transfer_state in _BUSY:
        text = f"a transfer of the guest is {probe.transfer_state} already"
        yield Objection(InvalidState, Violation(name, text, "wait for its end, or end it"))
    if Flag.ABORT_ON_ERROR in flags and probe.run_state is RunState.IO_ERROR:
        text = "an I/O error has stopped the guest already"
        yield Objection(InvalidState, Violation(name, text, "heal its disk and resume it, or leave out ABORT_ON_ERROR"))
    if Flag.LIVE in flags and probe.run_state is RunState.RUNNING and DriverFeature.LIVE not in driver.features:
        text = f"the {driver.name} driver ({driver.version}) cannot hold a running guest at its switch-over"
        yield Objection(NotSupported, Violation("LIVE", text, "leave it out, so that the guest stands still meanwhile"))
    for blocker in probe.blockers:
        remedy = "take the device away that it is about, and try again"
        yield Objection(InvalidState, Violation(name, f"the hypervisor says: {blocker}", remedy))


def of_activity(name: str, state: DomainState) -> Iterator[Objection]:
    """What keeps the images of a domain from being copied as they are."""
    if state.active:
        text = f"the guest is {state}, and images that it may write to cannot be copied"
        yield Objection(InvalidState, Violation(name, text, "shut it down, or move its definition alone"))


def of_disks(disks: Mapping[str, tuple[Disk, DiskFacts]]) -> Iterator[Objection]:
    """The disks, by their targets, that are not safe to hand over ("safe" checks)."""
    for target, (disk, facts) in disks.items():
        verdict = judge_disk(disk, facts)
        if not verdict.is_safe:
            text = f"{disk.source_path}: {verdict.reason}"
            yield Objection(MigrationUnsafe, Violation(f"disk {target}", text, f"{verdict.remedy}, or add UNSAFE"))
