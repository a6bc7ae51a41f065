"""A QEMU's answers, as 7.2 gives them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vmferryd.drivers.qemu.capabilities import QemuCapabilities, read_answers

EMULATOR = Path("/usr/bin/qemu-system-x86_64")
MIGRATION = ("xbzrle", "auto-converge", "events", "return-path", "dirty-bitmaps", "late-block-activate")


def answers(version: tuple[int, int, int] = (7, 2, 22), migration: tuple[str, ...] = MIGRATION) -> Mapping[str, Any]:
    """By the name of the command."""
    major, minor, micro = version
    return {
        "query-version": {"qemu": {"major": major, "minor": minor, "micro": micro}, "package": "Debian 1:7.2"},
        "query-machines": [
            {"name": "pc-i440fx-7.2", "alias": "pc", "cpu-max": 255},
            {"name": "pc-q35-7.2", "alias": "q35", "cpu-max": 288},
            {"name": "pc-i440fx-6.2", "cpu-max": 255},
        ],
        "query-migrate-capabilities": [{"capability": name, "state": False} for name in migration],
        "query-kvm": {"enabled": False, "present": False},
        "query-command-line-options": [{"option": "sandbox", "parameters": []}],
        **about_cpus("aes", "xsavec"),
    }


def about_cpus(*missing: str) -> Mapping[str, Any]:
    """The answers about CPUs, of an accelerator that lacks these features."""
    return {
        "query-cpu-definitions": [
            {"name": "qemu64", "unavailable-features": []},
            {"name": "Skylake-Client", "unavailable-features": list(missing)},
        ],
        "query-cpu-model-expansion": {
            "model": {"name": "max", "props": {"aes": "aes" not in missing, "sse4.1": True, "sse4-1": True, "family": 6}}
        },
    }


def program(version: tuple[int, int, int] = (7, 2, 22), migration: tuple[str, ...] = MIGRATION) -> QemuCapabilities:
    """What such a QEMU can do."""
    return read_answers(EMULATOR, answers(version, migration), about_cpus("aes"))
