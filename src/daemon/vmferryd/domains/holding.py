"""Why a domain that a migration holds is left alone, and what the reader can do about it. Pure."""

from __future__ import annotations

from vmferry.errors import DomainBusy
from vmferry.model import GuestLocation, MigrationId, StateReason


def busy(name: str, holder: MigrationId, reason: StateReason) -> DomainBusy:
    """The refusal. A domain in doubt may run on the other host: whoever started it here would have two copies."""
    if reason is StateReason.IN_DOUBT:
        return DomainBusy(
            f"domain {name} is in doubt: the other host of migration {holder} may run it",
            migration_id=holder,
            guest=GuestLocation.IN_DOUBT,
            remedy=f"bring the other host back, and the two settle it; if it is gone for good, see `vmferry where {name}` "
            f"and decide with `vmferry resolve {name}`",
        )
    return DomainBusy(
        f"domain {name} is held by migration {holder}",
        migration_id=holder,
        remedy=f"wait for it, or end it with `vmferry job abort {holder}`",
    )
