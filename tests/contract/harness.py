"""What the contract suite needs of a driver's surroundings.

Each harness module has two functions: `missing() -> str`, why it cannot run here (empty when it can), and
`harness(directory) -> AbstractAsyncContextManager[Harness]`, which leaves nothing behind.
"""

from __future__ import annotations

from typing import Protocol

import pytest

from support.tools import FORBID_SKIP, skipping_forbidden
from vmferryd.domains.model import DomainDefinition
from vmferryd.drivers.base import Driver, Guest

ONLY_QEMU = pytest.mark.parametrize("harness", [pytest.param("qemu", marks=pytest.mark.qemu)], indirect=True)
"""For tests that mean QEMU alone; where it cannot run they are skipped by the same rule as all others."""


def need(reason: str) -> None:
    """What `missing` answers is empty; else the test is skipped, or fails where that is forbidden."""
    if reason and skipping_forbidden():
        pytest.fail(f"{FORBID_SKIP} is set, and: {reason}")
    if reason:
        pytest.skip(reason)


class Harness(Protocol):
    """One host with one driver, and the hands to hurt what runs there."""

    @property
    def driver(self) -> Driver:
        """The driver under test; another object after `restart`."""
        ...

    @property
    def patience_s(self) -> float:
        """How long the slowest step of a transfer may take here."""
        ...

    def definition(self, name: str, *, memory_mib: int = 64, dirty: int = 0) -> DomainDefinition:
        """A definition that starts here. The guest writes `dirty` pages each second while it runs."""
        ...

    async def restart(self) -> Driver:
        """The daemon's half is gone, as if it had been killed, and a new driver object stands over the same host."""
        ...

    def leftovers(self) -> list[str]:
        """What of any guest is still on the host: processes, sockets, files; one line for each."""
        ...

    async def kill(self, guest: Guest) -> None:
        """The guest's hypervisor is gone, as by `kill -9`."""
        ...

    async def executes(self, guest: Guest) -> bool:
        """Whether the guest's own instructions are carried out now: measured, not asked."""
        ...

    async def damage(self, guest: Guest) -> str:
        """What is wrong with the memory that the guest has; empty when it is as its own writes left it."""
        ...
