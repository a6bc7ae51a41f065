"""How long a pause is taken: a short one at first, a longer one only when the rounds of copying stop shrinking. Pure.

A guest that can be moved with a short pause is, whatever longer one its user would bear. The limit grows in few steps however
far the user's cap is, for each step costs a round.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

_GROWTH = 2
_STEPS_TO_THE_CAP = 8
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class PausePolicy:
    """When to be content.

    Attributes:
        first_ms: a pause so short that it is taken as soon as it is possible; the cap, if no shorter one is to be tried.
        stalled_ratio: rounds that leave more than this part of the round before have stopped shrinking.
        sure_bytes: less than this is sent at once, whatever the bandwidth seems to be.
    """

    first_ms: int
    stalled_ratio: float
    sure_bytes: int


@dataclass(frozen=True, slots=True)
class RoundEnd:
    """What the guest has written while a round was sent; `previous_bytes` while the one before it, None if unknown."""

    number: int
    left_bytes: int
    previous_bytes: int | None
    bytes_per_s: float

    @property
    def pause_ms(self) -> float:
        """How long the rest would take; infinite when nothing was measured."""
        return self.left_bytes * 1000 / self.bytes_per_s if self.bytes_per_s > 0 else float("inf")


class Move(StrEnum):
    """What to do after a round."""

    COPY = "copy"
    RAISE = "raise"
    STOP = "stop"
    STUCK = "stuck"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, the limit that holds from now on, and why. A round that shrinks as it should has no reason."""

    move: Move
    limit_ms: int
    reason: str = ""


def decide(limit_ms: int, seen: RoundEnd, cap_ms: int, policy: PausePolicy) -> Decision:
    """What follows from a round, under a limit of `limit_ms` (0: none was set yet), which never exceeds `cap_ms`."""
    limit = min(max(limit_ms, policy.first_ms), cap_ms)
    if seen.left_bytes <= policy.sure_bytes or seen.pause_ms <= limit:
        return Decision(Move.STOP, limit, f"{_told(seen)}: it fits into a pause of {limit} ms")
    if seen.previous_bytes is None or seen.left_bytes <= seen.previous_bytes * policy.stalled_ratio:
        return Decision(Move.COPY, limit)
    if limit == cap_ms:
        return Decision(Move.STUCK, limit, _stuck(seen, cap_ms))
    raised = min(cap_ms, max(limit * _GROWTH, cap_ms // _STEPS_TO_THE_CAP))
    move = Move.STOP if seen.pause_ms <= raised else Move.RAISE
    return Decision(move, raised, f"{_told(seen)}: rounds do not shrink; pause limit {limit} → {raised} ms")


def _told(seen: RoundEnd) -> str:
    before = "" if seen.previous_bytes is None else f" of {_mib(seen.previous_bytes)}"
    return f"round {seen.number} left {_mib(seen.left_bytes)} MiB{before}"


def _stuck(seen: RoundEnd, cap_ms: int) -> str:
    longer = f" (it would take about {seen.pause_ms:.0f} ms)" if seen.bytes_per_s > 0 else ""
    return (
        f"{_told(seen)}, which does not fit into the longest pause of {cap_ms} ms{longer}, and rounds do not shrink: "
        "auto-converge, post-copy, more bandwidth or a longer pause (migrate-setmaxdowntime) would help"
    )


def _mib(count_bytes: int) -> str:
    return f"{count_bytes / _MIB:.1f}"
