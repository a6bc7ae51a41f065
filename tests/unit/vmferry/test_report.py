"""The story of a migration, from what its hosts tell."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vmferry.disks import DiskFigures
from vmferry.flags import Flag
from vmferry.model import (
    ChangeFigures,
    DestinationState,
    JobChange,
    JobChangeKind,
    JobInfo,
    JobOperation,
    JobStep,
    JobType,
    MigrationId,
    Phase,
    Side,
    SourceState,
    Statistics,
)
from vmferry.report import Account, DiskCopies, Pause, Said, Span, report

ZERO_S = 1_700_000_000.0
FIGURES = ChangeFigures(sent_bytes=5, remaining_bytes=7, bytes_per_s=11, dirty_bytes_per_s=13, throttle_percent=20)


def change(kind: JobChangeKind, at_ms: int, state: str, phase: Phase, **more: object) -> JobChange:
    """A change, so many milliseconds after the beginning."""
    return JobChange(at_ms + 1, kind, ZERO_S + at_ms / 1000, state, phase, **more)  # type: ignore[arg-type]


SOURCE = JobInfo(
    migration_id=MigrationId("0b5a2f6e-6f0c-4a43-9d53-0c39c6b1a7d2"),
    side=Side.SOURCE,
    operation=JobOperation.MIGRATION_OUT,
    type=JobType.COMPLETED,
    domain_name="web",
    domain_uuid="f3b1c0de-0000-4000-8000-000000000001",
    state="confirmed",
    phase=Phase.CONFIRM,
    started_s=ZERO_S,
    ended_s=ZERO_S + 1.0,
    elapsed_ms=1000,
    peer_uri="vmferry+tls://host-b:16533",
    took_ms={Phase.BEGIN: 10, Phase.PERFORM: 700, Phase.CONFIRM: 40},
    statistics=Statistics(guest_pause_ms=60, downtime_ms=40),
    data_channel="connection to tcp:host-b:1",
    flags=int(Flag.LIVE | Flag.PARALLEL),
    settings={"bandwidth": "40"},
    changes=(
        change(JobChangeKind.STARTED, 0, SourceState.BEGUN, Phase.BEGIN),
        change(JobChangeKind.PHASE, 100, SourceState.BEGUN, Phase.PERFORM),
        change(JobChangeKind.STATE, 110, SourceState.PERFORMING, Phase.PERFORM),
        change(JobChangeKind.ITERATION, 300, SourceState.PERFORMING, Phase.PERFORM, iteration=2, figures=FIGURES),
        change(JobChangeKind.STATE, 800, SourceState.RELEASED, Phase.PERFORM),
        change(JobChangeKind.PHASE, 950, SourceState.RELEASED, Phase.CONFIRM),
        change(JobChangeKind.STATE, 960, SourceState.CONFIRMED, Phase.CONFIRM),
        change(JobChangeKind.COMPLETED, 1000, SourceState.CONFIRMED, Phase.CONFIRM),
    ),
)

DESTINATION = replace(
    SOURCE,
    side=Side.DESTINATION,
    operation=JobOperation.MIGRATION_IN,
    state="committed",
    started_s=ZERO_S + 0.02,
    ended_s=ZERO_S + 0.9,
    elapsed_ms=880,
    took_ms={Phase.PREPARE: 70, Phase.FINISH: 5},
    data_channel="",
    changes=(
        change(JobChangeKind.STARTED, 20, DestinationState.PREPARED, Phase.PREPARE),
        change(JobChangeKind.PHASE, 860, DestinationState.PREPARED, Phase.FINISH),
        change(JobChangeKind.STATE, 890, DestinationState.COMMITTED, Phase.FINISH),
        change(JobChangeKind.COMPLETED, 900, DestinationState.COMMITTED, Phase.FINISH),
    ),
)

A, B = Account("host-a", SOURCE), Account("host-b", DESTINATION)


def spans(job: JobInfo, host: str) -> list[tuple[int, int, str, str]]:
    """What that host alone tells."""
    return [(span.at_ms, span.took_ms, span.what, span.waits_for) for span in report([Account(host, job)]).spans]


def test_work_and_waits_of_the_source_are_told_apart() -> None:
    """Begin is work, then it waits for the destination; every moment belongs to one span, in order."""
    assert spans(SOURCE, "host-a") == [
        (0, 10, "checks the guest and writes its definition", ""),
        (10, 90, "is ready to send", "the destination to get ready"),
        (100, 10, "opens the way for the data", ""),
        (110, 690, "copies the guest while it runs", ""),
        (800, 150, "sends the last part", "the destination to take over"),
        (950, 10, "hears how it went, and gives its copy up", ""),
        (960, 40, "gives its copy up", ""),
    ]


def test_one_wait_is_told_once_although_the_phase_changes_within() -> None:
    """The destination waits for the guest through Perform and into Finish."""
    assert spans(DESTINATION, "host-b") == [
        (0, 70, "checks the definition and starts a hypervisor that waits", ""),
        (70, 800, "is ready to receive", "the source to send the guest"),
        (870, 10, "lets the guest run", ""),
    ]


@pytest.mark.parametrize("accounts", [(A, B), (B, A)], ids=["source first", "destination first"])
def test_both_parts_are_one_story(accounts: tuple[Account, Account]) -> None:
    """Whoever was asked first: the same hosts, phases, pause, settings and waits, the longest first."""
    found = report(accounts)
    assert (found.source, found.destination, found.total_ms, found.result) == ("host-a", "host-b", 1000, JobType.COMPLETED)
    assert list(found.phases) == [phase for phase in Phase if phase in found.phases]
    assert found.pause == Pause(830, 60)
    assert (found.flags, found.settings) == (("LIVE", "PARALLEL"), {"bandwidth": "40"})
    assert [(wait.host, wait.took_ms) for wait in found.waits] == [("host-b", 800), ("host-a", 150), ("host-a", 90)]
    assert [(one.number, one.at_ms, one.figures) for one in found.rounds] == [(2, 300, FIGURES)]
    assert found.data_channel == "connection to tcp:host-b:1"


def test_a_clock_that_is_ahead_does_not_bend_the_story() -> None:
    """The other host's clock goes an hour ahead; its part stands where it belongs."""
    ahead_s = 3600.0
    later = tuple(replace(one, at_s=one.at_s + ahead_s) for one in DESTINATION.changes)
    shifted = replace(DESTINATION, started_s=DESTINATION.started_s + ahead_s, ended_s=ZERO_S + 0.9 + ahead_s, changes=later)
    found = report([A, Account("host-b", shifted, ahead_s)])
    assert found.clocks_apart_ms == 3_600_000
    assert replace(found, clocks_apart_ms=0) == report([A, B])


COPIED = replace(
    SOURCE,
    flags=int(Flag.LIVE | Flag.NON_SHARED_DISK),
    statistics=Statistics(disks=(DiskFigures("vda", 9, 9),)),
    changes=(
        *SOURCE.changes[:3],
        change(JobChangeKind.DECISION, 112, SourceState.PERFORMING, Phase.PERFORM, reason="now", step=JobStep.DISKS),
        change(JobChangeKind.DECISION, 250, SourceState.PERFORMING, Phase.PERFORM, reason="then", step=JobStep.MEMORY),
        *SOURCE.changes[3:],
    ),
)


def test_the_copying_of_disks_has_a_span_of_its_own() -> None:
    """It begins with the transfer and ends where the memory's begins; what is said of it is told there alone."""
    assert spans(COPIED, "host-a")[3:5] == [
        (110, 140, "copies the disks", ""),
        (250, 550, "copies the memory, and what is written to the disks meanwhile", ""),
    ]
    found = report([Account("host-a", COPIED), B])
    assert found.copies == DiskCopies((DiskFigures("vda", 9, 9),), 110, 140)
    assert found.said == ()


def test_a_copy_that_failed_is_told_up_to_its_end() -> None:
    """There the memory never had its turn."""
    changes = (*COPIED.changes[:4], change(JobChangeKind.STATE, 400, SourceState.CANCELLED, Phase.PERFORM))
    failed = replace(COPIED, changes=changes, statistics=Statistics(disks=(DiskFigures("vda", 9, 4),)))
    found = report([Account("host-a", failed)])
    assert found.copies == DiskCopies((DiskFigures("vda", 9, 4),), 110, 290)


def test_disks_of_a_daemon_that_tells_no_steps() -> None:
    """How much is known, not when."""
    older = replace(COPIED, changes=SOURCE.changes)
    assert spans(older, "host-a")[3] == (110, 690, "copies the guest and its disks while it runs", "")
    assert report([Account("host-a", older)]).copies == DiskCopies((DiskFigures("vda", 9, 9),))
    assert report([A]).copies is None


def test_a_domain_that_does_not_run_has_no_guest_in_its_story() -> None:
    """What goes over are images and a definition; no hypervisor is started, and nothing runs."""
    flags = int(Flag.OFFLINE | Flag.NON_SHARED_DISK)
    source = replace(SOURCE, flags=flags, statistics=Statistics(disks=(DiskFigures("vda", 9, 9),)))
    found = report([Account("host-a", source), Account("host-b", replace(DESTINATION, flags=flags))])
    told = [span.what for span in found.spans]
    assert "copies the disks" in told
    assert "defines the domain" in told
    assert not [what for what in told if "hypervisor" in what or "while it runs" in what]
    assert found.copies == DiskCopies((DiskFigures("vda", 9, 9),), 110, 690)


def test_a_guest_that_is_not_moved_live_does_not_run() -> None:
    """It stands still while it is copied."""
    still = replace(SOURCE, flags=0)
    assert spans(still, "host-a")[3] == (110, 690, "copies the guest, which stands still", "")


def test_one_host_alone_tells_what_it_knows() -> None:
    """The other one is named by where it answers, and the pause begins when the last part was let go."""
    found = report([A], "host-b is silent")
    assert (found.destination, found.missing, found.pause) == (
        "vmferry+tls://host-b:16533",
        "host-b is silent",
        Pause(800, 60),
    )


def test_an_error_and_a_warning_are_told_once() -> None:
    """An error that stands in several changes is told when it came; a warning is for the whole."""
    failing = (
        change(JobChangeKind.STARTED, 0, SourceState.BEGUN, Phase.BEGIN),
        change(JobChangeKind.ERROR, 500, SourceState.PERFORMING, Phase.PERFORM, error="the channel broke"),
        change(JobChangeKind.FAILED, 600, SourceState.CANCELLED, Phase.PERFORM, error="the channel broke"),
    )
    job = replace(SOURCE, changes=failing, type=JobType.FAILED, warnings=("slow",), ended_s=ZERO_S + 0.6, elapsed_ms=600)
    found = report([Account("host-a", job)])
    assert found.said == (Said("host-a", "slow"), Said("host-a", "the channel broke", 500))
    assert found.result is JobType.FAILED


def test_a_migration_that_goes_on_is_told_up_to_now() -> None:
    """The last span lasts until now."""
    job = replace(SOURCE, type=JobType.UNBOUNDED, ended_s=None, elapsed_ms=500, changes=SOURCE.changes[:3])
    assert report([Account("host-a", job)]).spans[-1] == Span(
        "host-a", Side.SOURCE, 110, 390, "copies the guest while it runs", ""
    )


@pytest.mark.parametrize("state", [*SourceState, *DestinationState])
def test_every_state_has_words(state: SourceState | DestinationState) -> None:
    """No record is without a story."""
    side = Side.SOURCE if isinstance(state, SourceState) else Side.DESTINATION
    job = replace(SOURCE, side=side, changes=(SOURCE.changes[0], change(JobChangeKind.STATE, 100, state, Phase.PERFORM)))
    assert report([Account("host", job)]).spans[-1].what


def test_nobody_tells_nothing() -> None:
    """There is no report without a host."""
    with pytest.raises(ValueError, match="nobody"):
        report([])
