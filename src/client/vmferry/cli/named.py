"""Arguments that may be named as well, as virsh takes them: `migrate web URI` is `migrate --desturi URI --domain web`.

A word without a name goes to the first argument that was not named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from vmferry.cli.completion import domain_names

_MEANINGS = "vmferry.named"


class NamedArgument(click.Argument):
    """An argument of a `NamedCommand`, which `option` names."""

    def __init__(self, declarations: Sequence[str], *, option: str, meaning: str = "", **settings: Any) -> None:
        super().__init__(declarations, **settings)
        self.option, self.meaning = option, meaning

    @property
    def usage(self) -> str:
        """How it is named: `--domain NAME`."""
        return f"{self.option} {(self.metavar or (self.name or '').upper()).strip('[]')}"

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """See click; an argument that was named takes no word."""
        if self.name not in _named(ctx):
            super().add_to_parser(parser, ctx)

    def consume_value(self, ctx: click.Context, opts: Mapping[str, Any]) -> tuple[Any, ParameterSource]:
        """See click; the named value, if there is one."""
        named = _named(ctx)
        if self.name in named:
            return named[self.name], ParameterSource.COMMANDLINE
        return super().consume_value(ctx, opts)


class NamedCommand(click.Command):
    """A command whose arguments may be named."""

    @property
    def named(self) -> Mapping[str, NamedArgument]:
        """The arguments by the option that names each."""
        return {each.option: each for each in self.params if isinstance(each, NamedArgument)}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click; what is named is taken out first."""
        values, rest = taken_out(args, {option: each.name or "" for option, each in self.named.items()}, ctx)
        ctx.meta[_MEANINGS] = values
        return super().parse_args(ctx, rest)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See click; the arguments come first, with what names them."""
        rows = [(each.usage, each.meaning) for each in self.named.values()]
        if rows:
            with formatter.section("Arguments, which may be named"):
                formatter.write_dl(rows)
        super().format_options(ctx, formatter)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """See click; the names of arguments are options too."""
        found = super().shell_complete(ctx, incomplete)
        if incomplete.startswith("-"):
            found += [
                CompletionItem(name, help=each.meaning) for name, each in self.named.items() if name.startswith(incomplete)
            ]
        return found


DOMAIN = click.argument(
    "name",
    cls=NamedArgument,
    option="--domain",
    metavar="NAME",
    meaning="The domain, by name or UUID.",
    shell_complete=domain_names,
)
"""The argument of virsh's commands about migrations."""

NAME = click.argument("name", shell_complete=domain_names)
"""The argument of the other commands about a domain."""

WHICH = click.argument("which", metavar="ID|NAME", shell_complete=domain_names)
"""A migration, or a domain whose newest it is."""


def taken_out(args: Sequence[str], names: Mapping[str, str], ctx: click.Context) -> tuple[dict[str, str], list[str]]:
    """The values of the named arguments, and the other words. `names` has the argument of each option.

    Raises:
        BadOptionUsage: the last word is a name.
    """
    values: dict[str, str] = {}
    rest: list[str] = []
    words = iter(args)
    for word in words:
        name, equals, value = word.partition("=")
        if word == "--":
            rest += [word, *words]
        elif name not in names:
            rest.append(word)
        else:
            given = value if equals else next(words, None)
            if given is not None:
                values[names[name]] = given
            elif not ctx.resilient_parsing:  # a shell asks what could follow
                raise click.BadOptionUsage(name, f"Option {name!r} requires an argument.", ctx)
    return values, rest


def _named(ctx: click.Context) -> Mapping[str, str]:
    found: Mapping[str, str] = ctx.meta.get(_MEANINGS, {})
    return found
