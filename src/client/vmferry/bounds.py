"""Every bound of every wait of a client, in one place. All can be chosen, and none is infinite.

A daemon has its own in its configuration (`vmferryd.limits`); as a client of its peer it derives these from them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace

from vmferry.errors import InvalidParameter

ENVIRONMENT = "VMFERRY_BOUNDS"
"""The environment variable that the program reads: `NAME=SECONDS`, separated by commas."""


def _bound(default_s: float, meaning: str) -> float:
    value: float = field(default=default_s, metadata={"meaning": meaning})
    return value


@dataclass(frozen=True, slots=True)
class Bounds:
    """Seconds. `as_markdown` has what each of them is for."""

    keepalive_s: float = _bound(5.0, "a silent connection is asked whether it lives this often")
    keepalive_timeout_s: float = _bound(5.0, "a connection that does not answer that within this is dead")
    reconnect_first_s: float = _bound(0.2, "the first pause before a lost connection is tried again")
    reconnect_longest_s: float = _bound(2.0, "the longest pause before a lost connection is tried again")
    call_s: float = _bound(30.0, "for the answer to a call that neither moves a guest nor waits for one")
    phase_s: float = _bound(120.0, "for the answer to a phase that moves no memory")
    perform_silence_s: float = _bound(
        300.0, "how long Perform may say nothing: longer than all that the source's daemon waits for in turn"
    )
    patience_s: float = _bound(15.0, "how long a lost reply is asked for again")
    patience_pause_s: float = _bound(0.25, "the pause before a lost reply is asked for again")
    look_s: float = _bound(10.0, "`vmferry where`: until a host counts as silent")
    complete_s: float = _bound(1.0, "TAB in a shell: until the names of a daemon's domains are not waited for any more")

    def changed(self, settings: Iterable[str]) -> Bounds:
        """These bounds with `NAME=SECONDS` for each of `settings`.

        Raises:
            InvalidParameter: a name is unknown, or a value is not a number above 0.
        """
        known = {each.name for each in fields(self)}
        chosen: dict[str, float] = {}
        for setting in settings:
            name, _, value = setting.partition("=")
            if name not in known:
                raise InvalidParameter(f"there is no bound {name!r}", remedy=f"one of {', '.join(sorted(known))}")
            chosen[name] = _seconds(name, value)
        return replace(self, **chosen)


def _seconds(name: str, text: str) -> float:
    try:
        value_s = float(text)
    except ValueError:
        value_s = 0.0
    if not 0 < value_s < float("inf"):
        raise InvalidParameter(f"{name}={text!r} is no bound", remedy="give seconds, more than 0 and not infinite")
    return value_s


def as_markdown() -> str:
    """Every bound, for the documentation."""
    rows = [f"| `{each.name}` | {each.default:g} | {each.metadata['meaning']} |" for each in fields(Bounds)]
    return "\n".join(["| bound | default | meaning |", "|---|---|---|", *rows]) + "\n"


DEFAULTS = Bounds()
"""What holds where nothing is said."""
