"""What happens to a live migration that takes too long: libvirt's two actions, and an end, which libvirt lacks. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import click

from vmferry.errors import VmferryError
from vmferry.flags import Flag
from vmferry.model import JobInfo, SourceState

F = TypeVar("F", bound=Callable[..., Any])


class Action(StrEnum):
    """What is done when the time is over."""

    SUSPEND = "suspend"
    POSTCOPY = "postcopy"
    ABORT = "abort"

    @property
    def option(self) -> str:
        """The option that chooses it."""
        return f"--timeout-{self}"


MEANINGS: Mapping[Action, str] = {
    Action.SUSPEND: "The guest stands still for as long as its rest takes, and then runs at the destination. The default.",
    Action.POSTCOPY: "The guest runs at the destination from then on, and its pages follow.",
    Action.ABORT: "The migration ends if it still can, and the guest is at the source.",
}


@dataclass(frozen=True, slots=True)
class Timeout:
    """When the migration has taken too long, and what then happens, once."""

    after_s: int
    action: Action = Action.SUSPEND


def timeout_options(function: F) -> F:
    """`function` gets --timeout and an option for each action."""
    for action in reversed(Action):
        function = click.option(action.option, _key(action), is_flag=True, help=f"With --timeout: {MEANINGS[action]}")(
            function
        )
    text = "What --timeout-… says happens to a live migration that is not done after so many seconds. It fires once."
    return click.option("--timeout", type=click.IntRange(min=1), metavar="SECONDS", help=text)(function)


def read_timeout(given: Mapping[str, Any], flags: Flag) -> Timeout | None:
    """The time limit that the options set; None without one.

    Raises:
        UsageError: they do not fit together.
    """
    chosen = [action for action in Action if given.get(_key(action))]
    if len(chosen) > 1:
        raise click.UsageError(f"{chosen[0].option} and {chosen[1].option} exclude each other: one thing is done, once")
    after_s = given.get("timeout")
    if after_s is None:
        if chosen:
            raise click.UsageError(f"{chosen[0].option} needs --timeout: say after how many seconds")
        return None
    if Flag.LIVE not in flags:
        raise click.UsageError("--timeout needs --live: a guest that stands still cannot be waited for in vain")
    if chosen == [Action.POSTCOPY] and Flag.POSTCOPY not in flags:
        raise click.UsageError("--timeout-postcopy needs --postcopy: both hosts must be ready for the switch")
    return Timeout(after_s, *chosen)


def why_not_postcopy(job: JobInfo | None, error: VmferryError) -> str:
    """What to say when the source has refused to go on to post-copy; `job` is what it says afterwards, if it does."""
    states = {job.state, *(change.state for change in job.changes)} if job is not None else set[str]()
    if states & {SourceState.SERVING, SourceState.SERVING_FAILED}:
        return "post-copy had begun already"
    if states & {SourceState.RELEASED, SourceState.CONFIRMED}:
        return "post-copy was not needed: all memory had been copied before it could begin"
    if SourceState.CANCELLED in states:
        return "post-copy did not begin: the migration had ended before"
    return f"post-copy could not be started, and the migration goes on: {error}"


def _key(action: Action) -> str:
    return f"timeout_{action}"
