"""What keeps a definition from starting is said at once, with what helps."""

from __future__ import annotations

from dataclasses import replace

import pytest
from qemu_programs import program
from test_qemu_command import PLAIN, SERVER

from vmferryd.domains.definition import parse
from vmferryd.drivers.qemu.check import violations
from vmferryd.drivers.qemu.config import QemuConfig


def found(xml: str) -> dict[str, str]:
    """The descriptions, by subject."""
    return {one.subject: one.description for one in violations(parse(xml), program(), QemuConfig())}


def test_everything_that_is_missing_is_named() -> None:
    """In one answer, not one after another."""
    subjects = found(SERVER)
    assert subjects["type"] == "KVM cannot be used here"
    assert subjects["disk vda"] == "/srv/a.qcow2 does not exist"
    assert subjects["disk sda"] == "/dev/vg/b does not exist"
    assert subjects["disk sdb"] == "/srv/seed.iso does not exist"


@pytest.mark.parametrize(
    ("old", "new", "subject", "words"),
    [
        ("machine='pc'", "machine='pc-i440fx-99.0'", "os/type/@machine", "no machine type"),
        ("<memory unit='MiB'>128", "<memory unit='TiB'>128", "memory", "MiB are available"),
        ("<vcpu>1", "<vcpu>300", "vcpu", "at most 255"),
        ("/boot/vmlinuz", "/absent/vmlinuz", "os/kernel", "/absent/vmlinuz does not exist"),
        ("<devices>", "<on_poweroff>restart</on_poweroff><devices>", "on_poweroff", "not restarted"),
        ("<devices>", "<cpu mode='host-passthrough'/><devices>", "cpu", "without KVM"),
    ],
)
def test_a_finding(old: str, new: str, subject: str, words: str) -> None:
    """Each names its place and its reason."""
    assert words in found(PLAIN.replace(old, new))[subject]


def test_every_finding_has_a_remedy() -> None:
    """A reader is never left alone."""
    definition = replace(parse(SERVER), memory_bytes=1 << 60)
    assert all(one.remedy for one in violations(definition, program(), QemuConfig()))
