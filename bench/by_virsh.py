"""The same guest, moved by `virsh migrate` between two libvirtd of this machine, where they are installed.

Each libvirtd has a mount namespace in which libvirt's folders are its own, and listens on loopback. Nothing of an installed
libvirt is touched.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.by_hand import BEATS
from bench.guests import GuestKind, Move, Way
from bench.ordering import ordered, said
from support.ports import free_port
from support.traveller import NAME, READY_S, Traveller
from support.waiting import eventually

ANSWERS_S = 60.0
FOLDERS = {
    "run": "/run/libvirt",
    "lib": "/var/lib/libvirt",
    "cache": "/var/cache/libvirt",
    "log": "/var/log/libvirt",
    "etc": "/etc/libvirt",
}
UNLIMITED_MIB_PER_S = 1 << 20

_TOTAL_MS = re.compile(r'"total-time":\s*([1-9][0-9]*)')  # right after the end QEMU may still say 0
_TRANSFERRED = re.compile(r'"ram":\s*\{[^}]*"transferred":\s*([0-9]+)')
_QEMU = """
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
dynamic_ownership = 0
remember_owner = 0
"""


def is_possible() -> bool:
    """Both programs are installed, and whoever measures may make mount namespaces."""
    return os.geteuid() == 0 and all(shutil.which(name) for name in ("virsh", "libvirtd", "unshare"))


class LibvirtdEnded(Exception):
    """It does not start here, for example without its user; the message has the end of its log."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """One libvirtd. `log` has what its QEMUs said."""

    uri: str
    log: Path
    process: asyncio.subprocess.Process

    async def virsh(self, *words: str) -> str:
        """What `virsh` with these words printed."""
        return await said("virsh", "-q", "-c", self.uri, *words)


@dataclass(frozen=True, slots=True)
class Pair:
    """Source and destination."""

    source: Daemon
    destination: Daemon

    async def move(self, kind: GuestKind, way: Way, traveller: Traveller, number: int) -> Move:
        """A fresh guest has moved once, with libvirt's own limits of pause and bandwidth; it is gone afterwards."""
        await self._start(traveller)
        definition = traveller.directory / "definition.xml"
        definition.write_text(
            await traveller.definition_of_next_stay(await self.source.virsh("dumpxml", "--migratable", NAME))
        )
        words = ["migrate", "--live", NAME, self.destination.uri, "--xml", str(definition), "--verbose"]
        words += ["--bandwidth", str(UNLIMITED_MIB_PER_S)]
        words += ["--p2p", "--tunnelled"] if way.is_tunnelled else ["--migrateuri", f"tcp://127.0.0.1:{free_port()}"]
        order = await ordered(
            [self.source.process.pid, self.destination.process.pid], "virsh", "-q", "-c", self.source.uri, *words
        )
        await traveller.heard(BEATS)
        await self.destination.virsh("destroy", NAME)
        said = self.source.log.read_text(errors="replace")
        judgement = traveller.judgement()
        return Move(
            guest=kind.name,
            way=way,
            round=number,
            wall_ms=order.wall_ms,
            total_ms=float(_TOTAL_MS.findall(said)[-1]),
            pause_ms=judgement.hand_overs[0].pause_ms,
            transferred_bytes=int(_TRANSFERRED.findall(said)[-1]),
            source_cpu_s=order.source_cpu_s,
            destination_cpu_s=order.destination_cpu_s,
            client_cpu_s=order.client_cpu_s,
            load=order.load,
            faults=judgement.faults(),
        )

    async def _start(self, traveller: Traveller) -> None:
        """It runs at the source, and beats."""
        definition = traveller.directory / "first.xml"
        definition.write_text(await traveller.first_definition())
        await self.source.virsh("create", str(definition))
        await traveller.recorders[-1].wait_until_ready(READY_S)
        await traveller.heard(BEATS)


@asynccontextmanager
async def pair(directory: Path) -> AsyncIterator[Pair]:
    """Two libvirtd, which end with this.

    Raises:
        LibvirtdEnded: one does not start.
    """
    async with AsyncExitStack() as stack:
        source, destination = [await stack.enter_async_context(_daemon(directory / name)) for name in "ab"]
        yield Pair(source, destination)


@asynccontextmanager
async def _daemon(directory: Path) -> AsyncIterator[Daemon]:
    for folder in (*FOLDERS, "etc/qemu"):
        (directory / folder).mkdir(parents=True)
    port = free_port()
    (directory / "etc/qemu.conf").write_text(_QEMU)
    log = directory / "log/libvirtd.log"
    settings = {
        "listen_tls": 0,
        "listen_tcp": 1,
        "tcp_port": f'"{port}"',
        "listen_addr": '"127.0.0.1"',
        "auth_tcp": '"none"',
        "auth_unix_rw": '"none"',
        "host_uuid": f'"{uuid.uuid4()}"',
        "log_filters": '"1:qemu.qemu_monitor_json"',
        "log_outputs": f'"1:file:{log}"',
    }
    (directory / "etc/libvirtd.conf").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
    binds = [f"mkdir -p {there} && mount --bind {directory / here} {there}" for here, there in FOLDERS.items()]
    start = f"libvirtd --listen -f {directory}/etc/libvirtd.conf -p {directory}/run/pid"
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", "; ".join([*binds, f"exec {start}"])]
    null = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdin=null, stdout=null, stderr=null)
    daemon = Daemon(f"qemu+tcp://127.0.0.1:{port}/system", log, process)
    try:
        await eventually(lambda: _answers(daemon), ANSWERS_S, what="libvirtd answers")
        yield daemon
    finally:
        if process.returncode is None:
            with suppress(RuntimeError):  # there is no guest any more
                await daemon.virsh("destroy", NAME)
            process.terminate()
        await process.wait()


async def _answers(daemon: Daemon) -> bool:
    if daemon.process.returncode is not None:
        raise LibvirtdEnded(daemon.log.read_text()[-500:] if daemon.log.exists() else "it has logged nothing")
    try:
        await daemon.virsh("version")
    except RuntimeError:
        return False
    return True
