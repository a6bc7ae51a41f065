"""Lease, back-off and settings."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from vmferry.errors import InvalidState
from vmferry.flags import NONE, Flag
from vmferry.params import MigrationParams
from vmferryd.clock import DrivenClock
from vmferryd.drivers.base import Tuning
from vmferryd.limits import Limits
from vmferryd.phases.lease import Lease
from vmferryd.phases.resolver import Backoff
from vmferryd.phases.settings import in_words, receive_settings, send_settings


async def test_lease_runs_out() -> None:
    """A lease that nobody renews runs out after its length."""
    clock = DrivenClock()
    lease = Lease(clock, 10)
    waiting = asyncio.ensure_future(lease.ran_out())
    await clock.advance(9)
    assert (1, False) == (lease.left_s, waiting.done())
    lease.renew()
    await clock.advance(9)
    assert not waiting.done()
    await clock.advance(1)
    await waiting
    assert 0 == lease.left_s


async def test_lease_while_a_call_is_under_way() -> None:
    """While a call is under way the lease does not run out, and an answer renews it."""
    clock = DrivenClock()
    lease = Lease(clock, 10)
    with lease.attended(1):
        await clock.advance(100)
        assert 10 == lease.left_s
    assert 10 == lease.left_s


async def test_our_own_error_is_an_answer() -> None:
    """A call that ends with an error of ours renews the lease."""
    clock = DrivenClock()
    lease = Lease(clock, 10)
    await clock.advance(5)
    with pytest.raises(InvalidState), lease.attended(1):
        raise InvalidState("no")
    assert 10 == lease.left_s


async def test_broken_call_leaves_a_short_grace() -> None:
    """A call that breaks is noticed at once, however long the lease was: its grace is all that is left."""
    clock = DrivenClock()
    lease = Lease(clock, 1000)
    with pytest.raises(asyncio.CancelledError), lease.attended(2):  # noqa: PT012 - it must break inside
        waiting = asyncio.ensure_future(lease.ran_out())
        await clock.advance(1)
        raise asyncio.CancelledError
    assert 2 == lease.left_s
    await clock.advance(2)
    await waiting


def test_backoff() -> None:
    """Pauses double up to the longest one, and never end."""
    pauses = list(itertools.islice(Backoff(Limits(resolver_first_s=1, resolver_longest_s=5)), 5))
    assert [1, 2, 4, 5, 5] == pauses


@pytest.mark.option("--auto-converge-initial", "--auto-converge-increment", "--comp-xbzrle-cache")
def test_settings() -> None:
    """The driver's settings say what flags and parameters asked for."""
    params = MigrationParams(
        bandwidth_mib_per_s=2,
        auto_converge_initial_percent=30,
        auto_converge_increment_percent=5,
        compression_xbzrle_cache_bytes=4096,
    )
    sent = send_settings(Flag.LIVE | Flag.AUTO_CONVERGE | Flag.COMPRESSED, params)
    assert (True, 2 << 20, True, 30, 5, True, 4096) == (
        sent.live,
        sent.max_bandwidth_bytes_per_s,
        sent.auto_converge,
        sent.auto_converge_initial_percent,
        sent.auto_converge_increment_percent,
        sent.xbzrle,
        sent.xbzrle_cache_bytes,
    )
    received = receive_settings(Flag.COMPRESSED, params)
    assert (True, 4096) == (received.xbzrle, received.xbzrle_cache_bytes)


def test_nothing_asked_for() -> None:
    """Without flags and parameters the settings are the hypervisor's defaults, and the guest stands still."""
    sent = send_settings(NONE, MigrationParams())
    assert (False, None, False, False) == (sent.live, sent.max_bandwidth_bytes_per_s, sent.auto_converge, sent.xbzrle)
    assert receive_settings(NONE, MigrationParams(compression=("xbzrle",))).xbzrle
    assert not receive_settings(Flag.COMPRESSED, MigrationParams(compression=("zlib",))).xbzrle


def test_what_a_user_has_changed_in_words() -> None:
    """Every value has some, and what was left as it is has none."""
    assert "" == in_words(Tuning())
    assert "longest pause 70 ms, sent in post-copy at most 5 MiB/s" == in_words(
        Tuning(max_downtime_ms=70, postcopy_bandwidth_bytes_per_s=5 << 20)
    )
    assert "the rest is sent at what is seen, slowed down at first by 30 %, each time by 9 % more" == in_words(
        Tuning(switchover_bandwidth_bytes_per_s=0, auto_converge_initial_percent=30, auto_converge_increment_percent=9)
    )
    assert "compression cache 4096 bytes" == in_words(Tuning(xbzrle_cache_bytes=4096))
