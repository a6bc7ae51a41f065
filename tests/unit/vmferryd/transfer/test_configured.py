"""Where guests' data comes in, as the configuration says: never in plain over a network by accident."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from vmferry.errors import InvalidParameter
from vmferryd.config import load
from vmferryd.peers import advertised
from vmferryd.transfer.addresses import Here, Plain
from vmferryd.transfer.configured import here, plain, shared_port

ANY = "0.0.0.0"  # noqa: S104 - compared, not bound
UNIX = {"listen": "vmferry+unix:///run/d.sock"}
LOOPBACK = {"listen": "vmferry+tcp://127.0.0.1:700"}
OPEN = {"listen": ["vmferry+unix:///run/d.sock", "vmferry+tcp://10.0.0.1:700"], "insecure": True}
TLS = {"listen": "vmferry+tls://10.0.0.1:700", "certificates": "/somewhere"}
BOTH = {
    "listen": ["vmferry+tcp://10.0.0.1:600", "vmferry+tls://10.0.0.1:700"],
    "certificates": "/somewhere",
    "insecure": True,
}
FAR = {"listen": "vmferry+unix:///run/d.sock", "advertise": "vmferry+tls://10.0.0.1:700"}
ALL = {"listen": "vmferry+tcp://0.0.0.0:65535", "insecure": True}


@pytest.mark.parametrize(
    ("settings", "data", "listen", "host", "policy", "port"),
    [
        (UNIX, {}, "127.0.0.1", "127.0.0.1", Plain.THIS_MACHINE, 0),
        (UNIX, {"port": 5}, "127.0.0.1", "127.0.0.1", Plain.THIS_MACHINE, 5),
        (UNIX, {"native": False}, "127.0.0.1", "127.0.0.1", None, None),
        (UNIX, {"listen": "10.0.0.9", "plain": True}, "10.0.0.9", socket.gethostname(), Plain.ANYWHERE, 0),
        (LOOPBACK, {}, "127.0.0.1", "127.0.0.1", Plain.THIS_MACHINE, 701),
        (OPEN, {}, "10.0.0.1", "10.0.0.1", Plain.ANYWHERE, 701),
        (OPEN, {"host": "storage-b", "listen": "10.9.0.1"}, "10.9.0.1", "storage-b", Plain.ANYWHERE, 701),
        (OPEN, {"host": "localhost"}, "10.0.0.1", "localhost", Plain.ANYWHERE, None),
        (TLS, {}, "10.0.0.1", "10.0.0.1", Plain.NOWHERE, 701),
        (TLS, {"plain": True}, "10.0.0.1", "10.0.0.1", Plain.AS_ASKED, 701),
        (TLS, {"native": False}, "10.0.0.1", "10.0.0.1", None, None),
        (TLS, {"listen": "10.9.0.1"}, "10.9.0.1", "10.0.0.1", Plain.NOWHERE, 701),
        (BOTH, {}, "10.0.0.1", "10.0.0.1", Plain.NOWHERE, 701),
        (FAR, {}, "127.0.0.1", "10.0.0.1", Plain.NOWHERE, None),
        (ALL, {}, ANY, socket.getfqdn(), Plain.ANYWHERE, 0),
    ],
)
def test_what_follows(
    settings: dict[str, Any], data: dict[str, Any], listen: str, host: str, policy: Plain | None, port: int | None
) -> None:
    """One configuration."""
    config = load(None, settings | {"data": data})
    reached_at = advertised(config.reached_at)
    if config.listen[0].host == ANY and host.startswith("localhost"):
        port = None
    assert Here(listen, host) == here(config, reached_at)
    assert policy is plain(config, reached_at)
    assert port == shared_port(config, reached_at)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (UNIX | {"data": {"listen": "10.0.0.1"}}, "unencrypted"),
        ({"data": {"first_port": 10, "last_port": 9}}, "comes before"),
        ({"data": {"port": 65536}}, "65535"),
        ({"data": {"ports": 1}}, "data.ports"),
    ],
)
def test_refused(settings: dict[str, Any], says: str) -> None:
    """What would be wrong, or dangerous without a word, ends the start."""
    with pytest.raises(InvalidParameter, match=says):
        load(None, settings)
