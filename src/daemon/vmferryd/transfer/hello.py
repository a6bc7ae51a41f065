"""The first bytes of a data connection: who connects shows the token that it was given for this one connection. Pure.

::

    source                                        destination
      | magic 8, version 1, token 32 ---------------->|   wrong in any way: the connection is closed, without an answer
      |<----------------------------------- ACCEPTED 1 |   the token is used up
      | the guest's state ============================>|

The token comes from `TransferService.Grant`, over the daemons' own connection; nothing else that is secret crosses this one.
"""

from __future__ import annotations

import secrets

from vmferry.errors import PermissionRefused

MAGIC = b"VMFERRY\x00"
VERSION = 1
TOKEN_BYTES = 32
HELLO_BYTES = len(MAGIC) + 1 + TOKEN_BYTES
ACCEPTED = b"\x06"
"""The destination's whole answer."""


def new_token() -> bytes:
    """A token that nobody can guess."""
    return secrets.token_bytes(TOKEN_BYTES)


def encode(token: bytes) -> bytes:
    """The hello that shows `token`."""
    return MAGIC + bytes((VERSION,)) + token


def decode(hello: bytes) -> bytes:
    """The token of a hello.

    Raises:
        PermissionRefused: it is no hello, or one of another version.
    """
    if len(hello) != HELLO_BYTES or not hello.startswith(MAGIC):
        raise PermissionRefused("a stranger connected to a data port")
    if hello[len(MAGIC)] != VERSION:
        raise PermissionRefused(f"a data connection began in version {hello[len(MAGIC)]}, not {VERSION}")
    return hello[len(MAGIC) + 1 :]
