"""Errors survive the wire with every fact."""

from __future__ import annotations

import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from vmferry import errors
from vmferry.errors import Violation, VmferryError
from vmferry.model import GuestLocation, MigrationId, Phase
from vmferry.status import from_status, to_status

texts = st.text(st.characters(codec="utf-8"), max_size=20)


@given(
    st.sampled_from(list(errors.tree())),
    texts,
    texts,
    st.lists(st.builds(Violation, texts, texts, texts), max_size=3).map(tuple),
    st.none() | texts.filter(bool).map(MigrationId),
    st.none() | st.sampled_from(Phase),
    st.none() | st.sampled_from(GuestLocation),
    texts,
    texts,
)
def test_round_trip(  # noqa: PLR0917 - each is a fact of its own
    kind, message, remedy, violations, migration_id, phase, guest, host, detail
) -> None:
    """Every class comes back as itself, with every fact and finding."""
    error = kind(
        message,
        remedy=remedy,
        violations=violations,
        migration_id=migration_id,
        phase=phase,
        guest=guest,
        host=host,
        detail=detail,
    )
    status = to_status(error)
    back = from_status(status_pb2.Status.FromString(status.SerializeToString()))
    assert (type(error), vars(error)) == (type(back), vars(back))
    assert error.code.value == status.code


def _status(reason: str, domain: str = errors.DOMAIN, **facts: str) -> status_pb2.Status:
    status = status_pb2.Status(code=13, message="no")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=facts))
    return status


@pytest.mark.parametrize("status", [status_pb2.Status(), _status("FUTURE"), _status("INTERNAL", "example.com")])
def test_what_is_not_ours(status: status_pb2.Status) -> None:
    """A status without our identity, or with one that is not known here, is none of ours."""
    assert from_status(status) is None


def test_facts_of_a_newer_peer() -> None:
    """A phase or place that only a newer peer knows does not cost the error."""
    back = from_status(_status("INTERNAL", phase="teleport", guest="elsewhere", host="b"))
    assert isinstance(back, VmferryError)
    assert (None, None, "b") == (back.phase, back.guest, back.host)


def test_details_of_others_are_skipped() -> None:
    """Details that nobody here knows are passed over."""
    status = _status("INTERNAL")
    status.details.add().Pack(error_details_pb2.RetryInfo())
    assert isinstance(from_status(status), errors.InternalError)
