"""All that this host can see of a guest, without changing anything: the journal, every copy, the locks of its images.

Safe at any time: it takes no lock of ours, waits for no step of a migration, and each look has a bound of its own. What could
not be looked at is said to be unknown; it is never left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from vmferry.errors import DomainNotFound, VmferryError
from vmferry.evidence import CopyEvidence, HostEvidence, ImageEvidence, RecordEvidence
from vmferryd.domains.entry import Entry, parse, shown
from vmferryd.domains.model import DomainDefinition
from vmferryd.drivers.base import Driver, Guest, GuestPlan, Sighting
from vmferryd.jobs.journal import Record
from vmferryd.phases.context import Context

UNKNOWN = "unknown"


def evidence_of(record: Record) -> RecordEvidence:
    """What others may know of a record; never its secrets."""
    return RecordEvidence(
        migration_id=record.migration_id,
        side=record.side,
        state=record.state.value,
        settled=record.settled,
        domain_name=record.domain_name,
        domain_uuid=record.domain_uuid,
        peer_uri=record.peer_uri,
        started_s=record.started_s,
        ended_s=record.ended_s,
        error=record.error,
        resolution=record.resolution,
        receiver_uri=record.receiver_uri,
    )


def telling(records: Iterable[Record]) -> tuple[Record, ...]:
    """Of a domain's records, newest first, those that still say something.

    Every one that is not over, every one that an operator decided, and the newest of each side.
    """
    seen, told = set(), []
    for record in records:
        if record.side not in seen or record.resolution or not (record.state.final and record.settled):
            told.append(record)
        seen.add(record.side)
    return tuple(told)


async def examine(context: Context, domain: str) -> HostEvidence:
    """All that this host can see of the domain of that name or UUID; empty when it has never heard of it."""
    return await _Examination(context, domain).report()


@dataclass(slots=True)
class _Examination:
    """One look."""

    context: Context
    domain: str
    problems: list[str] = field(default_factory=list)

    async def report(self) -> HostEvidence:
        """What is seen now."""
        entry = self._entry()
        records = await self._records()
        uuid = entry.uuid if entry is not None else next((each.domain_uuid for each in records), self.domain)
        copies = await self._copies(entry, uuid)
        return HostEvidence(
            self.context.identity.host_name,
            self.context.identity.host_uuid,
            shown(entry),
            tuple(evidence_of(record) for record in records),
            copies,
            await self._images(self._definition(entry, records)),
            tuple(self.problems),
            self.context.identity.machine,
        )

    def _entry(self) -> Entry | None:
        try:
            return self.context.domains.find(self.domain)
        except DomainNotFound:
            return None

    async def _records(self) -> tuple[Record, ...]:
        try:
            return telling(await self.context.journal.about(self.domain))
        except VmferryError as error:
            self.problems.append(f"the journal: {error}")
            return ()

    async def _copies(self, entry: Entry | None, uuid: str) -> tuple[CopyEvidence, ...]:
        sightings = [pair for driver in self._drivers() for pair in await self._sighted(driver, uuid)]
        plan = entry.plan if entry is not None else None
        ours = [pair for pair in sightings if plan is not None and pair[1].directory == plan.directory]
        copies = [] if plan is None or entry is None else [await self._managed(entry.guest, plan, ours)]
        strangers = [pair for pair in sightings if pair not in ours]
        copies += [
            CopyEvidence(name, UNKNOWN, detail=seen.detail, process_id=seen.process_id, managed=False)
            for name, seen in strangers
        ]
        return tuple(copies)

    async def _managed(self, guest: Guest | None, plan: GuestPlan, sighted: list[tuple[str, Sighting]]) -> CopyEvidence:
        process_id = sighted[0][1].process_id if sighted else None
        if guest is None:
            return CopyEvidence(plan.driver, UNKNOWN, detail="the daemon has no line to it", process_id=process_id)
        try:
            async with asyncio.timeout(self.context.limits.examine_s):
                probe = await guest.probe()
        except TimeoutError:
            words = f"it does not answer within {self.context.limits.examine_s:g} s"
            return CopyEvidence(plan.driver, UNKNOWN, UNKNOWN, words, process_id)
        except VmferryError as error:
            return CopyEvidence(plan.driver, UNKNOWN, UNKNOWN, str(error), process_id)
        return CopyEvidence(plan.driver, probe.run_state.value, probe.transfer_state.value, probe.detail, process_id)

    def _drivers(self) -> list[Driver]:
        return [self.context.drivers.named(name) for name in self.context.drivers.names]

    async def _sighted(self, driver: Driver, uuid: str) -> list[tuple[str, Sighting]]:
        try:
            return [(driver.name, seen) for seen in await driver.sightings(uuid)]
        except VmferryError as error:
            self.problems.append(f"guests of the {driver.name} driver: {error}")
            return []

    def _definition(self, entry: Entry | None, records: tuple[Record, ...]) -> DomainDefinition | None:
        if entry is not None:
            return entry.definition
        xml = next((record.definition_xml for record in records if record.definition_xml), "")
        try:
            return parse(xml) if xml else None
        except VmferryError as error:
            self.problems.append(f"the definition in the journal: {error}")
            return None

    async def _images(self, definition: DomainDefinition | None) -> tuple[ImageEvidence, ...]:
        if definition is None:
            return ()
        try:
            return await self.context.domains.driver(definition).images(definition)
        except VmferryError as error:
            self.problems.append(f"the images: {error}")
            return ()
