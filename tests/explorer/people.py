"""The coordinator, the network between it and the daemons, an operator, and a client that lies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from explorer import destination, hypervisors, source
from explorer.rules import Rules
from explorer.world import (
    Coordinator,
    Copy,
    DestinationSide,
    Message,
    Mode,
    Move,
    Performing,
    Setting,
    SourceSide,
    To,
    Told,
    Wire,
    World,
)
from vmferry.coordinator import Asking, End, Heard, Question, verdict
from vmferry.model import DestinationState, Outcome, Phase, Side, SourceState, Verdict
from vmferryd.jobs.decisions import SERVES, UNRELEASED
from vmferryd.jobs.job import DestinationEvent, SourceEvent

# -- the coordinator -------------------------------------------------------------------------------------------------


def coordinator(world: World, setting: Setting, rules: Rules) -> Iterator[Move]:
    """Everything that the coordinator may do next."""
    walk = world.coordinator.walk
    if walk is None:
        return
    if not world.coordinator.waiting:
        yield _ask(world, walk.asking, setting, rules)
    elif _broken(world, walk.asking):
        yield from _lost(world, walk.asking, setting, rules)
    else:
        for heard, doubt, late in _replies(world, walk.asking, setting, rules):
            yield Move(f"{walk.asking} is answered: {heard}", _hear(world, heard, setting, rules, doubt=doubt), late)
        if not _side_of(world, walk.asking).answering:
            yield from _impatient(world, walk.asking, setting, rules, fault=False)


def impatience(world: World, setting: Setting, rules: Rules) -> Iterator[Move]:
    """A call to a daemon that is there, or its reply, is lost, or so late that it is not waited for."""
    walk = world.coordinator.walk
    if walk is None or not world.coordinator.waiting or _broken(world, walk.asking):
        return
    if _side_of(world, walk.asking).answering:
        yield from _impatient(world, walk.asking, setting, rules, fault=True)


def _side_of(world: World, asking: Asking) -> SourceSide | DestinationSide:
    return world.source if _side(asking) is Side.SOURCE else world.destination


def _side(asking: Asking) -> Side:
    if isinstance(asking, Phase):
        return asking.side
    return Side.DESTINATION if asking is Question.TOMBSTONE else Side.SOURCE


def _local(asking: Asking, setting: Setting) -> bool:
    """The source's daemon asks itself."""
    return setting.mode is Mode.PEER_TO_PEER and _side(asking) is Side.SOURCE


def _ask(world: World, asking: Asking, setting: Setting, rules: Rules) -> Move:
    sent = world._replace(coordinator=world.coordinator._replace(waiting=True))
    if asking is Question.LOOK:
        return Move("the coordinator looks at the guest", sent)
    message = _message(world, asking)
    words = f"{asking} is asked" + (f" to {message.verdict}" if message.verdict else "")
    if _local(asking, setting):
        delivered = source.deliver(sent, message, setting, rules)
        return Move(words, delivered if delivered is not None else world)
    return Move(words, sent._replace(net=sent.net | {message}))


def _message(world: World, asking: Asking) -> Message:
    walk = world.coordinator.walk
    assert walk is not None
    wish = verdict(walk, asking) if asking in (Phase.FINISH, Phase.CONFIRM) else None
    proof = world.coordinator.proof if asking is Phase.CONFIRM else None
    return Message(asking, wish, proof)


def _hear(world: World, heard: Heard, setting: Setting, rules: Rules, *, doubt: bool = False) -> World:
    """The walk has gone on; when it has come to its end, the coordinator has said so and has left."""
    mine = world.coordinator
    assert mine.walk is not None
    asked = mine.walk.asking
    walk = rules.after(setting.profile, mine.walk, heard)
    proof = mine.proof
    if asked is Phase.FINISH and heard in (Heard.COMMITTED, Heard.ABORTED):
        proof = world.destination.outcome
    confirmed = asked is Phase.CONFIRM and world.source.record is SourceState.CONFIRMED
    doubtful = mine.doubt or doubt or (confirmed and walk.finish is not Heard.COMMITTED)
    if isinstance(walk.asking, End):
        told = _told(walk.asking, walk.finish, doubtful=doubtful)
        left = Coordinator(None, told=told)
        return _called_off(_without_call(world, asked)._replace(coordinator=left), asked, heard, setting)
    on = Coordinator(walk, proof=proof, doubt=doubtful)
    return _called_off(_without_call(world, asked)._replace(coordinator=on), asked, heard, setting)


def _told(end: End, finish: Heard | None, *, doubtful: bool) -> Told:
    if end is End.UNHEARD or finish is Heard.COMMITTED:
        return Told.MOVED
    return Told.UNKNOWN if end is End.DOUBT or doubtful else Told.STAYED


def _called_off(world: World, asked: Asking, heard: Heard, setting: Setting) -> World:
    """Protocols 1 and 2: a source whose Perform failed tells the destination itself, if the guest is here."""
    record = world.source.record
    if asked is not Phase.PERFORM or heard is not Heard.REFUSED or not setting.gives_up_in_perform or not world.source.up:
        return world
    if record not in (None, SourceState.CANCELLED):
        return world
    return world._replace(net=world.net | {Message(To.CALLED_OFF, mine=False)})


def _without_call(world: World, asking: Asking) -> World:
    """Nobody waits for that call any more; what it has begun goes on."""
    net = frozenset(m._replace(mine=False) if m.mine else m for m in world.net)
    return world._replace(
        net=net,
        source=source.tidy(world.source._replace(calls=frozenset(), hearing=False)),
        destination=world.destination._replace(calls=frozenset()),
    )


class _Reply(NamedTuple):
    """How a call may be answered. `doubt`: by *in doubt*; `late`: because a bound ran out that need not have."""

    heard: Heard
    doubt: bool = False
    late: bool = False


def _replies(world: World, asking: Asking, setting: Setting, rules: Rules) -> Iterator[_Reply]:
    """How the call may be answered now."""
    if asking is Question.LOOK:
        if world.source.up:
            yield _Reply(Heard.ANSWERED if world.guests.source.exists else Heard.REFUSED)
        return
    if _side(asking) is Side.SOURCE and asking in world.source.calls:
        yield from _from_source(world.source, asking, setting, peer_answers=world.destination.answers)
    if _side(asking) is Side.DESTINATION and asking in world.destination.calls:
        yield from _from_destination(world.destination, asking, rules)


def _from_source(side: SourceSide, asking: Asking, setting: Setting, *, peer_answers: bool) -> Iterator[_Reply]:
    if side.busy or side.wish:
        return
    match asking:
        case Phase.BEGIN:
            yield _Reply(Heard.ANSWERED)
        case Phase.PERFORM if side.performing not in (Performing.WANTED, Performing.ON):
            yield from _performed(side, setting, peer_answers=peer_answers)
        case Phase.CONFIRM if side.record is None or side.record in UNRELEASED:
            yield _Reply(Heard.REFUSED)
        case Phase.CONFIRM if side.record is SourceState.RELEASED:
            yield _Reply(Heard.REFUSED, doubt=True, late=peer_answers)
        case Phase.CONFIRM:
            yield _Reply(Heard.ANSWERED)
        case Question.FORGET:
            yield _Reply(Heard.REFUSED if side.record is None else Heard.ANSWERED)
        case _:
            pass


def _performed(side: SourceSide, setting: Setting, *, peer_answers: bool) -> Iterator[_Reply]:
    released, gives_up = side.record is SourceState.RELEASED, setting.gives_up_in_perform
    performed = side.record in SERVES or (released and not side.failed)
    if side.record is SourceState.CONFIRMED or (performed and not gives_up):
        yield _Reply(Heard.ANSWERED)
    elif (released and gives_up and side.hearing) or side.record is SourceState.SERVING:
        return
    else:
        doubt = released or side.record is SourceState.SERVING_FAILED
        yield _Reply(Heard.REFUSED, doubt=doubt, late=released and gives_up and peer_answers)


def _from_destination(side: DestinationSide, asking: Asking, rules: Rules) -> Iterator[_Reply]:
    if side.busy or side.opening or side.accepting or side.finishing:
        return
    record = side.record
    if To.REFUSED in side.calls:
        yield _Reply(Heard.REFUSED)
    elif asking is Phase.PREPARE:
        yield _Reply(Heard.REFUSED if record in (None, DestinationState.ABORTED) else Heard.ANSWERED)
    elif record is not None and (record is not DestinationState.POSTCOPY or asking is Question.TOMBSTONE):
        outcome = rules.destination_outcome(record)
        if outcome is not Outcome.PENDING:
            yield _Reply(Heard.COMMITTED if outcome.at_destination else Heard.ABORTED)


def _broken(world: World, asking: Asking) -> bool:
    """The call is neither on its way nor being served: its connection has broken."""
    if asking is Question.LOOK:
        return not world.source.up
    calls = world.source.calls if _side(asking) is Side.SOURCE else world.destination.calls
    return asking not in calls and not any(m.mine for m in world.net)


def _lost(world: World, asking: Asking, setting: Setting, rules: Rules) -> Iterator[Move]:
    if asking is Question.LOOK:
        yield Move("nobody shows the guest", _hear(world, Heard.REFUSED, setting, rules))
        return
    yield Move(f"{asking} is given up as lost", _hear(world, Heard.LOST, setting, rules))
    yield Move(f"{asking} is asked again", world._replace(net=world.net | {_message(world, asking)}))


def _impatient(world: World, asking: Asking, setting: Setting, rules: Rules, *, fault: bool) -> Iterator[Move]:
    if asking is Question.LOOK or _local(asking, setting):
        return
    mine = {m for m in world.net if m.mine}
    lost = _hear(world, Heard.LOST, setting, rules)
    yield Move(f"{asking} is given up, and still on its way" if mine else f"the reply of {asking} is lost", lost, fault)
    if mine:
        gone = _hear(world._replace(net=world.net - mine), Heard.LOST, setting, rules)
        yield Move(f"{asking} is lost", gone, fault)
    else:
        again = _without_call(world, asking)
        again = again._replace(net=again.net | {_message(world, asking)})
        yield Move(f"the reply of {asking} is lost, and it is asked again", again, fault)


# -- the network -----------------------------------------------------------------------------------------------------


def network(world: World, setting: Setting, rules: Rules) -> Iterator[Move]:
    """Every message may arrive now, in any order."""
    for message in world.net:
        delivered = _delivered(world._replace(net=world.net - {message}), message, setting, rules)
        if delivered is not None:
            yield Move(f"{_words(message)} arrives", delivered)


def twins(world: World, setting: Setting, rules: Rules) -> Iterator[Move]:
    """Every message may arrive twice."""
    for message in world.net:
        delivered = _delivered(world._replace(net=world.net - {message}), message, setting, rules)
        if delivered is not None:
            twin = message._replace(mine=False)
            yield Move(f"{_words(message)} arrives, and will once more", delivered._replace(net=delivered.net | {twin}), True)


def _delivered(world: World, message: Message, setting: Setting, rules: Rules) -> World | None:
    """The call has come in; None when nobody takes it now."""
    to_source = _goes_to_source(message)
    if not (world.source if to_source else world.destination).answering:
        return None
    return (source if to_source else destination).deliver(world, message, setting, rules)


def is_echo(message: Message, world: World) -> bool:
    """The call cannot change anything any more, whenever it arrives."""
    here, there = world.source.record, world.destination.record
    match message.call:
        case Phase.BEGIN:
            return here is not None
        case Phase.PREPARE:
            return there is not None
        case Phase.PERFORM | Phase.CONFIRM | Question.FORGET:
            return here is not None and here.final
        case _:
            return there is not None and (there.final or (there.outcome.at_destination and message.call is not Phase.FINISH))


def _goes_to_source(message: Message) -> bool:
    return not isinstance(message.call, To) and _side(message.call) is Side.SOURCE


def _words(message: Message) -> str:
    wish = f" to {message.verdict}" if message.verdict else ""
    return f"{message.call}{wish}" + ("" if message.mine or isinstance(message.call, To) else " from somewhere")


# -- crashes ---------------------------------------------------------------------------------------------------------


def crashes(world: World, setting: Setting) -> Iterator[Move]:
    """Each of the three parties dies."""
    alone = Coordinator(None, told=world.coordinator.told)
    if setting.mode is Mode.REGULAR and world.coordinator.walk is not None:
        orphaned = _without_call(world, Question.LOOK)._replace(coordinator=alone)
        yield Move("the client dies", orphaned, fault=True)
    if world.source.up and not world.source.fenced:
        dead = source.crashed(world)
        if setting.mode is Mode.PEER_TO_PEER and world.coordinator.walk is not None:
            dead = source.crashed(_without_call(world, Question.LOOK))._replace(coordinator=alone)
        yield from _with_or_without_the_channel("the source's daemon dies", dead)
    if world.destination.up and not world.destination.fenced:
        for dead in destination.crashed(world):
            yield from _with_or_without_the_channel("the destination's daemon dies", dead)


def _with_or_without_the_channel(words: str, dead: World) -> Iterator[Move]:
    """A tunnel dies with its daemons; a channel of the hypervisors' own does not."""
    yield Move(words, dead, fault=True)
    guests = hypervisors.broken(dead.guests)
    if guests != dead.guests:
        yield Move(f"{words}, and the guest's channel with it", dead._replace(guests=guests), fault=True)


# -- an operator, and somebody who lies ------------------------------------------------------------------------------


def operator(world: World, rules: Rules) -> Iterator[Move]:
    """A host is gone for good; an operator fences it and decides on the other one (handover rule 6)."""
    here, there, guests = world.source, world.destination, world.guests
    if here.up and not here.busy and here.record is SourceState.RELEASED and not there.up and not there.fenced:
        fenced = world._replace(
            destination=there._replace(fenced=True),
            guests=hypervisors.broken(guests)._replace(
                destination=Copy.GONE, wire=Wire.BROKEN, excused=guests.excused or not guests.source.exists
            ),
        )
        words = "the destination's host is fenced, and an operator keeps the guest at the source"
        yield Move(words, source.drive(fenced, SourceEvent.OPERATOR_KEEPS_HERE, rules), fault=True)
    if there.up and not there.busy and there.record is DestinationState.RECEIVED and not here.up and not here.fenced:
        fenced = world._replace(
            source=here._replace(fenced=True), guests=hypervisors.broken(guests)._replace(source=Copy.GONE)
        )
        words = "the source's host is fenced, and an operator keeps the guest at the destination"
        yield Move(words, destination.drive(fenced, DestinationEvent.OPERATOR_KEEPS_HERE, rules), fault=True)


def destroyer(world: World) -> Iterator[Move]:
    """A guest whose missing pages are gone is of no use to anyone."""
    guests = world.guests
    if guests.destination is Copy.PULLING and guests.source is Copy.GONE:
        gone = guests._replace(destination=Copy.GONE)
        yield Move("somebody destroys a guest whose pages are gone", world._replace(guests=gone))


_LIES = (
    Message(Phase.FINISH, Verdict.COMMIT, mine=False),
    Message(Phase.FINISH, Verdict.ROLL_BACK, mine=False),
    Message(Phase.CONFIRM, Verdict.COMMIT, mine=False),
    Message(Phase.CONFIRM, Verdict.ROLL_BACK, mine=False),
    Message(Phase.PREPARE, mine=False),
    Message(Phase.PERFORM, mine=False),
    Message(Question.FORGET, mine=False),
    Message(To.WORD, mine=False),
    Message(To.CALLED_OFF, mine=False),
)


def lies(world: World, setting: Setting, rules: Rules) -> Iterator[Move]:
    """Somebody who knows the migration says what is not so: any call, any verdict, at any moment.

    What the coordinator has told its user is then not held against it.
    A gate that slips is no matter of lies: whoever says Finish then says that the source has let the guest go.
    """
    if setting.slips:
        return
    for lie in _LIES:
        told = None if is_echo(lie, world) else _delivered(world, lie, setting, rules)
        if told is not None and told != world:
            mine = world.coordinator
            misled = mine._replace(doubt=True, told=Told.UNKNOWN) if mine.walk is None else mine._replace(doubt=True)
            yield Move(f"a client that lies says {_words(lie)}", told._replace(coordinator=misled), fault=True)
