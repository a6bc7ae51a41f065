"""Reading `query-migrate`, and deciding when a guest is stopped."""

from __future__ import annotations

from typing import Any

import pytest

from vmferryd.drivers.base import RunState, TransferState
from vmferryd.drivers.pause import Move
from vmferryd.drivers.qemu.config import QemuConfig
from vmferryd.drivers.qemu.gate import Gate
from vmferryd.drivers.qemu.transfer import Aim, Pace, Round, TransferLook, after_round, quiet_s, run_state

MIB = 1 << 20
CONFIG = QemuConfig()


def answer(passes: int, remaining: int, *, mbps: float = 800.0, status: str = "active") -> dict[str, Any]:
    """800 Mbit/s are 100 MB/s."""
    ram = {
        "total": 512 * MIB,
        "transferred": 10 * MIB,
        "remaining": remaining,
        "duplicate": 7,
        "normal": 8,
        "normal-bytes": 8 * 4096,
        "mbps": mbps,
        "dirty-pages-rate": 9,
        "page-size": 4096,
        "dirty-sync-count": passes,
        "postcopy-requests": 0,
    }
    return {"status": status, "total-time": 1000, "setup-time": 2, "downtime": 30, "expected-downtime": 40, "ram": ram}


def look(passes: int, remaining: int, *, mbps: float = 800.0) -> TransferLook:
    """The look that such an answer is."""
    return TransferLook.of(answer(passes, remaining, mbps=mbps))


def stops_at(remaining: list[int], aim: Aim, *, mbps: float = 800.0) -> int | None:
    """The round at whose beginning the guest is stopped, when so much is left at the beginning of each."""
    last, limit_ms = Round(), 0
    for number, rest in enumerate(remaining, 1):
        now = look(number, rest, mbps=mbps)
        decision = after_round(last, now, aim, limit_ms, CONFIG)
        if decision is not None:
            limit_ms = decision.limit_ms
            if decision.move is Move.STOP:
                return number
        last = last.after(now)
    return None


def test_the_first_round_is_never_the_last() -> None:
    """Before all memory was sent once, nothing is known of what is left."""
    assert stops_at([0, 0], Aim(300)) == 2


def test_an_idle_guest_is_stopped_at_once() -> None:
    """It shows hardly any bandwidth, for it has hardly anything to send."""
    assert stops_at([512 * MIB, 20_000], Aim(300), mbps=1.0) == 2


def test_shrinking_rounds_are_waited_for() -> None:
    """29 MiB would fit into 300 ms, but another round makes the pause shorter."""
    assert stops_at([512 * MIB, 29 * MIB, 10 * MIB, MIB], Aim(300)) == 4


def test_rounds_that_do_not_shrink_are_taken_when_they_fit() -> None:
    """A guest that writes steadily is stopped within what the user allows."""
    assert stops_at([512 * MIB, 28 * MIB, *[27 * MIB] * 5], Aim(300)) == 6


def test_a_shorter_pause_is_tried_before_a_longer_one() -> None:
    """The guest calms down while the limit is still small, and gains by it."""
    assert stops_at([512 * MIB, 28 * MIB, 27 * MIB, 3 * MIB], Aim(300)) == 4


def test_a_rest_that_does_not_fit_is_never_taken() -> None:
    """It goes on for ever, until somebody tunes or cancels it."""
    assert stops_at([512 * MIB, *[200 * MIB] * 10], Aim(300)) is None


def test_a_rate_limit_bounds_what_counts_as_little() -> None:
    """512 KiB at 256 KiB/s are two seconds, however small they look."""
    assert stops_at([512 * MIB, *[512 << 10] * 5], Aim(1, 256 << 10), mbps=2.0) is None


def test_what_the_user_believes_of_the_channel_counts_and_not_what_was_measured() -> None:
    """A rest that seems too much is taken, and one that seems little enough is not."""
    dirtying = [512 * MIB, *[200 * MIB] * 10]
    assert stops_at(dirtying, Aim(300)) is None
    assert stops_at(dirtying, Aim(300, switchover_bytes_per_s=1 << 30)) is not None
    calm = [512 * MIB, *[512 << 10] * 5]
    assert stops_at(calm, Aim(300)) == 2
    assert stops_at(calm, Aim(300, switchover_bytes_per_s=256 << 10)) is None


def test_within_a_round_nothing_is_decided() -> None:
    """A rest that shrinks because it is being sent says nothing of what was written meanwhile."""
    last = Round(2, 400 * MIB, 512 * MIB)
    assert after_round(last, look(2, 0), Aim(300), 0, CONFIG) is None


def test_statistics_follow_the_specification() -> None:
    """Mbit/s become bytes per second; the downtime is real only at the end."""
    statistics = look(3, 5).statistics
    assert statistics is not None
    assert statistics.memory_bytes_per_s == 100_000_000
    assert (statistics.downtime_ms, statistics.expected_downtime_ms) == (0, 40)
    ended = TransferLook.of(answer(3, 0, status="completed")).statistics
    assert ended is not None
    assert ended.downtime_ms == 30


def test_without_figures_there_are_no_statistics() -> None:
    """QEMU has none before and after."""
    assert TransferLook.of({}).statistics is None
    assert TransferLook.of({"status": "failed", "error-desc": "gone"}).error == "gone"


@pytest.mark.parametrize(
    ("status", "transfer", "state"),
    [
        ("running", TransferState.NONE, RunState.RUNNING),
        ("prelaunch", TransferState.NONE, RunState.PAUSED),
        ("inmigrate", TransferState.ACTIVE, RunState.INCOMING),
        ("finish-migrate", TransferState.HELD, RunState.HELD),
        ("postmigrate", TransferState.COMPLETED, RunState.GONE_OVER),
        ("postmigrate", TransferState.FAILED, RunState.PAUSED),
        ("postmigrate", TransferState.CANCELLED, RunState.PAUSED),
        ("shutdown", TransferState.NONE, RunState.SHUT_DOWN),
        ("guest-panicked", TransferState.NONE, RunState.CRASHED),
        ("io-error", TransferState.NONE, RunState.IO_ERROR),
    ],
)
def test_run_states(status: str, transfer: TransferState, state: RunState) -> None:
    """A guest whose transfer failed after it was stopped has not gone over."""
    assert run_state(status, transfer) is state


def test_a_qemu_that_looks_when_told_is_slowed_down_when_it_has_sent_everything() -> None:
    """Not before, and then to so little that whatever it finds uses its slot up."""
    config = QemuConfig()
    fast = Pace().next(look(1, 4096), Aim(300), Gate.BITMAP, config)
    slow = fast.next(look(1, 0), Aim(300), Gate.BITMAP, config)
    assert (False, True) == (fast.is_slow, slow.is_slow)
    assert config.slowest_bytes_per_s == slow.limit_bytes_per_s


def test_what_was_found_is_sent_at_full_speed() -> None:
    """A new round ends the slow stretch, and keeps the rate that was measured before it."""
    config = QemuConfig()
    slow = Pace().next(look(1, 0), Aim(300), Gate.BITMAP, config)
    fast = slow.next(look(2, 5 << 20, mbps=1.0), Aim(300), Gate.BITMAP, config)
    assert (False, slow.bandwidth_bytes_per_s) == (fast.is_slow, fast.bandwidth_bytes_per_s)


def test_any_other_qemu_is_slowed_down_when_it_goes_round_and_round() -> None:
    """Not for a few rounds between two looks: the guest is stopped then, as a rule."""
    calm = Pace().next(look(1, 4096), Aim(300), Gate.ACKNOWLEDGEMENT, CONFIG)
    busy = calm.next(look(1 + CONFIG.hurried_rounds, 0), Aim(300), Gate.ACKNOWLEDGEMENT, CONFIG)
    hurried = busy.next(look(2 + 2 * CONFIG.hurried_rounds, 4096), Aim(300), Gate.ACKNOWLEDGEMENT, CONFIG)
    assert [None, None, 40960] == [each.limit_bytes_per_s for each in (calm, busy, hurried)]
    still = hurried.next(look(3 + 2 * CONFIG.hurried_rounds, 0), Aim(300), Gate.ACKNOWLEDGEMENT, CONFIG)
    found = still.next(look(4 + 2 * CONFIG.hurried_rounds, 4096), Aim(300), Gate.ACKNOWLEDGEMENT, CONFIG)
    assert (True, False) == (still.is_slow, found.is_slow)


def test_one_that_has_a_limit_is_slowed_down_ahead_of_the_end() -> None:
    """What is left by then goes out within one slot; nothing is slowed down before the transfer has begun."""
    limited = Aim(300, 100 << 20)
    assert not Pace().next(look(0, 0), limited, Gate.ACKNOWLEDGEMENT, CONFIG).is_slow
    slow = Pace().next(look(1, 2 << 20), limited, Gate.ACKNOWLEDGEMENT, CONFIG)
    assert int((2 << 20) / CONFIG.slot_s) == slow.limit_bytes_per_s


def test_the_users_limit_stands_while_it_is_slow() -> None:
    """A slow stretch is never faster than what the user allows."""
    slow = Pace().next(look(1, 2 << 20), Aim(300, 1 << 20), Gate.ACKNOWLEDGEMENT, QemuConfig())
    assert 1 << 20 == slow.limit_bytes_per_s


@pytest.mark.parametrize(
    ("remaining_bytes", "wait_s"),
    [
        pytest.param(1000 * MIB, CONFIG.poll_s, id="much is left"),
        pytest.param(15_000_000 + 6_000_000, 0.03, id="half of the way to where the end is near"),
        pytest.param(15_000_000, CONFIG.eager_poll_s, id="it is there"),
        pytest.param(0, CONFIG.eager_poll_s, id="nothing is left"),
    ],
)
def test_a_transfer_is_left_alone_while_much_is_left(remaining_bytes: int, wait_s: float) -> None:
    """At 100 MB/s the end is near with 15 MB left; looks become frequent before that and not earlier."""
    assert quiet_s(look(1, remaining_bytes), CONFIG) == pytest.approx(wait_s)


def test_a_transfer_whose_speed_or_end_is_not_known_is_not_left_alone() -> None:
    """Nothing was measured yet, or it completes and the guest stands still."""
    unmeasured = TransferLook.of({**answer(1, 100 * MIB, mbps=0.0), "total-time": 0})
    completing = TransferLook.of(answer(3, 100 * MIB, status="device"))
    assert [CONFIG.eager_poll_s] * 2 == [quiet_s(seen, CONFIG) for seen in (unmeasured, completing)]
