"""Evidence and decisions ↔ protobuf: pure, both directions side by side."""

from __future__ import annotations

from vmferry import wire
from vmferry.api.v1 import oversight_pb2
from vmferry.evidence import CopyEvidence, HostEvidence, ImageEvidence, LockState, RecordEvidence
from vmferry.model import Keep, MigrationId, Resolution, Side


def resolution_to_wire(resolution: Resolution) -> oversight_pb2.Resolution:
    """An operator's decision."""
    return oversight_pb2.Resolution(
        keep=wire.enum_to_wire(resolution.keep),
        who=resolution.who,
        why=resolution.why,
        at_unix_ms=int(resolution.at_s * 1000),
        peer_said=resolution.peer_said,
        agreed=resolution.agreed,
    )


def resolution_from_wire(message: oversight_pb2.Resolution) -> Resolution:
    """An operator's decision."""
    return Resolution(
        keep=wire.enum_from_wire(Keep, message.keep),
        who=message.who,
        why=message.why,
        at_s=message.at_unix_ms / 1000,
        peer_said=message.peer_said,
        agreed=message.agreed if message.HasField("agreed") else None,
    )


def record_to_wire(record: RecordEvidence) -> oversight_pb2.JournalRecord:
    """A journal's record."""
    return oversight_pb2.JournalRecord(
        migration_id=record.migration_id,
        side=wire.enum_to_wire(record.side),
        state=record.state,
        settled=record.settled,
        domain_name=record.domain_name,
        domain_uuid=record.domain_uuid,
        peer_uri=record.peer_uri,
        started_unix_ms=int(record.started_s * 1000),
        ended_unix_ms=int((record.ended_s or 0) * 1000),
        error=record.error,
        resolution=resolution_to_wire(record.resolution) if record.resolution else None,
        receiver_uri=record.receiver_uri,
    )


def record_from_wire(message: oversight_pb2.JournalRecord) -> RecordEvidence:
    """A journal's record."""
    return RecordEvidence(
        migration_id=MigrationId(message.migration_id),
        side=wire.enum_from_wire(Side, message.side),
        state=message.state,
        settled=message.settled,
        domain_name=message.domain_name,
        domain_uuid=message.domain_uuid,
        peer_uri=message.peer_uri,
        started_s=message.started_unix_ms / 1000,
        ended_s=message.ended_unix_ms / 1000 if message.ended_unix_ms else None,
        error=message.error,
        resolution=resolution_from_wire(message.resolution) if message.HasField("resolution") else None,
        receiver_uri=message.receiver_uri,
    )


def evidence_to_wire(evidence: HostEvidence) -> oversight_pb2.ExamineResponse:
    """All that a host can see."""
    return oversight_pb2.ExamineResponse(
        host_name=evidence.host_name,
        host_uuid=evidence.host_uuid,
        domain=wire.domain_to_wire(evidence.domain) if evidence.domain else None,
        records=[record_to_wire(record) for record in evidence.records],
        copies=[_copy_to_wire(copy) for copy in evidence.copies],
        images=[_image_to_wire(image) for image in evidence.images],
        problems=evidence.problems,
        machine=evidence.machine,
    )


def evidence_from_wire(message: oversight_pb2.ExamineResponse) -> HostEvidence:
    """All that a host can see."""
    return HostEvidence(
        host_name=message.host_name,
        host_uuid=message.host_uuid,
        domain=wire.domain_from_wire(message.domain) if message.HasField("domain") else None,
        records=tuple(record_from_wire(record) for record in message.records),
        copies=tuple(_copy_from_wire(copy) for copy in message.copies),
        images=tuple(_image_from_wire(image) for image in message.images),
        problems=tuple(message.problems),
        machine=message.machine,
    )


def _copy_to_wire(copy: CopyEvidence) -> oversight_pb2.GuestCopy:
    return oversight_pb2.GuestCopy(
        driver=copy.driver,
        run_state=copy.run_state,
        transfer_state=copy.transfer_state,
        detail=copy.detail,
        process_id=copy.process_id or 0,
        managed=copy.managed,
    )


def _copy_from_wire(message: oversight_pb2.GuestCopy) -> CopyEvidence:
    return CopyEvidence(
        driver=message.driver,
        run_state=message.run_state,
        transfer_state=message.transfer_state,
        detail=message.detail,
        process_id=message.process_id or None,
        managed=message.managed,
    )


def _image_to_wire(image: ImageEvidence) -> oversight_pb2.ImageLock:
    return oversight_pb2.ImageLock(
        path=image.path, state=wire.enum_to_wire(image.state), holders=image.holders, detail=image.detail
    )


def _image_from_wire(message: oversight_pb2.ImageLock) -> ImageEvidence:
    return ImageEvidence(
        path=message.path,
        state=wire.enum_from_wire(LockState, message.state),
        holders=tuple(message.holders),
        detail=message.detail,
    )
