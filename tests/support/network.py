"""Three machines that know each other by cables alone: network namespaces, and a switch for each pair that a test can cut.

::

    client ──┐ switch ┌── first            first ──┐ switch ┌── second            client ──┐ switch ┌── second
             └────────┘                            └────────┘                              └────────┘

The switches stand in a namespace of their own. A cut is made there: a machine sees at most that its cable is dead, its
routes stay, and no RST or FIN is told to anybody. A cut of one direction is a port that lets nothing out, which
no machine sees at all. Needs root, iproute2 and the kernel's veth, bridge and pfifo.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from pathlib import Path

from support.tools import missing_tools

CLIENT, FIRST, SECOND = "client", "first", "second"
MACHINES = (CLIENT, FIRST, SECOND)
_PREFIX = "vmfnet"
_NAMESPACES = Path("/run/netns")


class Direction(StrEnum):
    """What a cut keeps from passing; `FORTH` is from a link's first machine to its second."""

    BOTH = "both"
    FORTH = "forth"
    BACK = "back"


class NetworkUnavailable(Exception):
    """This machine cannot make namespaces and cables; the message says why."""


@dataclass(frozen=True, slots=True)
class Link:
    """The cable between two machines. `number` makes its addresses and names."""

    number: int
    ends: tuple[str, str]

    def address(self, machine: str) -> str:
        """Where `machine` is reached by the other one."""
        return f"10.231.{self.number}.{self.ends.index(machine) + 1}"


class Network:
    """Machines and cables that exist. Made by `network`."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self.links = tuple(Link(number, ends) for number, ends in enumerate(combinations(MACHINES, 2), 1))

    def link(self, one: str, other: str) -> Link:
        """The cable between two machines."""
        return next(link for link in self.links if set(link.ends) == {one, other})

    def address(self, machine: str, seen_from: str) -> str:
        """Where `machine` is reached from another one."""
        return self.link(machine, seen_from).address(machine)

    def inside(self, machine: str) -> tuple[str, ...]:
        """What stands before a command line that is to run on `machine`."""
        return ("nsenter", f"--net={_NAMESPACES / self._namespace(machine)}")

    def cut(self, one: str, other: str, direction: Direction = Direction.BOTH) -> None:
        """Nothing passes from `one` to `other` (FORTH), the other way (BACK), or at all (BOTH: the cables are dead)."""
        link = self.link(one, other)
        if direction is Direction.BOTH:
            for machine in link.ends:
                self._on_switch("ip", "link", "set", "dev", self._port(link, machine), "down")
        else:
            reached = other if direction is Direction.FORTH else one
            self._on_switch("tc", "qdisc", "replace", "dev", self._port(link, reached), "root", "pfifo", "limit", "0")

    def restore(self, one: str, other: str) -> None:
        """Everything passes again between two machines."""
        link = self.link(one, other)
        for machine in link.ends:
            port = self._port(link, machine)
            self._on_switch("ip", "link", "set", "dev", port, "up")
            self._on_switch("tc", "qdisc", "replace", "dev", port, "root", "pfifo", "limit", "1000")

    def listening(self, machine: str) -> set[int]:
        """The TCP ports on which somebody listens on `machine`."""
        said = _run(*self.inside(machine), "ss", "--no-header", "--listening", "--tcp", "--numeric")
        return {int(line.split()[3].rpartition(":")[2]) for line in said.splitlines()}

    def connected(self, machine: str) -> list[str]:
        """The TCP connections of `machine` that are open, each with the processes that hold it."""
        said = _run(*self.inside(machine), "ss", "--no-header", "--tcp", "--numeric", "--processes", "state", "established")
        return said.splitlines()

    # -- making and removing -----------------------------------------------------------------------------------------

    def _make(self) -> None:
        for machine in (*MACHINES, "switch"):
            _run("ip", "netns", "add", self._namespace(machine))
            _run("ip", "-n", self._namespace(machine), "link", "set", "dev", "lo", "up")
        for link in self.links:
            self._make_link(link)

    def _make_link(self, link: Link) -> None:
        switch = f"switch{link.number}"
        self._on_switch("ip", "link", "add", "name", switch, "type", "bridge")
        self._on_switch("ip", "link", "set", "dev", switch, "up")
        for machine in link.ends:
            port, inside = self._port(link, machine), ("ip", "-n", self._namespace(machine))
            cable, peer = f"cable{link.number}", ("peer", "name", port, "netns", self._namespace("switch"))
            _run(*inside, "link", "add", "name", cable, "type", "veth", *peer)
            self._on_switch("ip", "link", "set", "dev", port, "master", switch, "up")
            _run(*inside, "address", "add", f"{link.address(machine)}/24", "dev", cable)
            _run(*inside, "link", "set", "dev", cable, "up")

    def _remove(self) -> None:
        for machine in (*MACHINES, "switch"):
            if (_NAMESPACES / self._namespace(machine)).exists():
                _run("ip", "netns", "delete", self._namespace(machine))

    def _namespace(self, machine: str) -> str:
        return f"{self._mark}{machine}"

    @staticmethod
    def _port(link: Link, machine: str) -> str:
        return f"port{link.number}{machine}"

    def _on_switch(self, program: str, *arguments: str) -> None:
        _run(program, "-n", self._namespace("switch"), *arguments)


@contextmanager
def network() -> Iterator[Network]:
    """Machines that reach each other; afterwards none is left. What a killed test run left behind is removed first.

    Raises:
        NetworkUnavailable: not here.
    """
    if reason := network_missing():
        raise NetworkUnavailable(reason)
    _remove_orphans()
    made = Network(f"{_PREFIX}{os.getpid()}-")
    try:
        try:
            made._make()
        except subprocess.CalledProcessError as error:
            raise NetworkUnavailable(f"no network of namespaces can be made here: {error.stderr.strip()}") from error
        yield made
    finally:
        made._remove()


def network_missing() -> str:
    """Why no network of namespaces can be made here; empty when nothing is known."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    return missing_tools({"ip": "iproute2", "tc": "iproute2", "ss": "iproute2", "nsenter": "util-linux"})


def namespaces_left() -> list[str]:
    """The namespaces that a run of this process has made and not removed."""
    return [path.name for path in _made() if path.name.startswith(f"{_PREFIX}{os.getpid()}-")]


def _remove_orphans() -> None:
    """No namespace of a test run that was killed is left, and no process in it."""
    for path in _made():
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        if not Path("/proc", pid).exists():
            for orphan in _run("ip", "netns", "pids", path.name).split():
                os.kill(int(orphan), signal.SIGKILL)
            _run("ip", "netns", "delete", path.name)


def _made() -> list[Path]:
    return list(_NAMESPACES.glob(f"{_PREFIX}*")) if _NAMESPACES.exists() else []


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
