"""Whether a disk can be handed from one host to another without either seeing stale data."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from vmferryd.domains.devices import Disk, DiskCache, DiskType

_UNCACHED = frozenset({DiskCache.NONE, DiskCache.DIRECTSYNC})


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """What is known of a disk besides its definition.

    Attributes:
        on_shared_filesystem: the file is on a filesystem that several hosts have, NFS for one.
        on_cluster_filesystem: and that filesystem keeps the hosts' caches coherent, as GFS2 and Ceph do.
        will_be_copied: the migration copies the contents.
        driver_can_drop_caches: the hypervisor drops what it cached when it takes over.
    """

    on_shared_filesystem: bool = False
    on_cluster_filesystem: bool = False
    will_be_copied: bool = False
    driver_can_drop_caches: bool = False


class DiskVerdict(Enum):
    """Why a disk is safe to hand over, or why it is not."""

    NO_MEDIUM = (True, "there is no medium", "")
    READ_ONLY = (True, "nobody writes to it", "")
    COPIED = (True, "its contents are copied", "")
    LOCAL_FILE = (
        False,
        "the file is on a filesystem that the destination does not have",
        "put it on storage that both hosts share, copy it with NON_SHARED_DISK",
    )
    COHERENT = (True, "the cluster filesystem keeps the hosts' caches coherent", "")
    SHAREABLE = (True, "several guests may use it at once", "")
    UNCACHED = (True, "the host does not cache it", "")
    CACHES_DROPPED = (True, "the destination drops its caches when it takes over", "")
    CACHED = (False, "the destination could read what its host cached", "use cache='none' or 'directsync'")

    @property
    def is_safe(self) -> bool:
        """Whether the disk can be handed over."""
        return self.value[0]

    @property
    def reason(self) -> str:
        """The reason, as a clause."""
        return self.value[1]

    @property
    def remedy(self) -> str:
        """What makes an unsafe disk safe; empty for a safe one."""
        return self.value[2]


def judge_disk(disk: Disk, facts: DiskFacts) -> DiskVerdict:
    """Return the first verdict of the table that applies."""
    applying = (verdict for verdict, applies in _TABLE if applies(disk, facts))
    return next(applying, DiskVerdict.CACHED)


def _is_local_file(disk: Disk, facts: DiskFacts) -> bool:
    return disk.type is DiskType.FILE and not (facts.on_shared_filesystem or facts.on_cluster_filesystem)


_TABLE: tuple[tuple[DiskVerdict, Callable[[Disk, DiskFacts], bool]], ...] = (
    (DiskVerdict.NO_MEDIUM, lambda disk, _: disk.source_path is None),
    (DiskVerdict.READ_ONLY, lambda disk, _: disk.read_only),
    (DiskVerdict.COPIED, lambda _, facts: facts.will_be_copied),
    (DiskVerdict.LOCAL_FILE, _is_local_file),
    (DiskVerdict.COHERENT, lambda _, facts: facts.on_cluster_filesystem),
    (DiskVerdict.SHAREABLE, lambda disk, _: disk.shareable),
    (DiskVerdict.UNCACHED, lambda disk, _: disk.cache in _UNCACHED),
    (DiskVerdict.CACHES_DROPPED, lambda _, facts: facts.driver_can_drop_caches),
)
