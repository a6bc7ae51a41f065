"""Drivers that encrypt what travels do it with the certificates that they are given, or refuse."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from contract.stage import DIRTY, FAST, Stage
from contract.test_parallel import led
from contract.test_parallel import place as place  # noqa: PLC0414 - a fixture
from support.certificates import certificates_of
from vmferry.errors import DriverRefused, TransferFailed, TransferStopped
from vmferryd.drivers.base import (
    DriverFeature,
    Guest,
    IncomingGuest,
    Parallel,
    ReceiveSettings,
    StartMode,
    Tls,
    TransferState,
)
from vmferryd.transfer.sockets import spoken

NAME = "localhost"
HANDSHAKE = b"\x16"
"""How a connection of TLS begins."""


async def running(stage: Stage) -> Guest:
    """A guest that runs."""
    definition = stage.harness.definition("guest", dirty=DIRTY)
    source = await stage.harness.driver.start(stage.plan(definition), definition, StartMode.RUNNING)
    await stage.runs(source)
    return source


async def waiting(stage: Stage, tls: Tls | None) -> IncomingGuest:
    """One that waits for it."""
    definition = stage.harness.definition("guest", dirty=DIRTY)
    return await stage.harness.driver.accept(stage.plan(definition), definition, ReceiveSettings(tls=tls))


async def sent(source: Guest, incoming: IncomingGuest, tls: Tls | None) -> bytes:
    """It is on its way; answers what its connection began with."""
    near, far = socket.socketpair()
    far.setblocking(False)
    await source.outgoing().send(near, replace(FAST, tls=tls))
    assert await spoken(far)
    first = far.recv(1, socket.MSG_PEEK)
    await incoming.receive(far)
    return first


async def arrives(stage: Stage, source: Guest, incoming: IncomingGuest) -> Guest:
    """It is there, whole, and runs."""
    await source.outgoing().held()
    await stage.stands_still(source)
    await asyncio.gather(source.outgoing().let_go(), incoming.received())
    await incoming.guest.resume()
    await stage.runs(incoming.guest)
    assert "" == await stage.harness.damage(incoming.guest)
    return incoming.guest


async def encrypts(stage: Stage, certificates: Path) -> bool:
    """Whether the driver can; one that cannot refuses at both ends, and the guest runs on."""
    if DriverFeature.TLS in (await stage.harness.driver.capabilities()).features:
        return True
    source = await running(stage)
    near, far = socket.socketpair()
    with near, far, pytest.raises(DriverRefused):
        await source.outgoing().send(near, replace(FAST, tls=Tls(certificates, NAME)))
    with pytest.raises(DriverRefused):
        await waiting(stage, Tls(certificates))
    await stage.runs(source)
    return False


async def test_a_guest_goes_over_encrypted(stage: Stage, tmp_path: Path) -> None:
    """It arrives whole, and goes on from there in the clear when that is what is asked for."""
    certificates = certificates_of("vmferry test", tmp_path)
    if not await encrypts(stage, certificates):
        return
    async with asyncio.timeout(stage.harness.patience_s):
        source, incoming = await running(stage), await waiting(stage, Tls(certificates))
        assert HANDSHAKE == await sent(source, incoming, Tls(certificates, NAME))
        there = await arrives(stage, source, incoming)
        await source.destroy()
        onward = await waiting(stage, None)
        assert HANDSHAKE != await sent(there, onward, None)
        await arrives(stage, there, onward)


@pytest.mark.parametrize("which", ["authority", "name"])
async def test_who_cannot_prove_itself_gets_nothing(stage: Stage, tmp_path: Path, which: str) -> None:
    """The transfer fails, and the guest runs on; it is sent as it is asked to the next time."""
    certificates = certificates_of("vmferry test", tmp_path / "ours")
    if not await encrypts(stage, certificates):
        return
    theirs = certificates_of("somebody else", tmp_path / "theirs") if which == "authority" else certificates
    async with asyncio.timeout(stage.harness.patience_s):
        source, incoming = await running(stage), await waiting(stage, Tls(theirs))
        near, far = socket.socketpair()
        await incoming.receive(far)
        name = NAME if which == "authority" else "elsewhere.example"
        outgoing = source.outgoing()
        await outgoing.send(near, replace(FAST, tls=Tls(certificates, name)))
        with pytest.raises(TransferStopped, match="did not prove") as failed:
            await outgoing.held()
        assert "tls.destination" in failed.value.remedy
        await outgoing.cancel()
        await stage.runs(source)
        await incoming.guest.destroy()
        again = await waiting(stage, None)
        assert HANDSHAKE != await sent(source, again, None)
        await arrives(stage, source, again)


async def test_several_connections_are_encrypted(stage: Stage, tmp_path: Path, place: Path) -> None:
    """Each of them has a handshake of its own."""
    certificates = certificates_of("vmferry test", tmp_path)
    both = {DriverFeature.TLS, DriverFeature.PARALLEL}
    if not both <= (await stage.harness.driver.capabilities()).features:
        assert not await encrypts(stage, certificates)
        return
    definition = stage.harness.definition("guest", dirty=DIRTY)
    source = await stage.harness.driver.start(stage.plan(definition), definition, StartMode.RUNNING)
    await stage.runs(source)
    there = ReceiveSettings(parallel=Parallel(2), tls=Tls(certificates))
    incoming = await stage.harness.driver.accept(stage.plan(definition), definition, there)
    async with led(place, incoming.landings["memory"]) as relays, asyncio.timeout(stage.harness.patience_s):
        here = replace(FAST, parallel=Parallel(2), tls=Tls(certificates, NAME))
        await source.outgoing().send(place, here)
        await arrives(stage, source, incoming)
        assert len(relays) == 3


async def test_certificates_that_are_not_there(stage: Stage, tmp_path: Path) -> None:
    """Refused at once at both ends; the guest runs on, and the socket stays the caller's."""
    source = await running(stage)
    near, far = socket.socketpair()
    with near, far:
        with pytest.raises(DriverRefused):
            await source.outgoing().send(near, replace(FAST, tls=Tls(tmp_path, NAME)))
        near.sendall(b"x")
    with pytest.raises(DriverRefused):
        await waiting(stage, Tls(tmp_path))
    await stage.runs(source)


async def test_a_silent_peer_leaves_the_guest_alone(stage: Stage, tmp_path: Path) -> None:
    """Whoever does not answer the handshake keeps neither the guest nor its hypervisor; the transfer can be cancelled."""
    certificates = certificates_of("vmferry test", tmp_path)
    if not await encrypts(stage, certificates):
        return
    async with asyncio.timeout(stage.harness.patience_s):
        source = await running(stage)
        near, silent = socket.socketpair()
        silent.setblocking(False)
        with silent:
            await source.outgoing().send(near, replace(FAST, tls=Tls(certificates, NAME)))
            assert await spoken(silent)
            assert TransferState.ACTIVE is (await source.probe()).transfer_state
            await stage.runs(source)
            await source.outgoing().cancel()
            await ended(silent)
        assert TransferState.ACTIVE is not (await source.probe()).transfer_state
        await stage.runs(source)
        again = await waiting(stage, None)
        assert HANDSHAKE != await sent(source, again, None)
        await arrives(stage, source, again)


async def test_a_silent_peer_of_several_connections(stage: Stage, tmp_path: Path, place: Path) -> None:
    """The hypervisor that waits for it is free as soon as the connection is ended, and the guest runs on."""
    certificates = certificates_of("vmferry test", tmp_path)
    if not {DriverFeature.TLS, DriverFeature.PARALLEL} <= (await stage.harness.driver.capabilities()).features:
        assert not await encrypts(stage, certificates)
        return
    source = await running(stage)
    async with asyncio.timeout(stage.harness.patience_s):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(place))
            listener.listen()
            listener.setblocking(False)
            here = replace(FAST, parallel=Parallel(2), tls=Tls(certificates, NAME))
            sending = asyncio.create_task(source.outgoing().send(place, here))
            silent, _ = await asyncio.get_running_loop().sock_accept(listener)
            silent.setblocking(False)
            assert await spoken(silent)
            assert not sending.done()
        silent.close()
        await sending
        with pytest.raises(TransferFailed):
            await source.outgoing().held()
        await source.outgoing().cancel()
        await stage.runs(source)
        again = await waiting(stage, None)
        assert HANDSHAKE != await sent(source, again, None)
        await arrives(stage, source, again)


async def ended(connection: socket.socket) -> None:
    """The other side has closed it."""
    while await asyncio.get_running_loop().sock_recv(connection, 1 << 16):
        pass
