"""Tickets open what they were made for, and signatures prove what they were put under."""

from __future__ import annotations

import pytest

from vmferry.model import MigrationId, Outcome
from vmferryd.transfer import tickets

ID = MigrationId("one")


def test_tickets_match_themselves_only() -> None:
    """A ticket matches itself, no other one, and an empty one matches nothing."""
    one, other = tickets.new_ticket(), tickets.new_ticket()
    assert tickets.matches(one, one)
    assert not tickets.matches(other, one)
    assert not tickets.matches(b"", b"")
    assert not tickets.matches(b"", one)


@pytest.mark.parametrize(
    ("migration_id", "outcome", "same_secret"),
    [
        (ID, Outcome.COMMITTED, True),
        (ID, Outcome.ABORTED, True),
        ("two", Outcome.COMMITTED, True),
        (ID, Outcome.COMMITTED, False),
    ],
)
def test_signature(migration_id: MigrationId, outcome: Outcome, same_secret: bool) -> None:
    """A signature proves one outcome of one migration, and only to whoever shares the secret."""
    secret = tickets.new_secret()
    signature = tickets.sign(secret if same_secret else tickets.new_secret(), ID, Outcome.COMMITTED)
    genuine = (migration_id, outcome, same_secret) == (ID, Outcome.COMMITTED, True)
    assert genuine == tickets.proves(secret, migration_id, outcome, signature)


def test_without_a_secret_nothing_is_proved() -> None:
    """A side that never had the secret can sign nothing, and nothing proves anything to it."""
    assert b"" == tickets.sign(b"", ID, Outcome.COMMITTED)
    assert not tickets.proves(b"", ID, Outcome.COMMITTED, b"")
    assert not tickets.proves(b"secret", ID, Outcome.COMMITTED, b"")
