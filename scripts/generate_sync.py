"""Writes `vmferry/sync.py`, the synchronous face of `vmferry.client.Connection`, from its source: `make sync`."""  # noqa: INP001

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

CLIENT = Path(__file__).parents[1] / "src" / "client" / "vmferry"
TARGET = CLIENT / "sync.py"
CLASSES = (("client", "Connection"), ("host_calls", "HostCalls"), ("job_calls", "JobCalls"), ("tuning_calls", "TuningCalls"))
"""Where the calls of a connection stand."""

NOT_FOR_SCRIPTS = frozenset(
    {"answers", "begin", "prepare", "perform", "finish", "confirm", "outcome", "abort", "release", "grant", "request_release"}
)
"""What the engine and daemons ask; a script asks the engine."""

HEAD = '''"""The client library for scripts that are not asynchronous. Made by `make sync`; never edit it.

::

    with connect("vmferry+tcp://host-a") as source, connect("vmferry+tcp://host-b") as destination:
        done = source.migrate("web", destination, flags=Flag.LIVE)
        print(done.statistics.guest_pause_ms)

Every call is that of `vmferry.client.Connection` with the same name, raises the same errors, and waits for its answer. A
connection belongs to the thread that has opened it.
"""

from __future__ import annotations

'''

BODY = '''

def connect(
    uri: str | Uri, *, bounds: Bounds = DEFAULTS, credentials: Credentials | None = None
) -> AbstractContextManager[Connection]:
    """A connection to the daemon at `uri`, which has answered. See `vmferry.client.connect`."""
    return blocking.opened(client.connect(uri, bounds=bounds, credentials=credentials), Connection)


class Connection:
    """One daemon. See `vmferry.client.Connection`, which is `asynchronous`."""

    def __init__(self, asynchronous: client.Connection) -> None:
        self.asynchronous = asynchronous

    @property
    def uri(self) -> Uri:
        """Where the daemon is."""
        return self.asynchronous.uri
'''


def methods() -> Iterator[ast.AsyncFunctionDef]:
    """The public calls of a connection, in the order of the code."""
    for module, name in CLASSES:
        tree = ast.parse((CLIENT / f"{module}.py").read_text())
        (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
        for node in found.body:
            if isinstance(node, ast.AsyncFunctionDef) and not node.name.startswith("_") and node.name not in NOT_FOR_SCRIPTS:
                yield node


def imported() -> Mapping[str, str]:
    """Where each name comes from that the calls may use in their signatures."""
    found = {}
    for module, _ in CLASSES:
        for node in _at_the_top(ast.parse((CLIENT / f"{module}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {alias.name: node.module for alias in node.names}
    return found


def _at_the_top(module: ast.Module) -> Iterator[ast.stmt]:
    """The statements of a module, those for type checkers too."""
    for node in module.body:
        yield from node.body if isinstance(node, ast.If) else (node,)


def method(node: ast.AsyncFunctionDef) -> str:
    """The synchronous one: the same signature and docstring."""
    returns = ast.unparse(node.returns) if node.returns else "None"
    is_stream = returns.startswith("AsyncIterator[")
    call = f"self.asynchronous.{node.name}({', '.join(_arguments(node.args))})"
    body = f"blocking.{'each' if is_stream else 'run'}({call})"
    docstring = (ast.get_docstring(node, clean=False) or "").rstrip()
    lines = [
        f"    def {node.name}({ast.unparse(node.args)}) -> {returns.removeprefix('Async')}:",
        f'        """{docstring}{chr(10) + "        " if chr(10) in docstring else ""}"""',
        f"        {'' if returns == 'None' else 'return '}{body}",
    ]
    return "\n".join(lines) + "\n"


def _arguments(args: ast.arguments) -> Iterator[str]:
    for each in args.args[1:]:
        yield _given(each)
    if args.vararg:
        yield f"*{args.vararg.arg}"
    for each in args.kwonlyargs:
        yield f"{each.arg}={_given(each)}"


def _given(argument: ast.arg) -> str:
    is_connection = argument.annotation is not None and ast.unparse(argument.annotation) == "Connection"
    return f"{argument.arg}.asynchronous" if is_connection else argument.arg


def _names(node: ast.AsyncFunctionDef) -> set[str]:
    signature = [node.args, *([node.returns] if node.returns else [])]
    return {each.id for part in signature for each in ast.walk(part) if isinstance(each, ast.Name)}


def generated() -> str:
    """The whole module."""
    found = list(methods())
    used = {"Bounds", "DEFAULTS", "Credentials", "Uri"} | {name for node in found for name in _names(node)}
    sources: dict[str, list[str]] = {"collections.abc": ["Iterator"], "contextlib": ["AbstractContextManager"]}
    sources["vmferry"] = ["blocking", "client"]
    for name, module in imported().items():
        if name in used - {"AsyncIterator", "Connection"}:
            sources.setdefault(module, []).append(name)
    lines = [f"from {module} import {', '.join(sorted(names, key=_constants_first))}" for module, names in sources.items()]
    ordered = sorted(lines, key=lambda line: ("vmferry" in line, line))
    standard = [line for line in ordered if "vmferry" not in line]
    own = [line for line in ordered if "vmferry" in line]
    imports = "\n".join(standard) + "\n\n" + "\n".join(own) + "\n"
    return _formatted(HEAD + imports + BODY + "\n" + "\n".join(method(node) for node in found))


def _formatted(text: str) -> str:
    command = (sys.executable, "-m", "ruff", "format", "--stdin-filename", str(TARGET), "-")
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def _constants_first(name: str) -> tuple[bool, str]:
    return not name.isupper(), name


if __name__ == "__main__":
    TARGET.write_text(generated())
    sys.stdout.write(f"{TARGET.name}: written\n")
