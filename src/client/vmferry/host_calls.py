"""What can be asked of a daemon about its host and its domains: the part of `Connection` that speaks to those services."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from grpc import aio

from vmferry import wire
from vmferry.api.v1 import domains_pb2, domains_pb2_grpc, host_pb2, host_pb2_grpc
from vmferry.calls import Caller, translated
from vmferry.errors import PeerUnreachable, VmferryError
from vmferry.features import Answers, Feature
from vmferry.model import DomainEvent, DomainInfo, DomainState, HostCapabilities, HostInfo

if TYPE_CHECKING:
    from vmferry.api.v1.domains_pb2_grpc import DomainServiceAsyncStub
    from vmferry.api.v1.host_pb2_grpc import HostServiceAsyncStub


class HostCalls(Caller):
    """One daemon's host, and the domains on it."""

    @cached_property
    def _host(self) -> HostServiceAsyncStub:
        return host_pb2_grpc.HostServiceStub(self.channel)

    @cached_property
    def _domains(self) -> DomainServiceAsyncStub:
        return domains_pb2_grpc.DomainServiceStub(self.channel)

    # -- the host ---------------------------------------------------------------------------------------------------

    async def version(self) -> HostInfo:
        """Who answers."""
        reply = await self._ask(self._host.GetVersion(host_pb2.GetVersionRequest(), timeout=self.bounds.call_s))
        return wire.host_from_wire(reply)

    async def capabilities(self) -> HostCapabilities:
        """The drivers that work there, and the features that the daemon announces."""
        reply = await self._ask(self._host.GetCapabilities(host_pb2.GetCapabilitiesRequest(), timeout=self.bounds.call_s))
        return wire.capabilities_from_wire(reply)

    async def answers(self) -> Answers:
        """What the daemon answers for each feature; where it could not be asked, the error stands in place of the answers."""
        try:
            announced = (await self.capabilities()).features
        except VmferryError as error:
            return Answers(dict.fromkeys(Feature, error), str(self.uri))
        return Answers.of(*(feature for feature in Feature if feature in announced), host=str(self.uri))

    # -- domains ----------------------------------------------------------------------------------------------------

    async def define(self, xml: str) -> DomainInfo:
        """The definition is stored.

        Raises:
            DefinitionInvalid: it is refused, with every finding.
            AlreadyExists: its name or UUID belongs to another domain.
        """
        reply = await self._ask(
            self._domains.DefineDomain(domains_pb2.DefineDomainRequest(xml=xml), timeout=self.bounds.call_s)
        )
        return wire.domain_from_wire(reply.domain)

    async def undefine(self, domain: str) -> None:
        """The stored definition is gone; an active domain becomes transient."""
        await self._ask(
            self._domains.UndefineDomain(domains_pb2.UndefineDomainRequest(domain=domain), timeout=self.bounds.call_s)
        )

    async def start(self, domain: str) -> DomainInfo:
        """The guest runs."""
        return await self._start(domains_pb2.StartDomainRequest(domain=domain))

    async def start_paused(self, domain: str) -> DomainInfo:
        """The guest exists and stands paused."""
        return await self._start(domains_pb2.StartDomainRequest(domain=domain, paused=True))

    async def _start(self, request: domains_pb2.StartDomainRequest) -> DomainInfo:
        reply = await self._ask(self._domains.StartDomain(request, timeout=self.bounds.call_s))
        return wire.domain_from_wire(reply.domain)

    async def shutdown(self, domain: str) -> None:
        """The guest has been asked to shut down; whether it obeys is its own business."""
        await self._ask(
            self._domains.ShutdownDomain(domains_pb2.ShutdownDomainRequest(domain=domain), timeout=self.bounds.call_s)
        )

    async def destroy(self, domain: str) -> None:
        """The guest is gone."""
        await self._ask(
            self._domains.DestroyDomain(domains_pb2.DestroyDomainRequest(domain=domain), timeout=self.bounds.call_s)
        )

    async def suspend(self, domain: str) -> None:
        """The guest's CPUs stand still."""
        await self._ask(
            self._domains.SuspendDomain(domains_pb2.SuspendDomainRequest(domain=domain), timeout=self.bounds.call_s)
        )

    async def resume(self, domain: str) -> None:
        """The guest's CPUs run."""
        await self._ask(
            self._domains.ResumeDomain(domains_pb2.ResumeDomainRequest(domain=domain), timeout=self.bounds.call_s)
        )

    async def domains(self, *states: DomainState) -> list[DomainInfo]:
        """All domains by name, or those in one of `states`."""
        request = domains_pb2.ListDomainsRequest(states=[wire.enum_to_wire(state) for state in states])
        reply = await self._ask(self._domains.ListDomains(request, timeout=self.bounds.call_s))
        return [wire.domain_from_wire(domain) for domain in reply.domains]

    async def domain(self, name: str) -> DomainInfo:
        """One domain, by name or UUID."""
        return wire.domain_from_wire((await self._get(name)).domain)

    async def devices(self, name: str) -> Mapping[str, str]:
        """What the host allotted to an active domain, by device alias: pty paths, the VNC port."""
        return dict((await self._get(name)).devices)

    async def _get(self, name: str) -> domains_pb2.GetDomainResponse:
        return await self._ask(self._domains.GetDomain(domains_pb2.GetDomainRequest(domain=name), timeout=self.bounds.call_s))

    async def xml(self, domain: str) -> str:
        """The definition: of the running guest if there is one, else the stored one."""
        return await self._xml(domains_pb2.DumpDomainXmlRequest(domain=domain))

    async def stored_xml(self, domain: str) -> str:
        """The stored definition, which the next start will use."""
        return await self._xml(domains_pb2.DumpDomainXmlRequest(domain=domain, inactive=True))

    async def receiver(self, domain: str, uri: str, *, xml: str = "", directory: str = "") -> list[str]:
        """The words of a command line that receives the domain at `uri` in a direct migration. Nothing is started.

        `xml` takes the place of the domain's definition, where paths and bridges differ; the receiver's own sockets lie in
        `directory`, by default where it is started. A guest that stands still now does so on arrival, too.

        Raises:
            DriverRefused: its hypervisor is none that is started by a command line.
            HostIncompatible: `xml` would change the machine that the guest sees.
        """
        return await self._receiver(
            domains_pb2.DumpReceiverRequest(domain=domain, uri=uri, domain_xml=xml, directory=directory)
        )

    async def receiver_paused(self, domain: str, uri: str, *, xml: str = "", directory: str = "") -> list[str]:
        """The same of a receiver where the guest stands still on arrival, until its monitor hears `cont`."""
        return await self._receiver(
            domains_pb2.DumpReceiverRequest(domain=domain, uri=uri, paused=True, domain_xml=xml, directory=directory)
        )

    async def _receiver(self, request: domains_pb2.DumpReceiverRequest) -> list[str]:
        return list((await self._ask(self._domains.DumpReceiver(request, timeout=self.bounds.call_s))).words)

    async def _xml(self, request: domains_pb2.DumpDomainXmlRequest) -> str:
        return (await self._ask(self._domains.DumpDomainXml(request, timeout=self.bounds.call_s))).xml

    async def watch_domains(self) -> AsyncIterator[DomainEvent]:
        """What happens to the domains there from now on; ends with an error when the daemon goes away."""
        call = self._domains.WatchDomains(domains_pb2.WatchDomainsRequest())
        try:
            async for change in call:
                yield wire.domain_event_from_wire(change)
        except aio.AioRpcError as error:
            raise translated(error, PeerUnreachable, str(self.uri)) from None
        finally:
            call.cancel()
