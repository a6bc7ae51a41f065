"""Every error of the tree as text, as JSON and as an exit code."""

import json

import pytest
from cli_fakes import ID, SOURCE, Hosts

from vmferry import errors
from vmferry.cli import exits
from vmferry.cli.exits import ExitCode, exit_code
from vmferry.errors import Violation
from vmferry.model import GuestLocation, Phase

TREE = tuple(errors.tree())
KINDS = pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)


def full(kind):
    """An error that knows everything."""
    return kind(
        "it went wrong",
        remedy="do otherwise",
        violations=(Violation("memory", "is too much", "take less"), Violation("cpu", "is unknown")),
        migration_id=ID,
        phase=Phase.PERFORM,
        guest=GuestLocation.SOURCE,
        host="host-a",
        detail="qemu: no",
    )


def failing(error):
    """Hosts where listing domains fails."""
    hosts = Hosts()
    hosts.source.fails["domains"] = error
    return hosts


@KINDS
def test_text_says_all_that_is_known_in_order(kind):
    """Text says all that is known in order."""
    result = failing(full(kind)).run("list")
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "error: it went wrong",
        "  memory: is too much (take less)",
        "  cpu: is unknown",
        f"migration: {ID}",
        "phase: perform",
        "guest: at the source",
        "host: host-a",
        "said: qemu: no",
        "what to do: do otherwise",
    ]
    assert "Traceback" not in result.output


def test_what_helps_is_said_in_options():
    """Who types needs the option and not the flag's name; a program gets the name. TLS is not always the flag."""
    error = errors.NotSupported(
        "no way", remedy="give the hosts TLS, or add UNSAFE", violations=(Violation("disk", "far", "add POSTCOPY_RESUME"),)
    )
    said = failing(error).run("list").stderr
    assert "what to do: give the hosts TLS, or add --unsafe" in said
    assert "(add --postcopy-resume)" in said
    assert json.loads(failing(error).run("-o", "json", "list").stderr)["remedy"] == "give the hosts TLS, or add UNSAFE"


def test_a_parameter_is_called_as_its_option():
    """Who types has never heard of the name in the protocol; a plain word of a sentence stays one."""
    findings = (
        Violation("vmferry.downtime.max", "must be 1 to 2000000 ms, not 0"),
        Violation("bandwidth", "is too much", "leave out tls.destination, or more bandwidth"),
    )
    said = failing(errors.InvalidParameter("no", violations=findings)).run("list").stderr
    assert "  --max-downtime: must be 1 to 2000000 ms, not 0\n" in said
    assert "  --bandwidth: is too much (leave out --tls-destination, or more bandwidth)\n" in said


@KINDS
def test_json_is_an_object_of_facts(kind):
    """Json is an object of facts."""
    error = full(kind)
    result = failing(error).run("-o", "json", "list")
    facts = json.loads(result.stderr)
    assert facts["error"] == kind.reason
    assert facts["exit_code"] == result.exit_code == exit_code(error)
    assert facts["guest"] == "source"
    assert facts["findings"][0] == {"subject": "memory", "description": "is too much", "remedy": "take less"}


def test_what_is_not_known_is_not_mentioned():
    """What is not known is not mentioned."""
    result = failing(errors.InternalError("odd")).run("list")
    assert result.stderr == "error: odd\n"


def test_text_of_others_does_not_steer_the_terminal():
    """Text of others does not steer the terminal."""
    result = failing(errors.DriverRefused("no", detail="\x1b[31mred\x07\nsecond line [bold]")).run("list")
    assert result.stderr.splitlines()[1:] == [
        "said: \N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}",
        "  second line [bold]",
    ]


@KINDS
def test_a_refusal_before_the_transfer_is_told_apart_from_a_failure(kind):
    """A refusal before the transfer is told apart from a failure."""
    refused = issubclass(kind, exits.REFUSALS)
    for phase in (None, Phase.BEGIN, Phase.PREPARE):
        code = exit_code(kind("x", phase=phase, guest=GuestLocation.SOURCE))
        assert code is (ExitCode.IN_DOUBT if kind is errors.InDoubt else ExitCode.REFUSED if refused else ExitCode.FAILED)


@KINDS
@pytest.mark.parametrize("guest", [GuestLocation.DESTINATION, GuestLocation.IN_DOUBT, GuestLocation.NOWHERE])
def test_a_guest_that_is_not_at_the_source_never_looks_as_if_it_were(kind, guest):
    """A guest that is not at the source never looks as if it were."""
    assert exit_code(kind("x", phase=Phase.PREPARE, guest=guest)) is ExitCode.IN_DOUBT


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.FateUnknown("x"), ExitCode.IN_DOUBT),
        (errors.DriverLost("x"), ExitCode.IN_DOUBT),
        (errors.InDoubt("x", guest=GuestLocation.SOURCE), ExitCode.IN_DOUBT),
        (errors.FateUnknown("x", guest=GuestLocation.SOURCE), ExitCode.FAILED),
        (errors.DriverRefused("x", phase=Phase.PERFORM, guest=GuestLocation.SOURCE), ExitCode.FAILED),
        (errors.TimedOut("x"), ExitCode.OTHER),
        (errors.InternalError("x"), ExitCode.OTHER),
    ],
)
def test_exit_codes(error, code):
    """Exit codes."""
    assert exit_code(error) is code


def test_every_code_is_explained():
    """Every code is explained."""
    assert set(exits.MEANINGS) == set(ExitCode)
    assert "  4  in doubt" in exits.help_text()


def test_a_defect_is_one_line_and_a_traceback_only_on_demand():
    """A defect is one line and a traceback only on demand."""
    hosts = failing(ZeroDivisionError("division by zero"))
    short, long = hosts.run("list"), hosts.run("--debug", "list")
    assert short.exit_code == long.exit_code == ExitCode.OTHER
    assert short.stderr.startswith("error: unexpected ZeroDivisionError: division by zero\n")
    assert "Traceback" not in short.stderr
    assert "Traceback" in long.stderr


def test_debug_shows_where_an_error_of_ours_was_raised():
    """Debug shows where an error of ours was raised."""
    assert "Traceback" in failing(errors.InternalError("odd")).run("--debug", "list").stderr


def test_nobody_answers():
    """Nobody answers."""
    result = Hosts().run("-c", "vmferry+tcp://nowhere:1", "list")
    assert result.exit_code == ExitCode.REFUSED
    assert "no answer from vmferry+tcp://nowhere:1" in result.stderr
    assert SOURCE not in result.stderr


def test_every_class_that_promises_that_nothing_happened_is_a_refusal():
    """An error whose meaning ends with that promise has the exit code of a refusal."""
    promises = [kind for kind in errors.tree() if "Nothing happened." in " ".join((kind.__doc__ or "").split())]
    assert [kind for kind in promises if not issubclass(kind, exits.REFUSALS)] == []
