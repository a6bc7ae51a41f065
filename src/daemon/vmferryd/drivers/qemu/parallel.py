"""Several connections for one guest's memory: QEMU's multifd.

QEMU makes and takes these connections by itself, for it accepts no descriptors there: at UNIX sockets in the guest's own
folder, to which the daemons lead.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vmferryd.drivers.base import Parallel

_ARRIVALS = "mem-in"
METHODS = ("zlib", "zstd")
PARAMETERS = ("multifd-channels", "multifd-compression", "multifd-zlib-level", "multifd-zstd-level")
"""What is put back after a transfer."""


def capabilities(parallel: Parallel | None) -> frozenset[str]:
    """The migration capabilities that both ends need."""
    return frozenset() if parallel is None else frozenset({"multifd"})


def parameters(parallel: Parallel | None) -> Mapping[str, Any]:
    """The migration parameters that both ends need."""
    if parallel is None:
        return {}
    level = {} if parallel.level is None else {f"multifd-{parallel.compression}-level": parallel.level}
    return {
        "multifd-channels": parallel.connections,
        "multifd-compression": parallel.compression or "none",
        **level,
    }


def arrivals(directory: Path) -> Path:
    """Where a QEMU that waits for a guest listens."""
    return directory / _ARRIVALS


def uri(path: Path) -> str:
    """The same for QEMU."""
    return f"unix:{path}"
