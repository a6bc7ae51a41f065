"""`vmferry report`: text, page and JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cli_fakes import DESTINATION, ID, JOB, SOURCE, Hosts
from lxml import html

from vmferry.cli.exits import ExitCode
from vmferry.disks import DiskFigures
from vmferry.errors import PeerUnreachable
from vmferry.flags import Flag
from vmferry.model import ChangeFigures, JobChange, JobChangeKind, JobStep, JobType, Phase, Side, Statistics

AT_S = JOB.started_s
FIGURES = ChangeFigures(sent_bytes=30 << 20, remaining_bytes=8 << 20, bytes_per_s=32 << 20, throttle_percent=20)
SENT = replace(
    JOB,
    peer_uri=DESTINATION,
    took_ms={Phase.BEGIN: 10},
    elapsed_ms=8500,
    flags=int(Flag.LIVE),
    settings={"bandwidth": "40"},
    statistics=Statistics(guest_pause_ms=60, downtime_ms=40),
    changes=(
        JobChange(1, JobChangeKind.STARTED, AT_S, "begun", Phase.BEGIN),
        JobChange(2, JobChangeKind.STATE, AT_S + 0.2, "performing", Phase.PERFORM),
        JobChange(3, JobChangeKind.ITERATION, AT_S + 1, "performing", Phase.PERFORM, 2, figures=FIGURES),
        JobChange(4, JobChangeKind.STATE, AT_S + 8, "released", Phase.PERFORM),
        JobChange(5, JobChangeKind.STATE, AT_S + 8.4, "confirmed", Phase.CONFIRM),
        JobChange(6, JobChangeKind.COMPLETED, AT_S + 8.5, "confirmed", Phase.CONFIRM),
    ),
)
RECEIVED = replace(
    SENT,
    side=Side.DESTINATION,
    peer_uri=SOURCE,
    changes=(
        JobChange(1, JobChangeKind.STARTED, AT_S + 0.1, "prepared", Phase.PREPARE),
        JobChange(2, JobChangeKind.STATE, AT_S + 8.3, "committed", Phase.FINISH),
        JobChange(3, JobChangeKind.COMPLETED, AT_S + 8.35, "committed", Phase.FINISH),
    ),
)


@pytest.fixture
def hosts() -> Hosts:
    """Both know the migration."""
    found = Hosts()
    found.source.newest = SENT
    found.source.changes, found.destination.changes = (SENT,), (RECEIVED,)
    return found


@pytest.mark.parametrize("which", ["web", ID])
def test_the_story_is_told_with_both_hosts(hosts: Hosts, which: str) -> None:
    """By name or id: how it ended, both hosts' parts, rounds, waits, settings and warnings."""
    result = hosts.run("report", which)
    assert result.exit_code == ExitCode.DONE
    for words in (
        "web from host-a to host-b: completed after 8.5 s",
        "60 ms; the hypervisor's own figure is 40 ms",
        "bandwidth 40",
        "the guest goes slower than it could",
        "copies the guest while it runs",
        "is ready to receive; waits for the source to send the guest",
        "32.0 MiB/s",
        "20 %",
    ):
        assert words in result.stdout
    assert "░" in result.stdout


def test_a_silent_host_is_named_and_the_rest_is_told(hosts: Hosts) -> None:
    """A report of half the story says so."""
    hosts.destination.fails[f"job {ID}"] = PeerUnreachable("no answer")
    result = hosts.run("report", "web")
    assert result.exit_code == ExitCode.DONE
    assert f"{DESTINATION} does not tell its part: no answer" in result.stdout


def test_a_migration_without_another_daemon_says_so(hosts: Hosts) -> None:
    """A direct migration has one part only."""
    hosts.source.newest = replace(SENT, peer_uri="")
    assert "no daemon that could tell its part" in hosts.run("report", "web").stdout


@pytest.mark.parametrize("arguments", [("-o", "json", "report", "web"), ("report", "web", "--json")], ids=" ".join)
def test_the_same_as_an_object(hosts: Hosts, arguments: tuple[str, ...]) -> None:
    """For programs: one object with spans, rounds and waits."""
    found = json.loads(hosts.run(*arguments).stdout)
    assert (found["source"], found["destination"], found["total_ms"]) == ("host-a", "host-b", 8500)
    assert found["rounds"][0]["figures"]["throttle_percent"] == 20
    assert found["waits"][0]["waits_for"] == "the source to send the guest"
    assert found["pause"] == {"at_ms": 8240, "took_ms": 60}


def test_a_page_holds_the_drawings_and_takes_no_markup_from_anybody(hosts: Hosts, tmp_path: Path) -> None:
    """Two drawings, one box for each span and one for the pause; a name that is markup stays a text."""
    evil = "<script>alert(1)</script>"
    hosts.source.newest = replace(SENT, domain_name=evil, warnings=(evil,))
    page = tmp_path / "report.html"
    assert str(page) in hosts.run("report", "web", "--html", str(page)).stdout
    text = page.read_text(encoding="utf-8")
    tree = html.fromstring(text)
    assert not tree.xpath("//script")
    assert evil in tree.findtext(".//h1")
    assert len(tree.xpath("//svg")) == 2
    boxes = [box.get("class") for box in tree.xpath("//svg//rect")]
    assert (boxes.count("work"), boxes.count("wait"), boxes.count("pause")) == (4, 3, 1)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


WITH_DISKS = replace(
    SENT,
    flags=int(Flag.LIVE | Flag.NON_SHARED_DISK),
    statistics=Statistics(disks=(DiskFigures("vda", 3 << 30, 3 << 30), DiskFigures("vdb", 2 << 30, 1 << 30))),
    changes=(
        *SENT.changes[:2],
        JobChange(7, JobChangeKind.DECISION, AT_S + 0.2, "performing", Phase.PERFORM, step=JobStep.DISKS),
        JobChange(8, JobChangeKind.DECISION, AT_S + 5, "performing", Phase.PERFORM, step=JobStep.MEMORY),
        *SENT.changes[2:],
    ),
)


def test_disks_are_in_the_story_in_each_form(hosts: Hosts, tmp_path: Path) -> None:
    """When they were copied, how long that took, and how much of each."""
    hosts.source.newest = WITH_DISKS
    text = hosts.run("report", "web").stdout
    assert "vda, vdb: copied 4.0 GiB of 5.0 GiB; the copying took 4.8 s" in " ".join(text.split())
    assert [line.split()[-3:] for line in text.splitlines() if line.startswith("0.200 s   4.8 s")] == [
        ["copies", "the", "disks"]
    ]
    assert ["vdb 1.0 GiB 1.0 GiB"] == [" ".join(line.split()) for line in text.splitlines() if line.startswith("vdb")]
    found = json.loads(hosts.run("report", "web", "--json").stdout)
    assert found["copies"] == {
        "disks": [
            {"target": "vda", "total_bytes": 3 << 30, "processed_bytes": 3 << 30},
            {"target": "vdb", "total_bytes": 2 << 30, "processed_bytes": 1 << 30},
        ],
        "at_ms": 200,
        "took_ms": 4800,
    }
    page = tmp_path / "report.html"
    hosts.run("report", "web", "--html", str(page))
    tree = html.fromstring(page.read_text(encoding="utf-8"))
    assert "4.8 s: copies the disks" in [title.text for title in tree.xpath("//svg//title")]
    assert ["vdb", "1.0 GiB", "1.0 GiB"] in [[cell.text for cell in row] for row in tree.xpath("//tr")]


def test_a_page_that_cannot_be_written_is_refused(hosts: Hosts, tmp_path: Path) -> None:
    """The remedy is said; nothing else happens."""
    result = hosts.run("report", "web", "--html", str(tmp_path / "absent" / "report.html"))
    assert result.exit_code == ExitCode.REFUSED
    assert "name a file in a folder" in result.stderr


def test_one_that_still_goes_on_is_told_up_to_now(hosts: Hosts) -> None:
    """No end, and no error."""
    hosts.source.newest = replace(SENT, type=JobType.UNBOUNDED, ended_s=None, changes=SENT.changes[:2])
    assert "still going on after" in hosts.run("report", "web").stdout
