"""TuningService: decode, call, encode."""

from __future__ import annotations

from typing import Any, TypeAlias

from grpc import aio

from vmferry.api.v1 import tuning_pb2, tuning_pb2_grpc
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
