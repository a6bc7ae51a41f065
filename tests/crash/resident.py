"""A guest that lives through many failures: what is heard of it is judged chapter by chapter, and it can be booted again."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from support.traveller import NAME, Traveller
from vmferry.client import Connection
from vmferry.errors import DomainNotFound, InvalidState
from vmferry_demo.serial_recorder import SerialRecorder


@dataclass(slots=True)
class Resident(Traveller):
    """The guest. Its recordings are those of the present chapter, in the order of its stays."""

    stays: int = 0
    _ports: dict[Path, AsyncExitStack] = field(default_factory=dict)

    async def new_chapter(self, home: Connection | None) -> None:
        """Only its port at `home` is listened to, and only what is heard from now on counts."""
        current = self.serial_in(await home.xml(NAME)) if home else None
        kept: list[SerialRecorder] = []
        for recorder, path in zip(tuple(self.recorders), tuple(self._ports), strict=True):
            if path == current:
                recorder.forget()
                kept.append(recorder)
            else:
                await self._ports.pop(path).aclose()
                path.unlink()
        self.recorders[:] = kept

    async def boot(self, host: Connection, *others: Connection) -> None:
        """It is started afresh on `host`, and no other host knows it."""
        await self.new_chapter(None)
        for each in (host, *others):
            try:
                await each.undefine(NAME)
            except (DomainNotFound, InvalidState):
                continue
        await Traveller.start(self, host)

    async def __aexit__(self, *_: object) -> None:
        await self.new_chapter(None)

    async def _new_serial(self) -> Path:
        path = self._serial(self.stays)
        self.stays += 1
        stack = self._ports[path] = AsyncExitStack()
        self.recorders.append(await stack.enter_async_context(SerialRecorder.fifo(path)))
        return path
