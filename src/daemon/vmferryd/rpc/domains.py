"""DomainService: decode, call, encode."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias

from grpc import aio

from vmferry import wire
from vmferry.api.v1 import domains_pb2, domains_pb2_grpc
from vmferry.model import DomainState
from vmferryd.domains.registry import Domains
from vmferryd.domains.verbs import Verbs
from vmferryd.drivers.base import StartMode
from vmferryd.phases.direct import Direct, Receiving

Context: TypeAlias = aio.ServicerContext[Any, Any]


class DomainService(domains_pb2_grpc.DomainServiceServicer):
    """Domains of this host; docstrings are in domains.proto."""

    def __init__(self, domains: Domains, verbs: Verbs, direct: Direct) -> None:
        self._domains = domains
        self._verbs = verbs
        self._direct = direct

    async def DefineDomain(
        self, request: domains_pb2.DefineDomainRequest, context: Context
    ) -> domains_pb2.DefineDomainResponse:
        """See domains.proto."""
        entry = await self._verbs.define(request.xml)
        return domains_pb2.DefineDomainResponse(domain=wire.domain_to_wire(entry.info()))

    async def UndefineDomain(
        self, request: domains_pb2.UndefineDomainRequest, context: Context
    ) -> domains_pb2.UndefineDomainResponse:
        """See domains.proto."""
        await self._verbs.undefine(self._domains.find(request.domain))
        return domains_pb2.UndefineDomainResponse()

    async def StartDomain(self, request: domains_pb2.StartDomainRequest, context: Context) -> domains_pb2.StartDomainResponse:
        """See domains.proto."""
        entry = self._domains.find(request.domain)
        await self._verbs.start(entry, StartMode.PAUSED if request.paused else StartMode.RUNNING)
        return domains_pb2.StartDomainResponse(domain=wire.domain_to_wire(entry.info()))

    async def ShutdownDomain(
        self, request: domains_pb2.ShutdownDomainRequest, context: Context
    ) -> domains_pb2.ShutdownDomainResponse:
        """See domains.proto."""
        await self._verbs.shutdown(self._domains.find(request.domain))
        return domains_pb2.ShutdownDomainResponse()

    async def DestroyDomain(
        self, request: domains_pb2.DestroyDomainRequest, context: Context
    ) -> domains_pb2.DestroyDomainResponse:
        """See domains.proto."""
        await self._verbs.destroy(self._domains.find(request.domain))
        return domains_pb2.DestroyDomainResponse()

    async def SuspendDomain(
        self, request: domains_pb2.SuspendDomainRequest, context: Context
    ) -> domains_pb2.SuspendDomainResponse:
        """See domains.proto."""
        await self._verbs.suspend(self._domains.find(request.domain))
        return domains_pb2.SuspendDomainResponse()

    async def ResumeDomain(
        self, request: domains_pb2.ResumeDomainRequest, context: Context
    ) -> domains_pb2.ResumeDomainResponse:
        """See domains.proto."""
        await self._verbs.resume(self._domains.find(request.domain))
        return domains_pb2.ResumeDomainResponse()

    async def ListDomains(self, request: domains_pb2.ListDomainsRequest, context: Context) -> domains_pb2.ListDomainsResponse:
        """See domains.proto."""
        wanted = {wire.enum_from_wire(DomainState, number) for number in request.states}
        chosen = [entry for entry in self._domains if not wanted or entry.state in wanted]
        return domains_pb2.ListDomainsResponse(domains=[wire.domain_to_wire(entry.info()) for entry in chosen])

    async def GetDomain(self, request: domains_pb2.GetDomainRequest, context: Context) -> domains_pb2.GetDomainResponse:
        """See domains.proto."""
        entry = self._domains.find(request.domain)
        devices = await self._domains.devices(entry)
        return domains_pb2.GetDomainResponse(domain=wire.domain_to_wire(entry.info()), devices=dict(devices))

    async def DumpDomainXml(
        self, request: domains_pb2.DumpDomainXmlRequest, context: Context
    ) -> domains_pb2.DumpDomainXmlResponse:
        """See domains.proto."""
        entry = self._domains.find(request.domain)
        xml = self._domains.stored_xml(entry) if request.inactive else self._domains.xml(entry)
        return domains_pb2.DumpDomainXmlResponse(xml=xml)

    async def DumpReceiver(
        self, request: domains_pb2.DumpReceiverRequest, context: Context
    ) -> domains_pb2.DumpReceiverResponse:
        """See domains.proto."""
        on_arrival = StartMode.PAUSED if request.paused else StartMode.RUNNING
        receiving = Receiving(request.domain, request.uri, on_arrival, request.domain_xml, Path(request.directory))
        return domains_pb2.DumpReceiverResponse(words=await self._direct.receiver(receiving))

    async def WatchDomains(
        self, request: domains_pb2.WatchDomainsRequest, context: Context
    ) -> AsyncIterator[domains_pb2.WatchDomainsResponse]:
        """See domains.proto."""
        with self._domains.watchers.watching() as events:
            await context.send_initial_metadata(())
            async for event in events:
                yield wire.domain_event_to_wire(event)
