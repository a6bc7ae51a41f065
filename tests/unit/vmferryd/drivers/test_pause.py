"""How long a pause is taken."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vmferryd.drivers.pause import Move, PausePolicy, RoundEnd, decide

MIB = 1 << 20
POLICY = PausePolicy(first_ms=20, stalled_ratio=0.75, sure_bytes=MIB)
SPEED = 100.0 * MIB


def seen(left_mib: float, previous_mib: float | None, number: int = 5, speed: float = SPEED) -> RoundEnd:
    """A round that left so much, at 100 MiB/s."""
    before = None if previous_mib is None else round(previous_mib * MIB)
    return RoundEnd(number, round(left_mib * MIB), before, speed)


def test_what_fits_into_the_limit_is_taken() -> None:
    """And the limit stays small."""
    decision = decide(0, seen(2, 64), 300, POLICY)
    assert (decision.move, decision.limit_ms) == (Move.STOP, 20)
    assert decision.reason == "round 5 left 2.0 MiB of 64.0: it fits into a pause of 20 ms"


def test_rounds_that_shrink_raise_nothing() -> None:
    """Another round makes the pause shorter, and nothing is worth a word."""
    decision = decide(40, seen(12, 24), 300, POLICY)
    assert (decision.move, decision.limit_ms, decision.reason) == (Move.COPY, 40, "")


def test_rounds_that_do_not_shrink_raise_the_limit_by_a_step() -> None:
    """With the reason in words."""
    decision = decide(30, seen(12.4, 12.1), 240, POLICY)
    assert (decision.move, decision.limit_ms) == (Move.RAISE, 60)
    assert decision.reason == "round 5 left 12.4 MiB of 12.1: rounds do not shrink; pause limit 30 → 60 ms"


def test_a_rest_that_fits_the_raised_limit_is_taken_at_once() -> None:
    """Another round would cost time and gain nothing."""
    decision = decide(40, seen(7, 7), 300, POLICY)
    assert (decision.move, decision.limit_ms) == (Move.STOP, 80)


def test_at_the_cap_it_says_what_would_help() -> None:
    """And goes on copying."""
    decision = decide(300, seen(64, 64), 300, POLICY)
    assert (decision.move, decision.limit_ms) == (Move.STUCK, 300)
    assert "about 640 ms" in decision.reason
    assert "auto-converge, post-copy, more bandwidth" in decision.reason


def test_a_cap_far_away_is_reached_in_few_steps() -> None:
    """Each step costs a round."""
    limit_ms, steps = 0, 0
    while (decision := decide(limit_ms, seen(10_000, 10_000), 2_000_000, POLICY)).move is Move.RAISE:
        limit_ms, steps = decision.limit_ms, steps + 1
    assert steps <= 5


def test_a_cap_that_was_lowered_holds_at_once() -> None:
    """The limit was higher before."""
    assert decide(300, seen(12, 12), 50, POLICY).limit_ms == 50


def test_without_a_measured_speed_only_little_is_taken() -> None:
    """Nothing is known of how long the rest takes."""
    assert decide(300, seen(2, 2, speed=0.0), 300, POLICY).move is Move.STUCK
    assert decide(300, seen(0.5, 2, speed=0.0), 300, POLICY).move is Move.STOP


@given(
    limit_ms=st.integers(0, 3_000_000),
    cap_ms=st.integers(1, 2_000_000),
    left=st.integers(0, 1 << 40),
    previous=st.none() | st.integers(0, 1 << 40),
    speed=st.floats(0, 1e11),
)
def test_no_pause_is_taken_that_the_user_would_not_bear(
    limit_ms: int, cap_ms: int, left: int, previous: int | None, speed: float
) -> None:
    """The limit never exceeds the cap, and what is taken fits or is tiny."""
    rest = RoundEnd(3, left, previous, speed)
    decision = decide(limit_ms, rest, cap_ms, POLICY)
    assert decision.limit_ms <= cap_ms
    if decision.move is Move.STOP:
        assert left <= POLICY.sure_bytes or rest.pause_ms <= decision.limit_ms
