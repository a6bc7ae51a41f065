"""A Docker for the tests of this folder, the image in it, and what was said, for whoever reads the build's output."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers.docker import ROOT, Compose, Docker, compose_1, compose_2, docker_missing, in_memory, private_docker
from containers.image import build

LOGS = ROOT / "build" / "containers"
VERSIONS = {"1.29": compose_1, "2": compose_2}
_written: list[Path] = []


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    """A Docker of the tests' own; a machine that cannot have one skips."""
    if reason := docker_missing():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="vmf") as folder, in_memory(Path(folder)), private_docker(Path(folder)) as made:
        yield made


@pytest.fixture(scope="session")
def build_arguments(docker: Docker) -> dict[str, str]:
    """The image is there, built with these arguments."""
    return build(docker)


@pytest.fixture
def compose(docker: Docker, build_arguments: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Compose]:
    """The hosts are up, and a guest runs on host-a; afterwards nothing of them is left. `request.param` is a version."""
    if (words := VERSIONS[request.param](docker)) is None:
        pytest.skip(f"Compose {request.param} is neither here nor to be had")
    project = Compose(docker, words, f"ferry{request.param.partition('.')[0]}")
    try:
        project("version")
        project("up", "-d")
        yield project
    finally:
        try:
            project("logs", "--no-color")
        finally:
            project("down", "-v", "-t", "5")
            _keep(project, request.node.name)
    assert [] == docker.left()


def _keep(project: Compose, name: str) -> None:
    LOGS.mkdir(parents=True, exist_ok=True)
    path = LOGS / f"{name}.log"
    path.write_text("\n".join(project.said))
    _written.append(path)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """All that Compose printed stands in the output of the run."""
    for path in _written:
        terminalreporter.section(str(path.relative_to(ROOT)))
        terminalreporter.write_line(path.read_text())
