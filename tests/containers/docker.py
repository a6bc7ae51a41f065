"""A Docker for the tests: its daemon, images, networks and containers belong to one folder and end with it.

Nothing of the machine is changed: no bridge, no rule of its firewall, no forwarding. Containers on one network see each
other all the same; an image is built on the machine's own network.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support.packages import PackageUnavailable, suite_configuration, unpacked
from support.tools import missing_tools
from support.waiting import eventually

ROOT = Path(__file__).parents[2]
START_S = 60.0
END_S = 60.0
COMMAND_S = 120.0
BUILD_S = 800.0
_PLENTY_BYTES = 12 << 30
_COMPOSE_2_SUITE = "trixie"
_PLUGIN = "cli-plugins/docker-compose"


def docker_missing() -> str:
    """Why no Docker daemon can be started here; empty when one can."""
    if os.geteuid():
        return "a Docker daemon of one's own needs root"
    return missing_tools(
        {"dockerd": "docker.io", "docker": "docker.io", "iptables": "iptables", "debootstrap": "debootstrap"}
    )


@dataclass(frozen=True, slots=True)
class Docker:
    """A daemon that runs, and the client that is connected to it."""

    directory: Path

    @property
    def environment(self) -> dict[str, str]:
        """What the client must be told."""
        return {
            **os.environ,
            "DOCKER_HOST": f"unix://{self.directory}/docker.sock",
            "DOCKER_CONFIG": str(self.directory / "config"),
            "DOCKER_BUILDKIT": "0",  # the builder that every Docker has; BuildKit's client is a package of its own
        }

    def __call__(self, *words: str, timeout_s: float = COMMAND_S) -> str:
        """What `docker` with these words printed."""
        return self.ran(("docker", *words), timeout_s)

    def ran(self, words: Sequence[str], timeout_s: float = COMMAND_S) -> str:
        """What a command that uses this Docker printed, on both of its outputs."""
        done = subprocess.run(
            words, **self._started_as(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout_s, check=False
        )
        assert done.returncode == 0, f"{words[:6]} ended with {done.returncode}:\n{done.stdout[-6000:]}"
        return str(done.stdout)

    def begun(self, words: Sequence[str]) -> subprocess.Popen[str]:
        """Such a command, under way; what it prints can be read."""
        return subprocess.Popen(words, **self._started_as(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def _started_as(self) -> dict[str, object]:
        return {"cwd": ROOT, "env": self.environment, "stdin": subprocess.DEVNULL, "text": True}

    def left(self) -> list[str]:
        """Every container, network and volume that there is, but for those that Docker always has."""
        kinds = (("ps", "-aq"), ("network", "ls", "-q", "--filter", "type=custom"), ("volume", "ls", "-q"))
        return [one for kind in kinds for one in self(*kind).split()]


@contextmanager
def in_memory(directory: Path) -> Iterator[None]:
    """What is written there meanwhile is kept in memory, where there is plenty; then it costs no disk, and ends at once."""
    if _available_bytes() < _PLENTY_BYTES:
        yield
        return
    subprocess.run(("mount", "-t", "tmpfs", "-o", f"size={_PLENTY_BYTES // 2},mode=755", "vmferry", directory), check=True)
    try:
        yield
    finally:
        subprocess.run(("umount", directory), check=True)


def _available_bytes() -> int:
    named = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(named["MemAvailable"].split()[0]) << 10


@contextmanager
def private_docker(directory: Path) -> Iterator[Docker]:
    """A Docker whose daemon answers; afterwards no process of it is left."""
    (directory / _PLUGIN).parent.mkdir(parents=True)
    docker = Docker(directory)
    with (directory / "log").open("w") as log:
        daemon = subprocess.Popen(_daemon(directory), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:

        def answers() -> bool:
            assert daemon.poll() is None, (directory / "log").read_text()[-3000:]
            return (
                subprocess.run(("docker", "info"), env=docker.environment, capture_output=True, check=False).returncode == 0
            )

        asyncio.run(eventually(answers, START_S))
        yield docker
    finally:
        daemon.terminate()
        try:
            daemon.wait(END_S)
        finally:
            daemon.kill()
            for place in _mounted(directory):
                subprocess.run(("umount", place), check=False)
    asyncio.run(eventually(lambda: not _processes(directory), END_S))


def _daemon(directory: Path) -> Sequence[str]:
    untouched = ("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none")
    places = (f"--data-root={directory}/data", f"--exec-root={directory}/exec", f"--pidfile={directory}/pid")
    return ("dockerd", f"--host=unix://{directory}/docker.sock", *places, *untouched)


def _mounted(directory: Path) -> list[str]:
    """What is mounted in that folder, the innermost first; a daemon leaves a network namespace behind."""
    places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return sorted((place for place in places if place.startswith(f"{directory}/")), reverse=True)


def _processes(directory: Path) -> list[str]:
    """The processes whose command lines name that folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes()
        except OSError:
            continue
        if str(directory).encode() in line:
            found.append(f"{entry.parent.name}: {line.decode(errors='replace')}")
    return found


@dataclass(slots=True)
class Compose:
    """One version of Compose, and a project of docker-compose.yml with it; `said` is all that it printed."""

    docker: Docker
    words: Sequence[str]
    project: str
    said: list[str] = field(default_factory=list)

    def command(self, *words: str) -> list[str]:
        """The whole command line."""
        return [*self.words, "-p", self.project, *words]

    def __call__(self, *words: str, timeout_s: float = COMMAND_S) -> str:
        """What Compose with these words printed."""
        text = self.docker.ran(self.command(*words), timeout_s)
        self.said += [f"$ {' '.join((*self.words, *words))}", text]
        return text

    def client(self, *words: str) -> str:
        """What `vmferry` with these words printed."""
        return self("run", "--rm", "-T", "client", *words)

    def container(self, service: str) -> str:
        """The container of that service."""
        return self.docker.ran(self.command("ps", "-q", service)).strip()

    @property
    def network(self) -> str:
        """The network of the hosts."""
        return f"{self.project}_default"


def compose_1(docker: Docker) -> Sequence[str] | None:
    """The command of Compose 1, or None."""
    version = _version(docker, ("docker-compose", "version", "--short"))
    return ("docker-compose",) if version.startswith("1.") else None


def compose_2(docker: Docker) -> Sequence[str] | None:
    """The command of Compose 2: what is here, else what a newer release of the distribution has; or None."""
    words = ("docker", "compose")
    if _version(docker, (*words, "version", "--short")):
        return words
    try:
        (place := docker.directory / "compose").mkdir()
        tree = unpacked(["docker-compose"], place / "tree", suite_configuration(place, _COMPOSE_2_SUITE))
    except PackageUnavailable:
        return None
    (docker.directory / "config" / _PLUGIN).parent.mkdir(parents=True, exist_ok=True)
    (docker.directory / "config" / _PLUGIN).symlink_to(tree / "usr/libexec/docker" / _PLUGIN)
    return words if _version(docker, (*words, "version", "--short")) else None


def _version(docker: Docker, words: Sequence[str]) -> str:
    try:
        done = subprocess.run(words, env=docker.environment, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
