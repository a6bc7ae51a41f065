"""What is told of a domain when its state changes, under libvirt's names (specification 1.14), and who is told.

The events follow from the states, so that no sequence of calls can leave one out. A watcher may be slow, but not for ever:
it loses the oldest of too many, and is told how many.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from vmferry.model import DomainEvent, DomainEventDetail, DomainEventKind, DomainState, MigrationId, StateReason

Detail, Kind = DomainEventDetail, DomainEventKind
State = tuple[DomainState, StateReason]
Change = tuple[DomainEventKind, DomainEventDetail]

REMEMBERED = 256
"""So many events wait for a watcher."""

_RESUMED: Mapping[StateReason, DomainEventDetail] = {
    StateReason.MIGRATED: Detail.MIGRATED,
    StateReason.MIGRATION_CANCELED: Detail.MIGRATED,
    StateReason.POSTCOPY: Detail.POSTCOPY,
    StateReason.POSTCOPY_FAILED: Detail.POSTCOPY_FAILED,
}
_SUSPENDED: Mapping[StateReason, DomainEventDetail] = {
    StateReason.USER: Detail.PAUSED,
    StateReason.MIGRATION: Detail.MIGRATED,
    StateReason.IO_ERROR: Detail.IO_ERROR,
    StateReason.POSTCOPY: Detail.POSTCOPY,
    StateReason.POSTCOPY_FAILED: Detail.POSTCOPY_FAILED,
}
_STOPPED: Mapping[StateReason, DomainEventDetail] = {
    StateReason.SHUTDOWN: Detail.SHUTDOWN,
    StateReason.DESTROYED: Detail.DESTROYED,
    StateReason.CRASHED: Detail.CRASHED,
    StateReason.MIGRATED: Detail.MIGRATED,
}


def changes(before: State, after: State) -> tuple[Change, ...]:
    """What is told when a domain in the state `before` is in the state `after`. Pure."""
    (was, _), (now, reason) = before, after
    if before == after:
        return ()
    if not now.active:
        return ((Kind.STOPPED, _STOPPED.get(reason, Detail.FAILED)),) if was.active else ()
    if not was.active:
        return _started(now, reason)
    if now is DomainState.RUNNING:
        return () if was is now else ((Kind.RESUMED, _RESUMED.get(reason, Detail.UNPAUSED)),)
    if now is DomainState.PAUSED and reason in _SUSPENDED:
        return ((Kind.SUSPENDED, _SUSPENDED[reason]),)
    return ((Kind.SUSPENDED, Detail.PAUSED),) if now is DomainState.PAUSED and was is not now else ()


def _started(now: DomainState, reason: StateReason) -> tuple[Change, ...]:
    if reason is StateReason.MIGRATION:
        return ((Kind.STARTED, Detail.MIGRATED),)
    paused = ((Kind.SUSPENDED, Detail.PAUSED),) if now is DomainState.PAUSED else ()
    return ((Kind.STARTED, Detail.BOOTED), *paused)


@dataclass(slots=True, eq=False)
class _Watcher:
    waiting: deque[DomainEvent] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    missed: int = 0
    told: asyncio.Event = field(default_factory=asyncio.Event)

    def hear(self, event: DomainEvent) -> None:
        self.missed += len(self.waiting) == self.waiting.maxlen
        self.waiting.append(event)
        self.told.set()

    async def events(self) -> AsyncIterator[DomainEvent]:
        while True:
            while not self.waiting:
                self.told.clear()
                await self.told.wait()
            missed, self.missed = self.missed, 0
            yield replace(self.waiting.popleft(), missed=missed)


class Watchers:
    """Everyone who watches the domains of this host."""

    def __init__(self) -> None:
        self._watchers: set[_Watcher] = set()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._watchers)

    def tell(self, name: str, uuid: str, change: Change, migration_id: MigrationId | None) -> None:
        """Everyone will hear that this has happened to that domain."""
        event = DomainEvent(*change, name, uuid, time.time(), migration_id)
        for watcher in self._watchers:
            watcher.hear(event)

    @contextmanager
    def watching(self) -> Iterator[AsyncIterator[DomainEvent]]:
        """Every event from now on, until the context is left."""
        watcher = _Watcher()
        self._watchers.add(watcher)
        try:
            yield watcher.events()
        finally:
            self._watchers.discard(watcher)
