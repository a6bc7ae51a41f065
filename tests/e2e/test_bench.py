"""`make bench` measures what it says, in its quick setting."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.__main__ import QUICK_WAYS, main
from bench.tunnel import carried
from support.guest.build import GuestImage


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
    assert "| 256 MiB, idle | direct |" in capsys.readouterr().out
    assert "tunnel, TLS" in (tmp_path / "bench.svg").read_text()
