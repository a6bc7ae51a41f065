"""Missing pages over a new encrypted way whose other end falls silent: no QEMU waits for it, and the next way is taken."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from contract.harness import ONLY_QEMU
from contract.stage import DIRTY, MEMORY_MIB, Migration, Stage
from contract.test_encryption import NAME, encrypts, ended
from contract.test_postcopy import SLOW_PAGES, cut, older_than, states, whole
from contract.test_postcopy import able as able  # noqa: PLC0414 - a fixture
from support.certificates import certificates_of
from vmferry.errors import TransferFailed
from vmferryd.drivers.base import Extent, PagesEnd, ReceiveSettings, StartMode, Tls, TransferState
from vmferryd.drivers.qemu.guest import QemuGuest
from vmferryd.transfer.sockets import spoken

pytestmark = [ONLY_QEMU, pytest.mark.usefixtures("able")]

SOON_S = 1.0
"""Handshakes that no peer answers are ended after that; those of a live one have the usual time."""
FIRST_WORDS = b"\x16\x03\x01"
"""What a handshake begins with, and no more: the daemon hands a connection over when it has spoken."""

_PIECE_BYTES = 1 << 16


@pytest.fixture
async def paused(stage: Stage, tmp_path: Path) -> Migration:
    """A guest that runs at the receiver with pages missing, whose encrypted way is cut at both ends."""
    certificates = certificates_of("vmferry test", tmp_path)
    assert await encrypts(stage, certificates)
    definition = stage.harness.definition("guest", memory_mib=MEMORY_MIB, dirty=DIRTY)
    source = await stage.harness.driver.start(stage.plan(definition), definition, StartMode.RUNNING)
    await stage.runs(source)
    there = ReceiveSettings(postcopy=True, tls=Tls(certificates))
    incoming = await stage.harness.driver.accept(stage.plan(definition), definition, there)
    migration = Migration(definition, source, incoming, stage.harness.patience_s)
    await migration.begin(replace(SLOW_PAGES, tls=Tls(certificates, NAME)))
    await migration.under_way()
    await migration.outgoing.start_postcopy()
    await migration.held()
    assert await migration.within(migration.outgoing.let_go()) is Extent.RUNNABLE
    assert await migration.within(migration.incoming.received()) is Extent.RUNNABLE
    await migration.destination.resume()
    await stage.runs(migration.destination)
    await cut(migration)
    return migration


async def goes_on(stage: Stage, migration: Migration) -> None:
    """Both ends wait for a way, and the copy stands still; the next way is taken, and the guest is whole and right."""
    assert await states(migration) == {TransferState.POSTCOPY_PAUSED}
    await stage.stands_still(migration.source)
    near, far = socket.socketpair()
    await migration.within(asyncio.gather(migration.outgoing.send_again(near), migration.incoming.receive_again(far)))
    await whole(migration)
    await stage.runs(migration.destination)
    assert await stage.harness.damage(migration.destination) == ""


async def test_a_receiver_that_falls_silent(stage: Stage, paused: Migration, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attempt ends in time, and its connection with it; meanwhile both QEMUs answer, and the guest is where it was."""
    assert isinstance(paused.source, QemuGuest)
    near, silent = socket.socketpair()
    silent.setblocking(False)
    with silent:
        with monkeypatch.context() as patched:
            patched.setattr(paused.source, "_config", replace(paused.source.config, handshake_timeout_s=SOON_S))
            attempt = asyncio.create_task(paused.outgoing.send_again(near))
            assert await paused.within(spoken(silent))
            assert await states(paused) <= {TransferState.POSTCOPY_PAUSED, TransferState.POSTCOPY_RECOVER}
            assert not attempt.done()
            with pytest.raises(TransferFailed):
                await paused.within(attempt)
        await paused.within(ended(silent))
    await goes_on(stage, paused)


async def test_a_source_that_falls_silent(stage: Stage, paused: Migration) -> None:
    """Whoever brought the way is not waited for, and a better one is taken although the first is still open."""
    silent, far = socket.socketpair()
    with silent:
        silent.sendall(FIRST_WORDS)
        await paused.within(paused.incoming.receive_again(far))
        await goes_on(stage, paused)


async def test_a_way_that_falls_silent(stage: Stage, paused: Migration) -> None:
    """The source has ended its handshake when nothing comes any more: whoever cuts at both ends has both waiting again."""
    if await older_than(stage, 8, 2):
        pytest.xfail("QEMU before 8.2 is not recovered from a way that breaks while it is recovered")
    near, from_source = socket.socketpair()
    to_receiver, far = socket.socketpair()
    with from_source, to_receiver:
        carrying = asyncio.create_task(carry(from_source, to_receiver, pieces=2))
        await paused.within(asyncio.gather(paused.outgoing.send_again(near), paused.incoming.receive_again(far)))
        carrying.cancel()
        await paused.within(paused.outgoing.cut())
        assert await paused.within(paused.outgoing.served()) is PagesEnd.CUT
        await paused.within(paused.incoming.cut())
        await goes_on(stage, paused)


async def carry(source: socket.socket, receiver: socket.socket, pieces: int) -> None:
    """Only so many pieces go to the receiver, and all that it says to the source; until it is cancelled."""
    for end in (source, receiver):
        end.setblocking(False)
    loop = asyncio.get_running_loop()

    async def back() -> None:
        while piece := await loop.sock_recv(receiver, _PIECE_BYTES):
            await loop.sock_sendall(source, piece)

    async with asyncio.TaskGroup() as ways:
        ways.create_task(back())
        for _ in range(pieces):
            await loop.sock_sendall(receiver, await loop.sock_recv(source, _PIECE_BYTES))
