"""Begin, Prepare and Perform with `validate_only`: everything is looked at, and nothing is opened, made, held or recorded."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from vmferry.endpoint import Reply, Request
from vmferry.errors import PeerUnreachable, VmferryError
from vmferry.flags import Flag
from vmferry.model import Phase, Side
from vmferryd.domains.entry import parse
from vmferryd.domains.registry import Domains
from vmferryd.drivers.base import DriverCapabilities
from vmferryd.phases import admission, preparing
from vmferryd.phases import cookie as cookies
from vmferryd.phases.context import Context
from vmferryd.phases.cookie import Cookie, Expected
from vmferryd.phases.found import Found
from vmferryd.phases.preparing import Preparation, sender_of
from vmferryd.transfer import sockets
from vmferryd.transfer.addresses import Address, Shared
from vmferryd.transfer.encryption import refusal_at_source
from vmferryd.transfer.routes import DataOffer, choose


async def prepare(context: Context, request: Request) -> Reply:
    """What this host would refuse a Prepare for. The cookie is one that Perform can be checked with.

    Raises:
        DefinitionInvalid, CookieRefused: nothing could be looked at.
        NotSupported: no driver here runs such a guest.
    """
    definition = parse(request.domain_xml)
    expected = Expected(request.migration_id, context.identity.host_uuid, definition.name, str(definition.uuid))
    cookie = cookies.decode(request.cookie, Phase.PREPARE, expected)
    if Flag.OFFLINE in request.flags:
        preparation = await preparing.for_definition(context, request, definition, cookie)
    else:
        preparation = await preparing.for_guest(context, request, definition, sender_of(cookie, definition))
    found = preparation.found
    with found.trying():
        _refuse_claimed(context, context.domains, preparation)
    offer = DataOffer()
    with found.trying():
        offer = await _offer(context, preparation)
    if cookie.daemon_uri:
        with found.trying():
            await _reach(context, cookie.daemon_uri, "the source's daemon")
    answer = Cookie(
        request.migration_id,
        cookie.name,
        cookie.uuid,
        context.identity.host_name,
        context.identity.host_uuid,
        context.identity.daemon_uri,
        data=offer if preparation.arrangement is not None else None,
        capabilities=None if Flag.OFFLINE in request.flags else _driver(context, preparation).features,
    )
    return Reply(
        request.migration_id,
        cookie=cookies.encode(answer),
        uri=offer.uri,
        findings=found.findings(context.identity.host_name),
    )


async def perform(context: Context, request: Request) -> Reply:
    """What this host, as the source, would refuse a Perform for: the destination that it does not reach, above all.

    Raises:
        CookieRefused: it is not the cookie of a Prepare with `validate_only`.
    """
    cookie = cookies.decode(request.cookie, Phase.PERFORM, Expected(request.migration_id, context.identity.host_uuid))
    found = Found()
    found.hear(admission.of_peer(Side.DESTINATION, cookie.capabilities, request.flags, request.params))
    with found.trying():
        await _reach(context, request.destination_daemon_uri or cookie.daemon_uri, "the destination's daemon")
        if Flag.OFFLINE not in request.flags:
            await _look_at_the_way(context, request, cookie)
    return Reply(request.migration_id, findings=found.findings(context.identity.host_name))


async def _look_at_the_way(context: Context, request: Request, cookie: Cookie) -> None:
    """Raises when the guest's data may not travel as the destination would have it, or does not get there.

    A place of this migration's own has been tried by the destination, and nobody waits there any more; one that it has
    refused it has said so of, and of that alone there is nothing to be told here.
    """
    if request.uri and cookie.data is None:
        return
    tried = request.uri if cookie.data is not None and not cookie.data.uri else ""
    offer = replace(cookie.data, uri=tried) if tried and cookie.data is not None else cookie.data
    route = choose(request.flags, request.uri, offer, cookie.daemon_uri)
    if refused := refusal_at_source(request.flags, route, context.doors.plain):
        raise refused
    if route.address is not None and not tried:
        await _connect(context, route.address)


def _refuse_claimed(context: Context, domains: Domains, preparation: Preparation) -> None:
    """Raises what a claim of the domain would; nothing stays claimed."""
    entry = domains.claim(preparation.definition)
    try:
        domains.refuse_if_held(entry)
        preparing.refuse_active(context, entry)
    finally:
        domains.drop_if_empty(entry)


async def _offer(context: Context, preparation: Preparation) -> DataOffer:
    """Where data could come in; the place is tried, and closed again."""
    if preparation.arrangement is None:
        return DataOffer()
    berth = await context.doors.open(preparation.arrangement, preparation.encryption)
    offer = berth.offer
    berth.close()
    # A place of one migration's own is closed by now: whoever checks the way to it would be told that nobody listens.
    return offer if isinstance(preparation.arrangement, Shared) else replace(offer, uri="")


def _driver(context: Context, preparation: Preparation) -> DriverCapabilities:
    return context.drivers.capabilities(context.domains.driver(preparation.definition).name)


async def _reach(context: Context, uri: str, whose: str) -> None:
    """Raises when the daemon at `uri` does not answer this one, with this one's credentials."""
    bound_s = context.limits.connect_s
    try:
        async with asyncio.timeout(bound_s), context.peers.reached(uri) as connection:
            await connection.version()
    except TimeoutError:
        raise PeerUnreachable(
            f"{whose} at {uri} does not answer within {bound_s:g} s", remedy="check its name, the route and the firewall"
        ) from None
    except VmferryError as error:
        error.message = f"{whose} at {uri}: {error.message}"
        raise


async def _connect(context: Context, address: Address) -> None:
    """Raises when nobody takes a connection at `address`."""
    connection = await sockets.connect(address, b"", context.limits)
    connection.close()
