"""Which port a migration gets that wants one of its own. Pure: whether it is free otherwise is found out by who binds it."""

from __future__ import annotations

from collections.abc import Iterator

from vmferry.errors import AddressUnavailable


class Ports:
    """The ports from `first` to `last`, and which of them migrations hold now."""

    def __init__(self, first: int, last: int) -> None:
        self._range = range(first, last + 1)
        self._held: set[int] = set()
        self._next = first

    @property
    def held(self) -> frozenset[int]:
        """What migrations hold."""
        return frozenset(self._held)

    def candidates(self) -> Iterator[int]:
        """Every port that no migration holds, each once. One that was just given back comes last."""
        start = self._next - self._range.start
        yield from (port for port in (*self._range[start:], *self._range[:start]) if port not in self._held)

    def hold(self, port: int) -> None:
        """A migration has `port`, which may lie outside the range."""
        self._held.add(port)
        if port in self._range:
            self._next = port + 1 if port + 1 in self._range else self._range.start

    def release(self, port: int) -> None:
        """No migration has `port`."""
        self._held.discard(port)

    def exhausted(self) -> AddressUnavailable:
        """What is said when no candidate could be had."""
        mine = len(self._held & set(self._range))
        return AddressUnavailable(
            f"no port from {self._range.start} to {self._range.stop - 1} is free; migrations hold {mine} of them",
            remedy="wait for a migration to end, or widen data.first_port to data.last_port",
        )
