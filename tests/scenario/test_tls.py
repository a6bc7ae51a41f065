"""Two daemons that speak TLS to each other and to their client."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from scenario.offline_hosts import disk, with_disks
from support.certificates import certificates_of
from support.daemons import FAST, NAME, domain_xml
from support.ports import free_port
from vmferry.channel import Credentials, parse_uri
from vmferry.client import Connection, connect
from vmferry.errors import NotSupported, PeerUnreachable
from vmferry.flags import Flag
from vmferry.model import DomainState
from vmferry.params import MigrationParams
from vmferryd import app
from vmferryd.config import load
from vmferryd.limits import Limits
from vmferryd.transfer import sockets
from vmferryd.transfer.addresses import Address, Scheme

Pair = tuple[Connection, Connection]


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """What both daemons and the client trust and show."""
    return certificates_of("vmferry test", tmp_path / "certificates")


@pytest.fixture
async def pair(tmp_path: Path, certificates: Path) -> AsyncIterator[Pair]:
    """Connections to two daemons that answer at TLS places only."""
    async with AsyncExitStack() as stack:
        made = []
        for name in ("a", "b"):
            settings = {
                "listen": f"vmferry+tls://127.0.0.1:{free_port()}",
                "certificates": certificates,
                "state_directory": tmp_path / name,
                "host_name": name,
                "qemu": {"enabled": False},
                "limits": FAST,
                "data": {"port": 0},
            }
            config = load(None, settings)
            await stack.enter_async_context(app.running(config))
            uri = f"{config.listen[0]}?certificates={certificates}"
            made.append(await stack.enter_async_context(connect(uri)))
        yield made[0], made[1]


async def test_guest_moves_between_tls_daemons(pair: Pair) -> None:
    """Control and data go through TLS, with each daemon's own certificate; the guest lives at the other host."""
    source, destination = pair
    await source.define(domain_xml())
    await source.start(NAME)
    await source.migrate(NAME, destination, flags=Flag.LIVE)
    assert DomainState.RUNNING is (await destination.domain(NAME)).state
    assert DomainState.SHUTOFF is (await source.domain(NAME)).state


async def test_disks_never_travel_in_plain_text(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They go through TLS as the memory does, and a place of their own is refused before anything is sent."""
    connected: list[Address] = []
    connect_to = sockets.connect

    async def seen(address: Address, token: bytes, limits: Limits) -> socket.socket:
        connected.append(address)
        return await connect_to(address, token, limits)

    monkeypatch.setattr(sockets, "connect", seen)
    source, destination = pair
    here, there = tmp_path / "here.img", tmp_path / "there.img"
    here.write_bytes(b"content" * 1024)
    await source.define(with_disks(disk(here)))
    await source.start(NAME)
    params = MigrationParams(destination_xml=with_disks(disk(there)))
    flags = Flag.LIVE | Flag.NON_SHARED_DISK
    for asked in ({"disks_port": free_port()}, {"disks_uri": f"tcp://127.0.0.1:{free_port()}"}):
        with pytest.raises(NotSupported, match="unencrypted"):
            await source.migrate(NAME, destination, flags=flags, params=replace(params, **asked))
    assert not there.exists()
    await source.migrate(NAME, destination, flags=flags, params=params)
    assert here.read_bytes() == there.read_bytes()
    assert {Scheme.UNIX} == {address.scheme for address in connected}, "within each host alone"


async def test_stranger_is_refused(pair: Pair, certificates: Path, tmp_path: Path) -> None:
    """Neither a client without a certificate nor one of another authority is answered."""
    uri = parse_uri(str(pair[0].uri))
    authority = (certificates / "ca-cert.pem").read_bytes()
    stranger = certificates_of("somebody else", tmp_path / "strange")
    pair_of_stranger = Credentials.read(stranger, "client")
    for shown in (Credentials(authority), Credentials(authority, pair_of_stranger.certificate, pair_of_stranger.key)):
        with pytest.raises(PeerUnreachable):
            async with connect(uri, credentials=shown):
                pass


async def test_client_does_not_trust_another_authority(pair: Pair, tmp_path: Path) -> None:
    """A daemon whose certificate is not signed by the client's authority is not believed."""
    stranger = certificates_of("somebody else", tmp_path / "strange")
    with pytest.raises(PeerUnreachable):
        async with connect(str(pair[0].uri).split("?")[0] + f"?certificates={stranger}"):
            pass


async def test_renewed_certificates_are_shown_without_a_restart(pair: Pair, certificates: Path) -> None:
    """To whoever connects from then on, in both directions; files that do not fit each other are not taken."""
    source, destination = pair

    def shown() -> str:
        return ssl.get_server_certificate((source.uri.host, source.uri.port))

    before = await asyncio.to_thread(shown)
    (certificates / "server-key.pem").write_bytes((certificates / "client-key.pem").read_bytes())
    assert before == await asyncio.to_thread(shown)
    (certificates / "server-cert.pem").unlink()  # as for a moment while it is replaced
    async with connect(str(source.uri)):
        pass
    certificates_of("another authority", certificates)
    renewed = await asyncio.to_thread(shown)
    assert renewed == (certificates / "server-cert.pem").read_text()
    assert before != renewed
    uris = [f"{replace(each.uri, certificates=None)}?certificates={certificates}" for each in (source, destination)]
    async with connect(uris[0]) as here, connect(uris[1]) as there:
        await here.define(domain_xml())
        await here.start(NAME)
        await here.migrate(NAME, there, flags=Flag.LIVE)
        assert DomainState.RUNNING is (await there.domain(NAME)).state
