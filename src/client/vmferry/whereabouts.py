"""Where a guest is, whether that is safe, and what to do now: a judgement over what its hosts can see. Pure.

The order of the questions is the order of what is worst: do two copies run; do two hosts claim the guest; does one copy run;
is a migration in doubt; is there a copy that may run. A host that could not be asked never makes anything safer: only a
journal that proves what the silent host cannot do takes the doubt away.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from vmferry.evidence import CopyEvidence, HostEvidence, LockState, RecordEvidence
from vmferry.model import DestinationState, Keep, Side, SourceState

RUNNING = "running"
STANDING = frozenset({"paused", "incoming", "held", "gone-over", "shut-down", "crashed", "io-error"})
"""The run states in which a copy certainly does not execute; any other word may mean that it does."""

_FINAL = frozenset(state.value for kind in (SourceState, DestinationState) for state in kind if state.final)
_DOUBTFUL = frozenset({SourceState.RELEASED.value, DestinationState.RECEIVED.value, DestinationState.RUNNABLE.value})
_CUT_OFF = frozenset({SourceState.SERVING_FAILED.value, DestinationState.POSTCOPY_FAILED.value})
_BINDING = frozenset(
    {
        (Side.SOURCE, SourceState.BEGUN.value),
        (Side.SOURCE, SourceState.PERFORMING.value),
        (Side.SOURCE, SourceState.CANCELLED.value),
        (Side.DESTINATION, DestinationState.COMMITTED.value),
        (Side.DESTINATION, DestinationState.POSTCOPY.value),
        (Side.DESTINATION, DestinationState.POSTCOPY_FAILED.value),
    }
)
"""The records of who has the guest that keep the other side from running it, whatever becomes of that side."""


@dataclass(frozen=True, slots=True)
class Look:
    """What came back from one host: its evidence, or why there is none. `uri` is where it was asked."""

    uri: str
    evidence: HostEvidence | None = None
    error: str = ""

    @property
    def name(self) -> str:
        """What to call the host."""
        return self.evidence.host_name if self.evidence else self.uri


class Verdict(StrEnum):
    """Where the guest is."""

    RUNS = "runs"
    RUNS_AS_FAR_AS_SEEN = "runs-as-far-as-seen"
    MOVING = "moving"
    PAUSED = "paused"
    STOPPED = "stopped"
    NOWHERE = "nowhere"
    IN_DOUBT = "in-doubt"
    CUT_OFF = "cut-off"
    UNKNOWN = "unknown"
    TWO_COPIES = "two-copies"
    TWO_RUN = "two-run"

    @property
    def safe(self) -> bool:
        """No more than one copy runs, now and when its hosts go on by themselves."""
        return self in (Verdict.RUNS, Verdict.MOVING, Verdict.PAUSED, Verdict.STOPPED, Verdict.NOWHERE)

    @property
    def alarm(self) -> bool:
        """Two copies run, or would if somebody resumed one: somebody must act before anything else is done."""
        return self in (Verdict.TWO_RUN, Verdict.TWO_COPIES)


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """The judgement. `host` is the name of the host that has the guest, where there is one; `what_now` are steps in order."""

    verdict: Verdict
    summary: str
    host: str = ""
    reasons: tuple[str, ...] = ()
    what_now: tuple[str, ...] = ()


def judge(domain: str, looks: Sequence[Look]) -> Whereabouts:
    """Where the guest is, given what every host of `looks` could see of it."""
    return _Case(domain, tuple(_each_host_once(looks))).judged()


def _each_host_once(looks: Sequence[Look]) -> Iterable[Look]:
    """A host that was asked at two addresses has one copy, not two."""
    known: set[str] = set()
    for look in looks:
        if look.evidence is None or look.evidence.host_uuid not in known:
            yield look
        if look.evidence is not None:
            known.add(look.evidence.host_uuid)


@dataclass(frozen=True, slots=True)
class _Placed:
    """A copy and who has it."""

    look: Look
    copy: CopyEvidence

    @property
    def runs(self) -> bool:
        return self.copy.run_state == RUNNING

    @property
    def unclear(self) -> bool:
        return not self.runs and self.copy.run_state not in STANDING


@dataclass(frozen=True, slots=True)
class _Case:
    """One domain, and what was seen of it."""

    domain: str
    looks: tuple[Look, ...]

    # -- what there is ------------------------------------------------------------------------------------------------

    @property
    def seen(self) -> tuple[tuple[Look, HostEvidence], ...]:
        return tuple((look, look.evidence) for look in self.looks if look.evidence is not None)

    @property
    def silent(self) -> tuple[Look, ...]:
        return tuple(look for look in self.looks if look.evidence is None)

    @property
    def copies(self) -> tuple[_Placed, ...]:
        """Each copy once: a daemon sees the processes of another one on its machine, as strangers."""
        return tuple(
            _Placed(look, copy)
            for look, evidence in self.seen
            for copy in evidence.copies
            if copy.managed or not self._managed_elsewhere(evidence, copy)
        )

    def _managed_elsewhere(self, evidence: HostEvidence, copy: CopyEvidence) -> bool:
        return copy.process_id is not None and copy.process_id in self._processes(evidence)

    def _processes(self, evidence: HostEvidence) -> frozenset[int]:
        """The processes of copies that a daemon of the same machine manages."""
        return frozenset(
            copy.process_id
            for _, other in self.seen
            if other is evidence or (other.machine and other.machine == evidence.machine)
            for copy in other.copies
            if copy.managed and copy.process_id is not None
        )

    @property
    def records(self) -> tuple[tuple[Look, RecordEvidence], ...]:
        return tuple((look, record) for look, evidence in self.seen for record in evidence.records)

    def open_records(self) -> tuple[tuple[Look, RecordEvidence], ...]:
        return tuple(pair for pair in self.records if _is_open(pair[1]))

    # -- the questions, the worst first ---------------------------------------------------------------------------------

    def judged(self) -> Whereabouts:
        """The answer to the first question that has one."""
        running = [placed for placed in self.copies if placed.runs]
        if len(running) > 1:
            return self._two_run(running)
        if claimants := self._claimants():
            return self._two_copies(claimants)
        return self._one_runs(running[0]) if running else self._none_runs()

    def _none_runs(self) -> Whereabouts:
        if doubted := self._in_doubt():
            return self._doubt(*doubted)
        if cut := [pair for pair in self.open_records() if pair[1].state in _CUT_OFF]:
            return self._cut_off(*cut[0])
        if unclear := self._unclear():
            return self._unknown(unclear)
        return self._moving("") if self.open_records() else self._at_rest()

    def _two_run(self, running: Sequence[_Placed]) -> Whereabouts:
        names = _listed(placed.look.name for placed in running)
        stop = tuple(
            f"decide which copy is to be given up, and end it at once: vmferry -c {each.look.uri} destroy {self.domain}"
            for each in running[:1]
        )
        return Whereabouts(
            Verdict.TWO_RUN,
            f"ALARM: {len(running)} copies of {self.domain} run at the same time, on {names}",
            reasons=tuple(_described(placed) for placed in running) + self._decisions(),
            what_now=(
                "cut the copies off from each other's disks and network before anything else",
                *stop,
                "check the disks: both copies may have written to them",
            ),
        )

    def _claimants(self) -> tuple[_Placed, ...]:
        """The copies of two hosts of which neither is only a part of a migration that the two are settling."""
        claims = [placed for placed in self.copies if self._claims(placed)]
        hosts = {placed.look.uri for placed in claims}
        return tuple(claims) if len(hosts) > 1 else ()

    def _claims(self, placed: _Placed) -> bool:
        evidence = placed.look.evidence
        assert evidence is not None  # noqa: S101 - it has a copy
        opened = [record for record in evidence.records if _is_open(record)]
        return not opened or any(self._contradicted(record) for record in opened)

    def _contradicted(self, record: RecordEvidence) -> bool:
        """A commit that its source's journal contradicts."""
        other = self._counterpart(record)
        states = {record.state, other.state} if other else set()
        return states == {DestinationState.COMMITTED.value, SourceState.CANCELLED.value}

    def _two_copies(self, claimants: Sequence[_Placed]) -> Whereabouts:
        running = next((placed for placed in claimants if placed.runs), None)
        kept = running or claimants[0]
        others = [placed for placed in claimants if placed.look.uri != kept.look.uri]
        runs = f"it runs on {running.look.name}" if running else "none of them runs"
        return Whereabouts(
            Verdict.TWO_COPIES,
            f"ALARM: {_listed(placed.look.name for placed in claimants)} both claim {self.domain}; {runs}",
            host=running.look.name if running else "",
            reasons=tuple(_described(placed) for placed in claimants) + self._decisions(),
            what_now=(
                "resume none of the copies that stand still: they are old, and share disks with the other one",
                *(f"give the copy on {each.look.name} up: {self._give_up(each)}" for each in others),
            ),
        )

    def _give_up(self, placed: _Placed) -> str:
        evidence = placed.look.evidence
        held = evidence is not None and any(_is_open(record) for record in evidence.records)
        verb = f"resolve {self.domain} --keep-there --fenced" if held else f"destroy {self.domain}"
        return f"vmferry -c {placed.look.uri} {verb}"

    def _one_runs(self, placed: _Placed) -> Whereabouts:
        name = placed.look.name
        reasons = [_described(placed), *self._decisions()]
        doubts = self._doubts_about(placed)
        if doubts:
            return Whereabouts(
                Verdict.RUNS_AS_FAR_AS_SEEN,
                f"{self.domain} runs on {name}, and nothing that could be asked has another copy that runs",
                name,
                (*reasons, *doubts),
                ("ask again when the silent hosts answer; until then start it nowhere else",),
            )
        reasons += [
            f"{look.name} does not answer ({look.error}), but the journal of {name} proves that it cannot run the guest"
            for look in self.silent
        ]
        if self.open_records():
            return self._moving(name, reasons)
        return Whereabouts(Verdict.RUNS, f"{self.domain} runs on {name}, and only there", name, tuple(reasons), ())

    def _doubts_about(self, placed: _Placed) -> list[str]:
        """What could still mean a second copy, next to the one that runs."""
        doubts = [f"{look.name} does not answer: {look.error}" for look in self.silent if not self._proved(placed, look)]
        doubts += [_described(other) for other in self.copies if other.unclear]
        return doubts + self._strangers()

    def _proved(self, placed: _Placed, silent: Look) -> bool:
        """The journal of who has the guest proves that the silent host cannot run it.

        A commit binds the source, a tombstone the destination, and so does a source that has not released the guest; what an
        operator decided is no proof until the other host agrees.
        """
        evidence = placed.look.evidence
        assert evidence is not None  # noqa: S101 - it has a copy
        newest = max(evidence.records, key=lambda record: record.started_s, default=None)
        if newest is None or newest.peer_uri != silent.uri or (newest.side, newest.state) not in _BINDING:
            return False
        return newest.resolution is None or newest.resolution.agreed is True

    def _in_doubt(self) -> tuple[Look, RecordEvidence] | None:
        """A record past the point of no return whose other side was not seen: nobody can settle it now."""
        for look, record in self.open_records():
            if record.state in _DOUBTFUL and self._counterpart(record) is None:
                return look, record
        return None

    def _counterpart(self, record: RecordEvidence) -> RecordEvidence | None:
        wanted = (record.migration_id, record.side.other)
        return next((other for _, other in self.records if (other.migration_id, other.side) == wanted), None)

    def _doubt(self, look: Look, record: RecordEvidence) -> Whereabouts:
        other = "destination" if record.side is Side.SOURCE else "source"
        reasons = [
            f"{look.name} is the {record.side} of migration {record.migration_id}, and its journal says: {record.state}",
            f"the receiver at {record.receiver_uri} has no daemon that could be asked"
            if record.receiver_uri
            else f"the {other} at {record.peer_uri or 'the other hypervisor'} could not be asked, or has no record of it",
            *(_described(placed) for placed in self.copies),
            *(f"{silent.name} does not answer: {silent.error}" for silent in self.silent),
        ]
        asked = {each.uri for each in self.looks}
        also = (
            () if record.peer_uri in asked or not record.peer_uri else (f"ask it as well: add {record.peer_uri} to --hosts",)
        )
        return Whereabouts(
            Verdict.IN_DOUBT,
            f"{self.domain} is in doubt: no copy runs that could be seen, and {look.name} keeps one that can be brought back",
            look.name,
            (*reasons, *self._strangers()),
            (
                *also,
                f"look at the QEMU that received it at {record.receiver_uri}: if it has the guest, keep that copy"
                if record.receiver_uri
                else f"bring the {other}'s daemon back with its journal: the two hosts then settle it by themselves",
                f"if it is gone for good, fence it, then: vmferry -c {look.uri} resolve {self.domain} --keep-here --fenced",
                "if the guest is known to live there: the same with --keep-there",
            ),
        )

    def _cut_off(self, look: Look, record: RecordEvidence) -> Whereabouts:
        return Whereabouts(
            Verdict.CUT_OFF,
            f"{self.domain} went over with pages missing and lost its source; it stands still until the rest is sent",
            reasons=(
                f"{look.name} is the {record.side} of migration {record.migration_id}, and its journal says: {record.state}",
                *(_described(placed) for placed in self.copies),
                *(f"{silent.name} does not answer: {silent.error}" for silent in self.silent),
            ),
            what_now=(
                "restore the connection between the two hosts",
                f"then run the migration of {self.domain} again with --postcopy-resume; destroy neither copy",
            ),
        )

    def _unclear(self) -> list[str]:
        """What could be a copy that runs, when none is seen to run."""
        unclear = [_described(placed) for placed in self.copies if placed.unclear]
        unclear += [f"{look.name} does not answer: {look.error}" for look in self.silent if not self._accounted(look)]
        return unclear + self._strangers()

    def _accounted(self, silent: Look) -> bool:
        """Some host has the only copy, and its journal proves that the silent one cannot run it."""
        return any(self._proved(placed, silent) for placed in self.copies)

    def _strangers(self) -> list[str]:
        """Whoever holds an image and is not a copy that was seen."""
        found = []
        for look, evidence in self.seen:
            known = self._processes(evidence) | {copy.process_id for copy in evidence.copies}
            for image in evidence.images:
                strangers = [holder for holder in image.holders if holder not in known]
                if strangers:
                    found.append(f"on {look.name} process {_listed(map(str, strangers))} may write to {image.path}")
                elif image.state is LockState.HELD and not image.holders and not self.copies:
                    found.append(f"somebody who cannot be seen from {look.name} may write to {image.path}")
        return found

    def _unknown(self, unclear: Sequence[str]) -> Whereabouts:
        return Whereabouts(
            Verdict.UNKNOWN,
            f"it cannot be told whether {self.domain} runs",
            reasons=(*(_described(placed) for placed in self.copies if not placed.unclear), *unclear, *self._decisions()),
            what_now=("start it nowhere; ask again when everything that is listed answers",),
        )

    def _moving(self, name: str, reasons: Iterable[str] = ()) -> Whereabouts:
        opened = [
            f"{look.name}: {record.side} of migration {record.migration_id}, {record.state}"
            for look, record in self.open_records()
        ]
        now = f"it runs on {name}" if name else "no copy runs at this moment"
        return Whereabouts(
            Verdict.MOVING,
            f"{self.domain} is being moved, and its hosts can settle it by themselves; {now}",
            name,
            (*reasons, *opened),
            ("nothing; ask again in a moment",),
        )

    def _at_rest(self) -> Whereabouts:
        if self.copies:
            placed = self.copies[0]
            return Whereabouts(
                Verdict.PAUSED,
                f"{self.domain} stands still on {placed.look.name}, and there is no other copy",
                placed.look.name,
                (_described(placed), *self._decisions()),
                (f"to let it run: vmferry -c {placed.look.uri} resume {self.domain}",),
            )
        defined = [look for look, evidence in self.seen if evidence.domain is not None]
        if defined:
            return Whereabouts(
                Verdict.STOPPED,
                f"{self.domain} runs nowhere; it is defined on {_listed(look.name for look in defined)}",
                reasons=self._decisions(),
                what_now=(f"to start it, on one host only: vmferry -c {defined[0].uri} start {self.domain}",),
            )
        return Whereabouts(
            Verdict.NOWHERE,
            f"no host that was asked knows {self.domain}",
            reasons=self._decisions(),
            what_now=("ask the other hosts that it may be on",),
        )

    def _decisions(self) -> tuple[str, ...]:
        """What operators have decided about this guest."""
        return tuple(
            f"{look.name}: {record.resolution.who} decided to keep the copy {_WHERE[record.resolution.keep]}"
            f"{_because(record.resolution.why)}; the other host {_AGREED[record.resolution.agreed]}"
            for look, record in self.records
            if record.resolution is not None
        )


_WHERE = {Keep.HERE: "there", Keep.THERE: "of the other host"}
_AGREED = {None: "has not been heard since", True: "agrees", False: "says the OPPOSITE"}


def _because(why: str) -> str:
    return f" ({why})" if why else ""


def _is_open(record: RecordEvidence) -> bool:
    return record.state not in _FINAL or not record.settled


def _described(placed: _Placed) -> str:
    copy = placed.copy
    process = f", process {copy.process_id}" if copy.process_id else ""
    stranger = "" if copy.managed else ", which the daemon does not manage"
    transfer = f", transfer {copy.transfer_state}" if copy.transfer_state not in ("none", "") else ""
    detail = f" ({copy.detail})" if copy.detail else ""
    return f"{placed.look.name} has a copy: {copy.run_state}{transfer}{process}{stranger}{detail}"


def _listed(names: Iterable[str]) -> str:
    *most, last = list(dict.fromkeys(names))
    return f"{', '.join(most)} and {last}" if most else last
