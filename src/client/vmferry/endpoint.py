"""What a source and a destination can be asked, whoever asks: a client over gRPC, or a daemon for its own half.

An endpoint call ends in an answer, in an error that means *it did not happen*, or in `FateUnknown`: *it may have*.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from vmferry.findings import Finding
from vmferry.flags import NONE, Flag
from vmferry.model import DomainInfo, MigrationId, Outcome, Progress, Statistics, Verdict
from vmferry.params import MigrationParams
from vmferry.wish import RunWish

ProgressListener = Callable[[Progress], None]
"""Hears each step of a Perform; must not block."""


def ignore_progress(_: Progress) -> None:
    """A listener that does not listen."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of one phase. Fields that a phase does not need are ignored by it.

    `cookie` is the one that the phase before handed over, and only that one. `uri` is where the source is to send, as
    the destination said or the user wished. `verdict` matters to Finish and Confirm. With `validate_only` Begin, Prepare
    and Perform do nothing but look, and their replies have `findings`.
    """

    migration_id: MigrationId
    domain: str
    flags: Flag = NONE
    params: MigrationParams = field(default_factory=MigrationParams)
    domain_xml: str = ""
    cookie: bytes = b""
    uri: str = ""
    destination_daemon_uri: str = ""
    verdict: Verdict = Verdict.COMMIT
    validate_only: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What one phase answered. Fields that a phase does not fill keep their defaults.

    Begin fills `domain_xml`; Prepare `uri`; Perform and Confirm `statistics`; Finish and Confirm `outcome`; Finish
    `domain` when the guest lives at the destination, else `failure` and `failure_reason`, the destination's error. Perform
    fills `warnings`, and a peer-to-peer one `domain` as well.
    """

    migration_id: MigrationId
    cookie: bytes = b""
    domain_xml: str = ""
    uri: str = ""
    outcome: Outcome = Outcome.PENDING
    domain: DomainInfo | None = None
    failure: str = ""
    failure_reason: str = ""
    statistics: Statistics = field(default_factory=Statistics)
    warnings: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Settled:
    """An answer to `Outcome`: what holds, and the journal record's word for it. `wish` is the source's."""

    outcome: Outcome
    state: str
    wish: RunWish = RunWish.NONE


class Handover(Protocol):
    """What either host can be asked about a migration at any time."""

    async def outcome(self, migration_id: MigrationId) -> Settled:
        """What this host's journal says. Changes nothing.

        Raises:
            MigrationNotFound: this host has no record of it.
            PeerUnreachable: nobody answered.
        """
        ...

    async def abort(self, migration_id: MigrationId, why: str) -> Outcome:
        """The migration has ended if it still could; answers what then holds (handover rule 4).

        Raises:
            MigrationNotFound: this host has no record of it.
            PeerUnreachable, FateUnknown: ask again.
        """
        ...


class Source(Handover, Protocol):
    """The host where the guest runs first."""

    async def begin(self, request: Request) -> Reply:
        """A migration is open; the guest is untouched."""
        ...

    async def perform(self, request: Request, listener: ProgressListener) -> Reply:
        """The guest's state is sent; it stands still at the source, which has not given it up."""
        ...

    async def confirm(self, request: Request) -> Reply:
        """The source has acted upon the destination's own word."""
        ...

    async def domain(self, name: str) -> DomainInfo:
        """The domain as the host knows it."""
        ...


class Destination(Handover, Protocol):
    """The host where the guest goes."""

    async def prepare(self, request: Request) -> Reply:
        """A guest waits for its state."""
        ...

    async def finish(self, request: Request) -> Reply:
        """The guest lives here, or nothing is left of it; `outcome` says which."""
        ...
