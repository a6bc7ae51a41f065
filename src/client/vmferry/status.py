"""Errors ↔ `google.rpc.Status`, both directions side by side, pure.

A status carries `ErrorInfo(reason, domain, metadata)` for the identity and every variable part, and `BadRequest` for the
findings. An error that is not of our tree becomes INTERNAL with no detail of the inside.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from vmferry import errors
from vmferry.errors import Violation, VmferryError
from vmferry.model import GuestLocation, MigrationId, Phase

E = TypeVar("E", bound=StrEnum)

LONGEST_FACT = 16_384
"""A hypervisor may say very much; an error that does not fit into its metadata is lost altogether."""


def to_status(error: VmferryError) -> status_pb2.Status:
    """The status that says all that `error` knows."""
    status = status_pb2.Status(code=error.code.value, message=error.message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=errors.DOMAIN, metadata=_bounded(error))
    status.details.append(_packed(info))
    if error.violations:
        findings = error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(
                    field=violation.subject, description=violation.description, reason=violation.remedy
                )
                for violation in error.violations
            ]
        )
        status.details.append(_packed(findings))
    return status


def from_status(status: status_pb2.Status) -> VmferryError | None:
    """The error that the other side raised; None when the status is not one of ours."""
    info = error_details_pb2.ErrorInfo()
    findings = error_details_pb2.BadRequest()
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            detail.Unpack(findings)
    kind = errors.BY_REASON.get(info.reason)
    if info.domain != errors.DOMAIN or kind is None:
        return None
    facts = info.metadata
    return kind(
        status.message,
        remedy=facts.get("remedy", ""),
        violations=tuple(Violation(v.field, v.description, v.reason) for v in findings.field_violations),
        migration_id=MigrationId(facts["migration_id"]) if facts.get("migration_id") else None,
        phase=_known(Phase, facts.get("phase", "")),
        guest=_known(GuestLocation, facts.get("guest", "")),
        host=facts.get("host", ""),
        detail=facts.get("detail", ""),
    )


def _bounded(error: VmferryError) -> dict[str, str]:
    return {name: fact[:LONGEST_FACT] for name, fact in error.facts().items()}


def _known(kind: type[E], text: str) -> E | None:
    """The value; None also for one that a newer peer knows: an error must never be lost for its details."""
    return kind(text) if text in set(kind) else None


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
