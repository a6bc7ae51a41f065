"""The rows of the three protocols, and what is derived from them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vmferry.errors import NotSupported
from vmferry.model import Phase
from vmferry.protocol import (
    PROFILES,
    BeginKind,
    Confirming,
    CookieFlow,
    PrepareKind,
    Profile,
    ProtocolVersion,
    as_markdown,
    direct,
    offline,
    peer_to_peer,
    resumed,
    tunnelled,
)

V1, V2, V3 = (PROFILES[version] for version in ProtocolVersion)


@pytest.mark.parametrize(
    ("version", "phases", "gives_up", "finish_on_failure"),
    [
        (1, "prepare perform finish", "perform", False),
        (2, "begin prepare perform finish", "perform", True),
        (3, "begin prepare perform finish confirm", "confirm", True),
    ],
)
def test_each_row(version: int, phases: str, gives_up: str, finish_on_failure: bool) -> None:
    """The rows are the specified ones."""
    profile = PROFILES[ProtocolVersion(version)]
    assert profile.version == version
    assert " ".join(profile.phases) == phases
    assert profile.gives_up_source_in == gives_up
    assert profile.finish_on_failure is finish_on_failure


@pytest.mark.parametrize(
    ("version", "consumer", "producer"),
    [
        (1, Phase.PREPARE, None),
        (1, Phase.PERFORM, Phase.PREPARE),
        (1, Phase.FINISH, None),
        (2, Phase.BEGIN, None),
        (2, Phase.PREPARE, None),
        (2, Phase.PERFORM, Phase.PREPARE),
        (2, Phase.FINISH, Phase.PREPARE),
        (3, Phase.BEGIN, None),
        (3, Phase.PREPARE, Phase.BEGIN),
        (3, Phase.PERFORM, Phase.PREPARE),
        (3, Phase.FINISH, Phase.PERFORM),
        (3, Phase.CONFIRM, Phase.FINISH),
    ],
)
def test_who_gets_whose_cookie(version: int, consumer: Phase, producer: Phase | None) -> None:
    """One producer for each consumer, or none."""
    assert PROFILES[ProtocolVersion(version)].cookie_for(consumer) is producer


def test_what_the_first_call_is() -> None:
    """Protocol 1 has none, protocol 2 dumps the definition."""
    assert [profile.begin for profile in (V1, V2, V3)] == [BeginKind.ABSENT, BeginKind.DUMP_XML, BeginKind.BEGIN]


def test_a_phase_runs_or_does_not() -> None:
    """As the row says."""
    assert V1.runs(Phase.PREPARE)
    assert not V1.runs(Phase.BEGIN)
    assert not V2.runs(Phase.CONFIRM)
    assert V3.runs(Phase.CONFIRM)


@pytest.mark.parametrize("profile", [V1, V2, V3])
def test_cookies_flow_forward_between_phases_of_the_profile(profile: Profile) -> None:
    """Never to a phase that has run or does not exist."""
    for flow in profile.cookie_flows:
        assert profile.phases.index(flow.producer) < profile.phases.index(flow.consumer)


def test_offline_has_no_perform_and_no_cookie_into_finish() -> None:
    """What is left still gives up the source in Confirm."""
    profile = offline(V3)
    assert " ".join(profile.phases) == "begin prepare finish confirm"
    assert profile.cookie_flows == (
        CookieFlow(Phase.BEGIN, Phase.PREPARE),
        CookieFlow(Phase.FINISH, Phase.CONFIRM),
    )
    assert profile.cookie_for(Phase.FINISH) is None
    assert profile.gives_up_source_in is Phase.CONFIRM


@pytest.mark.parametrize("profile", [V1, V2])
@pytest.mark.parametrize("derive", [offline, resumed])
def test_protocols_1_and_2_are_neither_offline_nor_resumed(profile: Profile, derive: Callable[[Profile], Profile]) -> None:
    """They have no phase for it, and say so."""
    with pytest.raises(NotSupported, match="protocol") as caught:
        derive(profile)
    assert caught.value.remedy


def test_resumed_walks_every_phase_again() -> None:
    """Nothing is left out."""
    assert resumed(V3) == V3


@pytest.mark.parametrize("profile", [V2, V3])
def test_tunnelled_needs_no_address(profile: Profile) -> None:
    """The phases and cookies are the same; only Prepare is another, and names no address."""
    derived = tunnelled(profile)
    assert PrepareKind.TUNNEL is derived.prepare
    assert (True, False) == (profile.needs_uri, derived.needs_uri)
    assert (profile.phases, profile.cookie_flows) == (derived.phases, derived.cookie_flows)


def test_protocol_1_has_no_tunnel() -> None:
    """And says so."""
    with pytest.raises(NotSupported, match="no tunnel"):
        tunnelled(V1)


def test_offline_needs_no_address() -> None:
    """Nothing is sent there."""
    assert not offline(V3).needs_uri


@pytest.mark.parametrize("profile", [V1, V2, V3])
def test_direct_is_one_call(profile: Profile) -> None:
    """2.5: the source alone is asked, once, without a cookie."""
    derived = direct(profile)
    assert (Phase.PERFORM,) == derived.phases
    assert derived.cookie_flows == ()
    assert not derived.finish_on_failure
    assert Phase.PERFORM is derived.gives_up_source_in


@pytest.mark.parametrize("profile", [V1, V2, V3])
def test_peer_to_peer_walks_the_same_phases(profile: Profile) -> None:
    """1.7: what differs is who hears of a failure."""
    derived = peer_to_peer(profile)
    assert Confirming.AFTER_FINISH is derived.confirming
    assert (profile.phases, profile.cookie_flows) == (derived.phases, derived.cookie_flows)


def test_the_rows_are_drawn() -> None:
    """As a table with one column for each protocol."""
    drawn = as_markdown()
    assert "BEGIN(dump) PREPARE PERFORM FINISH" in drawn
    assert len(drawn.splitlines()) == 6
