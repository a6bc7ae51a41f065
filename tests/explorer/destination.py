"""The destination's daemon: what it may do next, by the real tables and decisions."""

from __future__ import annotations

from collections.abc import Iterator

from explorer import hypervisors
from explorer.rules import Rules
from explorer.world import Copy, DestinationSide, Message, Move, Setting, To, Wire, World
from vmferry.coordinator import Question
from vmferry.endpoint import Settled
from vmferry.model import DestinationState, Phase, Verdict
from vmferryd.jobs.decisions import LOADED, OPEN, PULLS
from vmferryd.jobs.job import DestinationEffect, DestinationEvent


def moves(world: World, setting: Setting, rules: Rules) -> Iterator[Move]:
    """Everything that the destination's daemon may do next."""
    side = world.destination
    if side.fenced:
        return
    if not side.up:
        yield Move("the destination's daemon starts again", _restarted(world, rules))
        return
    if side.opening:
        yield Move("Prepare is recorded", _opened(world, rules))
    if side.accepting:
        yield from _accept(world, rules)
    if side.effects:
        yield from _effect(world, side.effects[0], rules)
    elif side.follow is not None:
        yield from _follow(world, side.follow, rules)
    elif not _held(side, rules):
        yield from _idle(world, rules)


def drive(world: World, event: DestinationEvent, rules: Rules, **facts: object) -> World:
    """The new state is durable, and its effects are owed; `facts` are volatile."""
    side = world.destination
    assert side.record is not None
    step = rules.destination_step(side.record, event)
    entered = side._replace(record=step.state, settled=not step.effects, effects=step.effects, follow=None, **facts)
    return world._replace(destination=_tidy(entered))


def crashed(world: World) -> Iterator[World]:
    """What is durable is left. A guest that was just being started exists or does not."""
    side, guests = world.destination, world.guests
    dead = world._replace(destination=DestinationSide(up=False, record=side.record, settled=side.settled))
    yield dead
    if side.accepting:
        yield dead._replace(guests=guests._replace(destination=Copy.WAITING))


def _restarted(world: World, rules: Rules) -> World:
    side = DestinationSide(record=world.destination.record, settled=world.destination.settled)
    world = world._replace(destination=side)
    if side.record is None or not side.unfinished:
        return world
    event = rules.destination_restarted(side.record, alive=_alive(world))
    return drive(world, event, rules, resolving=side.record in LOADED)


def _alive(world: World) -> bool:
    return world.guests.destination.exists


def _held(side: DestinationSide, rules: Rules) -> bool:
    """Prepare holds the record's lock until the guest waits."""
    return side.accepting and rules.accepts_exclusively


def _tidy(side: DestinationSide) -> DestinationSide:
    """Of a migration that is over nothing volatile matters any more."""
    if side.busy or side.record is None or not side.record.final:
        return side
    return side._replace(loading=False, used=False, has_word=False, resolving=False, pulling=False)


# -- Prepare ---------------------------------------------------------------------------------------------------------


def _opened(world: World, rules: Rules) -> World:
    side = world.destination
    known = side.record is not None and rules.waits_for_prepare
    opened = side if known else side._replace(record=DestinationState.PREPARED, settled=True, accepting=True)
    return world._replace(destination=opened._replace(opening=False))


def _accept(world: World, rules: Rules) -> Iterator[Move]:
    side, guests = world.destination, world.guests
    accepted = side._replace(accepting=False)
    waiting = guests._replace(destination=Copy.WAITING)
    yield Move("a guest waits at the destination", world._replace(destination=accepted, guests=waiting))
    refused = world._replace(destination=accepted)
    event = None if side.busy or side.record is None else rules.destination_not_loaded(side.record)
    if event is not None:
        yield Move("the destination's hypervisor refuses", drive(refused, event, rules), fault=True)


# -- under the record's lock -----------------------------------------------------------------------------------------


def _effect(world: World, effect: DestinationEffect, rules: Rules) -> Iterator[Move]:
    guests = world.guests
    match effect:
        case DestinationEffect.RUN:
            yield Move("the destination's CPUs start", done(world._replace(guests=hypervisors.run(guests))))
        case DestinationEffect.DISCARD:
            words = "the destination discards the guest that waited"
            yield Move(words, done(world._replace(guests=hypervisors.discard(guests))))
        case DestinationEffect.ASK_PEER:
            yield from _ask_peer(world, rules)
        case DestinationEffect.PULL:
            yield Move("the destination watches over its pages", done(world, pulling=True))
        case DestinationEffect.RECEIVE_AGAIN:
            yield _receive_again(world)
        case DestinationEffect.CLOSE_JOB:
            yield Move("the destination closes the job", done(world, settled=True))


def done(world: World, follow: DestinationEvent | None = None, **facts: object) -> World:
    """The first effect is done, and may have answered what follows."""
    side = world.destination
    rest = side._replace(effects=side.effects[1:], follow=follow or side.follow, **facts)
    return world._replace(destination=_tidy(rest))


def _follow(world: World, event: DestinationEvent, rules: Rules) -> Iterator[Move]:
    yield Move(f"the destination records what {event} leads to", drive(world, event, rules))
    unwritten = world._replace(destination=_tidy(world.destination._replace(follow=None)))
    yield Move(f"the destination's journal cannot be written when {event} has happened", unwritten, fault=True)


def _ask_peer(world: World, rules: Rules) -> Iterator[Move]:
    side, source = world.destination, world.source
    assert side.record is not None
    silence = done(world, rules.destination_silence(side.record))
    yield Move("the source does not answer the destination", silence, fault=source.answers)
    if source.answers:
        assert source.record is not None
        said = Settled(rules.source_outcome(source.record), source.record.value)
        follow = rules.destination_answered(side.record, said, alive=_alive(world))
        yield Move(f"the source answers the destination: {source.record}", done(world, follow))


def _receive_again(world: World) -> Move:
    guests = world.guests
    if guests.wire is Wire.AGAIN and guests.destination is Copy.PULLING:
        again = world._replace(guests=guests._replace(wire=Wire.PAGES))
        return Move("the destination reads pages from the new way", done(again))
    return Move("the destination cannot read from a new way", done(world, DestinationEvent.CUT))


# -- when nothing is under way ---------------------------------------------------------------------------------------


def _idle(world: World, rules: Rules) -> Iterator[Move]:
    side = world.destination
    if side.record is None:
        return
    yield from _load(world, side.record, rules)
    if side.finishing:
        yield _finish(world, side.record, rules)
    if side.has_word:
        event = rules.destination_released(side.record, alive=_alive(world))
        yield from _happens(world, "the source's word and the state are here", event, rules, has_word=False)
    if side.resolving and side.record in LOADED:
        event = rules.destination_abandoned(side.record, loading=False)
        yield _decided(world, "the destination is in doubt and asks", event, rules)
    if side.record in PULLS:
        yield from _pull(world, side.record, rules)
    if side.record in OPEN and not side.calls:
        yield from _left_alone(world, side.record, rules)


def _decided(world: World, words: str, event: DestinationEvent | None, rules: Rules, **facts: object) -> Move:
    if event is not None:
        return Move(words, drive(world, event, rules, **facts))
    return Move(f"{words}: nothing follows", world._replace(destination=_tidy(world.destination._replace(**facts))))


def _load(world: World, record: DestinationState, rules: Rules) -> Iterator[Move]:
    side, guests = world.destination, world.guests
    word = {"alive": True, "has_word": side.has_word}
    if guests.destination is Copy.LOADED and (side.loading or record is DestinationState.RUNNABLE):
        event = rules.destination_loaded(record, **word)
        yield _decided(world, "the whole state is loaded", event, rules, loading=False)
    if guests.destination is Copy.RUNNABLE and side.loading:
        event = rules.destination_runnable(record, **word)
        yield _decided(world, "the state is runnable", event, rules, loading=False)
    never = guests.wire is Wire.BROKEN and guests.destination is Copy.WAITING
    if side.loading and (never or not guests.destination.exists):
        yield _decided(world, "the state never comes", rules.destination_not_loaded(record), rules, loading=False)


def _finish(world: World, record: DestinationState, rules: Rules) -> Move:
    event = rules.destination_finishes(record, alive=_alive(world))
    if not world.destination.loading:
        return _decided(world, "Finish goes on", event, rules, finishing=False)
    late = world.guests.wire in (Wire.LAST, Wire.DONE, Wire.PAGES)
    return _decided(world, "Finish has waited long enough", event, rules, finishing=False)._replace(fault=late)


def _pull(world: World, record: DestinationState, rules: Rules) -> Iterator[Move]:
    side, guests = world.destination, world.guests
    if not guests.destination.exists:
        yield from _happens(world, "the destination sees that the guest is gone", rules.destination_gone(record), rules)
    elif side.pulling and guests.wire is Wire.DONE:
        yield from _happens(world, "the destination sees that the guest is whole", rules.destination_whole(record), rules)
    elif side.pulling and guests.wire in (Wire.CUT, Wire.AGAIN):
        yield from _happens(world, "the destination sees the cut", rules.destination_cut(record), rules, pulling=False)
    if guests.wire is Wire.AGAIN and guests.source.exists:
        words = "a new way comes to the destination"
        yield from _happens(world, words, rules.destination_resumes(record), rules)


def _happens(world: World, words: str, event: DestinationEvent | None, rules: Rules, **facts: object) -> Iterator[Move]:
    if event is not None:
        yield Move(words, drive(world, event, rules, **facts))


def _left_alone(world: World, record: DestinationState, rules: Rules) -> Iterator[Move]:
    side = world.destination
    event = rules.destination_abandoned(record, loading=side.loading)
    words, late = "the lease at the destination runs out", world.coordinator.walk is not None
    if event is DestinationEvent.DOUBT:
        if not side.resolving:
            yield Move(words, world._replace(destination=side._replace(resolving=True)), late)
    elif event is not None:
        yield Move(words, drive(world, event, rules), late)


# -- what is asked of it ---------------------------------------------------------------------------------------------


def deliver(world: World, message: Message, setting: Setting, rules: Rules) -> World | None:
    """The call has come in; None when it has to wait."""
    side = world.destination
    calls = side.calls | {message.call} if message.mine else side.calls
    called = world._replace(destination=side._replace(calls=calls))
    match message.call:
        case Phase.PREPARE:
            opening = side.opening or side.record is None
            return called._replace(destination=called.destination._replace(opening=opening))
        case Phase.FINISH:
            return _deliver_finish(called, message, rules)
        case To.WORD:
            has_word = side.has_word or side.record in OPEN
            return called._replace(destination=called.destination._replace(has_word=has_word))
        case Question.TOMBSTONE | To.TOMBSTONE_FOR_SOURCE | To.CALLED_OFF:
            waits = side.busy or _held(side, rules) or (side.opening and rules.waits_for_prepare)
            return None if waits else _aborted(called, rules, tombstone=True)
        case _:
            raise AssertionError(message)


def _deliver_finish(world: World, message: Message, rules: Rules) -> World | None:
    side = world.destination
    if side.opening and rules.waits_for_prepare:
        return None
    if side.record is None:
        refused = side.calls | {To.REFUSED} if message.mine else side.calls
        return world._replace(destination=side._replace(calls=refused))
    if message.verdict is Verdict.COMMIT:
        return world._replace(destination=side._replace(finishing=True))
    return None if side.busy or _held(side, rules) else _aborted(world, rules, tombstone=False)


def _aborted(world: World, rules: Rules, *, tombstone: bool) -> World:
    side = world.destination
    if side.record is None:
        return world._replace(destination=side._replace(record=DestinationState.ABORTED)) if tombstone else world
    event = rules.destination_aborts(side.record)
    return world if event is None else drive(world, event, rules)
