"""`make bench`: everything is measured in one run, printed as tables, and written as JSON and as a picture.

    PYTHONPATH=tests:. python -m bench --quick

The ways alternate within each round, so that whatever else the machine does falls upon all of them alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Protocol

from bench import by_hand, by_virsh, by_vmferry, traced
from bench.figures import HEADINGS, as_markdown, best, rows, share, summaries, targets
from bench.guests import GuestKind, Mood, Move, Way
from bench.inside import PAUSE_HEADINGS, Share, share_rows, shares
from bench.picture import picture
from bench.tunnel import Carried, carried
from support.emulators import truthful_emulator
from support.guest import GuestImage, build_guest
from support.tools import GUEST_CACHE
from support.traveller import Traveller

MEBIBYTE = 1 << 20
TUNNELS = (("tcp", 1), ("tls", 1), ("tcp", 2), ("tls", 2))
QUICK_WAYS = (Way.RAW, Way.DIRECT, Way.TUNNEL, Way.TUNNEL_TLS)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured. `traced` is the guest whose pauses are taken apart."""

    kinds: Sequence[GuestKind]
    traced: GuestKind
    ways: Sequence[Way]
    rounds: int
    tunnel_bytes: int


def plan(given: argparse.Namespace) -> Plan:
    """What the command line asks for."""
    if given.quick:
        small = GuestKind(256, Mood.IDLE)
        return Plan([small], small, QUICK_WAYS, 1, 64 * MEBIBYTE)
    moods = [Mood(mood) for mood in given.moods]
    ways = [way for way in map(Way, given.ways) if not way.is_libvirts or by_virsh.is_possible()]
    kinds = [GuestKind(*one) for one in product(given.sizes, moods)]
    return Plan(kinds, GuestKind(512, Mood.IDLE), ways, given.rounds, given.tunnel_mib * MEBIBYTE)


def _machinery() -> tuple[GuestImage, str]:
    """What is moved, and the QEMU that runs it."""
    return build_guest(GUEST_CACHE), truthful_emulator() or "qemu-system-x86_64"


async def moves(wanted: Plan) -> list[Move]:
    """Every guest has moved every way in every round, in this order: guest, round, way."""
    image, emulator = _machinery()
    found: list[Move] = []
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vmb")))
        pairs = await _pairs(wanted.ways, directory, stack)
        ways = [way for way in wanted.ways if way is Way.RAW or way in pairs]
        for kind, number, way in product(wanted.kinds, range(wanted.rounds), ways):
            place = directory / str(len(found))
            place.mkdir()
            move = await _move(kind, way, pairs.get(way), _Guest(emulator, image, place, number))
            found.append(move)
            _say(
                f"{move.guest}, {move.way}: total {move.total_ms:.0f} ms, {move.bytes_per_s / 1e6:.0f} MB/s, "
                f"pause {move.pause_ms:.0f} ms, outside {move.overhead_ms:.0f} ms, load {move.load:.1f} "
                f"{'; '.join(move.faults)}"
            )
    return found


class _Pair(Protocol):
    """Two daemons that move guests, whosever they are."""

    async def move(self, kind: GuestKind, way: Way, traveller: Traveller, number: int, /) -> Move:
        """A fresh guest has moved once; it is gone afterwards."""
        ...


async def _pairs(ways: Sequence[Way], directory: Path, stack: AsyncExitStack) -> dict[Way, _Pair]:
    """The daemons of each way but raw QEMU's, which has none. A way is left out if its daemons do not start here."""
    plain = await stack.enter_async_context(by_vmferry.plain(directory / "plain"))
    encrypted = await stack.enter_async_context(by_vmferry.encrypted(directory / "tls"))
    ours = [way for way in ways if way is not Way.RAW and not way.is_libvirts]
    found: dict[Way, _Pair] = {way: encrypted if way.is_encrypted else plain for way in ours}
    if any(way.is_libvirts for way in ways):
        try:
            libvirts = await stack.enter_async_context(by_virsh.pair(directory / "libvirt"))
        except by_virsh.LibvirtdEnded as error:
            _say(f"libvirt is not measured, for libvirtd does not start: {error}")
        else:
            found |= {way: libvirts for way in ways if way.is_libvirts}
    return found


@dataclass(frozen=True, slots=True)
class _Guest:
    emulator: str
    image: GuestImage
    directory: Path
    number: int


async def _move(kind: GuestKind, way: Way, pair: _Pair | None, guest: _Guest) -> Move:
    if pair is None:
        return await by_hand.move(kind, guest.emulator, guest.image, guest.directory, guest.number)
    emulator = None if way.is_libvirts else guest.emulator  # libvirt knows the system's
    async with by_vmferry.traveller(kind, emulator, guest.image, guest.directory) as traveller:
        return await pair.move(kind, way, traveller, guest.number)


async def pauses(wanted: Plan) -> list[traced.Traced]:
    """A guest has moved directly in every round, with QEMUs that trace what they do."""
    image, emulator = _machinery()
    found: list[traced.Traced] = []
    with tempfile.TemporaryDirectory(prefix="vmb") as name:
        directory = Path(name)
        async with by_vmferry.plain(directory / "plain") as pair:
            for number in range(wanted.rounds):
                place = directory / str(number)
                place.mkdir()
                one = await traced.move(pair, wanted.traced, emulator, image, place)
                found.append(one)
                told = one.missing if one.pause is None else f"the daemons {one.pause.daemons_ms:.1f} ms of the pause"
                _say(f"{wanted.traced.name}, traced: {told}, load {one.move.load:.1f} {'; '.join(one.move.faults)}")
    return found


async def tunnels(wanted: Plan) -> list[Carried]:
    """Tunnels alone, as often as guests move."""
    found: list[Carried] = []
    with tempfile.TemporaryDirectory(prefix="vmb") as directory:
        for _, (transport, count) in product(range(wanted.rounds), TUNNELS):
            one = await carried(transport, count, wanted.tunnel_bytes, Path(directory) / str(len(found)))
            found.append(one)
            _say(
                f"{count} {transport} tunnels: {one.bytes_per_s / 1e9:.2f} GB/s, answers p50 "
                f"{share(one.answers_ms, 0.5):.1f} p99 {share(one.answers_ms):.1f} ms, load {one.load:.1f}"
            )
    return found


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def machine() -> dict[str, str | int | float]:
    """Where this was measured."""
    return {"cores": os.cpu_count() or 0, "kernel": platform.release(), "load": os.getloadavg()[0]}


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if no guest was damaged; targets that are missed are told and are no failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small guest, one round: half a minute")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 2048], metavar="MIB")
    parser.add_argument("--moods", nargs="+", default=list(Mood), choices=list(Mood))
    parser.add_argument("--ways", nargs="+", default=list(Way), choices=list(Way))
    parser.add_argument("--tunnel-mib", type=int, default=2048)
    parser.add_argument("--directory", type=Path, default=Path("build/bench"), help="where the results are written")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # daemons and guests end with whoever measures them
    wanted, before = plan(given), machine()
    carried_by_tunnels = asyncio.run(tunnels(wanted))
    moved = asyncio.run(moves(wanted))
    taken_apart = asyncio.run(pauses(wanted))
    found, seen = summaries(moved), [one.pause for one in taken_apart if one.pause is not None]
    judged, parts = targets(found, seen, carried_by_tunnels), shares(seen)
    given.directory.mkdir(parents=True, exist_ok=True)
    everything = {
        "before": before,
        "after": machine(),
        "moves": [asdict(one) for one in moved],
        "traced": [asdict(one) for one in taken_apart],
        "pauses": [asdict(one) for one in parts],
        "tunnels": [asdict(one) for one in carried_by_tunnels],
        "summaries": [asdict(one) for one in found],
        "targets": [asdict(one) for one in judged],
    }
    (given.directory / "bench.json").write_text(json.dumps(everything, indent=1))
    (given.directory / "bench.svg").write_text(picture(found, "Ways to move a guest, medians"))
    print(as_markdown(HEADINGS, rows(found)), end="\n\n")
    print(of_pauses(parts, taken_apart), end="\n\n")
    print(as_markdown(("tunnels", "GB/s", "answer p50 ms", "p99 ms"), _of_tunnels(carried_by_tunnels)), end="\n\n")
    met = [(one.what, one.wanted, one.measured, "met" if one.met else "NOT MET") for one in judged]
    print(as_markdown(("target", "wanted", "measured", ""), met))
    ours = [*(move for move in moved if not Way(move.way).is_libvirts), *(one.move for one in taken_apart)]
    return 1 if any(move.faults for move in ours) else 0


def of_pauses(parts: Sequence[Share], taken_apart: Sequence[traced.Traced]) -> str:
    """What is printed of the pauses: the table, and why some are not in it."""
    missing = [f"A pause was not taken apart: {why}." for why in sorted({one.missing for one in taken_apart}) if why]
    table = [as_markdown(PAUSE_HEADINGS, share_rows(parts))] if parts else []
    return "\n\n".join(missing + table)


def _of_tunnels(found: Sequence[Carried]) -> list[tuple[str, ...]]:
    return [
        (
            f"{one.tunnels}, {one.transport}",
            f"{one.bytes_per_s / 1e9:.2f}",
            f"{share(one.answers_ms, 0.5):.1f}",
            f"{share(one.answers_ms):.1f}",
        )
        for one in best(found)
    ]


if __name__ == "__main__":
    sys.exit(main())
