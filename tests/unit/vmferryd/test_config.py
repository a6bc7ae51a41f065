"""The configuration: everything is checked at once, and the network is never open by accident."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmferry.channel import DEFAULT_SOCKET, Transport
from vmferry.errors import InvalidParameter
from vmferryd.config import Config, load


def refused(options: dict, path: Path | None = None) -> InvalidParameter:
    """The error of a bad configuration."""
    with pytest.raises(InvalidParameter) as caught:
        load(path, options)
    return caught.value


def test_default() -> None:
    """Without a configuration the daemon listens on its UNIX socket alone."""
    config = load(None, {})
    assert [(Transport.UNIX, str(DEFAULT_SOCKET))] == [(uri.transport, uri.path) for uri in config.listen]
    assert config.listen[0] == config.reached_at


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "[::]", "host-a"])  # noqa: S104 - parsed, not bound
def test_tcp_for_everybody_is_refused(host: str) -> None:
    """TCP without TLS where others can reach it must be asked for in so many words."""
    uri = f"vmferry+tcp://{host}:1"
    assert "--insecure" in str(refused({"listen": [uri]}))
    assert load(None, {"listen": [uri], "insecure": True}).listen[0].port == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "[::1]", "localhost"])
def test_loopback_is_allowed(host: str) -> None:
    """TCP without TLS is good for the machine itself."""
    assert load(None, {"listen": f"vmferry+tcp://{host}:1"}).reached_at.port == 1


def test_tls_needs_certificates() -> None:
    """TLS without a folder of certificates is refused."""
    assert "certificates" in str(refused({"listen": ["vmferry+tls://0.0.0.0:1"]}))
    assert load(None, {"listen": ["vmferry+tls://0.0.0.0:1"], "certificates": "/somewhere"})


def test_all_findings_at_once() -> None:
    """Unknown keys, wrong values and bad URIs are reported together, each with its place."""
    error = refused(
        {
            "lissten": [],
            "listen": ["tcp://x"],
            "advertise": "nonsense",
            "log": {"level": "loud"},
            "limits": {"finish_s": -1, "nap_s": 1},
            "host_uuid": "no",
        }
    )
    places = {violation.subject for violation in error.violations}
    assert {"lissten", "listen", "advertise", "log.level", "limits.finish_s", "limits.nap_s", "host_uuid"} == places
    assert "spelling" in next(v.remedy for v in error.violations if v.subject == "lissten")


def test_file_and_options(tmp_path: Path) -> None:
    """Options win over the file, key by key; the rest of the file stands."""
    path = tmp_path / "vmferryd.toml"
    path.write_text('host_name = "file"\ninsecure = true\n[limits]\nfinish_s = 5\nconnect_s = 6\n[log]\nlevel = "debug"\n')
    config = load(path, {"host_name": "option", "limits": {"finish_s": 7}})
    assert ("option", True, 7, 6, "debug") == (
        config.host_name,
        config.insecure,
        config.limits.finish_s,
        config.limits.connect_s,
        config.log.level,
    )


@pytest.mark.parametrize("content", [b"host_name = ", b"\xff\xfe"])
def test_file_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    """A file that is no TOML is refused, and so is one that is not there."""
    path = tmp_path / "vmferryd.toml"
    path.write_bytes(content)
    assert str(path) in str(refused({}, path))
    assert "cannot be read" in str(refused({}, tmp_path / "missing.toml"))


def test_findings_name_the_file(tmp_path: Path) -> None:
    """What is wrong in a file is reported with the file's name."""
    path = tmp_path / "vmferryd.toml"
    path.write_text("bogus = 1\n")
    assert str(path) in str(refused({}, path))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"listen": ["vmferry+unix:///a", "vmferry+tcp://127.0.0.1:2"]}, "vmferry+tcp://127.0.0.1:2"),
        ({"listen": ["vmferry+unix:///a"], "advertise": "vmferry+tls://host:3"}, "vmferry+tls://host:3"),
        ({"listen": ["vmferry+unix:///a", "vmferry+unix:///b"]}, "vmferry+unix:///a"),
    ],
)
def test_where_peers_reach_it(settings: dict, expected: str) -> None:
    """Peers are told what was configured, else the first place on the network, else the first one."""
    assert expected == str(load(None, settings).reached_at)


def test_as_server() -> None:
    """The keepalive of a connection and its window are the configured ones; a window that is not follows the line."""
    options = Config(keepalive={"interval_s": 1, "timeout_s": 2}, data={"window_mib": 3}).as_server  # type: ignore[arg-type]
    assert (1, 2, 3 << 20) == (options.keepalive_s, options.keepalive_timeout_s, options.window_bytes)
    told = dict(options.as_grpc())
    assert (3 << 20, 0) == (told["grpc.http2.lookahead_bytes"], told["grpc.http2.bdp_probe"])
    assert 1 == dict(Config().as_server.as_grpc())["grpc.http2.bdp_probe"]


@pytest.mark.parametrize("places", [[], 5, [7]])
def test_places_that_are_no_uris(places: object) -> None:
    """A list of places that has none, or is none, is a finding and not a crash."""
    refused({"listen": places})
