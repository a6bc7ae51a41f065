"""Feature numbers, and the three ways a question ends."""

from __future__ import annotations

import pytest

from vmferry.errors import InternalError, PeerUnreachable
from vmferry.features import FEATURES, Answers, Feature, FeatureAnswer, as_markdown

# Specification 2.1.
SPECIFIED = {
    1: "MIGRATION_V1",
    2: "REMOTE",
    3: "MIGRATION_V2",
    4: "MIGRATION_P2P",
    5: "MIGRATION_DIRECT",
    6: "MIGRATION_V3",
    7: "MIGRATE_CHANGE_PROTECTION",
    8: "FD_PASSING",
    9: "TYPED_PARAM_STRING",
    10: "PROGRAM_KEEPALIVE",
    11: "XML_MIGRATABLE",
    12: "MIGRATION_OFFLINE",
    13: "MIGRATION_PARAMS",
    14: "REMOTE_EVENT_CALLBACK",
    15: "REMOTE_CLOSE_CALLBACK",
    16: "NETWORK_UPDATE_HAS_CORRECT_ORDER",
}


def test_numbers_and_names() -> None:
    """They are libvirt's, and each has a row."""
    assert {feature.value: feature.name for feature in Feature} == SPECIFIED
    assert [row.feature for row in FEATURES] == list(Feature)


def test_yes_and_no() -> None:
    """The two answers."""
    answers = Answers.of(Feature.MIGRATION_V3)
    assert answers.has(Feature.MIGRATION_V3)
    assert not answers.has(Feature.MIGRATION_V2)


def test_a_question_that_failed_raises_what_went_wrong() -> None:
    """The very error that came instead of the answer."""
    lost = PeerUnreachable("gone")
    with pytest.raises(PeerUnreachable) as caught:
        Answers({Feature.MIGRATION_V3: lost}).has(Feature.MIGRATION_V3)
    assert caught.value is lost


def test_a_question_that_nobody_asked_is_no_no() -> None:
    """It is a defect of the caller."""
    with pytest.raises(InternalError, match="MIGRATION_V3"):
        Answers({Feature.MIGRATION_V2: FeatureAnswer.NO}).has(Feature.MIGRATION_V3)


def test_the_table_is_drawn() -> None:
    """One line for each feature."""
    assert len(as_markdown().splitlines()) == 2 + len(Feature)
