"""Images on this host's disks: looked at, read without their holes, and written under a name that nobody else uses.

An image that arrives is written beside its place, under a name that only this migration has, and gets its own name as a
second link when it is whole and on the disk. So an existing file is never overwritten, and whoever cleans up removes only
what this migration made. Everything here blocks; call it in a thread.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vmferry.errors import TransferStopped
from vmferryd.domains.copying import (
    QCOW2_HEADER_BYTES,
    ImageFacts,
    Refusal,
    backing_at,
    backing_path,
    capacity,
    empty_qcow2,
    read_qcow2,
)
from vmferryd.domains.devices import Disk, DiskFormat
from vmferryd.transfer.image_stream import PIECE_BYTES

_BLOCK_BYTES = 512
_LONGEST_NAME_BYTES = 255
_SOME_MARK = "00000000-0000-0000-0000-000000000000"
_SYNC_BYTES = 64 << 20
"""Written data is brought to the disk this often, so that the end does not wait for all of it."""


# -- the source ------------------------------------------------------------------------------------------------------


def examine(disk: Disk, *, whole: bool) -> ImageFacts | Refusal:
    """What the image of a disk is, or why it cannot be copied; `whole` says that nothing beneath it will be there."""
    path = disk.source_path or ""
    try:
        with Path(path).open("rb") as file:
            status = os.fstat(file.fileno())
            header = file.read(QCOW2_HEADER_BYTES) if disk.format is DiskFormat.QCOW2 else b""
            at, length = backing_at(header)
            file.seek(at)
            backing = file.read(min(length, PIECE_BYTES)) if length else b""
    except OSError as error:
        return Refusal(disk.target, f"{path} cannot be read: {error.strerror}", "check the path and its permissions")
    if not stat.S_ISREG(status.st_mode):
        return Refusal(disk.target, f"{path} is no ordinary file", "name the other disks in migrate_disks")
    facts = ImageFacts(disk.target, status.st_size, status.st_blocks * _BLOCK_BYTES)
    return facts if disk.format is not DiskFormat.QCOW2 else _with_backing(disk, facts, header, backing, whole=whole)


def _with_backing(disk: Disk, facts: ImageFacts, header: bytes, backing: bytes, *, whole: bool) -> ImageFacts | Refusal:
    found = read_qcow2(header, backing)
    if found is None:
        return Refusal(disk.target, f"{disk.source_path} is no qcow2 image", "give the disk the format that it has")
    if found.has_data_file:
        return Refusal(disk.target, "its data lie in another file than its own", "convert it with `qemu-img convert`")
    if not found.backing or disk.without_backing_file:
        return facts
    if whole:
        text = f"it lies on {found.backing}, which would not be copied"
        return Refusal(disk.target, text, "use NON_SHARED_INC and have that file at the destination, or flatten the image")
    if backing_path(disk.source_path or "", found.backing) is None:
        return Refusal(disk.target, f"it lies on {found.backing}, which is no file", "flatten it with `qemu-img convert`")
    return ImageFacts(facts.target, facts.size_bytes, facts.allocated_bytes, found.backing)


def capacity_of(path: str, form: DiskFormat) -> int:
    """The size of the disk that an image holds, also while a guest writes to it.

    Raises:
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        header = file.read(QCOW2_HEADER_BYTES) if form is DiskFormat.QCOW2 else b""
        return capacity(header, os.fstat(file.fileno()).st_size)


class ImageReader:
    """Reads an image's data and skips its holes. `position` is how far it has come."""

    def __init__(self, path: str, *, skip_zeroes: bool = False) -> None:
        self._path = path
        self._skip_zeroes = skip_zeroes
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._begun = os.fstat(self._file)
        self.size_bytes = self._begun.st_size
        self.position = 0

    def next(self) -> tuple[int, bytes] | None:
        """The next piece of data and its place; None at the end.

        Raises:
            OSError: it cannot be read.
            TransferStopped: somebody has changed it meanwhile.
        """
        while self.position < self.size_bytes:
            start = self._data_from(self.position)
            if start is None:
                break
            data = os.pread(self._file, min(PIECE_BYTES, self._data_until(start) - start), start)
            if not data:
                break
            self.position = start + len(data)
            if not (self._skip_zeroes and not any(data)):
                return start, data
        self.position = self.size_bytes
        self._check_unchanged()
        return None

    def _data_from(self, place: int) -> int | None:
        try:
            return os.lseek(self._file, place, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return None
            return place  # a filesystem without holes

    def _data_until(self, place: int) -> int:
        try:
            return os.lseek(self._file, place, os.SEEK_HOLE)
        except OSError:
            return self.size_bytes

    def _check_unchanged(self) -> None:
        now = os.fstat(self._file)
        if (now.st_size, now.st_mtime_ns) != (self._begun.st_size, self._begun.st_mtime_ns):
            raise TransferStopped(
                f"{self._path} was changed while it was copied",
                remedy="make sure that nobody uses the image, and try again",
            )

    def close(self) -> None:
        """The file is closed."""
        os.close(self._file)


# -- the destination -------------------------------------------------------------------------------------------------


def arriving(path: str, mark: str) -> Path:
    """Where an image is written until it is whole; `mark` is the migration's own."""
    final = Path(path)
    return final.with_name(f".{final.name}.{mark}.arriving")


def obstacles(target: str, path: str, image: ImageFacts) -> Iterable[Refusal]:
    """What keeps an image from being written here."""
    final = Path(path)
    if os.path.lexists(final):
        text = f"{path} is there already, and nothing is overwritten"
        yield Refusal(target, text, "remove or rename it, or give another path in destination_xml")
    if not final.parent.is_dir() or not os.access(final.parent, os.W_OK | os.X_OK):
        yield Refusal(target, f"{final.parent} is no folder that can be written to", "make it, or give another path")
    if len(os.fsencode(arriving(path, _SOME_MARK).name)) > _LONGEST_NAME_BYTES:
        yield Refusal(target, f"{final.name} is too long for a name beside it", "give the image a shorter name")
    below = backing_path(path, image.backing) if image.backing else path
    if image.backing and (below is None or not Path(below).is_file()):
        yield Refusal(target, f"its backing file {below} is not there", "copy that file first, or flatten the image")


def short_of_space(images: Iterable[tuple[str, ImageFacts]]) -> Iterable[Refusal]:
    """The filesystems that have no room for all the images that go there; `images` are paths with what arrives there."""
    needed: dict[int, list[tuple[str, ImageFacts]]] = {}
    for path, image in images:
        with suppress(OSError):
            needed.setdefault(Path(path).parent.stat().st_dev, []).append((path, image))
    for group in needed.values():
        folder = Path(group[0][0]).parent
        status = os.statvfs(folder)
        free, wanted = status.f_bavail * status.f_frsize, sum(image.allocated_bytes for _, image in group)
        if wanted > free:
            text = f"{folder} has {free} bytes left, and {wanted} are to arrive"
            yield Refusal(group[0][1].target, text, "make room there")


def create(paths: Iterable[str], mark: str) -> None:
    """Every image exists under its temporary name, and is empty. May be called again."""
    for path in paths:
        os.close(os.open(arriving(path, mark), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))


@dataclass(frozen=True, slots=True)
class Blank:
    """An image that is to exist before a guest's disk is copied into it."""

    path: str
    form: DiskFormat
    size_bytes: int


def create_blank(blanks: Iterable[Blank], mark: str) -> None:
    """Every image exists under its own name, and holds a disk that is all zeroes.

    Raises:
        FileExistsError: somebody else has made a file of that name meanwhile; it is left alone.
        OSError: one cannot be made.
    """
    for blank in blanks:
        create((blank.path,), mark)
        with arriving(blank.path, mark).open("r+b") as file:
            file.write(empty_qcow2(blank.size_bytes) if blank.form is DiskFormat.QCOW2 else b"")
            if blank.form is not DiskFormat.QCOW2:
                file.truncate(blank.size_bytes)
            os.fsync(file.fileno())
        publish((blank.path,), mark)


class ImageWriter:
    """Writes an image that arrives, and that `create` has made."""

    def __init__(self, path: str, mark: str) -> None:
        self._file = os.open(arriving(path, mark), os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._unsynced = 0

    def resize(self, size_bytes: int) -> None:
        """The image is all holes, and as large as it will be."""
        os.ftruncate(self._file, 0)
        os.ftruncate(self._file, size_bytes)

    def write(self, place: int, data: bytearray | memoryview | bytes) -> None:
        """The data is in its place.

        Raises:
            OSError: it is not, for instance because the disk is full.
        """
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file, view, place)
            place, view = place + written, view[written:]
        self._unsynced += len(data)
        if self._unsynced >= _SYNC_BYTES:
            self.sync()

    def sync(self) -> None:
        """What was written is on the disk."""
        os.fdatasync(self._file)
        self._unsynced = 0

    def close(self) -> None:
        """The file is closed."""
        os.close(self._file)


def publish(paths: Iterable[str], mark: str) -> None:
    """Every image has its own name, too, durably. May be called again.

    Raises:
        FileExistsError: somebody else has made a file of that name meanwhile; it is left alone.
    """
    for path in paths:
        if not _is_ours(path, mark):
            os.link(arriving(path, mark), path, follow_symlinks=False)
        _sync_folder(Path(path).parent)


def keep(paths: Iterable[str], mark: str) -> None:
    """The images have their own names only. May be called again."""
    for path in paths:
        arriving(path, mark).unlink(missing_ok=True)


def remove(paths: Iterable[str], mark: str) -> None:
    """Nothing is left of the images, whatever had become of them; other files of their names stay. May be called again."""
    for path in paths:
        if _is_ours(path, mark):
            Path(path).unlink(missing_ok=True)
        arriving(path, mark).unlink(missing_ok=True)


def _is_ours(path: str, mark: str) -> bool:
    try:
        ours, there = arriving(path, mark).lstat(), Path(path).lstat()
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
