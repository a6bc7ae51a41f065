"""What is wrong with a definition: every finding, and the exception that carries them all."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a definition says that cannot be honoured.

    Attributes:
        xpath: where it is said; an attribute ends in `/@name`.
        line: the line of the element in the document; None where there is no document.
        problem: what is the matter, without a full stop.
        remedy: what the author of the document can do about it, as a sentence.
    """

    xpath: str
    line: int | None
    problem: str
    remedy: str

    def __str__(self) -> str:
        place = self.xpath if self.line is None else f"{self.xpath} (line {self.line})"
        return f"{place}: {self.problem}. {self.remedy}"


class DefinitionRefused(Exception):
    """The definition was not accepted, and nothing was made of it.

    Attributes:
        findings: everything found, in the order of the document; never empty.
    """

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__(*self.findings)

    def __str__(self) -> str:
        count = len(self.findings)
        heading = f"the domain definition is refused for {count} reason{'' if count == 1 else 's'}:"
        return "\n".join([heading, *(f"  {finding}" for finding in self.findings)])
