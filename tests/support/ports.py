"""Ports for what must be told a number before it listens."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from pathlib import Path

FIRST = 20_000
"""Below it live services that have a number of their own."""
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")

_given: set[int] = set()


def free_port() -> int:
    """As `free_ports`; the port behind it is free too, which a daemon takes for its guests' data."""
    return free_ports(2)[0]


def free_ports(count: int) -> tuple[int, ...]:
    """Ports in a row at which nobody listens on this machine, and which nobody will be given who asks for any port.

    Each is given out once in a process.
    """
    end = int(_EPHEMERAL.read_text().split()[0])
    for _ in range(1000):
        first = random.randrange(FIRST, end - count)
        ports = tuple(range(first, first + count))
        if _given.isdisjoint(ports) and _are_free(ports):
            _given.update(ports)
            return ports
    raise AssertionError(f"no {count} free ports in a row between {FIRST} and {end}")


def _are_free(ports: tuple[int, ...]) -> bool:
    with ExitStack() as stack:
        try:
            for port in ports:
                probe = stack.enter_context(socket.socket())
                probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
