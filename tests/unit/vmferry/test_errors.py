"""The error tree: one identity for each class, the same one as in the contract."""

from __future__ import annotations

import pytest

from vmferry import errors
from vmferry.api.v1 import errors_pb2
from vmferry.errors import Violation, VmferryError
from vmferry.model import GuestLocation, MigrationId, Phase

TREE = list(errors.tree())


def test_reasons_are_unlike() -> None:
    """No two classes share a reason, and each is found by its own."""
    assert len(TREE) == len({node.reason for node in TREE}) == len(errors.BY_REASON)
    assert all(errors.BY_REASON[node.reason] is node for node in TREE)


def test_contract_has_the_same_reasons() -> None:
    """errors.proto and the tree name the same reasons, one to one."""
    names = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name} - {
        "UNSPECIFIED"
    }
    assert names == {node.reason for node in TREE}


@pytest.mark.parametrize("node", TREE)
def test_every_class_says_what_is_true(node: type[VmferryError]) -> None:
    """Every class has a code, a docstring and its line in the drawing."""
    assert isinstance(node.code, errors.Code)
    assert node.__doc__
    assert node.__name__ in (errors.__doc__ or "")


def test_first_word_stands() -> None:
    """Facts are filled in where there were none, and never replaced."""
    error = VmferryError("no", host="a").located(host="b", phase=Phase.BEGIN, guest=GuestLocation.SOURCE)
    error.located(phase=Phase.FINISH, guest=GuestLocation.NOWHERE, migration_id=MigrationId("id"))
    assert {"migration_id": "id", "phase": "begin", "guest": "source", "host": "a"} == error.facts()


def test_text() -> None:
    """The text is the message and one line for each finding, with what helps."""
    findings = (Violation("a", "is wrong", "drop it"), Violation("b", "is wrong"))
    assert "no\n  a: is wrong (drop it)\n  b: is wrong" == str(VmferryError("no", violations=findings))
