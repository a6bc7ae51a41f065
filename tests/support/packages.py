"""Packages of the distribution, fetched and unpacked beside the system instead of into it."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


class PackageUnavailable(Exception):
    """A package cannot be had here; the text says why."""


def unpacked(names: Sequence[str], place: Path, configuration: Path | None = None) -> Path:
    """`place` has the content of the packages, whole or not at all, whoever of several builders put it there first.

    Args:
        names: of the packages; the newest version that apt knows is taken.
        place: a folder in a folder that exists.
        configuration: apt's, instead of the system's.

    Raises:
        PackageUnavailable: apt cannot fetch one of them.
    """
    if place.is_dir():
        return place
    with tempfile.TemporaryDirectory(dir=place.parent) as work:
        tree = Path(work) / "tree"
        run_apt(["apt-get", "-o", "APT::Sandbox::User=root", "download", *names], Path(work), configuration)
        for package in sorted(Path(work).glob("*.deb")):
            run_apt(["dpkg", "-x", str(package), str(tree)], Path(work), configuration)
        try:
            tree.rename(place)
        except OSError:
            if not place.is_dir():
                raise
    return place


def run_apt(command: Sequence[str], directory: Path | None = None, configuration: Path | None = None) -> str:
    """What the command prints.

    Raises:
        PackageUnavailable: it failed, or there is no such command.
    """
    environment = ["env", f"APT_CONFIG={configuration}"] if configuration else []
    try:
        done = subprocess.run([*environment, *command], cwd=directory, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise PackageUnavailable(f"there is no {command[0]} here") from None
    if done.returncode:
        raise PackageUnavailable(f"`{' '.join(command)}` said: {done.stderr.strip()[-300:]}")
    return done.stdout
