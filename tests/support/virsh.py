"""What virsh has, what of it vmferry has, and which tests show that: the tables of docs/virsh.md.

A test says `@pytest.mark.option("--live")` of what it exercises; for a sibling command the mark names it, and its options by
`migrate-setspeed --postcopy`.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click

from vmferry.cli.__main__ import main
from vmferry.cli.named import NamedArgument
from vmferry.flags import FLAGS
from vmferry.params import PARAMETERS
from vmferryd.phases.settings import HONOURED, HONOURED_PARAMS

TESTS = Path(__file__).parents[1]

MIGRATE = tuple(
    """
    --domain --desturi --live --offline --p2p --direct --tunnelled --tunneled --persistent --undefinesource --suspend
    --copy-storage-all --copy-storage-inc --copy-storage-synchronous-writes --change-protection --unsafe --verbose
    --compressed --auto-converge --rdma-pin-all --abort-on-error --postcopy --postcopy-after-precopy --postcopy-resume
    --zerocopy --migrateuri --graphicsuri --listen-address --dname --timeout --timeout-suspend --timeout-postcopy --xml
    --persistent-xml --migrate-disks --migrate-disks-detect-zeroes --disks-port --disks-uri --comp-methods --comp-mt-level
    --comp-mt-threads --comp-mt-dthreads --comp-xbzrle-cache --comp-zlib-level --comp-zstd-level --auto-converge-initial
    --auto-converge-increment --tls --tls-destination --bandwidth --postcopy-bandwidth --available-switchover-bandwidth
    --parallel --parallel-connections
    """.split()  # noqa: SIM905 - fifty lines would not read better
)
"""The options of `virsh migrate` (specification 7.1 and 10)."""

SIBLINGS: Mapping[str, Sequence[str]] = {
    "migrate-setmaxdowntime": ("--domain", "--downtime"),
    "migrate-getmaxdowntime": ("--domain",),
    "migrate-compcache": ("--domain", "--size"),
    "migrate-setspeed": ("--domain", "--bandwidth", "--postcopy"),
    "migrate-getspeed": ("--domain", "--postcopy"),
    "migrate-postcopy": ("--domain",),
    "domjobabort": ("--domain", "--postcopy"),
    "domjobinfo": ("--domain", "--completed", "--keep-completed", "--anystats", "--rawstats"),
}
"""The other commands about migrations, with their options (specification 7.4)."""

AWAITED: frozenset[str] = frozenset()
"""Rows that no test fills yet. A row that a test fills is taken from here: in the end there are none."""


@dataclass(frozen=True, slots=True)
class Test:
    """A test that exercises something."""

    path: Path
    name: str

    @property
    def link(self) -> str:
        """It in a document of docs/."""
        return f"[{self.name}](../tests/{self.path.relative_to(TESTS)})"


def wanted() -> tuple[str, ...]:
    """Every row of both tables."""
    siblings = ((command, *(f"{command} {option}" for option in options)) for command, options in SIBLINGS.items())
    return (*MIGRATE, *(row for rows in siblings for row in rows))


@cache
def exercised() -> Mapping[str, tuple[Test, ...]]:
    """The tests of each row, as the marks have it."""
    found: dict[str, list[Test]] = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        text = path.read_text()
        if "mark.option(" in text:
            for row, test in _marks(path, ast.parse(text)):
                found[row].append(test)
    return {row: tuple(dict.fromkeys(tests)) for row, tests in found.items()}


def _marks(path: Path, tree: ast.Module) -> Iterator[tuple[str, Test]]:
    for function in tree.body:
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in function.decorator_list:
                for row in _rows(decorator):
                    yield row, Test(path, function.name)


def _rows(decorator: ast.expr) -> Iterator[str]:
    for node in ast.walk(decorator):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "option":
            yield from (word.value for word in node.args if isinstance(word, ast.Constant) and isinstance(word.value, str))


def spellings(command: click.Command) -> Mapping[str, str]:
    """Every option of a command, with all the ways to write it; positional arguments that may be named included."""
    found: dict[str, str] = {}
    for parameter in command.params:
        if isinstance(parameter, NamedArgument):
            found[parameter.option] = f"`{parameter.option}`, or by its place"
        else:
            named = [word for word in parameter.opts if word.startswith("-")]
            found |= dict.fromkeys(named, ", ".join(f"`{word}`" for word in named))
    return found


def command(name: str) -> click.Command | None:
    """The command of that name, or libvirt's name."""
    return main.get_command(click.Context(main), name)


def migrate_table() -> str:
    """Each option of `virsh migrate`, vmferry's equivalent, and the tests that exercise it."""
    known = spellings(_found("migrate"))
    rows = [(f"`{option}`", known.get(option, "") + _refusal(option), option) for option in MIGRATE]
    return _table("virsh migrate", rows)


def _refusal(option: str) -> str:
    """What is said of an option that no daemon honours today."""
    flags = {row.option for row in FLAGS if row.flag not in HONOURED}
    return "; refused today" if option in flags | {p.option for p in PARAMETERS if p.attribute not in HONOURED_PARAMS} else ""


def siblings_table() -> str:
    """The same for the other commands."""
    rows = []
    for name, options in SIBLINGS.items():
        made = command(name)
        known = spellings(made) if made else {}
        path = "" if made is None else f"`{name}`" if made.name == name else f"`{name}`, `job {made.name}`"
        rows += [(f"`{name}`", path, name)]
        rows += [(f"`{name} {option}`", known.get(option, ""), f"{name} {option}") for option in options]
    return _table("virsh", rows)


def own_table() -> str:
    """What `vmferry migrate` has beyond virsh."""
    rows = [
        (", ".join(f"`{word}`" for word in each.opts), each.help or "")
        for each in _found("migrate").params
        if isinstance(each, click.Option) and not set(each.opts) & set(MIGRATE)
    ]
    return "\n".join(["| option | does |", "|---|---|", *(f"| {option} | {text} |" for option, text in rows)]) + "\n"


def _found(name: str) -> click.Command:
    made = command(name)
    assert made is not None, name
    return made


def _table(heading: str, rows: Sequence[tuple[str, str, str]]) -> str:
    lines = [f"| {heading} | vmferry | shown by |", "|---|---|---|"]
    for virsh, ours, row in rows:
        tests = exercised().get(row, ())
        lines.append(f"| {virsh} | {ours or 'awaited'} | {', '.join(test.link for test in tests) or 'awaited'} |")
    return "\n".join(lines) + "\n"
