"""Which flags and parameters this daemon acts upon, and what they mean for a driver. Pure.

What is not listed here is refused by `admission` before anything is touched; nothing is ignored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from vmferry.combinations import methods
from vmferry.endpoint import Request
from vmferry.errors import NotSupported
from vmferry.flags import STORAGE, Flag
from vmferry.in_effect import UNLIMITED_MIB_PER_S
from vmferry.params import MigrationParams
from vmferryd.drivers.base import Parallel, ReceiveSettings, SendSettings, Tls, Tuning
from vmferryd.drivers.copies import CopyExtent, CopyMode, DiskCopy
from vmferryd.transfer.encryption import hostname
from vmferryd.transfer.routes import Encryption, Route

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
    | Flag.ABORT_ON_ERROR
    | Flag.OFFLINE
    | Flag.POSTCOPY
    | Flag.POSTCOPY_RESUME
    | Flag.PARALLEL
    | Flag.TLS
    | STORAGE
    | Flag.NON_SHARED_SYNCHRONOUS_WRITES
)
"""The flags that this daemon acts upon."""

HONOURED_PARAMS = frozenset(
    {
        "migrate_uri",
        "listen_address",
        "destination_name",
        "destination_xml",
        "persistent_xml",
        "bandwidth_mib_per_s",
        "postcopy_bandwidth_mib_per_s",
        "switchover_bandwidth_mib_per_s",
        "compression",
        "compression_xbzrle_cache_bytes",
        "compression_zlib_level",
        "compression_zstd_level",
        "parallel_connections",
        "tls_destination",
        "auto_converge_initial_percent",
        "auto_converge_increment_percent",
        "migrate_disks",
        "migrate_disks_detect_zeroes",
        "disks_port",
        "disks_uri",
        "max_downtime_ms",
        "fixed_downtime_ms",
    }
)
"""The parameters that this daemon acts upon, by their attribute."""

MEBIBYTE = 1 << 20
_USUAL_CONNECTIONS = 2
"""QEMU's own."""


def asked(request: Request) -> MigrationParams:
    """What is asked for besides flags; a URI that the fixed spelling carries counts as the parameter that it is."""
    return replace(request.params, migrate_uri=request.params.migrate_uri or request.uri or None)


def bytes_per_s(mib_per_s: int | None) -> int | None:
    """A bandwidth as drivers take it; None is unlimited."""
    return None if mib_per_s in (None, 0, UNLIMITED_MIB_PER_S) else mib_per_s * MEBIBYTE


def mib_per_s(bytes_per_s: int | None) -> int:
    """A driver's bandwidth as users know it."""
    return UNLIMITED_MIB_PER_S if not bytes_per_s else max(1, bytes_per_s // MEBIBYTE)


def in_words(change: Tuning) -> str:
    """What is changed of a transfer, for its history."""
    words = (
        ("longest pause", change.max_downtime_ms, "{} ms".format),
        ("sent at most", change.max_bandwidth_bytes_per_s, _bound),
        ("sent in post-copy at most", change.postcopy_bandwidth_bytes_per_s, _bound),
        (
            "the rest is sent at",
            change.switchover_bandwidth_bytes_per_s,
            lambda rate: _bound(rate) if rate else "what is seen",
        ),
        ("slowed down at first by", change.auto_converge_initial_percent, "{} %".format),
        ("each time by", change.auto_converge_increment_percent, "{} % more".format),
        ("compression cache", change.xbzrle_cache_bytes, "{} bytes".format),
    )
    return ", ".join(f"{what} {said(value)}" for what, value, said in words if value is not None)


def _bound(bytes_per_s: int) -> str:
    return f"{mib_per_s(bytes_per_s)} MiB/s" if bytes_per_s else "unlimited"


def send_settings(flags: Flag, params: MigrationParams, kept_mib_per_s: int | None = None) -> SendSettings:
    """How the source's driver is to send; `kept_mib_per_s` is what the domain keeps for migrations that name no bandwidth."""
    return SendSettings(
        live=Flag.LIVE in flags,
        max_bandwidth_bytes_per_s=bytes_per_s(params.bandwidth_mib_per_s or kept_mib_per_s),
        switchover_bandwidth_bytes_per_s=MEBIBYTE * (params.switchover_bandwidth_mib_per_s or 0) or None,
        max_downtime_ms=params.fixed_downtime_ms or params.max_downtime_ms,
        steady_downtime=params.fixed_downtime_ms is not None,
        auto_converge=Flag.AUTO_CONVERGE in flags,
        auto_converge_initial_percent=params.auto_converge_initial_percent,
        auto_converge_increment_percent=params.auto_converge_increment_percent,
        xbzrle=_xbzrle(flags, params),
        xbzrle_cache_bytes=params.compression_xbzrle_cache_bytes,
        detect_zeroes=frozenset(params.migrate_disks_detect_zeroes),
        postcopy=Flag.POSTCOPY in flags,
        postcopy_bandwidth_bytes_per_s=postcopy_bytes_per_s(params),
        copy_mode=CopyMode.SYNCHRONOUS if Flag.NON_SHARED_SYNCHRONOUS_WRITES in flags else CopyMode.BACKGROUND,
        parallel=_parallel(flags, params),
    )


def postcopy_bytes_per_s(params: MigrationParams) -> int | None:
    """What may be sent after the switch to post-copy; 0 is unlimited, None what the guest keeps."""
    asked_for = params.postcopy_bandwidth_mib_per_s
    return None if asked_for is None else bytes_per_s(asked_for) or 0


def tls_over(route: Route, certificates: Path | None, tls_destination: str | None) -> Tls | None:
    """How the source's driver is to encrypt on that way; None when it is not to.

    Raises:
        NotSupported: it is not known which name the destination's certificate must have, or there are none here.
    """
    if route.encryption is Encryption.NONE:
        return None
    if certificates is None:
        raise NotSupported("the destination expects TLS, and this host has no certificates", remedy="set `certificates`")
    return Tls(certificates, hostname(route, tls_destination))


def receive_settings(flags: Flag, params: MigrationParams, certificates: Path | None = None) -> ReceiveSettings:
    """How the destination's driver is to receive; with TLS where there are `certificates`."""
    return ReceiveSettings(
        xbzrle=_xbzrle(flags, params),
        xbzrle_cache_bytes=params.compression_xbzrle_cache_bytes,
        postcopy=Flag.POSTCOPY in flags,
        parallel=_parallel(flags, params),
        tls=None if certificates is None else Tls(certificates),
    )


def _parallel(flags: Flag, params: MigrationParams) -> Parallel | None:
    """How memory travels over several connections; None where one is enough."""
    if Flag.PARALLEL not in flags:
        return None
    compression = next(iter(params.compression), "")
    level = {"zlib": params.compression_zlib_level, "zstd": params.compression_zstd_level}.get(compression)
    return Parallel(params.parallel_connections or _USUAL_CONNECTIONS, compression, level)


def disk_copies(flags: Flag, targets: Iterable[str]) -> tuple[DiskCopy, ...]:
    """The disks that are copied while their guest runs, and how much of each."""
    extent = CopyExtent.TOP if Flag.NON_SHARED_INC in flags else CopyExtent.FULL
    return tuple(DiskCopy(target, extent) for target in targets)


def _xbzrle(flags: Flag, params: MigrationParams) -> bool:
    return "xbzrle" in methods(flags, params)
