"""How long to wait between two questions to a silent peer."""

from __future__ import annotations

from collections.abc import Iterator

from vmferryd.limits import Limits


class Backoff:
    """Pauses in seconds, doubling up to the longest one, without end."""

    def __init__(self, limits: Limits) -> None:
        self._first_s = limits.resolver_first_s
        self._longest_s = limits.resolver_longest_s

    def __iter__(self) -> Iterator[float]:
        """The pauses."""
        pause_s = self._first_s
        while True:
            yield pause_s
            pause_s = min(self._longest_s, 2 * pause_s)
