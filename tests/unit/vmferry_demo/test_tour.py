"""What the demo tells `vmferry`, and what its table says."""

from __future__ import annotations

from pathlib import Path

import pytest
from lxml import etree

from vmferry.model import JobInfo, JobOperation, JobType, MigrationId, Phase, Side, Statistics
from vmferry_demo.containers import HOSTS, WAYS
from vmferry_demo.guest import NAME, Machine
from vmferry_demo.tour import HEADINGS, Leg, Way, rows

A, B = HOSTS


def leg(way: Way, channel: str) -> Leg:
    """A migration that took two and a half seconds."""
    figures = Statistics(guest_pause_ms=95, memory_processed_bytes=3 << 20, memory_iteration=4)
    job = JobInfo(
        migration_id=MigrationId("m"),
        side=Side.SOURCE,
        operation=JobOperation.MIGRATION_OUT,
        type=JobType.COMPLETED,
        domain_name=NAME,
        domain_uuid="",
        state="confirmed",
        phase=Phase.CONFIRM,
        started_s=0.0,
        statistics=figures,
        elapsed_ms=2500,
        data_channel=channel,
    )
    return Leg(way, A, B, job)


@pytest.mark.parametrize(
    ("channel", "said"),
    [
        ("tunnel to vmferry+tls://host-b:16533", "tunnel"),
        ("connection to tcp:host-b:16534", "connection"),
        ("connection to tcp:host-b:16534 (TLS)", "connection (TLS)"),
    ],
)
def test_the_table_says_which_way_the_data_went(channel: str, said: str) -> None:
    """As the source noted it, not as it was asked for."""
    row = dict(zip(HEADINGS, rows([leg(WAYS[0], channel)])[0], strict=True))
    assert said == row["guest's data"]
    assert ("host-a", "host-b", "2.5 s", "95 ms", "3.0 MiB", "4") == tuple(row.values())[1:3] + tuple(row.values())[4:]


def test_each_kind_of_coordination_goes_with_each_way_of_the_data() -> None:
    """Regular and peer-to-peer, tunnelled and direct."""
    kinds = {("--p2p" in way.options, "--tunnelled" in way.options) for way in WAYS}
    assert {(False, False), (False, True), (True, False), (True, True)} == kinds


def test_a_definition_says_what_the_guest_is_made_of() -> None:
    """Also where a command line has what XML cannot bear."""
    machine = Machine(Path("/k&1"), Path("/i"), "a=<b>", Path("/s'"), 64)
    tree = etree.fromstring(machine.definition())
    found = [tree.findtext(path) for path in ("memory", "os/kernel", "os/initrd", "os/cmdline")]
    assert ["64", "/k&1", "/i", "a=<b>"] == found
    assert "/s'" == tree.find("devices/serial/source").get("path")
