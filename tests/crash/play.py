"""One cell: a migration up to its moment, the failure, and everything that must hold afterwards."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass

from crash.bounds import MOMENT_S, SETTLE_S
from crash.cells import HALF, Cell, Channel, Fault, Part, Place, Way
from crash.faults import Actors, Repair, strike
from crash.points import Stop
from crash.results import Result
from crash.stage import DATA_PORT, PORT, SLOW_MIB_PER_S, Stage
from support.network import CLIENT
from support.waiting import POLL_S, eventually
from vmferry.client import Connection
from vmferry.errors import VmferryError
from vmferry.flags import NONE, Flag
from vmferry.model import DomainState

HALF_SENT_BYTES = 25_000_000
FLAGS = {Way.REGULAR: Flag.LIVE, Way.P2P: Flag.LIVE | Flag.PEER2PEER}
CHANNEL_FLAGS = {Channel.NATIVE: NONE, Channel.TUNNEL: Flag.TUNNELLED}


async def play(cell: Cell, stage: Stage) -> Result:
    """The cell was played and everything holds that is promised.

    Raises:
        AssertionError: something does not.
    """
    await stage.sweep()
    source, destination = await stage.roles()
    await stage.guest.new_chapter(source.connection)
    await stage.guest.heard(5)
    begun_s = time.time()
    slow = SLOW_MIB_PER_S if cell.called_off or cell.moment == HALF else None
    stop, words = _stops(cell, stage)
    client = await stage.start_client(source, destination, FLAGS[cell.way] | CHANNEL_FLAGS[cell.channel], slow)
    actors = Actors(stage, source, destination, client)
    await _come_to(cell, actors, stop)
    struck_s = time.monotonic()
    repair = await strike(cell, actors)
    stop.go()
    for word in words:
        word.go()
    timing = await _settled(cell, actors, repair, struck_s)
    told = await _told(cell, client)
    place = await _check(cell, actors, told)
    _agree(actors, place, begun_s)
    pause_s = stage.guest.longest_silence_s() if place is not Place.LOST else 0.0
    await _migrates_again(stage)
    return Result(place.value, timing.settled_s, timing.back_s, pause_s, timing.meanwhile, told.get("words", ""))


# -- up to the moment --------------------------------------------------------------------------------------------------


def _stops(cell: Cell, stage: Stage) -> tuple[Stop, list[Stop]]:
    """The stop at the cell's moment. A destination writes `received` only while nobody gives it the source's word."""
    calls = (
        ("source calls release", "source calls finish", "client calls finish") if " writes received" in cell.moment else ()
    )
    return stage.points.stop_at(cell.moment), [stage.points.stop_at(f"before {call}") for call in calls]


async def _come_to(cell: Cell, actors: Actors, stop: Stop) -> None:
    """The migration is at the cell's moment.

    Raises:
        AssertionError: it never came there.
    """
    if cell.moment == HALF:
        try:
            await half_sent(actors.source.connection)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{await _evidence(actors)}") from None
        return
    calling = asyncio.create_task(_call_off(actors.source.connection)) if cell.called_off else None
    try:
        await stop.reached(MOMENT_S)
    except TimeoutError:
        evidence = await _evidence(actors)
        raise AssertionError(f"the migration never came to: {cell.moment}\n{evidence}") from None
    finally:
        if calling is not None:
            calling.add_done_callback(lambda task: task.cancelled() or task.exception())


async def half_sent(connection: Connection) -> None:
    """The newest migration away from a host is half-way."""

    async def sent() -> bool:
        try:
            job = (await connection.jobs())[0]
        except (VmferryError, IndexError):
            return False
        figures = job.statistics
        return job.ended_s is None and figures.memory_processed_bytes > HALF_SENT_BYTES

    await eventually(sent, MOMENT_S, what="half of the memory is sent")


async def _call_off(connection: Connection) -> None:
    await half_sent(connection)
    job = (await connection.jobs())[0]
    await connection.abort_job(job.migration_id)


# -- until everything is settled ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Timing:
    settled_s: float = 0.0
    back_s: float | None = None
    meanwhile: str = ""


async def _settled(cell: Cell, actors: Actors, repair: Repair | None, struck_s: float) -> _Timing:
    """Both journals are settled, and exactly one guest runs (or none, where it died with its hypervisor)."""
    timing = _Timing()
    early_s = None
    if repair is not None:
        early_s = await _settled_before(cell, actors, struck_s + repair.after_s)
        timing.meanwhile = await _said(actors)
        await repair.work()
        timing.back_s = time.monotonic() - struck_s
    what = f"everything is settled after {cell.name}"
    try:
        await eventually(lambda: _is_settled(cell, actors), SETTLE_S, what=what)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{await _evidence(actors)}") from None
    timing.settled_s = (early_s or time.monotonic()) - struck_s
    return timing


async def _settled_before(cell: Cell, actors: Actors, until_s: float) -> float | None:
    """The time when everything was settled, without what failed; None if it was not settled at `until_s`, which it is now."""
    since_s: float | None = None
    while (now_s := time.monotonic()) < until_s:
        since_s = (since_s or now_s) if await _is_settled(cell, actors) else None
        await asyncio.sleep(POLL_S)
    return since_s


async def _is_settled(cell: Cell, actors: Actors) -> bool:
    machines = (actors.source, actors.destination)
    if not all(machine.alive and not machine.unfinished() for machine in machines):
        return False
    pids = [pid for machine in machines for pid in machine.host.hypervisors()]
    domains = [await machine.domain() for machine in machines]
    if any(domain is not None and domain.migration_id is not None for domain in domains):
        return False
    running = [domain for domain in domains if domain is not None and domain.state is DomainState.RUNNING]
    return len(running) == len(pids) and len(pids) in _copies(cell)


def _copies(cell: Cell) -> set[int]:
    """How many copies may run in the end."""
    return {0 if place is Place.LOST else 1 for place in cell.places}


async def _said(actors: Actors) -> str:
    """What each host says of the guest now."""
    words = []
    for side, machine in (("source", actors.source), ("destination", actors.destination)):
        domain = await machine.domain()
        seen = f"{domain.state} ({domain.reason})" if domain else "nothing"
        words.append(f"{side}: {seen if machine.alive else 'down'}")
    return ", ".join(words)


async def _evidence(actors: Actors) -> str:
    log = (actors.stage.directory / "client.log").read_text().splitlines()
    parts = [f"points: {actors.stage.points.seen}", await _said(actors), *log[-10:]]
    for machine in (actors.source, actors.destination):
        parts.append(f"-- {machine.place}: unfinished {machine.unfinished()}, hypervisors {machine.host.hypervisors()}")
        told = [line for line in machine.host.log.splitlines() if "DomainService" not in line]
        parts.append("\n".join(told[-40:]))
    return "\n".join(parts)


# -- what must hold afterwards --------------------------------------------------------------------------------------------


async def _told(cell: Cell, client: asyncio.subprocess.Process) -> dict[str, str]:
    """What the client said; nothing when it was killed."""
    if (cell.fault, cell.part) == (Fault.KILL, Part.CLIENT):
        return {}
    async with asyncio.timeout(SETTLE_S):
        said, _ = await client.communicate()
    assert 0 == client.returncode, "the client came to an end of its own"
    told: dict[str, str] = json.loads(said)
    return told


async def _check(cell: Cell, actors: Actors, told: dict[str, str]) -> Place:
    """Where the guest is; everything that is promised holds."""
    place = await _place(cell, actors)
    assert place in cell.places
    if told.get("place") in ("source", "destination"):
        assert told["place"] == place.value or place is Place.LOST, f"the client was told a wrong place: {told}"
    guest = actors.stage.guest
    if place is not Place.LOST:
        await guest.heard(20)
        await guest.verified()
    assert [] == guest.judgement().faults()
    _leaves_nothing(actors, place)
    return place


def _agree(actors: Actors, place: Place, begun_s: float) -> None:
    """Both journals say the same, and it is where the guest is. A destination that was asked for nothing yet says nothing."""
    here, there = actors.source.ends(begun_s), actors.destination.ends(begun_s)
    stayed = set(here) <= {"cancelled"} and set(there) <= {"aborted"}
    moved = (here, there) == (["confirmed"], ["committed"])
    assert {Place.SOURCE: stayed, Place.DESTINATION: moved}.get(place, stayed or moved), (place, here, there)


async def _place(cell: Cell, actors: Actors) -> Place:
    """Where the guest runs; a busy daemon may need a moment to say so."""
    if Place.LOST in cell.places and not any(each.host.hypervisors() for each in (actors.source, actors.destination)):
        return Place.LOST
    found: list[Place] = []

    async def seen() -> bool:
        for place, machine in ((Place.SOURCE, actors.source), (Place.DESTINATION, actors.destination)):
            found[:] = found or ([place] if await machine.runs_guest() else [])
        return bool(found)

    await eventually(seen, SETTLE_S, what="the guest runs somewhere")
    return found[0]


def _leaves_nothing(actors: Actors, place: Place) -> None:
    """No process, folder, socket or connection is there but the guest's own."""
    for side, machine in ((Place.SOURCE, actors.source), (Place.DESTINATION, actors.destination)):
        own = 1 if side is place else 0
        assert own == len(machine.host.hypervisors())
        assert own == len(machine.guest_folders()), f"folders at the {side}: {machine.guest_folders()}"
        assert {PORT, DATA_PORT} == actors.stage.net.listening(machine.place)
        assert [] == [line for line in actors.stage.net.connected(machine.place) if "qemu" in line]
    assert set() == actors.stage.net.listening(CLIENT)


async def _migrates_again(stage: Stage) -> None:
    """The next migration succeeds, from wherever the guest is now, and without a word of the last one."""
    source, destination = await stage.roles()
    await stage.guest.move(source.connection, destination.connection)
    await stage.guest.heard(10)
    assert [] == stage.guest.judgement().faults()
