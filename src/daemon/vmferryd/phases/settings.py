"""What flags and parameters mean for a driver. Pure.

Whatever is asked for is honoured or refused before anything is touched; nothing is ignored.
"""

from __future__ import annotations

from dataclasses import replace

from vmferry.combinations import Place, check
from vmferry.endpoint import Request
from vmferry.errors import InvalidParameter, NotSupported, Violation
from vmferry.flags import Flag, names, unknown_bits
from vmferry.params import MigrationParams
from vmferryd.drivers.base import DriverCapabilities, DriverFeature, ReceiveSettings, SendSettings

HONOURED = (
    Flag.LIVE
    | Flag.PEER2PEER
    | Flag.PERSIST_DEST
    | Flag.UNDEFINE_SOURCE
    | Flag.PAUSED
    | Flag.CHANGE_PROTECTION
    | Flag.UNSAFE
    | Flag.TUNNELLED
    | Flag.COMPRESSED
    | Flag.AUTO_CONVERGE
)
"""The flags that this daemon acts upon."""

HONOURED_PARAMS = frozenset(
    {
        "migrate_uri",
        "destination_name",
        "destination_xml",
        "persistent_xml",
        "bandwidth_mib_per_s",
        "compression",
        "compression_xbzrle_cache_bytes",
        "auto_converge_initial_percent",
        "auto_converge_increment_percent",
    }
)
"""The parameters that this daemon acts upon, by their attribute."""

_DRIVER_NEEDS = {Flag.AUTO_CONVERGE: DriverFeature.AUTO_CONVERGE, Flag.COMPRESSED: DriverFeature.XBZRLE}

_MEBIBYTE = 1 << 20


def refuse_what_is_not_built(flags: Flag, params: MigrationParams, driver: DriverCapabilities) -> None:
    """Everything that is asked for can be honoured here.

    Raises:
        InvalidParameter: unknown flag bits.
        NotSupported: known flags or parameters that this daemon or driver does not act upon; all of them at once.
    """
    if unknown := unknown_bits(int(flags)):
        bits = ", ".join(str(bit) for bit in unknown)
        raise InvalidParameter(f"unknown migration flags: bits {bits}", remedy="use daemons of the same version")
    problems = [Violation(name, "this daemon does not act upon it", "leave it out") for name in names(flags & ~HONOURED)]
    problems += [
        Violation(name, "this daemon does not act upon it", "leave it out")
        for name in params.__dataclass_fields__
        if name not in HONOURED_PARAMS and getattr(params, name) not in (None, ())
    ]
    problems += [
        Violation(names(flag)[0], f"the {driver.name} driver ({driver.version}) cannot do it", "leave it out")
        for flag, feature in _DRIVER_NEEDS.items()
        if flag in flags and feature not in driver.features
    ]
    problems += [
        Violation("compression", f"method {method} is not available here", "use xbzrle")
        for method in params.compression
        if method != "xbzrle" or DriverFeature.XBZRLE not in driver.features
    ]
    if problems:
        raise NotSupported("the migration asks for what cannot be honoured", violations=tuple(problems))


def refuse_what_does_not_fit(request: Request, place: Place) -> None:
    """The flags and parameters go together, as far as the side at `place` looks (specification 3.2).

    Raises:
        InvalidParameter, NotSupported, PermissionRefused: they do not; all findings at once.
    """
    check(request.flags, replace(request.params, migrate_uri=request.params.migrate_uri or request.uri or None), place)


def send_settings(flags: Flag, params: MigrationParams) -> SendSettings:
    """How the source's driver is to send."""
    bandwidth = params.bandwidth_mib_per_s
    return SendSettings(
        live=Flag.LIVE in flags,
        max_bandwidth_bytes_per_s=bandwidth * _MEBIBYTE if bandwidth else None,
        auto_converge=Flag.AUTO_CONVERGE in flags,
        auto_converge_initial_percent=params.auto_converge_initial_percent,
        auto_converge_increment_percent=params.auto_converge_increment_percent,
        xbzrle=_xbzrle(flags, params),
        xbzrle_cache_bytes=params.compression_xbzrle_cache_bytes,
    )


def receive_settings(flags: Flag, params: MigrationParams) -> ReceiveSettings:
    """How the destination's driver is to receive."""
    return ReceiveSettings(xbzrle=_xbzrle(flags, params), xbzrle_cache_bytes=params.compression_xbzrle_cache_bytes)


def _xbzrle(flags: Flag, params: MigrationParams) -> bool:
    return "xbzrle" in params.compression or (Flag.COMPRESSED in flags and not params.compression)
