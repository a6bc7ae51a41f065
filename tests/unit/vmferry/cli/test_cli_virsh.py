"""The command line of somebody who knows virsh: the same names, the same places, and tests for each."""

import json

import click
import pytest
from cli_fakes import DESTINATION, SOURCE, Hosts

from support import virsh
from vmferry.cli.__main__ import main
from vmferry.cli.exits import ExitCode
from vmferry.flags import Flag


def test_every_option_is_exercised_or_awaited():
    """No row of docs/virsh.md is empty but those that are awaited, and none is awaited that is there."""
    empty = {row for row in virsh.wanted() if row not in virsh.exercised()}
    assert empty == virsh.AWAITED, "a row that a test fills is taken from support.virsh.AWAITED"


def test_no_test_exercises_what_virsh_does_not_have():
    """A mark with a slip of the pen would fill no row."""
    own = {f"--{name}" for name in ("timeout-abort", "detach", "max-downtime", "fixed-downtime")}
    assert set(virsh.exercised()) - set(virsh.wanted()) - own == set()


@pytest.mark.parametrize("option", [option for option in virsh.MIGRATE if option not in virsh.AWAITED])
def test_every_option_of_virsh_migrate_is_there(option):
    """Under the same name."""
    assert option in virsh.spellings(virsh.command("migrate"))


@pytest.mark.parametrize(
    ("name", "option"),
    [
        (name, option)
        for name, options in virsh.SIBLINGS.items()
        for option in options
        if f"{name} {option}" not in virsh.AWAITED
    ],
)
def test_every_sibling_is_there(name, option):
    """With the same options."""
    assert option in virsh.spellings(virsh.command(name))


# -- places --------------------------------------------------------------------------------------------------------------

PLACED = (SOURCE, "tcp:10.0.0.2", "vnc://10.0.0.3", "10.0.0.2", "moved")


def asked(hosts, *arguments):
    """What Prepare was asked for."""
    result = hosts.run("migrate", *arguments)
    assert result.exit_code == 0, result.output
    params = hosts.destination.requests["prepare"].params
    return params.migrate_uri, params.graphics_uri, params.listen_address, params.destination_name


@pytest.mark.option("--domain", "--desturi", "--migrateuri", "--listen-address", "--dname")
@pytest.mark.parametrize(
    "arguments",
    [
        ("web", DESTINATION, *PLACED[1:]),
        ("--live", "web", DESTINATION, *PLACED[1:], "--verbose"),
        ("--domain", "web", "--desturi", DESTINATION, *PLACED[1:]),
        ("--desturi", DESTINATION, "web", *PLACED[1:]),
        (DESTINATION, *PLACED[1:], "--domain=web"),
        ("web", DESTINATION, "--graphicsuri", PLACED[2], PLACED[1], *PLACED[3:]),
        ("web", DESTINATION, "--dname", "moved", *PLACED[1:4]),
    ],
    ids=lambda arguments: " ".join(arguments)[:40],
)
def test_a_word_goes_to_the_first_place_that_was_not_named(arguments):
    """In virsh's order: domain, desturi, migrateuri, graphicsuri, listen-address, dname."""
    hosts = Hosts()
    assert asked(hosts, *arguments) == PLACED[1:]
    assert hosts.source.requests["begin"].domain == "web"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "Missing argument 'NAME'"),
        (("web",), "say where the destination's daemon is"),
        (("web", DESTINATION, *PLACED[1:], "more"), "unexpected extra argument"),
        (("web", "--desturi"), "'--desturi' requires an argument"),
        (("web", DESTINATION, "--none-of-these"), "No such option"),
    ],
)
def test_wrong_words_start_nothing(arguments, says):
    """A message on standard error, exit 1, and no daemon was asked."""
    hosts = Hosts()
    result = hosts.run("migrate", *arguments)
    assert (result.exit_code, result.stdout) == (ExitCode.OTHER, "")
    assert says in result.stderr
    assert hosts.source.calls == []


@pytest.mark.option(
    "migrate-setmaxdowntime --domain",
    "migrate-getmaxdowntime --domain",
    "migrate-setspeed --domain",
    "migrate-getspeed --domain",
    "migrate-compcache --domain",
    "domjobinfo --domain",
    "domjobabort --domain",
    "migrate-setmaxdowntime --downtime",
    "migrate-setspeed --bandwidth",
)
@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        (("migrate-setmaxdowntime", "--downtime", "40", "--domain", "web"), "set_max_downtime web 40"),
        (("migrate-setmaxdowntime", "--downtime", "40", "web"), "set_max_downtime web 40"),
        (("migrate-getmaxdowntime", "--domain", "web"), "max_downtime_ms web"),
        (("migrate-setspeed", "web", "--bandwidth", "7"), "set_max_speed web 7"),
        (("migrate-getspeed", "--domain=web"), "max_speed_mib_per_s web"),
        (("migrate-compcache", "--domain", "web"), "compression_cache_bytes web"),
        (("domjobinfo", "--domain", "web"), "job_stats web"),
        (("domjobabort", "--domain", "web"), "newest_job web"),
    ],
)
def test_siblings_take_their_arguments_by_name(arguments, call):
    """As scripts for virsh write them."""
    hosts = Hosts()
    hosts.run(*arguments)
    assert call in hosts.source.calls


@pytest.mark.parametrize("arguments", [("migrate-setmaxdowntime", "web", "0"), ("migrate-setspeed", "web", "--bandwidth=x")])
def test_named_values_are_checked(arguments):
    """As those without a name."""
    result = Hosts().run(*arguments)
    assert result.exit_code == ExitCode.OTHER
    assert "Invalid value" in result.stderr


# -- time limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.option("--timeout", "--timeout-suspend")
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--timeout", "0", "--live"), "Invalid value for '--timeout'"),
        (("--timeout", "5"), "--timeout needs --live"),
        (("--timeout-suspend", "--live"), "--timeout-suspend needs --timeout"),
        (("--timeout-abort", "--live"), "--timeout-abort needs --timeout"),
        (("--timeout", "5", "--timeout-suspend", "--timeout-abort", "--live"), "exclude each other"),
        (("--timeout", "5", "--timeout-suspend", "--timeout-postcopy", "--live"), "exclude each other"),
        (("--timeout", "5", "--timeout-postcopy", "--live"), "--timeout-postcopy needs --postcopy"),
        (("--timeout", "5", "--detach", "--p2p", "--live"), "--timeout and --detach exclude each other"),
    ],
)
def test_what_a_time_limit_needs(options, says):
    """Each constraint in a sentence, and nothing is started."""
    hosts = Hosts()
    result = hosts.run("migrate", *options, "web", DESTINATION)
    assert result.exit_code == ExitCode.OTHER
    assert says in result.stderr
    assert hosts.source.calls == []


# -- JSON ----------------------------------------------------------------------------------------------------------------

ANSWERED = {
    "migrate": ("web", DESTINATION),
    "define": ("-",),
    "where": ("web",),
    "receiver": ("--incoming", "tcp:127.0.0.1:1", "web"),
    "migrate-setspeed": ("web", "7"),
    "migrate-setmaxdowntime": ("web", "7"),
    "job watch": ("web",),
}
"""The arguments of commands that take others than a domain's name."""

WITHOUT_DAEMONS = ("pki", "resolve", "where", "completion", "check", "report")
"""Groups and commands whose JSON is tested where they are."""


def leaves(group=main, path=()):
    """Every command, as the words that call it."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("path", [path for path in leaves() if path[0] not in WITHOUT_DAEMONS], ids=" ".join)
def test_every_command_answers_in_json(path):
    """Each line of its answer is an object or a list of them; nothing else is on standard output."""
    hosts = Hosts()
    command = main.get_command(click.Context(main), path[0])
    for name in path[1:]:
        command = command.get_command(click.Context(command), name)
    takes_name = any(isinstance(each, click.Argument) for each in command.params)
    arguments = ANSWERED.get(" ".join(path), ("web",) if takes_name else ())
    result = hosts.run("-o", "json", *path, *arguments, given="<domain/>")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert all(isinstance(json.loads(line), dict | list) for line in lines)
    assert lines or path[0] == "events"


# -- detached ------------------------------------------------------------------------------------------------------------


@pytest.mark.option("--detach")
def test_a_detached_migration_says_how_to_follow_it():
    """The source goes on with it; this program ends as soon as it is recorded."""
    hosts = Hosts()
    hosts.source.holds_perform = True
    result = hosts.run("-o", "json", "migrate", "--live", "--p2p", "--detach", "web", DESTINATION)
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["event"] == "detached"
    assert said["watch"] == f"vmferry -c {SOURCE} job watch {said['migration_id']}"
    assert hosts.source.requests["perform"].flags == Flag.LIVE | Flag.PEER2PEER


@pytest.mark.option("--detach")
def test_who_leads_the_migration_cannot_detach():
    """Without --p2p this program is the coordinator: it says so, and what to do."""
    hosts = Hosts()
    result = hosts.run("migrate", "--live", "--detach", "web", DESTINATION)
    assert result.exit_code == ExitCode.OTHER
    assert "--detach needs --p2p" in result.stderr
    assert hosts.source.calls == []


@pytest.mark.option("--detach")
def test_a_detached_migration_that_is_refused_says_so():
    """What goes wrong before it is under way is this program's to tell."""
    hosts = Hosts()
    hosts.source.known.clear()

    async def perform(request, listener):
        hosts.source._domain(request.domain)

    hosts.source.perform = perform
    result = hosts.run("migrate", "--live", "--p2p", "--detach", "web", DESTINATION)
    assert result.exit_code == ExitCode.REFUSED
    assert "no domain" in result.stderr
