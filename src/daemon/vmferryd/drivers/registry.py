"""Which drivers this daemon has, and which of them serves a type of domain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Self

from vmferry.errors import InvalidParameter, NotSupported
from vmferryd.clock import Clock
from vmferryd.drivers.base import Driver, DriverCapabilities
from vmferryd.drivers.memory import MemoryDriver, MemoryHost

DriverFactory = Callable[[Clock], Driver]
"""Makes a driver; nothing is touched on the host yet."""


def simulation(clock: Clock) -> Driver:
    """The driver for domains of type `test`, over a machine of its own."""
    return MemoryDriver(MemoryHost(clock))


BUILT_IN: Mapping[str, DriverFactory] = {"test": simulation}
"""The drivers that every daemon has; the configuration may replace one under the same name."""


class DriverRegistry:
    """The drivers of a daemon. Each has been asked what it can do once, when the registry was opened."""

    def __init__(self, drivers: Mapping[str, Driver], capabilities: Mapping[str, DriverCapabilities]) -> None:
        self._drivers = dict(drivers)
        self._capabilities = dict(capabilities)
        self._by_type = dict(_types(self._capabilities))

    @classmethod
    async def open(cls, clock: Clock, configured: Mapping[str, DriverFactory] | None = None) -> Self:
        """The built-in drivers and the configured ones are ready.

        Raises:
            InvalidParameter: a driver was configured under a name that is not its own, or two serve one type.
            DriverRefused, DriverLost: a driver found no hypervisor.
        """
        factories = {**BUILT_IN, **(configured or {})}
        drivers = {name: factory(clock) for name, factory in factories.items()}
        for name, driver in drivers.items():
            if driver.name != name:
                raise InvalidParameter(f"The driver '{driver.name}' is configured under the name '{name}'")
        return cls(drivers, {name: await driver.capabilities() for name, driver in drivers.items()})

    @property
    def names(self) -> tuple[str, ...]:
        """The drivers, in order of their names."""
        return tuple(sorted(self._drivers))

    @property
    def domain_types(self) -> frozenset[str]:
        """Every type of domain that this daemon can run."""
        return frozenset(self._by_type)

    def capabilities(self, name: str) -> DriverCapabilities:
        """What that driver found when the registry was opened.

        Raises:
            NotSupported: there is no such driver.
        """
        self.named(name)
        return self._capabilities[name]

    def named(self, name: str) -> Driver:
        """The driver of that name: the one for a plan that names it.

        Raises:
            NotSupported: there is no such driver.
        """
        driver = self._drivers.get(name)
        if driver is None:
            known = ", ".join(self.names)
            raise NotSupported(f"There is no driver '{name}'", remedy=f"configure it, or use one of {known}")
        return driver

    def serving(self, domain_type: str) -> Driver:
        """The driver that runs domains of that type.

        Raises:
            NotSupported: none does.
        """
        name = self._by_type.get(domain_type)
        if name is None:
            known = ", ".join(sorted(self._by_type))
            raise NotSupported(f"No driver runs domains of type '{domain_type}'", remedy=f"use one of {known}")
        return self._drivers[name]

    async def close(self) -> None:
        """Every driver's monitors are closed; the guests are untouched."""
        for driver in self._drivers.values():
            await driver.close()


def _types(capabilities: Mapping[str, DriverCapabilities]) -> Iterator[tuple[str, str]]:
    claimed: dict[str, str] = {}
    for name, found in capabilities.items():
        for domain_type in sorted(found.domain_types):
            other = claimed.setdefault(domain_type, name)
            if other != name:
                raise InvalidParameter(f"Two drivers serve the type '{domain_type}': '{other}' and '{name}'")
            yield domain_type, name
