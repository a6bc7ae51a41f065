"""One-time tickets for data channels, and the destination's signature under its outcome. Pure.

A ticket is made by Prepare, travels in its cookie through the coordinator, and opens a channel once. The proof secret is made
by the source and travels inside that channel only, so that no coordinator can forge the destination's word (handover rule 3).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from vmferry.model import MigrationId, Outcome

TICKET_BYTES = 32
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Claim:
    """What a source shows to open a channel. `source_uri` is where its daemon answers."""

    ticket: bytes
    proof_secret: bytes
    source_uri: str
    channel: str = "main"


def new_ticket() -> bytes:
    """A ticket that nobody can guess."""
    return secrets.token_bytes(TICKET_BYTES)


def new_secret() -> bytes:
    """A secret that nobody can guess."""
    return secrets.token_bytes(SECRET_BYTES)


def matches(presented: bytes, expected: bytes) -> bool:
    """They are the same and not empty; takes the same time whatever is presented."""
    return bool(expected) and hmac.compare_digest(presented, expected)


def sign(secret: bytes, migration_id: MigrationId, outcome: Outcome) -> bytes:
    """The destination's signature under `outcome`; empty without a secret."""
    if not secret:
        return b""
    return hmac.new(secret, f"{migration_id} {outcome}".encode(), hashlib.sha256).digest()


def proves(secret: bytes, migration_id: MigrationId, outcome: Outcome, signature: bytes) -> bool:
    """`signature` was made under `outcome` of this migration by whoever has `secret`."""
    return matches(signature, sign(secret, migration_id, outcome))
