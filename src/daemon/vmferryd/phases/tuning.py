"""What users set for the migrations of a domain, before them and while one goes on (specification 5.6).

=====================  ==================================  ==========================================================
value                  without a migration                 while the guest is sent
=====================  ==================================  ==========================================================
longest pause          the guest's, while it runs here     this migration's
most that is sent      the domain's, kept in the journal   this migration's
compression cache      the guest's, while it runs here     this migration's
sent after the switch  the guest's, while it runs here     this migration's
throttle, switch-over  none                                this migration's
=====================  ==================================  ==========================================================

What is this migration's ends with it: afterwards what was before holds again.
"""

from __future__ import annotations

from vmferry.errors import InvalidParameter, InvalidState, NotSupported
from vmferry.flags import Flag
from vmferry.in_effect import UNLIMITED_MIB_PER_S
from vmferry.model import StateReason
from vmferry.params import BY_NAME as PARAMETERS
from vmferry.params import LONGEST_DOWNTIME_MS
from vmferryd.domains.entry import Entry
from vmferryd.domains.registry import Domains
from vmferryd.drivers.base import DriverFeature, Guest, Tuning
from vmferryd.drivers.registry import DriverRegistry
from vmferryd.jobs.decisions import SERVES
from vmferryd.phases.settings import MEBIBYTE, bytes_per_s, in_words, mib_per_s
from vmferryd.phases.source import SourceMigration
from vmferryd.phases.source_migrations import SourceMigrations

_MOST_PERCENT = PARAMETERS["auto_converge.increment"].maximum


class Tunings:
    """The values of every domain of this host."""

    def __init__(self, domains: Domains, drivers: DriverRegistry, source: SourceMigrations) -> None:
        self._domains = domains
        self._drivers = drivers
        self._source = source

    # -- the longest pause --------------------------------------------------------------------------------------------

    async def set_max_downtime(self, domain: str, downtime_ms: int) -> None:
        """The guest's switch to another host may take so long.

        Raises:
            InvalidParameter: it is no length that a pause can have.
            InvalidState: the guest is not active here.
        """
        if not 1 <= downtime_ms <= LONGEST_DOWNTIME_MS:
            raise InvalidParameter(
                f"a longest pause of {downtime_ms} ms is not possible", remedy=f"say 1 to {LONGEST_DOWNTIME_MS} ms"
            )
        await self._tune(domain, Tuning(max_downtime_ms=downtime_ms))

    async def max_downtime_ms(self, domain: str) -> int:
        """How long the guest's switch to another host may take, as the user has it.

        Raises:
            InvalidState: the guest is not active here.
        """
        return (await self._guest(self._domains.find(domain)).tuning()).max_downtime_ms or 0

    # -- the most that is sent ----------------------------------------------------------------------------------------

    async def set_max_speed(self, domain: str, speed_mib_per_s: int) -> None:
        """Migrations of the domain send no more than that, unless they name a bandwidth; 0 is unlimited.

        Raises:
            InvalidParameter: it is more than a number of bytes can be.
            InvalidState: the guest runs ahead of its memory, which obeys another bound.
            StorageFailed: nothing has changed.
        """
        _refuse_speed(speed_mib_per_s)
        entry = self._domains.find(domain)
        sending = self._sending(entry)
        holding = None if entry.holder is None else self._source.running(entry.holder)
        if holding is not None and holding.state in SERVES:
            raise InvalidState(
                f"the guest of domain {entry.name} runs at the destination already, and this bounds what is sent before that",
                remedy="bound the pages that are still missing, with --postcopy",
                migration_id=entry.holder,
            )
        if sending is not None:
            await self._obeyed(entry, sending, Tuning(max_bandwidth_bytes_per_s=bytes_per_s(speed_mib_per_s) or 0))
        else:
            kept = None if bytes_per_s(speed_mib_per_s) is None else speed_mib_per_s
            await self._domains.keep_speed(entry, kept)

    def max_speed_mib_per_s(self, domain: str) -> int:
        """What the migration that goes on sends at most, else what the next one will."""
        entry = self._domains.find(domain)
        sending = self._sending(entry)
        if sending is not None:
            return mib_per_s(sending.bandwidth_bytes_per_s)
        return entry.max_speed_mib_per_s or UNLIMITED_MIB_PER_S

    # -- the same after the switch to post-copy ----------------------------------------------------------------------

    async def set_max_postcopy_speed(self, domain: str, speed_mib_per_s: int) -> None:
        """The migration of the guest sends no more missing pages than that; 0 is unlimited. Without one the next does.

        Raises:
            InvalidParameter: it is more than a number of bytes can be.
            InvalidState: the guest is not active here.
        """
        _refuse_speed(speed_mib_per_s)
        await self._tune(domain, Tuning(postcopy_bandwidth_bytes_per_s=bytes_per_s(speed_mib_per_s) or 0))

    async def max_postcopy_speed_mib_per_s(self, domain: str) -> int:
        """What is sent of missing pages at most.

        Raises:
            InvalidState: the guest is not active here.
        """
        return mib_per_s((await self._guest(self._domains.find(domain)).tuning()).postcopy_bandwidth_bytes_per_s)

    # -- the compression cache ----------------------------------------------------------------------------------------

    async def set_compression_cache(self, domain: str, cache_bytes: int) -> None:
        """Xbzrle's cache of this guest has that size.

        Raises:
            InvalidState: the guest is not active here.
            NotSupported: this hypervisor has no xbzrle.
            DriverRefused: it takes no such size.
        """
        self._compressing(domain)
        await self._tune(domain, Tuning(xbzrle_cache_bytes=cache_bytes))

    async def compression_cache_bytes(self, domain: str) -> int:
        """The size of xbzrle's cache.

        Raises:
            InvalidState, NotSupported: see `set_compression_cache`.
        """
        return (await self._compressing(domain).tuning()).xbzrle_cache_bytes or 0

    # -- what only a migration obeys ----------------------------------------------------------------------------------

    async def tune(self, domain: str, change: Tuning) -> Tuning:
        """The migration of the guest obeys the values that are given, until its end; answers all that holds now.

        Raises:
            InvalidParameter: one is no value.
            InvalidState: the guest is not active here; or something is given, and it is not being sent or not slowed down.
            DriverRefused: the hypervisor takes no such value; nothing has changed.
        """
        entry = self._domains.find(domain)
        guest = self._guest(entry)
        if change != Tuning():
            _refuse_values(change)
            await self._obeyed(entry, self._sent(entry, change), change)
        return await guest.tuning()

    def _sent(self, entry: Entry, change: Tuning) -> SourceMigration:
        """The migration that sends the guest, and to which `change` means something."""
        sending = self._sending(entry)
        if sending is None:
            raise InvalidState(
                f"no guest of domain {entry.name} is being sent",
                remedy="begin a migration with that value, or set it while the guest's memory is sent",
            )
        if {*_throttles(change)} - {None} and Flag.AUTO_CONVERGE not in Flag(sending.record.flags):
            raise InvalidState(
                f"the guest of domain {entry.name} is not slowed down by its migration",
                remedy="begin the migration with AUTO_CONVERGE",
                migration_id=sending.record.migration_id,
            )
        return sending

    # -- small things -------------------------------------------------------------------------------------------------

    def _guest(self, entry: Entry) -> Guest:
        guest = self._domains.active(entry)
        if entry.holder is not None and self._source.running(entry.holder) is None:
            raise InvalidState(
                f"the guest of domain {entry.name} is still on its way here",
                remedy="ask the host that it comes from, or wait until it has arrived",
                migration_id=entry.holder,
            )
        if entry.reason is StateReason.IN_DOUBT:
            self._domains.refuse_if_held(entry)
        return guest

    async def _tune(self, domain: str, change: Tuning) -> None:
        """The guest's migration obeys it, or without one the guest keeps it."""
        entry = self._domains.find(domain)
        guest, sending = self._guest(entry), self._sending(entry)
        await self._obeyed(entry, guest if sending is None else sending, change)

    async def _obeyed(self, entry: Entry, who: Guest | SourceMigration, change: Tuning) -> None:
        """`change` holds, and the history of the migration that goes on says so."""
        await who.tune(change)
        migration = None if entry.holder is None else self._source.running(entry.holder)
        if migration is not None:
            migration.machine.tell_decision(f"a user has set: {in_words(change)}")

    def _compressing(self, domain: str) -> Guest:
        entry = self._domains.find(domain)
        guest = self._guest(entry)
        capabilities = self._drivers.capabilities(self._domains.driver(entry.definition).name)
        if DriverFeature.XBZRLE not in capabilities.features:
            raise NotSupported(
                f"the {capabilities.name} driver ({capabilities.version}) does not compress by xbzrle", remedy="leave it out"
            )
        return guest

    def _sending(self, entry: Entry) -> SourceMigration | None:
        """The migration that sends this guest now."""
        return None if entry.holder is None else self._source.sending(entry.holder)


def _throttles(change: Tuning) -> tuple[int | None, int | None]:
    return change.auto_converge_initial_percent, change.auto_converge_increment_percent


def _refuse_speed(mib_per_s: int) -> None:
    if not 0 <= mib_per_s <= UNLIMITED_MIB_PER_S:
        remedy = f"say 0 to {UNLIMITED_MIB_PER_S}, which is unlimited"
        raise InvalidParameter(f"a bandwidth of {mib_per_s} MiB/s overflows", remedy=remedy)


def _refuse_values(change: Tuning) -> None:
    for percent in _throttles(change):
        if percent is not None and not 1 <= percent <= _MOST_PERCENT:
            raise InvalidParameter(f"a guest cannot be slowed down by {percent} %", remedy=f"say 1 to {_MOST_PERCENT}")
    if (change.switchover_bandwidth_bytes_per_s or 0) > UNLIMITED_MIB_PER_S * MEBIBYTE:
        raise InvalidParameter("a bandwidth overflows", remedy=f"say 0 to {UNLIMITED_MIB_PER_S} MiB/s")
