"""The commands that tune migrations: what they ask the daemon, and what they print."""

import json

import pytest
from cli_fakes import Hosts

from vmferry.cli.exits import ExitCode


@pytest.mark.option(
    "migrate-setmaxdowntime",
    "migrate-getmaxdowntime",
    "migrate-setspeed",
    "migrate-setspeed --postcopy",
    "migrate-getspeed",
    "migrate-getspeed --postcopy",
    "migrate-compcache",
    "migrate-compcache --size",
)
@pytest.mark.parametrize(
    ("arguments", "calls", "says"),
    [
        (["migrate-setmaxdowntime", "web", "500"], ["set_max_downtime web 500"], ""),
        (["migrate-getmaxdowntime", "web"], ["max_downtime_ms web"], "300\n"),
        (["migrate-setspeed", "web", "7"], ["set_max_speed web 7"], ""),
        (["migrate-setspeed", "web", "7", "--postcopy"], ["set_max_postcopy_speed web 7"], ""),
        (["migrate-getspeed", "web"], ["max_speed_mib_per_s web"], "8796093022207\n"),
        (["migrate-getspeed", "web", "--postcopy"], ["max_postcopy_speed_mib_per_s web"], "5\n"),
        (["migrate-compcache", "web"], ["compression_cache_bytes web"], "Compression cache: 64.000 MiB\n"),
        (
            ["migrate-compcache", "web", "--size", "4096"],
            ["set_compression_cache web 4096", "compression_cache_bytes web"],
            "Compression cache: 64.000 MiB\n",
        ),
        (
            ["migrate-tune", "web", "--auto-converge-increment", "30"],
            ["tune_migration web auto_converge_increment_percent=30"],
            """Longest pause:            300 ms
Sent at most:             7 MiB/s
In post-copy at most:     unlimited
Rest is sent at:          what is measured
If it is slowed down:     by 20 % at first, then by 30 % more
Compression cache:        64.000 MiB
""",
        ),
    ],
)
def test_tuning(arguments, calls, says):
    """Setting prints nothing, getting prints the number, as virsh does."""
    hosts = Hosts()
    result = hosts.run(*arguments)
    assert (result.exit_code, result.stdout) == (ExitCode.DONE, says)
    assert hosts.source.calls == calls


@pytest.mark.parametrize(
    ("command", "key"),
    [
        ("migrate-getmaxdowntime", "max_downtime_ms"),
        ("migrate-getspeed", "max_speed_mib_per_s"),
        ("migrate-compcache", "compression_cache_bytes"),
        ("migrate-tune", "auto_converge_initial_percent"),
    ],
)
def test_tuning_as_json(command, key):
    """For programs, the number has its name and unit."""
    assert json.loads(Hosts().run("-o", "json", command, "web").stdout)[key] > 0


@pytest.mark.parametrize("arguments", [["migrate-setmaxdowntime", "web", "0"], ["migrate-compcache", "web", "--size", "0"]])
def test_impossible_values_are_wrong_usage(arguments):
    """What can never be a value does not reach the daemon."""
    hosts = Hosts()
    assert hosts.run(*arguments).exit_code == ExitCode.OTHER
    assert hosts.source.calls == []
