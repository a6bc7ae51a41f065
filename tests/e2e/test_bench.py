"""`make bench` measures what it says, in its quick setting."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from bench.__main__ import QUICK_WAYS, main
from bench.traced import tracing
from bench.tunnel import carried
from support.guest.build import GuestImage


def test_a_tracing_emulator_is_the_emulator(tmp_path: Path) -> None:
    """It is asked for what is needed, and the program in whose place it stands gets every argument as it was."""
    directory = tmp_path / "it's here"
    directory.mkdir()
    said = subprocess.run([tracing("echo", directory), "-name", "a b"], capture_output=True, text=True, check=True).stdout
    given = "-name a b -msg timestamp=on -trace migrate_set_state -trace runstate_set -D "
    assert said.startswith(f"{given}{directory}/")
    assert said.endswith(".trace\n")


async def test_tunnels_are_measured_and_their_daemon_is_asked(short_directory: Path) -> None:
    """Every byte has come, else there would be no figure; calls were answered meanwhile."""
    found = await carried("tcp", 2, 32 << 20, short_directory / "t")
    assert found.bytes_per_s > 0
    assert found.source_cpu_s > 0
    assert found.answers_ms


@pytest.mark.slow
@pytest.mark.qemu
def test_the_quick_setting_measures_every_way(
    guest_image: GuestImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The guest is whole each time, and the figures are printed, written and drawn."""
    assert main(["--quick", "--directory", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "bench.json").read_text())
    assert [move["way"] for move in written["moves"]] == list(QUICK_WAYS)
    assert all(move["total_ms"] > 0 and move["pause_ms"] > 0 for move in written["moves"])
    (traced,) = written["traced"]
    assert traced["pause"] is not None, traced["missing"]
    assert all(part["median_ms"] > 0 for part in written["pauses"])
    printed = capsys.readouterr().out
    assert "| 256 MiB, idle | direct |" in printed
    assert "| the daemons, in all |" in printed
    assert "| direct, the daemons' share of the pause | <= 10 ms |" in printed
    assert "tunnel, TLS" in (tmp_path / "bench.svg").read_text()
