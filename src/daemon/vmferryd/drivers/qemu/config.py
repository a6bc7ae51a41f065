"""What can be set about the QEMU driver."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class QemuConfig:
    """Every bound and every path of the driver.

    Attributes:
        emulator: used for a definition that names none.
        start_timeout_s: from the start of the process until its monitor answers; memory that is locked adds to it.
        lock_bytes_per_s: a host locks at least this much of a guest's memory in a second.
        recognise_timeout_s: from the start of the process until the kernel shows its arguments.
        stop_timeout_s: for a process to end by itself after `quit`, and again after it was killed.
        monitor_timeout_s: for the monitor to greet a second connection; another client may hold it.
        command_timeout_s: for the answer to one monitor command.
        cancel_timeout_s: for a cancelled transfer to reach its end.
        settle_timeout_s: for QEMU to finish its own figures and run state after a transfer's end.
        yank_after_s: for a transfer to react to its cancellation before its channel is shut under it.
        handshake_timeout_s: for the TLS handshake of a connection that QEMU makes by itself, or takes up again.
        statistics_timeout_s: for fresh figures; after that the last known ones are good enough.
        look_timeout_s: for one look from outside, at processes or at an image; storage that is dead hangs whoever looks.
        poll_s: between two looks at a transfer whose events may have been missed.
        eager_poll_s: the same near the end of a round, of a transfer of which QEMU reports nothing.
        paused_poll_s: the same while its guest stands still for the last part.
        connect_poll_s: between two attempts to reach the monitor of a process that starts.
        iteration_event_s: at least this lies between two reports of an iteration to listeners.
        default_downtime_ms: the pause aimed at when the sender's settings name none.
        eager_downtime_ms: a pause so short that it is taken as soon as it is possible; `drivers.pause` raises it in steps.
        stalled_ratio: rounds that leave more than this part of the round before have stopped shrinking.
        idle_remaining_bytes: less than this is sent at once, whatever the bandwidth seems to be.
        slot_s: QEMU's own unit of time: its rate limit, its bandwidth figure and its threshold are renewed once in each slot.
        near_end_s: this long before the end of a round looks become frequent.
        hurried_rounds: a transfer that goes round more often than this from one look to the next is slowed down.
        slowest_bytes_per_s: what a transfer is slowed down to.
        stop_ahead_s: the CPUs are stopped this long before QEMU's slot ends, for only then does it go on.
        log_tail_bytes: how much of QEMU's last words an error carries.
        bridge_helper: the program that makes taps for bridges when the driver is not root.
    """

    emulator: Path = Path("/usr/bin/qemu-system-x86_64")
    start_timeout_s: float = 20.0
    lock_bytes_per_s: int = 128 << 20
    recognise_timeout_s: float = 1.0
    stop_timeout_s: float = 5.0
    monitor_timeout_s: float = 5.0
    command_timeout_s: float = 30.0
    cancel_timeout_s: float = 30.0
    settle_timeout_s: float = 2.0
    yank_after_s: float = 2.0
    handshake_timeout_s: float = 10.0
    statistics_timeout_s: float = 1.0
    look_timeout_s: float = 2.0
    poll_s: float = 0.05
    eager_poll_s: float = 0.005
    paused_poll_s: float = 0.001
    connect_poll_s: float = 0.005
    iteration_event_s: float = 0.05
    default_downtime_ms: int = 300
    eager_downtime_ms: int = 20
    stalled_ratio: float = 0.75
    idle_remaining_bytes: int = 1 << 20
    slot_s: float = 0.1
    near_end_s: float = 0.15
    hurried_rounds: int = 50
    slowest_bytes_per_s: int = 2 << 10
    stop_ahead_s: float = 0.025
    log_tail_bytes: int = 2048
    bridge_helper: Path = Path("/usr/lib/qemu/qemu-bridge-helper")

    def starting_s(self, locked_bytes: int) -> float:
        """How long a process may take to be up that locks so much of its memory, and first fills it with zeros."""
        return self.start_timeout_s + locked_bytes / self.lock_bytes_per_s


DEFAULTS = QemuConfig()
"""What holds where nothing is configured."""
