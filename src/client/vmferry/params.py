"""Typed parameters: one table of name, type, unit and needs; and both spellings of a request made into one dataclass.

The names are libvirt's (specification 3.3), except those that begin with `vmferry.`. The *typed* spelling is a list of
names with values; the *fixed* spelling is the four arguments that older calls have. Behind this module there is only
`MigrationParams`.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from vmferry.errors import InvalidParameter, NotSupported, Violation, VmferryError
from vmferry.flags import NONE, STORAGE, Flag
from vmferry.flags import names as flag_names
from vmferry.model import Side

TypedValue = str | int
"""What a typed parameter can hold."""

MAXIMUM_TEXT_BYTES = 4 * 1024 * 1024
"""No text in a call is longer (specification 1.2)."""

MAXIMUM_PARAMETERS = 64
"""No call has more typed parameters (specification 1.2)."""


@dataclass(frozen=True, slots=True)
class MigrationParams:
    """What a migration is asked for besides its flags. None, or an empty tuple, means not given."""

    migrate_uri: str | None = None
    destination_name: str | None = None
    destination_xml: str | None = None
    persistent_xml: str | None = None
    bandwidth_mib_per_s: int | None = None
    postcopy_bandwidth_mib_per_s: int | None = None
    switchover_bandwidth_mib_per_s: int | None = None
    graphics_uri: str | None = None
    listen_address: str | None = None
    migrate_disks: tuple[str, ...] = ()
    migrate_disks_detect_zeroes: tuple[str, ...] = ()
    migrate_disks_target_zero: tuple[str, ...] = ()
    disks_port: int | None = None
    disks_uri: str | None = None
    compression: tuple[str, ...] = ()
    compression_mt_level: int | None = None
    compression_mt_threads: int | None = None
    compression_mt_dthreads: int | None = None
    compression_xbzrle_cache_bytes: int | None = None
    compression_zlib_level: int | None = None
    compression_zstd_level: int | None = None
    auto_converge_initial_percent: int | None = None
    auto_converge_increment_percent: int | None = None
    parallel_connections: int | None = None
    tls_destination: str | None = None
    max_downtime_ms: int | None = None
    fixed_downtime_ms: int | None = None


class Kind(enum.StrEnum):
    """The type of a value on the wire."""

    STRING = "string"
    INT = "int"
    UNSIGNED = "unsigned"


class Shape(enum.StrEnum):
    """What a number must be besides lying in its range."""

    ANY = "any"
    POWER_OF_TWO = "power-of-two"


class Arity(enum.StrEnum):
    """How often a name may be given."""

    ONCE = "once"
    REPEATED = "repeated"


class Spellings(enum.StrEnum):
    """Where a parameter can be written: both spellings, or the typed one alone."""

    BOTH = "both"
    TYPED = "typed"


class Forwarding(enum.StrEnum):
    """Whether a source daemon that coordinates sends the parameter on (specification 1.7)."""

    SENT_ON = "sent-on"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class ParameterRow:
    """One parameter.

    `minimum` and `maximum` bound a number, `choices` and `schemes` bound a text. `needs_any` are the flags of which one
    must be set, `needs_method` is the compression method that must be listed; whether they are is for `combinations`.
    `sides` are the hosts that use the value.
    """

    name: str
    attribute: str
    kind: Kind
    sides: tuple[Side, ...]
    option: str
    _: KW_ONLY
    meaning: str
    unit: str = ""
    minimum: int = 0
    maximum: int = 0
    shape: Shape = Shape.ANY
    choices: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ()
    arity: Arity = Arity.ONCE
    needs_any: Flag = NONE
    needs_method: str = ""
    spellings: Spellings = Spellings.TYPED
    forwarding: Forwarding = Forwarding.KEPT

    @property
    def repeatable(self) -> bool:
        """Whether the name may be given more than once."""
        return self.arity is Arity.REPEATED

    @property
    def range(self) -> str:
        """The values that are accepted, in words; empty when every value of the type is."""
        if self.kind is not Kind.STRING:
            return f"{self.minimum} to {self.maximum}"
        return ", ".join(self.choices or tuple(f"{scheme}:" for scheme in self.schemes))

    @property
    def needs(self) -> str:
        """What must be asked for as well, in words."""
        return f"method {self.needs_method}" if self.needs_method else " or ".join(flag_names(self.needs_any))


_SOURCE, _DESTINATION, _BOTH = (Side.SOURCE,), (Side.DESTINATION,), (Side.SOURCE, Side.DESTINATION)
_S, _I, _UL = Kind.STRING, Kind.INT, Kind.UNSIGNED
_MANY, _FIXED_TOO, _SENT_ON = Arity.REPEATED, Spellings.BOTH, Forwarding.SENT_ON

_INT64_MIB = 2**43 - 1
"""The most MiB whose bytes fit a signed 64-bit number."""

LONGEST_DOWNTIME_MS = 2_000_000
"""The longest pause that QEMU takes."""

_UINT64_MIB = 2**44 - 1
"""The most MiB whose bytes fit an unsigned 64-bit number."""

# One row is one parameter: name, attribute, type, sides, option; then what bounds it.
# fmt: off
PARAMETERS: tuple[ParameterRow, ...] = (
    ParameterRow("migrate_uri", "migrate_uri", _S, _BOTH, "--migrateuri",
                 unit="URI", spellings=_FIXED_TOO, forwarding=_SENT_ON,
                 meaning="Where the destination's hypervisor is reached; what Prepare returns replaces it."),
    ParameterRow("destination_name", "destination_name", _S, _BOTH, "--dname",
                 spellings=_FIXED_TOO, forwarding=_SENT_ON,
                 meaning="The domain's name at the destination, in its lasting definition as well."),
    ParameterRow("destination_xml", "destination_xml", _S, _BOTH, "--xml",
                 spellings=_FIXED_TOO, forwarding=_SENT_ON,
                 meaning="The definition that the guest gets at the destination; what it sees must stay the same."),
    ParameterRow("persistent_xml", "persistent_xml", _S, _SOURCE, "--persistent-xml",
                 needs_any=Flag.PERSIST_DEST,
                 meaning="The definition that the destination keeps; it travels in the source's cookie."),
    ParameterRow("bandwidth", "bandwidth_mib_per_s", _UL, _SOURCE, "--bandwidth",
                 unit="MiB/s", maximum=_INT64_MIB, spellings=_FIXED_TOO, forwarding=_SENT_ON,
                 meaning="The most that this one migration sends; 0 is the domain's stored value."),
    ParameterRow("bandwidth.postcopy", "postcopy_bandwidth_mib_per_s", _UL, _BOTH, "--postcopy-bandwidth",
                 unit="MiB/s", maximum=_UINT64_MIB, forwarding=_SENT_ON,
                 meaning="The most that is sent after the switch to post-copy; 0 is no limit. A resume honours it."),
    ParameterRow("bandwidth.avail.switchover", "switchover_bandwidth_mib_per_s", _UL, _SOURCE,
                 "--available-switchover-bandwidth", unit="MiB/s", maximum=_INT64_MIB,
                 meaning="The bandwidth assumed when it is decided whether the rest fits into the pause."),
    ParameterRow("graphics_uri", "graphics_uri", _S, _SOURCE, "--graphicsuri",
                 unit="URI", schemes=("spice", "vnc"), forwarding=_SENT_ON,
                 meaning="The address that viewers of the guest's display are sent to, in place of the destination's."),
    ParameterRow("listen_address", "listen_address", _S, _DESTINATION, "--listen-address",
                 unit="address or host name", forwarding=_SENT_ON,
                 meaning="The address at which the destination waits for memory and disks."),
    ParameterRow("migrate_disks", "migrate_disks", _S, _BOTH, "--migrate-disks",
                 unit="target name", arity=_MANY, needs_any=STORAGE, forwarding=_SENT_ON,
                 meaning="A disk to copy, by its target name; without any, all that can and need be."),
    ParameterRow("migrate_disks_detect_zeroes", "migrate_disks_detect_zeroes", _S, _SOURCE,
                 "--migrate-disks-detect-zeroes", unit="target name", arity=_MANY, needs_any=STORAGE,
                 meaning="A disk whose zeroes are recognised while it is copied, so that the copy stays sparse."),
    ParameterRow("migrate_disks_target_zero", "migrate_disks_target_zero", _S, _SOURCE, "--migrate-disks-target-zero",
                 unit="target name", arity=_MANY, needs_any=STORAGE,
                 meaning="A disk whose image at the destination is all zeroes already, so that none are sent."),
    ParameterRow("disks_port", "disks_port", _I, _DESTINATION, "--disks-port",
                 maximum=65535, needs_any=STORAGE, forwarding=_SENT_ON,
                 meaning="The port at which the destination waits for disks; 0 lets it choose."),
    ParameterRow("disks_uri", "disks_uri", _S, _BOTH, "--disks-uri",
                 unit="URI", schemes=("tcp", "unix"), needs_any=STORAGE, forwarding=_SENT_ON,
                 meaning="Where the destination waits for disks and the source finds it."),
    ParameterRow("compression", "compression", _S, _BOTH, "--comp-methods",
                 choices=("xbzrle", "mt", "zlib", "zstd"), arity=_MANY, forwarding=_SENT_ON,
                 meaning="A method by which memory is compressed on the way."),
    ParameterRow("compression.mt.level", "compression_mt_level", _I, _BOTH, "--comp-mt-level",
                 maximum=9, needs_method="mt", forwarding=_SENT_ON,
                 meaning="How hard the threads compress: 0 not at all, 1 fastest, 9 smallest."),
    ParameterRow("compression.mt.threads", "compression_mt_threads", _I, _BOTH, "--comp-mt-threads",
                 minimum=1, maximum=255, needs_method="mt", forwarding=_SENT_ON,
                 meaning="How many threads compress at the source."),
    ParameterRow("compression.mt.dthreads", "compression_mt_dthreads", _I, _BOTH, "--comp-mt-dthreads",
                 minimum=1, maximum=255, needs_method="mt", forwarding=_SENT_ON,
                 meaning="How many threads decompress at the destination."),
    ParameterRow("compression.xbzrle.cache", "compression_xbzrle_cache_bytes", _UL, _BOTH, "--comp-xbzrle-cache",
                 unit="bytes", minimum=4096, maximum=2 ** 63,
                 needs_method="xbzrle", forwarding=_SENT_ON, shape=Shape.POWER_OF_TWO,
                 meaning="How much of what was sent is remembered to send only differences: a power of two."),
    ParameterRow("compression.zlib.level", "compression_zlib_level", _I, _BOTH, "--comp-zlib-level",
                 maximum=9, needs_method="zlib", forwarding=_SENT_ON,
                 meaning="How hard zlib compresses."),
    ParameterRow("compression.zstd.level", "compression_zstd_level", _I, _BOTH, "--comp-zstd-level",
                 maximum=20, needs_method="zstd", forwarding=_SENT_ON,
                 meaning="How hard zstd compresses."),
    ParameterRow("auto_converge.initial", "auto_converge_initial_percent", _I, _SOURCE, "--auto-converge-initial",
                 unit="%", minimum=1, maximum=99, needs_any=Flag.AUTO_CONVERGE,
                 meaning="By how much the guest is slowed down at first."),
    ParameterRow("auto_converge.increment", "auto_converge_increment_percent", _I, _SOURCE, "--auto-converge-increment",
                 unit="%", minimum=1, maximum=99, needs_any=Flag.AUTO_CONVERGE,
                 meaning="By how much more it is slowed down each time that was not enough."),
    ParameterRow("parallel.connections", "parallel_connections", _I, _BOTH, "--parallel-connections",
                 minimum=1, maximum=255, needs_any=Flag.PARALLEL, forwarding=_SENT_ON,
                 meaning="Over how many connections memory travels."),
    ParameterRow("tls.destination", "tls_destination", _S, _SOURCE, "--tls-destination",
                 unit="host name", needs_any=Flag.TLS,
                 meaning="The host name that the destination's certificate must have."),
    ParameterRow("vmferry.downtime.max", "max_downtime_ms", _UL, _SOURCE, "--max-downtime",
                 unit="ms", minimum=1, maximum=LONGEST_DOWNTIME_MS, needs_any=Flag.LIVE,
                 meaning="The longest pause that is aimed at; a shorter one is tried first. Else the domain's, usually 300."),
    ParameterRow("vmferry.downtime.fixed", "fixed_downtime_ms", _UL, _SOURCE, "--fixed-downtime",
                 unit="ms", minimum=1, maximum=LONGEST_DOWNTIME_MS, needs_any=Flag.LIVE,
                 meaning="The pause that is aimed at, from the first round on; no shorter one is tried."),
)
# fmt: on
"""Every parameter, in the order in which the typed spelling lists them."""

BY_NAME = {row.name: row for row in PARAMETERS}


class Fixed(NamedTuple):
    """The four arguments of the fixed spelling; None, or bandwidth 0, means not given."""

    uri: str | None = None
    dname: str | None = None
    bandwidth_mib_per_s: int = 0
    xml: str | None = None


class _Finding(NamedTuple):
    error: type[VmferryError]
    violation: Violation


def given(params: MigrationParams) -> tuple[ParameterRow, ...]:
    """The rows of the parameters that `params` has."""
    return tuple(row for row in PARAMETERS if getattr(params, row.attribute) not in (None, ()))


def read_typed(items: Iterable[tuple[str, TypedValue]]) -> MigrationParams:
    """The typed spelling, read and checked.

    Raises:
        InvalidParameter: a wrong type, a value out of range, or a name given too often.
        NotSupported: an unknown name, and nothing worse.

    Either carries every finding.
    """
    pairs = list(items)
    findings = list(_findings(pairs))
    if findings:
        raise _refusal(findings)
    return _assembled(pairs)


def write_typed(params: MigrationParams) -> list[tuple[str, TypedValue]]:
    """The typed spelling of `params`, in the order of the table; `read_typed` gives `params` back."""
    pairs: list[tuple[str, TypedValue]] = []
    for row in given(params):
        value = getattr(params, row.attribute)
        pairs += [(row.name, item) for item in (value if row.repeatable else (value,))]
    return pairs


def in_words(params: MigrationParams) -> dict[str, str]:
    """What is given, by name; whole definitions are left out, and what is given several times is joined."""
    found: dict[str, str] = {}
    for name, value in write_typed(replace(params, destination_xml=None, persistent_xml=None)):
        found[name] = f"{found[name]}, {value}" if name in found else str(value)
    return found


def checked(params: MigrationParams) -> MigrationParams:
    """The same parameters, which then have passed every check of `read_typed`."""
    return read_typed(write_typed(params))


def from_fixed(fixed: Fixed) -> MigrationParams:
    """The fixed spelling, read and checked as `read_typed` does; empty text and bandwidth 0 mean not given."""
    return checked(
        MigrationParams(
            migrate_uri=fixed.uri or None,
            destination_name=fixed.dname or None,
            destination_xml=fixed.xml or None,
            bandwidth_mib_per_s=fixed.bandwidth_mib_per_s or None,
        )
    )


def to_fixed(params: MigrationParams) -> Fixed:
    """The fixed spelling of `params`.

    Raises:
        NotSupported: parameters have no place in it; all of them are named.
    """
    misfits = typed_only(params)
    if misfits:
        raise NotSupported(
            "older calls have no place for some parameters",
            remedy="leave them out, or use daemons that announce MIGRATION_PARAMS",
            violations=tuple(Violation(name, "has no place in the fixed spelling") for name in misfits),
            detail="libvirt: ARGUMENT_UNSUPPORTED",
        )
    return Fixed(params.migrate_uri, params.destination_name, params.bandwidth_mib_per_s or 0, params.destination_xml)


def typed_only(params: MigrationParams) -> tuple[str, ...]:
    """The names of the given parameters that the fixed spelling has no place for (specification 2.2 step 7)."""
    return tuple(row.name for row in given(params) if row.spellings is Spellings.TYPED)


def for_party(params: MigrationParams, side: Side) -> MigrationParams:
    """The parameters that `side` uses."""
    return _only(params, (row for row in given(params) if side in row.sides))


def p2p_forwarded(params: MigrationParams) -> MigrationParams:
    """The parameters that a coordinating source daemon sends on; bandwidth 0 is not worth sending (1.7)."""
    sent_on = (row for row in given(params) if row.forwarding is Forwarding.SENT_ON)
    kept = _only(params, sent_on)
    return replace(kept, bandwidth_mib_per_s=kept.bandwidth_mib_per_s or None)


def scheme(uri: str | None) -> str:
    """The scheme of a migration URI in lower case, of `tcp:host:port` as of `tcp://host:port`; empty without one."""
    return uri.partition(":")[0].lower() if uri and ":" in uri else ""


def _only(params: MigrationParams, rows: Iterable[ParameterRow]) -> MigrationParams:
    return MigrationParams(**{row.attribute: getattr(params, row.attribute) for row in rows})


def _assembled(pairs: list[tuple[str, TypedValue]]) -> MigrationParams:
    attributes: dict[str, Any] = {}
    for name, value in pairs:
        row = BY_NAME[name]
        attributes[row.attribute] = (*attributes.get(row.attribute, ()), value) if row.repeatable else value
    return MigrationParams(**attributes)


def _refusal(findings: list[_Finding]) -> VmferryError:
    error = InvalidParameter if any(f.error is InvalidParameter for f in findings) else NotSupported
    return error("the parameters of the migration are refused", violations=tuple(f.violation for f in findings))


def _findings(pairs: list[tuple[str, TypedValue]]) -> Iterator[_Finding]:
    if len(pairs) > MAXIMUM_PARAMETERS:
        text = f"{len(pairs)} parameters are more than the {MAXIMUM_PARAMETERS} that one call can carry"
        yield _Finding(InvalidParameter, Violation("parameters", text))
    for name, value in pairs:
        row = BY_NAME.get(name)
        if row is None:
            yield _Finding(NotSupported, Violation(name, "is not known here", "check the spelling, or leave it out"))
        elif problem := _problem(row, value):
            yield _Finding(InvalidParameter, Violation(name, problem))
    yield from (_Finding(InvalidParameter, violation) for violation in _repeated(pairs))


def _repeated(pairs: list[tuple[str, TypedValue]]) -> Iterator[Violation]:
    single = Counter(name for name, _ in pairs if name in BY_NAME and not BY_NAME[name].repeatable)
    yield from (Violation(name, f"is given {count} times") for name, count in single.items() if count > 1)
    listed = Counter((name, value) for name, value in pairs if name in BY_NAME and BY_NAME[name].repeatable)
    yield from (Violation(name, f"lists {value!r} {n} times") for (name, value), n in listed.items() if n > 1)


def _problem(row: ParameterRow, value: object) -> str:
    if row.kind is Kind.STRING:
        return _text_problem(row, value) if isinstance(value, str) else f"must be text, not {value!r}"
    if isinstance(value, bool) or not isinstance(value, int):
        return f"must be a number, not {value!r}"
    if not row.minimum <= value <= row.maximum:
        return f"must be {row.range} {row.unit}".rstrip() + f", not {value}"
    if row.shape is Shape.POWER_OF_TWO and value & (value - 1):
        return f"must be a power of two, not {value}"
    return ""


def _text_problem(row: ParameterRow, text: str) -> str:
    if not text:
        return "is empty"
    if len(text.encode(errors="surrogatepass")) > MAXIMUM_TEXT_BYTES:
        return f"is longer than {MAXIMUM_TEXT_BYTES} bytes"
    if row.choices and text not in row.choices:
        return f"must be one of {row.range}, not {text!r}"
    return _uri_problem(row, text) if row.schemes else ""


def _uri_problem(row: ParameterRow, text: str) -> str:
    try:
        uri = urlsplit(text)
        port = uri.port
    except ValueError as error:
        return f"is not a URI: {error}"
    if uri.scheme not in row.schemes:
        return f"must begin with one of {row.range}, not {text!r}"
    if uri.scheme == "unix":
        return "" if uri.path.startswith("/") and not uri.netloc else "must name the socket's path, as unix:///path"
    return "" if uri.hostname and port != 0 else f"must name a host, as {uri.scheme}://host:port"


def as_markdown() -> str:
    """The table of parameters as Markdown."""
    lines = [
        "| name | type | unit | values | needs | used by | option | meaning |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{row.name}` | {row.kind}{', repeated' if row.repeatable else ''} | {row.unit} | {row.range} "
        f"| {row.needs} | {', '.join(row.sides)} | `{row.option}` | {row.meaning} |"
        for row in PARAMETERS
    ]
    return "\n".join(lines) + "\n"
