"""The table of what travels which way has every cell, and says what the rules say."""

from __future__ import annotations

import pytest

from support.data_plane import FEATURES, WAYS, Feature, Play, expected, seen
from vmferry.combinations import Place, broken
from vmferry.flags import NONE, Flag
from vmferryd.phases.settings import HONOURED, HONOURED_PARAMS

CELLS = [pytest.param(feature, way, id=f"{feature.name}-{way}") for feature in FEATURES for way in WAYS]
ELSEWHERE = (
    Flag.PEER2PEER | Flag.PERSIST_DEST | Flag.UNDEFINE_SOURCE | Flag.PAUSED | Flag.CHANGE_PROTECTION | Flag.UNSAFE
    | Flag.ABORT_ON_ERROR | Flag.OFFLINE | Flag.POSTCOPY_RESUME
)  # fmt: skip
"""What says nothing of how bytes travel, or goes as one does that is in the table."""
BY_THE_HOSTS = {("disks, at an address of their own", "direct, TLS")}
"""What no rule forbids, and daemons that talk to each other like that refuse."""
ADDRESSES = {"migrate_uri", "listen_address", "disks_port", "tls_destination"}
DEFINITIONS = {"destination_name", "destination_xml", "persistent_xml"}
PAUSES = {"max_downtime_ms", "fixed_downtime_ms"}
SIZES = {"compression_xbzrle_cache_bytes", "auto_converge_increment_percent"}


def test_every_cell_was_seen() -> None:
    """No cell is open, none is left over from a row that has gone, and each says what is expected of it today."""
    assert {(feature.name, way): expected(feature, way) for feature in FEATURES for way in WAYS} == seen()


@pytest.mark.parametrize(("feature", "way"), CELLS)
def test_it_is_refused_by_the_rules_or_works(feature: Feature, way: str) -> None:
    """What rules forbid or a daemon does not honour is in the table as refused; what is refused there has such a reason."""
    flags = feature.flags | WAYS[way].flags
    forbidden = [rule.message for rule in broken(flags, feature.params, Place.CLIENT | Place.SOURCE | Place.DESTINATION)]
    unknown = flags & ~HONOURED != NONE
    by_the_hosts = (feature.name, way) in BY_THE_HOSTS
    assert (bool(forbidden) or unknown or by_the_hosts) == (way in feature.refused)
    assert unknown or not forbidden or any(feature.refused[way] in text for text in forbidden)


def test_whatever_changes_how_bytes_travel_has_a_row() -> None:
    """A flag or a parameter that a daemon begins to honour is played, or it is said here where it is shown."""
    played = [feature for feature in FEATURES if len(feature.refused) < len(WAYS)]
    flags = Flag(0)
    for feature in played:
        flags |= feature.flags
    for way in WAYS.values():
        flags |= way.flags
    assert HONOURED & ~flags & ~ELSEWHERE == NONE
    given = {name for feature in played for name in feature.params.__slots__ if getattr(feature.params, name)}
    assert HONOURED_PARAMS - given == ADDRESSES | DEFINITIONS | PAUSES | SIZES
    assert set(Play) == {feature.play for feature in played}
