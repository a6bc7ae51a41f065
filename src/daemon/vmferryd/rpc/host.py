"""HostService: what this daemon is and can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from grpc import aio

from vmferry import __version__, wire
from vmferry.api.v1 import host_pb2, host_pb2_grpc
from vmferry.features import Feature
from vmferry.model import DriverInfo, HostCapabilities, HostInfo
from vmferryd.clock import Clock
from vmferryd.drivers.registry import DriverRegistry
from vmferryd.phases.context import Identity

Context: TypeAlias = aio.ServicerContext[Any, Any]


class HostService(host_pb2_grpc.HostServiceServicer):
    """Docstrings are in host.proto. `unavailable` says, by driver, why one does not work here."""

    def __init__(
        self,
        identity: Identity,
        clock: Clock,
        drivers: DriverRegistry,
        unavailable: Mapping[str, str],
        features: Sequence[Feature],
    ) -> None:
        self._clock = clock
        self._features = tuple(int(feature) for feature in features)
        self._identity = identity
        self._drivers = drivers
        self._unavailable = unavailable

    async def GetVersion(self, request: host_pb2.GetVersionRequest, context: Context) -> host_pb2.GetVersionResponse:
        """See host.proto."""
        return wire.host_to_wire(
            HostInfo(
                __version__,
                self._identity.host_name,
                self._identity.host_uuid,
                self._clock.wall(),
                self._identity.certificate_ends_s,
            )
        )

    async def GetCapabilities(
        self, request: host_pb2.GetCapabilitiesRequest, context: Context
    ) -> host_pb2.GetCapabilitiesResponse:
        """See host.proto."""
        drivers = [self._driver(name) for name in self._drivers.names]
        drivers += [DriverInfo(name, unavailable=why) for name, why in sorted(self._unavailable.items())]
        known = HostCapabilities(tuple(drivers), self._features)
        return wire.capabilities_to_wire(known)

    def _driver(self, name: str) -> DriverInfo:
        capabilities = self._drivers.capabilities(name)
        return DriverInfo(
            name=capabilities.name,
            version=capabilities.version,
            domain_types=tuple(sorted(capabilities.domain_types)),
            features=tuple(sorted(feature.value for feature in capabilities.features)),
            machines=tuple(sorted(capabilities.machines)),
        )

    async def HasFeature(self, request: host_pb2.HasFeatureRequest, context: Context) -> host_pb2.HasFeatureResponse:
        """See host.proto."""
        return host_pb2.HasFeatureResponse(supported=request.feature in self._features)
