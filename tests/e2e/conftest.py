"""Real hosts and the guest that tells the truth, for the tests of this folder."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support.emulators import truthful_emulator
from support.guest.build import GuestImage, GuestSettings, GuestUnavailable, build_guest
from support.hosts import Host, hosts
from support.tools import GUEST_CACHE, qemu_missing, skipping_forbidden
from support.traveller import Traveller


@pytest.fixture(scope="session")
def guest_image() -> GuestImage:
    """The guest; a machine that cannot build it skips, unless that is forbidden."""
    try:
        if reason := qemu_missing():
            raise GuestUnavailable(reason)
        return build_guest(GUEST_CACHE)
    except GuestUnavailable as unavailable:
        if skipping_forbidden():
            pytest.fail(str(unavailable))
        pytest.skip(str(unavailable))


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A folder with a short path: UNIX sockets live in it."""
    with tempfile.TemporaryDirectory(prefix="vmf") as directory:
        yield Path(directory)


@pytest.fixture
async def two_hosts(short_directory: Path, request: pytest.FixtureRequest) -> AsyncIterator[tuple[Host, Host]]:
    """Two hosts whose daemons answer; afterwards nothing of them is left. `request.param` is `limits` of their own."""
    limits = getattr(request, "param", {})
    configuration = short_directory / "vmferryd.toml"
    configuration.write_text("\n".join(["[limits]", *(f"{name} = {value}" for name, value in limits.items())]))
    async with hosts(short_directory, "a", "b", options=[f"--config={configuration}"]) as (first, second):
        yield first, second


@pytest.fixture
def emulator(request: pytest.FixtureRequest) -> str | None:
    """The QEMU of the guest: one that loses nothing, unless `parametrize("emulator", …, indirect=True)` names another."""
    return getattr(request, "param", truthful_emulator())


@pytest.fixture
async def traveller(
    guest_image: GuestImage, emulator: str | None, short_directory: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Traveller]:
    """A guest that is not started yet. `@pytest.mark.parametrize("traveller", [MiB], indirect=True)` sets its size."""
    memory_mib = getattr(request, "param", 256)
    settings = GuestSettings(dirty_mib_s=50, workset_mib=64)
    async with Traveller(guest_image, settings, memory_mib, short_directory, emulator) as made:
        yield made
