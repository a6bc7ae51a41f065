"""What was seen of the ways of the data: one row for each feature, and the table that they make."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from vmferry.flags import NONE, Flag
from vmferry.params import MigrationParams

RESULTS = Path(__file__).parents[2] / "docs" / "data-plane.jsonl"
EVERY = "VMFERRY_DATA_PLANE"
"""The environment variable that makes the test play every cell, and write what it sees."""


class Hosts(StrEnum):
    """How the daemons of two hosts talk to each other."""

    PLAIN = "plain"
    TLS = "tls"


@dataclass(frozen=True, slots=True)
class Way:
    """One column. `route` is how the job's own description of its way begins, and `ends` how it ends."""

    hosts: Hosts
    flags: Flag
    route: str
    ends: str = ""


WAYS: Mapping[str, Way] = {
    "direct": Way(Hosts.PLAIN, NONE, "connection to tcp:127.0.0.1:"),
    "tunnel": Way(Hosts.PLAIN, Flag.TUNNELLED, "tunnel to vmferry+unix:"),
    "direct, TLS": Way(Hosts.TLS, NONE, "connection to tcp:127.0.0.1:", "(TLS)"),
    "tunnel, TLS": Way(Hosts.TLS, Flag.TUNNELLED | Flag.TLS, "tunnel to vmferry+tls:"),
}


class Play(StrEnum):
    """What is done with the guest."""

    MOVE = "it is moved"
    POSTCOPY = "it goes on to post-copy on the way"
    RECOVERY = "the flow of its pages is paused in post-copy, and taken up again"


@dataclass(frozen=True, slots=True)
class Feature:
    """One row; with a disk where that is to be copied.

    `refused` is what the refusal says where the feature cannot be had, by way; a way that is not named works.
    """

    name: str
    flags: Flag = Flag.LIVE
    params: MigrationParams = field(default_factory=MigrationParams)
    play: Play = Play.MOVE
    refused: Mapping[str, str] = field(default_factory=dict)


_PARALLEL = Flag.LIVE | Flag.PARALLEL
_SYNCHRONOUS = Flag.LIVE | Flag.NON_SHARED_DISK | Flag.NON_SHARED_SYNCHRONOUS_WRITES
FOLDER = "/FOLDER"
"""In an address: the folder of the one who plays the row."""
_OWN_WAY = MigrationParams(disks_uri=f"unix://{FOLDER}/disks.sock")
_SLOW = MigrationParams(bandwidth_mib_per_s=32, postcopy_bandwidth_mib_per_s=32)

_NO_ADDRESS = "a tunnel opens no address of its own"

FEATURES: tuple[Feature, ...] = (
    Feature("live"),
    Feature("not live", NONE),
    Feature("bandwidth limit", Flag.LIVE, MigrationParams(bandwidth_mib_per_s=200)),
    Feature("switch-over bandwidth", Flag.LIVE, MigrationParams(switchover_bandwidth_mib_per_s=400)),
    Feature("auto-converge", Flag.LIVE | Flag.AUTO_CONVERGE, MigrationParams(auto_converge_initial_percent=30)),
    Feature("xbzrle", Flag.LIVE | Flag.COMPRESSED),
    Feature("parallel", _PARALLEL, MigrationParams(parallel_connections=4)),
    Feature("parallel, zlib", _PARALLEL, MigrationParams(compression=("zlib",), compression_zlib_level=1)),
    Feature("parallel, zstd", _PARALLEL, MigrationParams(compression=("zstd",), compression_zstd_level=1)),
    Feature("disks", Flag.LIVE | Flag.NON_SHARED_DISK),
    Feature("disks, each write at both", _SYNCHRONOUS, MigrationParams(migrate_disks_detect_zeroes=("vda",))),
    Feature(
        "disks, zeroes detected",
        Flag.LIVE | Flag.NON_SHARED_DISK,
        MigrationParams(migrate_disks=("vda",), migrate_disks_detect_zeroes=("vda",)),
    ),
    Feature("disks, only the top images", Flag.LIVE | Flag.NON_SHARED_INC),
    Feature(
        "disks, at an address of their own",
        Flag.LIVE | Flag.NON_SHARED_DISK,
        _OWN_WAY,
        refused={
            "tunnel": _NO_ADDRESS,
            "direct, TLS": "would travel in the clear",
            "tunnel, TLS": _NO_ADDRESS,
        },
    ),
    Feature("post-copy", Flag.LIVE | Flag.POSTCOPY, _SLOW, Play.POSTCOPY),
    Feature("post-copy, resumed", Flag.LIVE | Flag.POSTCOPY, _SLOW, Play.RECOVERY),
    Feature(
        "parallel, xbzrle",
        _PARALLEL,
        MigrationParams(compression=("xbzrle",)),
        refused=dict.fromkeys(WAYS, "parallel connections are compressed by zlib or zstd"),
    ),
    Feature("parallel, post-copy", _PARALLEL | Flag.POSTCOPY, refused=dict.fromkeys(WAYS, "could not be mended after a cut")),
    Feature("zero copy", _PARALLEL | Flag.ZEROCOPY, refused=dict.fromkeys(WAYS, "where whatever is sent is copied")),
)
"""A new feature is a new row."""

_OFTEN = {("parallel, zstd", "direct, TLS"), ("disks", "direct, TLS"), ("post-copy, resumed", "direct, TLS")}
"""What is played each time: the cells that say most of what the drivers' contract does not."""


def cells() -> list[tuple[Feature, str]]:
    """What is to be played now."""
    every = bool(os.environ.get(EVERY))
    return [(feature, way) for feature in FEATURES for way in WAYS if every or (feature.name, way) in _OFTEN]


def note(feature: Feature, way: str) -> None:
    """That it is as expected is in the results, if they are to be written."""
    if not os.environ.get(EVERY):
        return
    rows = seen() | {(feature.name, way): expected(feature, way)}
    lines = [json.dumps({"feature": name, "way": by, "seen": what}) for (name, by), what in rows.items()]
    RESULTS.write_text("\n".join(lines) + "\n")


def seen() -> dict[tuple[str, str], str]:
    """What was seen of each cell, in the order of the table."""
    known = {(row["feature"], row["way"]): row["seen"] for row in _rows()}
    return {cell: known[cell] for cell in ((feature.name, way) for feature in FEATURES for way in WAYS) if cell in known}


def expected(feature: Feature, way: str) -> str:
    """What is to be seen of a cell."""
    return f"refused: {feature.refused[way]}" if way in feature.refused else "works"


def as_markdown() -> str:
    """The table."""
    found = seen()
    lines = ["| feature | " + " | ".join(WAYS) + " |", "|---|" + "---|" * len(WAYS)]
    for feature in FEATURES:
        cells = (found.get((feature.name, way), "not seen yet") for way in WAYS)
        lines.append(f"| {feature.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _rows() -> list[dict[str, str]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
