"""What one seed stands for: the hosts, the guest, the migrations, and what goes wrong when. Plain data, drawn once.

The plan is drawn before the run and from a generator of its own, so that faults can be left out of it (`without`) and the
rest stays as it was: that is how a failing plan is made small.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random

from simulation.loop import Order
from simulation.network import Mishap
from vmferry.flags import NONE, Flag
from vmferry.protocol import ProtocolVersion, Spelling
from vmferryd.drivers.memory import FaultKind
from vmferryd.drivers.memory.faults import MOMENTS

STEPS_OF_A_MIGRATION = 520
"""About so many steps a migration takes in which nothing goes wrong."""
CALLS_OF_A_MIGRATION = 14
VERBS_OF_A_MIGRATION = 20
WRITES_OF_A_MIGRATION = 8


class When(StrEnum):
    """What a fault waits for, counted from the beginning of its attempt."""

    STEP = "step"
    WRITE_A = "write-a"
    WRITE_B = "write-b"
    CALL = "call"
    VERB_A = "verb-a"
    VERB_B = "verb-b"
    AFTER = "after"
    """So many steps after the fault before it in the plan has happened."""


class What(StrEnum):
    """What goes wrong."""

    KILL_CLIENT = "kill-client"
    KILL_A = "kill-a"
    KILL_B = "kill-b"
    STOP_A = "stop-a"
    STOP_B = "stop-b"
    FREEZE_CLIENT = "freeze-client"
    FREEZE_A = "freeze-a"
    FREEZE_B = "freeze-b"
    CUT_AB = "cut-a-b"
    CUT_A_TO_B = "cut-a-to-b"
    CUT_B_TO_A = "cut-b-to-a"
    CUT_CLIENT_A = "cut-client-a"
    CUT_CLIENT_B = "cut-client-b"
    CUT_CLIENT = "cut-client"
    FULL_A = "full-a"
    FULL_B = "full-b"
    BREAK_A = "break-a"
    BREAK_B = "break-b"
    KILL_GUEST_A = "kill-guest-a"
    KILL_GUEST_B = "kill-guest-b"
    SUSPEND = "suspend"
    RESUME = "resume"
    DESTROY = "destroy"
    ABORT = "abort"
    DEFINE = "define"
    UNDEFINE = "undefine"
    MISHAP = "mishap"
    VERB = "verb"


ENVIRONMENT = tuple(What)[: tuple(What).index(What.KILL_GUEST_B) + 1]
USER = (What.SUSPEND, What.RESUME, What.DESTROY, What.ABORT, What.ABORT, What.ABORT, What.DEFINE, What.UNDEFINE)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong in attempt number `attempt`, for `length_s` seconds where it lasts.

    `detail` is the kind of a mishap or of a driver's fault, or the host of a user's call.
    """

    attempt: int
    when: When
    number: int
    what: What
    length_s: float = 0.0
    detail: str = ""

    def __str__(self) -> str:
        """One line."""
        lasting = f" for {self.length_s:.2f} s" if self.length_s else ""
        what = f"{self.what} {self.detail}".rstrip()
        return f"attempt {self.attempt}, {self.when} {self.number}: {what}{lasting}"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One migration that the client tries, to the other host than the one where the guest is."""

    flags: Flag
    peer_to_peer: bool
    spelling: Spelling
    patience_s: float
    suspended_before: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run."""

    seed: int
    order: Order
    announced: tuple[frozenset[ProtocolVersion], frozenset[ProtocolVersion]]
    dirty_pages_per_s: int
    line_bytes_per_s: int | None
    defined_at_b: bool
    attempts: tuple[Attempt, ...]
    faults: tuple[Fault, ...]

    def keeping(self, numbers: Collection[int]) -> Plan:
        """The same with these of its faults only."""
        return replace(self, faults=tuple(fault for number, fault in enumerate(self.faults) if number in numbers))

    def lines(self) -> list[str]:
        """It, for people."""
        announced = " ".join("".join(str(version.value) for version in sorted(host)) for host in self.announced)
        head = f"order {self.order.value}, protocols of a and b: {announced}, dirty {self.dirty_pages_per_s} pages/s"
        head += f", line {self.line_bytes_per_s or 'unlimited'}, defined at b: {self.defined_at_b}"
        attempts = [
            f"attempt {number}: {'peer-to-peer ' if attempt.peer_to_peer else ''}{attempt.flags!r} {attempt.spelling}"
            + (" of a suspended guest" if attempt.suspended_before else "")
            for number, attempt in enumerate(self.attempts)
        ]
        return [head, *attempts, *(f"fault {number}: {fault}" for number, fault in enumerate(self.faults))]


def draw(seed: int) -> Plan:
    """The plan of that seed."""
    rng = Random(f"plan {seed}")
    v1, v2, v3 = ProtocolVersion
    older = rng.random()
    if older < 0.12:
        announced = (frozenset({v1}), frozenset({v1}))
    elif older < 0.26:
        announced = (frozenset({v1, v2}), frozenset({v1, v2}))
    elif older < 0.36:
        announced = (frozenset({v1, v2, v3}), frozenset({rng.choice((v1, v2))}))
    else:
        announced = (frozenset({v1, v2, v3}), frozenset({v1, v2, v3}))
    attempts = tuple(_attempt(rng, announced) for _ in range(rng.choice((1, 1, 2, 2, 3))))
    faults = [_fault(rng, len(attempts)) for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 4)))]
    for number in range(1, len(faults)):
        if faults[number].when is When.STEP and rng.random() < 0.6:
            first, steps = faults[number - 1], int(rng.random() ** 2 * STEPS_OF_A_MIGRATION)
            faults[number] = replace(faults[number], when=When.AFTER, number=steps, attempt=first.attempt)
    return Plan(
        seed=seed,
        order=rng.choice(tuple(Order)),
        announced=announced,
        dirty_pages_per_s=rng.choice((0, 50, 200, 2_000)),
        line_bytes_per_s=rng.choice((None, None, 1 << 20, 1 << 22)),
        defined_at_b=v3 not in announced[1] or rng.random() < 0.3,
        attempts=attempts,
        faults=tuple(faults),
    )


def _attempt(rng: Random, announced: tuple[frozenset[ProtocolVersion], ...]) -> Attempt:
    peer_to_peer = ProtocolVersion.V3 in announced[0] & announced[1] and rng.random() < 0.4
    flags = Flag.PEER2PEER if peer_to_peer else NONE
    for flag, likely in (
        (Flag.LIVE, 0.75),
        (Flag.PAUSED, 0.1),
        (Flag.PERSIST_DEST, 0.25),
        (Flag.UNDEFINE_SOURCE, 0.25),
        (Flag.AUTO_CONVERGE, 0.1),
    ):
        if rng.random() < likely:
            flags |= flag
    if peer_to_peer and rng.random() < 0.3:
        flags |= Flag.TUNNELLED
    return Attempt(
        flags=flags,
        peer_to_peer=peer_to_peer,
        spelling=rng.choice(tuple(Spelling)),
        patience_s=rng.choice((0.5, 3.0, 15.0)),
        suspended_before=rng.random() < 0.08,
    )


def _fault(rng: Random, attempts: int) -> Fault:
    attempt = rng.randrange(attempts)
    length_s = rng.choice((0.01, 0.5, 3.0, 12.0, 40.0, 90.0)) * (0.5 + rng.random())
    kind = rng.random()
    if kind < 0.2:
        return Fault(
            attempt, When.CALL, rng.randint(1, CALLS_OF_A_MIGRATION), What.MISHAP, length_s, rng.choice(tuple(Mishap)).value
        )
    if kind < 0.35:
        return _of_a_driver(rng, attempt, length_s)
    if kind < 0.45:
        when, number = When.STEP, rng.randint(1, STEPS_OF_A_MIGRATION)
        return Fault(attempt, when, number, rng.choice(USER), 0.0, rng.choice("ab"))
    when = rng.choice((When.STEP, When.STEP, When.STEP, When.WRITE_A, When.WRITE_A, When.WRITE_B, When.CALL))
    most = {When.STEP: STEPS_OF_A_MIGRATION, When.CALL: CALLS_OF_A_MIGRATION}.get(when, WRITES_OF_A_MIGRATION)
    return Fault(attempt, when, rng.randint(1, most), rng.choice(ENVIRONMENT), length_s)


def _of_a_driver(rng: Random, attempt: int, length_s: float) -> Fault:
    when = rng.choice((When.VERB_A, When.VERB_B))
    return Fault(attempt, when, rng.randint(1, VERBS_OF_A_MIGRATION), What.VERB, length_s, rng.choice(tuple(FaultKind)).value)


FIT_FOR_MOMENTS = frozenset({FaultKind.HANG, FaultKind.FAIL_TRANSFER, FaultKind.KILL_BEFORE})
"""What can happen at a moment that nobody calls."""

__all__ = ["FIT_FOR_MOMENTS", "MOMENTS", "Attempt", "Fault", "Plan", "What", "When", "draw"]
