"""What was seen of the ways of the data: one row for each feature, and the table that they make."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from vmferry.flags import NONE, Flag
from vmferry.params import MigrationParams

RESULTS = Path(__file__).parents[2] / "docs" / "data-plane.jsonl"
WRITE = "VMFERRY_DATA_PLANE"
"""The environment variable that makes the test play every cell, and write what it sees."""

WAYS: dict[str, Flag] = {"native": NONE, "tunnel": Flag.TUNNELLED}


@dataclass(frozen=True, slots=True)
class Feature:
    """One row. `refused` is what the refusal says where the feature cannot be had, by way; a way that is not named works."""

    name: str
    flags: Flag = NONE
    params: MigrationParams = field(default_factory=MigrationParams)
    refused: dict[str, str] = field(default_factory=dict)


FEATURES: tuple[Feature, ...] = (
    Feature("memory, one connection"),
    Feature("xbzrle", Flag.COMPRESSED),
    Feature("auto-converge", Flag.AUTO_CONVERGE),
    Feature("parallel", Flag.PARALLEL, MigrationParams(parallel_connections=4)),
    Feature("parallel, zlib", Flag.PARALLEL, MigrationParams(compression=("zlib",), compression_zlib_level=1)),
    Feature("parallel, zstd", Flag.PARALLEL, MigrationParams(compression=("zstd",), compression_zstd_level=1)),
    Feature(
        "parallel, xbzrle",
        Flag.PARALLEL,
        MigrationParams(compression=("xbzrle",)),
        dict.fromkeys(WAYS, "parallel connections are compressed by zlib or zstd"),
    ),
    Feature(
        "parallel, post-copy",
        Flag.PARALLEL | Flag.POSTCOPY,
        refused=dict.fromkeys(WAYS, "could not be mended after a cut"),
    ),
    Feature(
        "zero copy",
        Flag.PARALLEL | Flag.ZEROCOPY,
        refused=dict.fromkeys(WAYS, "where whatever is sent is copied"),
    ),
)
"""A new feature is a new row."""

_OFTEN = {("parallel, zstd", "native"), ("parallel, xbzrle", "native")}
"""What is played each time; the rest when the results are to be written."""


def cells() -> list[tuple[Feature, str]]:
    """What is to be played now."""
    every = bool(os.environ.get(WRITE))
    return [(feature, way) for feature in FEATURES for way in WAYS if every or (feature.name, way) in _OFTEN]


def note(feature: str, way: str, seen: str) -> None:
    """What was seen is in the results, if they are to be written."""
    if not os.environ.get(WRITE):
        return
    rows = {(row["feature"], row["way"]): row["seen"] for row in _rows()} | {(feature, way): seen}
    lines = [json.dumps({"feature": name, "way": by, "seen": what}) for (name, by), what in rows.items()]
    RESULTS.write_text("\n".join(lines) + "\n")


def as_markdown() -> str:
    """The table."""
    seen = {(row["feature"], row["way"]): row["seen"] for row in _rows()}
    lines = ["| feature | " + " | ".join(WAYS) + " |", "|---|" + "---|" * len(WAYS)]
    for feature in FEATURES:
        cells = (seen.get((feature.name, way), "not seen yet") for way in WAYS)
        lines.append(f"| {feature.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _rows() -> list[dict[str, str]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
