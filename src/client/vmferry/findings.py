"""What a check found: each thing that would keep a migration from its end, or that its user should know, as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from vmferry.errors import VmferryError


class Weight(StrEnum):
    """What a finding means for the migration."""

    PROBLEM = "problem"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing. `host` says it, about `subject`: a device, a flag, an address, the domain.

    `code` of a problem is the `reason` of the error with which the migration would be refused; a note has one of its own.
    """

    host: str
    code: str
    subject: str
    problem: str
    remedy: str = ""
    weight: Weight = Weight.PROBLEM


def findings_of(error: VmferryError, host: str, subject: str = "") -> tuple[Finding, ...]:
    """An error as problems: each of its violations, or else itself. The error's own host goes before `host`."""
    said_by = error.host or host
    if error.violations:
        return tuple(Finding(said_by, error.reason, v.subject, v.description, v.remedy) for v in error.violations)
    text = f"{error.message}: {error.detail}" if error.detail else error.message
    return (Finding(said_by, error.reason, subject, text, error.remedy),)
