"""`check`: what a person and a program read, and the exit status."""

from __future__ import annotations

import json

import pytest
from cli_fakes import DESTINATION, Hosts

from vmferry.findings import Finding, Weight

MISSING = Finding("host-b", "HOST_INCOMPATIBLE", "disk vda", "/srv/web.img does not exist", "Create it.")
OLDER = Finding("host-b", "HYPERVISOR_OLDER", "qemu", "qemu 7 there is older", "update it", Weight.NOTE)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """What both hosts find."""
    told: list[Finding] = []

    async def check(*_: object, **__: object) -> tuple[Finding, ...]:
        return tuple(told)

    monkeypatch.setattr("vmferry.client.Connection.check", check)
    monkeypatch.setattr("vmferry.client.Connection.check_alone", check)
    return told


def test_nothing_speaks_against_it(found: list[Finding]) -> None:
    """It says so, and exits with 0; so it does with notes alone."""
    result = Hosts().run("check", "--live", "web", DESTINATION)
    assert (result.exit_code, result.stdout) == (0, "nothing speaks against moving web\n")
    found.append(OLDER)
    result = Hosts().run("check", "--live", "web", DESTINATION)
    assert result.exit_code == 0
    assert "note  HYPERVISOR_OLDER  on host-b, qemu" in result.stdout
    assert "nothing speaks against moving web; 1 note" in result.stdout


def test_problems_come_first_each_with_its_remedy(found: list[Finding]) -> None:
    """The exit status says that the migration would be refused."""
    found += [OLDER, MISSING]
    result = Hosts().run("check", "--live", "web", DESTINATION)
    assert result.exit_code == 2
    lines = result.stdout.splitlines()
    assert lines[:3] == [
        "problem  HOST_INCOMPATIBLE  on host-b, disk vda",
        "  /srv/web.img does not exist",
        "  what to do: Create it.",
    ]
    assert lines[-1] == "1 problem and 1 note: web would not be moved"


def test_for_programs(found: list[Finding]) -> None:
    """One document."""
    found.append(MISSING)
    result = Hosts().run("-o", "json", "check", "web", DESTINATION)
    document = json.loads(result.stdout)
    assert (result.exit_code, document["refused"], document["findings"][0]["code"]) == (2, True, "HOST_INCOMPATIBLE")


def test_a_destination_that_does_not_answer_is_a_problem(found: list[Finding]) -> None:
    """What the source says is told with it."""
    found.append(MISSING)
    result = Hosts().run("check", "web", "vmferry+unix:///nowhere")
    assert result.exit_code == 2
    assert "PEER_UNREACHABLE  vmferry+unix:///nowhere" in result.stdout
    assert "2 problems" in result.stdout
