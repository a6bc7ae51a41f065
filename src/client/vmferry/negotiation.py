"""Which path a migration takes between two daemons: the decision trees, pure.

Every function looks at what is wanted and at what daemons answered, in the order of the specification (2.2 to 2.5 and
1.7), and the first hit ends it: a `Path`, or an error that says what to change. Features are looked at only when the tree
needs them, so a question that failed matters only where its answer would have.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from vmferry.combinations import LIBVIRT_CODES, RULES, Fact, Place, check, methods
from vmferry.errors import NoCommonProtocol, NotSupported, Violation, VmferryError
from vmferry.features import Answers, Feature
from vmferry.flags import NONE, STORAGE, Flag, destination_flags, source_flags, without
from vmferry.model import Side
from vmferry.params import MigrationParams, p2p_forwarded, scheme, to_fixed
from vmferry.protocol import (
    PROFILES,
    Profile,
    ProtocolVersion,
    Spelling,
    direct,
    offline,
    offline_with_disks,
    peer_to_peer,
    resumed,
    tunnelled,
)


class Mode(enum.StrEnum):
    """Who coordinates, and whether a daemon receives."""

    REGULAR = "regular"
    PEER_TO_PEER = "peer-to-peer"
    DIRECT = "direct"


class Access(enum.StrEnum):
    """What a connection may be used for."""

    READ_WRITE = "read-write"
    READ_ONLY = "read-only"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the caller asks for. `daemon_uri` is where the source daemon finds the destination's daemon."""

    flags: Flag = NONE
    params: MigrationParams = field(default_factory=MigrationParams)
    daemon_uri: str = ""
    source_access: Access = Access.READ_WRITE
    destination_access: Access = Access.READ_WRITE


@dataclass(frozen=True, slots=True)
class Path:
    """The way that was chosen.

    `flags` are the ones to walk with; `protection` is what the engine adds on the source's calls. `warnings` are for the
    user: what was asked for and has no effect on this way.
    """

    version: ProtocolVersion
    spelling: Spelling
    mode: Mode
    flags: Flag
    protection: Flag = NONE
    warnings: tuple[str, ...] = ()

    @property
    def source_flags(self) -> Flag:
        """What Begin, Perform and Confirm get."""
        return source_flags(self.flags, protection=self.protection)

    @property
    def destination_flags(self) -> Flag:
        """What Prepare and Finish get."""
        return destination_flags(self.flags)

    @property
    def profile(self) -> Profile:
        """The phases to walk.

        Raises:
            NotSupported: the protocol cannot do without a guest, cannot resume, or has no tunnel, as the flags ask.
        """
        row = PROFILES[self.version]
        if Flag.OFFLINE in self.flags:
            row = offline_with_disks(row) if self.flags & STORAGE else offline(row)
        if Flag.POSTCOPY_RESUME in self.flags:
            row = resumed(row)
        if Flag.TUNNELLED in self.flags:
            row = tunnelled(row)
        match self.mode:
            case Mode.DIRECT:
                return direct(row)
            case Mode.PEER_TO_PEER:
                return peer_to_peer(row)
            case Mode.REGULAR:
                return row


class Uris(NamedTuple):
    """The two URIs of a migration: of the destination's daemon, and of its hypervisor."""

    daemon: str
    migration: str | None


class Difference(NamedTuple):
    """Where vmferry decides otherwise than libvirt on purpose."""

    topic: str
    libvirt: str
    vmferry: str
    why: str


LADDER: tuple[tuple[ProtocolVersion, Feature], ...] = (
    (ProtocolVersion.V3, Feature.MIGRATION_V3),
    (ProtocolVersion.V2, Feature.MIGRATION_V2),
    (ProtocolVersion.V1, Feature.MIGRATION_V1),
)
"""The rungs of the fixed spelling, best first."""

DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        "tunnel in regular mode",
        "a tunnel needs peer-to-peer",
        "a tunnel is possible whoever coordinates",
        "the daemons open the tunnel between each other, so the client need not carry bytes",
    ),
    Difference(
        "direct mode",
        "the feature exists and no driver of today announces it",
        "the source sends to a bare hypervisor that listens at the migration URI",
        "it is how a guest leaves for a host without a daemon",
    ),
    Difference(
        "direct mode needs a migration URI",
        "the missing URI is found out by the driver",
        "it is refused before anything is asked of the source",
        "without a daemon at the other end nobody else can name it",
    ),
    Difference(
        "typed parameters in direct mode",
        "direct mode uses the fixed spelling only",
        "direct mode uses typed parameters when the source knows them",
        "bandwidth after the switch or the number of connections concern the source, whoever receives",
    ),
    Difference(
        "the daemon's URI in direct mode",
        "it is dropped without a word",
        "it is dropped with a warning",
        "a user who forgot peer-to-peer should hear of it",
    ),
    Difference(
        "offline and resume over protocols 1 and 2",
        "the ladder does not look",
        "they are refused",
        "protocol 1 carries no definition, and neither has a phase after Finish that settles the source",
    ),
    Difference(
        "offline with disks",
        "refused; no file is copied",
        "Perform copies the images of a domain that does not run",
        "a definition whose disks are not there is of no use",
    ),
    Difference(
        "Finish of an offline migration",
        "the destination keeps the definition when it is told to",
        "it asks the source first, which records that it cannot decide alone any more",
        "with UNDEFINE_SOURCE exactly one definition is left, whoever dies",
    ),
    Difference(
        "an offline migration of a domain that runs",
        "the running guest's definition is sent",
        "the stored one is sent if there is one",
        "the destination keeps it for the next start, as the source would",
    ),
    Difference(
        "tunnel over protocol 1",
        "only found out by the driver",
        "it is refused",
        "protocol 1 has no Prepare for a tunnel",
    ),
    Difference(
        "change protection over protocols 1 and 2",
        "the flag is cleared without a word",
        "the flag is cleared with a warning",
        "nothing that was asked for is ignored silently",
    ),
    Difference(
        "Confirm after a failed Prepare",
        "only if the source offers change protection",
        "always",
        "Begin always holds the domain, and a source that is told need not wait for a lease to run out",
    ),
    Difference(
        "Confirm after a failed Perform and a Finish that has the guest all the same",
        "it is left out, and the source resumes its copy",
        "it is called, with Finish's signed word",
        "the guest would run twice",
    ),
    Difference(
        "Finish's error in place of Perform's",
        "whenever the source's hypervisor failed",
        "unless the source ended the transfer for a reason that it knows",
        "all that the destination could say then is that the stream broke off",
    ),
    Difference(
        "protocol 2 between two daemons",
        "assumed when the destination does not announce protocol 3",
        "asked for, and refused when it is not announced",
        "a refusal before the start is better than a failure in Prepare",
    ),
    Difference(
        "a kept definition over protocol 2",
        "persistent_xml is dropped without a word",
        "it is refused",
        "it travels in the source's cookie, and protocol 2 has none",
    ),
    Difference(
        "parameters that the destination's daemon cannot be told",
        "graphics_uri, listen_address and the list of disks are refused, others are dropped",
        "every parameter that would have to be sent on is refused",
        "nothing that was asked for is ignored silently",
    ),
)


def uris_of_migrate(flags: Flag, uri: str | None, connection_uri: str) -> Uris:
    """What the only URI of the oldest managed call means: the daemon's with PEER2PEER, else the hypervisor's (2.3)."""
    if Flag.PEER2PEER in flags:
        return Uris(uri or connection_uri, None)
    return Uris(connection_uri, uri)


def uris_of_to_uri(flags: Flag, uri: str) -> Uris:
    """What the only URI of the call without a destination's connection means (2.4)."""
    return Uris(uri, None) if Flag.PEER2PEER in flags else Uris("", uri)


def choose_managed(wanted: Wanted, source: Answers, destination: Answers) -> Path:
    """The path of a client that holds both connections and writes typed parameters (2.2).

    Raises:
        PermissionRefused, InvalidParameter, NotSupported, NoCommonProtocol: nothing happened.
        VmferryError: the error of a question that could not be asked.
    """
    _check_access(wanted, destination_held=True)
    check(wanted.flags, wanted.params, Place.CLIENT, {Fact.MIGRATE3_CALL})
    _check_offline(wanted, source, destination)
    _check_protection(wanted, source)
    if _both(Feature.MIGRATION_PARAMS, source, destination):
        return _regular(wanted, ProtocolVersion.V3, Spelling.PARAMS, source)
    return _climb(wanted, source, destination)


def choose_managed_fixed(wanted: Wanted, source: Answers, destination: Answers) -> Path:
    """The path of a client that holds both connections and writes fixed arguments (2.3).

    Raises:
        PermissionRefused, InvalidParameter, NotSupported, NoCommonProtocol: nothing happened.
        VmferryError: the error of a question that could not be asked.
    """
    _check_access(wanted, destination_held=True)
    check(wanted.flags, wanted.params, Place.CLIENT, {Fact.FIXED_CALL})
    to_fixed(wanted.params)
    _check_offline(wanted, source, destination)
    if Flag.PEER2PEER in wanted.flags:
        _require(source, Feature.MIGRATION_P2P, Side.SOURCE, "NO_SUPPORT", "leave out PEER2PEER")
        return choose_unmanaged(wanted, source)
    _check_protection(wanted, source)
    return _climb(wanted, source, destination)


def choose_to_uri(wanted: Wanted, source: Answers) -> Path:
    """The path of a client that holds no connection to the destination (2.4).

    Raises:
        PermissionRefused, InvalidParameter, NotSupported, NoCommonProtocol: nothing happened.
        VmferryError: the error of a question that could not be asked.
    """
    _check_access(wanted, destination_held=False)
    check(wanted.flags, wanted.params, Place.CLIENT)
    if Flag.OFFLINE in wanted.flags:
        _require(source, Feature.MIGRATION_OFFLINE, Side.SOURCE, "ARGUMENT_UNSUPPORTED", "leave out OFFLINE")
    if Flag.PEER2PEER in wanted.flags:
        _require(source, Feature.MIGRATION_P2P, Side.SOURCE, "ARGUMENT_UNSUPPORTED", "leave out PEER2PEER")
    else:
        offered = {Fact.DIRECT_OFFERED} if source.has(Feature.MIGRATION_DIRECT) else set()
        check(wanted.flags, wanted.params, Place.CLIENT, {Fact.TO_URI_CALL} | offered)
    return choose_unmanaged(wanted, source)


def choose_unmanaged(wanted: Wanted, source: Answers) -> Path:
    """How the client's one call to the source is written; what comes then is the source's to choose (2.5).

    Raises:
        InvalidParameter: a URI is missing, cannot be read, or means the source itself.
        NotSupported, NoCommonProtocol: the source has no call that carries what is wanted.
    """
    mode = Mode.PEER_TO_PEER if Flag.PEER2PEER in wanted.flags else Mode.DIRECT
    if mode is Mode.PEER_TO_PEER:
        _check_daemon_uri(wanted.daemon_uri)
    else:
        _check_hypervisor_uri(wanted.params.migrate_uri or "")
    if source.has(Feature.MIGRATION_PARAMS):
        return _one_call(wanted, ProtocolVersion.V3, Spelling.PARAMS, mode)
    to_fixed(wanted.params)
    for version, feature in LADDER:
        if source.has(feature):
            _check_one_call(wanted, version, mode)
            return _one_call(wanted, version, Spelling.FIXED, mode)
    raise NoCommonProtocol(
        "the source announces no migration protocol",
        remedy="check its configuration",
        host=source.host,
        detail="libvirt: NO_SUPPORT",
    )


def choose_peer(wanted: Wanted, destination: Answers) -> Path:
    """The path of a source daemon that coordinates (1.7).

    Raises:
        NotSupported: the destination cannot serve a daemon, or cannot be told what is wanted.
        NoCommonProtocol: it announces neither protocol 3 nor 2.
        VmferryError: the error of a question that could not be asked.
    """
    remedy = "let the client coordinate: leave out PEER2PEER"
    _require(destination, Feature.MIGRATION_P2P, Side.DESTINATION, "OPERATION_FAILED", remedy)
    if Flag.OFFLINE in wanted.flags:
        _require(destination, Feature.MIGRATION_OFFLINE, Side.DESTINATION, "ARGUMENT_UNSUPPORTED", "leave out OFFLINE")
    flags = p2p_flags(wanted.flags, wanted.params)
    if destination.has(Feature.MIGRATION_V3):
        if destination.has(Feature.MIGRATION_PARAMS):
            return Path(ProtocolVersion.V3, Spelling.PARAMS, Mode.PEER_TO_PEER, flags)
        to_fixed(p2p_forwarded(wanted.params))
        return Path(ProtocolVersion.V3, Spelling.FIXED, Mode.PEER_TO_PEER, flags)
    if not destination.has(Feature.MIGRATION_V2):
        raise NoCommonProtocol(
            "the destination announces neither protocol 3 nor 2",
            remedy="check its configuration",
            host=destination.host,
            detail="libvirt: NO_SUPPORT",
        )
    to_fixed(p2p_forwarded(wanted.params))
    _check_rung(wanted, ProtocolVersion.V2)
    return Path(ProtocolVersion.V2, Spelling.FIXED, Mode.PEER_TO_PEER, flags)


def p2p_flags(flags: Flag, params: MigrationParams) -> Flag:
    """The flags that a coordinating source daemon walks with (1.7).

    CHANGE_PROTECTION is gone, because one call is one job; COMPRESSED is set where it alone says all of the method.
    """
    usual = methods(flags, params) == ("xbzrle",) and params.compression_xbzrle_cache_bytes is None
    return without(flags | Flag.COMPRESSED if usual else flags, Flag.CHANGE_PROTECTION)


def _refused(code: str, message: str, remedy: str, host: str = "") -> VmferryError:
    return LIBVIRT_CODES.get(code, NotSupported)(message, remedy=remedy, detail=f"libvirt: {code}", host=host)


def _check_access(wanted: Wanted, *, destination_held: bool) -> None:
    read_only = [
        side
        for side, access in ((Side.SOURCE, wanted.source_access), (Side.DESTINATION, wanted.destination_access))
        if access is Access.READ_ONLY and (side is Side.SOURCE or destination_held)
    ]
    if read_only:
        text = f"the connection to the {' and to the '.join(read_only)} may only read"
        raise _refused("OPERATION_DENIED", text, "open it for reading and writing")


def _require(answers: Answers, feature: Feature, side: Side, code: str, remedy: str) -> None:
    if not answers.has(feature):
        raise _refused(code, f"the {side} does not announce {feature.name}", remedy, answers.host)


def _check_offline(wanted: Wanted, source: Answers, destination: Answers) -> None:
    if Flag.OFFLINE in wanted.flags:
        for answers, side in ((source, Side.SOURCE), (destination, Side.DESTINATION)):
            _require(answers, Feature.MIGRATION_OFFLINE, side, "ARGUMENT_UNSUPPORTED", "leave out OFFLINE")


def _check_protection(wanted: Wanted, source: Answers) -> None:
    if Flag.CHANGE_PROTECTION in wanted.flags:
        feature, remedy = Feature.MIGRATE_CHANGE_PROTECTION, "leave out CHANGE_PROTECTION"
        _require(source, feature, Side.SOURCE, "ARGUMENT_UNSUPPORTED", remedy)


def _both(feature: Feature, source: Answers, destination: Answers) -> bool:
    return source.has(feature) and destination.has(feature)


def _climb(wanted: Wanted, source: Answers, destination: Answers) -> Path:
    to_fixed(wanted.params)
    for version, feature in LADDER:
        if _both(feature, source, destination):
            _check_rung(wanted, version)
            return _regular(wanted, version, Spelling.FIXED, source)
    raise NoCommonProtocol(
        "the two daemons share no migration protocol",
        remedy="let both announce protocol 3",
        detail="libvirt: NO_SUPPORT",
        violations=(
            Violation(Side.SOURCE, f"announces {_announced(source)}"),
            Violation(Side.DESTINATION, f"announces {_announced(destination)}"),
        ),
    )


def _announced(answers: Answers) -> str:
    known = [str(version.value) for version, feature in LADDER if feature in answers.answered and answers.has(feature)]
    return f"protocol {', '.join(known)}" if known else "no protocol"


def _check_rung(wanted: Wanted, version: ProtocolVersion) -> None:
    """What protocols 1 and 2 cannot carry is not asked for."""
    remedy = "let both daemons announce protocol 3"
    if version is ProtocolVersion.V3:
        return
    if wanted.params.destination_xml or wanted.params.persistent_xml:
        text = f"protocol {version} cannot replace the definition"
        raise _refused("ARGUMENT_UNSUPPORTED", text, f"leave out the definition, or {remedy}")
    if wanted.flags & (Flag.OFFLINE | Flag.POSTCOPY_RESUME):
        text = f"protocol {version} can neither move a definition alone nor resume a migration"
        raise _refused("ARGUMENT_UNSUPPORTED", text, remedy)
    if version is ProtocolVersion.V1 and Flag.TUNNELLED in wanted.flags:
        raise _refused("ARGUMENT_UNSUPPORTED", "protocol 1 has no tunnel", f"leave out TUNNELLED, or {remedy}")


def _check_one_call(wanted: Wanted, version: ProtocolVersion, mode: Mode) -> None:
    if version is not ProtocolVersion.V3 and mode is Mode.PEER_TO_PEER and wanted.params.migrate_uri:
        text = f"in protocol {version} the one URI of the call is the daemon's, and leaves no place for migrate_uri"
        raise _refused("INTERNAL_ERROR", text, "leave out migrate_uri, or let the source announce protocol 3")
    _check_rung(wanted, version)


def _regular(wanted: Wanted, version: ProtocolVersion, spelling: Spelling, source: Answers) -> Path:
    flags = without(wanted.flags, Flag.CHANGE_PROTECTION)
    if version is ProtocolVersion.V3:
        offered = source.has(Feature.MIGRATE_CHANGE_PROTECTION)
        return Path(version, spelling, Mode.REGULAR, flags, Flag.CHANGE_PROTECTION if offered else NONE)
    lost = flags != wanted.flags
    warning = f"protocol {version} cannot protect the domain from changes between its calls"
    return Path(version, spelling, Mode.REGULAR, flags, warnings=(warning,) if lost else ())


def _one_call(wanted: Wanted, version: ProtocolVersion, spelling: Spelling, mode: Mode) -> Path:
    ignored = mode is Mode.DIRECT and wanted.daemon_uri
    warning = f"direct mode asks no daemon, so {wanted.daemon_uri} is not used; did you mean PEER2PEER?"
    return Path(version, spelling, mode, wanted.flags, warnings=(warning,) if ignored else ())


def _check_hypervisor_uri(text: str) -> None:
    if not text:
        raise _refused("INVALID_ARG", "direct mode needs the URI where the hypervisor listens", "give migrate_uri")
    if scheme(text).startswith("vmferry+"):
        remedy = "add PEER2PEER, or give the URI where the hypervisor listens"
        raise _refused("INVALID_ARG", f"{text!r} is where a daemon answers, and direct mode asks none", remedy)


def _check_daemon_uri(text: str) -> None:
    if not text:
        raise _refused("INVALID_ARG", "peer-to-peer needs the URI of the destination's daemon", "give it")
    try:
        uri = urlsplit(text)
        host, query = uri.hostname or "", parse_qs(uri.query)
    except ValueError as error:
        raise _refused("INVALID_ARG", f"{text!r} cannot be read: {error}", "correct the URI") from error
    if not uri.scheme:
        raise _refused("INVALID_ARG", f"{text!r} has no scheme", "write it as vmferry+tls://host")
    socket = "socket" in query or (uri.scheme.endswith("unix") and uri.path.startswith("/"))
    if host.startswith("localhost") or not (host or socket):
        remedy = "name the destination as the source's host reaches it"
        raise _refused("INVALID_ARG", f"{text!r} would mean the source's own host", remedy)


def as_markdown() -> str:
    """The deliberate differences from libvirt as Markdown: of negotiation, and of single combinations."""
    lines = ["| topic | libvirt | vmferry | why |", "|---|---|---|---|"]
    lines += [f"| {d.topic} | {d.libvirt} | {d.vmferry} | {d.why} |" for d in DIFFERENCES]
    lines += [
        f"| {rule.name} | {rule.libvirt_code or 'no rule'} | {rule.handling} | {rule.differs} |"
        for rule in RULES
        if rule.differs
    ]
    return "\n".join(lines) + "\n"
