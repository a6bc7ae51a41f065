"""How much memory a process may keep from being swapped out: what is needed, what is allowed, and what helps."""

from __future__ import annotations

import re
import resource
from pathlib import Path

from vmferry.errors import Violation
from vmferryd.domains.model import DomainDefinition

OVERHEAD_BYTES = 1 << 30
"""What a QEMU maps besides its guest's memory: its program, translated code, video memory, stacks. All of it is locked."""

_PROC = Path("/proc")
_CAP_IPC_LOCK = 14


def locked_bytes(definition: DomainDefinition) -> int:
    """How much the guest's QEMU locks at most: its memory and `OVERHEAD_BYTES`, or nothing."""
    return definition.memory_bytes + OVERHEAD_BYTES if definition.memory_locked else 0


def shortage(needed_bytes: int, limit_bytes: int | None) -> Violation | None:
    """What speaks against locking so much where `limit_bytes` may be locked, None without a limit; else None."""
    if limit_bytes is None or needed_bytes <= limit_bytes:
        return None
    text = (
        f"the guest's memory is to be locked, which needs {needed_bytes >> 20} MiB with QEMU's own, and a process of the "
        f"daemon may lock {limit_bytes >> 10} KiB"
    )
    remedy = (
        "Set LimitMEMLOCK=infinity in the daemon's unit and start it anew, or now: prlimit --memlock=unlimited --pid PID of "
        "vmferryd; or give the daemon CAP_IPC_LOCK; or remove <locked/>."
    )
    return Violation("memoryBacking/locked", text, remedy)


def limit_bytes(process: int | None = None) -> int | None:
    """How much a process, else this one and every QEMU that it starts, may lock; None without a limit.

    Raises:
        OSError: there is no such process.
    """
    found = _PROC / ("self" if process is None else str(process)) / "status"
    if may_lock_anything(found.read_text()):
        return None
    soft, _ = resource.prlimit(process or 0, resource.RLIMIT_MEMLOCK)
    return None if soft == resource.RLIM_INFINITY else soft


def may_lock_anything(status: str) -> bool:
    """Whether the kernel asks a process with that `/proc/PID/status` for no limit: it has CAP_IPC_LOCK."""
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    return bool(effective and int(effective[1], 16) >> _CAP_IPC_LOCK & 1)
