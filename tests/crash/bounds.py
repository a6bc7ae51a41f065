"""How long things take in these tests. The daemons' bounds are shorter than the defaults, so that a cell takes seconds."""

from __future__ import annotations

from typing import Any

LIMITS: dict[str, Any] = {
    "phase_lease_s": 5.0,
    "coordinator_grace_s": 0.5,
    "connect_s": 2.0,
    "transfer_stall_s": 3.0,
    "let_go_s": 3.0,
    "finish_s": 5.0,
    "doubt_s": 2.0,
    "peer_call_s": 1.0,
    "peer_silence_s": 3.0,
    "resolver_first_s": 0.1,
    "resolver_longest_s": 1.0,
    "progress_s": 0.1,
    "shutdown_s": 0.5,
}
"""The daemons' `limits`."""

KEEPALIVE_S = 1.5
"""How often a silent connection is asked whether it lives, and how long it may take to answer."""

PATIENCE_S = 3.0
"""How long a client asks again for a reply that was lost."""

ABSENCE_S = 1.0
"""A daemon that was killed is started again after this."""

OUTAGE_S = 5.5
"""What was stopped, cut or switched off comes back after this; by then whoever waits for it has given up."""

FULL_S = 1.5
"""A full disk has space again after this."""

MOMENT_S = 40.0
"""A migration comes to any of its moments within this."""

SETTLE_S = 60.0
"""Everything is settled within this, or never; generous, for the machine may be busy."""
