"""A migration's walk with nothing but looks: what each host would refuse, and what the two together show.

It is Begin, Prepare and Perform with `validate_only`. Every host's own findings come from the code that would refuse the real
call; here are only the notes that take both hosts to see.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from vmferry.endpoint import Destination, ProgressListener, Reply, Request, ignore_progress
from vmferry.errors import VmferryError
from vmferry.findings import Finding, Weight, findings_of
from vmferry.flags import NONE, Flag, destination_flags, source_flags
from vmferry.model import HostCapabilities, HostInfo
from vmferry.negotiation import Path
from vmferry.protocol import ProtocolVersion

CLOCKS_APART_S = 5.0
"""Two clocks that differ by more than this are worth a note: certificates and logs go by them."""
CERTIFICATE_LEFT_S = 14 * 86_400.0
"""A certificate that ends sooner is worth a note."""


class Looking(Protocol):
    """A source, so far as it is only looked at."""

    async def begin(self, request: Request) -> Reply:
        """See `vmferry.endpoint.Source`."""
        ...

    async def perform(self, request: Request, listener: ProgressListener) -> Reply:
        """See `vmferry.endpoint.Source`."""
        ...


async def check(
    source: Looking, destination: Destination, request: Request, *, protection: Flag = NONE
) -> tuple[Finding, ...]:
    """All problems that the two hosts see; empty when `request` would not be refused for anything that can be known now.

    Nothing is opened, made, held or recorded on either host.
    """
    here = replace(request, flags=source_flags(request.flags, protection=protection), validate_only=True)
    there = replace(request, flags=destination_flags(request.flags), validate_only=True)
    begun, findings = await _asked(source.begin(here))
    if begun is None:
        return findings
    prepared, more = await _asked(destination.prepare(replace(there, cookie=begun.cookie, domain_xml=begun.domain_xml)))
    findings += more
    if prepared is not None:
        performing = replace(here, cookie=prepared.cookie, uri=prepared.uri)
        findings += (await _asked(source.perform(performing, ignore_progress)))[1]
    return tuple(dict.fromkeys(findings))


async def check_along(path: Path, source: Looking, destination: Destination, request: Request) -> tuple[Finding, ...]:
    """The same for the path that both daemons share; an older protocol has no calls that only look."""
    asked = replace(request, flags=path.flags)
    if path.version is ProtocolVersion.V3:
        return await check(source, destination, asked, protection=path.protection)
    text = f"the two daemons share only protocol {path.version.value}, whose calls cannot be checked beforehand"
    return (Finding("", "NOT_CHECKED", "protocol", text, "let both daemons announce protocol 3", Weight.NOTE),)


async def check_source(source: Looking, request: Request, *, protection: Flag = NONE) -> tuple[Finding, ...]:
    """The problems that the source alone sees."""
    flags = source_flags(request.flags, protection=protection)
    return (await _asked(source.begin(replace(request, flags=flags, validate_only=True))))[1]


async def _asked(call: Awaitable[Reply]) -> tuple[Reply | None, tuple[Finding, ...]]:
    try:
        reply = await call
    except VmferryError as error:
        return None, findings_of(error, "")
    return reply, reply.findings


@dataclass(frozen=True, slots=True)
class Witness:
    """One host, as the check sees it: who it is, what it can, how far its clock is ahead of this one's."""

    host: HostInfo
    capabilities: HostCapabilities
    clock_ahead_s: float


class Known(Protocol):
    """A daemon, so far as it says who it is."""

    async def version(self) -> HostInfo:
        """Who answers."""
        ...

    async def capabilities(self) -> HostCapabilities:
        """What the host can do."""
        ...


async def witnessed(daemon: Known) -> Witness:
    """What a daemon answers to the two questions."""
    asked_s = time.time()
    info = await daemon.version()
    answered_s = time.time()
    known = await daemon.capabilities()
    return Witness(info, known, info.wall_clock_s - (asked_s + answered_s) / 2)


def notes(source: Witness, destination: Witness) -> Iterator[Finding]:
    """What the user should know although it keeps no migration from its end. Pure."""
    apart_s = abs(source.clock_ahead_s - destination.clock_ahead_s)
    if apart_s > CLOCKS_APART_S:
        text = f"the clocks of {source.host.host_name} and {destination.host.host_name} differ by {apart_s:.0f} s"
        yield _note(destination, "CLOCKS_DIFFER", "clock", text, "let both hosts keep time by NTP")
    for witness in (source, destination):
        left_s = witness.host.certificate_ends_s - witness.host.wall_clock_s
        if witness.host.certificate_ends_s and left_s < CERTIFICATE_LEFT_S:
            ends = f"ends in {left_s / 86_400:.0f} days" if left_s > 0 else "has ended"
            remedy = "make a new one: `vmferry pki issue host --renew`; the daemon takes it from its next connection on"
            yield _note(witness, "CERTIFICATE_ENDS", "certificate", f"the daemon's certificate {ends}", remedy)
    yield from _of_versions(source, destination)


def _of_versions(source: Witness, destination: Witness) -> Iterator[Finding]:
    there = {driver.name: driver for driver in destination.capabilities.drivers}
    for ours in source.capabilities.drivers:
        theirs = there.get(ours.name)
        if theirs is not None and () < _numbers(theirs.version) < _numbers(ours.version):
            text = f"{ours.name} {theirs.version} there is older than {ours.version} at {source.host.host_name}"
            remedy = "migrations to an older hypervisor are rarely tested: update the destination first"
            yield _note(destination, "HYPERVISOR_OLDER", ours.name, text, remedy)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _note(witness: Witness, code: str, subject: str, text: str, remedy: str) -> Finding:
    return Finding(witness.host.host_name, code, subject, text, remedy, Weight.NOTE)
