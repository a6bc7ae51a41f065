"""Writes the manual pages: `make man`.

They come from what `--help` prints and from the model of the daemon's configuration, so that they cannot say anything else.
"""  # noqa: INP001 - a script, not a package

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))

import generate
from vmferry import __version__
from vmferry.bounds import ENVIRONMENT
from vmferry.cli.__main__ import main as program
from vmferry.cli.exits import MEANINGS
from vmferry.cli.named import NamedArgument
from vmferryd.__main__ import main as daemon

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "build" / "man"
SEE_ALSO = ("vmferry(1)", "vmferryd(8)", "vmferryd.toml(5)")

ENVIRONMENTS = {
    "VMFERRY_URI": "The daemon to talk to, where --connect does not say it.",
    ENVIRONMENT: "How long to wait for what: NAME=SECONDS, separated by commas.",
    "VMFERRY_CERTIFICATES": "The folder with this client's certificates, which `vmferry pki issue client` has made.",
}


def pages() -> Mapping[str, str]:
    """Every page by its file name."""
    found = {f"{name.replace(' ', '-')}.1": command_page(name, command) for name, command in _commands("vmferry", program)}
    found["vmferryd.8"] = command_page("vmferryd", daemon, section=8)
    found["vmferryd.toml.5"] = configuration_page()
    return found


def _commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for each in _below(command):
            yield from _commands(f"{name} {each.name}", each)


def _below(group: click.Group) -> Iterator[click.Command]:
    context = click.Context(group)
    for name in group.list_commands(context):
        if (command := group.get_command(context, name)) is not None:
            yield command


def command_page(name: str, command: click.Command, section: int = 1) -> str:
    """The page of one command."""
    context = click.Context(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context))
    summary, *rest = _paragraphs(command)
    parts = [
        _heading(name.replace(" ", "-"), section, summary.rstrip(".")),
        f'.SH SYNOPSIS\n.B "{_text(name)}"\n{_line(usage)}\n',
        ".SH DESCRIPTION\n" + "".join(map(_paragraph, [summary, *rest])),
        _definitions("ARGUMENTS", _arguments(command)),
        _definitions("OPTIONS", _options(command, context)),
    ]
    if isinstance(command, click.Group):
        listed = {f"{name} {each.name}": each.get_short_help_str(120) for each in _below(command)}
        parts.append(_definitions("COMMANDS", listed))
    if command is program:
        parts += [
            _definitions("EXIT STATUS", {str(int(code)): f"{meaning}." for code, meaning in MEANINGS.items()}),
            _definitions("ENVIRONMENT", ENVIRONMENTS),
        ]
    return "".join([*filter(None, parts), _see_also(name)])


def configuration_page() -> str:
    """The page of the daemon's configuration file, key by key."""
    keys = {
        f"{key} ({kind}; default {default.replace('`', '')})": f"{meaning}."
        for key, kind, default, meaning in generate.configuration_rows()
    }
    parts = [
        _heading("vmferryd.toml", 5, "the configuration of vmferryd"),
        ".SH DESCRIPTION\n",
        _paragraph("A TOML file, which `vmferryd --config FILE` reads; options of the command line override it."),
        _paragraph("A key with a dot stands in a table: `log.level` is `level` in `[log]`."),
        _paragraph("`vmferryd --check-config` says what is wrong with it, and ends."),
        _definitions("KEYS", keys),
    ]
    return "".join([*parts, _see_also("vmferryd.toml")])


def _paragraphs(command: click.Command) -> Sequence[str]:
    return re.split(r"\n\s*\n", (command.help or command.short_help or "").strip())


def _arguments(command: click.Command) -> Mapping[str, str]:
    return {each.usage: each.meaning for each in command.params if isinstance(each, NamedArgument)}


def _options(command: click.Command, context: click.Context) -> Mapping[str, str]:
    records = [each.get_help_record(context) for each in command.get_params(context) if isinstance(each, click.Option)]
    return dict(filter(None, records))


def _heading(name: str, section: int, summary: str) -> str:
    manual = f'"vmferry {__version__}" "vmferry manual"'
    return (
        f'.TH "{_text(name.upper())}" {section} "" {manual}\n.SH NAME\n{_text(name)} \\- {_text(" ".join(summary.split()))}\n'
    )


def _see_also(name: str) -> str:
    others = [each for each in SEE_ALSO if not each.startswith(f"{name}(")]
    return f".SH SEE ALSO\n{_line(', '.join(others))}\n"


def _definitions(heading: str, rows: Mapping[str, str]) -> str:
    if not rows:
        return ""
    return f".SH {heading}\n" + "".join(
        f".TP\n\\fB{_text(term)}\\fR\n{_line(_joined(text))}\n" for term, text in rows.items()
    )


def _paragraph(text: str) -> str:
    if text.startswith("\b"):
        return f".PP\n.nf\n{chr(10).join(map(_line, text.splitlines()[1:]))}\n.fi\n"
    return f".PP\n{_line(_joined(text))}\n"


def _joined(text: str) -> str:
    return " ".join(text.split()) or "."


def _line(text: str) -> str:
    """`text` as a line that is no request."""
    return ("\\&" if text[:1] in (".", "'") else "") + _text(text)


def _text(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq").replace("…", "...").replace("`", "\\(ga")


def main() -> None:
    """The pages are in build/man, one folder for each section as `man -M` wants it."""
    for name, text in pages().items():
        folder = TARGET / f"man{name.rpartition('.')[2]}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    sys.stdout.write(f"{len(pages())} pages in {TARGET}; read one with: man -M {TARGET.relative_to(ROOT)} vmferry\n")


if __name__ == "__main__":
    main()
