"""Every wait is bounded, every bound can be chosen, and none stands as a number where it is waited."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from pydantic import ValidationError

import vmferry
import vmferryd
from vmferry.bounds import DEFAULTS, ENVIRONMENT, Bounds
from vmferry.cli.__main__ import main
from vmferry.cli.running import Session
from vmferry.errors import InvalidParameter
from vmferryd.config import Config, Keepalive, QemuSection
from vmferryd.drivers.qemu.config import QemuConfig
from vmferryd.limits import Limits

ROOTS = [Path(package.__file__ or "").parent for package in (vmferry, vmferryd)]
WAITS = {"sleep", "timeout", "timeout_at", "wait_for", "settimeout", "select", "wait", "join", "poll", "acquire", "kill"}
"""Whatever is called so waits, and its arguments say for how long."""

HOMES = {"vmferry/bounds.py", "vmferryd/limits.py", "vmferryd/config.py", "vmferryd/drivers/qemu/config.py"}
"""The places where a bound may be a number: there it has a name, a meaning, and can be changed."""

NO_WAITS = {
    "vmferry/checking.py": "when a difference of two clocks, or the rest of a certificate, is worth a note",
    "vmferry/cli/display.py": "how often a picture is drawn",
    "vmferry/cli/forecast.py": "what a forecast looks back at, and the usual pause",
    "vmferryd/clock.py": "where a test's clock starts",
    "vmferry/params.py": "the longest pause that QEMU takes",
    "vmferry/cli/report.py": "so far apart are clocks before it is told",
    "vmferryd/app.py": "seconds in a day",
    "vmferryd/domains/controllers.py": "libvirt's default of a device of the guest",
    "vmferryd/domains/processor.py": "libvirt's bound of a guest's clock",
    "vmferryd/drivers/qemu/gate.py": "QEMU's own parameter that keeps a gate shut",
}
"""Numbers of time that nobody waits for, by file."""

STREAMS = {"Perform", "PerformParams", "WatchDomains", "WatchJob", "WatchJobs"}
"""Calls that last: Perform is bounded by its silence, the others are watched for as long as somebody wants to."""

STUBS = {"_domains", "_handover", "_host", "_jobs", "_stub", "_transfer"}


def sources() -> Iterator[tuple[str, ast.Module]]:
    """Every file of both packages but the generated ones, and the simulated hypervisor, whose time is its own."""
    for root in ROOTS:
        for path in sorted(root.rglob("*.py")):
            name = f"{root.name}/{path.relative_to(root)}"
            if "/api/" not in name and "/drivers/memory/" not in name:
                yield name, ast.parse(path.read_text())


def numbers(node: ast.AST) -> list[float]:
    """The numbers in an expression; 0 bounds nothing, and a factor of 2 only stretches a bound that has a name."""
    constants = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and type(n.value) in (int, float)]
    return [number for number in constants if number not in (0, 2)]


def is_number(node: ast.AST | None) -> bool:
    """The expression is nothing but numbers."""
    if node is None or not numbers(node):
        return False
    return all(isinstance(n, (ast.Constant, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop)) for n in ast.walk(node))


def called(node: ast.Call) -> str:
    """The last word of what is called."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def is_time(name: str) -> bool:
    """The name is one of a duration or a moment."""
    return name.lower().endswith(("_s", "_ms", "_us", "timeout", "deadline")) and not name.lower().endswith("_per_s")


def named(tree: ast.Module) -> Iterator[tuple[str, ast.AST | None, int]]:
    """Every name that gets a value: assigned, as a default, or as an argument."""
    for node in ast.walk(tree):
        match node:
            case ast.Assign():
                for target in node.targets:
                    yield getattr(target, "id", getattr(target, "attr", "")), node.value, node.lineno
            case ast.AnnAssign():
                yield getattr(node.target, "id", getattr(node.target, "attr", "")), node.value, node.lineno
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                given = node.args.args[len(node.args.args) - len(node.args.defaults) :]
                yield from ((a.arg, d, node.lineno) for a, d in zip(given, node.args.defaults, strict=True))
                yield from ((a.arg, d, node.lineno) for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True))
            case ast.Call():
                yield from ((keyword.arg or "", keyword.value, node.lineno) for keyword in node.keywords)


def test_no_wait_has_a_number() -> None:
    """Whoever waits names the bound."""
    found = [
        f"{name}:{node.lineno} {ast.unparse(node)}"
        for name, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and called(node) in WAITS
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]
        if numbers(argument)
    ]
    assert [] == found


def test_no_bound_is_a_number_elsewhere() -> None:
    """A name of a time gets a number only where bounds are at home."""
    found = [
        f"{name}:{line} {bound} = {ast.unparse(value)}"
        for name, tree in sources()
        if name not in HOMES | set(NO_WAITS)
        for bound, value, line in named(tree)
        if value is not None and is_time(bound) and is_number(value)
    ]
    assert [] == found


def test_every_call_has_a_bound() -> None:
    """No call of a daemon is made without one, but for the streams."""
    found = [
        f"{name}:{node.lineno} {ast.unparse(node.func)}"
        for name, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Attribute)
        and node.func.value.attr in STUBS
        and node.func.attr[0].isupper()
        and node.func.attr not in STREAMS
        and "timeout" not in {keyword.arg for keyword in node.keywords}
    ]
    assert [] == found


def test_the_scan_sees_what_it_looks_for() -> None:
    """Each of the three finds a culprit."""
    tree = ast.parse("await asyncio.sleep(5)\nWAIT_S = 3 * 60\nself._host.GetVersion(request)\ndef f(timeout=1.5): ...")
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert [[], [5]] == sorted(numbers(call.args[0]) for call in calls if call.args)
    assert {"WAIT_S", "timeout"} == {bound for bound, value, _ in named(tree) if is_time(bound) and is_number(value)}


def test_exceptions_are_still_there() -> None:
    """A file that is gone, or has no number any more, needs no exception."""
    there = {name for name, tree in sources() for bound, value, _ in named(tree) if is_time(bound) and is_number(value)}
    assert set(NO_WAITS) <= there


# -- and every bound can be chosen -------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", [Limits, Keepalive, QemuSection])
@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_no_bound_is_infinite(section: type[Limits], value: float) -> None:
    """Nothing but a positive number of seconds is a bound; a grace may be none."""
    for name in section.model_fields:
        if name.endswith("_s") and (name, value) != ("coordinator_grace_s", 0.0):
            with pytest.raises(ValidationError):
                section(**{name: value})


def test_every_bound_of_the_driver_can_be_configured() -> None:
    """Whatever may end a wait of the QEMU driver is a key of the configuration."""
    timeouts = {each.name for each in fields(QemuConfig) if each.name.endswith("timeout_s") or each.name == "yank_after_s"}
    assert timeouts - {"recognise_timeout_s"} == {name for name in QemuSection.model_fields if name.endswith("_s")}
    assert {name: getattr(QemuConfig(), name) for name in QemuSection.model_fields if name.endswith("_s")} == {
        name: getattr(QemuSection(), name) for name in QemuSection.model_fields if name.endswith("_s")
    }


def test_a_daemon_is_a_client_with_its_own_bounds() -> None:
    """What a daemon asks of another one is bounded by its configuration."""
    config = Config(limits=Limits(peer_call_s=1, peer_phase_s=2, doubt_s=3), keepalive=Keepalive(interval_s=4, timeout_s=5))
    bounds = config.as_client
    assert (1, 2, 3, 4, 5) == (
        bounds.call_s,
        bounds.phase_s,
        bounds.patience_s,
        bounds.keepalive_s,
        bounds.keepalive_timeout_s,
    )


def test_bounds_from_text() -> None:
    """Each bound can be given by its name; the last word counts, and the others stay."""
    chosen = DEFAULTS.changed(["call_s=7", "look_s=0.5", "call_s=8"])
    assert (8, 0.5, DEFAULTS.phase_s) == (chosen.call_s, chosen.look_s, chosen.phase_s)


@pytest.mark.parametrize(
    "text", ["nap_s=1", "call_s", "call_s=", "call_s=soon", "call_s=0", "call_s=-1", "call_s=inf", "call_s=nan"]
)
def test_what_is_no_bound(text: str) -> None:
    """An unknown name, no number, and a number that bounds nothing are refused."""
    with pytest.raises(InvalidParameter) as caught:
        DEFAULTS.changed([text])
    assert caught.value.remedy


def test_the_program_takes_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the environment, and from the command line, which has the last word."""
    seen: list[Bounds] = []

    @main.command(hidden=True)
    def tell() -> None:
        session = click.get_current_context().find_object(Session)
        assert session is not None
        seen.append(session.bounds)

    monkeypatch.setitem(os.environ, ENVIRONMENT, "call_s=7,phase_s=9")
    try:
        assert 0 == CliRunner().invoke(main, ["--bound", "call_s=8", "tell"]).exit_code
        refused = CliRunner().invoke(main, ["--bound", "call_s=0", "tell"])
    finally:
        del main.commands["tell"]
    assert [(8, 9)] == [(bounds.call_s, bounds.phase_s) for bounds in seen]
    assert 2 == refused.exit_code, refused.output
