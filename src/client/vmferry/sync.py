"""The client library for scripts that are not asynchronous. Made by `make sync`; never edit it.

::

    with connect("vmferry+tcp://host-a") as source, connect("vmferry+tcp://host-b") as destination:
        done = source.migrate("web", destination, flags=Flag.LIVE)
        print(done.statistics.guest_pause_ms)

Every call is that of `vmferry.client.Connection` with the same name, raises the same errors, and waits for its answer. A
connection belongs to the thread that has opened it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager

from vmferry import blocking, client
from vmferry.attempt import Attempt
from vmferry.bounds import DEFAULTS, Bounds
from vmferry.channel import Credentials, Uri
from vmferry.findings import Finding
from vmferry.flags import NONE, Flag
from vmferry.in_effect import InEffect
from vmferry.migrate import Migrated
from vmferry.model import (
    DomainEvent,
    DomainInfo,
    DomainState,
    HostCapabilities,
    HostInfo,
    JobEvent,
    JobInfo,
    MigrationId,
    Outcome,
)
from vmferry.params import MigrationParams
from vmferry.statistics import JobStats


def connect(
    uri: str | Uri, *, bounds: Bounds = DEFAULTS, credentials: Credentials | None = None
) -> AbstractContextManager[Connection]:
    """A connection to the daemon at `uri`, which has answered. See `vmferry.client.connect`."""
    return blocking.opened(client.connect(uri, bounds=bounds, credentials=credentials), Connection)


class Connection:
    """One daemon. See `vmferry.client.Connection`, which is `asynchronous`."""

    def __init__(self, asynchronous: client.Connection) -> None:
        self.asynchronous = asynchronous

    @property
    def uri(self) -> Uri:
        """Where the daemon is."""
        return self.asynchronous.uri

    def migrate(
        self,
        domain: str,
        destination: Connection,
        *,
        flags: Flag = NONE,
        params: MigrationParams | None = None,
        uri: str | None = None,
        attempt: Attempt | None = None,
    ) -> Migrated:
        """The guest lives at `destination`. This connection is the source; see `vmferry.migrate.migrate` for the errors.

        It is libvirt's virDomainMigrate3 with typed parameters, and its virDomainMigrate and virDomainMigrate2 over a
        connection that writes fixed arguments: only those two leave the walk to the source's daemon, with PEER2PEER.

        Args:
            domain: its name or UUID.
            destination: the daemon there, as this client reaches it.
            flags: what to do.
            params: how to do it.
            uri: the only URI of virDomainMigrate: with PEER2PEER where the source's daemon finds the destination's, if that
                differs from where this client does; otherwise another spelling of `migrate_uri`.
            attempt: how the caller follows it.

        Raises:
            InvalidParameter, NotSupported, NoCommonProtocol: the two daemons do not share what this needs; nothing happened.
            PeerUnreachable: a daemon could not be asked what it can; nothing happened.
        """
        return blocking.run(
            self.asynchronous.migrate(domain, destination.asynchronous, flags=flags, params=params, uri=uri, attempt=attempt)
        )

    def check(
        self,
        domain: str,
        destination: Connection,
        *,
        flags: Flag = NONE,
        params: MigrationParams | None = None,
        uri: str | None = None,
    ) -> tuple[Finding, ...]:
        """Everything that is known to speak against `migrate` with the same arguments, and what its user should know.

        Nothing is opened, made, held or recorded on either host. What no finding speaks against is not refused later for a
        reason that could have been known now.
        """
        return blocking.run(self.asynchronous.check(domain, destination.asynchronous, flags=flags, params=params, uri=uri))

    def check_alone(self, domain: str, *, flags: Flag = NONE, params: MigrationParams | None = None) -> tuple[Finding, ...]:
        """What this daemon alone would refuse a migration for, as its source."""
        return blocking.run(self.asynchronous.check_alone(domain, flags=flags, params=params))

    def migrate_to_uri(
        self,
        domain: str,
        uri: str,
        *,
        flags: Flag = Flag.PEER2PEER,
        params: MigrationParams | None = None,
        attempt: Attempt | None = None,
    ) -> Migrated:
        """The guest lives where `uri` leads, by one call to this daemon, which goes on when its caller leaves.

        With PEER2PEER `uri` names the destination's daemon, and the source's daemon coordinates. Without, the migration is
        direct: no daemon is there, and `uri` is where a hypervisor listens; in place of it that may be said by `migrate_uri`.
        It is libvirt's virDomainMigrateToURI, 2 and 3.

        Raises:
            InvalidParameter, NotSupported, NoCommonProtocol: nothing happened.
            FateUnknown: the source does not answer; it goes on by itself, and the same call with the same id joins it.
            VmferryError: the first thing that went wrong; `guest` says where the guest is.
        """
        return blocking.run(self.asynchronous.migrate_to_uri(domain, uri, flags=flags, params=params, attempt=attempt))

    def version(self) -> HostInfo:
        """Who answers."""
        return blocking.run(self.asynchronous.version())

    def capabilities(self) -> HostCapabilities:
        """The drivers that work there, and the features that the daemon announces."""
        return blocking.run(self.asynchronous.capabilities())

    def define(self, xml: str) -> DomainInfo:
        """The definition is stored.

        Raises:
            DefinitionInvalid: it is refused, with every finding.
            AlreadyExists: its name or UUID belongs to another domain.
        """
        return blocking.run(self.asynchronous.define(xml))

    def undefine(self, domain: str) -> None:
        """The stored definition is gone; an active domain becomes transient."""
        blocking.run(self.asynchronous.undefine(domain))

    def start(self, domain: str) -> DomainInfo:
        """The guest runs."""
        return blocking.run(self.asynchronous.start(domain))

    def start_paused(self, domain: str) -> DomainInfo:
        """The guest exists and stands paused."""
        return blocking.run(self.asynchronous.start_paused(domain))

    def shutdown(self, domain: str) -> None:
        """The guest has been asked to shut down; whether it obeys is its own business."""
        blocking.run(self.asynchronous.shutdown(domain))

    def destroy(self, domain: str) -> None:
        """The guest is gone."""
        blocking.run(self.asynchronous.destroy(domain))

    def suspend(self, domain: str) -> None:
        """The guest's CPUs stand still."""
        blocking.run(self.asynchronous.suspend(domain))

    def resume(self, domain: str) -> None:
        """The guest's CPUs run."""
        blocking.run(self.asynchronous.resume(domain))

    def domains(self, *states: DomainState) -> list[DomainInfo]:
        """All domains by name, or those in one of `states`."""
        return blocking.run(self.asynchronous.domains(*states))

    def domain(self, name: str) -> DomainInfo:
        """One domain, by name or UUID."""
        return blocking.run(self.asynchronous.domain(name))

    def devices(self, name: str) -> Mapping[str, str]:
        """What the host allotted to an active domain, by device alias: pty paths, the VNC port."""
        return blocking.run(self.asynchronous.devices(name))

    def xml(self, domain: str) -> str:
        """The definition: of the running guest if there is one, else the stored one."""
        return blocking.run(self.asynchronous.xml(domain))

    def stored_xml(self, domain: str) -> str:
        """The stored definition, which the next start will use."""
        return blocking.run(self.asynchronous.stored_xml(domain))

    def receiver(self, domain: str, uri: str, *, xml: str = "", directory: str = "") -> list[str]:
        """The words of a command line that receives the domain at `uri` in a direct migration. Nothing is started.

        `xml` takes the place of the domain's definition, where paths and bridges differ; the receiver's own sockets lie in
        `directory`, by default where it is started. A guest that stands still now does so on arrival, too.

        Raises:
            DriverRefused: its hypervisor is none that is started by a command line.
            HostIncompatible: `xml` would change the machine that the guest sees.
        """
        return blocking.run(self.asynchronous.receiver(domain, uri, xml=xml, directory=directory))

    def receiver_paused(self, domain: str, uri: str, *, xml: str = "", directory: str = "") -> list[str]:
        """The same of a receiver where the guest stands still on arrival, until its monitor hears `cont`."""
        return blocking.run(self.asynchronous.receiver_paused(domain, uri, xml=xml, directory=directory))

    def watch_domains(self) -> Iterator[DomainEvent]:
        """What happens to the domains there from now on; ends with an error when the daemon goes away."""
        return blocking.each(self.asynchronous.watch_domains())

    def job(self, migration_id: MigrationId) -> JobInfo:
        """One migration as this host knows it."""
        return blocking.run(self.asynchronous.job(migration_id))

    def newest_job(self, domain: str) -> JobInfo:
        """The newest migration of a domain as this host knows it."""
        return blocking.run(self.asynchronous.newest_job(domain))

    def jobs(self, domain: str = "", *, limit: int = 0) -> list[JobInfo]:
        """The newest `limit` migrations that this host remembers, newest first; all with 0. Of one domain if it is named."""
        return blocking.run(self.asynchronous.jobs(domain, limit=limit))

    def job_stats(self, domain: str) -> JobStats:
        """The figures of the job that the domain has now."""
        return blocking.run(self.asynchronous.job_stats(domain))

    def completed_stats(self, domain: str) -> JobStats:
        """The figures of the domain's newest job that has ended. They are answered once, as libvirt does."""
        return blocking.run(self.asynchronous.completed_stats(domain))

    def kept_stats(self, domain: str) -> JobStats:
        """The same, which are answered again the next time."""
        return blocking.run(self.asynchronous.kept_stats(domain))

    def stats_of(self, migration_id: MigrationId) -> JobStats:
        """The figures of one migration, whether it runs or has ended."""
        return blocking.run(self.asynchronous.stats_of(migration_id))

    def watch(self, migration_id: MigrationId, *, after: int = 0) -> Iterator[JobEvent]:
        """Every change of the job after the one of that number, and the progress between them, until it has ended.

        Whoever lost the connection goes on with the `sequence` of the last event, and misses no change.
        """
        return blocking.each(self.asynchronous.watch(migration_id, after=after))

    def watch_jobs(self, *, after: int = 0) -> Iterator[JobEvent]:
        """The same for all jobs of the host, and for those to come. With 0: what runs now, then what happens."""
        return blocking.each(self.asynchronous.watch_jobs(after=after))

    def abort_job(self, migration_id: MigrationId) -> Outcome:
        """The migration has ended if it still could; answers what holds. May be called again, and answers the same.

        Raises:
            InDoubt: its last part was sent, and the destination does not say whether it took the guest.
        """
        return blocking.run(self.asynchronous.abort_job(migration_id))

    def abort_job_of(self, domain: str) -> Outcome:
        """The same for the migration that the domain has now.

        Raises:
            InvalidState: it has none.
        """
        return blocking.run(self.asynchronous.abort_job_of(domain))

    def ask_job_to_end(self, migration_id: MigrationId) -> Outcome:
        """The same, without waiting for the effect: PENDING, and `watch` tells the end."""
        return blocking.run(self.asynchronous.ask_job_to_end(migration_id))

    def pause_postcopy(self, migration_id: MigrationId) -> Outcome:
        """The flow of missing pages is paused on both hosts, until the migration is taken up again.

        Raises:
            InvalidState: it is not in post-copy, or this is not its source.
        """
        return blocking.run(self.asynchronous.pause_postcopy(migration_id))

    def start_postcopy(self, domain: str) -> None:
        """The guest that is being sent runs at the destination as soon as it can, and its pages follow. May be called again.

        Raises:
            InvalidState: it is not being sent, or was not begun for post-copy.
        """
        blocking.run(self.asynchronous.start_postcopy(domain))

    def set_max_downtime(self, domain: str, downtime_ms: int) -> None:
        """The guest's switch to another host may take so long.

        Raises:
            InvalidParameter: it is no length that a pause can have.
            InvalidState: the guest is not active there.
        """
        blocking.run(self.asynchronous.set_max_downtime(domain, downtime_ms))

    def max_downtime_ms(self, domain: str) -> int:
        """How long the guest's switch to another host may take."""
        return blocking.run(self.asynchronous.max_downtime_ms(domain))

    def set_max_speed(self, domain: str, mib_per_s: int) -> None:
        """Migrations of the domain send no more than that, unless they name a bandwidth; 0 is unlimited.

        Raises:
            InvalidParameter: it overflows.
        """
        blocking.run(self.asynchronous.set_max_speed(domain, mib_per_s))

    def set_max_postcopy_speed(self, domain: str, mib_per_s: int) -> None:
        """The same after the switch to post-copy.

        Raises:
            InvalidState: the guest is not active there.
        """
        blocking.run(self.asynchronous.set_max_postcopy_speed(domain, mib_per_s))

    def max_speed_mib_per_s(self, domain: str) -> int:
        """What migrations of the domain send at most; 8796093022207 is unlimited."""
        return blocking.run(self.asynchronous.max_speed_mib_per_s(domain))

    def max_postcopy_speed_mib_per_s(self, domain: str) -> int:
        """The same after the switch to post-copy.

        Raises:
            InvalidState: the guest is not active there.
        """
        return blocking.run(self.asynchronous.max_postcopy_speed_mib_per_s(domain))

    def set_compression_cache(self, domain: str, cache_bytes: int) -> None:
        """Xbzrle's cache of this guest has that size.

        Raises:
            InvalidState: the guest is not active there.
            NotSupported: its hypervisor has no xbzrle.
            DriverRefused: it takes no such size.
        """
        blocking.run(self.asynchronous.set_compression_cache(domain, cache_bytes))

    def compression_cache_bytes(self, domain: str) -> int:
        """The size of xbzrle's cache."""
        return blocking.run(self.asynchronous.compression_cache_bytes(domain))

    def tune_migration(
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
        return blocking.run(
            self.asynchronous.tune_migration(
                domain,
                auto_converge_initial_percent=auto_converge_initial_percent,
                auto_converge_increment_percent=auto_converge_increment_percent,
                switchover_bandwidth_mib_per_s=switchover_bandwidth_mib_per_s,
            )
        )
