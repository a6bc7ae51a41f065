"""Which settings are explored, and how far."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from explorer.world import Copying, Mode, Setting
from vmferry.protocol import ProtocolVersion


def all_settings() -> Iterator[Setting]:
    """Every protocol, by every coordinator, with each way of copying."""
    for protocol in ProtocolVersion:
        for mode in Mode:
            for copying in Copying:
                yield Setting(protocol, mode, copying)


_SLIPS = Setting(ProtocolVersion.V3, slips=True)

USUAL: tuple[Setting, ...] = (
    *(replace(setting, faults=1) for setting in all_settings()),
    *(replace(setting, faults=2) for setting in all_settings() if setting.copying is Copying.PRE),
    replace(_SLIPS, faults=1),
    replace(_SLIPS, mode=Mode.PEER_TO_PEER, faults=2),
)
"""What CI explores: every single fault everywhere, every pair of faults in pre-copy.

A hypervisor that does what it was not told is one fault; where a client can lose a reply it is the only one, for then Finish
is taken for the source's word (ADR 0020).
"""
