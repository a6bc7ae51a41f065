"""Everything that speaks against a migration on one host, collected: a migration is refused for it, a check tells it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from vmferry.errors import VmferryError
from vmferry.findings import Finding, findings_of
from vmferryd.phases import admission
from vmferryd.phases.admission import Objection


@dataclass(slots=True)
class Found:
    """`objections` are of the tables that both hosts judge by; `errors` ended a look or a step of getting ready."""

    objections: list[Objection] = field(default_factory=list)
    errors: list[VmferryError] = field(default_factory=list)

    def hear(self, *objections: Iterable[Objection]) -> None:
        """These speak against it, too."""
        for some in objections:
            self.objections.extend(some)

    @contextmanager
    def trying(self) -> Iterator[None]:
        """An error inside is one more reason, and what comes after the context goes on."""
        try:
            yield
        except VmferryError as error:
            self.errors.append(error)

    @property
    def nothing(self) -> bool:
        """Nothing speaks against it."""
        return not (self.objections or self.errors)

    def refuse(self) -> None:
        """Nothing speaks against it.

        Raises:
            VmferryError: see `admission.refuse`; if there are no objections, the first error.
        """
        admission.refuse(self.objections)
        for error in self.errors:
            raise error

    def findings(self, host: str) -> tuple[Finding, ...]:
        """All of it, as `host` says it; each once."""
        told = [Finding(host, each.error.reason, *_words(each)) for each in self.objections]
        told += [finding for error in self.errors for finding in findings_of(error, host)]
        return tuple(dict.fromkeys(told))


def _words(objection: Objection) -> tuple[str, str, str]:
    return objection.violation.subject, objection.violation.description, objection.violation.remedy
