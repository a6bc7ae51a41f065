"""The programs of `examples/` move a guest."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

from support.daemons import NAME, Host, TwoHosts
from support.tools import skipping_forbidden

EXAMPLES = Path(__file__).parents[2] / "examples"
BOUND_S = 120.0


def uri(host: Host) -> str:
    """Where its daemon answers, for vmferry."""
    return str(host.settings["listen"])


def target(host: Host) -> str:
    """The same for gRPC."""
    return "unix:" + uri(host).removeprefix("vmferry+unix://")


async def ran(*command: str, directory: Path = EXAMPLES, **environment: str) -> tuple[int | None, str, str]:
    """The exit status of a program, what it printed, and what it complained of."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdout=pipe, stderr=pipe, cwd=directory, env=os.environ | environment
    )
    async with asyncio.timeout(BOUND_S):
        said, complained = await process.communicate()
    return process.returncode, said.decode(), complained.decode()


async def moved(hosts: TwoHosts, program: str, *where: str) -> str:
    """What an example printed that has moved the guest."""
    code, said, complained = await ran(sys.executable, program, NAME, *where)
    assert code == 0, complained
    await hosts.lives(hosts.destination)
    return said


async def test_the_client_library(two_hosts: TwoHosts) -> None:
    """It prints how long the guest stood still."""
    said = await moved(two_hosts, "migrate.py", uri(two_hosts.source), uri(two_hosts.destination))
    assert f"{NAME} lives at {uri(two_hosts.destination)} and stood still for" in said


async def test_the_client_library_says_what_went_wrong(two_hosts: TwoHosts) -> None:
    """An error says where the guest is and what to do."""
    code, _, complained = await ran(sys.executable, "migrate.py", "nobody", uri(two_hosts.source), uri(two_hosts.destination))
    assert code == 1
    assert "the guest is at" in complained
    assert "Traceback" not in complained


async def test_the_synchronous_face(two_hosts: TwoHosts) -> None:
    """Calls and streams, without a word of asyncio."""
    said = await moved(two_hosts, "migrate_sync.py", uri(two_hosts.source), uri(two_hosts.destination))
    assert said.splitlines()[-1] == f"{NAME} is running"
    assert "committed" in said


async def test_the_five_phases_by_hand(two_hosts: TwoHosts) -> None:
    """Each phase is called once, and the guest lives at the destination."""
    said = await moved(two_hosts, "five_phases.py", target(two_hosts.source), target(two_hosts.destination))
    phases = dict.fromkeys(line.split(":")[0] for line in said.splitlines() if ": " in line)
    assert list(phases) == ["begin", "prepare", "perform", "finish", "confirm"]
    assert "confirm: OUTCOME_COMMITTED" in said


async def test_node(two_hosts: TwoHosts, tmp_path: Path) -> None:
    """Node walks through the source's daemon, with nothing but the .proto files."""
    if not (shutil.which("npm") and shutil.which("node")):
        if skipping_forbidden():
            pytest.fail("there is no npm here")
        pytest.skip("there is no npm here")
    for name in ("package.json", "migrate.js"):
        shutil.copy(EXAMPLES / "node" / name, tmp_path)
    install = ("npm", "install", "--silent", "--no-audit", "--no-fund", "--no-package-lock")
    code, _, complained = await ran(*install, directory=tmp_path)
    assert code == 0, complained
    proto = str(EXAMPLES.parent / "proto")
    command = ("node", "migrate.js", NAME, target(two_hosts.source), uri(two_hosts.destination))
    code, said, complained = await ran(*command, directory=tmp_path, VMFERRY_PROTO=proto)
    assert code == 0, complained
    assert f"{NAME} is DOMAIN_STATE_RUNNING" in said
    assert "the source says: confirmed" in said
    await two_hosts.lives(two_hosts.destination)
