"""Writes the tables of the documents that follow from the code: `python docs/generate.py`.

A document has a pair of marks for each table; what stands between them is replaced. `tests/unit/test_docs.py` fails when a
table and the code disagree.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from types import UnionType
from typing import Any, get_args
from uuid import UUID

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parent))

import api_reference
from crash import table
from support import data_plane, virsh
from vmferry import bounds, combinations, errors, features, flags, negotiation, params, protocol, statistics
from vmferry.channel import Uri
from vmferry.cli.options import NOT_AVAILABLE
from vmferryd.config import Config
from vmferryd.phases import cookie
from vmferryd.phases.settings import HONOURED, HONOURED_PARAMS

DOCS = Path(__file__).parent

MEANINGS: Mapping[str, str] = {
    "listen": "where the daemon answers; a list of URIs, or one",
    "advertise": "where other daemons reach this one; by default the first TLS place, else TCP, else a socket",
    "insecure": "allow TCP without TLS on an address that others can reach",
    "certificates": "folder that `vmferry pki issue host` made: [certificates](#certificates)",
    "state_directory": "the journal lives here; it must survive a reboot",
    "run_directory": "guests' sockets, logs and records live here; it must survive a restart of the daemon",
    "host_name": "the name that others are told; empty is the machine's own",
    "host_uuid": "two daemons on one machine need different ones; by default each state directory has its own",
    "announce.protocols": "the migration protocols whose calls it answers",
    "announce.params": "answer the calls of protocol 3 with typed parameters",
    "announce.features": "libvirt's numbers of the other features that it announces",
    "keepalive.interval_s": "a silent connection is asked whether it lives this often, in seconds",
    "keepalive.timeout_s": "a connection that does not answer within this is dead, in seconds",
    "qemu.enabled": "look for QEMU",
    "qemu.emulator": "replaces the QEMU that is looked for",
    "log.level": "`debug`, `info`, `warning` or `error`",
    "log.json_lines": "JSON lines on stderr instead of text",
}
"""What the keys mean that have no description of their own in the code."""

_TYPES = {bool: "boolean", float: "number", int: "integer", str: "text", Path: "path", UUID: "UUID", Uri: "URI"}


def configuration() -> str:
    """Every key of the configuration file."""
    rows = [f"| `{key}` | {kind} | {default} | {meaning} |" for key, kind, default, meaning in configuration_rows()]
    return "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows]) + "\n"


def configuration_rows() -> Iterator[tuple[str, str, str, str]]:
    """Every key of the configuration file with its type, its default and what it means."""
    return _keys(Config, "")


def _keys(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for name, field in section.model_fields.items():
        key, annotation = prefix + name, field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _keys(annotation, f"{key}.")
        else:
            default = "" if field.default is PydanticUndefined else _toml(field.default)
            yield key, _type(annotation), default, field.description or MEANINGS[key]


def _type(annotation: Any) -> str:
    arguments = [argument for argument in get_args(annotation) if argument not in (type(None), Ellipsis)]
    if arguments and not isinstance(annotation, UnionType):
        kind = "integer" if issubclass(arguments[0], IntEnum) else _TYPES[arguments[0]]
        return f"list of {kind}s"
    return _TYPES[arguments[0] if arguments else annotation]


def _toml(value: object) -> str:
    match value:
        case None | "":
            return "-"
        case bool():
            return f"`{str(value).lower()}`"
        case frozenset():
            return f"`{sorted(int(number) for number in value)}`"
        case tuple():
            return "`[" + ", ".join(f'"{item}"' for item in value) + "]`"
        case int() | float():
            return f"`{value:g}`"
    return f'`"{value}"`'


def error_catalogue() -> str:
    """Every error, depth first."""
    lines = ["| reason | gRPC code | class | meaning |", "|---|---|---|---|"]
    for kind in errors.tree():
        meaning = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
        lines.append(f"| `{kind.reason}` | {kind.code.name} | `{kind.__name__}` | {meaning} |")
    return "\n".join(lines) + "\n"


def honoured_flags() -> str:
    """What becomes of each flag today."""
    lines = ["| flag | daemon | command line |", "|---|---|---|"]
    for row in flags.FLAGS:
        daemon = "honoured" if row.flag in HONOURED else "refused"
        lines.append(f"| {row.name} | {daemon} | {'refused' if row.flag in NOT_AVAILABLE else 'passed on'} |")
    return "\n".join(lines) + "\n"


def honoured_parameters() -> str:
    """The parameters that a daemon acts upon today."""
    names = [f"`{row.name}`" for row in params.PARAMETERS if row.attribute in HONOURED_PARAMS]
    refused = [f"`{row.name}`" for row in params.PARAMETERS if row.attribute not in HONOURED_PARAMS]
    return f"| | parameters |\n|---|---|\n| honoured | {', '.join(names)} |\n| refused | {', '.join(refused)} |\n"


TABLES: Mapping[str, Callable[[], str]] = {
    "configuration": configuration,
    "bounds": bounds.as_markdown,
    "errors": error_catalogue,
    "flags": flags.as_markdown,
    "honoured-flags": honoured_flags,
    "parameters": params.as_markdown,
    "honoured-parameters": honoured_parameters,
    "features": features.as_markdown,
    "statistics": statistics.as_markdown,
    "combinations": combinations.as_markdown,
    "protocols": protocol.as_markdown,
    "cookie": cookie.as_markdown,
    "differences": negotiation.as_markdown,
    "api-library": api_reference.library,
    "api-services": api_reference.services,
    "virsh-migrate": virsh.migrate_table,
    "virsh-siblings": virsh.siblings_table,
    "virsh-own": virsh.own_table,
    "failures": table.failures,
    "failure-bounds": table.bounds,
    "data-plane": data_plane.as_markdown,
}

MARKS = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def generated(text: str) -> str:
    """The document with every table as the code has it now."""
    return MARKS.sub(lambda mark: f"{mark[1]}{TABLES[mark[2]]()}{mark[3]}", text)


def documents() -> list[Path]:
    """Every document that may have marks."""
    return sorted(DOCS.rglob("*.md"))


def main() -> None:
    """Every document is up to date."""
    for path in documents():
        text = path.read_text()
        fresh = generated(text)
        if fresh != text:
            path.write_text(fresh)
            sys.stdout.write(f"{path.relative_to(DOCS.parent)}: written\n")


if __name__ == "__main__":
    main()
