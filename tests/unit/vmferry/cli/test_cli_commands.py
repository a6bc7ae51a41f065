"""Every command but `migrate`: what it asks the daemon, and what it prints."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib import import_module

import click
import pytest
from cli_fakes import ID, JOB, RUNNING, SOURCE, WEB, Hosts

from vmferry.cli.__main__ import MODULES, main
from vmferry.cli.exits import ExitCode
from vmferry.cli.options import REFUSED
from vmferry.errors import DomainNotFound
from vmferry.flags import FLAGS
from vmferry.model import (
    DomainEvent,
    DomainEventDetail,
    DomainEventKind,
    JobOperation,
    JobType,
    Outcome,
    Phase,
    Side,
    Statistics,
)
from vmferry.params import PARAMETERS
from vmferry.statistics import STATISTICS
from vmferryd.phases.settings import HONOURED, HONOURED_PARAMS


def commands(group=main, path=()):
    """The words of every command and group."""
    yield path
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield from commands(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]


def test_each_command_is_where_the_program_looks_for_it():
    """And no module has one that the program does not know."""
    for module, names in MODULES.items():
        assert names == tuple(command.name for command in import_module(f"vmferry.cli.{module}").COMMANDS)


def test_a_command_brings_only_what_it_needs():
    """Certificates, reports and what draws cost a migration nothing before it begins."""
    unneeded = ("cryptography", "vmferry.pki", "vmferry.report", "lxml", "rich", "vmferry.evidence", "vmferry.statistics")
    program = "import sys, vmferry.cli.__main__ as m, click; m.main.get_command(click.Context(m.main), 'migrate');"
    program += f"print([name for name in {unneeded} if name in sys.modules])"
    assert "[]\n" == subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


ALIASES = [("dominfo",), ("domjobabort",)]


@pytest.mark.parametrize("path", [*commands(), *ALIASES], ids=" ".join)
def test_help_needs_no_daemon(path):
    """Help needs no daemon."""
    result = Hosts().run(*path, "--help")
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")
    assert "\\b" not in result.output
    commands = result.output.partition("Commands:")[2].partition("Exit status:")[0]
    assert "..." not in commands, "a summary does not fit on its line"


@pytest.mark.parametrize("arguments", [["--bad"], ["list", "--bad"], ["nonsense"], ["start"], ["-o", "xml", "list"], ["job"]])
def test_wrong_usage_is_told_apart_from_a_refusal(arguments):
    """Wrong usage is told apart from a refusal."""
    result = Hosts().run(*arguments)
    assert result.exit_code == ExitCode.OTHER
    assert "Usage:" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "call", "says"),
    [
        (["undefine", "web"], "undefine web", "web: undefined"),
        (["start", "web"], "start web", "web: started"),
        (["start", "--paused", "web"], "start_paused web", "web: started, and stands paused"),
        (["shutdown", "web"], "shutdown web", "web: asked to shut down"),
        (["destroy", "web"], "destroy web", "web: destroyed"),
        (["suspend", "web"], "suspend web", "web: suspended"),
        (["resume", "web"], "resume web", "web: resumed"),
    ],
)
def test_verbs(arguments, call, says):
    """Verbs."""
    hosts = Hosts()
    result = hosts.run(*arguments)
    assert (result.exit_code, result.output) == (0, says + "\n")
    assert hosts.source.calls == [call]
    assert json.loads(hosts.run("-o", "json", *arguments).stdout)["name"] == "web"


def test_define_reads_a_file_or_standard_input(tmp_path):
    """Define reads a file or standard input."""
    file = tmp_path / "web.xml"
    file.write_text("<domain>ü</domain>", encoding="utf-8")
    hosts = Hosts()
    assert hosts.run("define", str(file)).exit_code == 0
    assert hosts.run("define", "-", given="<domain/>").output == "db: defined\n"
    assert hosts.source.calls == ["define <domain>ü</domain>", "define <domain/>"]


def test_define_refuses_what_is_no_utf8():
    """Define refuses what is no utf8."""
    result = Hosts().run("define", "-", given=b"\xff\xfe")
    assert result.exit_code == ExitCode.REFUSED
    assert "is not UTF-8" in result.stderr


@pytest.mark.parametrize(
    ("option", "names"),
    [([], ["web"]), (["--all"], ["web", "db"]), (["--inactive"], ["db"])],
    ids=["active", "all", "inactive"],
)
def test_list(option, names):
    """List."""
    assert [row["name"] for row in json.loads(Hosts().run("-o", "json", "list", *option).stdout)] == names
    lines = Hosts().run("list", *option).stdout.splitlines()
    assert lines[0].split() == ["Id", "Name", "State", "Reason", "Memory", "CPUs", "Persistent"]
    assert [line.split()[1] for line in lines[1:]] == names


def test_a_long_name_is_printed_whole():
    """A long name is printed whole."""
    hosts = Hosts()
    name = "n" * 300
    hosts.source.known = {name: replace(WEB, name=name)}
    assert name in hosts.run("list").stdout


@pytest.mark.parametrize("command", ["info", "dominfo"])
def test_info_has_what_the_host_allotted(command):
    """Info has what the host allotted."""
    output = Hosts().run(command, "web").stdout
    for fact in ("State:           running (booted)", "Memory:          1.0 GiB", "/dev/pts/4", "127.0.0.1:5901"):
        assert fact in output


def test_info_of_an_inactive_domain_asks_for_no_devices():
    """Info of an inactive domain asks for no devices."""
    hosts = Hosts()
    assert json.loads(hosts.run("-o", "json", "info", "db").stdout)["devices"] == {}
    assert hosts.source.calls == ["domain"]


def test_dumpxml_is_what_the_daemon_said():
    """Dumpxml is what the daemon said."""
    assert Hosts().run("dumpxml", "web").stdout == "<domain><name>web</name></domain>\n"
    assert Hosts().run("dumpxml", "web", "--inactive").stdout == "<domain><!-- stored --><name>web</name></domain>\n"
    assert json.loads(Hosts().run("-o", "json", "dumpxml", "web").stdout)["domain"] == "web"


def test_version_and_capabilities():
    """Version and capabilities."""
    assert "host-a" in Hosts().run("version").stdout
    assert json.loads(Hosts().run("-o", "json", "version").stdout)["host_name"] == "host-a"
    text = Hosts().run("capabilities").stdout
    assert "unavailable: no qemu-system-x86_64" in text
    assert "MIGRATION_V3, MIGRATION_PARAMS, feature 99" in text
    assert "pc-2.9, pc-2.10, q35" in text
    assert json.loads(Hosts().run("-o", "json", "capabilities").stdout)["drivers"][0]["domain_types"] == ["test"]


def test_the_environment_names_the_daemon(monkeypatch):
    """The environment names the daemon."""
    hosts = Hosts()
    monkeypatch.setenv("VMFERRY_URI", SOURCE)
    result = click.testing.CliRunner().invoke(main, ["version"], obj=hosts.connect)
    assert result.exit_code == 0
    assert SOURCE in result.stdout


def test_jobs():
    """Jobs."""
    assert ID in Hosts().run("jobs").stdout
    (job,) = json.loads(Hosts().run("-o", "json", "jobs").stdout)
    assert job["statistics"]["elapsed_ms"] == 8400


@pytest.mark.parametrize(
    ("which", "calls"),
    [
        (ID, [f"job {ID}"]),
        ("web", ["newest_job web"]),
        (WEB.uuid, [f"job {WEB.uuid}", f"newest_job {WEB.uuid}"]),
    ],
    ids=["id", "name", "uuid of a domain"],
)
def test_a_job_is_found_by_id_by_name_and_by_uuid(which, calls):
    """A job is found by id by name and by uuid."""
    hosts = Hosts()
    result = hosts.run("job", "info", which)
    assert result.exit_code == 0
    assert "Memory processed:  1.2 GiB" in result.stdout
    assert "tunnel to vmferry+tcp://host-b:16533" in result.stdout
    assert "the guest goes slower than it could" in result.stdout
    assert hosts.source.calls == calls
    assert json.loads(Hosts().run("-o", "json", "job", "info", which).stdout)["migration_id"] == ID


def test_a_job_that_nobody_knows_is_refused():
    """A job that nobody knows is refused."""
    assert Hosts().run("job", "info", "nobody").exit_code == ExitCode.REFUSED


@pytest.mark.option("domjobabort")
@pytest.mark.parametrize(
    ("outcome", "code", "says"),
    [
        (Outcome.ABORTED, ExitCode.DONE, "the guest is at the source"),
        (Outcome.COMMITTED, ExitCode.OTHER, "too late"),
        (Outcome.PENDING, ExitCode.IN_DOUBT, f"job watch {ID}"),
    ],
)
@pytest.mark.parametrize("command", [["job", "abort"], ["domjobabort"]], ids=" ".join)
def test_abort_says_what_holds(command, outcome, code, says):
    """Abort says what holds."""
    hosts = Hosts()
    hosts.source.abort_outcome = outcome
    result = hosts.run(*command, "web")
    assert result.exit_code == code
    assert says in result.stdout
    assert json.loads(hosts.run("-o", "json", *command, "web").stdout)["outcome"] == outcome


def test_abort_does_not_wait_when_asked_so():
    """With --at-once the answer comes before the effect, and says how to see it."""
    result = Hosts().run("job", "abort", "--at-once", "web")
    assert (result.exit_code, f"job watch {ID}" in result.stdout) == (ExitCode.DONE, True)


@pytest.mark.parametrize("command", [["job", "abort"], ["domjobabort"]], ids=" ".join)
def test_a_domain_without_a_job_has_nothing_to_abort(command):
    """A domain whose migration is over has no job to abort; the migration itself can be asked again."""
    hosts = Hosts()
    hosts.source.newest = JOB
    result = hosts.run(*command, "web")
    assert result.exit_code == ExitCode.REFUSED
    assert "domain web has no job" in result.stderr
    assert hosts.run(*command, ID).exit_code == ExitCode.DONE


def test_history():
    """Past migrations of one domain: how far each came, how it ended, and why."""
    hosts = Hosts()
    assert ID in hosts.run("job", "history", "web", "--limit", "3").stdout
    assert hosts.source.calls == ["jobs web 3"]
    assert json.loads(hosts.run("-o", "json", "job", "history", "web").stdout)[0]["phase"] == "confirm"


@pytest.mark.option("domjobinfo --completed", "domjobinfo --keep-completed")
@pytest.mark.parametrize(
    ("options", "call"),
    [
        ([], "job_stats web"),
        (["--completed"], "completed_stats web"),
        (["--completed", "--keep-completed"], "kept_stats web"),
    ],
)
def test_domjobinfo_asks_for_the_job_that_is_meant(options, call):
    """Domjobinfo asks for the job that is meant."""
    hosts = Hosts()
    assert hosts.run("domjobinfo", "web", *options).exit_code == 0
    assert hosts.source.calls == [call]
    assert hosts.run("domjobinfo", "web", "--keep-completed").exit_code == ExitCode.OTHER


@pytest.mark.option("domjobinfo --anystats")
def test_domjobinfo_of_no_job():
    """A domain without a job has one line, and nothing is an error."""
    result = Hosts().run("domjobinfo", "web")
    assert (result.exit_code, result.stdout) == (0, "Job type:         None\n")
    assert Hosts().run("domjobinfo", "web", "--anystats").exit_code == 0


FULL = replace(
    RUNNING,
    elapsed_ms=8_400,
    statistics=Statistics(
        memory_total_bytes=1 << 30,
        memory_processed_bytes=1 << 20,
        memory_remaining_bytes=1536,
        memory_bytes_per_s=1 << 20,
        memory_dirty_rate_pages_per_s=7,
        memory_page_size_bytes=4096,
        memory_iteration=3,
        memory_constant_pages=5,
        memory_normal_pages=256,
        memory_normal_bytes=1 << 20,
        setup_ms=12,
        expected_downtime_ms=290,
        compression_cache_bytes=1 << 26,
        auto_converge_throttle_percent=30,
    ),
)


@pytest.mark.option("domjobinfo")
def test_domjobinfo_has_libvirts_lines():
    """Domjobinfo prints libvirt's labels in libvirt's order, sizes with three decimals."""
    hosts = Hosts()
    hosts.source.running = FULL
    assert hosts.run("domjobinfo", "web").stdout.splitlines() == [
        "Job type:         Unbounded",
        "Operation:        Outgoing migration",
        "Time elapsed:     8400         ms",
        "Data processed:   1.000 MiB",
        "Data remaining:   1.500 KiB",
        "Data total:       1.000 GiB",
        "Memory processed: 1.000 MiB",
        "Memory remaining: 1.500 KiB",
        "Memory total:     1.000 GiB",
        "Memory bandwidth: 1.000 MiB/s",
        "Dirty rate:       7            pages/s",
        "Page size:        4096         bytes",
        "Iteration:        3",
        "Constant pages:   5",
        "Normal pages:     256",
        "Normal data:      1.000 MiB",
        "Expected downtime: 290          ms",
        "Setup time:       12           ms",
        "Compression cache: 64.000 MiB",
        "Compressed data:  0.000 B",
        "Compressed pages: 0",
        "Compression cache misses: 0",
        "Compression overflows: 0",
        "Auto converge throttle: 30           %",
    ]


def test_domjobinfo_of_a_migration_that_failed():
    """A migration that failed has figures, and says why."""
    hosts = Hosts()
    hosts.source.changes = (replace(FULL, type=JobType.FAILED, ended_s=1_700_000_009.0, error="no space"),)
    said = hosts.run("domjobinfo", "web", "--completed").stdout
    assert "Job type:         Failed" in said
    assert "no space" in said


@pytest.mark.option("domjobinfo --rawstats")
def test_domjobinfo_raw():
    """--rawstats has every figure under its name, and JSON has the same."""
    hosts = Hosts()
    hosts.source.running = FULL
    raw = hosts.run("domjobinfo", "web", "--rawstats").stdout.splitlines()
    assert raw[:3] == ["Job type: 2", "", f"operation: {JobOperation.MIGRATION_OUT.number}"]
    assert "memory_remaining: 1536" in raw
    figures = json.loads(hosts.run("-o", "json", "domjobinfo", "web").stdout)["statistics"]
    assert [line.split(":")[0] for line in raw[2:]] == list(figures)
    assert {row.name for row in STATISTICS} >= set(figures)


def test_watching_all_jobs():
    """All jobs are watched as one line each; progress is not worth a line. Naming one as well is wrong usage."""
    hosts = watched(RUNNING, replace(RUNNING, error="no space"))
    lines = hosts.run("job", "watch", "--all").stdout.splitlines()
    assert [ID in line for line in lines] == [True, True]
    assert lines[1].endswith("no space")
    assert json.loads(hosts.run("-o", "json", "job", "watch", "--all").stdout.splitlines()[0])["sequence"] == 1
    assert hosts.run("job", "watch", "--all", "web").exit_code == ExitCode.OTHER
    assert hosts.run("job", "watch").exit_code == ExitCode.OTHER


def watched(*changes):
    """Hosts whose job goes through `changes`."""
    hosts = Hosts()
    hosts.source.changes = changes
    return hosts


@pytest.mark.parametrize(
    ("last", "code"),
    [
        (JOB, ExitCode.DONE),
        (replace(JOB, type=JobType.FAILED, state="cancelled"), ExitCode.FAILED),
        (replace(JOB, type=JobType.CANCELLED, state="cancelled"), ExitCode.FAILED),
        (RUNNING, ExitCode.IN_DOUBT),
    ],
    ids=["completed", "failed", "cancelled", "stream ended early"],
)
def test_watch_exits_with_how_it_ended(last, code):
    """Watch exits with how it ended."""
    result = watched(RUNNING, last).run("job", "watch", ID)
    assert result.exit_code == code
    assert "perform: performing" in result.stderr
    assert f"Type:              {last.type}" in result.stdout


def test_watching_the_destination_shows_its_own_phases():
    """Watching the destination shows its own phases."""
    job = replace(RUNNING, side=Side.DESTINATION, phase=Phase.FINISH, state="received")
    lines = watched(job).run("-o", "json", "job", "watch", ID).stdout.splitlines()
    assert [json.loads(line).get("phase") for line in lines] == [None, Phase.FINISH, Phase.FINISH]


def test_an_error_in_the_middle_of_a_watch_is_an_error():
    """An error in the middle of a watch is an error."""
    hosts = watched(RUNNING)
    hosts.source.fails[f"watch {ID}"] = DomainNotFound("gone")
    assert hosts.run("job", "watch", ID).exit_code == ExitCode.REFUSED


def test_events_are_one_line_each():
    """Events are one line each, of all domains or of one; what was missed is said apart."""
    hosts = Hosts()
    kind, detail = DomainEventKind.SUSPENDED, DomainEventDetail.MIGRATED
    web = DomainEvent(kind, detail, "web", WEB.uuid, 1_700_000_000.0, ID)
    hosts.source.events = (web, replace(web, domain_name="db", domain_uuid="other", missed=3))
    told = hosts.run("events")
    assert [f"web  suspended migrated  migration {ID}" in line for line in told.stdout.splitlines()] == [True, False]
    assert "3 events missed" in told.stderr
    assert len(hosts.run("events", WEB.uuid).stdout.splitlines()) == 1
    first, second = map(json.loads, hosts.run("-o", "json", "events").stdout.splitlines())
    assert (first["kind"], first["detail"], second["missed"]) == ("suspended", "migrated", 3)


def test_help_names_what_no_daemon_honours():
    """Nobody has to try an option to hear that it is refused."""
    flags = {row.option for row in FLAGS if row.flag not in HONOURED}
    assert REFUSED == flags | {row.option for row in PARAMETERS if row.attribute not in HONOURED_PARAMS}
    assert "--zerocopy Memory is sent without a copy into the kernel. Refused by" in " ".join(
        Hosts().run("migrate", "--help").output.split()
    )
