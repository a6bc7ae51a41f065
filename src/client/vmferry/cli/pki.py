"""Commands that make certificates: an authority, hosts, clients. No daemon is asked."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import click

from vmferry import pki as authorities
from vmferry.cli import render
from vmferry.cli.exits import ExitCode
from vmferry.cli.running import AliasGroup, Session
from vmferry.errors import AlreadyExists, NotFound

HOSTS, CLIENTS = "hosts", "clients"


def _home() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "vmferry" / "pki"


_directory = click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=_home,
    show_default="~/.config/vmferry/pki",
    help="The authority's folder. Whoever can read ca-key.pem in it can become any host.",
)
_days = click.option(
    "--days",
    type=click.IntRange(1, 36500),
    default=authorities.CERTIFICATE_DAYS,
    show_default=True,
    help="How long it is valid; never longer than the authority.",
)
_renew = click.option("--renew", is_flag=True, help="Replace what was issued under this name before.")


@click.group(cls=AliasGroup)
def pki() -> None:
    """Make and examine certificates."""


@pki.command()
@_directory
@click.option("--name", default="vmferry authority", show_default=True, help="The authority's name.")
@click.option(
    "--days",
    type=click.IntRange(1, 36500),
    default=authorities.AUTHORITY_DAYS,
    show_default=True,
    help="How long it is valid.",
)
def init(directory: Path, name: str, days: int) -> None:
    """Make a new authority."""
    authorities.initialise(directory, name, days, authorities.now())
    _said({"directory": str(directory)}, f"The authority is in {directory}; keep {authorities.CA_KEY} to yourself.")


@pki.group(cls=AliasGroup)
def issue() -> None:
    """Sign certificates for a host or a client."""


@issue.command()
@click.argument("name")
@_directory
@click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="NAME|IP",
    help="Another name or IP address by which peers and clients reach the host; may be repeated.",
)
@_days
@_renew
def host(name: str, directory: Path, addresses: tuple[str, ...], days: int, *, renew: bool) -> None:
    """Sign what the host NAME needs.

    NAME and every --address must be written as they stand in URIs: a daemon that is reached by another name is refused.
    """
    folder = _place(directory / HOSTS / name, renew=renew)
    authority = authorities.Authority.read(directory)
    authorities.issue_host(authority, folder, (name, *addresses), days, authorities.now())
    _said(
        {"folder": str(folder)}, f"Copy {folder} to {name}, and let `certificates` in vmferryd's configuration name it there."
    )


@issue.command()
@click.argument("name")
@_directory
@_days
@_renew
def client(name: str, directory: Path, days: int, *, renew: bool) -> None:
    """Sign what the client NAME needs."""
    folder = _place(directory / CLIENTS / name, renew=renew)
    authorities.issue_client(authorities.Authority.read(directory), folder, name, days, authorities.now())
    _said({"folder": str(folder)}, f"Let the client have {folder}, and VMFERRY_CERTIFICATES name it there.")


@pki.command()
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path, file_okay=False), metavar="[FOLDER]...")
@_directory
@click.pass_context
def show(context: click.Context, folders: tuple[Path, ...], directory: Path) -> None:
    """Show certificates, and what is wrong with them.

    Those in each FOLDER, or all of the authority's. Exits with 1 when something is wrong.
    """
    session = context.ensure_object(Session)
    moment = authorities.now()
    facts = [fact for folder in folders or _all(directory) for fact in authorities.examine(folder, moment)]
    if session.json:
        click.echo(render.as_json({"certificates": [{**asdict(fact), "ends": fact.ends.isoformat()} for fact in facts]}))
    else:
        _draw(facts)
    if any(fact.problems for fact in facts):
        context.exit(ExitCode.OTHER)


def _draw(facts: list[authorities.CertificateFacts]) -> None:
    console = render.stdout()
    for fact in facts:
        render.line(console, (fact.path, "bold"))
        ends = f"{fact.ends:%Y-%m-%d} ({fact.days_left} days left)"
        named = [
            ("name", fact.subject.removeprefix("CN=")),
            ("addresses", ", ".join(fact.addresses)),
            ("shown as", ", ".join(fact.usages)),
            ("valid until", ends),
        ]
        render.facts(console, named, indent=2)
        for problem in fact.problems:
            render.line(console, "  ", ("problem: ", "bold red"), problem)


def _all(directory: Path) -> list[Path]:
    issued = [folder for kind in (HOSTS, CLIENTS) for folder in sorted((directory / kind).glob("*")) if folder.is_dir()]
    if not (directory / authorities.CA_CERTIFICATE).exists():
        raise NotFound(f"{directory} holds no authority", remedy="make one with `vmferry pki init`, or name a folder")
    return [directory, *issued]


def _place(folder: Path, *, renew: bool) -> Path:
    if folder.name in ("", ".", "..") or folder.parent.name not in (HOSTS, CLIENTS):
        raise click.BadParameter("a name cannot lead into another folder", param_hint="NAME")
    if folder.exists() and not renew:
        raise AlreadyExists(f"{folder} is there already", remedy="add --renew to replace its certificates and keys")
    return folder


def _said(facts: dict[str, str], text: str) -> None:
    session = click.get_current_context().ensure_object(Session)
    click.echo(render.as_json(facts) if session.json else text)


COMMANDS: tuple[click.Command, ...] = (pki,)
