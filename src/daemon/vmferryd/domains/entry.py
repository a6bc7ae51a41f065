"""One domain of this host: what it is, what state it is in, and which migration holds it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from vmferry.errors import DefinitionInvalid, DomainNotFound, Violation
from vmferry.model import DomainInfo, DomainState, MigrationId, StateReason
from vmferryd.domains import definition as domain_xml
from vmferryd.domains.findings import DefinitionRefused, Finding
from vmferryd.domains.model import DomainDefinition
from vmferryd.domains.store import StoredDomain
from vmferryd.drivers.base import Guest, GuestPlan

SEE_ALL = "see `vmferry list --all`"


def parse(xml: str) -> DomainDefinition:
    """The definition that `xml` says.

    Raises:
        DefinitionInvalid: it is refused, with every finding.
    """
    try:
        return domain_xml.parse(xml)
    except DefinitionRefused as refused:
        raise DefinitionInvalid(
            str(refused).partition("\n")[0].rstrip(":"),
            violations=violations(refused.findings),
            remedy="change what is listed and try again",
        ) from None


def violations(findings: tuple[Finding, ...]) -> tuple[Violation, ...]:
    """The findings of a definition, as the error tree carries them."""
    return tuple(Violation(f"{f.xpath} (line {f.line})" if f.line else f.xpath, f.problem, f.remedy) for f in findings)


@dataclass(slots=True)
class Entry:
    """One domain. `live`, `plan`, `guest` and `id` are set together, while it is active.

    `unseen`: its guest could not be reached when the daemon started, so `state` says nothing; `reaching`: it is tried again.
    `ends_as`: what the end of the guest is called that somebody here brings about now.
    `stops`: how often its guest has told that its CPUs stand still, whether that was looked at yet or not.
    `suspending`: a user's suspend is under way; what stops the CPUs now is that, also while a migration holds the domain.
    """

    uuid: str
    name: str
    persistent: DomainDefinition | None = None
    live: DomainDefinition | None = None
    plan: GuestPlan | None = None
    guest: Guest | None = None
    id: int | None = None
    state: DomainState = DomainState.SHUTOFF
    reason: StateReason = StateReason.UNKNOWN
    holder: MigrationId | None = None
    max_speed_mib_per_s: int | None = None
    stops: int = 0
    suspending: bool = False
    ends_as: StateReason | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    unseen: bool = False
    reaching: asyncio.Lock = field(default_factory=asyncio.Lock)
    unsubscribe: Callable[[], None] | None = None

    def exists(self) -> bool:
        """There is something to show; an entry that was only claimed has nothing yet."""
        return self.live is not None or self.persistent is not None

    @property
    def definition(self) -> DomainDefinition:
        """Of the running guest if there is one, else the stored one.

        Raises:
            DomainNotFound: there is neither any more; whoever found the entry has waited meanwhile.
        """
        chosen = self.live or self.persistent
        if chosen is None:
            raise DomainNotFound(f"domain {self.name} is not on this host any more", remedy=SEE_ALL)
        return chosen

    def stored(self) -> StoredDomain:
        """What is to be remembered of it."""
        return StoredDomain(
            self.uuid,
            self.name,
            domain_xml.format(self.persistent) if self.persistent else None,
            domain_xml.format(self.live) if self.live else None,
            self.plan if self.live else None,
        )

    def info(self) -> DomainInfo:
        """What others may know of it."""
        return DomainInfo(
            uuid=self.uuid,
            name=self.name,
            domain_type=self.definition.type.value,
            state=self.state,
            reason=self.reason,
            persistent=self.persistent is not None,
            memory_bytes=self.definition.memory_bytes,
            vcpus=self.definition.vcpus,
            id=self.id,
            migration_id=self.holder,
        )


def shown(entry: Entry | None) -> DomainInfo | None:
    """What others may know of it; None if it has come to nothing since it was looked up, as that of a guest that died."""
    return entry.info() if entry is not None and entry.exists() else None
