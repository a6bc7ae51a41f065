"""What anybody who speaks gRPC finds: health, reflection, errors with details, and a process that ends when it is told."""

from __future__ import annotations

import asyncio
import signal
import stat
import sys
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from support.daemons import NAME, TwoHosts, domain_xml
from support.waiting import eventually
from vmferry.api.v1 import handover_pb2, handover_pb2_grpc, migration_pb2, migration_pb2_grpc
from vmferry.channel import ChannelOptions, open_channel, parse_uri
from vmferry.client import Connection, connect
from vmferry.errors import (
    DefinitionInvalid,
    DomainNotFound,
    InternalError,
    InvalidParameter,
    InvalidState,
    NotSupported,
    PeerUnreachable,
    StorageFailed,
)
from vmferry.model import DomainState
from vmferryd import app
from vmferryd.drivers.memory import FaultKind, Verb
from vmferryd.rpc.server import NAMES


async def test_health(two_hosts: TwoHosts) -> None:
    """The daemon and each of its services are serving."""
    stub = health_pb2_grpc.HealthStub(two_hosts.source.connection.channel)
    for name in ("", *NAMES):
        reply = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert health_pb2.HealthCheckResponse.SERVING == reply.status, name


async def test_reflection(two_hosts: TwoHosts) -> None:
    """Reflection lists every service of the contract."""
    stub = reflection_pb2_grpc.ServerReflectionStub(two_hosts.source.connection.channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    listed = {service.name async for reply in call for service in reply.list_services_response.service}
    assert set(NAMES) <= listed
    assert 10 == len(NAMES)


async def test_errors_carry_their_identity(two_hosts: TwoHosts) -> None:
    """An error arrives as ErrorInfo, with its reason and the host that says so."""
    with pytest.raises(DomainNotFound) as caught:
        await two_hosts.source.connection.domain("nobody")
    assert "a" == caught.value.host
    stub = handover_pb2_grpc.HandoverServiceStub(two_hosts.source.connection.channel)
    with pytest.raises(grpc.aio.AioRpcError) as raw:
        await stub.GetOutcome(handover_pb2.GetOutcomeRequest(migration_id="nonsense"))
    details = dict(raw.value.trailing_metadata() or ())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(details).details[0].Unpack(info)
    assert ("PARAMETER_INVALID", "vmferry", "a") == (info.reason, info.domain, info.metadata["host"])
    assert grpc.StatusCode.INVALID_ARGUMENT is raw.value.code()


async def test_defects_are_internal_errors(two_hosts: TwoHosts) -> None:
    """What is no error of ours arrives as a defect, and the daemon goes on serving."""
    connection = two_hosts.source.connection
    two_hosts.source.daemon.context.domains.find = lambda _: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(InternalError, match="ZeroDivisionError"):
        await connection.domain(NAME)
    assert "a" == (await connection.version()).host_name


async def test_calls_that_name_nothing(two_hosts: TwoHosts) -> None:
    """A phase without a migration id, and a Begin without a domain, are refused."""
    stub = migration_pb2_grpc.MigrationServiceStub(two_hosts.source.connection.channel)
    for call in (
        stub.Begin(migration_pb2.BeginRequest()),
        stub.Prepare(migration_pb2.PrepareRequest()),
        stub.Finish(migration_pb2.FinishRequest()),
        stub.ConfirmParams(migration_pb2.ConfirmParamsRequest()),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert grpc.StatusCode.INVALID_ARGUMENT is caught.value.code()


async def test_unknown_call(two_hosts: TwoHosts) -> None:
    """A call that a daemon does not know is told apart from a daemon that does not answer."""
    connection = two_hosts.source.connection
    call = connection.channel.unary_unary("/vmferry.api.v1.HostService/Future")
    with pytest.raises(NotSupported):
        await connection._ask(call(b""))


async def test_many_findings_arrive(two_hosts: TwoHosts) -> None:
    """An error with very many findings arrives as itself, not as a lost reply."""
    extra = "".join(f"<device-of-the-future-{number}/>" for number in range(300))
    xml = domain_xml().replace("</os>", f"</os><devices>{extra}</devices>")
    with pytest.raises(DefinitionInvalid) as caught:
        await two_hosts.source.connection.define(xml)
    assert caught.value.violations


async def test_nobody_answers(tmp_path: Path) -> None:
    """A daemon that is not there is unreachable, and nothing else."""
    with pytest.raises(PeerUnreachable):
        async with connect(f"vmferry+unix://{tmp_path}/nobody"):
            pass


async def test_second_daemon_on_the_same_state(two_hosts: TwoHosts) -> None:
    """A state directory has one daemon at a time."""
    with pytest.raises(InvalidState, match="another vmferryd"):
        async with app.running(two_hosts.source.config):
            pass


async def test_place_that_cannot_be_used(two_hosts: TwoHosts, tmp_path: Path) -> None:
    """A place where nobody can listen is one plain error, and the state directory is free afterwards."""
    config = two_hosts.source.config.model_copy(
        update={"state_directory": tmp_path, "listen": (parse_uri("vmferry+tcp://203.0.113.1:1"),)}
    )
    for _ in range(2):
        with pytest.raises(InvalidParameter, match="cannot listen"):
            async with app.running(config):
                pass


async def test_state_directory_that_is_a_file(two_hosts: TwoHosts, tmp_path: Path) -> None:
    """A state directory that cannot be made is one plain error."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match="cannot be used"):
        async with app.running(two_hosts.source.config.model_copy(update={"state_directory": tmp_path / "file"})):
            pass


async def test_error_of_the_body_comes_out_as_it_is(two_hosts: TwoHosts, tmp_path: Path) -> None:
    """Whoever runs a daemon gets its own error back, not a group of one."""
    uri = parse_uri(f"vmferry+unix://{tmp_path}/s")
    with pytest.raises(KeyError):
        async with app.running(two_hosts.source.config.model_copy(update={"state_directory": tmp_path, "listen": (uri,)})):
            raise KeyError


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_process_ends_when_it_is_told(tmp_path: Path, number: signal.Signals) -> None:
    """A real daemon process serves, refuses a twin, and ends with 0 on SIGTERM and SIGINT."""
    (tmp_path / "c.toml").write_text("[qemu]\nenabled = false\n[limits]\nshutdown_s = 0.1\n")
    uri = f"vmferry+unix://{tmp_path}/s"
    options = ["--config", str(tmp_path / "c.toml"), "--listen", uri, "--state-directory", str(tmp_path / "state")]
    pipes = {"stderr": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "vmferryd", *options, **pipes)
    try:
        async with open_channel(parse_uri(uri), ChannelOptions()) as channel:
            connection = Connection(parse_uri(uri), channel)

            async def serves() -> bool:
                try:
                    return bool((await connection.version()).host_name)
                except PeerUnreachable:
                    return False

            await eventually(serves, timeout_s=20)
        twin = await asyncio.create_subprocess_exec(sys.executable, "-m", "vmferryd", *options, **pipes)
        _, said = await twin.communicate()
        assert (1, True, False) == (twin.returncode, b"another vmferryd" in said, b"Traceback" in said)
        process.send_signal(number)
        async with asyncio.timeout(10):
            _, said = await process.communicate()
        assert (0, False) == (process.returncode, b"Traceback" in said)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_socket_of_a_living_daemon_is_not_taken(two_hosts: TwoHosts, tmp_path: Path) -> None:
    """A second daemon with another state directory is refused the first one's socket, which goes on serving."""
    taken = two_hosts.source.config
    with pytest.raises(InvalidParameter, match="cannot listen"):
        async with app.running(taken.model_copy(update={"state_directory": tmp_path / "other"})):
            pass
    assert "a" == (await two_hosts.source.connection.version()).host_name


async def test_socket_is_for_owner_and_group(two_hosts: TwoHosts) -> None:
    """Nobody else may move guests."""
    path = Path(two_hosts.source.config.listen[0].path)
    assert 0o660 == stat.S_IMODE(path.stat().st_mode)


async def test_unreachable_guest_does_not_hold_up_the_daemon(two_hosts: TwoHosts) -> None:
    """A guest whose monitor does not answer at start is kept, not started a second time, and found at the next start."""
    source = two_hosts.source
    await source.connection.define(domain_xml("other", "00000000-0000-0000-0000-000000000008"))
    source.machine.faults.always(Verb.ATTACH, FaultKind.LOSE_BEFORE)
    await source.restart()
    assert {NAME, "other"} == {domain.name for domain in await source.connection.domains()}
    with pytest.raises(InvalidState, match="already"):
        await source.connection.start(NAME)
    with pytest.raises(InvalidState, match="could not be reached"):
        await source.connection.suspend(NAME)
    source.machine.faults.clear()
    await source.restart()
    assert DomainState.RUNNING is (await source.connection.domain(NAME)).state
