"""The engine against scripted hosts: which calls follow which failure, with what, and which error wins.

The transcripts are in `transcripts.txt`; `UPDATE_TRANSCRIPTS=1` writes them anew, to be read before they are committed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scenario.scripted import ID, LOST, REFUSED, Scripted, told, walked
from vmferry.endpoint import Request
from vmferry.errors import FateUnknown, InDoubt, PeerUnreachable
from vmferry.flags import NONE, Flag
from vmferry.migrate import Migrated
from vmferry.model import DomainState, GuestLocation, Outcome, Phase
from vmferry.protocol import PROFILES, Confirming, ProtocolVersion, peer_to_peer

TRANSCRIPTS = Path(__file__).with_name("transcripts.txt")
V3 = PROFILES[ProtocolVersion.V3]
WALKED = {f"protocol {profile.version}": profile for profile in PROFILES.values()}
WALKED["protocol 3, peer-to-peer"] = peer_to_peer(V3)
REQUEST = Request(ID, "web", flags=Flag.LIVE | Flag.ABORT_ON_ERROR | Flag.AUTO_CONVERGE)


async def transcript() -> str:
    """Every profile, phase and failure, as text."""
    parts = []
    for name, profile in WALKED.items():
        protection = Flag.CHANGE_PROTECTION if profile.confirming is Confirming.ALL_BUT_PERFORM else NONE
        for title, script in _scripts(profile.phases):
            result = await walked(profile, script, REQUEST, protection=protection)
            lines = "\n".join(f"    {line}" for line in script.transcript)
            parts.append(f"{name}, {title}\n{lines}\n    = {told(result)}\n")
    return "\n".join(parts)


def _scripts(phases: tuple[Phase, ...]) -> list[tuple[str, Scripted]]:
    scripts = [
        ("nothing fails", Scripted()),
        ("perform leaves the source in doubt", Scripted({Phase.PERFORM: [InDoubt("the destination is silent")]})),
    ]
    for phase in phases:
        scripts += [
            (f"{phase} is refused", Scripted({phase: [REFUSED()]})),
            (f"{phase}'s reply is lost once", Scripted({phase: [LOST()]})),
            (
                f"{phase} never answers, the destination says aborted",
                Scripted({phase: [LOST()] * 99}, finish=_aborted(phase)),
            ),
            (
                f"{phase} never answers, the destination says committed",
                Scripted({phase: [LOST()] * 99}, outcome=Outcome.COMMITTED),
            ),
            (
                f"{phase} never answers, and nobody does",
                Scripted({phase: [LOST()] * 99}, silent=True, deaf=phase in (Phase.PREPARE, Phase.PERFORM)),
            ),
        ]
    for _, script in scripts:
        script.transcript = _Folded()
    return scripts


def _aborted(phase: Phase) -> Outcome | None:
    """What Finish says of a migration whose Perform is lost; of others whatever is wished."""
    return Outcome.ABORTED if phase is Phase.PERFORM else None


class _Folded(list[str]):
    """A transcript in which a call that is repeated stands once."""

    def append(self, line: str) -> None:
        if self[-2:] == [line, "  ! FateUnknown"] or (line == "  ! FateUnknown" and self[-1:] == [line]):
            return
        super().append(line)


async def test_transcripts() -> None:
    """The calls, their order and what they carry are those that were reviewed."""
    actual = await transcript()
    if os.environ.get("UPDATE_TRANSCRIPTS"):
        TRANSCRIPTS.write_text(actual)
    assert TRANSCRIPTS.read_text() == actual


@pytest.mark.checklist(8)
async def test_paused_is_added_once_after_begin() -> None:
    """A guest that is paused already stays paused: the flag is in every call after Begin, and in none before."""
    script = Scripted(state=DomainState.PAUSED)
    await walked(V3, script, Request(ID, "web"))
    flagged = [line.split()[0] for line in script.transcript if "PAUSED" in line]
    assert ["destination.prepare", "source.perform", "destination.finish", "source.confirm"] == flagged
    assert 1 == script.transcript.count("source.domain")


async def test_resumed_postcopy_is_not_paused() -> None:
    """POSTCOPY_RESUME never gets PAUSED: that guest is paused because of the cut."""
    script = Scripted(state=DomainState.PAUSED)
    await walked(V3, script, Request(ID, "web", flags=Flag.POSTCOPY | Flag.POSTCOPY_RESUME))
    assert not [line for line in script.transcript if "PAUSED" in line]


@pytest.mark.checklist(8)
async def test_destination_never_sees_the_flags_of_the_source() -> None:
    """Flags that concern the source alone, protection among them, are only in the calls of the source."""
    script = Scripted()
    await walked(V3, script, REQUEST, protection=Flag.CHANGE_PROTECTION)
    for line in script.transcript:
        if "flags=" in line:
            protected = "ABORT_ON_ERROR+AUTO_CONVERGE" in line and "CHANGE_PROTECTION" in line
            assert line.startswith("source.") == protected, line


@pytest.mark.parametrize(("answered", "wished", "used"), [("there", "", "there"), ("", "here", "here"), ("a", "b", "a")])
@pytest.mark.checklist(8)
async def test_uri(answered: str, wished: str, used: str) -> None:
    """Perform sends where the destination said, and where the user wished if the destination said nothing."""
    script = Scripted(uri=answered)
    await walked(V3, script, Request(ID, "web", uri=wished))
    assert [f"uri={used}"] == [
        word for line in script.transcript if line.startswith("source.perform") for word in line.split() if "uri" in word
    ]


async def test_no_uri_at_all() -> None:
    """Without any place to send to, both opened sides are closed and Perform is never called."""
    script = Scripted(uri="")
    result = await walked(V3, script, Request(ID, "web"))
    assert "InternalError" in told(result)
    calls = [line.split()[0] for line in script.transcript]
    assert ["destination.finish", "source.confirm"] == calls[-2:]
    assert "source.perform" not in calls


async def test_source_that_cannot_show_the_guest() -> None:
    """A source that answers Begin and then not for the domain is told to forget the migration."""
    script = Scripted(look=PeerUnreachable("gone for a moment"))
    result = await walked(V3, script, REQUEST)
    assert isinstance(result, PeerUnreachable)
    assert ["source.begin", "source.domain", "source.confirm"] == [line.split()[0] for line in script.transcript]


@pytest.mark.checklist(4)
async def test_no_confirm_after_a_failed_perform() -> None:
    """A Perform that failed has cleaned up the source: only the destination is told."""
    script = Scripted({Phase.PERFORM: [REFUSED()]})
    result = await walked(V3, script, REQUEST)
    assert GuestLocation.SOURCE is result.guest
    assert script.transcript[-1].startswith("destination.finish")
    assert "what the destination knows" == result.detail


@pytest.mark.checklist(3)
async def test_a_doubt_that_the_destination_has_ended() -> None:
    """A source in doubt gets the destination's tombstone by Confirm, and the client knows where the guest is."""
    script = Scripted({Phase.PERFORM: [InDoubt("silence", guest=GuestLocation.IN_DOUBT)]}, finish=Outcome.ABORTED)
    result = await walked(V3, script, REQUEST)
    assert isinstance(result, InDoubt)
    assert GuestLocation.SOURCE is result.guest
    assert script.transcript[-1].startswith("source.confirm cookie=from-finish")


async def test_failed_confirm_is_a_warning() -> None:
    """A source that cannot be told keeps nothing from having succeeded."""
    result = await walked(V3, Scripted({Phase.CONFIRM: [REFUSED()]}), REQUEST)
    assert isinstance(result, Migrated)
    assert "refused on request" in result.warnings[0]


@pytest.mark.checklist(5)
async def test_nobody_is_told_anything_when_the_destination_is_silent() -> None:
    """When the reply of Finish is lost and nobody answers, no side is told to start or to stop anything."""
    script = Scripted({Phase.FINISH: [LOST()] * 99}, silent=True)
    result = await walked(V3, script, REQUEST)
    assert isinstance(result, FateUnknown)
    assert GuestLocation.IN_DOUBT is result.guest
    assert not [line for line in script.transcript if "confirm" in line]


@pytest.mark.checklist(3)
async def test_finish_that_refuses_the_guest() -> None:
    """A destination that did not take the guest is the error, with its reason; the source is told to roll back."""
    script = Scripted(finish=Outcome.ABORTED)
    result = await walked(V3, script, Request(ID, "web", flags=NONE))
    assert ("MIGRATION_ABORTED", "what the destination knows") == (result.reason, result.detail)
    assert script.transcript[-1].endswith("roll-back")


async def test_commit_wins_over_an_earlier_error() -> None:
    """A destination that has committed is believed, whatever the source said before."""
    result = await walked(V3, Scripted({Phase.PERFORM: [REFUSED()]}, finish=Outcome.COMMITTED), REQUEST)
    assert isinstance(result, Migrated)
    assert "refused on request" in result.warnings[0]
