"""What every command shares: which daemon, how to print, and how an async command is run and ends.

Commands raise the error tree; `RootGroup` turns it into text and an exit code. No command needs anything but the standard
event loop.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import traceback
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Concatenate, ParamSpec, Protocol

import click

from vmferry.bounds import DEFAULTS, Bounds
from vmferry.channel import DEFAULT_SOCKET, beside
from vmferry.cli import render
from vmferry.cli.exits import ExitCode, exit_code
from vmferry.client import Connection
from vmferry.errors import VmferryError

DEFAULT_URI = f"vmferry+unix://{DEFAULT_SOCKET}"

P = ParamSpec("P")


class Output(StrEnum):
    """How answers are written."""

    TEXT = "text"
    JSON = "json"


class Connector(Protocol):
    """Opens a connection to the daemon at a URI."""

    def __call__(self, uri: str, /) -> AbstractAsyncContextManager[Connection]:
        """The connection; see `vmferry.client.connect`."""
        ...


@dataclass(frozen=True, slots=True)
class Session:
    """The group's options, and the way to a daemon."""

    uri: str
    output: Output
    connector: Connector
    bounds: Bounds = DEFAULTS

    @property
    def json(self) -> bool:
        """Whether answers are for programs."""
        return self.output is Output.JSON

    def daemon(self) -> AbstractAsyncContextManager[Connection]:
        """A connection to the daemon that the user chose."""
        return self.connector(self.uri)

    def other_daemon(self, uri: str) -> AbstractAsyncContextManager[Connection]:
        """A connection to another one, with the same certificates unless it is said which."""
        return self.connector(beside(uri, self.uri))


def asynchronous(
    work: Callable[Concatenate[Session, P], Coroutine[Any, Any, ExitCode | None]],
) -> Callable[P, None]:
    """A click callback that runs `work` with the session to its end, and exits with the code that it returns."""

    @functools.wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        context = click.get_current_context()
        code = asyncio.run(work(context.ensure_object(Session), *args, **kwargs))
        if code:
            context.exit(code)

    return run


class AliasGroup(click.Group):
    """A group that knows libvirt's names for its commands; help lists each command once, in the order of the code."""

    aliases: Mapping[str, str] = {}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name or alias."""
        return super().get_command(ctx, self.aliases.get(cmd_name, cmd_name))

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names, in the order in which they were added."""
        return list(self.commands)


class RootGroup(AliasGroup):
    """The program: every error leaves here as text and one of `ExitCode`, never as a traceback unless asked for."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """See click; wrong usage exits with `ExitCode.OTHER`."""
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            error.show()
            raise click.exceptions.Exit(ExitCode.OTHER) from error

    def invoke(self, ctx: click.Context) -> Any:
        """See click; whatever is raised on purpose is printed, whatever is not is a defect and printed in one line."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            error.show()
            ctx.exit(ExitCode.OTHER)
        except VmferryError as error:
            _report(ctx, error)
            ctx.exit(exit_code(error))
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except Exception as error:  # noqa: BLE001 - the last place that can still say something helpful
            _defect(ctx, error)
            ctx.exit(ExitCode.OTHER)


def _report(context: click.Context, error: VmferryError) -> None:
    if isinstance(context.obj, Session) and context.obj.json:
        click.echo(render.as_json(render.error_facts(error, exit_code(error))), err=True)
    else:
        render.error(render.stderr(), error)
    if context.params.get("debug"):
        traceback.print_exception(error, file=sys.stderr)


def _defect(context: click.Context, error: Exception) -> None:
    click.echo(f"error: unexpected {type(error).__name__}: {error}", err=True)
    if context.params.get("debug"):
        traceback.print_exception(error, file=sys.stderr)
    else:
        click.echo("what to do: run it again with --debug and report what it prints", err=True)
