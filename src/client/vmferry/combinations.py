"""Which flags and parameters go together: one table of rules, and a function that reads it.

A rule is data: what must be set, what must be missing, where libvirt looks, and what vmferry does about it. Rows that
vmferry does not enforce stay in the table, because they say where and why it differs (specification 3.2).
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import KW_ONLY, dataclass
from functools import cache

from vmferry.errors import InvalidParameter, NotSupported, PermissionRefused, Violation, VmferryError
from vmferry.flags import NONE, STORAGE, Flag
from vmferry.flags import names as flag_names
from vmferry.model import Side
from vmferry.params import PARAMETERS, MigrationParams, given, scheme

LIBVIRT_CODES: Mapping[str, type[VmferryError]] = {
    "INVALID_ARG": InvalidParameter,
    "OPERATION_INVALID": InvalidParameter,
    "ARGUMENT_UNSUPPORTED": NotSupported,
    "OPERATION_UNSUPPORTED": NotSupported,
    "NO_SUPPORT": NotSupported,
    "OPERATION_DENIED": PermissionRefused,
}
"""What vmferry raises where libvirt has that code for a request. About a host's state, OPERATION_INVALID is another."""


class Place(enum.Flag):
    """Where a rule is looked at: the client library, the source's Begin, the destination's Prepare, the command line.

    Places can be joined, to hear early what others would say later; the flags must then be those of the source's calls.
    """

    CLIENT = enum.auto()
    SOURCE = enum.auto()
    DESTINATION = enum.auto()
    TOOL = enum.auto()


BOTH_HOSTS = Place.SOURCE | Place.DESTINATION
EVERYWHERE = Place.CLIENT | BOTH_HOSTS


class Fact(enum.StrEnum):
    """What a rule may depend on besides flags and given parameters.

    The first group is read from the parameters; the second only the caller knows.
    """

    UNIX_MIGRATE_URI = "the migration URI is a UNIX socket"
    RDMA_MIGRATE_URI = "the migration URI is RDMA"
    UNIX_DISKS_URI = "the disks' URI is a UNIX socket"
    METHOD_XBZRLE = "method xbzrle"
    METHOD_MT = "method mt"
    METHOD_ZLIB = "method zlib"
    METHOD_ZSTD = "method zstd"

    MIGRATE3_CALL = "the client holds both connections and uses typed parameters"
    FIXED_CALL = "the client holds both connections and uses fixed arguments"
    TO_URI_CALL = "the client holds no connection to the destination"
    DIRECT_OFFERED = "the source offers MIGRATION_DIRECT"
    TLS_FORCED = "this host accepts no migration without TLS"
    RDMA_MISSING = "the hypervisor has no RDMA"
    HARD_LIMIT_MISSING = "the domain has no hard limit of memory"
    CAPABILITY_MISSING = "the hypervisor lacks a capability that was asked for"
    DOMAIN_TRANSIENT = "the domain has no lasting definition"


_METHODS = {
    "xbzrle": Fact.METHOD_XBZRLE,
    "mt": Fact.METHOD_MT,
    "zlib": Fact.METHOD_ZLIB,
    "zstd": Fact.METHOD_ZSTD,
}


class Handling(enum.StrEnum):
    """What vmferry does about a rule."""

    ENFORCED = "enforced"
    LIFTED = "lifted"
    HARMLESS = "harmless"


@dataclass(frozen=True, slots=True)
class CombinationRule:
    """A combination that is refused: all of `flags`, one of `any_flag`, none of `no_flag`; so for facts and names, too.

    `libvirt_code` is empty where libvirt has no rule. `differs` says what vmferry does otherwise, and why.
    """

    name: str
    places: Place
    libvirt_code: str
    message: str
    remedy: str
    _: KW_ONLY
    flags: Flag = NONE
    any_flag: Flag = NONE
    no_flag: Flag = NONE
    facts: frozenset[Fact] = frozenset()
    any_fact: frozenset[Fact] = frozenset()
    no_fact: frozenset[Fact] = frozenset()
    parameters: frozenset[str] = frozenset()
    any_parameter: frozenset[str] = frozenset()
    no_parameter: frozenset[str] = frozenset()
    handling: Handling = Handling.ENFORCED
    differs: str = ""

    @property
    def error(self) -> type[VmferryError]:
        """What vmferry raises."""
        return LIBVIRT_CODES.get(self.libvirt_code, InvalidParameter)

    @property
    def subject(self) -> str:
        """The flags and parameters that the rule is about, or else the facts, in words."""
        named = [*flag_names(self.flags), "/".join(flag_names(self.any_flag))]
        named += [*sorted(self.parameters), "/".join(sorted(self.any_parameter))]
        stated = [fact.value for fact in Fact if fact in self.facts | self.any_fact]
        return " + ".join(part for part in named if part) or ", ".join(stated)

    def matches(self, flags: Flag, names: AbstractSet[str], facts: AbstractSet[Fact]) -> bool:
        """Whether the combination is there."""
        return (
            self.flags in flags
            and (not self.any_flag or bool(self.any_flag.value & flags.value))
            and not self.no_flag.value & flags.value
            and self.facts <= facts
            and (not self.any_fact or bool(self.any_fact & facts))
            and not self.no_fact & facts
            and self.parameters <= names
            and (not self.any_parameter or bool(self.any_parameter & names))
            and not self.no_parameter & names
        )

    def violation(self) -> Violation:
        """The rule as a finding."""
        return Violation(self.subject, self.message, self.remedy)


def _facts(*facts: Fact) -> frozenset[Fact]:
    return frozenset(facts)


def _names(*names: str) -> frozenset[str]:
    return frozenset(names)


_C, _S, _D, _SD = Place.CLIENT, Place.SOURCE, Place.DESTINATION, BOTH_HOSTS
_LIFTED, _HARMLESS = Handling.LIFTED, Handling.HARMLESS
_TUNNEL = "The tunnel of vmferry carries bytes both ways and more than one stream. "
_NEVER_SILENT = "libvirt ignores it without a word; vmferry never does."
_DIRECT_HERE = "No driver of libvirt has direct mode."
_DIRECT = _facts(Fact.TO_URI_CALL, Fact.DIRECT_OFFERED)
_PARALLEL_METHODS = _facts(Fact.METHOD_ZLIB, Fact.METHOD_ZSTD)
_OTHER_METHODS = _facts(Fact.METHOD_XBZRLE, Fact.METHOD_MT)

_ABOUT_MEMORY = (
    Flag.COMPRESSED | Flag.ABORT_ON_ERROR | Flag.AUTO_CONVERGE | Flag.RDMA_PIN_ALL
    | Flag.POSTCOPY | Flag.POSTCOPY_RESUME | Flag.PARALLEL | Flag.ZEROCOPY
)  # fmt: skip
_MEMORY_PARAMETERS = frozenset(
    row.name
    for row in PARAMETERS
    if row.name.startswith(("compression", "auto_converge", "parallel", "bandwidth.", "vmferry.downtime"))
)

# One row is one combination: name, places, libvirt's code, message, remedy; then when it applies.
# fmt: off
RULES: tuple[CombinationRule, ...] = (
    CombinationRule("storage-all-and-inc", _C, "INVALID_ARG",
                    "whole disks and only their top images cannot both be copied", "choose one of the two",
                    flags=Flag.NON_SHARED_DISK | Flag.NON_SHARED_INC),
    CombinationRule("synchronous-writes-without-copy", _C, "INVALID_ARG",
                    "there is no copy of disks that writes could keep up with", "add one of the copy-storage flags",
                    flags=Flag.NON_SHARED_SYNCHRONOUS_WRITES, no_flag=STORAGE),
    CombinationRule("tunnelled-parallel", _C, "INVALID_ARG",
                    "a tunnel of one stream cannot carry several", "leave out one of the two",
                    flags=Flag.TUNNELLED | Flag.PARALLEL, handling=_LIFTED,
                    differs=_TUNNEL + "A driver that cannot use it so refuses by its capabilities."),
    CombinationRule("managed-peer2peer", _C, "INVALID_ARG",
                    "this call coordinates by itself and cannot leave that to the source",
                    "use the call that is given the destination's URI instead of its connection",
                    flags=Flag.PEER2PEER, facts=_facts(Fact.MIGRATE3_CALL)),
    CombinationRule("managed-tunnelled", _C, "INVALID_ARG",
                    "without peer-to-peer nobody holds the connection that a tunnel needs", "add PEER2PEER",
                    flags=Flag.TUNNELLED, no_flag=Flag.PEER2PEER, facts=_facts(Fact.MIGRATE3_CALL), handling=_LIFTED,
                    differs="The daemons of vmferry open the tunnel between each other, whoever coordinates."),
    CombinationRule("tunnelled-without-peer2peer", _C, "OPERATION_INVALID",
                    "without peer-to-peer nobody holds the connection that a tunnel needs", "add PEER2PEER",
                    flags=Flag.TUNNELLED, no_flag=Flag.PEER2PEER, facts=_facts(Fact.FIXED_CALL), handling=_LIFTED,
                    differs="The daemons of vmferry open the tunnel between each other, whoever coordinates."),
    CombinationRule("direct-not-offered", _C, "ARGUMENT_UNSUPPORTED",
                    "the source cannot migrate to where no daemon receives", "add PEER2PEER",
                    no_flag=Flag.PEER2PEER, facts=_facts(Fact.TO_URI_CALL), no_fact=_facts(Fact.DIRECT_OFFERED)),
    CombinationRule("direct-offline", _C, "",
                    "no daemon is there that could keep a definition", "add PEER2PEER",
                    flags=Flag.OFFLINE, no_flag=Flag.PEER2PEER, facts=_DIRECT, differs=_DIRECT_HERE),
    CombinationRule("direct-tunnelled", _C, "",
                    "no daemon is there that could end a tunnel", "add PEER2PEER",
                    flags=Flag.TUNNELLED, no_flag=Flag.PEER2PEER, facts=_DIRECT, differs=_DIRECT_HERE),
    CombinationRule("direct-persist", _C, "",
                    "no daemon is there that could keep a definition", "leave out PERSIST_DEST, or add PEER2PEER",
                    flags=Flag.PERSIST_DEST, no_flag=Flag.PEER2PEER | Flag.OFFLINE, facts=_DIRECT, differs=_DIRECT_HERE),
    CombinationRule("direct-destination", _C, "",
                    "no daemon is there that could act upon it", "leave it out, or add PEER2PEER",
                    no_flag=Flag.PEER2PEER, facts=_DIRECT, differs=_DIRECT_HERE,
                    any_parameter=_names("destination_name", "destination_xml", "persistent_xml", "listen_address",
                                         "graphics_uri")),
    CombinationRule("direct-set-up", _C, "",
                    "the receiving hypervisor would have to be set up for it, and no daemon is there to do so",
                    "leave it out, or add PEER2PEER", no_flag=Flag.PEER2PEER, facts=_DIRECT, differs=_DIRECT_HERE,
                    any_flag=STORAGE | Flag.PARALLEL | Flag.TLS | Flag.POSTCOPY | Flag.POSTCOPY_RESUME),
    CombinationRule("offline-storage", _SD, "OPERATION_INVALID",
                    "disks are copied only while a guest runs", "copy the disks by other means",
                    flags=Flag.OFFLINE, any_flag=STORAGE, handling=_LIFTED,
                    differs="vmferry copies the disks of a domain that does not run."),
    CombinationRule("offline-without-persist", _SD, "OPERATION_INVALID",
                    "a definition that is moved must also be kept", "add PERSIST_DEST",
                    flags=Flag.OFFLINE, no_flag=Flag.PERSIST_DEST),
    CombinationRule("offline-tunnelled", _D, "OPERATION_INVALID",
                    "without a guest there is no state to tunnel", "leave out TUNNELLED",
                    flags=Flag.OFFLINE | Flag.TUNNELLED),
    CombinationRule("offline-memory", _S, "",
                    "no memory is moved without a guest", "leave out what is about memory, or OFFLINE",
                    flags=Flag.OFFLINE, any_flag=_ABOUT_MEMORY, differs=_NEVER_SILENT),
    CombinationRule("offline-memory-parameters", _S, "",
                    "no memory is moved without a guest", "leave out what is about memory, or OFFLINE",
                    flags=Flag.OFFLINE, any_parameter=_MEMORY_PARAMETERS, differs=_NEVER_SILENT),
    CombinationRule("offline-addresses", _S, "",
                    "no hypervisor listens, and images travel between the daemons", "leave out the addresses, or OFFLINE",
                    flags=Flag.OFFLINE,
                    any_parameter=_names("migrate_uri", "listen_address", "graphics_uri", "disks_port", "disks_uri"),
                    differs=_NEVER_SILENT),
    CombinationRule("offline-bandwidth", _S, "",
                    "a definition alone takes no bandwidth", "leave out bandwidth, or add one of the copy-storage flags",
                    flags=Flag.OFFLINE, no_flag=STORAGE, any_parameter=_names("bandwidth"), differs=_NEVER_SILENT),
    CombinationRule("offline-two-definitions", _S, "",
                    "without a guest there is one definition, the one that is kept", "give one of the two",
                    flags=Flag.OFFLINE, parameters=_names("destination_xml", "persistent_xml"),
                    differs="libvirt ignores persistent_xml without a word; vmferry never does."),
    CombinationRule("offline-target-zero", _S, "",
                    "offline the images at the destination are always new, and so all zeroes",
                    "leave out migrate_disks_target_zero",
                    flags=Flag.OFFLINE, any_parameter=_names("migrate_disks_target_zero"),
                    differs="libvirt copies no disks."),
    CombinationRule("offline-synchronous-writes", _S, "",
                    "nobody writes to the disks of a domain that does not run", "leave it out",
                    flags=Flag.OFFLINE | Flag.NON_SHARED_SYNCHRONOUS_WRITES, differs="libvirt copies no disks."),
    CombinationRule("zerocopy-without-parallel", _S, "OPERATION_INVALID",
                    "only parallel connections can send without a copy", "add PARALLEL",
                    flags=Flag.ZEROCOPY, no_flag=Flag.PARALLEL),
    CombinationRule("zerocopy-tls", _S, "",
                    "what TLS encrypts has been copied", "leave out one of the two",
                    flags=Flag.ZEROCOPY | Flag.TLS,
                    differs="libvirt lets QEMU refuse it when memory is to flow; vmferry says so before it starts."),
    CombinationRule("zerocopy-compressed", _S, "",
                    "what is compressed has been copied", "leave out one of the two",
                    flags=Flag.ZEROCOPY, any_fact=_OTHER_METHODS | _PARALLEL_METHODS,
                    differs="libvirt lets QEMU refuse it when memory is to flow; vmferry says so before it starts."),
    CombinationRule("postcopy-parallel", _SD, "",
                    "a post-copy whose pages flow over several connections could not be mended after a cut, "
                    "and QEMU before 10.1 has none", "leave out one of the two",
                    flags=Flag.POSTCOPY | Flag.PARALLEL,
                    differs="libvirt lets QEMU refuse it, or runs the risk; vmferry says so before it starts."),
    CombinationRule("storage-tunnelled", _S, "OPERATION_UNSUPPORTED",
                    "the tunnel has no way for disks", "leave out one of the two",
                    flags=Flag.TUNNELLED, any_flag=STORAGE, handling=_LIFTED,
                    differs=_TUNNEL + "Disks have streams of their own in it."),
    CombinationRule("postcopy-without-live", _SD, "ARGUMENT_UNSUPPORTED",
                    "post-copy is for a guest that runs", "add LIVE",
                    flags=Flag.POSTCOPY, no_flag=Flag.LIVE),
    CombinationRule("postcopy-paused", _SD, "ARGUMENT_UNSUPPORTED",
                    "a guest that stays paused gains nothing from post-copy", "leave out one of the two",
                    flags=Flag.POSTCOPY | Flag.PAUSED),
    CombinationRule("postcopy-tunnelled", _SD, "ARGUMENT_UNSUPPORTED",
                    "post-copy asks back for memory, and the tunnel goes one way", "leave out one of the two",
                    flags=Flag.POSTCOPY | Flag.TUNNELLED, handling=_LIFTED,
                    differs=_TUNNEL + "The destination's requests for memory fit into it."),
    CombinationRule("resume-without-postcopy", _SD, "ARGUMENT_UNSUPPORTED",
                    "only a post-copy migration can be resumed", "add POSTCOPY",
                    flags=Flag.POSTCOPY_RESUME, no_flag=Flag.POSTCOPY),
    CombinationRule("resume-without-protection", _S, "ARGUMENT_UNSUPPORTED",
                    "a resumed migration must hold the domain between the calls", "add CHANGE_PROTECTION",
                    flags=Flag.POSTCOPY_RESUME, no_flag=Flag.CHANGE_PROTECTION | Flag.PEER2PEER),
    CombinationRule("tls-forced", _SD, "OPERATION_INVALID",
                    "the guest would travel in the clear", "add TLS",
                    no_flag=Flag.TLS | Flag.TUNNELLED, facts=_facts(Fact.TLS_FORCED)),
    CombinationRule("tls-unix-without-name", _S, "OPERATION_UNSUPPORTED",
                    "a UNIX socket does not say which name the certificate must have", "give tls.destination",
                    flags=Flag.TLS, no_flag=Flag.POSTCOPY_RESUME, facts=_facts(Fact.UNIX_MIGRATE_URI),
                    no_parameter=_names("tls.destination")),
    CombinationRule("tls-unix-disks", _S, "OPERATION_UNSUPPORTED",
                    "disks that go through a UNIX socket cannot be encrypted", "give disks_uri as tcp://",
                    flags=Flag.TLS, facts=_facts(Fact.UNIX_DISKS_URI)),
    CombinationRule("tls-tunnelled", EVERYWHERE, "",
                    "the tunnel is as safe as the daemons' connection; a second TLS inside it has no meaning",
                    "leave out TLS, and reach the destination's daemon over TLS",
                    flags=Flag.TLS | Flag.TUNNELLED, handling=_LIFTED,
                    differs="Where the daemons' connection is TLS it is what was asked for, else it is refused by them."),
    CombinationRule("rdma-missing", _SD, "OPERATION_UNSUPPORTED",
                    "nothing can be received or sent by RDMA here", "use a migration URI with tcp",
                    facts=_facts(Fact.RDMA_MIGRATE_URI, Fact.RDMA_MISSING)),
    CombinationRule("rdma-without-hard-limit", _SD, "OPERATION_INVALID",
                    "RDMA pins memory, and nothing bounds how much", "give the domain a hard limit of memory",
                    facts=_facts(Fact.RDMA_MIGRATE_URI, Fact.HARD_LIMIT_MISSING)),
    CombinationRule("tunnelled-addresses", EVERYWHERE, "ARGUMENT_UNSUPPORTED",
                    "a tunnel opens no address of its own", "leave out the addresses and ports, or TUNNELLED",
                    flags=Flag.TUNNELLED,
                    any_parameter=_names("migrate_uri", "listen_address", "disks_port", "disks_uri"),
                    differs="libvirt checks it for peer-to-peer only, and not for disks_uri."),
    CombinationRule("disks-port-and-uri", _SD, "INVALID_ARG",
                    "the URI of the disks names a port already", "leave out one of the two",
                    parameters=_names("disks_port", "disks_uri")),
    CombinationRule("unix-storage-without-uri", _D, "INVALID_ARG",
                    "memory goes through a UNIX socket, and where the disks go is not said", "give disks_uri",
                    any_flag=STORAGE, facts=_facts(Fact.UNIX_MIGRATE_URI), no_parameter=_names("disks_uri")),
    CombinationRule("unix-listen-address", _D, "INVALID_ARG",
                    "a UNIX socket has no address to listen at", "leave out listen_address",
                    facts=_facts(Fact.UNIX_MIGRATE_URI), any_parameter=_names("listen_address")),
    CombinationRule("capability-missing", _SD, "ARGUMENT_UNSUPPORTED",
                    "the migration cannot be set up as asked",
                    "ask the host for its capabilities, and leave out what it lacks",
                    facts=_facts(Fact.CAPABILITY_MISSING)),
    CombinationRule("auto-converge-parameters", _S, "INVALID_ARG",
                    "nothing is slowed down", "add AUTO_CONVERGE",
                    no_flag=Flag.AUTO_CONVERGE,
                    any_parameter=_names("auto_converge.initial", "auto_converge.increment"),
                    differs="The destination never sees the flag, so only the source can say."),
    CombinationRule("mt-parameters", _SD, "INVALID_ARG",
                    "the method is not used", "add mt to compression", no_fact=_facts(Fact.METHOD_MT),
                    any_parameter=_names("compression.mt.level", "compression.mt.threads", "compression.mt.dthreads")),
    CombinationRule("xbzrle-parameters", _SD, "INVALID_ARG",
                    "the method is not used", "add xbzrle to compression", no_fact=_facts(Fact.METHOD_XBZRLE),
                    any_parameter=_names("compression.xbzrle.cache")),
    CombinationRule("zlib-parameters", _SD, "INVALID_ARG",
                    "the method is not used", "add zlib to compression", no_fact=_facts(Fact.METHOD_ZLIB),
                    any_parameter=_names("compression.zlib.level")),
    CombinationRule("zstd-parameters", _SD, "INVALID_ARG",
                    "the method is not used", "add zstd to compression", no_fact=_facts(Fact.METHOD_ZSTD),
                    any_parameter=_names("compression.zstd.level")),
    CombinationRule("parallel-methods-without-parallel", _SD, "INVALID_ARG",
                    "zlib and zstd compress parallel connections only", "add PARALLEL",
                    no_flag=Flag.PARALLEL, any_fact=_PARALLEL_METHODS),
    CombinationRule("parallel-two-methods", _SD, "INVALID_ARG",
                    "parallel connections are compressed by one method", "choose zlib or zstd",
                    flags=Flag.PARALLEL, facts=_PARALLEL_METHODS),
    CombinationRule("parallel-other-methods", _SD, "INVALID_ARG",
                    "parallel connections are compressed by zlib or zstd", "choose one of those",
                    flags=Flag.PARALLEL, any_fact=_OTHER_METHODS),
    CombinationRule("parallel-compressed-without-method", _SD, "INVALID_ARG",
                    "no method is named, and the usual one does not fit parallel connections", "name zlib or zstd",
                    flags=Flag.PARALLEL | Flag.COMPRESSED, no_parameter=_names("compression")),
    CombinationRule("parallel-parameters", _SD, "INVALID_ARG",
                    "there is one connection", "add PARALLEL",
                    no_flag=Flag.PARALLEL, any_parameter=_names("parallel.connections")),
    CombinationRule("downtime-without-live", _C | _S, "",
                    "the guest stands still from the beginning", "add LIVE",
                    no_flag=Flag.LIVE | Flag.OFFLINE,
                    any_parameter=_names("vmferry.downtime.max", "vmferry.downtime.fixed"), differs=_NEVER_SILENT),
    CombinationRule("switchover-without-live", _S, "",
                    "the guest stands still from the beginning, and nobody decides when to stop it", "add LIVE",
                    no_flag=Flag.LIVE | Flag.OFFLINE, any_parameter=_names("bandwidth.avail.switchover"),
                    differs=_NEVER_SILENT),
    CombinationRule("postcopy-bandwidth-without-postcopy", _S, "",
                    "no page is sent after a switch to post-copy", "add POSTCOPY",
                    no_flag=Flag.POSTCOPY, any_parameter=_names("bandwidth.postcopy"), differs=_NEVER_SILENT),
    CombinationRule("downtime-max-and-fixed", _C | _S, "",
                    "a pause that is fixed has no longest one besides", "choose one of the two",
                    parameters=_names("vmferry.downtime.max", "vmferry.downtime.fixed"),
                    differs="The parameters are vmferry's own."),
    CombinationRule("persistent-xml-without-persist", _C | _S, "",
                    "the destination keeps no definition", "add PERSIST_DEST",
                    no_flag=Flag.PERSIST_DEST, any_parameter=_names("persistent_xml"), differs=_NEVER_SILENT),
    CombinationRule("disks-without-copy", _C | _S, "OPERATION_UNSUPPORTED",
                    "no disk is copied", "add one of the copy-storage flags", no_flag=STORAGE,
                    any_parameter=_names("migrate_disks", "migrate_disks_detect_zeroes", "migrate_disks_target_zero"),
                    differs="As later releases of libvirt do; the baseline ignores it."),
    CombinationRule("disks-address-without-copy", EVERYWHERE, "",
                    "no disk is copied", "add one of the copy-storage flags",
                    no_flag=STORAGE, any_parameter=_names("disks_port", "disks_uri"), differs=_NEVER_SILENT),
    CombinationRule("tls-name-without-tls", _C | _S, "",
                    "no certificate is looked at", "add TLS",
                    no_flag=Flag.TLS, any_parameter=_names("tls.destination"), differs=_NEVER_SILENT),
    CombinationRule("live-offline", Place.TOOL, "",
                    "a definition is moved without its guest, which cannot be live then", "leave out one of the two",
                    flags=Flag.LIVE | Flag.OFFLINE),
    CombinationRule("undefine-transient", _S, "",
                    "there is no lasting definition to forget", "leave out UNDEFINE_SOURCE",
                    flags=Flag.UNDEFINE_SOURCE, facts=_facts(Fact.DOMAIN_TRANSIENT), handling=_HARMLESS),
)
# fmt: on
"""Every rule."""

BY_NAME = {rule.name: rule for rule in RULES}


def methods(flags: Flag, params: MigrationParams) -> tuple[str, ...]:
    """The compression methods in effect: the listed ones, or xbzrle where only COMPRESSED asks for one connection."""
    usual = Flag.COMPRESSED in flags and Flag.PARALLEL not in flags
    return params.compression or (("xbzrle",) if usual else ())


def facts_of(flags: Flag, params: MigrationParams) -> frozenset[Fact]:
    """What the request itself says."""
    return frozenset(_read(flags, params))


def broken(
    flags: Flag, params: MigrationParams, places: Place, facts: AbstractSet[Fact] = frozenset()
) -> tuple[CombinationRule, ...]:
    """The enforced rules of `places` that the request breaks, in the order of the table.

    A destination does not look at parameters that only the source uses: the flags that go with them never reach it.
    """
    names = {row.name for row in given(params) if places != Place.DESTINATION or Side.DESTINATION in row.sides}
    known = facts_of(flags, params) | facts
    return tuple(rule for rule in _enforced_at(places) if rule.matches(flags, names, known))


@cache
def _enforced_at(places: Place) -> tuple[CombinationRule, ...]:
    return tuple(rule for rule in RULES if rule.handling is Handling.ENFORCED and rule.places & places)


def violations(
    flags: Flag, params: MigrationParams, places: Place, facts: AbstractSet[Fact] = frozenset()
) -> tuple[Violation, ...]:
    """The same, as findings: all at once."""
    return tuple(rule.violation() for rule in broken(flags, params, places, facts))


def check(flags: Flag, params: MigrationParams, places: Place, facts: AbstractSet[Fact] = frozenset()) -> None:
    """The request breaks no rule of `places`.

    Raises:
        InvalidParameter: it breaks one that no other daemon could heal.
        NotSupported: it breaks only rules about what can be done.

    Either carries every finding; its `detail` has libvirt's codes for them.
    """
    rules = broken(flags, params, places, facts)
    if rules:
        raise refusal(rules)


def refusal(rules: tuple[CombinationRule, ...]) -> VmferryError:
    """One error about all of `rules`, of which there is at least one."""
    error = next((rule.error for rule in rules if rule.error is InvalidParameter), rules[0].error)
    codes = dict.fromkeys(rule.libvirt_code for rule in rules if rule.libvirt_code)
    return error(
        "the flags and parameters of the migration do not fit",
        remedy=rules[0].remedy if len(rules) == 1 else "",
        violations=tuple(rule.violation() for rule in rules),
        detail=f"libvirt: {', '.join(codes)}" if codes else "",
    )


def _read(flags: Flag, params: MigrationParams) -> Iterator[Fact]:
    yield from (_METHODS[method] for method in methods(flags, params) if method in _METHODS)
    if scheme(params.migrate_uri) == "unix":
        yield Fact.UNIX_MIGRATE_URI
    if scheme(params.migrate_uri) == "rdma":
        yield Fact.RDMA_MIGRATE_URI
    if scheme(params.disks_uri) == "unix":
        yield Fact.UNIX_DISKS_URI


def as_markdown() -> str:
    """The table of rules as Markdown."""
    lines = ["| rule | checked by | libvirt | vmferry | says | helps | differs |", "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {rule.name} | {' '.join(place.name or '' for place in rule.places)} | {rule.libvirt_code or '-'} "
        f"| {rule.handling} | {rule.message} | {rule.remedy} | {rule.differs} |"
        for rule in RULES
    ]
    return "\n".join(lines) + "\n"
