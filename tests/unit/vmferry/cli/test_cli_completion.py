"""What a shell completes: commands, options, arguments that may be named, and the names of domains."""

import json
import shutil
import subprocess
from contextlib import asynccontextmanager

import pytest
from cli_fakes import SOURCE, Hosts
from click.shell_completion import ShellComplete

from vmferry.cli import completion
from vmferry.cli.__main__ import main
from vmferry.errors import PeerUnreachable


def completed(*words):
    """What could follow; the last word is not finished."""
    *before, incomplete = words
    shell = ShellComplete(main, {}, completion.PROGRAM, completion.VARIABLE)
    return [item.value for item in shell.get_completions(list(before), incomplete)]


@pytest.fixture
def asked(monkeypatch):
    """The URIs that were connected to; two domains are there."""
    hosts, uris = Hosts(), []

    @asynccontextmanager
    async def connect(uri):
        uris.append(uri)
        async with hosts.connect(SOURCE) as daemon:
            yield daemon

    monkeypatch.setattr(completion, "connect", connect)
    return uris


def test_commands_and_options():
    """By the beginning of their names."""
    assert completed("migrate-set") == ["migrate-setmaxdowntime", "migrate-setspeed"]
    assert completed("migrate", "--timeout-a") == ["--timeout-abort"]
    assert completed("migrate", "--migrateu") == ["--migrateuri"]
    assert completed("completion", "") == list(completion.SHELLS)


@pytest.mark.parametrize(
    "command",
    [
        ("migrate",),
        ("destroy",),
        ("domjobinfo",),
        ("job", "watch"),
        ("job", "history"),
        ("where",),
        ("migrate-setspeed",),
        ("events",),
    ],
)
def test_names_of_domains(asked, command):
    """Of the daemon that is named, and only those that begin so."""
    assert completed("-c", "vmferry+tcp://elsewhere", *command, "w") == ["web"]
    assert completed("-c", "vmferry+tcp://elsewhere", *command, "") == ["web", "db"]
    assert set(asked) == {"vmferry+tcp://elsewhere"}


def test_a_daemon_that_is_away_has_none(monkeypatch, capfd):
    """And nothing is said."""

    @asynccontextmanager
    async def connect(uri):
        raise PeerUnreachable(f"no answer from {uri}")
        yield

    monkeypatch.setattr(completion, "connect", connect)
    assert completed("migrate", "w") == []
    assert capfd.readouterr() == ("", "")


def test_the_value_of_a_named_argument(asked):
    """A domain is completed after --domain, too."""
    assert completed("migrate", "--domain", "") == ["web", "db"]


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_script(shell):
    """It asks the program by the variable that it listens to; in JSON it is a text like any other."""
    script = Hosts().run("completion", shell).stdout
    assert f"_VMFERRY_COMPLETE={shell}_complete" in script
    assert json.loads(Hosts().run("-o", "json", "completion", shell).stdout)["script"].strip() == script.strip()
    if path := shutil.which(shell):
        subprocess.run([path, "-n"], input=script, text=True, check=True)
