"""What can be asked of a daemon about tuning: the part of `vmferry.client.Connection` that speaks to TuningService."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from vmferry.api.v1 import tuning_pb2, tuning_pb2_grpc
from vmferry.calls import Caller
from vmferry.in_effect import InEffect

if TYPE_CHECKING:
    from vmferry.api.v1.tuning_pb2_grpc import TuningServiceAsyncStub

_OPTIONAL = (
    *("max_downtime_ms", "switchover_bandwidth_mib_per_s", "compression_cache_bytes"),
    *("auto_converge_initial_percent", "auto_converge_increment_percent"),
)


class TuningCalls(Caller):
    """What migrations of one daemon's domains obey. Values set while one goes on are obeyed at once, and end with it."""

    @cached_property
    def _tuning(self) -> TuningServiceAsyncStub:
        return tuning_pb2_grpc.TuningServiceStub(self.channel)

    async def set_max_downtime(self, domain: str, downtime_ms: int) -> None:
        """The guest's switch to another host may take so long.

        Raises:
            InvalidParameter: it is no length that a pause can have.
            InvalidState: the guest is not active there.
        """
        request = tuning_pb2.SetMaxDowntimeRequest(domain=domain, downtime_ms=downtime_ms)
        await self._ask(self._tuning.SetMaxDowntime(request, timeout=self.bounds.call_s))

    async def max_downtime_ms(self, domain: str) -> int:
        """How long the guest's switch to another host may take."""
        request = tuning_pb2.GetMaxDowntimeRequest(domain=domain)
        return (await self._ask(self._tuning.GetMaxDowntime(request, timeout=self.bounds.call_s))).downtime_ms

    async def set_max_speed(self, domain: str, mib_per_s: int) -> None:
        """Migrations of the domain send no more than that, unless they name a bandwidth; 0 is unlimited.

        Raises:
            InvalidParameter: it overflows.
        """
        await self._set_speed(tuning_pb2.SetMaxSpeedRequest(domain=domain, bandwidth_mib_per_s=mib_per_s))

    async def set_max_postcopy_speed(self, domain: str, mib_per_s: int) -> None:
        """The same after the switch to post-copy.

        Raises:
            InvalidState: the guest is not active there.
        """
        await self._set_speed(tuning_pb2.SetMaxSpeedRequest(domain=domain, bandwidth_mib_per_s=mib_per_s, postcopy=True))

    async def _set_speed(self, request: tuning_pb2.SetMaxSpeedRequest) -> None:
        await self._ask(self._tuning.SetMaxSpeed(request, timeout=self.bounds.call_s))

    async def max_speed_mib_per_s(self, domain: str) -> int:
        """What migrations of the domain send at most; 8796093022207 is unlimited."""
        return await self._speed(tuning_pb2.GetMaxSpeedRequest(domain=domain))

    async def max_postcopy_speed_mib_per_s(self, domain: str) -> int:
        """The same after the switch to post-copy.

        Raises:
            InvalidState: the guest is not active there.
        """
        return await self._speed(tuning_pb2.GetMaxSpeedRequest(domain=domain, postcopy=True))

    async def _speed(self, request: tuning_pb2.GetMaxSpeedRequest) -> int:
        return (await self._ask(self._tuning.GetMaxSpeed(request, timeout=self.bounds.call_s))).bandwidth_mib_per_s

    async def set_compression_cache(self, domain: str, cache_bytes: int) -> None:
        """Xbzrle's cache of this guest has that size.

        Raises:
            InvalidState: the guest is not active there.
            NotSupported: its hypervisor has no xbzrle.
            DriverRefused: it takes no such size.
        """
        request = tuning_pb2.SetCompressionCacheRequest(domain=domain, cache_bytes=cache_bytes)
        await self._ask(self._tuning.SetCompressionCache(request, timeout=self.bounds.call_s))

    async def compression_cache_bytes(self, domain: str) -> int:
        """The size of xbzrle's cache."""
        request = tuning_pb2.GetCompressionCacheRequest(domain=domain)
        return (await self._ask(self._tuning.GetCompressionCache(request, timeout=self.bounds.call_s))).cache_bytes

    async def tune_migration(
        self,
        domain: str,
        *,
        auto_converge_initial_percent: int | None = None,
        auto_converge_increment_percent: int | None = None,
        switchover_bandwidth_mib_per_s: int | None = None,
    ) -> InEffect:
        """The migration of the guest obeys what is given, until its end; answers all that holds then.

        Raises:
            InvalidParameter: one is no value.
            InvalidState: the guest is not active there; or something is given, and it is not being sent or not slowed down.
            DriverRefused: the hypervisor takes no such value.
        """
        request = tuning_pb2.TuneMigrationRequest(
            domain=domain,
            auto_converge_initial_percent=auto_converge_initial_percent,
            auto_converge_increment_percent=auto_converge_increment_percent,
            switchover_bandwidth_mib_per_s=switchover_bandwidth_mib_per_s,
        )
        reply = await self._ask(self._tuning.TuneMigration(request, timeout=self.bounds.call_s))
        known = {name: getattr(reply, name) for name in _OPTIONAL if reply.HasField(name)}  # type: ignore[arg-type]
        return InEffect(
            **dict.fromkeys(_OPTIONAL) | known,
            bandwidth_mib_per_s=reply.bandwidth_mib_per_s,
            postcopy_bandwidth_mib_per_s=reply.postcopy_bandwidth_mib_per_s,
        )
