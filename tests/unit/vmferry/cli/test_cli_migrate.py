"""`migrate` over the real walk: options, displays, interrupts and what it ends with."""

import asyncio
import json
import signal
from dataclasses import replace

import pytest
from cli_fakes import DESTINATION, ID, JOB, MIB, SOURCE, Hosts

from vmferry import errors
from vmferry.cli.conduct import Conductor, Interrupts, Order
from vmferry.cli.display import JsonDisplay, LineDisplay
from vmferry.cli.exits import ExitCode
from vmferry.cli.options import FILES, NOT_AVAILABLE, read
from vmferry.cli.progress import Tracker
from vmferry.cli.spoken import Subject
from vmferry.combinations import Fact, Place, broken
from vmferry.flags import FLAGS, Flag
from vmferry.model import (
    GuestLocation,
    HostCapabilities,
    JobChange,
    JobChangeKind,
    Outcome,
    Phase,
    Progress,
    Statistics,
)
from vmferry.params import PARAMETERS, Kind, MigrationParams


def migrated(hosts, *options, output="text"):
    """The program's answer to a migration of `web`."""
    return hosts.run("-o", output, "migrate", *options, "web", DESTINATION)


# -- the request -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [row for row in FLAGS if row.flag not in NOT_AVAILABLE], ids=lambda row: row.name)
def test_each_flag_of_the_table_is_an_option(row):
    """Each flag of the table is an option."""
    assert row.option in Hosts().run("migrate", "--help").output
    given = {f"flag_{row.name.lower()}": True}
    call = Fact.TO_URI_CALL if row.flag is Flag.PEER2PEER else Fact.MIGRATE3_CALL
    if broken(row.flag, MigrationParams(), Place.CLIENT | Place.TOOL, {call}):
        with pytest.raises(errors.VmferryError):
            read(given)
    else:
        assert read(given) == (row.flag, MigrationParams())


@pytest.mark.parametrize("row", PARAMETERS, ids=lambda row: row.name)
def test_each_parameter_of_the_table_is_an_option(row):
    """Each parameter of the table is an option."""
    assert row.option in Hosts().run("migrate", "--help").output
    assert (row.attribute in FILES) == (row.kind is Kind.STRING and row.attribute.endswith("_xml"))


def test_flags_and_parameters_reach_the_source(tmp_path):
    """Flags and parameters reach the source."""
    (tmp_path / "there.xml").write_text("<domain>there</domain>")
    hosts = Hosts()
    result = migrated(
        hosts, "--live", "--persistent", "--auto-converge", "--bandwidth", "32", "--dname", "web2",
        "--migrateuri", "tcp:host-b",
        "--xml", str(tmp_path / "there.xml"), "--comp-methods", "xbzrle,zlib", "--comp-methods", "zstd", "--verbose",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    begun = hosts.source.requests["begin"]
    assert begun.flags == Flag.LIVE | Flag.PERSIST_DEST | Flag.AUTO_CONVERGE
    assert begun.params == MigrationParams(
        migrate_uri="tcp:host-b",
        destination_name="web2",
        destination_xml="<domain>there</domain>",
        bandwidth_mib_per_s=32,
        compression=("xbzrle", "zlib", "zstd"),
    )


@pytest.mark.parametrize(
    "options", [["--comp-zlib-level", "10"], ["--disks-port", "70000"], ["--dname", ""], ["--live", "--offline"]]
)
def test_a_request_that_cannot_be_right_is_refused_before_anybody_is_asked(options):
    """A request that cannot be right is refused before anybody is asked."""
    hosts = Hosts()
    assert migrated(hosts, *options).exit_code == ExitCode.REFUSED
    assert hosts.source.calls == []


@pytest.mark.parametrize("options", [["--bandwidth", "much"], ["--xml", "/nowhere/at/all"], ["--direct"]])
def test_wrong_usage(options):
    """Wrong usage."""
    assert migrated(Hosts(), *options).exit_code == ExitCode.OTHER


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_success_as_text():
    """Success as text."""
    result = migrated(Hosts())
    assert result.exit_code == 0
    assert [line.split()[1] for line in result.stderr.splitlines()[1:]] == [f"{phase}:" for phase in Phase]
    assert result.stderr.startswith("web from host-a to host-b, migration ")
    lines = [line.split(":", 1) for line in result.stdout.splitlines()]
    assert lines[0] == ["web lives at host-b and is running"]
    facts = {name.strip(): value.strip() for name, value in lines[1:]}
    assert facts["guest stood still"] == "212 ms"
    assert facts["hypervisor's downtime"] == "187 ms"
    assert facts["sent"] == "905.0 MiB in 2 rounds"
    assert facts["throughput"] == "113.1 MiB/s"


def test_success_as_json():
    """Success as json."""
    result = migrated(Hosts(), output="json")
    started, *progress, done = map(json.loads, result.stdout.splitlines())
    assert result.stderr == ""
    assert started["event"] == "started"
    assert [line["phase"] for line in progress] == list(Phase)
    assert (done["event"], done["migration_id"]) == ("migrated", started["migration_id"])
    assert (done["guest_pause_ms"], done["hypervisor_downtime_ms"]) == (212, 187)
    assert (done["source_host"], done["destination_host"]) == ("host-a", "host-b")
    assert done["domain"]["state"] == "running"


def test_figures_that_nobody_measured_are_not_shown_as_zero():
    """Figures that nobody measured are not shown as zero."""
    hosts = Hosts()
    hosts.source.script = (Statistics(),)
    hosts.source.fails["confirm"] = errors.TimedOut("the source is slow")
    result = migrated(hosts)
    assert result.exit_code == 0
    assert "warning: the source could not be told that it is over" in result.stdout
    assert "throughput" not in result.stdout


def displayed(kind, *moments):
    """The lines that `kind` writes for (time, iteration, what is left in MiB)."""
    lines, now = [], [0.0]
    shown = kind(lines.append, Subject(ID, "web"), Tracker(tuple(Phase), 0.0), lambda: now[0])
    with shown:
        for at_s, iteration, left_mib in moments:
            now[0] = at_s
            figures = Statistics(
                memory_total_bytes=100 * MIB, memory_remaining_bytes=left_mib * MIB, memory_iteration=iteration
            )
            shown.hear(Progress(ID, Phase.PERFORM, "sending", figures))
    return lines[1:]


def test_lines_come_at_most_every_second():
    """Lines come at most every second."""
    lines = displayed(LineDisplay, (0.0, 1, 90), (0.5, 1, 60), (0.9, 1, 50), (1.0, 1, 40), (1.9, 1, 30), (2.1, 2, 5))
    assert lines == [
        "[0:00:00] perform: sending, round 1, 10 %, 10.0 MiB of 100.0 MiB, 90.0 MiB left",
        "[0:00:01] perform: sending, round 1, 60 %, 60.0 MiB of 100.0 MiB, 40.0 MiB left",
        "[0:00:02] perform: sending, round 2, 0 %, 0 B of 5.0 MiB, 5.0 MiB left",
    ]


def test_json_lines_have_the_round():
    """Json lines have the round."""
    (line,) = displayed(JsonDisplay, (0.0, 1, 75))
    assert json.loads(line)["round"] == {
        "number": 1,
        "size_bytes": 100 * MIB,
        "done_bytes": 25 * MIB,
        "left_bytes": 75 * MIB,
        "fraction": 0.25,
    }


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("daemon", "call", "error", "code"),
    [
        ("source", "begin", errors.DomainNotFound("no domain 'web'"), ExitCode.REFUSED),
        ("destination", "prepare", errors.HostIncompatible("this host cannot run it"), ExitCode.REFUSED),
        ("destination", "prepare", errors.StorageFailed("disk full"), ExitCode.FAILED),
        ("source", "perform", errors.TransferFailed("connection reset"), ExitCode.FAILED),
        ("source", "perform", errors.DriverRefused("blocked"), ExitCode.FAILED),
        ("source", "perform", errors.TransferFailed("died", guest=GuestLocation.NOWHERE), ExitCode.IN_DOUBT),
        ("source", "version", errors.PeerUnreachable("no answer"), ExitCode.REFUSED),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_failure_exits_with_where_the_guest_is(daemon, call, error, code):
    """A failure exits with where the guest is."""
    hosts = Hosts()
    getattr(hosts, daemon).fails[call] = error
    result = migrated(hosts)
    assert result.exit_code == code
    assert result.stdout == ""
    assert f"error: {error.message}" in result.stderr


def test_a_destination_that_does_not_answer_is_refused():
    """A destination that does not answer is refused."""
    assert Hosts().run("migrate", "web", "vmferry+tcp://nowhere:1").exit_code == ExitCode.REFUSED


# -- interrupts --------------------------------------------------------------------------------------------------------


class Written(LineDisplay):
    """Keeps its lines."""

    def __init__(self):
        self.lines = []
        super().__init__(self.lines.append, Subject(ID, "web"), Tracker(tuple(Phase), 0.0))


def conductor(hosts):
    """A conductor whose display keeps its lines."""
    return Conductor(hosts.source, hosts.destination, Order(ID, "web"), Written())


async def test_the_first_interrupt_asks_and_waits_for_the_true_answer():
    """The first interrupt asks and waits for the true answer."""
    hosts = Hosts()
    hosts.source.holds_perform = True
    conducting = conductor(hosts)
    hosts.source.during_perform = conducting.interrupts.interrupt
    with pytest.raises(errors.MigrationCancelled) as caught:
        await conducting.conduct()
    assert caught.value.guest is GuestLocation.SOURCE
    assert hosts.source.calls.count("abort_job") == 1
    assert hosts.destination.requests["finish"].verdict == "roll-back"
    assert any("asking the source to end the migration" in line for line in conducting.display.lines)


async def test_an_interrupt_that_comes_too_late_ends_in_success():
    """An interrupt that comes too late ends in success."""
    hosts = Hosts()
    hosts.source.abort_outcome = Outcome.COMMITTED
    conducting = conductor(hosts)
    hosts.source.during_perform = conducting.interrupts.interrupt
    assert (await conducting.conduct()).migration_id == ID


async def test_an_interrupt_before_begin_is_recorded_is_asked_again():
    """An interrupt before begin is recorded is asked again."""
    hosts = Hosts()
    hosts.source.begin_waits = True
    hosts.source.holds_perform = True
    conducting = conductor(hosts)
    conducting.interrupts.interrupt()
    with pytest.raises(errors.MigrationCancelled):
        await conducting.conduct()
    assert hosts.source.calls.count("abort_job") == 2


async def test_an_abort_that_cannot_be_asked_for_is_said_and_the_migration_goes_on():
    """An abort that cannot be asked for is said and the migration goes on."""
    hosts = Hosts()
    hosts.source.fails["abort_job"] = errors.FateUnknown("no answer")
    conducting = conductor(hosts)
    release = asyncio.Event()

    async def prepare(request):
        await release.wait()
        return await type(hosts.destination).prepare(hosts.destination, request)

    hosts.destination.prepare = prepare
    conducting.display.say = lambda text: (conducting.display.lines.append(text), "could not" in text and release.set())
    conducting.interrupts.interrupt()
    assert (await conducting.conduct()).migration_id == ID
    assert "the source could not be asked to end it: no answer" in conducting.display.lines


REFUSED = "post-copy could not be started, and the migration goes on: it is not being sent"


@pytest.mark.parametrize(
    ("state", "earlier", "said"),
    [
        ("released", "performing", "post-copy was not needed: all memory had been copied before it could begin"),
        ("confirmed", "released", "post-copy was not needed: all memory had been copied before it could begin"),
        ("confirmed", "serving", "post-copy had begun already"),
        ("cancelled", "performing", "post-copy did not begin: the migration had ended before"),
        ("performing", "begun", REFUSED),
        ("", "", REFUSED),
    ],
)
async def test_post_copy_that_is_refused_is_said_to_be_what_it_was(state: str, earlier: str, said: str) -> None:
    """Too late is no failure; and a source that says nothing more is not guessed about."""
    hosts = Hosts()
    hosts.source.fails["start_postcopy web"] = errors.InvalidState("it is not being sent")
    change = JobChange(1, JobChangeKind.STATE, 0.0, earlier, Phase.PERFORM)
    hosts.source.changes = [replace(JOB, state=state, changes=(change,))]
    if not state:
        hosts.source.fails[f"job {ID}"] = errors.PeerUnreachable("no answer")
    conducting = conductor(hosts)
    await conducting._start_postcopy()
    assert [said] == conducting.display.lines


async def test_the_second_interrupt_leaves_and_says_how_to_find_it_again():
    """The second interrupt leaves and says how to find it again."""
    hosts = Hosts()
    hosts.source.holds_perform = True
    hosts.source.fails["abort_job"] = errors.FateUnknown("no answer")
    conducting = conductor(hosts)
    hosts.source.during_perform = lambda: (conducting.interrupts.interrupt(), conducting.interrupts.interrupt())
    with pytest.raises(errors.FateUnknown) as caught:
        await conducting.conduct()
    assert caught.value.guest is GuestLocation.IN_DOUBT
    assert f"vmferry -c {SOURCE} job watch {ID}" in caught.value.remedy


async def test_sigterm_asks_however_often_it_comes():
    """Sigterm asks however often it comes."""
    interrupts = Interrupts()
    with interrupts.from_signals():
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        await interrupts.asked.wait()
        assert not interrupts.left.is_set()
        signal.raise_signal(signal.SIGINT)
        await interrupts.left.wait()


def test_ctrl_c_of_the_program_ends_with_the_guest_at_the_source():
    """Ctrl c of the program ends with the guest at the source."""
    hosts = Hosts()
    hosts.source.holds_perform = True
    hosts.source.during_perform = lambda: signal.raise_signal(signal.SIGINT)
    result = migrated(hosts)
    assert result.exit_code == ExitCode.FAILED
    assert "error: the user ended the migration" in result.stderr
    assert "guest: at the source" in result.stderr


# -- peer-to-peer ------------------------------------------------------------------------------------------------------


def test_the_source_coordinates():
    """The source coordinates: this client asks nobody else, with one call, and shows the phases all the same."""
    hosts = Hosts()
    result = migrated(hosts, "--live", "--p2p", "--bandwidth", "32")
    assert result.exit_code == 0, result.output
    assert hosts.destination.calls == []
    assert [call for call in hosts.source.calls if call in list(Phase)] == ["perform"]
    asked = hosts.source.requests["perform"]
    assert (asked.destination_daemon_uri, asked.domain) == (DESTINATION, "web")
    assert (asked.flags, asked.params.bandwidth_mib_per_s) == (Flag.LIVE | Flag.PEER2PEER, 32)
    assert [line.split()[1] for line in result.stderr.splitlines()[1:]] == ["begin:", "prepare:", "perform:"]
    assert result.stdout.startswith("web lives at host-b and is running")
    assert "warning: the source was slow" in result.stdout


def test_a_source_that_cannot_coordinate_is_not_asked_to():
    """A source that cannot coordinate is not asked to."""
    hosts = Hosts()

    async def capabilities():
        return HostCapabilities(drivers=(), features=(6, 13))

    hosts.source.capabilities = capabilities
    result = migrated(hosts, "--p2p")
    assert result.exit_code == ExitCode.REFUSED
    assert "MIGRATION_P2P" in result.stderr
    assert "perform" not in hosts.source.calls


def test_ctrl_c_of_peer_to_peer_waits_for_the_true_answer():
    """Ctrl-C of peer-to-peer waits for the true answer."""
    hosts = Hosts()
    hosts.source.holds_perform = True
    hosts.source.during_perform = lambda: signal.raise_signal(signal.SIGINT)
    result = migrated(hosts, "--p2p")
    assert result.exit_code == ExitCode.FAILED
    assert hosts.source.calls.count("abort_job") == 1
    assert "error: the user ended the migration" in result.stderr


async def test_leaving_a_peer_to_peer_migration_says_that_it_goes_on():
    """Leaving a peer-to-peer migration says that it goes on."""
    hosts = Hosts()
    hosts.source.holds_perform = True
    hosts.source.fails["abort_job"] = errors.FateUnknown("no answer")
    conducting = Conductor(hosts.source, DESTINATION, Order(ID, "web", Flag.PEER2PEER), Written())
    hosts.source.during_perform = lambda: (conducting.interrupts.interrupt(), conducting.interrupts.interrupt())
    with pytest.raises(errors.FateUnknown, match="the source goes on with it") as caught:
        await conducting.conduct()
    assert f"job watch {ID}" in caught.value.remedy
