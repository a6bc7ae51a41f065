"""What a cell has shown, as a line of JSON in the file that the table of failures is made from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from crash.cells import Cell


@dataclass(frozen=True, slots=True)
class Result:
    """What was seen. Times in seconds.

    `place` is where the guest ended. `settled_s` is how long after the failure both journals were settled and exactly one
    guest ran, `back_s` when what had failed came back; None when it never did. `pause_s` is the longest time in which the
    guest was not heard. `meanwhile` is what the hosts said before anything came back, `told` what the client said.
    """

    place: str
    settled_s: float
    back_s: float | None
    pause_s: float
    meanwhile: str
    told: str


def write(path: Path, cell: Cell, result: Result) -> None:
    """The file has this cell's newest result; those of other cells stay."""
    lines = {line["cell"]: line for line in read(path)}
    lines[cell.name] = {
        "cell": cell.name,
        "way": cell.way.value,
        "channel": cell.channel.value,
        "fault": cell.fault.value,
        "part": cell.part.value,
        "moment": cell.moment,
        **{name: round(value, 2) if isinstance(value, float) else value for name, value in asdict(result).items()},
    }
    path.write_text("".join(json.dumps(line) + "\n" for line in lines.values()))


def read(path: Path) -> Iterable[dict[str, str]]:
    """Every line of the file; none when there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
