"""A client that has none of our code finds its way by reflection."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from support.hosts import Host
from support.tools import skipping_forbidden

BUF = Path(__file__).parents[2] / "node_modules" / ".bin" / "buf"


@pytest.fixture(scope="module")
def buf() -> str:
    """Buf's command line, which knows our services only by asking."""
    found = str(BUF) if BUF.exists() else shutil.which("buf")
    if found is None:
        reason = "buf is not installed: run `make test`, which gets it where npm is present"
        if skipping_forbidden():
            pytest.fail(reason)
        pytest.skip(reason)
    return found


async def _buf(buf: str, host: Host, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--unix-socket", f"{host.directory}/d.sock"),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await process.communicate()
    assert 0 == process.returncode, complained.decode()
    return said.decode()


async def test_services_are_listed_by_reflection(two_hosts: tuple[Host, Host], buf: str) -> None:
    """Every service of the contract is found, and health with it."""
    listed = (await _buf(buf, two_hosts[0], "--list-services", "http://host")).split()
    for service in ("Domain", "Handover", "Host", "Job", "Migration", "Transfer"):
        assert f"vmferry.api.v1.{service}Service" in listed
    assert "grpc.health.v1.Health" in listed


async def test_the_host_says_its_version_to_a_stranger(two_hosts: tuple[Host, Host], buf: str) -> None:
    """HostService.GetVersion is called with what reflection tells about it."""
    answer = await _buf(buf, two_hosts[1], "http://host/vmferry.api.v1.HostService/GetVersion")
    assert "b" == json.loads(answer)["hostName"]


async def test_health_is_serving(two_hosts: tuple[Host, Host], buf: str) -> None:
    """The standard health service says that the daemon serves."""
    answer = await _buf(buf, two_hosts[0], "http://host/grpc.health.v1.Health/Check")
    assert "SERVING" == json.loads(answer)["status"]
