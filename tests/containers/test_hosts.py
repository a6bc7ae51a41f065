"""`docker compose up` gives two hosts and a guest; the demo moves it in each way; a host that is cut off costs no guest."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from containers.docker import Compose, Docker
from containers.image import NAME as IMAGE
from support.waiting import eventually
from vmferry_demo.containers import SERIAL, WAYS
from vmferry_demo.guest import NAME
from vmferry_demo.heartbeats import Judgement, judge, lines_of
from vmferry_demo.tour import HEADINGS

pytestmark = [pytest.mark.qemu, pytest.mark.slow, pytest.mark.timeout(1200)]

QEMU = "/usr/bin/qemu-system-x86_64"
ONE_BY_ONE = f"cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -c '^{QEMU}$' || true"
SLOW_MIB_PER_S = "8"
DEMO_S = 400.0
BOOT_S = 120.0


def hypervisors(compose: Compose) -> dict[str, int]:
    """How many QEMUs each host runs."""
    hosts = ("host-a", "host-b")
    return {host: int(compose.docker("exec", compose.container(host), "sh", "-c", ONE_BY_ONE)) for host in hosts}


def heard(compose: Compose) -> Judgement:
    """What all that the guest said, wherever it was, amounts to."""
    said = compose.docker("exec", compose.container("host-a"), "sh", "-c", f"cat {SERIAL} || true")
    return judge([lines_of(said.encode())])


def where(compose: Compose) -> dict[str, object]:
    """Where the guest is, as the hosts that can be asked see it."""
    said = compose.client("-o", "json", "where", NAME, "--hosts", "host-a,host-b")
    found: dict[str, object] = json.loads(said[said.index("{") :])
    return {name: found[name] for name in ("verdict", "safe", "host")}


@pytest.mark.parametrize("compose", ["1.29", "2"], indirect=True)
def test_the_demo_goes_there_and_back_in_each_way(compose: Compose) -> None:
    """With progress, and a table at the end that says which way the guest's data really went; nothing of it is lost."""
    said = compose("run", "--rm", "-T", "client", "demo", timeout_s=DEMO_S)
    assert re.search(r"perform: sending memory, round \d", said)
    assert re.search(r"The guest says: \d+ heartbeats, 0 missing, 0 doubled; .*, 0 corrupt pages", said, re.DOTALL)
    assert f"{NAME} runs on host-a, and only there" in said
    lines = said.splitlines()
    table = lines[next(n for n, line in enumerate(lines) if re.split(r" {2,}", line) == list(HEADINGS)) + 1 :]
    rows = [re.split(r" {2,}", line)[:4] for line in table if line][: 2 * len(WAYS)]
    hops = [("host-a", "host-b"), ("host-b", "host-a")]
    data = {"tunnelled": "tunnel", "direct": "connection (TLS)"}
    assert [[way.name, *hop, data[way.name.partition(", ")[2]]] for way in WAYS for hop in hops] == rows
    assert {"host-a": 1, "host-b": 0} == hypervisors(compose)


@pytest.mark.parametrize("compose", ["2"], indirect=True)
def test_a_host_that_is_cut_off_in_mid_migration_costs_no_guest(compose: Compose) -> None:
    """The guest runs on at the source alone, before and after the network is back, and can be moved then.

    So it is when the client calls the phases, and on the way back, when the source goes through them alone.
    """
    asyncio.run(eventually(lambda: bool(heard(compose).beats), BOOT_S))
    for source, destination, options in (("host-a", "host-b", []), ("host-b", "host-a", ["--p2p", "--tunnelled"])):
        _cut_off_in_mid_migration(compose, source, destination, options)
        compose.client(*_migrate(source, destination, *options))
        assert {"verdict": "runs", "safe": True, "host": destination} == where(compose)
        assert {source: 0, destination: 1} == hypervisors(compose)
    assert [] == heard(compose).faults()


def _cut_off_in_mid_migration(compose: Compose, source: str, destination: str, options: list[str]) -> None:
    """The destination was off the network while the guest went there, and is on it again; the guest is at the source."""
    words = _migrate(source, destination, *options, "--bandwidth", SLOW_MIB_PER_S)
    with compose.docker.begun(compose.command("run", "--rm", "-T", "client", *words)) as moving:
        assert moving.stdout is not None
        told = []
        for line in moving.stdout:
            told.append(line)
            if "sending memory, round 1" in line:
                break
        away = compose.container(destination)
        compose.docker("network", "disconnect", compose.network, away)
        told += moving.stdout.readlines()
    compose.said += ["$ docker network disconnect, in the middle of a migration", *told]
    assert (3, True) == (moving.returncode, "guest: at the source" in "".join(told)), told
    assert {"verdict": "runs", "safe": True, "host": source} == where(compose)
    compose.docker("network", "connect", "--alias", destination, compose.network, away)


def _migrate(source: str, destination: str, *options: str) -> list[str]:
    return ["-c", f"vmferry+tls://{source}", "migrate", "--live", *options, NAME, f"vmferry+tls://{destination}"]


def test_the_image_does_not_know_how_it_was_built(docker: Docker, build_arguments: dict[str, str]) -> None:
    """Neither in its history nor in its files: mirror, authorities and pip's settings are the builder's own affair."""
    history = docker("history", "--no-trunc", IMAGE)
    mirror = build_arguments["DEBIAN_MIRROR"]
    assert [] == [name for name, value in build_arguments.items() if value in history]
    search = f"ls -A /usr/local/share/ca-certificates; grep -rlF '{mirror}' /etc /root /var /opt/vmferry/pyvenv.cfg"
    said = docker("run", "--rm", "--network", "none", IMAGE, "sh", "-c", f"{{ {search}; }} 2>/dev/null || true")
    assert "" == said
