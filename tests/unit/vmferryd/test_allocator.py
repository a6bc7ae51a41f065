"""The switch that keeps freed memory with the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vmferryd import allocator

_PROBE = """
import resource, sys
from vmferryd import allocator
assert sys.argv[1] != "kept" or allocator.keep_freed_memory()
bytes(1 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for number in range(100):
    len(b"x" * (1 << 20) + number.to_bytes(2, "big"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _page_faults(switch: str) -> int:
    done = subprocess.run([sys.executable, "-c", _PROBE, switch], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's switch")
def test_freed_pieces_are_not_taken_from_the_kernel_again() -> None:
    """With the switch a hundred pieces of a mebibyte cost the page faults of few; without it, of all."""
    assert _page_faults("kept") * 5 < _page_faults("as usual")


def test_missing_switch_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A C library without the switch is no error."""
    monkeypatch.setattr("ctypes.util.find_library", lambda _: "no-such-library.so")
    assert allocator.keep_freed_memory() is False
