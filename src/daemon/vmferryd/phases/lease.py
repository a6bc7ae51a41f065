"""The lease that a coordinator has on a migration.

Between phases a coordinator may think for a while; while one of its calls is under way it is there; when such a call
breaks it has a short grace to come back. When the lease runs out, the coordinator is gone, and the host settles the
migration alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from vmferry.errors import VmferryError
from vmferryd.clock import Clock
from vmferryd.phases.watching import first


class Lease:
    """Counts calls under way and keeps the moment at which the lease ends."""

    def __init__(self, clock: Clock, length_s: float) -> None:
        self._clock = clock
        self._length_s = length_s
        self._calls = 0
        self._ends_s = clock.monotonic() + length_s
        self._changed = asyncio.Event()

    @contextmanager
    def attended(self, grace_s: float) -> Iterator[None]:
        """A call of the coordinator is under way. If it breaks, the lease ends `grace_s` later.

        A call that ends with an answer renews the lease, and an error of ours is an answer.
        """
        self._calls += 1
        try:
            yield
        except VmferryError:
            self.renew()
            raise
        except BaseException:
            self._ends_s = self._clock.monotonic() + grace_s
            raise
        else:
            self.renew()
        finally:
            self._calls -= 1
            self._changed.set()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """This daemon is the coordinator: the lease lasts meanwhile, and has ended afterwards."""
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
            self._ends_s = self._clock.monotonic()
            self._changed.set()

    def renew(self) -> None:
        """The lease has its whole length again."""
        self._ends_s = self._clock.monotonic() + self._length_s

    @property
    def left_s(self) -> float:
        """How long the lease still lasts; its length while a call is under way; never less than 0."""
        return self._length_s if self._calls else max(0.0, self._ends_s - self._clock.monotonic())

    async def ran_out(self) -> None:
        """No call is under way, and the lease has not been renewed in time. A call that breaks is noticed at once."""
        while (left_s := self.left_s) > 0:
            self._changed.clear()
            await first(self._clock.sleep(left_s), self._changed.wait())
