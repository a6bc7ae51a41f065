"""`vmferry pki`: what it makes is what daemons, clients and QEMU take, and what is wrong is found."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from support.tools import qemu_missing
from vmferry import pki
from vmferry.channel import Credentials
from vmferry.cli.__main__ import main
from vmferry.cli.exits import ExitCode

YEAR = dt.timedelta(days=365)


def run(*words: str) -> Result:
    """The program, as somebody would type it."""
    return CliRunner().invoke(main, ["pki", *words])


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An authority that has signed for one host and one client."""
    directory = tmp_path / "pki"
    for words in (["init"], ["issue", "host", "host-a", "--address", "192.0.2.7"], ["issue", "client", "alice"]):
        result = run(*words, "--directory", str(directory))
        assert result.exit_code == 0, result.output
    return directory


def test_a_host_has_all_that_both_layers_read(home: Path) -> None:
    """The daemon's credentials of both roles, readable by their owner only."""
    folder = home / "hosts/host-a"
    for role in pki.Role:
        assert Credentials.read(folder, role).certificate is not None
    keys = [folder / role.key for role in pki.Role] + [home / pki.CA_KEY]
    assert [0o600] * 3 == [key.stat().st_mode & 0o777 for key in keys]
    assert not list(folder.glob(pki.CA_KEY))


def test_openssl_accepts_the_pair(home: Path) -> None:
    """Server and client convince each other in memory, under the name and under the address."""
    for name in ("host-a", "192.0.2.7"):
        assert _shaken(home / "hosts/host-a", home / "clients/alice", name)


def test_another_name_is_refused(home: Path) -> None:
    """A host that is reached by a name it was not issued for is not believed."""
    with pytest.raises(ssl.SSLCertVerificationError):
        _shaken(home / "hosts/host-a", home / "clients/alice", "host-b")


def _shaken(server: Path, client: Path, name: str) -> bool:
    def context(purpose: ssl.Purpose, folder: Path, role: pki.Role) -> ssl.SSLContext:
        made = ssl.create_default_context(purpose, cafile=str(folder / pki.CA_CERTIFICATE))
        made.load_cert_chain(folder / role.certificate, folder / role.key)
        made.verify_mode = ssl.CERT_REQUIRED
        return made

    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = context(ssl.Purpose.CLIENT_AUTH, server, pki.Role.SERVER).wrap_bio(to_server, to_client, server_side=True)
    theirs = context(ssl.Purpose.SERVER_AUTH, client, pki.Role.CLIENT).wrap_bio(to_client, to_server, server_hostname=name)
    done = set()
    for side in [theirs, ours] * 5:
        try:
            side.do_handshake()
            done.add(side)
        except ssl.SSLWantReadError:
            continue
    return len(done) == 2


@pytest.mark.qemu
@pytest.mark.parametrize("endpoint", ["server", "client"])
def test_qemu_accepts_the_folder(home: Path, endpoint: str) -> None:
    """QEMU's own check of the certificates finds nothing."""
    if reason := qemu_missing():
        pytest.skip(reason)
    credentials = f"tls-creds-x509,id=tls,dir={home / 'hosts/host-a'},endpoint={endpoint},verify-peer=on"
    command = ["qemu-system-x86_64", "-machine", "none", "-display", "none", "-monitor", "stdio", "-object", credentials]
    done = subprocess.run(command, input="quit\n", capture_output=True, text=True, timeout=60, check=False)
    assert (0, "") == (done.returncode, done.stderr)


def test_nothing_is_wrong_with_what_was_made(home: Path) -> None:
    """`show` lists every certificate and finds no problem."""
    result = run("show", "--directory", str(home))
    assert 0 == result.exit_code
    assert 6 == result.output.count("valid until")  # the authority stands in each folder too
    assert "problem" not in result.output
    assert "host-a, 192.0.2.7" in result.output


def test_show_as_json(home: Path) -> None:
    """A program gets the same facts."""
    result = CliRunner().invoke(main, ["-o", "json", "pki", "show", str(home / "hosts/host-a")])
    certificates = json.loads(result.output)["certificates"]
    assert [[], ["server"], ["client"]] == [fact["usages"] for fact in certificates]


def test_every_problem_is_found(home: Path, tmp_path: Path) -> None:
    """Of another authority, open to others, with another's key: all are said, and the exit code says that something is."""
    folder = home / "hosts/host-a"
    assert 0 == run("init", "--directory", str(tmp_path / "other")).exit_code
    assert 0 == run("issue", "host", "host-a", "--directory", str(tmp_path / "other")).exit_code
    shutil.copy(tmp_path / "other/hosts/host-a/server-cert.pem", folder)
    (folder / "client-key.pem").chmod(0o644)
    result = run("show", str(folder))
    assert ExitCode.OTHER == result.exit_code
    for problem in ("was not signed by ca-cert.pem", "server-key.pem is not its key", "client-key.pem can be read by others"):
        assert problem in result.output


@pytest.mark.parametrize(
    ("after", "problem"),
    [
        (YEAR * 11, "has ended"),
        (dt.timedelta(days=pki.CERTIFICATE_DAYS - 3), "ends within 30 days"),
        (-YEAR, "not valid before"),
    ],
)
def test_time_is_looked_at(home: Path, after: dt.timedelta, problem: str) -> None:
    """What has ended, ends soon, or has not begun is a finding."""
    facts = pki.examine(home / "hosts/host-a", pki.now() + after)
    assert any(problem in text for fact in facts[1:] for text in fact.problems)


def test_no_certificate_outlives_its_authority(tmp_path: Path) -> None:
    """Whatever is asked for."""
    now = pki.now()
    authority = pki.Authority.new("short", 10, now)
    pki.issue_host(authority, tmp_path, ["a"], 800, now)
    first, *others = pki.examine(tmp_path, now)
    assert all(fact.ends <= first.ends for fact in others)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["init"], "holds an authority already"),
        (["issue", "host", "host-a"], "add --renew"),
        (["issue", "host", "../escape"], "cannot lead into another folder"),
        (["issue", "host", "host b"], "neither a host name nor an IP address"),
        (["issue", "client", "x" * 65], "cannot be a name"),
    ],
)
def test_what_is_refused(home: Path, words: list[str], said: str) -> None:
    """With the reason and what helps; nothing is overwritten."""
    before = (home / pki.CA_KEY).read_bytes()
    result = run(*words, "--directory", str(home))
    assert result.exit_code != 0
    assert said in result.output
    assert before == (home / pki.CA_KEY).read_bytes()


def test_renewal_replaces_both_files(home: Path) -> None:
    """The new key belongs to the new certificate."""
    before = (home / "hosts/host-a/server-key.pem").read_bytes()
    assert 0 == run("issue", "host", "host-a", "--renew", "--directory", str(home)).exit_code
    assert before != (home / "hosts/host-a/server-key.pem").read_bytes()
    assert 0 == run("show", str(home / "hosts/host-a")).exit_code


def test_without_an_authority_the_command_is_named(tmp_path: Path) -> None:
    """Who asks too early is told what comes first."""
    result = run("issue", "client", "alice", "--directory", str(tmp_path))
    assert "vmferry pki init" in result.output
