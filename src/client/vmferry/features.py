"""What a daemon can be asked about itself: libvirt's feature numbers, and the three ways such a question ends.

A question ends in yes, in no, or in an error; "could not ask" is never taken for a no (specification 2.1).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from vmferry.errors import InternalError, VmferryError


class Feature(enum.IntEnum):
    """A feature, under libvirt's name and number (specification 2.1)."""

    MIGRATION_V1 = 1
    REMOTE = 2
    MIGRATION_V2 = 3
    MIGRATION_P2P = 4
    MIGRATION_DIRECT = 5
    MIGRATION_V3 = 6
    MIGRATE_CHANGE_PROTECTION = 7
    FD_PASSING = 8
    TYPED_PARAM_STRING = 9
    PROGRAM_KEEPALIVE = 10
    XML_MIGRATABLE = 11
    MIGRATION_OFFLINE = 12
    MIGRATION_PARAMS = 13
    REMOTE_EVENT_CALLBACK = 14
    REMOTE_CLOSE_CALLBACK = 15
    NETWORK_UPDATE_HAS_CORRECT_ORDER = 16


class AnsweredBy(enum.StrEnum):
    """Who knows the answer."""

    DRIVER = "driver"
    SERVER = "server"
    CLIENT = "client"


class FeatureAnswer(enum.StrEnum):
    """What was answered. There is no third value: a question that failed is an exception."""

    YES = "yes"
    NO = "no"


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """One feature: what a yes means, and who says it."""

    feature: Feature
    meaning: str
    answered_by: AnsweredBy


FEATURES: tuple[FeatureRow, ...] = (
    FeatureRow(Feature.MIGRATION_V1, "speaks the phases of protocol 1", AnsweredBy.DRIVER),
    FeatureRow(Feature.REMOTE, "phase calls leave this process", AnsweredBy.CLIENT),
    FeatureRow(Feature.MIGRATION_V2, "speaks the phases of protocol 2", AnsweredBy.DRIVER),
    FeatureRow(Feature.MIGRATION_P2P, "can coordinate with, or serve, another daemon", AnsweredBy.DRIVER),
    FeatureRow(Feature.MIGRATION_DIRECT, "can send a guest where no daemon receives it", AnsweredBy.DRIVER),
    FeatureRow(Feature.MIGRATION_V3, "speaks the phases of protocol 3, fixed spelling", AnsweredBy.DRIVER),
    FeatureRow(Feature.MIGRATE_CHANGE_PROTECTION, "holds the domain from Begin to Confirm", AnsweredBy.DRIVER),
    FeatureRow(Feature.FD_PASSING, "calls can carry file descriptors", AnsweredBy.SERVER),
    FeatureRow(Feature.TYPED_PARAM_STRING, "typed parameters may be text", AnsweredBy.SERVER),
    FeatureRow(Feature.PROGRAM_KEEPALIVE, "answers keepalive messages", AnsweredBy.SERVER),
    FeatureRow(Feature.XML_MIGRATABLE, "can write a definition made for another host", AnsweredBy.DRIVER),
    FeatureRow(Feature.MIGRATION_OFFLINE, "moves definitions without a guest", AnsweredBy.DRIVER),
    FeatureRow(Feature.MIGRATION_PARAMS, "speaks the phases of protocol 3, typed parameters", AnsweredBy.DRIVER),
    FeatureRow(Feature.REMOTE_EVENT_CALLBACK, "sends events per registration", AnsweredBy.SERVER),
    FeatureRow(Feature.REMOTE_CLOSE_CALLBACK, "says why it closes a connection", AnsweredBy.SERVER),
    FeatureRow(Feature.NETWORK_UPDATE_HAS_CORRECT_ORDER, "not about migration", AnsweredBy.DRIVER),
)


@dataclass(frozen=True, slots=True)
class Answers:
    """What one daemon answered, question by question; in place of an answer there may be the error that came."""

    answered: Mapping[Feature, FeatureAnswer | VmferryError]
    host: str = ""

    @classmethod
    def of(cls, *yes: Feature, host: str = "") -> Self:
        """Every feature was asked, and only `yes` was answered with yes."""
        return cls({f: FeatureAnswer.YES if f in yes else FeatureAnswer.NO for f in Feature}, host)

    def without(self, feature: Feature) -> Answers:
        """The same answers, but for a feature that the caller has no use for: it counts as a no."""
        return Answers({**self.answered, feature: FeatureAnswer.NO}, self.host)

    def has(self, feature: Feature) -> bool:
        """Whether the answer was yes.

        Raises:
            VmferryError: the error that came instead of the answer.
            InternalError: nobody asked.
        """
        answer = self.answered.get(feature)
        if isinstance(answer, VmferryError):
            raise answer
        if answer is None:
            raise InternalError(f"feature {feature.name} was never asked for, and that is not a no", host=self.host)
        return answer is FeatureAnswer.YES


def as_markdown() -> str:
    """The table of features as Markdown."""
    lines = ["| number | feature | a yes means | answered by |", "|---|---|---|---|"]
    lines += [f"| {r.feature.value} | {r.feature.name} | {r.meaning} | {r.answered_by} |" for r in FEATURES]
    return "\n".join(lines) + "\n"
