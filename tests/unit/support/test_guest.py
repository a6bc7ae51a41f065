"""The guest notices what it is there to notice."""

import asyncio
import contextlib
import mmap
import shutil
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from qemu.qmp import ConnectError, QMPClient

from support.guest import GuestImage, GuestSettings, GuestUnavailable, build, build_guest, kernel, kernel_command_line
from vmferry_demo.heartbeats import Line, judge, parse_beat
from vmferry_demo.serial_recorder import SerialRecorder

MASK = (1 << 64) - 1
PAGE_BYTES = 4096
GUEST = GuestSettings(memory_mib=32, dirty_mib_s=5, workset_mib=8, verify_percent=50, seed=77)


def page_key(page: int, generation: int, seed: int) -> bytes:
    """The first word of a page, as init.c computes it."""
    z = (generation << 32 | page) ^ seed
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return (z ^ (z >> 31)).to_bytes(8, "little")


@dataclass
class Machine:
    """A guest whose memory is a file of the host."""

    memory: Path
    monitor: QMPClient
    recorder: SerialRecorder
    process: asyncio.subprocess.Process


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> GuestImage:
    """Built in the cache all tests share."""
    if not shutil.which("qemu-system-x86_64"):
        pytest.skip("no qemu-system-x86_64")
    try:
        return build_guest(Path.home() / ".cache/vmferry-guest")
    except GuestUnavailable as reason:
        pytest.skip(str(reason))


@contextlib.asynccontextmanager
async def machine(image: GuestImage, place: Path) -> AsyncIterator[Machine]:
    """A guest that is ready; its QEMU is gone afterwards."""
    memory = place / "memory"
    async with SerialRecorder.fifo(place / "serial") as recorder:
        process = await asyncio.create_subprocess_exec(
            *("qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot", "-accel", "tcg"),
            *("-machine", "q35,memory-backend=memory", "-cpu", "max", "-m", "192M"),
            *("-object", f"memory-backend-file,id=memory,size=192M,share=on,mem-path={memory}"),
            *("-chardev", f"file,id=serial,path={place}/serial,append=on", "-serial", "chardev:serial"),
            *("-qmp", f"unix:{place}/qmp,server=on,wait=off"),
            *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
            *("-append", kernel_command_line(GUEST)),
        )
        try:
            monitor = await connected(place / "qmp")
            await recorder.wait_until_ready()
            yield Machine(memory, monitor, recorder, process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            with contextlib.suppress(Exception):
                await monitor.disconnect()


async def connected(path: Path) -> QMPClient:
    """A monitor that answers."""
    async with asyncio.timeout(20):
        while True:
            monitor = QMPClient()
            try:
                await monitor.connect(str(path))
                return monitor
            except ConnectError:
                await asyncio.sleep(0.002)


def overwrite(memory: Path, page: int, content: bytes) -> None:
    """Another content lies where the guest put this page, behind its back."""
    with memory.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        start = view.find(page_key(page, 0, GUEST.seed))
        assert start >= 0
        assert start % PAGE_BYTES == 0
        view[start : start + len(content)] = content


def complaint(lines: list[Line]) -> bool:
    """Whether the guest has found something wrong and counted it in a beat."""
    return any(beat.corrupt_pages for line in lines[-2:] if (beat := parse_beat(line)))


@pytest.mark.qemu
async def test_a_healthy_guest_has_no_fault(image: GuestImage, tmp_path: Path) -> None:
    """It verifies round after round, dirties what it was told, and numbers its beats without a gap."""
    async with machine(image, tmp_path) as guest:
        await guest.recorder.wait_until(lambda lines: judge([lines]).verified_rounds >= 3)
        judgement = judge([guest.recorder.recording()])
    assert judgement.faults() == []
    assert judgement.beats[-1].dirtied_pages > 0


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("content", "found"),
    [(b"\xff" * 8, "garbage word=0"), (page_key(4999, 0, 77), "page4999:0 word=0")],
    ids=["garbage", "another page"],
)
async def test_a_wrong_page_is_named(image: GuestImage, tmp_path: Path, content: bytes, found: str) -> None:
    """The guest says which page is wrong, and what lies in its place."""
    async with machine(image, tmp_path) as guest:
        overwrite(guest.memory, 5000, content)
        await guest.recorder.wait_until(complaint)
        judgement = judge([guest.recorder.recording()])
    assert judgement.complaints == (f"CORRUPT page=5000 expected=0 found={found}",)
    assert judgement.corrupt_pages == 1


@pytest.mark.qemu
async def test_a_single_wrong_byte_is_found(image: GuestImage, tmp_path: Path) -> None:
    """The last byte of a page is as good as its first."""
    async with machine(image, tmp_path) as guest:
        with guest.memory.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
            last = view.find(page_key(6000, 0, GUEST.seed)) + PAGE_BYTES - 1
            view[last] ^= 1
        await guest.recorder.wait_until(complaint)
        judgement = judge([guest.recorder.recording()])
    assert judgement.complaints == ("CORRUPT page=6000 expected=0 found=0 word=511",)


@pytest.mark.qemu
async def test_a_stale_page_is_named_with_its_old_generation(image: GuestImage, tmp_path: Path) -> None:
    """A page of the working set that lost its newest writes shows which generation it fell back to."""
    async with machine(image, tmp_path) as guest:
        await guest.recorder.wait_until(lambda lines: any(beat.dirtied_pages > 2048 for beat in judge([lines]).beats))
        await guest.monitor.execute("stop")
        with guest.memory.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
            start = next(at for g in (1, 2, 3) if (at := view.find(page_key(2000, g, GUEST.seed))) >= 0)
            view[start : start + 8] = page_key(2000, 0, GUEST.seed)
        await guest.monitor.execute("cont")
        await guest.recorder.wait_until(complaint)
        judgement = judge([guest.recorder.recording()])
    assert len(judgement.complaints) == 1
    assert "page=2000 " in judgement.complaints[0]
    assert "found=0 word=0" in judgement.complaints[0]


@pytest.mark.qemu
async def test_the_power_button_ends_the_guest(image: GuestImage, tmp_path: Path) -> None:
    """An orderly end is announced, and the machine is off."""
    async with machine(image, tmp_path) as guest:
        await guest.monitor.execute("system_powerdown")
        async with asyncio.timeout(10):
            await guest.process.wait()
        assert guest.recorder.recording()[-1].text.startswith("OFF ")


def test_building_twice_at_a_time_gives_the_same_guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Builders that race leave one archive and nothing half done."""
    fake = tmp_path / "vmlinuz-1"
    fake.write_bytes(b"kernel")
    monkeypatch.setattr(build, "find_kernel", lambda cache: kernel.Kernel(fake, ()))
    monkeypatch.setattr(build, "_compiled", lambda cache: b"program")
    cache = tmp_path / "cache"
    with ThreadPoolExecutor(4) as pool:
        images = set(pool.map(build_guest, [cache] * 8))
    assert len(images) == 1
    assert list(cache.iterdir()) == [images.pop().initrd]


def test_without_a_compiler_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who cannot build the guest is told what to install."""
    fake = tmp_path / "vmlinuz-1"
    fake.write_bytes(b"kernel")
    monkeypatch.setattr(build, "find_kernel", lambda cache: kernel.Kernel(fake, ()))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(GuestUnavailable, match="install gcc"):
        build_guest(tmp_path / "cache")


def test_without_a_kernel_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has neither a kernel nor apt is told what to install."""
    monkeypatch.setattr(kernel, "_kernel_below", lambda root: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GuestUnavailable, match="linux-image-cloud-amd64"):
        build_guest(tmp_path)


def test_the_command_line_keeps_both_halves_of_the_remedy() -> None:
    """Without pti=on QEMU 7.2 loses writes under TCG, and without silence the beats are torn."""
    words = kernel_command_line(GuestSettings(dirty_mib_s=7)).split()
    assert {"pti=on", "quiet", "ferry.dirty_mib_s=7"} <= set(words)
