"""The first bytes of a data connection."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.errors import PermissionRefused
from vmferryd.transfer import hello


@given(st.binary(min_size=hello.TOKEN_BYTES, max_size=hello.TOKEN_BYTES))
def test_round_trip(token: bytes) -> None:
    """The token comes back, and every hello has the same size."""
    written = hello.encode(token)
    assert hello.HELLO_BYTES == len(written)
    assert token == hello.decode(written)


def test_the_bytes_are_fixed() -> None:
    """What the contract says of them."""
    assert b"VMFERRY\x00\x01" + bytes(range(32)) == hello.encode(bytes(range(32)))
    assert b"\x06" == hello.ACCEPTED


def test_tokens_differ() -> None:
    """Nobody guesses one."""
    assert 100 == len({hello.new_token() for _ in range(100)})
    assert hello.TOKEN_BYTES == len(hello.new_token())


@pytest.mark.parametrize(
    ("wire", "says"),
    [
        (b"", "stranger"),
        (b"GET / HTTP/1.1\r\n" + bytes(25), "stranger"),
        (hello.encode(bytes(32))[:-1], "stranger"),
        (hello.encode(bytes(32)) + b"x", "stranger"),
        (hello.MAGIC + b"\x02" + bytes(32), "version 2"),
    ],
)
def test_refused(wire: bytes, says: str) -> None:
    """Whatever is no hello of this version."""
    with pytest.raises(PermissionRefused, match=says):
        hello.decode(wire)


@given(st.binary(max_size=2 * hello.HELLO_BYTES).filter(lambda wire: not wire.startswith(hello.MAGIC)))
def test_noise_is_never_a_hello(wire: bytes) -> None:
    """And never anything but a refusal."""
    with pytest.raises(PermissionRefused):
        hello.decode(wire)
