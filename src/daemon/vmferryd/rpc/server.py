"""The gRPC server: services, health, reflection, and where it listens."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from vmferry.api.v1 import (
    domains_pb2,
    domains_pb2_grpc,
    handover_pb2,
    handover_pb2_grpc,
    host_pb2,
    host_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    legacy_pb2,
    legacy_pb2_grpc,
    migration_pb2,
    migration_pb2_grpc,
    oversight_pb2,
    oversight_pb2_grpc,
    transfer_pb2,
    tuning_pb2,
    tuning_pb2_grpc,
)
from vmferry.channel import Transport, Uri
from vmferry.errors import InvalidParameter
from vmferryd.certificates import Certificates
from vmferryd.config import Config
from vmferryd.domains.verbs import Verbs
from vmferryd.peer import PeerToPeer
from vmferryd.phases.aborts import Aborts
from vmferryd.phases.context import Context
from vmferryd.phases.destination_phases import DestinationPhases
from vmferryd.phases.direct import Direct
from vmferryd.phases.held import Held
from vmferryd.phases.oversight import Oversight
from vmferryd.phases.source_phases import SourcePhases
from vmferryd.phases.tuning import Tunings
from vmferryd.rpc import transfer
from vmferryd.rpc.announced import Announced
from vmferryd.rpc.coordination import Coordination
from vmferryd.rpc.domains import DomainService
from vmferryd.rpc.handover import HandoverService
from vmferryd.rpc.host import HostService
from vmferryd.rpc.interceptors import Errors
from vmferryd.rpc.jobs import JobService
from vmferryd.rpc.legacy import MigrationV1Service, MigrationV2Service
from vmferryd.rpc.migration import MigrationService
from vmferryd.rpc.oversight import OversightService
from vmferryd.rpc.tuning import TuningService

_FILES = (
    domains_pb2,
    handover_pb2,
    host_pb2,
    jobs_pb2,
    legacy_pb2,
    migration_pb2,
    oversight_pb2,
    transfer_pb2,
    tuning_pb2,
)

NAMES = tuple(
    file.DESCRIPTOR.services_by_name[name].full_name for file in _FILES for name in file.DESCRIPTOR.services_by_name
)
"""Every service of the contract."""

_UNIX_UMASK = 0o117

MakeServer = Callable[[Sequence[aio.ServerInterceptor], Sequence[tuple[str, Any]]], aio.Server]
"""Makes a server without services, from its interceptors and options."""


def grpc_server(interceptors: Sequence[aio.ServerInterceptor], options: Sequence[tuple[str, Any]]) -> aio.Server:
    """See `MakeServer`."""
    return aio.server(interceptors=interceptors, options=options)


@dataclass(frozen=True, slots=True)
class Served:
    """What the services are about."""

    context: Context
    source: SourcePhases
    destination: DestinationPhases
    peer: PeerToPeer
    oversight: Oversight
    unavailable: Mapping[str, str]


def build(served: Served, config: Config, make: MakeServer = grpc_server) -> aio.Server:
    """A server with every service; it listens nowhere yet."""
    context, source, destination = served.context, served.source, served.destination
    errors = Errors(context.identity.host_name)
    options = [
        *config.as_server.as_grpc(),
        ("grpc.http2.min_ping_interval_without_data_ms", int(config.keepalive.interval_s * 1000)),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.so_reuseport", 0),
    ]
    server = make([errors, Announced(config.announce)], options)
    direct, verbs = Direct(context, source), Verbs(context.domains, Held(source.migrations, destination))
    domains_pb2_grpc.add_DomainServiceServicer_to_server(DomainService(context.domains, verbs, direct), server)
    handover_pb2_grpc.add_HandoverServiceServicer_to_server(HandoverService(source.migrations, destination), server)
    host = HostService(context.identity, context.clock, context.drivers, served.unavailable, config.announce.announced)
    host_pb2_grpc.add_HostServiceServicer_to_server(host, server)
    aborts = Aborts(context.tasks, source.migrations, destination)
    jobs_pb2_grpc.add_JobServiceServicer_to_server(JobService(context.board, context.domains, aborts), server)
    performing = Coordination(source, served.peer, direct, config.announce.announced)
    migration_pb2_grpc.add_MigrationServiceServicer_to_server(MigrationService(source, destination, performing), server)
    legacy_pb2_grpc.add_MigrationV1ServiceServicer_to_server(MigrationV1Service(destination, performing), server)
    legacy_pb2_grpc.add_MigrationV2ServiceServicer_to_server(MigrationV2Service(source, destination, performing), server)
    oversight_pb2_grpc.add_OversightServiceServicer_to_server(OversightService(context, served.oversight), server)
    tunings = Tunings(context.domains, context.drivers, source.migrations)
    tuning_pb2_grpc.add_TuningServiceServicer_to_server(TuningService(tunings), server)
    server.add_generic_rpc_handlers((transfer.handler(destination, errors),))
    _add_health(server)
    reflection.enable_server_reflection((*NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return server


def _add_health(server: aio.Server) -> None:
    service = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(service, server)
    for name in ("", *NAMES):
        service._server_status[name] = health_pb2.HealthCheckResponse.SERVING  # noqa: SLF001 - set() is a coroutine


def listen(server: aio.Server, places: Sequence[Uri], certificates: Certificates | None) -> None:
    """The server will answer at every place once it is started.

    Raises:
        InvalidParameter: a place is taken or cannot be used.
    """
    for uri in places:
        try:
            _bind(server, uri, certificates)
        except (RuntimeError, OSError) as error:
            raise InvalidParameter(
                f"cannot listen on {uri}: {error}", remedy="stop what listens there, or choose another place"
            ) from None


def _bind(server: aio.Server, uri: Uri, certificates: Certificates | None) -> None:
    if uri.transport is Transport.UNIX:
        _bind_unix(server, Path(uri.path))
        return
    host = f"[{uri.host}]" if ":" in uri.host else uri.host
    address = f"{host}:{uri.port}"
    if uri.transport is Transport.TLS:
        assert certificates is not None  # noqa: S101 - checked by the configuration
        server.add_secure_port(address, certificates.server())
    else:
        server.add_insecure_port(address)


def _bind_unix(server: aio.Server, path: Path) -> None:
    """Whoever can write to the socket can move guests: owner and group, nobody else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if _somebody_listens(path):
        raise OSError("another process listens there")
    path.unlink(missing_ok=True)
    previous = os.umask(_UNIX_UMASK)
    try:
        server.add_insecure_port(f"unix:{path}")
    finally:
        os.umask(previous)


def _somebody_listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
