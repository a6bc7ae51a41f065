"""For all tests: `support` and `contract` can be imported, and a skip is a failure where that is asked for."""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, settings

from support.tools import FORBID_SKIP, skipping_forbidden

pytest.register_assert_rewrite("crash.play")

settings.register_profile("vmferry", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("vmferry")
"""A busy machine is no finding."""


def pytest_configure() -> None:
    """A run that is ended by SIGTERM ends as by Ctrl-C: its daemons, guests and networks end with it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """What the tests of `crash` are told."""
    parser.addoption("--failures", metavar="FILE", help="where the tests of failures write what they saw")
    parser.addoption("--failure", metavar="REGEX", help="run only the cells of the table of failures with such a name")
    parser.addoption("--every-failure", action="store_true", help="run every cell of the table of failures")
    parser.addoption(
        "--missing-failures", action="store_true", help="run the cells that the file of --failures does not have"
    )


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run with skipped tests fails where skipping is forbidden."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = len(reporter.stats.get("skipped", [])) if reporter else 0
    if skipped and skipping_forbidden() and exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"\n{skipped} skipped, and {FORBID_SKIP} is set", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
