"""Certificates for hosts on loopback, as `vmferry pki` makes them, of an authority that is thrown away."""

from __future__ import annotations

from pathlib import Path

from vmferry import pki


def certificates_of(authority: str, folder: Path) -> Path:
    """`folder` has what a daemon and a client on 127.0.0.1 need, of a fresh authority of that name."""
    now = pki.now()
    pki.issue_host(pki.Authority.new(authority, 2, now), folder, ["127.0.0.1", "localhost"], 1, now)
    return folder
