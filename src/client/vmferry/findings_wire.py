"""Findings ↔ protobuf: pure."""

from __future__ import annotations

from collections.abc import Iterable

from vmferry import wire
from vmferry.api.v1 import types_pb2
from vmferry.findings import Finding, Weight


def findings_from_wire(messages: Iterable[types_pb2.Finding]) -> tuple[Finding, ...]:
    """What a check found."""
    return tuple(
        Finding(each.host, each.code, each.subject, each.problem, each.remedy, wire.enum_from_wire(Weight, each.weight))
        for each in messages
    )


def findings_to_wire(findings: Iterable[Finding]) -> list[types_pb2.Finding]:
    """What a check found."""
    return [
        types_pb2.Finding(
            host=each.host,
            code=each.code,
            subject=each.subject,
            problem=each.problem,
            remedy=each.remedy,
            weight=wire.enum_to_wire(each.weight),
        )
        for each in findings
    ]
