"""`migrate --direct` and `receiver`: the guest goes where no daemon is."""

from __future__ import annotations

import json
import subprocess

from cli_fakes import DESTINATION, Hosts

from vmferry import errors
from vmferry.cli.exits import ExitCode
from vmferry.flags import Flag
from vmferry.model import Phase

URI = "tcp:host-b:4444"
WORDS = ["/usr/bin/qemu", "-name", "guest=web, the first", "-append", "a  'b'", "-incoming", URI]


def test_the_guest_goes_where_nobody_is_asked() -> None:
    """One call to the source, none to anybody else; what is shown is where it listens, and no state that nobody knows."""
    hosts = Hosts()
    result = hosts.run("migrate", "--live", "--direct", "web", "--migrateuri", URI)
    assert result.exit_code == 0, result.output
    assert [] == hosts.destination.calls
    assert ["perform"] == [call for call in hosts.source.calls if call in list(Phase)]
    asked = hosts.source.requests["perform"]
    assert ("web", URI, "", Flag.LIVE) == (asked.domain, asked.uri, asked.destination_daemon_uri, asked.flags)
    assert result.stdout.startswith(f"web lives at {URI}, where no daemon can be asked for it")


def test_as_an_object() -> None:
    """A script finds no domain where nobody can say anything of it."""
    result = Hosts().run("-o", "json", "migrate", "--direct", "web", "--migrateuri", URI)
    told = json.loads(result.stdout.splitlines()[-1])
    assert (None, URI) == (told["domain"], told["destination_host"])


def test_what_does_not_go_with_it() -> None:
    """Each is said before anything is asked."""
    for arguments, words in (
        (["--direct", "web"], "--migrateuri"),
        (["web"], "--direct"),
        (["--direct", "--p2p", "web", "--migrateuri", URI], "--p2p"),
        (["--direct", "--persistent", "web", "--migrateuri", URI], "no daemon is there"),
        (["--direct", "--dname", "other", "web", "--migrateuri", URI], "no daemon is there"),
    ):
        hosts = Hosts()
        result = hosts.run("migrate", *arguments)
        assert result.exit_code != 0
        assert words in result.stderr
        assert "perform" not in hosts.source.calls


def test_a_source_that_does_not_offer_it() -> None:
    """It is refused with libvirt's words for a forgotten peer-to-peer."""
    hosts = Hosts()
    hosts.source.features = (6, 13)
    result = hosts.run("migrate", "--direct", "web", "--migrateuri", URI)
    assert ExitCode.REFUSED == result.exit_code
    assert "no daemon receives" in result.stderr


def test_a_daemon_uri_beside_it_is_not_used() -> None:
    """It is said, for a user who forgot --p2p."""
    hosts = Hosts()
    result = hosts.run("migrate", "--direct", "web", DESTINATION, "--migrateuri", URI)
    assert result.exit_code == 0
    assert [] == hosts.destination.calls
    assert "did you mean PEER2PEER" in result.stdout.replace("\n", " ").replace("  ", " ")


def test_the_command_line_can_be_pasted() -> None:
    """A shell that is given what is printed runs exactly these words."""
    hosts = Hosts()
    hosts.source.receiver_words = WORDS
    result = hosts.run("receiver", "web", "--incoming", URI)
    assert result.exit_code == 0
    counted = 'for word in "$@"; do printf "%s\\0" "$word"; done'
    pasted = f"set -- {result.stdout}\n{counted}"
    ran = subprocess.run(["/bin/sh", "-c", pasted], capture_output=True, text=True, check=True)
    assert WORDS == ran.stdout.split("\0")[:-1]


def test_what_is_asked_for_a_receiver(tmp_path) -> None:
    """Its place, its definition, and what becomes of the guest."""
    hosts, file = Hosts(), tmp_path / "web.xml"
    file.write_text("<domain/>")
    options = ["--incoming", URI, "--paused", "--xml", str(file), "--directory", "/srv"]
    result = hosts.run("-o", "json", "receiver", "web", *options)
    assert {"domain": "web", "words": ["qemu"]} == json.loads(result.stdout)
    assert ("web", URI, "<domain/>", "/srv") == hosts.source.asked_receiver
    assert ["receiver_paused"] == hosts.source.calls


def test_a_domain_without_a_command_line() -> None:
    """The daemon's refusal is what the user reads."""
    hosts = Hosts()
    hosts.source.fails["receiver"] = errors.DriverRefused("a simulated guest has no command line")
    result = hosts.run("receiver", "web", "--incoming", URI)
    assert ExitCode.REFUSED == result.exit_code
    assert "no command line" in result.stderr
