"""What one QEMU program can do, asked of itself once and remembered until the file changes."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vmferry.errors import DriverLost, DriverRefused
from vmferry.pki import CA_CERTIFICATE
from vmferryd.clock import Clock
from vmferryd.drivers.base import DriverCapabilities, DriverFeature
from vmferryd.drivers.qemu.arguments import spell
from vmferryd.drivers.qemu.config import QemuConfig
from vmferryd.drivers.qemu.monitor import Monitor
from vmferryd.drivers.qemu.parallel import METHODS
from vmferryd.drivers.qemu.process import QemuProcess

KVM_DEVICE = Path("/dev/kvm")
MONITOR_NAME = "monitor"

_PAGES_ON_DEMAND = "postcopy-ram"
_DIRTY_SYNC_INDEPENDENT_BEFORE = (8, 0, 0)


@dataclass(frozen=True, slots=True)
class CpuAbilities:
    """What guests can be given of a CPU, by one accelerator on this host.

    Attributes:
        models: every CPU model that QEMU knows, and the features of each that are not to be had here.
        features: every feature that QEMU knows, under all its spellings, and whether it is to be had here.
    """

    models: Mapping[str, frozenset[str]]
    features: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class QemuCapabilities:
    """One QEMU program's answers.

    Attributes:
        version_text: with the packager's words, as QEMU prints it.
        machines: every machine type that it knows, aliases included, and the versioned name of each.
        maximum_vcpus: by versioned machine name.
        migration: names of the migration capabilities.
        parallel_methods: how it can compress parallel connections.
        encrypts: it was built with TLS.
        has_kvm: it was built with KVM; that this host's KVM is of any use is not said.
        pages_on_demand: it may fetch pages when they are touched, which is userfaultfd's permission.
        cpus: by accelerator, `tcg` or `kvm`; one that does not work here is left out.
    """

    emulator: Path
    version: tuple[int, int, int]
    version_text: str
    machines: Mapping[str, str]
    maximum_vcpus: Mapping[str, int]
    migration: frozenset[str]
    has_kvm: bool
    has_sandbox: bool
    pages_on_demand: bool = False
    parallel_methods: frozenset[str] = frozenset()
    encrypts: bool = False
    cpus: Mapping[str, CpuAbilities] = field(default_factory=dict)

    @property
    def holds_by_acknowledgement(self) -> bool:
        """A running guest is not switched over as long as the destination does not acknowledge (QEMU 8.1)."""
        return "switchover-ack" in self.migration

    @property
    def holds_by_bitmap(self) -> bool:
        """A running guest is not switched over as long as a dirty bitmap's size is above the threshold.

        From 8.0 on QEMU would not look for dirty memory either while it waits so; before, it does.
        """
        return "dirty-bitmaps" in self.migration and self.version < _DIRTY_SYNC_INDEPENDENT_BEFORE

    def general(self, name: str) -> DriverCapabilities:
        """The same in the words of all drivers."""
        found = {
            DriverFeature.LIVE: self.holds_by_acknowledgement or self.holds_by_bitmap,
            DriverFeature.AUTO_CONVERGE: "auto-converge" in self.migration,
            DriverFeature.XBZRLE: "xbzrle" in self.migration,
            DriverFeature.RETURN_PATH: "return-path" in self.migration,
            DriverFeature.DROPS_CACHES: self.version >= (3, 0, 0),
            DriverFeature.ACPI_SHUTDOWN: True,
            DriverFeature.BARE_RECEIVER: True,
            DriverFeature.POSTCOPY: "postcopy-ram" in self.migration,
            DriverFeature.PARALLEL: "multifd" in self.migration,
            DriverFeature.PARALLEL_ZLIB: "zlib" in self.parallel_methods,
            DriverFeature.PARALLEL_ZSTD: "zstd" in self.parallel_methods,
            DriverFeature.TLS: self.encrypts,
            DriverFeature.PAGES_ON_DEMAND: self.pages_on_demand,
            DriverFeature.COPIES_DISKS: self.version >= (5, 2, 0),
        }
        return DriverCapabilities(
            name=name,
            version=self.version_text,
            domain_types=frozenset({"qemu", "kvm"} if self.has_kvm and kvm_is_accessible() else {"qemu"}),
            features=frozenset(feature for feature, present in found.items() if present),
            machines=frozenset(self.machines),
        )


def kvm_is_accessible() -> bool:
    """Whether this process may open the KVM device."""
    return os.access(KVM_DEVICE, os.R_OK | os.W_OK)


def read_answers(emulator: Path, answers: Mapping[str, Any], by_kvm: Mapping[str, Any] | None = None) -> QemuCapabilities:
    """QEMU's capabilities from its answers, by the name of the command; `by_kvm` are those about CPUs when KVM is used."""
    version, machines = answers["query-version"], answers["query-machines"]
    numbers = version["qemu"]
    names = {machine["name"]: machine["name"] for machine in machines}
    aliases = {machine["alias"]: machine["name"] for machine in machines if "alias" in machine}
    options = {option["option"] for option in answers["query-command-line-options"]}
    packager = version.get("package") or ""
    text = f"{numbers['major']}.{numbers['minor']}.{numbers['micro']}"
    return QemuCapabilities(
        emulator=emulator,
        version=(numbers["major"], numbers["minor"], numbers["micro"]),
        version_text=f"{text} ({packager})" if packager else text,
        machines={**names, **aliases},
        maximum_vcpus={machine["name"]: machine["cpu-max"] for machine in machines},
        migration=frozenset(row["capability"] for row in answers["query-migrate-capabilities"]),
        has_kvm=bool(answers["query-kvm"]["present"]),
        has_sandbox="sandbox" in options,
        parallel_methods=frozenset(answers.get(_PARALLEL, ())),
        encrypts=bool(answers.get(_TLS)),
        pages_on_demand=bool(answers.get(_PAGES_ON_DEMAND)),
        cpus={name: _cpu_abilities(said) for name, said in (("tcg", answers), ("kvm", by_kvm)) if said},
    )


def _cpu_abilities(answers: Mapping[str, Any]) -> CpuAbilities:
    models = {model["name"]: frozenset(model.get("unavailable-features", ())) for model in answers[_MODELS]}
    properties = answers[_FEATURES]["model"]["props"]
    return CpuAbilities(models, {name: value for name, value in properties.items() if isinstance(value, bool)})


_PARALLEL = "multifd-compression"
_TLS = "tls-creds-x509"
_MODELS, _FEATURES = "query-cpu-definitions", "query-cpu-model-expansion"

_QUESTIONS = (
    "query-version",
    "query-machines",
    "query-migrate-capabilities",
    "query-kvm",
    "query-command-line-options",
)

_Interview = Callable[[Monitor], Awaitable[dict[str, Any]]]
"""What a probe is asked; the answers by the name of the command."""


async def _about_all(monitor: Monitor) -> dict[str, Any]:
    answers = {question: await monitor.execute(question) for question in _QUESTIONS}
    answers[_PARALLEL] = [method for method in METHODS if await _compresses(monitor, method)]
    answers[_TLS] = await _encrypts(monitor)
    return answers | await _about_cpus(monitor) | {_PAGES_ON_DEMAND: await _takes_postcopy(monitor)}


async def _about_cpus(monitor: Monitor) -> dict[str, Any]:
    everything = {"type": "full", "model": {"name": "max"}}
    return {_MODELS: await monitor.execute(_MODELS), _FEATURES: await monitor.execute(_FEATURES, everything)}


class CapabilityCache:
    """The capabilities of every program that was asked for, each asked anew when its file has changed."""

    def __init__(self, config: QemuConfig, run_directory: Path, clock: Clock) -> None:
        self._config = config
        self._run_directory = run_directory
        self._clock = clock
        self._known: dict[Path, tuple[tuple[int, int], QemuCapabilities]] = {}

    async def of(self, emulator: Path) -> QemuCapabilities:
        """What `emulator` can do.

        Raises:
            DriverRefused: it is not there or does not answer.
        """
        stamp = _stamp(emulator)
        known = self._known.get(emulator)
        if known is None or known[0] != stamp:
            asked = (self._ask(emulator, "tcg", _about_all), self._ask_about_kvm(emulator))
            known = (stamp, read_answers(emulator, *await asyncio.gather(*asked)))
            self._known[emulator] = known
        return known[1]

    async def _ask_about_kvm(self, emulator: Path) -> dict[str, Any] | None:
        """None where there is no KVM, or one that does not work; whoever starts a guest with it hears why."""
        if not kvm_is_accessible():
            return None
        try:
            return await self._ask(emulator, "kvm", _about_cpus)
        except DriverRefused:
            return None

    async def _ask(self, emulator: Path, accelerator: str, interview: _Interview) -> dict[str, Any]:
        directory = self._run_directory / f"probe-{secrets.token_hex(4)}"
        directory.mkdir(parents=True, mode=0o700)
        socket = directory / MONITOR_NAME
        # It goes on with its start when we have connected. One that does not wait hands its listening socket from its main
        # loop to the monitor's thread while it starts, and so small a machine starts in that time: then both see the
        # connection, and the main loop waits in accept(2) for ever, or each reads a part of what comes (with 10.0.2 once in
        # 700 starts on a busy host).
        mark = spell("socket", {"id": "monitor", "path": str(socket), "server": True, "wait": True})
        argv = [str(emulator), "-nodefaults", "-no-user-config", "-S", "-display", "none"]
        argv += ["-machine", f"none,accel={accelerator}"]
        argv += ["-incoming", "defer"]
        argv += ["-chardev", mark, "-mon", "chardev=monitor,mode=control"]
        try:
            process = QemuProcess.spawn(argv, directory, mark, {})
            try:
                return await self._interview(process, socket, interview)
            finally:
                await process.kill(self._config.stop_timeout_s)
                process.close()
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    async def _interview(self, process: QemuProcess, socket: Path, interview: _Interview) -> dict[str, Any]:
        try:
            monitor = await Monitor.open(
                socket,
                self._config,
                self._clock,
                handler=lambda _name, _data: None,
                is_alive=process.is_alive,
                starting_s=self._config.start_timeout_s,
            )
            try:
                return await interview(monitor)
            finally:
                await monitor.close()
        except DriverLost as error:
            words = process.last_words(self._config.log_tail_bytes)
            raise DriverRefused(
                f"QEMU does not say what it can do: {error}", remedy=error.remedy, detail=words or error.detail
            ) from error


async def _takes_postcopy(monitor: Monitor) -> bool:
    """Whether a receiving QEMU takes the capability; it tries userfaultfd, and refuses without its permission."""
    wanted = [{"capability": _PAGES_ON_DEMAND, "state": True}]
    try:
        await monitor.execute("migrate-set-capabilities", {"capabilities": wanted})
    except DriverRefused:
        return False
    return True


async def _compresses(monitor: Monitor, method: str) -> bool:
    """QEMU takes the method for parallel connections, for it was built with it."""
    try:
        await monitor.execute("migrate-set-parameters", {_PARALLEL: method})
    except DriverRefused:
        return False
    return True


async def _encrypts(monitor: Monitor) -> bool:
    """QEMU looks for certificates, for it was built with TLS. To be asked for its types it would load every module."""
    wanted = {"qom-type": _TLS, "id": "probe", "dir": "/nonexistent", "endpoint": "server"}
    try:
        await monitor.execute("object-add", wanted)
    except DriverRefused as error:
        return CA_CERTIFICATE in f"{error.message} {error.detail}"
    return False


def _stamp(emulator: Path) -> tuple[int, int]:
    try:
        status = emulator.stat()
    except OSError as error:
        raise DriverRefused(
            f"there is no QEMU at {emulator}: {error.strerror}",
            remedy="Install qemu-system-x86, or name the emulator in the configuration or the definition.",
        ) from error
    return status.st_mtime_ns, status.st_size
