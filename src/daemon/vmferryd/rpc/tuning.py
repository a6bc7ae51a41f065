"""TuningService: decode, call, encode."""

from __future__ import annotations

from typing import Any, TypeAlias

from grpc import aio

from vmferry.api.v1 import tuning_pb2, tuning_pb2_grpc
from vmferryd.drivers.base import Tuning
from vmferryd.phases.settings import MEBIBYTE, mib_per_s
from vmferryd.phases.tuning import Tunings

Context: TypeAlias = aio.ServicerContext[Any, Any]


class TuningService(tuning_pb2_grpc.TuningServiceServicer):
    """Docstrings are in tuning.proto."""

    def __init__(self, tunings: Tunings) -> None:
        self._tunings = tunings

    async def SetMaxDowntime(
        self, request: tuning_pb2.SetMaxDowntimeRequest, context: Context
    ) -> tuning_pb2.SetMaxDowntimeResponse:
        """See tuning.proto."""
        await self._tunings.set_max_downtime(request.domain, request.downtime_ms)
        return tuning_pb2.SetMaxDowntimeResponse()

    async def GetMaxDowntime(
        self, request: tuning_pb2.GetMaxDowntimeRequest, context: Context
    ) -> tuning_pb2.GetMaxDowntimeResponse:
        """See tuning.proto."""
        return tuning_pb2.GetMaxDowntimeResponse(downtime_ms=await self._tunings.max_downtime_ms(request.domain))

    async def SetMaxSpeed(self, request: tuning_pb2.SetMaxSpeedRequest, context: Context) -> tuning_pb2.SetMaxSpeedResponse:
        """See tuning.proto."""
        change = self._tunings.set_max_postcopy_speed if request.postcopy else self._tunings.set_max_speed
        await change(request.domain, request.bandwidth_mib_per_s)
        return tuning_pb2.SetMaxSpeedResponse()

    async def GetMaxSpeed(self, request: tuning_pb2.GetMaxSpeedRequest, context: Context) -> tuning_pb2.GetMaxSpeedResponse:
        """See tuning.proto."""
        if request.postcopy:
            after_mib = await self._tunings.max_postcopy_speed_mib_per_s(request.domain)
            return tuning_pb2.GetMaxSpeedResponse(bandwidth_mib_per_s=after_mib)
        return tuning_pb2.GetMaxSpeedResponse(bandwidth_mib_per_s=self._tunings.max_speed_mib_per_s(request.domain))

    async def SetCompressionCache(
        self, request: tuning_pb2.SetCompressionCacheRequest, context: Context
    ) -> tuning_pb2.SetCompressionCacheResponse:
        """See tuning.proto."""
        await self._tunings.set_compression_cache(request.domain, request.cache_bytes)
        return tuning_pb2.SetCompressionCacheResponse()

    async def GetCompressionCache(
        self, request: tuning_pb2.GetCompressionCacheRequest, context: Context
    ) -> tuning_pb2.GetCompressionCacheResponse:
        """See tuning.proto."""
        cache_bytes = await self._tunings.compression_cache_bytes(request.domain)
        return tuning_pb2.GetCompressionCacheResponse(cache_bytes=cache_bytes)

    async def TuneMigration(
        self, request: tuning_pb2.TuneMigrationRequest, context: Context
    ) -> tuning_pb2.TuneMigrationResponse:
        """See tuning.proto."""
        found = await self._tunings.tune(request.domain, _change(request))
        return _in_effect(found, self._tunings.max_speed_mib_per_s(request.domain))


def _change(request: tuning_pb2.TuneMigrationRequest) -> Tuning:
    def given(name: str) -> int | None:
        return getattr(request, name) if request.HasField(name) else None  # type: ignore[arg-type]

    switchover_mib = given("switchover_bandwidth_mib_per_s")
    return Tuning(
        switchover_bandwidth_bytes_per_s=None if switchover_mib is None else switchover_mib * MEBIBYTE,
        auto_converge_initial_percent=given("auto_converge_initial_percent"),
        auto_converge_increment_percent=given("auto_converge_increment_percent"),
    )


def _in_effect(found: Tuning, most_mib_per_s: int) -> tuning_pb2.TuneMigrationResponse:
    return tuning_pb2.TuneMigrationResponse(
        max_downtime_ms=found.max_downtime_ms,
        bandwidth_mib_per_s=most_mib_per_s,
        postcopy_bandwidth_mib_per_s=mib_per_s(found.postcopy_bandwidth_bytes_per_s),
        switchover_bandwidth_mib_per_s=(found.switchover_bandwidth_bytes_per_s or 0) // MEBIBYTE or None,
        compression_cache_bytes=found.xbzrle_cache_bytes,
        auto_converge_initial_percent=found.auto_converge_initial_percent,
        auto_converge_increment_percent=found.auto_converge_increment_percent,
    )
