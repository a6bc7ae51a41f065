"""A check: everything that speaks against a migration is told at once, and nothing happens."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from support.daemons import NAME, UUID, Host, TwoHosts, domain_xml
from support.ports import free_port
from vmferry.checking import CERTIFICATE_LEFT_S, Witness, notes
from vmferry.endpoint import Request
from vmferry.errors import InvalidState
from vmferry.findings import Finding, Weight
from vmferry.flags import NONE, Flag
from vmferry.model import DriverInfo, HostCapabilities, HostInfo, new_migration_id
from vmferry.params import MigrationParams
from vmferryd.phases.found import Found

LIVE = Flag.LIVE
OTHER = "22222222-2222-4222-8222-222222222222"


async def _untouched(host: Host, guests: int) -> None:
    """No record, no hold, no guest that was not there."""
    assert await host.daemon.context.journal.newest(10) == []
    assert all(entry.holder is None for entry in host.daemon.context.domains)
    assert len(host.machine.guests) == guests
    assert host.daemon.context.board.all() == []


def _codes(findings: tuple[Finding, ...]) -> list[tuple[str, str, str]]:
    return [(finding.host, finding.code, finding.subject) for finding in findings]


@pytest.mark.parametrize("flags", [LIVE, LIVE | Flag.TUNNELLED, LIVE | Flag.PEER2PEER, NONE, LIVE | Flag.PERSIST_DEST])
async def test_nothing_is_found_and_the_migration_works(two_hosts: TwoHosts, flags: Flag) -> None:
    """What a check passes is not refused; and a check leaves nothing behind."""
    a, b = two_hosts.hosts
    assert await a.connection.check(NAME, b.connection, flags=flags) == ()
    await _untouched(a, 1)
    await _untouched(b, 0)
    if Flag.PEER2PEER in flags:
        await a.connection.migrate_to_uri(NAME, str(b.connection.uri), flags=flags)
    else:
        await a.connection.migrate(NAME, b.connection, flags=flags)


@pytest.mark.parametrize("mode", [NONE, Flag.PEER2PEER])
async def test_both_hosts_tell_everything_at_once(two_hosts: TwoHosts, mode: Flag) -> None:
    """Findings of the request, of the source and of the destination come together, each with its host."""
    a, b = two_hosts.hosts
    await b.connection.define(domain_xml(NAME, OTHER))
    findings = await a.connection.check(NAME, b.connection, flags=LIVE | Flag.RDMA_PIN_ALL | mode)
    assert {("a", "NOT_SUPPORTED", "RDMA_PIN_ALL"), ("b", "ALREADY_EXISTS", "")} <= set(_codes(findings))
    assert all(finding.weight is Weight.PROBLEM and finding.problem for finding in findings)
    await _untouched(a, 1)


@pytest.mark.parametrize("uri", ["tcp:127.0.0.1", "tcp:127.0.0.1:FREE", "unix://FOLDER/d"])
async def test_a_place_of_its_own_is_tried_where_it_would_be(two_hosts: TwoHosts, tmp_path: Path, uri: str) -> None:
    """The destination has closed it again; that nobody waits there now is no problem of the migration."""
    a, b = two_hosts.hosts
    params = MigrationParams(migrate_uri=uri.replace("FREE", str(free_port())).replace("FOLDER", str(tmp_path)))
    assert await a.connection.check(NAME, b.connection, flags=LIVE, params=params) == ()
    await a.connection.migrate(NAME, b.connection, flags=LIVE, params=params)


async def test_a_place_that_is_taken_is_told_once(two_hosts: TwoHosts) -> None:
    """By the host where it would be."""
    a, b = two_hosts.hosts
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        params = MigrationParams(migrate_uri=f"tcp:127.0.0.1:{somebody.getsockname()[1]}")
        findings = await a.connection.check(NAME, b.connection, flags=LIVE, params=params)
    assert [("b", "ADDRESS_UNAVAILABLE", "")] == _codes(findings)


async def test_a_migration_uri_that_is_none(two_hosts: TwoHosts) -> None:
    """The destination says what is wrong with it, and what to give in its place."""
    a, b = two_hosts.hosts
    params = MigrationParams(migrate_uri="tcp:127.0.0.1:0")
    (finding,) = await a.connection.check(NAME, b.connection, flags=LIVE, params=params)
    assert ("b", "PARAMETER_INVALID") == (finding.host, finding.code)
    assert "'tcp:127.0.0.1:0' names a port at which nobody can wait" in finding.problem
    assert "or none (tcp:127.0.0.1)" in finding.remedy


async def test_a_domain_that_is_held(two_hosts: TwoHosts) -> None:
    """The holder is named, and what else speaks against it is told, too."""
    a, b = two_hosts.hosts
    begun = await a.connection.begin(Request(new_migration_id(), NAME, LIVE))
    findings = await a.connection.check(NAME, b.connection, flags=LIVE)
    assert [code for _, code, _ in _codes(findings)] == ["DOMAIN_BUSY"]
    assert begun.migration_id in findings[0].problem
    await a.connection.abort(begun.migration_id, "enough")


async def test_a_guest_that_does_not_run(two_hosts: TwoHosts) -> None:
    """The destination is still asked."""
    a, b = two_hosts.hosts
    await a.connection.define(domain_xml("db", OTHER))
    await b.connection.define(domain_xml("db", UUID))
    findings = await a.connection.check("db", b.connection, flags=LIVE)
    assert [code for _, code, _ in _codes(findings)] == ["STATE_INVALID", "ALREADY_EXISTS"]


async def test_a_destination_that_does_not_answer(two_hosts: TwoHosts) -> None:
    """That is a finding, and the source's own are told with it."""
    a, b = two_hosts.hosts
    uri = str(b.connection.uri)
    await b.stop()
    async with a.daemon.context.peers.reached(uri) as nobody:
        findings = await a.connection.check(NAME, nobody, flags=LIVE | Flag.RDMA_PIN_ALL)
    assert [code for _, code, _ in _codes(findings)] == ["PEER_UNREACHABLE", "NOT_SUPPORTED"]


async def test_hosts_that_do_not_reach_each_other(two_hosts: TwoHosts) -> None:
    """The client reaches both, and each says that it does not reach the other."""
    a, b = two_hosts.hosts
    for host in (a, b):
        context = host.daemon.context
        object.__setattr__(context, "identity", replace(context.identity, daemon_uri="vmferry+tcp://127.0.0.1:9"))
    findings = await a.connection.check(NAME, b.connection, flags=LIVE)
    assert [(host, code) for host, code, _ in _codes(findings)] == [("b", "PEER_UNREACHABLE"), ("a", "PEER_UNREACHABLE")]
    assert "the source's daemon" in findings[0].problem


def _witness(name: str, version: str = "8.2.0", ahead_s: float = 0.0, ends_s: float = 0.0) -> Witness:
    driver = DriverInfo("qemu", version, ("qemu",))
    host = HostInfo("1", name, "uuid", 1_000_000.0, ends_s)
    return Witness(host, HostCapabilities((driver,), ()), ahead_s)


def test_notes() -> None:
    """Clocks, certificates and versions are told as notes, and equal hosts have none."""
    assert list(notes(_witness("a"), _witness("b"))) == []
    ends_s = 1_000_000.0 + CERTIFICATE_LEFT_S / 2
    found = list(notes(_witness("a", ends_s=ends_s), _witness("b", "7.2.22", 30.0)))
    assert [finding.code for finding in found] == ["CLOCKS_DIFFER", "CERTIFICATE_ENDS", "HYPERVISOR_OLDER"]
    assert all(finding.weight is Weight.NOTE and finding.remedy for finding in found)
    assert list(notes(_witness("a", "7.2.22"), _witness("b"))) == []


def test_found_is_told_once() -> None:
    """Nothing is nothing, and the same thing twice is one finding."""
    found = Found()
    assert found.nothing
    found.refuse()
    assert found.findings("a") == ()
    for _ in range(2):
        with found.trying():
            raise InvalidState("the guest stands still")
    assert [finding.code for finding in found.findings("a")] == ["STATE_INVALID"]
