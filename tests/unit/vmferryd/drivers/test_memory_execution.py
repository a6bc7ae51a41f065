"""The evidence of who executed what."""

from __future__ import annotations

from vmferryd.clock import DrivenClock
from vmferryd.drivers.memory.execution import BEAT_NS, NS_PER_S, Cpu, ExecutionLog, Span, findings


def cpu_on(clock: DrivenClock, log: ExecutionLog) -> Cpu:
    """A CPU that stands still."""
    return Cpu(clock, log, "here", "life")


async def test_a_cpu_counts_only_the_time_it_runs() -> None:
    """The clock goes on while it stands still, and its heart does not beat."""
    clock = DrivenClock()
    cpu = cpu_on(clock, ExecutionLog())
    await clock.advance(1)
    assert cpu.ran_ns == 0
    cpu.run()
    await clock.advance(2)
    cpu.stop()
    await clock.advance(3)
    assert cpu.ran_ns == 2 * NS_PER_S
    assert cpu.beat == 2 * NS_PER_S // BEAT_NS


async def test_a_throttled_cpu_runs_its_share() -> None:
    """Kept from running three quarters of the time, it runs one quarter of it."""
    clock = DrivenClock()
    cpu = cpu_on(clock, ExecutionLog())
    cpu.run()
    await clock.advance(1)
    cpu.throttle(75)
    await clock.advance(4)
    cpu.throttle(0)
    await clock.advance(1)
    assert cpu.ran_ns == 3 * NS_PER_S


async def test_stretches_that_join_are_no_finding() -> None:
    """A guest that ran here, then there, and the stretch that still lasts, are one execution without gap."""
    clock, log = DrivenClock(), ExecutionLog()
    here, there = cpu_on(clock, log), Cpu(clock, log, "there", "")
    here.run()
    await clock.advance(1.234567)
    here.stop()
    there.adopt(here.life, here.ran_ns)
    await clock.advance(0.1)
    there.run()
    await clock.advance(2)
    spans = log.spans("life")
    assert [span.host for span in spans] == ["here", "there"]
    assert [beat for span in spans for beat in span.beats] == list(range(1, there.beat + 1))
    assert log.findings() == []


def test_an_overlap_is_found() -> None:
    """Two copies that executed the same are a finding, also when they ran one after the other."""
    assert findings([Span("a", 0, 10, "here", 0, 1), Span("a", 5, 12, "there", 2, 3)])


def test_a_gap_is_found() -> None:
    """Execution that nobody did is a finding."""
    assert findings([Span("a", 0, 10, "here", 0, 1), Span("a", 11, 12, "there", 2, 3)])


def test_two_at_one_time_are_found() -> None:
    """Stretches that join but were run at the same time are a finding."""
    assert findings([Span("a", 0, 10, "here", 0, 1), Span("a", 10, 12, "there", 0.5, 3)])


def test_lives_are_apart() -> None:
    """What one guest does says nothing of another."""
    assert findings([Span("a", 0, 10, "here", 0, 1), Span("b", 0, 10, "here", 0, 1)]) == []
