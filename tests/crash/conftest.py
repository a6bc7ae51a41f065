"""The stage is set once; a cell that fails leaves a new one to the next."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from crash.stage import Stage, stage
from support.emulators import truthful_emulator
from support.guest.build import GuestImage, GuestUnavailable, build_guest
from support.network import NetworkUnavailable, namespaces_left
from support.tools import GUEST_CACHE, qemu_missing, skipping_forbidden


@pytest.fixture(scope="session")
def image() -> GuestImage:
    """The guest; a machine that cannot build it skips, unless that is forbidden."""
    try:
        if reason := qemu_missing():
            raise GuestUnavailable(reason)
        return build_guest(GUEST_CACHE)
    except GuestUnavailable as unavailable:
        _skip(str(unavailable))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def the_stage(image: GuestImage) -> AsyncIterator[Stage]:
    """Two hosts, a client's machine, and a guest."""
    try:
        async with stage(image, truthful_emulator()) as made:
            yield made
    except NetworkUnavailable as unavailable:
        _skip(str(unavailable))
    assert [] == namespaces_left()


def _skip(reason: str) -> None:
    if skipping_forbidden():
        pytest.fail(reason)
    pytest.skip(reason)
