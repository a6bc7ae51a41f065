"""What is to be had at the destination before anything is made: definition, address, room; and what speaks against it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from vmferry.endpoint import Request
from vmferry.errors import DomainNotFound, DriverRefused, InvalidState, NotSupported
from vmferry.evidence import LockState
from vmferry.flags import Flag
from vmferry.model import GuestLocation, Phase, Side
from vmferryd.domains import definition as domain_xml
from vmferryd.domains.copying import ImageFacts, Refusal
from vmferryd.domains.entry import Entry, parse
from vmferryd.domains.model import DomainDefinition
from vmferryd.domains.registry import refuse_violations
from vmferryd.drivers.base import Driver
from vmferryd.phases import admission
from vmferryd.phases.admission import Objection
from vmferryd.phases.arrival import GuestArrival, announced_whole, arriving, arriving_with_guest
from vmferryd.phases.context import Context
from vmferryd.phases.cookie import Cookie
from vmferryd.phases.departure import objections_to
from vmferryd.phases.found import Found
from vmferryd.phases.settings import asked
from vmferryd.transfer.addresses import Arrangement, OwnSocket
from vmferryd.transfer.doors import refuse_path
from vmferryd.transfer.encryption import agreed, refusal_at_destination
from vmferryd.transfer.images import create_blank
from vmferryd.transfer.routes import Encryption


class Sender(NamedTuple):
    """What is known of the source when a guest is to wait for its state.

    `daemon_uri` is empty until the source says so itself; `persistent_xml` is what it wants to have stored; `capabilities`
    are its hypervisor's, None when it does not say; `original_name` is the domain's name there. `native`: it can send over a
    connection of its own; a source of protocol 3 that does not say so knows the tunnel alone. `lanes`: None for one that does
    not say that it knows more channels than one. `encryption`: the best that its hypervisor can. `disks` are those that it
    copies; None when it does not say.
    """

    daemon_uri: str = ""
    persistent_xml: str = ""
    capabilities: frozenset[str] | None = None
    original_name: str = ""
    took_ms: Mapping[Phase, int] = MappingProxyType({})
    native: bool = True
    lanes: frozenset[str] | None = frozenset()
    encryption: Encryption = Encryption.NONE
    disks: tuple[ImageFacts, ...] | None = None


def sender_of(cookie: Cookie, definition: DomainDefinition) -> Sender:
    """What Begin's cookie says of the source."""
    return Sender(
        cookie.daemon_uri,
        cookie.persistent_xml,
        cookie.capabilities,
        definition.name,
        took_ms=cookie.took_ms,
        native=cookie.data is not None,
        lanes=cookie.lanes,
        encryption=cookie.data.encryption if cookie.data is not None else Encryption.NONE,
        disks=cookie.disks,
    )


@dataclass(slots=True)
class Preparation:
    """What is to be had, and in `found` what speaks against it.

    `arrangement` says where the data is to come in, None for the tunnel, and `encryption` what the hypervisors do there;
    `persistent_xml` is stored with the commit, nothing when it is empty; `images` are the paths of those that come.
    """

    definition: DomainDefinition
    persistent_xml: str = ""
    arrangement: Arrangement | None = None
    disks_arrangement: Arrangement | None = None
    encryption: Encryption = Encryption.NONE
    images: tuple[str, ...] = ()
    disks: GuestArrival = field(default_factory=GuestArrival)
    found: Found = field(default_factory=Found)

    @property
    def path(self) -> str:
        """The UNIX socket that the migration is to have; empty when it has none."""
        return self.arrangement.path if isinstance(self.arrangement, OwnSocket) else ""

    @property
    def disks_path(self) -> str:
        """The same for its disks."""
        return self.disks_arrangement.path if isinstance(self.disks_arrangement, OwnSocket) else ""


async def for_guest(context: Context, request: Request, sent: DomainDefinition, sender: Sender) -> Preparation:
    """What a guest of that definition would need here. Nothing is opened, made or recorded."""
    definition = replace(sent, name=request.params.destination_name or sent.name)
    preparation = Preparation(definition)
    found = preparation.found
    driver = context.domains.driver(definition)
    found.hear(
        admission.of_request(Side.DESTINATION, request.flags, asked(request), context.drivers.capabilities(driver.name)),
        admission.of_peer(Side.SOURCE, sender.capabilities, request.flags, request.params),
        admission.of_lanes(Side.SOURCE, sender.lanes, request.flags),
        admission.of_certificates(request.flags, context.doors.certificates),
    )
    best = context.encryption(context.drivers.capabilities(driver.name).features)
    encryption = agreed(
        request.flags, sender.encryption, best, context.doors.plain, request.uri or request.params.listen_address or ""
    )
    with found.trying():
        preparation.arrangement = _arranged(context, request, sender, encryption)
        preparation.encryption = encryption if preparation.arrangement is not None else Encryption.NONE
        preparation.disks_arrangement = _arranged_for_disks(context, request, sender, preparation.encryption)
        own_uri = context.identity.daemon_uri
        if refused := refusal_at_destination(request.flags, sender.encryption, preparation.encryption, own_uri):
            raise refused
    with found.trying():
        preparation.definition = await driver.settle(definition)
        preparation.disks = await arriving_with_guest(
            preparation.definition, sender.disks, request.flags, request.params.migrate_disks
        )
        preparation.images = tuple(blank.path for blank in preparation.disks.blanks)
        found.hear(preparation.disks.objections)
        with found.trying():
            found.hear(await _in_use(driver, preparation.definition, preparation.disks))
        await refuse_violations(driver, _without(preparation.definition, preparation.images))
    with found.trying():
        preparation.persistent_xml = _to_store(request, sender, preparation.definition)
    return preparation


async def make_room(preparation: Preparation, mark: str) -> None:
    """The images that the guest's disks are copied into are there.

    Raises:
        DriverRefused: one cannot be made.
    """
    try:
        await asyncio.to_thread(create_blank, preparation.disks.blanks, mark)
    except OSError as error:
        raise DriverRefused(f"an image cannot be made: {error}", remedy="check the folder and its permissions") from error


async def for_definition(context: Context, request: Request, sent: DomainDefinition, cookie: Cookie) -> Preparation:
    """What a definition that comes without its guest would need here, and the images that come with it."""
    definition = replace(sent, name=request.params.destination_name or sent.name)
    preparation = Preparation(definition)
    found = preparation.found
    driver = context.domains.driver(definition)
    arrival = await arriving(definition, cookie)
    preparation.images = arrival.paths
    found.hear(
        admission.of_request(Side.DESTINATION, request.flags, asked(request), context.drivers.capabilities(driver.name)),
        arrival.objections,
        announced_whole(request.flags, cookie),
    )
    with found.trying():
        preparation.definition = await driver.settle(definition)
        preparation.persistent_xml = domain_xml.format(preparation.definition)
    return preparation


async def _in_use(driver: Driver, definition: DomainDefinition, arrival: GuestArrival) -> tuple[Objection, ...]:
    """What speaks against images that are there: somebody writes to them, the guest at the source perhaps."""
    targets = {disk.source_path: disk.target for disk in definition.devices.disks if disk.target in arrival.targets}
    refusals = []
    for image in await driver.images(definition):
        if image.state is LockState.HELD and image.path in targets:
            holders = f"process {', '.join(map(str, image.holders))}" if image.holders else "somebody"
            remedy = "a disk that both hosts share needs no copy: leave it out of migrate_disks; else end who holds it"
            refusals.append(Refusal(targets[image.path], f"{holders} writes to {image.path}", remedy))
    return objections_to(refusals)


def _without(definition: DomainDefinition, images: tuple[str, ...]) -> DomainDefinition:
    """The definition without the disks whose images do not exist yet."""
    disks = tuple(disk for disk in definition.devices.disks if disk.source_path not in images)
    return replace(definition, devices=replace(definition.devices, disks=disks))


def stored(context: Context, request: Request) -> DomainDefinition:
    """The definition that is stored here under the name that the domain will have.

    Raises:
        DomainNotFound, InvalidState: there is none.
    """
    name = request.params.destination_name or request.domain
    try:
        return parse(context.domains.stored_xml(context.domains.find(name)))
    except (DomainNotFound, InvalidState) as error:
        error.remedy = "define the domain here first, or let both daemons announce protocol 2 or 3"
        raise error.located(guest=GuestLocation.SOURCE) from None


def refuse_active(context: Context, entry: Entry) -> None:
    """The domain does not run here.

    Raises:
        InvalidState: it does.
    """
    if entry.live is not None:
        raise InvalidState(
            f"domain {entry.name} is {entry.state} on {context.identity.host_name} already",
            remedy="look there before you do anything else: one guest must not run twice",
        )


def _arranged(context: Context, request: Request, sender: Sender, encryption: Encryption) -> Arrangement | None:
    """Where the guest's data is to come in; None for the tunnel. Nothing is opened yet.

    Raises:
        InvalidParameter, NotSupported, AddressUnavailable: what was asked for cannot be had.
    """
    if Flag.TUNNELLED in request.flags:
        return None
    uri, listen_address = request.uri, request.params.listen_address or ""
    if not sender.native:
        if uri or listen_address:
            raise NotSupported(
                "the source's daemon sends through the tunnel alone",
                remedy="leave out the migration URI and the listen address, or use daemons of the same version",
            )
        return None
    arrangement = context.doors.arrange(uri, listen_address, encryption)
    if isinstance(arrangement, OwnSocket):
        refuse_path(Path(arrangement.path))
    return arrangement


def _arranged_for_disks(context: Context, request: Request, sender: Sender, encryption: Encryption) -> Arrangement | None:
    """Where disks are to come in, if that is not where the guest's memory does.

    Raises:
        InvalidParameter, NotSupported, AddressUnavailable: what was asked for cannot be had.
    """
    params = request.params
    if not (params.disks_port or params.disks_uri):
        return None
    if not sender.native:
        text = "the source's daemon sends through the tunnel alone"
        raise NotSupported(text, remedy="leave out disks_port and disks_uri, or use daemons of the same version")
    if encryption is Encryption.TLS:
        text = "disks that go to an address of their own would travel in the clear"
        raise NotSupported(
            text, remedy="leave out disks_port and disks_uri: the disks then go through the daemons' connection"
        )
    if params.disks_uri:
        arrangement = context.doors.arrange(params.disks_uri, "")
    else:
        arrangement = context.doors.arrange_disks(params.disks_port or 0, request.uri, params.listen_address or "")
    if isinstance(arrangement, OwnSocket):
        refuse_path(Path(arrangement.path))
    return arrangement


def _to_store(request: Request, sender: Sender, definition: DomainDefinition) -> str:
    """The definition that is to be stored with the commit; empty when none is."""
    if Flag.PERSIST_DEST not in request.flags:
        return ""
    persistent = parse(sender.persistent_xml) if sender.persistent_xml else definition
    return domain_xml.format(replace(persistent, name=definition.name))
