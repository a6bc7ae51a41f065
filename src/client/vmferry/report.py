"""The report of one migration: what both hosts did and waited for, as one story. Pure.

Each host tells its part by its own clock. Whoever asks has measured how far each clock is ahead of its own; with that the
two parts are put on one line of time, which begins with the first thing that happened. All spans are milliseconds on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from vmferry.disks import DiskFigures
from vmferry.flags import STORAGE, Flag
from vmferry.flags import names as flag_names
from vmferry.model import (
    ChangeFigures,
    DestinationState,
    JobChange,
    JobChangeKind,
    JobInfo,
    JobStep,
    JobType,
    Phase,
    Side,
    SourceState,
)


@dataclass(frozen=True, slots=True)
class Account:
    """One host's part: its name, its job, and how far its clock is ahead of the asker's, in seconds."""

    host: str
    job: JobInfo
    ahead_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Span:
    """What a host did, from `at_ms` on. `waits_for` is empty while it worked itself."""

    host: str
    side: Side
    at_ms: int
    took_ms: int
    what: str
    waits_for: str = ""


@dataclass(frozen=True, slots=True)
class Round:
    """The figures of the transfer when a round of copying memory had begun."""

    number: int
    at_ms: int
    figures: ChangeFigures


@dataclass(frozen=True, slots=True)
class DiskCopies:
    """The disks that were copied, and how far. What the guest wrote meanwhile is counted as well.

    `at_ms` and `took_ms` are for all of them, without the memory that follows; None where nobody tells when they were copied.
    """

    disks: tuple[DiskFigures, ...]
    at_ms: int | None = None
    took_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """How long the guest stood still, and about when it began to."""

    at_ms: int
    took_ms: int


@dataclass(frozen=True, slots=True)
class Said:
    """Something that a host said on the way: an error, a decision, or a warning (`at_ms` is None: for the whole)."""

    host: str
    text: str
    at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """All that is known of one migration.

    `missing` says which host's part is not here, and why; `copies` is None when no disk was to be copied.
    """

    migration_id: str
    domain: str
    source: str
    destination: str
    result: JobType
    started_s: float
    total_ms: int
    data_channel: str
    flags: tuple[str, ...]
    settings: Mapping[str, str]
    phases: Mapping[Phase, int]
    spans: tuple[Span, ...]
    rounds: tuple[Round, ...]
    pause: Pause | None
    hypervisor_downtime_ms: int
    said: tuple[Said, ...]
    clocks_apart_ms: int = 0
    missing: str = ""
    copies: DiskCopies | None = None

    @property
    def waits(self) -> tuple[Span, ...]:
        """Every wait, the longest first."""
        return tuple(sorted((span for span in self.spans if span.waits_for), key=lambda span: -span.took_ms))


_WORDS: Mapping[str, tuple[str, str]] = {
    SourceState.BEGUN: ("is ready to send", "the destination to get ready"),
    SourceState.PERFORMING: ("copies the guest while it runs", ""),
    SourceState.RELEASED: ("sends the last part", "the destination to take over"),
    SourceState.SERVING: ("serves pages of the guest that runs at the destination", "all pages to have gone over"),
    SourceState.SERVING_FAILED: ("keeps the pages that are missing", "a new way for the pages"),
    SourceState.CONFIRMED: ("gives its copy up", ""),
    SourceState.CANCELLED: ("takes the guest back", ""),
    DestinationState.PREPARED: ("is ready to receive", "the source to send the guest"),
    DestinationState.RECEIVED: ("has the whole guest", "the source to release it"),
    DestinationState.RUNNABLE: ("has enough of the guest to run it", "the source to release it"),
    DestinationState.POSTCOPY: ("runs the guest and fetches its pages", "all pages to have come"),
    DestinationState.POSTCOPY_FAILED: ("runs what it can without the missing pages", "a new way for the pages"),
    DestinationState.COMMITTED: ("lets the guest run", ""),
    DestinationState.ABORTED: ("discards its copy", ""),
}
"""What a host does in a state, and what it waits for there."""

_OFFLINE: Mapping[str, tuple[str, str]] = {
    SourceState.RELEASED: ("lets its definition go", "the destination to take over"),
    SourceState.CANCELLED: ("keeps the domain", ""),
    DestinationState.PREPARED: ("is ready to receive", "the source to send the domain"),
    DestinationState.RECEIVED: ("has the whole domain", "the source to release it"),
    DestinationState.COMMITTED: ("defines the domain", ""),
    DestinationState.ABORTED: ("discards what it had received", ""),
}
"""The same of a domain that does not run, where that is another story."""

_COPYING_DISKS = "copies the disks"
_STEPS: Mapping[JobStep, str] = {
    JobStep.DISKS: _COPYING_DISKS,
    JobStep.MEMORY: "copies the memory, and what is written to the disks meanwhile",
}
"""What a host does from a step on."""

_PREPARATIONS: Mapping[Side, tuple[Phase, str]] = {
    Side.SOURCE: (Phase.BEGIN, "checks the guest and writes its definition"),
    Side.DESTINATION: (Phase.PREPARE, "checks the definition and starts a hypervisor that waits"),
}
_PREPARATIONS_OFFLINE: Mapping[Side, tuple[Phase, str]] = {
    Side.SOURCE: (Phase.BEGIN, "checks the domain and writes its definition"),
    Side.DESTINATION: (Phase.PREPARE, "checks the definition"),
}
"""The phase with which a host's part begins: its first state has this before the wait."""

_BESIDES = (JobChangeKind.ITERATION, JobChangeKind.ERROR, JobChangeKind.DECISION)
"""What changes nothing about what a host does."""

_OPENING = "opens the way for the data"
_CONFIRMING = "hears how it went, and gives its copy up"


def report(accounts: Sequence[Account], missing: str = "") -> Report:
    """The story that `accounts` tell, of one host or of both; the source's come first.

    Raises:
        ValueError: there is none.
    """
    told = sorted(accounts, key=lambda account: account.job.side is not Side.SOURCE)
    if not told:
        raise ValueError("nobody tells anything of this migration")
    zero_s = min(_begun_s(account) for account in told)
    first, job = told[0], told[0].job
    sides = {account.job.side: account for account in told}
    took_ms = {phase: took for account in reversed(told) for phase, took in account.job.took_ms.items()}
    spans = tuple(span for account in told for span in _joined(_spans(account, zero_s)))
    return Report(
        migration_id=job.migration_id,
        domain=job.domain_name,
        source=_name(sides, Side.SOURCE),
        destination=_name(sides, Side.DESTINATION),
        result=job.type,
        started_s=zero_s + first.ahead_s,
        total_ms=max(_ms(account, _last_s(account), zero_s) for account in told),
        data_channel=next((a.job.data_channel for a in told if a.job.data_channel), ""),
        flags=flag_names(Flag(job.flags)),
        settings=job.settings,
        phases={phase: took_ms[phase] for phase in Phase if phase in took_ms},
        spans=spans,
        rounds=tuple(_rounds(first, zero_s)),
        pause=_pause(sides, zero_s),
        hypervisor_downtime_ms=job.statistics.downtime_ms,
        said=tuple(said for account in told for said in _said(account, zero_s)),
        clocks_apart_ms=round(abs(told[0].ahead_s - told[-1].ahead_s) * 1000),
        missing=missing,
        copies=_copies(job, spans),
    )


def _copies(job: JobInfo, spans: Iterable[Span]) -> DiskCopies | None:
    if not job.statistics.disks:
        return None
    copying = [span for span in spans if span.what == _COPYING_DISKS]
    if not copying:
        return DiskCopies(job.statistics.disks)
    return DiskCopies(job.statistics.disks, copying[0].at_ms, sum(span.took_ms for span in copying))


def _name(sides: Mapping[Side, Account], side: Side) -> str:
    if side in sides:
        return sides[side].host
    (other,) = sides.values()
    return other.job.peer_uri or "unknown"


def _begun_s(account: Account) -> float:
    """When its part began, by the asker's clock."""
    return account.job.started_s - account.ahead_s


def _last_s(account: Account) -> float:
    """The last that is known of it, by its own clock."""
    job = account.job
    return max(job.ended_s or 0.0, job.started_s + job.elapsed_ms / 1000, *(change.at_s for change in job.changes))


def _ms(account: Account, at_s: float, zero_s: float) -> int:
    return max(0, round((at_s - account.ahead_s - zero_s) * 1000))


def _spans(account: Account, zero_s: float) -> Iterator[Span]:
    job = account.job
    marks = list(_marks(change for change in job.changes if change.step or change.kind not in _BESIDES))
    ends = [change.at_s for change in marks[1:]] + [_last_s(account)]
    for mark, end_s in zip(marks, ends, strict=True):
        if mark.kind.is_end:
            continue
        at_ms, end_ms = _ms(account, mark.at_s, zero_s), _ms(account, end_s, zero_s)
        yield from _of_one(account, mark, at_ms, max(at_ms, end_ms), is_first=mark is marks[0])


def _marks(changes: Iterable[JobChange]) -> Iterator[JobChange]:
    """`changes` in order; the first step of a state has begun with that state."""
    known = list(changes)
    for change, following in pairwise(known):
        is_begun = following.step and not change.step and change.state == following.state == SourceState.PERFORMING
        yield replace(change, step=following.step) if is_begun else change
    yield from known[-1:]


def _joined(spans: Iterable[Span]) -> Iterator[Span]:
    """Spans one after the other with the same words are one."""
    last: Span | None = None
    for span in spans:
        if last is not None and (last.what, last.waits_for) == (span.what, span.waits_for):
            last = replace(last, took_ms=span.at_ms + span.took_ms - last.at_ms)
            continue
        if last is not None:
            yield last
        last = span
    if last is not None:
        yield last


def _of_one(account: Account, mark: JobChange, at_ms: int, end_ms: int, *, is_first: bool) -> Iterator[Span]:
    """What happened between two changes: work, a wait, or the one and then the other."""
    job = account.job
    what, waits_for = _words(Flag(job.flags), mark)
    phase, preparing = (_PREPARATIONS_OFFLINE if Flag.OFFLINE in Flag(job.flags) else _PREPARATIONS)[job.side]
    if is_first:
        ready_ms = min(end_ms, at_ms + job.took_ms.get(phase, 0))
        if ready_ms > at_ms:
            yield Span(account.host, job.side, at_ms, ready_ms - at_ms, preparing)
        at_ms = ready_ms
    elif mark.state == SourceState.BEGUN:
        what, waits_for = _OPENING, ""
    elif mark.kind is JobChangeKind.PHASE and mark.phase is Phase.CONFIRM:
        what, waits_for = _CONFIRMING, ""
    if end_ms > at_ms or not is_first:
        yield Span(account.host, job.side, at_ms, end_ms - at_ms, what, waits_for)


def _words(flags: Flag, mark: JobChange) -> tuple[str, str]:
    if mark.state == SourceState.PERFORMING:
        return _STEPS.get(mark.step) or _performing(flags), ""
    return (_OFFLINE if Flag.OFFLINE in flags else {}).get(mark.state) or _WORDS[mark.state]


def _performing(flags: Flag) -> str:
    """What a source does that tells of no step."""
    if Flag.OFFLINE in flags:
        return _COPYING_DISKS
    if Flag.LIVE not in flags:
        return "copies the guest, which stands still"
    return "copies the guest and its disks while it runs" if flags & STORAGE else _WORDS[SourceState.PERFORMING][0]


def _rounds(account: Account, zero_s: float) -> Iterator[Round]:
    for change in account.job.changes:
        if change.kind is JobChangeKind.ITERATION and change.figures is not None:
            yield Round(change.iteration, _ms(account, change.at_s, zero_s), change.figures)


def _pause(sides: Mapping[Side, Account], zero_s: float) -> Pause | None:
    """The destination's commit ends it, within the few milliseconds that the start of the CPUs takes."""
    pauses = [account.job.statistics.guest_pause_ms for account in sides.values()]
    took_ms = max(pauses)
    if not took_ms:
        return None
    for side, state in ((Side.DESTINATION, DestinationState.COMMITTED), (Side.SOURCE, SourceState.RELEASED)):
        account = sides.get(side)
        for change in account.job.changes if account else ():
            if account and change.state in (state, DestinationState.POSTCOPY):
                at_ms = _ms(account, change.at_s, zero_s)
                return Pause(max(0, at_ms - took_ms) if side is Side.DESTINATION else at_ms, took_ms)
    return None


def _said(account: Account, zero_s: float) -> Iterator[Said]:
    for warning in account.job.warnings:
        yield Said(account.host, warning)
    told = ""
    for change in account.job.changes:
        if change.reason and not change.step and change.reason not in account.job.warnings:
            yield Said(account.host, change.reason, _ms(account, change.at_s, zero_s))
        if change.error and change.error != told:
            told = change.error
            yield Said(account.host, told, _ms(account, change.at_s, zero_s))
