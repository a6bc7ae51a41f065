"""The three migration protocols as rows, and what is derived from a row.

Who walks a migration walks `profile.phases`; nothing else in vmferry knows a protocol number. Which row applies between
two daemons is decided in `negotiation`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from vmferry.errors import NotSupported
from vmferry.model import Phase


class ProtocolVersion(enum.IntEnum):
    """Which phases two daemons speak with each other."""

    V1 = 1
    V2 = 2
    V3 = 3


class Spelling(enum.StrEnum):
    """How the parameters of protocol 3 are written in a call; protocols 1 and 2 only know the fixed one."""

    PARAMS = "params"
    FIXED = "fixed"


class BeginKind(enum.StrEnum):
    """What the first call to the source is."""

    ABSENT = "absent"
    DUMP_XML = "dump-xml"
    BEGIN = "begin"


class PrepareKind(enum.StrEnum):
    """What the destination is asked to get ready: an address to send to, or the end of a tunnel, which has none."""

    ADDRESS = "address"
    TUNNEL = "tunnel"


class Confirming(enum.StrEnum):
    """Which failures the source is told of by Confirm.

    A client tells it of every failure but Perform's own, which has cleaned up by itself (specification 1.6). A source that
    coordinates tells itself of those that the destination was told of; until then its job simply ends (specification 1.7).
    """

    ALL_BUT_PERFORM = "of all but Perform"
    AFTER_FINISH = "of all that Finish was told of"


class CookieFlow(NamedTuple):
    """The cookie that `producer` returned is handed to `consumer`."""

    producer: Phase
    consumer: Phase


@dataclass(frozen=True, slots=True)
class Profile:
    """One protocol: its phases in order, and what follows from each.

    `gives_up_source_in` is the phase in which the source side of the protocol lets its guest go. `finish_on_failure`
    says whether the destination is told of a failed Perform.
    """

    version: ProtocolVersion
    phases: tuple[Phase, ...]
    gives_up_source_in: Phase
    finish_on_failure: bool
    cookie_flows: tuple[CookieFlow, ...]
    begin: BeginKind = BeginKind.ABSENT
    prepare: PrepareKind = PrepareKind.ADDRESS
    confirming: Confirming = Confirming.ALL_BUT_PERFORM

    @property
    def needs_uri(self) -> bool:
        """Whether the source must be told where to send."""
        return self.runs(Phase.PERFORM) and self.prepare is PrepareKind.ADDRESS

    def runs(self, phase: Phase) -> bool:
        """Whether the phase is one of this profile."""
        return phase in self.phases

    def cookie_for(self, consumer: Phase) -> Phase | None:
        """The phase whose cookie `consumer` gets; None when it gets none."""
        return next((flow.producer for flow in self.cookie_flows if flow.consumer is consumer), None)


PROFILES: Mapping[ProtocolVersion, Profile] = {
    ProtocolVersion.V1: Profile(
        version=ProtocolVersion.V1,
        phases=(Phase.PREPARE, Phase.PERFORM, Phase.FINISH),
        gives_up_source_in=Phase.PERFORM,
        finish_on_failure=False,
        cookie_flows=(CookieFlow(Phase.PREPARE, Phase.PERFORM),),
    ),
    ProtocolVersion.V2: Profile(
        version=ProtocolVersion.V2,
        phases=(Phase.BEGIN, Phase.PREPARE, Phase.PERFORM, Phase.FINISH),
        gives_up_source_in=Phase.PERFORM,
        finish_on_failure=True,
        cookie_flows=(CookieFlow(Phase.PREPARE, Phase.PERFORM), CookieFlow(Phase.PREPARE, Phase.FINISH)),
        begin=BeginKind.DUMP_XML,
    ),
    ProtocolVersion.V3: Profile(
        version=ProtocolVersion.V3,
        phases=(Phase.BEGIN, Phase.PREPARE, Phase.PERFORM, Phase.FINISH, Phase.CONFIRM),
        gives_up_source_in=Phase.CONFIRM,
        finish_on_failure=True,
        cookie_flows=(
            CookieFlow(Phase.BEGIN, Phase.PREPARE),
            CookieFlow(Phase.PREPARE, Phase.PERFORM),
            CookieFlow(Phase.PERFORM, Phase.FINISH),
            CookieFlow(Phase.FINISH, Phase.CONFIRM),
        ),
        begin=BeginKind.BEGIN,
    ),
}
"""The rows, by version."""


def offline(profile: Profile) -> Profile:
    """The same protocol without a guest: no Perform, and Prepare's cookie goes nowhere (specification 1.10).

    Raises:
        NotSupported: the protocol carries no definition, or has no phase in which the source could drop its own.
    """
    if profile.gives_up_source_in is Phase.PERFORM:
        raise NotSupported(
            f"protocol {profile.version} cannot move a definition without its guest",
            remedy="let both daemons announce protocol 3",
        )
    phases = tuple(phase for phase in profile.phases if phase is not Phase.PERFORM)
    flows = tuple(f for f in profile.cookie_flows if f.producer is not Phase.PREPARE and f.producer in phases)
    return replace(profile, phases=phases, cookie_flows=flows)


def tunnelled(profile: Profile) -> Profile:
    """The same protocol where the state travels inside the daemons' own connection: Prepare names no address.

    Raises:
        NotSupported: the protocol has no Prepare for a tunnel (specification 1.1).
    """
    if profile.version is ProtocolVersion.V1:
        raise NotSupported("protocol 1 has no tunnel", remedy="let both daemons announce protocol 2 or 3")
    return replace(profile, prepare=PrepareKind.TUNNEL)


def peer_to_peer(profile: Profile) -> Profile:
    """The same protocol where the source's daemon coordinates."""
    return replace(profile, confirming=Confirming.AFTER_FINISH)


def offline_with_disks(profile: Profile) -> Profile:
    """The same protocol without a guest, but with the images of its disks: they are what Perform moves.

    Raises:
        NotSupported: see `offline`.
    """
    offline(profile)
    return profile


def direct(profile: Profile) -> Profile:
    """The same protocol where no daemon receives: one call to the source, which needs nobody, is the whole migration."""
    only = (Phase.PERFORM,)
    return replace(profile, phases=only, gives_up_source_in=Phase.PERFORM, cookie_flows=(), finish_on_failure=False)


def resumed(profile: Profile) -> Profile:
    """The same protocol taken up again after a cut in post-copy: every phase runs once more (specification 1.11).

    Raises:
        NotSupported: the protocol has no hold of the source after Perform, so there is nothing to take up.
    """
    if profile.gives_up_source_in is Phase.PERFORM:
        raise NotSupported(
            f"protocol {profile.version} cannot resume a post-copy migration",
            remedy="let both daemons announce protocol 3",
        )
    return profile


def as_markdown() -> str:
    """The table of protocols as Markdown."""
    rows: dict[str, Callable[[Profile], str]] = {
        "phases": lambda p: " ".join(_phase_name(p, phase) for phase in p.phases),
        "gives up the source in": lambda p: p.gives_up_source_in.name,
        "finish on failure": lambda p: "yes" if p.finish_on_failure else "no",
        "cookie flows": lambda p: ", ".join(f"{f.producer.name} to {f.consumer.name}" for f in p.cookie_flows),
    }
    profiles = PROFILES.values()
    lines = ["| | " + " | ".join(str(p.version.value) for p in profiles) + " |", "|---|---|---|---|"]
    lines += [f"| {title} | " + " | ".join(cell(p) for p in profiles) + " |" for title, cell in rows.items()]
    return "\n".join(lines) + "\n"


def _phase_name(profile: Profile, phase: Phase) -> str:
    dumps = phase is Phase.BEGIN and profile.begin is BeginKind.DUMP_XML
    return f"{phase.name}(dump)" if dumps else phase.name
