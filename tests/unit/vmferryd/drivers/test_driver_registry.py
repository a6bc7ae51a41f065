"""Which driver serves what."""

from __future__ import annotations

import pytest

from vmferry.errors import InvalidParameter, NotSupported
from vmferryd.clock import Clock, DrivenClock
from vmferryd.drivers.base import Driver, DriverCapabilities
from vmferryd.drivers.memory import MemoryDriver, MemoryHost
from vmferryd.drivers.registry import DriverRegistry


class Renamed(MemoryDriver):
    """A driver of another name, for types of its own."""

    types: frozenset[str] = frozenset({"kvm", "qemu"})

    @property
    def name(self) -> str:
        """Not 'test'."""
        return "qemu"

    async def capabilities(self) -> DriverCapabilities:
        """Other types."""
        return DriverCapabilities("qemu", "0", self.types, frozenset())


class Greedy(Renamed):
    """A driver that wants everything."""

    types = frozenset({"qemu", "test"})


def renamed(clock: Clock) -> Driver:
    """A factory."""
    return Renamed(MemoryHost(clock))


def greedy(clock: Clock) -> Driver:
    """A factory."""
    return Greedy(MemoryHost(clock))


async def test_the_simulation_is_always_there() -> None:
    """Nothing is configured, and domains of type 'test' run."""
    registry = await DriverRegistry.open(DrivenClock())
    assert registry.names == ("test",)
    assert registry.serving("test") is registry.named("test")
    assert registry.domain_types == {"test"}
    await registry.close()


async def test_a_configured_driver_serves_its_types() -> None:
    """One driver may serve several."""
    registry = await DriverRegistry.open(DrivenClock(), {"qemu": renamed})
    assert registry.serving("kvm") is registry.serving("qemu") is registry.named("qemu")
    assert registry.capabilities("qemu").version == "0"
    await registry.close()


async def test_what_nobody_serves_is_not_supported() -> None:
    """The remedy names what there is."""
    registry = await DriverRegistry.open(DrivenClock())
    with pytest.raises(NotSupported) as refused:
        registry.serving("kvm")
    assert "test" in refused.value.remedy
    with pytest.raises(NotSupported):
        registry.named("qemu")
    with pytest.raises(NotSupported):
        registry.capabilities("qemu")


async def test_two_drivers_for_one_type_are_refused() -> None:
    """Which one would start the guest must not depend on the order of a file."""
    with pytest.raises(InvalidParameter, match="Two drivers"):
        await DriverRegistry.open(DrivenClock(), {"qemu": greedy})


async def test_a_driver_under_another_name_is_refused() -> None:
    """Plans name their driver; they would not find it."""
    with pytest.raises(InvalidParameter, match="under the name"):
        await DriverRegistry.open(DrivenClock(), {"xen": renamed})
