"""Migration flags: one table of number, name, meaning and needs.

The names and the numbers are libvirt's, so that a tool or a habit made for libvirt fits (specification 3.1). What may
be combined with what is in `combinations`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from vmferry.errors import InvalidParameter, Violation
from vmferry.features import Feature
from vmferry.model import Side


class Flag(enum.IntFlag, boundary=enum.KEEP):
    """A migration flag. Bits that vmferry does not know are kept, so that `unknown_bits` can name them."""

    LIVE = 1 << 0
    PEER2PEER = 1 << 1
    TUNNELLED = 1 << 2
    PERSIST_DEST = 1 << 3
    UNDEFINE_SOURCE = 1 << 4
    PAUSED = 1 << 5
    NON_SHARED_DISK = 1 << 6
    NON_SHARED_INC = 1 << 7
    CHANGE_PROTECTION = 1 << 8
    UNSAFE = 1 << 9
    OFFLINE = 1 << 10
    COMPRESSED = 1 << 11
    ABORT_ON_ERROR = 1 << 12
    AUTO_CONVERGE = 1 << 13
    RDMA_PIN_ALL = 1 << 14
    POSTCOPY = 1 << 15
    TLS = 1 << 16
    PARALLEL = 1 << 17
    NON_SHARED_SYNCHRONOUS_WRITES = 1 << 18
    POSTCOPY_RESUME = 1 << 19
    ZEROCOPY = 1 << 20


NONE = Flag(0)

KNOWN = Flag(sum(Flag))
"""Every flag of the table."""

STORAGE = Flag.NON_SHARED_DISK | Flag.NON_SHARED_INC
"""The flags that ask for a copy of disks."""

SOURCE_ONLY = Flag.CHANGE_PROTECTION | Flag.ABORT_ON_ERROR | Flag.AUTO_CONVERGE
"""What a destination never sees (specification 2.7)."""

_BOTH = (Side.SOURCE, Side.DESTINATION)
_SOURCE = (Side.SOURCE,)
_DESTINATION = (Side.DESTINATION,)


@dataclass(frozen=True, slots=True)
class FlagRow:
    """One flag: what it does, which hosts act on it, the feature that must be announced, and its option."""

    flag: Flag
    meaning: str
    sides: tuple[Side, ...]
    option: str
    feature: Feature | None = None

    @property
    def name(self) -> str:
        """The name that libvirt has, without its prefix."""
        return self.flag.name or ""

    @property
    def bit(self) -> int:
        """The number of the bit, counted from 0."""
        return self.flag.value.bit_length() - 1


FLAGS: tuple[FlagRow, ...] = (
    FlagRow(Flag.LIVE, "The guest keeps running while its memory is copied.", _SOURCE, "--live"),
    FlagRow(
        Flag.PEER2PEER,
        "The source daemon coordinates and talks to the destination itself; the client only waits.",
        _BOTH,
        "--p2p",
        Feature.MIGRATION_P2P,
    ),
    FlagRow(
        Flag.TUNNELLED,
        "The guest's state travels inside the connection between the daemons; no other port is opened.",
        _BOTH,
        "--tunnelled",
    ),
    FlagRow(
        Flag.PERSIST_DEST,
        "The destination keeps the domain's definition after the guest has stopped.",
        _DESTINATION,
        "--persistent",
    ),
    FlagRow(
        Flag.UNDEFINE_SOURCE,
        "The source forgets the domain's definition once the guest lives at the destination.",
        _SOURCE,
        "--undefinesource",
    ),
    FlagRow(
        Flag.PAUSED,
        "The guest stays paused at the destination; set without being asked when it was paused at the source.",
        _DESTINATION,
        "--suspend",
    ),
    FlagRow(Flag.NON_SHARED_DISK, "Disks that are not shared are copied whole.", _BOTH, "--copy-storage-all"),
    FlagRow(
        Flag.NON_SHARED_INC,
        "Of disks that are not shared only the top image is copied; both hosts have the same images below it.",
        _BOTH,
        "--copy-storage-inc",
    ),
    FlagRow(
        Flag.CHANGE_PROTECTION,
        "Nobody can change the domain at the source from the first phase to the last.",
        _SOURCE,
        "--change-protection",
        Feature.MIGRATE_CHANGE_PROTECTION,
    ),
    FlagRow(Flag.UNSAFE, "The guest is moved although its disk caching may lose writes on the way.", _SOURCE, "--unsafe"),
    FlagRow(
        Flag.OFFLINE,
        "Only the definition is moved, and with a copy-storage flag the disks; no guest runs or is stopped for it.",
        _BOTH,
        "--offline",
        Feature.MIGRATION_OFFLINE,
    ),
    FlagRow(
        Flag.COMPRESSED,
        "Memory is compressed on the way; the method is xbzrle unless a parameter names another.",
        _BOTH,
        "--compressed",
    ),
    FlagRow(
        Flag.ABORT_ON_ERROR,
        "An I/O error of the guest during the migration ends the migration.",
        _SOURCE,
        "--abort-on-error",
    ),
    FlagRow(
        Flag.AUTO_CONVERGE,
        "A guest that changes its memory faster than it can be sent is slowed down until it fits.",
        _SOURCE,
        "--auto-converge",
    ),
    FlagRow(Flag.RDMA_PIN_ALL, "All memory is pinned before a transfer over RDMA starts.", _BOTH, "--rdma-pin-all"),
    FlagRow(
        Flag.POSTCOPY,
        "The guest may be started at the destination before all memory is there; switching is a call of its own.",
        _BOTH,
        "--postcopy",
    ),
    FlagRow(Flag.TLS, "Memory and disks travel over TLS.", _BOTH, "--tls"),
    FlagRow(Flag.PARALLEL, "Memory travels over several connections at once.", _BOTH, "--parallel"),
    FlagRow(
        Flag.NON_SHARED_SYNCHRONOUS_WRITES,
        "The guest's writes go to both copies of a disk at once, so that the copy always catches up.",
        _SOURCE,
        "--copy-storage-synchronous-writes",
    ),
    FlagRow(
        Flag.POSTCOPY_RESUME,
        "A post-copy migration that lost its connection goes on where it stopped.",
        _BOTH,
        "--postcopy-resume",
    ),
    FlagRow(Flag.ZEROCOPY, "Memory is sent without a copy into the kernel.", _SOURCE, "--zerocopy"),
)

BY_FLAG = {row.flag: row for row in FLAGS}


def unknown_bits(value: int) -> tuple[int, ...]:
    """The numbers of the bits of `value` that no flag has, ascending."""
    rest = value & ~KNOWN.value
    return tuple(bit for bit in range(rest.bit_length()) if rest >> bit & 1)


def source_flags(flags: Flag, *, protection: Flag = NONE) -> Flag:
    """What Begin, Perform and Confirm get: the request, and `protection` where the source offers it (1.6 step 2)."""
    return flags | (protection & Flag.CHANGE_PROTECTION)


def destination_flags(flags: Flag) -> Flag:
    """What Prepare and Finish get: everything that does not concern the source alone."""
    return without(flags, SOURCE_ONLY)


def without(flags: Flag, gone: Flag) -> Flag:
    """`flags` less `gone`; bits that vmferry does not know stay, which `flags & ~gone` would drop."""
    return Flag(flags.value & ~gone.value)


def known(value: int) -> Flag:
    """The flags of `value`, as it came over the wire.

    Raises:
        InvalidParameter: it has bits that no flag of this vmferry has; all of them are named.
    """
    bits = unknown_bits(value)
    if bits:
        raise InvalidParameter(
            f"unknown migration flags: {', '.join(f'bit {bit}' for bit in bits)}",
            remedy="use a client and daemons of the same version",
            violations=tuple(Violation(f"bit {bit}", "is no flag that is known here") for bit in bits),
            detail="libvirt: INVALID_ARG",
        )
    return Flag(value)


def names(flags: Flag) -> tuple[str, ...]:
    """The names of the set bits, lowest first; a bit without a name is written `bit N`."""
    known = tuple(row.name for row in FLAGS if row.flag in flags)
    return known + tuple(f"bit {bit}" for bit in unknown_bits(flags.value))


def as_markdown() -> str:
    """The table of flags as Markdown."""
    lines = ["| bit | flag | option | acted on by | needs feature | meaning |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row.bit} | {row.name} | `{row.option}` | {', '.join(row.sides)} "
        f"| {row.feature.name if row.feature else '-'} | {row.meaning} |"
        for row in FLAGS
    ]
    return "\n".join(lines) + "\n"
