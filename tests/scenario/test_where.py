"""`vmferry where` and `vmferry resolve` as an operator runs them: programs beside two daemons."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from scenario.by_hand import ByHand
from scenario.test_resolve import committed_and_kept, destination_in_doubt, source_in_doubt
from support.daemons import NAME, Host, TwoHosts, domain_xml
from support.waiting import eventually
from vmferry.model import Phase
from vmferryd.drivers.memory import FaultKind, Verb

SAFE, IN_DOUBT, ALARM, NO_COPY = 0, 4, 5, 6


async def run(host: Host, *arguments: str, output: str = "json") -> tuple[int, str, str]:
    """The program's exit status, and what it wrote to each stream."""
    uri = str(host.settings["listen"])
    command = (sys.executable, "-m", "vmferry.cli", "-c", uri, "-o", output, *arguments)
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    said, complained = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode(), complained.decode()


async def where(two_hosts: TwoHosts, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit status and the answer, asked of both hosts."""
    hosts = ",".join(str(host.settings["listen"]) for host in two_hosts.hosts)
    code, said, complained = await run(two_hosts.source, "--bound", "look_s=20", "where", NAME, "--hosts", hosts, *arguments)
    assert not complained
    return code, json.loads(said)


async def test_a_guest_that_runs(two_hosts: TwoHosts) -> None:
    """It is on one host, and only there; after a migration it is on the other one, and looking changed nothing."""
    code, found = await where(two_hosts)
    assert (SAFE, "runs", "a", True) == (code, found["verdict"], found["host"], found["safe"])
    await two_hosts.migrate()
    await two_hosts.lives(two_hosts.destination)
    code, found = await where(two_hosts)
    assert (SAFE, "runs", "b") == (code, found["verdict"], found["host"])
    assert ["a", "b"] == [look["evidence"]["host_name"] for look in found["hosts"]]


async def test_a_guest_on_its_way(two_hosts: TwoHosts) -> None:
    """In the middle of a transfer the guest is being moved; whoever looks does not disturb it."""
    two_hosts.source.machine.faults.once(Verb.ROUND, FaultKind.HANG)
    moving = asyncio.ensure_future(two_hosts.migrate())
    await eventually(lambda: two_hosts.source.machine.faults.hanging == 1)
    code, found = await where(two_hosts)
    assert (SAFE, "moving", "a") == (code, found["verdict"], found["host"])
    two_hosts.source.machine.faults.release()
    await moving
    await two_hosts.lives(two_hosts.destination)


async def test_between_the_phases(two_hosts: TwoHosts) -> None:
    """At every point of a walk the verdict is safe, and says that nothing has to be done."""
    walk = ByHand(two_hosts)
    for phase in Phase:
        await getattr(walk, phase.value)()
        code, found = await where(two_hosts)
        assert (SAFE, True) == (code, found["safe"]), (phase, found)
    await two_hosts.lives(two_hosts.destination)


async def test_a_guest_in_doubt_and_the_way_out(two_hosts: TwoHosts) -> None:
    """The silent host is named with the steps to take; the step that the program names is the one that helps."""
    await source_in_doubt(two_hosts)
    code, found = await where(two_hosts)
    assert (IN_DOUBT, "in-doubt", "a") == (code, found["verdict"], found["host"])
    assert any("resolve web --keep-here --fenced" in step for step in found["what_now"])
    code, _, complained = await run(two_hosts.source, "resolve", NAME, "--keep-here")
    assert (IN_DOUBT, "STATE_INVALID") == (code, json.loads(complained)["error"])
    code, said, _ = await run(
        two_hosts.source, "resolve", NAME, "--keep-here", "--fenced", "--why", "it burned", output="text"
    )
    assert (SAFE, True) == (code, "web lives on here" in said)
    code, found = await where(two_hosts)
    assert (IN_DOUBT, "runs-as-far-as-seen", "a") == (code, found["verdict"], found["host"])
    assert any("it burned" in reason for reason in found["reasons"])
    await two_hosts.destination.start()
    await two_hosts.lives(two_hosts.source)
    code, found = await where(two_hosts)
    assert (SAFE, "runs", "a") == (code, found["verdict"], found["host"])


async def test_peers_are_found_in_the_journal(two_hosts: TwoHosts) -> None:
    """Without --hosts the hosts that the journal names are asked, too."""
    await two_hosts.migrate()
    await two_hosts.lives(two_hosts.destination)
    code, said, _ = await run(two_hosts.source, "where", NAME)
    assert (SAFE, "b") == (code, json.loads(said)["host"])


async def test_a_destination_in_doubt(two_hosts: TwoHosts) -> None:
    """A destination that waits for a silent source is in doubt, and can be told what to keep."""
    await destination_in_doubt(two_hosts)
    code, found = await where(two_hosts)
    assert (IN_DOUBT, "in-doubt", "b") == (code, found["verdict"], found["host"])
    code, _, _ = await run(two_hosts.destination, "resolve", NAME, "--keep-here", "--fenced")
    assert SAFE == code
    assert two_hosts.destination.guest().cpu.running


async def test_an_alarm_for_a_second_copy(two_hosts: TwoHosts) -> None:
    """A host that returns with a commit that an operator overruled is an alarm, and the named step ends it."""
    await committed_and_kept(two_hosts)
    await two_hosts.destination.start()
    code, found = await where(two_hosts)
    assert (ALARM, "two-copies", "a", False) == (code, found["verdict"], found["host"], found["safe"])
    assert any("--keep-there --fenced" in step for step in found["what_now"])
    code, _, _ = await run(two_hosts.destination, "resolve", NAME, "--keep-there", "--fenced")
    assert SAFE == code
    code, found = await where(two_hosts)
    assert (SAFE, "runs", "a") == (code, found["verdict"], found["host"])


async def test_an_alarm_for_two_running_copies(two_hosts: TwoHosts) -> None:
    """Somebody has started the same guest on the other host behind everybody's back."""
    await two_hosts.destination.connection.define(domain_xml())
    await two_hosts.destination.connection.start(NAME)
    code, found = await where(two_hosts)
    assert (ALARM, "two-run") == (code, found["verdict"])
    code, said, _ = await run(two_hosts.source, "where", NAME, "--hosts", _both(two_hosts), output="text")
    assert (ALARM, True) == (code, said.startswith("ALARM: 2 copies of web run at the same time, on a and b"))
    await two_hosts.destination.connection.destroy(NAME)
    await two_hosts.destination.connection.undefine(NAME)


async def test_a_guest_that_is_stopped_or_unknown(two_hosts: TwoHosts) -> None:
    """No copy is no copy, and a host that cannot be asked is said to be silent."""
    await two_hosts.source.connection.destroy(NAME)
    code, found = await where(two_hosts)
    assert (NO_COPY, "stopped") == (code, found["verdict"])
    await two_hosts.destination.stop()
    code, found = await where(two_hosts)
    assert (IN_DOUBT, "unknown") == (code, found["verdict"])
    assert [True, False] == [look["evidence"] is not None for look in found["hosts"]]


async def test_a_decision_needs_a_side(two_hosts: TwoHosts) -> None:
    """Neither side is a default."""
    code, _, complained = await run(two_hosts.source, "resolve", NAME, "--fenced", output="text")
    assert (1, True) == (code, "--keep-here or --keep-there" in complained)


def _both(two_hosts: TwoHosts) -> str:
    return ",".join(str(host.settings["listen"]) for host in two_hosts.hosts)
