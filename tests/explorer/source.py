"""The source's daemon: what it may do next, by the real tables and decisions."""

from __future__ import annotations

from collections.abc import Iterator

from explorer import hypervisors
from explorer.rules import Rules
from explorer.world import Copy, Copying, DestinationSide, Message, Move, Performing, Setting, SourceSide, To, Wire, World
from vmferry.coordinator import Question
from vmferry.endpoint import Settled
from vmferry.errors import PhaseOutOfOrder
from vmferry.model import DestinationState, Outcome, Phase, SourceState
from vmferryd.jobs.decisions import PULLS, SERVES, UNRELEASED, Wish
from vmferryd.jobs.job import SourceEffect, SourceEvent

_WISHES = {Wish.TOMBSTONE: To.TOMBSTONE_FOR_SOURCE, Wish.COMMIT: To.WORD}

_GUESTS = {
    SourceEffect.TAKE_BACK: hypervisors.take_back,
    SourceEffect.GIVE_UP: hypervisors.give_up,
}


def moves(world: World, setting: Setting, rules: Rules) -> Iterator[Move]:
    """Everything that the source's daemon may do next."""
    side = world.source
    if side.fenced:
        return
    if not side.up:
        yield Move("the source's daemon starts again", _restarted(world, rules))
    elif side.effects:
        yield from _effect(world, side.effects[0], rules)
    elif side.follow is not None:
        yield from _follow(world, side.follow, rules)
    else:
        yield from _idle(world, setting, rules)


def drive(world: World, event: SourceEvent, rules: Rules, **facts: object) -> World:
    """The new state is durable, and its effects are owed; `facts` are volatile."""
    side = world.source
    assert side.record is not None
    step = rules.source_step(side.record, event)
    entered = side._replace(
        record=step.state, settled=not step.effects, effects=step.effects, begun=False, follow=None, **facts
    )
    return _unlocked(world._replace(source=entered), rules)


def crashed(world: World) -> World:
    """What is durable is left."""
    side = world.source
    return world._replace(source=SourceSide(up=False, record=side.record, settled=side.settled))


def _restarted(world: World, rules: Rules) -> World:
    side = SourceSide(record=world.source.record, settled=world.source.settled)
    world = world._replace(source=side)
    if not side.unfinished:
        return world
    return drive(world, SourceEvent.RESTARTED, rules, resolving=side.record is SourceState.RELEASED)


# -- under the record's lock -----------------------------------------------------------------------------------------


def _effect(world: World, effect: SourceEffect, rules: Rules) -> Iterator[Move]:
    match effect:
        case SourceEffect.SEND:
            yield from _send(world, rules)
        case SourceEffect.LET_GO:
            yield from _let_go(world, rules)
        case SourceEffect.ASK_PEER:
            yield from _ask_peer(world, rules)
        case SourceEffect.SEND_AGAIN:
            yield from _send_again(world, rules)
        case SourceEffect.SERVE:
            yield Move("the source watches over the copy that is needed", done(world, rules, serving=True))
        case SourceEffect.CLOSE_JOB:
            yield Move("the source closes the job", done(world, rules, settled=True))
        case _:
            guests = _GUESTS[effect](world.guests)
            yield Move(f"the source: {effect}", done(world._replace(guests=guests), rules))


def done(world: World, rules: Rules, follow: SourceEvent | None = None, **facts: object) -> World:
    """The first effect is done, and may have answered what follows."""
    side = world.source
    rest = side._replace(effects=side.effects[1:], begun=False, follow=follow or side.follow, **facts)
    return _unlocked(world._replace(source=rest), rules)


def _unlocked(world: World, rules: Rules) -> World:
    """When the lock is free Perform's task has ended, and what that amounts to is on its way."""
    side = world.source
    if side.busy or side.performing is not Performing.ON:
        return world._replace(source=tidy(side))
    return _performed(world, rules)


def _performed(world: World, rules: Rules) -> World:
    """A source that did not release the guest has it as before, whatever can be written; else it asks if anything failed."""
    side, guests = world.source, world.guests
    assert side.record is not None
    event = rules.source_performed(side.record, failed=side.failed)
    if event is SourceEvent.END and side.record is SourceState.PERFORMING:
        guests = hypervisors.take_back(guests)
    ended = side._replace(
        performing=Performing.DONE,
        wish=side.wish or event is SourceEvent.END,
        resolving=event is SourceEvent.DOUBT,
    )
    return world._replace(source=tidy(ended), guests=guests)


def tidy(side: SourceSide) -> SourceSide:
    """The same daemon without facts that do not matter any more."""
    if side.busy or side.record is None:
        return side
    if side.record.final:
        return SourceSide(side.up, side.record, side.settled, calls=side.calls, fenced=side.fenced)
    released = side.record is SourceState.RELEASED
    hearing = side.hearing and (released or side.performing is not Performing.DONE)
    return side._replace(resolving=side.resolving and released, hearing=hearing)


def _follow(world: World, event: SourceEvent, rules: Rules) -> Iterator[Move]:
    yield Move(f"the source records what {event} leads to", drive(world, event, rules))
    failed = world.source._replace(follow=None, failed=True)
    unwritten = _unlocked(world._replace(source=failed), rules)
    yield Move(f"the source's journal cannot be written when {event} has happened", unwritten, fault=True)


def _send(world: World, rules: Rules) -> Iterator[Move]:
    side, destination, guests = world.source, world.destination, world.guests
    if not side.begun:
        if _answers_the_channel(destination) and guests.destination is Copy.WAITING and guests.source is Copy.RUNNING:
            opened = destination._replace(loading=True, used=True)
            yield Move(
                "the source opens the channel and sends",
                world._replace(source=side._replace(begun=True), destination=opened, guests=guests._replace(wire=Wire.OPEN)),
            )
        else:
            yield Move("no channel can be opened", done(world, rules, SourceEvent.END, failed=True))
        return
    if guests.source is Copy.HELD:
        yield Move("the source is held", done(world, rules, SourceEvent.HELD))
    if guests.wire is not Wire.OPEN or not guests.source.exists or side.wish:
        yield Move("the transfer ends before the source is held", done(world, rules, SourceEvent.END, failed=True))


def _answers_the_channel(side: DestinationSide) -> bool:
    return side.up and side.record is DestinationState.PREPARED and not side.used and not side.accepting


def _let_go(world: World, rules: Rules) -> Iterator[Move]:
    side, guests = world.source, world.guests
    if not side.begun:
        word = Message(To.WORD, mine=False)
        yield Move(
            "the source lets the last part go and gives its word",
            world._replace(source=side._replace(begun=True), guests=hypervisors.let_go(guests), net=world.net | {word}),
        )
        return
    if guests.wire in (Wire.DONE, Wire.PAGES):
        yield Move("the destination's hypervisor has acknowledged it", done(world, rules))
    late = guests.wire in (Wire.LAST, Wire.DONE, Wire.PAGES) and guests.source.exists
    yield Move("the last part is not acknowledged", done(world, rules, SourceEvent.DOUBT, failed=True), fault=late)


def _ask_peer(world: World, rules: Rules) -> Iterator[Move]:
    side, destination = world.source, world.destination
    assert side.record is not None
    silence = done(world, rules, rules.source_silence(side.record))
    yield Move("the destination does not answer the source", silence, fault=destination.answers)
    if not destination.answers:
        return
    assert destination.record is not None
    outcome = rules.destination_outcome(destination.record)
    if outcome is not Outcome.PENDING:
        follow = rules.source_proved(side.record, outcome)
        yield Move(f"the destination answers the source: {outcome}", done(world, rules, follow))
    elif not side.begun:
        yield from _wish(world, rules)


def _wish(world: World, rules: Rules) -> Iterator[Move]:
    """The destination has not decided. Of a copy that is gone the source may have known for long, or not."""
    side, destination, alive = world.source, world.destination, world.guests.source.exists
    assert side.record is not None
    assert destination.record is not None
    said = Settled(rules.destination_outcome(destination.record), destination.record.value)
    for waited in (False,) if alive else (False, True):
        wish = rules.source_wishes(side.record, said, alive=alive, waited=waited)
        if wish is not None:
            late = waited and world.guests.wire in (Wire.LAST, Wire.DONE, Wire.PAGES)
            asked = world.net | {Message(_WISHES[wish], mine=False)}
            words = f"the destination answers pending, and the source asks it for a {wish}"
            yield Move(words, world._replace(source=side._replace(begun=True), net=asked), late)


def _send_again(world: World, rules: Rules) -> Iterator[Move]:
    """A new way needs a destination that lets it in; pages flow when that reads from it."""
    guests, there = world.guests, world.destination
    if guests.wire is Wire.CUT and guests.source is Copy.SENT and there.answers and there.record in PULLS:
        again = guests._replace(wire=Wire.AGAIN)
        yield Move("the source sends pages over a new way", done(world._replace(guests=again), rules))
    else:
        yield Move("no new way can be opened", done(world, rules, SourceEvent.CUT))


# -- when nothing is under way ---------------------------------------------------------------------------------------


def _idle(world: World, setting: Setting, rules: Rules) -> Iterator[Move]:
    side = world.source
    if side.performing is Performing.WANTED:
        yield _perform(world, setting, rules)
    if side.wish:
        yield _end(world, rules)
    if side.resolving:
        yield _resolve(world, rules)
    if side.hearing and side.record is SourceState.RELEASED:
        yield from _hear(world, rules)
    if side.record is SourceState.RELEASED and not side.resolving and world.guests.wire in (Wire.CUT, Wire.AGAIN):
        yield Move("the source sees a cut, and asks", world._replace(source=side._replace(resolving=True)))
    if side.record is SourceState.RELEASED and setting.copying is Copying.POST and not side.hearing:
        yield from _hear_postcopy(world, rules)
    if side.record in SERVES:
        yield from _serve(world, rules)
    if _left_alone(world, setting) and not side.wish:
        late = world.coordinator.walk is not None
        yield Move("the lease at the source runs out", world._replace(source=side._replace(wish=True)), fault=late)


def _perform(world: World, setting: Setting, rules: Rules) -> Move:
    side = world.source
    if side.record is None and setting.gives_up_in_perform:
        return Move("Perform opens the migration", world._replace(source=side._replace(record=SourceState.BEGUN)))
    if side.record is SourceState.BEGUN:
        return Move("Perform begins", drive(world, SourceEvent.PERFORM, rules, performing=Performing.ON))
    return Move("Perform has nothing to do", world._replace(source=tidy(side._replace(performing=Performing.NO))))


def _end(world: World, rules: Rules) -> Move:
    side = world.source
    event = None if side.record is None else rules.source_ends(side.record)
    if event is None:
        return Move("there is nothing to end at the source", world._replace(source=side._replace(wish=False)))
    unreleased = side.record in UNRELEASED
    facts = {"wish": False, "failed": side.failed or unreleased, "resolving": side.record is SourceState.RELEASED}
    return Move("the source ends it, if it may", drive(world, event, rules, **facts))


def _resolve(world: World, rules: Rules) -> Move:
    side = world.source
    assert side.record is not None
    event = rules.source_ends(side.record)
    assert event is not None
    return Move("the source is in doubt and asks", drive(world, event, rules))


def _hear(world: World, rules: Rules) -> Iterator[Move]:
    """Protocols 1 and 2: Perform waits for the destination's word, and then for an answer."""
    side, destination = world.source, world.destination
    assert side.record is not None
    waited = world._replace(source=side._replace(hearing=False, resolving=True))
    yield Move("Perform has waited long enough", waited, fault=destination.answers)
    if destination.answers:
        assert destination.record is not None
        event = rules.source_proved(side.record, rules.destination_outcome(destination.record))
        if event is not None:
            yield Move("Perform hears the destination's word", drive(world, event, rules, hearing=False))


def _hear_postcopy(world: World, rules: Rules) -> Iterator[Move]:
    """Who has let a guest go that pages follow asks soon whether it runs."""
    here, there = world.source.record, world.destination.record
    if there is not None and world.destination.answers and rules.destination_outcome(there) is Outcome.POSTCOPY:
        assert here is not None
        event = rules.source_proved(here, Outcome.POSTCOPY)
        yield from _happens(world, "the source hears that the guest runs", event, rules)


def _serve(world: World, rules: Rules) -> Iterator[Move]:
    side, guests = world.source, world.guests
    assert side.record is not None
    if not guests.source.exists:
        yield from _happens(world, "the copy that was needed is gone", rules.source_gone(side.record), rules)
    elif side.serving and guests.wire is Wire.DONE:
        yield from _happens(world, "all pages are sent: the source asks", rules.source_ends(side.record), rules)
    elif side.serving and guests.wire not in (Wire.PAGES, Wire.AGAIN):
        yield from _happens(world, "the source sees the cut", rules.source_cut(side.record), rules, serving=False)
    if guests.wire is Wire.CUT and world.destination.answers and world.destination.record in PULLS:
        words = "somebody takes the migration up again at the source"
        yield from _happens(world, words, rules.source_resumes(side.record), rules)


def _happens(world: World, words: str, event: SourceEvent | None, rules: Rules, **facts: object) -> Iterator[Move]:
    if event is not None:
        yield Move(words, drive(world, event, rules, **facts))


def _left_alone(world: World, setting: Setting) -> bool:
    """No call of a coordinator is here, and none that belongs to this daemon is under way."""
    side = world.source
    if side.record is None or side.record.final or side.calls:
        return False
    return world.coordinator.walk is None or setting.mode.value == "regular"


# -- what is asked of it ---------------------------------------------------------------------------------------------


def deliver(world: World, message: Message, setting: Setting, rules: Rules) -> World | None:
    """The call has come in; None when it has to wait."""
    side = world.source
    calls = side.calls | {message.call} if message.mine else side.calls
    match message.call:
        case Phase.BEGIN:
            opens = side.record is None and not (setting.profile.version.value == 2 and setting.mode.value == "regular")
            return world._replace(source=side._replace(record=SourceState.BEGUN if opens else side.record, calls=calls))
        case Phase.PERFORM:
            wanted = Performing.WANTED if side.performing is Performing.NO else side.performing
            hearing = setting.gives_up_in_perform
            return world._replace(source=tidy(side._replace(performing=wanted, hearing=hearing, calls=calls)))
        case Phase.CONFIRM:
            return None if side.busy else _confirm(world._replace(source=side._replace(calls=calls)), message, rules)
        case Question.FORGET:
            return world._replace(source=side._replace(wish=side.record is not None, calls=calls))
        case _:
            raise AssertionError(message)


def _confirm(world: World, message: Message, rules: Rules) -> World:
    side = world.source
    if side.record is None:
        return world
    assert message.verdict is not None
    try:
        event = rules.source_confirms(side.record, message.verdict, message.proof)
    except PhaseOutOfOrder:
        return world
    match event:
        case None:
            return world
        case SourceEvent.END:
            return world._replace(source=side._replace(wish=True))
        case SourceEvent.DOUBT:
            return world._replace(source=side._replace(resolving=side.record is SourceState.RELEASED))
        case _:
            return drive(world, event, rules)
