"""Connections to other daemons."""

from __future__ import annotations

import pytest
from grpc import ChannelConnectivity

from vmferry.bounds import Bounds
from vmferry.channel import parse_uri
from vmferry.errors import InvalidParameter
from vmferryd.peers import Peers, advertised


async def test_one_connection_for_each_peer() -> None:
    """A peer that is asked twice is asked over one connection, until all are closed."""
    peers = Peers(Bounds(), None)
    first = peers.at("vmferry+unix:///nowhere")
    assert first is peers.at("vmferry+unix:///nowhere")
    assert first is not peers.at("vmferry+unix:///elsewhere")
    await peers.close()
    assert first is not peers.at("vmferry+unix:///nowhere")
    await peers.close()


async def test_connections_that_were_given_away_are_closed_in_the_end() -> None:
    """Whoever was to close one may have ended first; real channels refuse calls once they are closed."""
    peers = Peers(Bounds(), None)
    given = [peers.dial("vmferry+unix:///nowhere"), peers.at("vmferry+unix:///nowhere")]
    channels = [*(connection.channel for connection in given), peers.channel(parse_uri("vmferry+unix:///nowhere"))]
    await peers.close()
    assert [ChannelConnectivity.SHUTDOWN] * 3 == [channel.get_state() for channel in channels]


async def test_bad_uri() -> None:
    """A URI that is none of ours is refused, not dialled."""
    with pytest.raises(InvalidParameter):
        Peers(Bounds(), None).at("")


@pytest.mark.parametrize("text", ["vmferry+unix:///a", "vmferry+tcp://10.0.0.1:2", "vmferry+tls://host:3"])
def test_advertised_as_it_is(text: str) -> None:
    """A place that others can find by its name is told as it is."""
    assert text == str(advertised(parse_uri(text)))


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])  # noqa: S104 - parsed, not bound
def test_wildcards_become_a_name(host: str) -> None:
    """A place that means every address is told by this host's name."""
    told = advertised(parse_uri(f"vmferry+tcp://{host}:2"))
    assert told.host not in ("0.0.0.0", "::", "")  # noqa: S104 - compared, not bound
    assert 2 == told.port
