"""The guest that tells the truth, travelling between hosts: its definition, its recordings, and what they prove."""

from __future__ import annotations

import re
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Self

from support.guest.build import GuestImage, GuestSettings, kernel_command_line
from support.waiting import eventually
from vmferry.client import Connection
from vmferry.flags import Flag
from vmferry.migrate import Migrated
from vmferry.params import MigrationParams
from vmferry_demo.heartbeats import Judgement, Line, disk_rounds, judge
from vmferry_demo.serial_recorder import SerialRecorder

NAME = "traveller"
READY_S = 120.0
HEAR_S = 60.0
VERIFY_S = 180.0
SERIAL = re.compile(r"[^\"']*/serial-of-stay-\d+")


@dataclass(slots=True)
class Traveller:
    """One guest. Each stay on a host has a serial port, and so a recording, of its own.

    `emulator` is the QEMU that runs it; None leaves that to its hosts. `disks` are its disks, as XML.
    """

    image: GuestImage
    settings: GuestSettings
    memory_mib: int
    directory: Path
    emulator: str | None = None
    disks: str = ""
    recorders: list[SerialRecorder] = field(default_factory=list)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def start(self, host: Connection) -> None:
        """It runs on `host`, its memory is filled, and it beats."""
        await host.define(await self.first_definition())
        await host.start(NAME)
        await self.recorders[-1].wait_until_ready(READY_S)
        await self.heard(10)

    async def move(
        self, source: Connection, destination: Connection, *, flags: Flag = Flag.LIVE, bandwidth_mib_per_s: int | None = None
    ) -> Migrated:
        """It lives at `destination` and is recorded there."""
        params = MigrationParams(destination_xml=await self.next_xml(source), bandwidth_mib_per_s=bandwidth_mib_per_s)
        return await source.migrate(NAME, destination, flags=flags, params=params)

    async def next_xml(self, source: Connection) -> str:
        """Its definition for the next stay, which is being listened to from now on."""
        return await self.definition_of_next_stay(await source.xml(NAME))

    async def first_definition(self) -> str:
        """Its definition for the first stay, which is being listened to from now on."""
        return self._xml(await self._new_serial())

    async def definition_of_next_stay(self, xml: str) -> str:
        """`xml`, the definition that its host has, for the next stay, which is being listened to from now on."""
        return SERIAL.sub(str(await self._new_serial()), xml)

    def serial_in(self, xml: str) -> Path:
        """The serial port that a definition of it has."""
        found = SERIAL.search(xml)
        assert found is not None, f"no serial port of a stay in {xml}"
        return Path(found[0])

    async def heard(self, beats: int) -> None:
        """It has beaten `beats` times more, wherever it is."""
        before = self._count()
        await eventually(lambda: self._count() >= before + beats, HEAR_S, what="the guest beats")

    async def verified(self) -> None:
        """It has read all of its memory once more from the beginning, wherever it is."""
        rounds, end_s = self.judgement().verified_rounds, time.monotonic() + VERIFY_S
        while (heard := self.judgement()).verified_rounds < rounds + 2:
            assert time.monotonic() < end_s, f"{rounds} rounds, and {VERIFY_S} s later {heard.beats[-3:]}, {heard.faults()}"
            await self.heard(50)

    async def disk_verified(self) -> None:
        """It has found on its disk all that it had written there, wherever it is."""
        rounds = disk_rounds(self.lines())
        await eventually(lambda: disk_rounds(self.lines()) >= rounds + 2, HEAR_S, what="the guest has read its disk")

    def lines(self) -> list[Line]:
        """Everything that was heard, in the order of its stays."""
        return [line for recorder in self.recorders for line in recorder.recording()]

    def judgement(self) -> Judgement:
        """What its recordings say together."""
        return judge([recorder.recording() for recorder in self.recorders])

    def longest_silence_s(self) -> float:
        """The longest time between two lines."""
        times = [line.host_time_s for line in self.lines()]
        return max((after - before for before, after in pairwise(times)), default=0.0)

    def _count(self) -> int:
        return sum(len(recorder.recording()) for recorder in self.recorders)

    async def _new_serial(self) -> Path:
        path = self._serial(len(self.recorders))
        self.recorders.append(await self._stack.enter_async_context(SerialRecorder.fifo(path)))
        return path

    def _serial(self, stay: int) -> Path:
        return self.directory / f"serial-of-stay-{stay:03}"

    def _xml(self, serial: Path) -> str:
        return f"""
<domain type='qemu'>
  <name>{NAME}</name>
  <memory unit='MiB'>{self.memory_mib}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{self.image.kernel}</kernel>
    <initrd>{self.image.initrd}</initrd>
    <cmdline>{kernel_command_line(self.settings)}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='maximum'/>
  <devices>
    {f"<emulator>{self.emulator}</emulator>" if self.emulator else ""}
    {self.disks}
    <serial type='file'><source path='{serial}' append='on'/><target port='0'/></serial>
  </devices>
</domain>"""
