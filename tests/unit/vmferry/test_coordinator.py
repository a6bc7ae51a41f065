"""The coordinator's decisions, over every walk that there is: each call may end in every way."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

from vmferry.coordinator import End, Heard, Question, Walk, after, first, owes, verdict
from vmferry.model import Phase, Side, Verdict
from vmferry.protocol import PROFILES, Confirming, Profile, ProtocolVersion, peer_to_peer

ENDINGS = {
    Phase.PREPARE: (Heard.ANSWERED, Heard.USELESS, Heard.REFUSED, Heard.LOST),
    Phase.FINISH: (Heard.COMMITTED, Heard.ABORTED, Heard.REFUSED, Heard.LOST),
    Question.TOMBSTONE: (Heard.COMMITTED, Heard.ABORTED, Heard.REFUSED, Heard.LOST),
}
"""How a call may end; those that are not listed are answered, refused or lost."""

Step = tuple[Walk, Heard, Walk]


def walks(profile: Profile, walk: Walk | None = None, before: tuple[Step, ...] = ()) -> Iterator[tuple[Step, ...]]:
    """Every walk from its start to its end."""
    here = walk or first(profile)
    if isinstance(here.asking, End):
        yield before
        return
    for heard in ENDINGS.get(here.asking, (Heard.ANSWERED, Heard.REFUSED, Heard.LOST)):
        there = after(profile, here, heard)
        yield from walks(profile, there, (*before, (here, heard, there)))


EVERY = [pytest.param(profile, id=f"protocol {profile.version}") for profile in PROFILES.values()]
EVERY.append(pytest.param(peer_to_peer(PROFILES[ProtocolVersion.V3]), id="protocol 3, peer-to-peer"))


@pytest.mark.parametrize("profile", EVERY)
def test_every_walk_ends(profile: Profile) -> None:
    """Whatever is answered, each phase comes at most once and in order, and there is an end."""
    for steps in walks(profile):
        phases = [walk.asking for walk, _, _ in steps if isinstance(walk.asking, Phase)]
        assert phases == sorted(set(phases), key=profile.phases.index)
        assert isinstance(steps[-1][2].asking, End)


@pytest.mark.parametrize("profile", EVERY)
def test_silence_is_told_to_nobody(profile: Profile) -> None:
    """When the destination's word cannot be had, nothing is asked of any side any more."""
    doubts = 0
    for steps in walks(profile):
        for walk, heard, there in steps:
            if walk.asking is Question.TOMBSTONE and heard in (Heard.REFUSED, Heard.LOST):
                doubts += 1
                assert there.asking is End.DOUBT
    assert doubts


@pytest.mark.parametrize("profile", EVERY)
def test_a_failure_leaves_no_doubt(profile: Profile) -> None:
    """A failure that is certain leaves the guest at the source, also when the destination is silent afterwards."""
    for steps in walks(profile):
        for walk, _, there in steps:
            if walk.failed is not None:
                assert there.asking not in (Question.TOMBSTONE, End.DOUBT)


@pytest.mark.parametrize("profile", EVERY)
def test_a_lost_perform_lets_finish_commit(profile: Profile) -> None:
    """What follows a Perform whose reply was lost is a Finish that wishes to commit, and its word holds."""
    for steps in walks(profile):
        for (walk, heard, _), (following, said, there) in pairwise(steps):
            if walk.asking is Phase.PERFORM and heard is Heard.LOST:
                assert following.asking is Phase.FINISH
                assert verdict(following, Phase.FINISH) is Verdict.COMMIT
                assert said is not Heard.ABORTED or there.failed is Phase.PERFORM


@pytest.mark.parametrize("profile", EVERY)
def test_only_finish_is_told_on(profile: Profile) -> None:
    """Confirm's verdict is to commit exactly when Finish has said so."""
    for steps in walks(profile):
        for walk, _, _ in steps:
            if walk.asking is Phase.CONFIRM:
                assert (walk.finish is Heard.COMMITTED) == (verdict(walk, Phase.CONFIRM) is Verdict.COMMIT)


@pytest.mark.parametrize("profile", EVERY)
def test_after_a_failure_nothing_is_opened(profile: Profile) -> None:
    """After a failure only Finish and Confirm are owed.

    A client's Confirm never follows a Perform that has failed (specification 1.6), but one that was lost; that of a source
    that coordinates follows exactly the failures that Finish was told of (specification 1.7).
    """
    for steps in walks(profile):
        for walk, _, _ in steps:
            if walk.failed is not None:
                owed = {phase for phase in profile.phases if owes(profile, walk, phase)}
                assert owed <= {Phase.FINISH, Phase.CONFIRM}
                if profile.confirming is Confirming.AFTER_FINISH:
                    assert (Phase.FINISH in owed) == (Phase.CONFIRM in owed)
                else:
                    failed = (walk.failed, walk.why) == (Phase.PERFORM, Heard.REFUSED)
                    assert not (failed and Phase.CONFIRM in owed)


@pytest.mark.parametrize("profile", EVERY)
def test_a_commit_wins(profile: Profile) -> None:
    """A Finish that says the guest lives there clears every failure before it."""
    for steps in walks(profile):
        for walk, heard, there in steps:
            if walk.asking is Phase.FINISH and heard is Heard.COMMITTED:
                assert there.failed is None


@pytest.mark.parametrize("profile", EVERY)
def test_an_ended_walk_hears_nothing(profile: Profile) -> None:
    """A walk that has ended stays what it is."""
    ends = {steps[-1][2] for steps in walks(profile)}
    assert {end.asking for end in ends} == set(End)
    assert all(after(profile, end, heard) == end for end in ends for heard in Heard)


def test_the_first_question_is_the_sources() -> None:
    """Each protocol begins at the source: with Begin, or with a look at the guest."""
    for profile in PROFILES.values():
        asking = first(profile).asking
        assert asking is Question.LOOK or (isinstance(asking, Phase) and asking.side is Side.SOURCE)
