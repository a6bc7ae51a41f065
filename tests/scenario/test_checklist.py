"""The checklist for an implementation of libvirt's protocol (specification 11): fifteen points, each with tests that name it.

Most of them stand where their subject does and carry the mark `checklist`; here are those that belong nowhere else, and the
proof that no point is left out.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from scenario.by_hand import ByHand
from support.daemons import NAME, TwoHosts
from vmferry.errors import DriverRefused, MigrationNotFound, VmferryError
from vmferry.model import Outcome, Phase, Verdict
from vmferryd.drivers.memory import FaultKind, Verb

POINTS = {
    1: "Begin does not change the guest, Prepare does not need the source, only Perform touches the source's guest",
    2: "a cancelled Finish works in every state of the destination, and returns the destination's own reason",
    3: "Finish decides, Confirm obeys",
    4: "after a failed Perform no Confirm follows: Perform has cleaned the source alone",
    5: "the source's guest is never killed before the destination has it, and never resumed while that is unknown",
    6: "what is known is durable at each change, and recovery is a function of it and of the hypervisor's state",
    7: "what waits at the destination is tied to the coordinator's lease until it commits",
    8: "flag mask, PAUSED, URI rewriting, destination_name and destination_xml",
    9: "unknown optional cookie data is ignored, unknown mandatory data refused in Prepare",
    10: "abort says the truth, and whatever waits wakes on event, abort, loss, death and deadline",
    11: "the hypervisor's settings are as before on every exit",
    12: "disks and their locks are touched only when the guest stands still",
    13: "the figures are taken before the hypervisor is gone, and kept on both sides",
    14: "refused before any data flows: the same host, what cannot be moved, a disk that only the source has",
    15: "each row of section 6 with real processes killed",
}


def _marked() -> Iterator[tuple[int, str]]:
    """Every point that a test names, with that test."""
    for path in sorted(Path(__file__).parent.parent.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for mark in node.decorator_list:
                    if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.checklist":
                        (point,) = mark.args
                        yield ast.literal_eval(point), node.name


def test_no_point_is_left_out() -> None:
    """Each of the fifteen is named by a test, and nothing else is."""
    assert set(POINTS) == {point for point, _ in _marked()}


@pytest.mark.checklist(1)
async def test_only_perform_touches_the_guest(two_hosts: TwoHosts) -> None:
    """Begin and Prepare call no verb of the source's hypervisor that changes anything, and Prepare needs no source at all."""
    walk = ByHand(two_hosts)
    before = await two_hosts.source.connection.domain(NAME)
    called: list[Verb] = []
    two_hosts.source.machine.faults.choose = lambda verb, _: called.append(verb)
    await walk.begin()
    assert set(called) <= {Verb.PROBE, Verb.CAPABILITIES, Verb.DEVICES}
    after = await two_hosts.source.connection.domain(NAME)
    assert (before.state, before.reason) == (after.state, after.reason)
    await two_hosts.source.stop()
    assert (await walk.prepare()).cookie
    await two_hosts.source.start()


async def _cancelled(walk: ByHand) -> Outcome:
    return (await walk.finish(Verdict.ROLL_BACK)).outcome


@pytest.mark.checklist(2)
async def test_cancelled_finish_that_never_was_prepared(two_hosts: TwoHosts) -> None:
    """Nothing is here, and that is said."""
    walk = await ByHand(two_hosts).up_to(Phase.BEGIN)
    with pytest.raises(MigrationNotFound):
        await _cancelled(walk)
    await walk.confirm(Verdict.ROLL_BACK)
    await two_hosts.lives(two_hosts.source)


@pytest.mark.checklist(2)
async def test_cancelled_finish_after_half_a_prepare(two_hosts: TwoHosts) -> None:
    """A Prepare that failed in the middle is answered with its own reason, again and again."""
    two_hosts.destination.machine.faults.once(Verb.ACCEPT, FaultKind.REFUSE)
    walk = await ByHand(two_hosts).up_to(Phase.BEGIN)
    with pytest.raises(DriverRefused) as refused:
        await walk.prepare()
    for _ in range(2):
        answer = await walk.finish(Verdict.ROLL_BACK)
        assert Outcome.ABORTED is answer.outcome
        assert refused.value.message in answer.failure
    await walk.confirm(Verdict.ROLL_BACK)
    await two_hosts.lives(two_hosts.source)


@pytest.mark.checklist(2)
async def test_cancelled_finish_of_what_waits(two_hosts: TwoHosts) -> None:
    """A guest that waits for its state is discarded."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    assert Outcome.ABORTED is await _cancelled(walk)
    await walk.confirm(Verdict.ROLL_BACK)
    await two_hosts.lives(two_hosts.source)


@pytest.mark.checklist(2)
async def test_cancelled_finish_after_a_transfer_that_failed(two_hosts: TwoHosts) -> None:
    """The destination's reason is there although the source only saw its channel break."""
    two_hosts.destination.machine.faults.once(Verb.RECEIVE, FaultKind.REFUSE)
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    with pytest.raises(VmferryError):
        await walk.perform()
    answer = await walk.finish(Verdict.ROLL_BACK)
    assert Outcome.ABORTED is answer.outcome
    assert "refused" in answer.failure
    await two_hosts.lives(two_hosts.source)


@pytest.mark.checklist(2)
async def test_cancelled_finish_after_the_commit(two_hosts: TwoHosts) -> None:
    """What was committed stays committed, and the answer says so."""
    walk = await ByHand(two_hosts).up_to(Phase.PERFORM)
    await two_hosts.destination.state(walk.migration_id)
    answer = await walk.finish(Verdict.COMMIT)
    assert Outcome.COMMITTED is answer.outcome
    assert Outcome.COMMITTED is await _cancelled(walk)
    await walk.confirm(Verdict.ROLL_BACK)
    await two_hosts.lives(two_hosts.destination)


@pytest.mark.checklist(13)
async def test_figures_outlive_the_source_copy(two_hosts: TwoHosts) -> None:
    """When nothing is left of the source's copy, both hosts still have the figures of the same transfer."""
    done = await two_hosts.migrate()
    await two_hosts.lives(two_hosts.destination)
    here = (await two_hosts.source.connection.job(done.migration_id)).statistics
    there = (await two_hosts.destination.connection.job(done.migration_id)).statistics
    assert here.memory_processed_bytes == there.memory_processed_bytes > 0
    assert here.memory_iteration == there.memory_iteration > 0
