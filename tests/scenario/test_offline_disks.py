"""A definition moves with its disks: byte for byte, holes included, and nothing is left of an attempt that failed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from scenario.offline_hosts import CONTENT, COPIED, HOLE, MOVED, OfflineHosts, disk, sparse, with_disks
from support.daemons import NAME, TwoHosts
from support.tools import qemu_missing, skipping_forbidden
from support.waiting import eventually
from vmferry.disks import DiskFigures
from vmferry.errors import (
    InvalidParameter,
    InvalidState,
    MigrationCancelled,
    NotSupported,
    TransferFailed,
    VmferryError,
)
from vmferry.flags import Flag
from vmferry.model import Outcome, Phase, Progress, new_migration_id
from vmferry.params import MigrationParams
from vmferry.report import Account, report
from vmferryd.transfer import images
from vmferryd.transfer.image_channel import ImageChannel
from vmferryd.transfer.image_stream import Kind


@pytest.fixture
async def offline(two_hosts: TwoHosts, tmp_path: Path) -> OfflineHosts:
    """The domain is defined on the source and does not run."""
    await two_hosts.source.connection.destroy(NAME)
    return OfflineHosts(two_hosts, tmp_path)


def allocated(path: Path) -> int:
    """How much room a file takes."""
    return path.stat().st_blocks * 512


# -- what it does ------------------------------------------------------------------------------------------------------


@pytest.mark.option("--copy-storage-all")
async def test_a_disk_moves_with_its_domain(offline: OfflineHosts) -> None:
    """The image is the same, its holes are holes, and the job's figures say how much there was."""
    params = await offline.with_image()
    done = await offline.migrate(COPIED, params)
    await offline.only_on(offline.destination)
    copy = offline.there / "a.img"
    assert CONTENT == copy.read_bytes()
    assert allocated(copy) <= allocated(offline.here / "a.img") + 4096 < len(CONTENT) - HOLE
    assert (len(CONTENT), len(CONTENT), 0) == (
        done.statistics.disk_total_bytes,
        done.statistics.disk_processed_bytes,
        done.statistics.disk_remaining_bytes,
    )
    assert 0o600 == copy.stat().st_mode & 0o777
    for host in offline.hosts.hosts:
        job = await host.connection.job(done.migration_id)
        assert len(CONTENT) == job.statistics.disk_processed_bytes


async def test_the_report_tells_of_the_images(offline: OfflineHosts) -> None:
    """How much of each disk went over, in words that know of no guest."""
    params = await offline.with_image()
    done = await offline.migrate(COPIED, params)
    jobs = [await host.connection.job(done.migration_id) for host in offline.hosts.hosts]
    found = report([Account("a", jobs[0]), Account("b", jobs[1])])
    assert {"copies the disks", "defines the domain"} <= {span.what for span in found.spans}
    assert found.copies is not None
    assert (DiskFigures("vda", len(CONTENT), len(CONTENT)),) == found.copies.disks
    assert not [span.what for span in found.spans if "guest" in span.what]


async def test_progress_is_told(offline: OfflineHosts) -> None:
    """Whoever listens hears of disks while they are copied, at most as fast as was allowed."""
    params = await offline.with_image(b"x" * (3 << 20))
    seen: list[Progress] = []
    slow = MigrationParams(destination_xml=params.destination_xml, bandwidth_mib_per_s=10)
    await offline.hosts.migrate(COPIED, slow, listener=seen.append)
    assert [p for p in seen if p.phase is Phase.PERFORM and 0 < p.statistics.disk_processed_bytes]
    assert any("disks" in p.step for p in seen)


async def test_peer_to_peer(offline: OfflineHosts) -> None:
    """The source's daemon can coordinate it."""
    params = await offline.with_image()
    uri = str(offline.destination.settings["listen"])
    await offline.source.connection.migrate_to_uri(NAME, uri, flags=COPIED | Flag.PEER2PEER, params=params)
    await offline.only_on(offline.destination)
    assert CONTENT == (offline.there / "a.img").read_bytes()


@pytest.mark.option("--migrate-disks")
async def test_which_disks(offline: OfflineHosts) -> None:
    """Without a list all are copied that have a source and are neither read-only nor shareable; with one, the named ones."""
    for name in "abc":
        sparse(offline.here / f"{name}.img", name.encode() * 5000)

    def definition(folder: Path) -> str:
        return with_disks(
            disk(folder / "a.img", "vda"),
            disk(folder / "b.img", "vdb", more="<shareable/>"),
            disk(folder / "c.img", "vdc", more="<readonly/>"),
            "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>",
        )

    await offline.source.connection.define(definition(offline.here))
    xml = definition(offline.there)
    await offline.migrate(COPIED & ~Flag.UNDEFINE_SOURCE, MigrationParams(destination_xml=xml))
    assert ["a.img"] == [path.name for path in offline.there.iterdir()]
    (offline.there / "a.img").unlink()
    await offline.migrate(COPIED, MigrationParams(destination_xml=xml, migrate_disks=("vdb",)))
    assert ["b.img"] == [path.name for path in offline.there.iterdir()]


@pytest.mark.option("--migrate-disks-detect-zeroes")
async def test_zeroes_that_are_data(offline: OfflineHosts) -> None:
    """With detect_zeroes a disk's written zeroes become holes; the content is the same."""
    params = await offline.with_image()
    (offline.here / "a.img").write_bytes(bytes(4 << 20) + b"end")
    zeroes = MigrationParams(destination_xml=params.destination_xml, migrate_disks_detect_zeroes=("vda",))
    await offline.migrate(COPIED, zeroes)
    copy = offline.there / "a.img"
    assert bytes(4 << 20) + b"end" == copy.read_bytes()
    assert allocated(copy) < 1 << 20


async def test_an_empty_image_and_no_image(offline: OfflineHosts) -> None:
    """An image of no bytes arrives as one, and a domain without disks moves with the same flags."""
    await offline.migrate(COPIED)
    assert [NAME] == await offline.names(offline.destination)
    await offline.destination.connection.undefine(NAME)
    await offline.migrate(COPIED, await offline.with_image(b""))
    assert b"" == (offline.there / "a.img").read_bytes()


async def qcow2(*words: str) -> None:
    """`qemu-img` has done what `words` say."""
    if missing := qemu_missing():
        (pytest.fail if skipping_forbidden() else pytest.skip)(missing)
    await asyncio.to_thread(subprocess.run, ["qemu-img", *words], check=True, capture_output=True)


@pytest.mark.qemu
async def test_qcow2_and_its_backing_file(offline: OfflineHosts) -> None:
    """An overlay is refused whole, for its base would be missing; only its top is copied where the base is there."""
    base, top = offline.here / "base.qcow2", offline.here / "top.qcow2"
    await qcow2("create", "-q", "-f", "qcow2", str(base), "8M")
    await qcow2("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", str(top))
    await offline.source.connection.define(with_disks(disk(top, kind="qcow2")))
    params = MigrationParams(destination_xml=with_disks(disk(offline.there / "top.qcow2", kind="qcow2")))
    with pytest.raises(NotSupported, match=r"lies on base\.qcow2"):
        await offline.migrate(COPIED, params)
    with pytest.raises(NotSupported, match=r"backing file .* is not there"):
        await offline.migrate(MOVED | Flag.NON_SHARED_INC, params)
    (offline.there / "base.qcow2").write_bytes(base.read_bytes())
    await offline.migrate(MOVED | Flag.NON_SHARED_INC, params)
    assert top.read_bytes() == (offline.there / "top.qcow2").read_bytes()
    await qcow2("check", "-q", str(offline.there / "top.qcow2"))


# -- what is refused ---------------------------------------------------------------------------------------------------


async def test_an_existing_file_is_not_overwritten(offline: OfflineHosts) -> None:
    """A file that is there already is refused in Prepare, and stays as it is."""
    params = await offline.with_image()
    (offline.there / "a.img").write_text("precious")
    with pytest.raises(NotSupported, match="is there already"):
        await offline.migrate(COPIED, params)
    assert "precious" == (offline.there / "a.img").read_text()
    assert [NAME] == await offline.names(offline.source)


async def test_a_file_that_appears_meanwhile(offline: OfflineHosts) -> None:
    """A file that somebody makes while the image is on its way is not touched; the migration fails and cleans up."""
    params = await offline.with_image()
    walk = await offline.by_hand(COPIED, params).up_to(Phase.PREPARE)
    (offline.there / "a.img").write_text("precious")
    with pytest.raises(TransferFailed, match="could not take"):
        await walk.perform()
    assert Outcome.ABORTED is (await walk.finish()).outcome
    await eventually(lambda: [path.name for path in offline.there.iterdir()] == ["a.img"])
    assert "precious" == (offline.there / "a.img").read_text()


async def test_a_running_domain(offline: OfflineHosts) -> None:
    """Images that a guest writes to are not copied as they are."""
    params = await offline.with_image()
    await offline.source.connection.start(NAME)
    with pytest.raises(InvalidState, match="may write to"):
        await offline.migrate(COPIED, params)


@pytest.mark.parametrize(
    ("names", "error", "match"),
    [
        (("vdz",), InvalidParameter, "no such disk"),
        (("vdb",), NotSupported, "read-only"),
        (("sda",), NotSupported, "no medium"),
    ],
)
async def test_named_disks(offline: OfflineHosts, names: tuple[str, ...], error: type[VmferryError], match: str) -> None:
    """A disk that is named and cannot be copied is refused with its reason."""
    sparse(offline.here / "a.img")
    await offline.source.connection.define(
        with_disks(
            disk(offline.here / "a.img"),
            disk(offline.here / "a.img", "vdb", more="<readonly/>"),
            "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>",
        )
    )
    with pytest.raises(error, match=match):
        await offline.migrate(COPIED, MigrationParams(migrate_disks=names))


@pytest.mark.parametrize(
    ("where", "match"),
    [("missing/a.img", "no folder"), ("", "is there already"), ("x" * 240, "too long")],
)
async def test_a_place_that_cannot_be_written(offline: OfflineHosts, where: str, match: str) -> None:
    """What keeps an image from being made at the destination is said in Prepare, and nothing is left."""
    await offline.with_image()
    params = MigrationParams(destination_xml=with_disks(disk(offline.there / where)))
    with pytest.raises(VmferryError, match=match):
        await offline.migrate(COPIED, params)
    await offline.only_on(offline.source)


async def test_no_room(offline: OfflineHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A destination without room for what arrives says so before anything is sent."""
    params = await offline.with_image()
    real = os.statvfs

    def full(path: object) -> object:
        status = real(path)  # type: ignore[arg-type]
        return os.statvfs_result([*status[:4], 1, *status[5:]])

    monkeypatch.setattr(images.os, "statvfs", full)
    with pytest.raises(NotSupported, match="are to arrive"):
        await offline.migrate(COPIED, params)
    await offline.only_on(offline.source)


async def test_unreadable_and_wrong_images(offline: OfflineHosts) -> None:
    """Every image that cannot be copied is named at once."""
    sparse(offline.here / "raw.img")
    await offline.source.connection.define(
        with_disks(disk(offline.here / "none.img"), disk(offline.here / "raw.img", "vdb", kind="qcow2"))
    )
    with pytest.raises(NotSupported) as caught:
        await offline.migrate(COPIED)
    assert ["disk vda", "disk vdb"] == [violation.subject for violation in caught.value.violations]
    assert "no qcow2 image" in str(caught.value)


# -- what goes wrong on the way ----------------------------------------------------------------------------------------


async def slowly(offline: OfflineHosts) -> asyncio.Task[object]:
    """A migration whose disks are on their way, and take long."""
    params = await offline.with_image(b"x" * (8 << 20))
    slow = MigrationParams(destination_xml=params.destination_xml, bandwidth_mib_per_s=1)
    moving = asyncio.ensure_future(offline.migrate(COPIED, slow, new_migration_id()))
    await eventually(lambda: any(path.stat().st_size for path in offline.there.iterdir()))
    return moving


async def failed(moving: asyncio.Task[object]) -> VmferryError:
    """What the migration ended with."""
    with pytest.raises(VmferryError) as caught:
        await moving
    return caught.value


async def test_cancelled(offline: OfflineHosts) -> None:
    """A copy that is cancelled leaves the domain at the source and nothing at the destination."""
    moving = await slowly(offline)
    (job,) = await offline.source.connection.jobs()
    assert Outcome.ABORTED is await offline.source.connection.abort_job(job.migration_id)
    assert isinstance(await failed(moving), MigrationCancelled)
    await offline.only_on(offline.source)


@pytest.mark.parametrize("side", ["source", "destination"])
async def test_a_daemon_dies(offline: OfflineHosts, side: str) -> None:
    """A daemon that starts anew in the middle leaves the domain at the source and nothing at the destination."""
    for host in offline.hosts.hosts:
        host.limit(phase_lease_s=0.5)
        await host.restart()
    moving = await slowly(offline)
    await getattr(offline, side).restart()
    await failed(moving)
    await offline.only_on(offline.source)


async def test_the_client_leaves(offline: OfflineHosts) -> None:
    """A client that leaves while disks are copied is waited for only shortly; nothing is left at the destination."""
    for host in offline.hosts.hosts:
        host.limit(phase_lease_s=0.5)
        await host.restart()
    moving = await slowly(offline)
    moving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await moving
    await offline.only_on(offline.source)


@pytest.mark.parametrize("phase", [Phase.BEGIN, Phase.PREPARE, Phase.PERFORM, Phase.FINISH])
@pytest.mark.parametrize("side", ["source", "destination", "neither"])
async def test_the_client_never_comes_back(offline: OfflineHosts, phase: Phase, side: str) -> None:
    """Wherever the client dies, with a daemon or without: one definition with its image, and no rest on either host."""
    for host in offline.hosts.hosts:
        host.limit(phase_lease_s=0.5)
        await host.restart()
    params = await offline.with_image()
    await offline.by_hand(COPIED, params).up_to(phase)
    if phase is Phase.PERFORM:  # the source's word is on its way, and a restart that overtakes it takes the definition back
        await eventually(offline.is_committed)
    if side != "neither":
        await getattr(offline, side).restart()
    there = await offline.alone_somewhere() is offline.destination
    assert there == (phase in (Phase.PERFORM, Phase.FINISH))


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("side", ["source", "destination"])
async def test_a_full_journal(offline: OfflineHosts, side: str, number: int) -> None:
    """Whichever write to a journal fails for good, and then the daemon starts anew: one definition with its image."""
    for host in offline.hosts.hosts:
        host.limit(phase_lease_s=0.5)
        await host.restart()
    params = await offline.with_image()
    host = getattr(offline, side)
    host.writes.fail_from(number)
    with contextlib.suppress(VmferryError):
        await offline.migrate(COPIED, params)
    await host.restart()
    await offline.alone_somewhere()


async def test_changed_meanwhile(offline: OfflineHosts) -> None:
    """An image that somebody writes to while it is copied is not taken for a copy."""
    moving = await slowly(offline)
    with (offline.here / "a.img").open("r+b") as file:
        file.write(b"changed")
    (job,) = await offline.source.connection.jobs()
    error = await failed(moving)
    assert "was changed while it was copied" in str(error), job
    await offline.only_on(offline.source)


async def test_damaged_on_the_way(offline: OfflineHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that do not arrive as they were sent are found out before anything is committed."""
    params = await offline.with_image()
    honest = ImageChannel.send

    async def damaged(self: ImageChannel, kind: Kind, number: int = 0, data: bytes = b"") -> None:
        if kind is Kind.DATA:
            data = bytes([data[0] ^ 1]) + data[1:]
        await honest(self, kind, number, data)

    monkeypatch.setattr(ImageChannel, "send", damaged)
    with pytest.raises(TransferFailed) as caught:
        await offline.migrate(COPIED, params)
    assert "digest" in caught.value.detail
    await offline.only_on(offline.source)


async def test_a_disk_that_fills_up(offline: OfflineHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write error at the destination ends the migration, the user hears it, and nothing is left there."""
    params = await offline.with_image()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(images.ImageWriter, "write", full)
    with pytest.raises(TransferFailed) as caught:
        await offline.migrate(COPIED, params)
    assert "No space left" in caught.value.detail
    await offline.only_on(offline.source)


async def test_the_last_part_is_lost(offline: OfflineHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the last part the destination keeps nothing, though all data are there; with it, it does."""
    params = await offline.with_image()
    honest = ImageChannel.send

    async def losing(self: ImageChannel, kind: Kind, number: int = 0, data: bytes = b"") -> None:
        if kind is Kind.LAST:
            self.cut()
            raise TransferFailed("cut on request")
        await honest(self, kind, number, data)

    monkeypatch.setattr(ImageChannel, "send", losing)
    with pytest.raises(VmferryError):
        await offline.migrate(COPIED, params)
    await offline.only_on(offline.source)
    monkeypatch.undo()
    await offline.migrate(COPIED, params)
    await offline.only_on(offline.destination)
