"""Which events follow from which changes of a state."""

from __future__ import annotations

import pytest

from vmferry.model import DomainState, StateReason
from vmferryd.domains.events import changes

S, R = DomainState, StateReason


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ((S.SHUTOFF, R.UNKNOWN), (S.RUNNING, R.BOOTED), "started/booted"),
        ((S.CRASHED, R.CRASHED), (S.PAUSED, R.USER), "started/booted suspended/paused"),
        ((S.SHUTOFF, R.UNKNOWN), (S.PAUSED, R.MIGRATION), "started/migrated"),
        ((S.PAUSED, R.MIGRATION), (S.RUNNING, R.MIGRATED), "resumed/migrated"),
        ((S.PAUSED, R.IN_DOUBT), (S.RUNNING, R.MIGRATION_CANCELED), "resumed/migrated"),
        ((S.PAUSED, R.USER), (S.RUNNING, R.UNPAUSED), "resumed/unpaused"),
        ((S.PAUSED, R.POSTCOPY), (S.RUNNING, R.POSTCOPY), "resumed/post-copy"),
        ((S.RUNNING, R.BOOTED), (S.RUNNING, R.MIGRATION_CANCELED), ""),
        ((S.RUNNING, R.BOOTED), (S.PAUSED, R.MIGRATION), "suspended/migrated"),
        ((S.RUNNING, R.BOOTED), (S.PAUSED, R.IO_ERROR), "suspended/io-error"),
        ((S.RUNNING, R.BOOTED), (S.PAUSED, R.UNKNOWN), "suspended/paused"),
        ((S.PAUSED, R.MIGRATION), (S.PAUSED, R.USER), "suspended/paused"),
        ((S.PAUSED, R.MIGRATION), (S.PAUSED, R.MIGRATION), ""),
        ((S.PAUSED, R.MIGRATION), (S.PAUSED, R.IN_DOUBT), ""),
        ((S.RUNNING, R.BOOTED), (S.SHUTDOWN, R.USER), ""),
        ((S.SHUTDOWN, R.USER), (S.SHUTOFF, R.SHUTDOWN), "stopped/shutdown"),
        ((S.PAUSED, R.MIGRATION), (S.SHUTOFF, R.MIGRATED), "stopped/migrated"),
        ((S.PAUSED, R.MIGRATION), (S.SHUTOFF, R.FAILED), "stopped/failed"),
        ((S.RUNNING, R.BOOTED), (S.CRASHED, R.CRASHED), "stopped/crashed"),
        ((S.SHUTOFF, R.FAILED), (S.SHUTOFF, R.MIGRATED), ""),
    ],
)
def test_changes(before: tuple[S, R], after: tuple[S, R], told: str) -> None:
    """Libvirt's events, in libvirt's order; what changes nothing that they speak of is not told."""
    assert told == " ".join(f"{kind}/{detail}" for kind, detail in changes(before, after))
