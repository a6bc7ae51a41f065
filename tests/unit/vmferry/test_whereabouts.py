"""Where a guest is: the whole table of what two hosts may see, and the rules that hold in every cell of it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from vmferry.evidence import CopyEvidence, HostEvidence, ImageEvidence, LockState, RecordEvidence
from vmferry.model import (
    DestinationState,
    DomainInfo,
    DomainState,
    Keep,
    MigrationId,
    Resolution,
    Side,
    SourceState,
    StateReason,
)
from vmferry.whereabouts import Look, Verdict, judge

A, B, C = "vmferry+tls://a:16533", "vmferry+tls://b:16533", "vmferry+tls://c:16533"
ID = MigrationId("6ee9b372-50e2-42bc-92d9-98c3931e7438")

RUNNING = CopyEvidence("qemu", "running", process_id=10)
PAUSED = CopyEvidence("qemu", "paused", process_id=11)
GONE_OVER = CopyEvidence("qemu", "gone-over", "completed", process_id=12)
INCOMING = CopyEvidence("qemu", "incoming", "active", process_id=13)
SILENT = CopyEvidence("qemu", "unknown", "unknown", "it does not answer", process_id=14)
STRANGER = CopyEvidence("qemu", "unknown", process_id=15, managed=False)
DOMAIN = DomainInfo("uuid", "web", "qemu", DomainState.SHUTOFF, StateReason.UNKNOWN, persistent=True, memory_bytes=1, vcpus=1)


def record(side: Side, state: str, *, settled: bool = True, **facts: object) -> RecordEvidence:
    """One side's record; a is the source and b the destination."""
    peer = B if side is Side.SOURCE else A
    return replace(RecordEvidence(ID, side, state, settled, "web", "uuid", peer, 1.0), **facts)  # type: ignore[arg-type]


def source(state: str, **facts: object) -> RecordEvidence:
    """The source's record."""
    return record(Side.SOURCE, state, **facts)  # type: ignore[arg-type]


def destination(state: str, **facts: object) -> RecordEvidence:
    """The destination's record."""
    return record(Side.DESTINATION, state, **facts)  # type: ignore[arg-type]


def host(uri: str, *parts: object, problems: tuple[str, ...] = ()) -> Look:
    """What the host at `uri` sees: records, copies, images, a definition."""
    name = uri.removeprefix("vmferry+tls://").removesuffix(":16533")
    return Look(
        uri,
        HostEvidence(
            name,
            f"uuid of {name}",
            domain=next((part for part in parts if isinstance(part, DomainInfo)), None),
            records=tuple(part for part in parts if isinstance(part, RecordEvidence)),
            copies=tuple(part for part in parts if isinstance(part, CopyEvidence)),
            images=tuple(part for part in parts if isinstance(part, ImageEvidence)),
            problems=problems,
        ),
    )


def silent(uri: str) -> Look:
    """A host that does not answer."""
    return Look(uri, error="no answer")


KEPT_HERE = Resolution(Keep.HERE, "root", "b burned down", 2.0)
UNSETTLED = {"settled": False}

TABLE = {
    "it runs, and the other host knows nothing": (host(A, RUNNING), host(B), Verdict.RUNS),
    "it runs after a migration": (
        host(A, source("confirmed")),
        host(B, RUNNING, destination("committed")),
        Verdict.RUNS,
    ),
    "it runs after a migration, and the source is silent": (
        silent(A),
        host(B, RUNNING, destination("committed")),
        Verdict.RUNS,
    ),
    "it was taken back, and the destination is silent": (host(A, RUNNING, source("cancelled")), silent(B), Verdict.RUNS),
    "it is being sent": (host(A, RUNNING, source("performing")), host(B, INCOMING, destination("prepared")), Verdict.MOVING),
    "it is being sent, and the destination is silent": (host(A, RUNNING, source("performing")), silent(B), Verdict.MOVING),
    "it goes over": (host(A, GONE_OVER, source("released")), host(B, INCOMING, destination("prepared")), Verdict.MOVING),
    "it has gone over": (
        host(A, GONE_OVER, source("released")),
        host(B, PAUSED, destination("received")),
        Verdict.MOVING,
    ),
    "the source has not heard of the commit": (
        host(A, GONE_OVER, source("released")),
        host(B, RUNNING, destination("committed")),
        Verdict.MOVING,
    ),
    "the source has not heard of the tombstone": (
        host(A, GONE_OVER, source("released")),
        host(B, destination("aborted")),
        Verdict.MOVING,
    ),
    "a paused guest is being moved": (
        host(A, PAUSED, source("performing")),
        host(B, INCOMING, destination("prepared")),
        Verdict.MOVING,
    ),
    "it runs with pages missing": (
        host(A, GONE_OVER, source("serving")),
        host(B, RUNNING, destination("post-copy")),
        Verdict.MOVING,
    ),
    "it runs with pages missing, and the source is silent": (
        silent(A),
        host(B, RUNNING, destination("post-copy")),
        Verdict.MOVING,
    ),
    "it serves pages, and the destination is silent": (host(A, GONE_OVER, source("serving")), silent(B), Verdict.UNKNOWN),
    "it was cut off with pages missing": (
        host(A, GONE_OVER, source("serving-failed")),
        host(B, PAUSED, destination("post-copy-failed")),
        Verdict.CUT_OFF,
    ),
    "it could run with pages missing, and the source is silent": (
        silent(A),
        host(B, PAUSED, destination("runnable")),
        Verdict.IN_DOUBT,
    ),
    "the copy that was given up is not gone yet, and the destination is silent": (
        host(A, GONE_OVER, source("confirmed", **UNSETTLED)),
        silent(B),
        Verdict.UNKNOWN,
    ),
    "released, and the destination is silent": (host(A, GONE_OVER, source("released")), silent(B), Verdict.IN_DOUBT),
    "released, and the destination has lost its journal": (host(A, GONE_OVER, source("released")), host(B), Verdict.IN_DOUBT),
    "released towards a hypervisor without a daemon": (
        host(A, GONE_OVER, source("released", peer_uri="")),
        host(B),
        Verdict.IN_DOUBT,
    ),
    "received, and the source is silent": (silent(A), host(B, PAUSED, destination("received")), Verdict.IN_DOUBT),
    "received, and the source has lost its journal": (host(A), host(B, PAUSED, destination("received")), Verdict.IN_DOUBT),
    "an operator kept it, and the other host is still silent": (
        host(A, RUNNING, source("cancelled", resolution=KEPT_HERE)),
        silent(B),
        Verdict.RUNS_AS_FAR_AS_SEEN,
    ),
    "an operator kept it, and the other host has agreed since": (
        host(A, RUNNING, source("cancelled", resolution=replace(KEPT_HERE, agreed=True))),
        silent(B),
        Verdict.RUNS,
    ),
    "an operator kept it, and the other host has obeyed": (
        host(A, RUNNING, source("cancelled", resolution=KEPT_HERE)),
        host(B, destination("aborted")),
        Verdict.RUNS,
    ),
    "an operator kept it, and the other host returned with a commit that it did not carry out": (
        host(A, RUNNING, source("cancelled", resolution=KEPT_HERE)),
        host(B, PAUSED, destination("committed", **UNSETTLED)),
        Verdict.TWO_COPIES,
    ),
    "an operator kept it, and the other host returned with a commit that runs": (
        host(A, RUNNING, source("cancelled", resolution=KEPT_HERE)),
        host(B, RUNNING, destination("committed")),
        Verdict.TWO_RUN,
    ),
    "it runs twice": (host(A, RUNNING), host(B, RUNNING), Verdict.TWO_RUN),
    "it runs twice on one host": (host(A, RUNNING, replace(RUNNING, process_id=99)), host(B), Verdict.TWO_RUN),
    "it runs, and an old copy stands on the other host": (host(A, RUNNING), host(B, PAUSED), Verdict.TWO_COPIES),
    "two copies stand still": (host(A, PAUSED), host(B, PAUSED), Verdict.TWO_COPIES),
    "it runs, and a host that has nothing to do with it is silent": (
        host(A, RUNNING),
        silent(C),
        Verdict.RUNS_AS_FAR_AS_SEEN,
    ),
    "it runs, and a stranger's process on the other host may, too": (
        host(A, RUNNING, source("cancelled")),
        host(B, STRANGER, destination("aborted")),
        Verdict.TWO_COPIES,
    ),
    "it runs, and somebody else may write to its disk": (
        host(A, RUNNING, ImageEvidence("/d", LockState.HELD, (10, 77))),
        host(B),
        Verdict.RUNS_AS_FAR_AS_SEEN,
    ),
    "it runs and holds its own disk": (
        host(A, RUNNING, ImageEvidence("/d", LockState.HELD, (10,))),
        host(B, ImageEvidence("/d", LockState.HELD)),
        Verdict.RUNS,
    ),
    "it stands still": (host(A, PAUSED), host(B), Verdict.PAUSED),
    "it stands still, and the other host is silent": (host(A, PAUSED), silent(B), Verdict.UNKNOWN),
    "it stands still after a migration, and the source is silent": (
        silent(A),
        host(B, PAUSED, destination("committed")),
        Verdict.PAUSED,
    ),
    "its hypervisor does not answer": (host(A, SILENT), host(B), Verdict.UNKNOWN),
    "a process of it runs that no daemon manages": (host(A, STRANGER), host(B), Verdict.UNKNOWN),
    "it goes over, and a third host is silent": (
        host(A, GONE_OVER, source("released")),
        host(B, PAUSED, destination("received")),
        silent(C),
        Verdict.UNKNOWN,
    ),
    "it is stopped": (host(A, DOMAIN), host(B), Verdict.STOPPED),
    "it is stopped, and the other host is silent": (host(A, DOMAIN), silent(B), Verdict.UNKNOWN),
    "it is stopped, and somebody holds its disk": (
        host(A, DOMAIN, ImageEvidence("/d", LockState.HELD)),
        host(B),
        Verdict.UNKNOWN,
    ),
    "nobody knows it": (host(A), host(B), Verdict.NOWHERE),
    "nobody answers": (silent(A), silent(B), Verdict.UNKNOWN),
}


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_the_table(case: str) -> None:
    """Each situation has its verdict, in whatever order the hosts were asked."""
    *looks, verdict = TABLE[case]
    for order in itertools.permutations(looks):
        assert verdict is judge("web", order).verdict


def test_every_verdict_has_a_row() -> None:
    """No verdict is unreachable."""
    assert set(Verdict) == {row[-1] for row in TABLE.values()}


# -- every combination ----------------------------------------------------------------------------------------------

COPIES = [(), (RUNNING,), (PAUSED,), (GONE_OVER,), (INCOMING,), (SILENT,), (STRANGER,), (RUNNING, STRANGER)]
SOURCES = [(), *((source(state.value),) for state in SourceState)]
SOURCES += [(source("cancelled", resolution=KEPT_HERE),), (source("released", peer_uri=""),)]
DESTINATIONS = [(), *((destination(state.value),) for state in DestinationState)]
DESTINATIONS += [(destination("committed", **UNSETTLED),)]
ON_A = [silent(A), *(host(A, DOMAIN, *copies, *records) for copies in COPIES for records in SOURCES)]
ON_B = [silent(B), *(host(B, DOMAIN, *copies, *records) for copies in COPIES for records in DESTINATIONS)]
EVERY = [(a, b) for a in ON_A for b in ON_B]


def _running(looks: tuple[Look, ...]) -> int:
    return sum(copy.run_state == "running" for look in looks if look.evidence for copy in look.evidence.copies)


def _unclear(looks: tuple[Look, ...]) -> int:
    return sum(copy.run_state == "unknown" for look in looks if look.evidence for copy in look.evidence.copies)


def test_two_running_copies_are_always_an_alarm() -> None:
    """And nothing else is called so."""
    for looks in EVERY:
        assert (_running(looks) > 1) == (judge("web", looks).verdict is Verdict.TWO_RUN), looks


def test_what_is_called_safe_is_safe() -> None:
    """A safe verdict never comes with a copy that may run next to another, or with nothing seen that runs."""
    for looks in EVERY:
        found = judge("web", looks)
        if found.verdict.safe:
            assert _running(looks) <= 1, looks
            assert not _unclear(looks), looks
            assert any(look.evidence for look in looks), looks


def test_a_silent_host_never_makes_it_safer() -> None:
    """Whatever is not safe when both hosts answer is not called safe when one falls silent, unless a journal proves it."""
    proofs = {"begun", "performing", "cancelled", "committed", "post-copy", "post-copy-failed"}
    for a, b in EVERY:
        for looks in ((a, silent(B)), (silent(A), b)):
            if not judge("web", looks).verdict.safe:
                continue
            (seen,) = [look.evidence for look in looks if look.evidence]
            assert {record.state for record in seen.records} & proofs, looks
            assert all(record.resolution is None for record in seen.records), looks


def test_every_verdict_says_what_to_do() -> None:
    """Whoever has to act is told how, on which host, and why; whoever has not is told that."""
    for looks in EVERY:
        found = judge("web", looks)
        assert found.summary
        if not found.verdict.safe:
            assert found.reasons, looks
            assert found.what_now, looks
        if found.verdict is Verdict.IN_DOUBT:
            assert any("resolve web --keep-here --fenced" in step for step in found.what_now)


def on_machine(look: Look, machine: str) -> Look:
    """The same look, taken on that machine."""
    assert look.evidence is not None
    return replace(look, evidence=replace(look.evidence, machine=machine))


def test_two_daemons_on_one_machine() -> None:
    """They see each other's processes, and those are no second copies; on another machine the same number is a stranger."""
    image = ImageEvidence("/d", LockState.HELD, (10,))
    seen_by_b = CopyEvidence("qemu", "unknown", process_id=10, managed=False)
    looks = (host(A, RUNNING, image), host(B, seen_by_b, image))
    together = [on_machine(look, "boot 1") for look in looks]
    apart = [on_machine(looks[0], "boot 1"), on_machine(looks[1], "boot 2")]
    assert Verdict.RUNS is judge("web", together).verdict
    assert Verdict.TWO_COPIES is judge("web", apart).verdict
    assert Verdict.TWO_COPIES is judge("web", looks).verdict


def test_a_host_at_two_addresses_has_one_copy() -> None:
    """Asked twice under different names, a host does not run a guest twice."""
    assert Verdict.RUNS is judge("web", [host(A, RUNNING), replace(host(A, RUNNING), uri=C)]).verdict


def test_the_other_host_is_named() -> None:
    """In doubt, an operator who did not ask the other host is told which one it is."""
    found = judge("web", [host(A, GONE_OVER, source("released"))])
    assert any(B in step for step in found.what_now)


def test_decisions_are_shown() -> None:
    """Who decided what, and whether the other host agrees, stands among the reasons."""
    found = judge("web", [host(A, RUNNING, source("cancelled", resolution=replace(KEPT_HERE, agreed=False))), host(B)])
    assert any("root decided" in reason and "OPPOSITE" in reason for reason in found.reasons)
