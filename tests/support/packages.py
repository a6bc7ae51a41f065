"""Packages of the distribution, fetched and unpacked beside the system instead of into it."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


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


@functools.cache
def mirror() -> str:
    """Where the system's apt has the packages of its release from.

    Raises:
        PackageUnavailable: from nowhere, or there is no apt.
    """
    targets = run_apt(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"])
    for line in targets.splitlines():
        if line.endswith(f" {release()}"):
            return line.split()[0].rstrip("/")
    raise PackageUnavailable(f"apt has no source of {release()}")


def release() -> str:
    """The code name of the system's release."""
    described = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return described.get("VERSION_CODENAME", "").strip('"')


def suite_configuration(folder: Path, suite: str) -> Path:
    """An apt of its own, in `folder`, that knows the system's mirror, and of it only that suite.

    Raises:
        PackageUnavailable: the mirror does not have it.
    """
    signed = f" [signed-by={_KEYRING}]" if _KEYRING.exists() else ""
    (folder / "sources.list").write_text(f"deb{signed} {mirror()} {suite} main\n")
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    configuration = folder / "apt.conf"
    configuration.write_text(
        f'Dir::Etc::SourceList "{folder}/sources.list";\nDir::Etc::SourceParts "-";\n'
        f'Dir::State::Lists "{folder}/lists";\nDir::Cache "{folder}/cache";\nAPT::Sandbox::User "root";\n'
    )
    run_apt(["apt-get", "update", "-qq"], configuration=configuration)
    return configuration
