"""The program itself, as a process without a terminal: what its options do to a guest, and how it is interrupted."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support.daemons import NAME, Host, TwoHosts, restless
from support.waiting import eventually
from vmferry.cli.exits import ExitCode
from vmferry.errors import DomainNotFound, MigrationNotFound
from vmferry.model import DomainState, MigrationId
from vmferryd.drivers.memory import FaultKind, Verb


def uri(host: Host) -> str:
    """Where its daemon answers."""
    return str(host.settings["listen"])


@asynccontextmanager
async def program(host: Host, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`vmferry`, which runs; afterwards it does not."""
    command = (sys.executable, "-m", "vmferry.cli", "-c", uri(host), *arguments)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ended(host: Host, *arguments: str) -> tuple[int | None, str, str]:
    """The exit status of `vmferry`, its answer, and what it said besides."""
    async with program(host, *arguments) as process:
        said, complained = await process.communicate()
        return process.returncode, said.decode(), complained.decode()


async def migrated(hosts: TwoHosts, *options: str) -> list[dict[str, Any]]:
    """The JSON lines of a migration that came to its good end."""
    code, said, complained = await ended(hosts.source, "-o", "json", "migrate", *options, NAME, uri(hosts.destination))
    assert (code, complained) == (ExitCode.DONE, ""), said
    return [json.loads(line) for line in said.splitlines()]


async def patient(hosts: TwoHosts) -> None:
    """A transfer that stands still is waited for, for as long as a program takes to start on a busy machine."""
    for host in hosts.hosts:
        host.limit(transfer_stall_s=120.0)
        await host.restart()


async def heard(process: asyncio.subprocess.Process, text: str) -> str:
    """The line with `text` that it writes to standard error."""
    assert process.stderr is not None
    async with asyncio.timeout(120):
        while line := (await process.stderr.readline()).decode():
            if text in line:
                return line
    raise AssertionError(f"it never said {text!r}")


# -- what options do -----------------------------------------------------------------------------------------------------


async def _definitions(hosts: TwoHosts) -> tuple[bool, bool]:
    """Whether the source and the destination keep a definition."""
    there = await hosts.destination.connection.domain(NAME)
    try:
        await hosts.source.connection.domain(NAME)
    except DomainNotFound:
        return False, there.persistent
    return True, there.persistent


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        pytest.param((), (True, False), id="neither"),
        pytest.param(("--persistent",), (True, True), marks=pytest.mark.option("--persistent"), id="persistent"),
        pytest.param(
            ("--persistent", "--undefinesource"), (False, True), marks=pytest.mark.option("--undefinesource"), id="undefine"
        ),
    ],
)
async def test_where_the_definition_is_kept(two_hosts: TwoHosts, options: tuple[str, ...], kept: tuple[bool, bool]) -> None:
    """--persistent keeps it at the destination, --undefinesource forgets it at the source."""
    await migrated(two_hosts, "--live", *options)
    assert await _definitions(two_hosts) == kept


@pytest.mark.option("--live", "--p2p", "--verbose", "--change-protection", "--bandwidth")
@pytest.mark.parametrize("mode", [("--change-protection",), ("--p2p", "--verbose")], ids=" ".join)
async def test_progress_in_json_lines(two_hosts: TwoHosts, mode: tuple[str, ...]) -> None:
    """A line when it begins, progress that never exceeds all, and a line that says where the guest lives."""
    first, *between, last = await migrated(two_hosts, "--live", "--bandwidth", "64", *mode)
    assert (first["event"], last["event"]) == ("started", "migrated")
    assert first["migration_id"] == last["migration_id"]
    assert {line["event"] for line in between} == {"progress"}
    assert all(0 <= line["round"]["fraction"] <= 1 for line in between if line["round"])
    await two_hosts.lives(two_hosts.destination)


@pytest.mark.option("--suspend")
async def test_suspend(two_hosts: TwoHosts) -> None:
    """The guest stands still at the destination."""
    await migrated(two_hosts, "--live", "--suspend")
    await two_hosts.lives(two_hosts.destination, DomainState.PAUSED)


@pytest.mark.option("--dname", "--xml", "--persistent-xml")
async def test_other_definitions_and_another_name(two_hosts: TwoHosts, tmp_path: Path) -> None:
    """The guest gets --xml, the destination keeps --persistent-xml, both under the name of --dname."""
    xml = await two_hosts.source.connection.xml(NAME)
    for title in ("live", "kept"):
        (tmp_path / title).write_text(xml.replace("</name>", f"</name><title>{title}</title>"))
    files = ("--xml", str(tmp_path / "live"), "--persistent-xml", str(tmp_path / "kept"))
    await migrated(two_hosts, "--live", "--persistent", "--dname", "moved", *files)
    there = two_hosts.destination.connection
    assert "<title>live</title>" in await there.xml("moved")
    assert "<title>kept</title>" in await there.stored_xml("moved")


@pytest.mark.option("--tunnelled", "--tunneled")
@pytest.mark.parametrize("spelling", ["--tunnelled", "--tunneled"])
async def test_tunnelled(two_hosts: TwoHosts, spelling: str) -> None:
    """The guest goes through the daemons, in either spelling."""
    await migrated(two_hosts, "--live", "--p2p", spelling)
    job = await two_hosts.source.connection.newest_job(NAME)
    assert "tunnel" in job.data_channel


@pytest.mark.option("--offline")
async def test_offline(two_hosts: TwoHosts) -> None:
    """The definition moves, and no guest."""
    await two_hosts.source.connection.destroy(NAME)
    await migrated(two_hosts, "--offline", "--persistent")
    assert (await two_hosts.destination.connection.domain(NAME)).state is DomainState.SHUTOFF


@pytest.mark.option("--graphicsuri", "--rdma-pin-all", "--comp-mt-level", "--comp-mt-threads", "--comp-mt-dthreads")
@pytest.mark.parametrize(
    ("option", "why"),
    [
        (("--graphicsuri", "spice://127.0.0.1:5930"), "SPICE"),
        (("--rdma-pin-all",), "RDMA"),
        (("--comp-methods", "mt", "--comp-mt-level", "3"), "given the method mt up"),
        (("--comp-methods", "mt", "--comp-mt-threads", "2"), "given the method mt up"),
        (("--comp-methods", "mt", "--comp-mt-dthreads", "2"), "given the method mt up"),
    ],
)
async def test_what_no_daemon_can_do_is_refused_before_anything_happens(
    two_hosts: TwoHosts, option: tuple[str, ...], why: str
) -> None:
    """The reason is said, and nothing that was asked for is left out."""
    arguments = ("migrate", "--live", *option, NAME, uri(two_hosts.destination))
    code, _, complained = await ended(two_hosts.source, *arguments)
    assert code == ExitCode.REFUSED, complained
    assert why in complained
    assert "guest: at the source" in complained
    await two_hosts.lives(two_hosts.source)


# -- time limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.option("--timeout", "--timeout-suspend")
async def test_a_guest_that_never_fits_is_stopped_for_its_rest(two_hosts: TwoHosts) -> None:
    """After --timeout the guest stands still for as long as its rest takes, and then runs at the destination."""
    await restless(two_hosts)
    lines = await migrated(two_hosts, "--live", "--bandwidth", "1", "--timeout", "1", "--timeout-suspend")
    assert any("not done after 1 second: the guest stands still" in line.get("text", "") for line in lines)
    await two_hosts.lives(two_hosts.destination)


@pytest.mark.option("--timeout-abort")
async def test_a_migration_that_takes_too_long_is_ended(two_hosts: TwoHosts) -> None:
    """With --timeout-abort the guest is at the source, and the exit status says so."""
    await restless(two_hosts)
    options = ("--live", "--bandwidth", "1", "--timeout", "1", "--timeout-abort")
    code, said, complained = await ended(two_hosts.source, "migrate", *options, NAME, uri(two_hosts.destination))
    assert (code, said) == (ExitCode.FAILED, "")
    assert "guest: at the source" in complained
    await two_hosts.lives(two_hosts.source)


# -- post-copy -----------------------------------------------------------------------------------------------------------


SLOWLY = ("--live", "--postcopy", "--bandwidth", "1", "--postcopy-bandwidth", "1")


@pytest.mark.option("--postcopy", "--postcopy-after-precopy", "--postcopy-bandwidth")
async def test_post_copy_begins_when_all_memory_was_sent_once(two_hosts: TwoHosts) -> None:
    """A guest that never fits runs at the destination, without anybody's further word."""
    await restless(two_hosts, memory_mib=4)
    limits = ("--bandwidth", "4", "--postcopy-bandwidth", "1")
    lines = await migrated(two_hosts, "--live", "--postcopy", "--postcopy-after-precopy", *limits)
    done = await two_hosts.destination.connection.job(MigrationId(lines[-1]["migration_id"]))
    assert "post-copy" in {change.state for change in done.changes}
    assert "1" == done.settings["bandwidth.postcopy"]
    await two_hosts.lives(two_hosts.destination)


@pytest.mark.option("--postcopy", "--timeout-postcopy")
async def test_a_guest_that_never_fits_goes_on_to_post_copy(two_hosts: TwoHosts) -> None:
    """After --timeout the guest runs at the destination, and its pages follow."""
    await restless(two_hosts, memory_mib=4)
    lines = await migrated(two_hosts, *SLOWLY, "--timeout", "1", "--timeout-postcopy")
    assert any("not done after 1 second" in line.get("text", "") for line in lines)
    done = await two_hosts.destination.connection.job(MigrationId(lines[-1]["migration_id"]))
    assert "post-copy" in {change.state for change in done.changes}
    await two_hosts.lives(two_hosts.destination)


@pytest.mark.option("--postcopy-resume", "migrate-postcopy", "migrate-postcopy --domain", "domjobabort --postcopy")
@pytest.mark.parametrize("named", [(NAME,), ("--domain", NAME)], ids=["by place", "by name"])
async def test_post_copy_is_started_paused_and_resumed(two_hosts: TwoHosts, named: tuple[str, ...]) -> None:
    """Three commands while a fourth waits; the one that is cut off says what to do, and what it says works."""
    await patient(two_hosts)
    await restless(two_hosts)
    source = two_hosts.source
    async with program(source, "migrate", *SLOWLY, NAME, uri(two_hosts.destination)) as migrating:
        await eventually(lambda: _sends(source), 60.0, what="memory is sent")
        source.machine.faults.once(Verb.PAGES, FaultKind.HANG)
        assert ExitCode.DONE == (await ended(source, "migrate-postcopy", *named))[0]
        await eventually(lambda: source.machine.faults.hanging == 1, 60.0, what="pages follow")
        code, said, _ = await ended(source, "domjobabort", "--postcopy", NAME)
        assert (code, "--postcopy-resume" in said) == (ExitCode.DONE, True)
        _, complained = await migrating.communicate()
        assert migrating.returncode != ExitCode.DONE
        assert "--postcopy-resume" in complained.decode()
    source.machine.faults.release()
    await migrated(two_hosts, "--live", "--postcopy", "--postcopy-resume")
    await two_hosts.lives(two_hosts.destination)


async def _sends(host: Host) -> bool:
    try:
        return (await host.connection.newest_job(NAME)).statistics.memory_processed_bytes > 0
    except MigrationNotFound:
        return False


# -- interrupts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("mode", [(), ("--p2p",)], ids=["regular", "peer-to-peer"])
async def test_a_signal_ends_the_migration_also_without_a_terminal(
    two_hosts: TwoHosts, mode: tuple[str, ...], number: signal.Signals
) -> None:
    """Cron and CI can end what they have started: the guest is at the source, and the exit status says so."""
    await restless(two_hosts)
    arguments = ("migrate", "--live", "--bandwidth", "1", *mode, NAME, uri(two_hosts.destination))
    async with program(two_hosts.source, *arguments) as process:
        await heard(process, "perform")
        process.send_signal(number)
        await heard(process, "asking the source to end the migration")
        await heard(process, "guest: at the source")
        assert await process.wait() == ExitCode.FAILED
    await two_hosts.lives(two_hosts.source)


async def _hanging(hosts: TwoHosts) -> None:
    await eventually(lambda: hosts.source.machine.faults.hanging == 1)


@pytest.mark.parametrize("mode", [(), ("--p2p",)], ids=["regular", "peer-to-peer"])
async def test_two_interrupts_leave_the_migration_and_say_how_to_find_it(two_hosts: TwoHosts, mode: tuple[str, ...]) -> None:
    """What then holds is found by the command that it prints, whose exit status says how it ended."""
    await patient(two_hosts)
    two_hosts.source.machine.faults.once(Verb.ROUND, FaultKind.HANG)
    two_hosts.source.machine.faults.once(Verb.CANCEL, FaultKind.HANG)
    async with program(two_hosts.source, "migrate", "--live", *mode, NAME, uri(two_hosts.destination)) as process:
        await _hanging(two_hosts)
        process.send_signal(signal.SIGINT)
        await heard(process, "asking the source to end the migration")
        process.send_signal(signal.SIGINT)
        line = await heard(process, "what to do")
        assert await process.wait() == ExitCode.IN_DOUBT
    *_, migration_id = line.split()
    assert f"vmferry -c {uri(two_hosts.source)} job watch {migration_id}" in line
    two_hosts.source.machine.faults.clear()  # the source may not have come to the second one yet
    code, _, _ = await ended(two_hosts.source, "-o", "json", "job", "watch", migration_id)
    ended_well = (await two_hosts.source.connection.job(MigrationId(migration_id))).state == "confirmed"
    assert code == (ExitCode.DONE if ended_well else ExitCode.FAILED)
    await two_hosts.lives(two_hosts.destination if ended_well else two_hosts.source)


@pytest.mark.option("--detach")
async def test_a_detached_migration_goes_on(two_hosts: TwoHosts) -> None:
    """The program ends while the guest is on its way; `job watch` shows it to its end."""
    await patient(two_hosts)
    two_hosts.source.machine.faults.once(Verb.ROUND, FaultKind.HANG)
    arguments = ("-o", "json", "migrate", "--live", "--p2p", "--detach", NAME, uri(two_hosts.destination))
    code, said, _ = await ended(two_hosts.source, *arguments)
    assert code == ExitCode.DONE
    await _hanging(two_hosts)
    async with program(two_hosts.source, "job", "watch", json.loads(said)["migration_id"]) as watching:
        await heard(watching, "perform")
        two_hosts.source.machine.faults.release()
        assert await watching.wait() == ExitCode.DONE
    await two_hosts.lives(two_hosts.destination)


# -- exit statuses -------------------------------------------------------------------------------------------------------


async def _unreachable(hosts: TwoHosts) -> None:
    await hosts.destination.stop()


async def _fails(hosts: TwoHosts) -> None:
    hosts.source.machine.faults.once(Verb.ROUND, FaultKind.FAIL_TRANSFER)


async def _silent(hosts: TwoHosts) -> None:
    pass


@pytest.mark.parametrize(
    ("arrange", "code"), [(_silent, ExitCode.DONE), (_unreachable, ExitCode.REFUSED), (_fails, ExitCode.FAILED)]
)
async def test_exit_statuses(two_hosts: TwoHosts, arrange: Callable[[TwoHosts], Awaitable[None]], code: ExitCode) -> None:
    """Done, refused before anything happened, failed and the guest is at the source; the error is an object in JSON."""
    await arrange(two_hosts)
    status, _, complained = await ended(two_hosts.source, "-o", "json", "migrate", "--live", NAME, uri(two_hosts.destination))
    assert status == code, complained
    if code is not ExitCode.DONE:
        assert json.loads(complained.splitlines()[-1])["exit_code"] == code


# -- completion ----------------------------------------------------------------------------------------------------------


async def test_a_shell_completes_the_names_of_domains(two_hosts: TwoHosts) -> None:
    """As bash asks: of the daemon that the command line names."""
    words = f"vmferry -c {uri(two_hosts.source)} migrate {NAME[:2]}"
    environment = {"_VMFERRY_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vmferry.cli"),
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await process.communicate()
    assert (said.decode().split(), complained) == ([f"plain,{NAME}"], b"")
