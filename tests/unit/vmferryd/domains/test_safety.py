"""Which disks can be handed over."""

from itertools import product

import pytest

from vmferryd.domains.devices import Disk, DiskBus, DiskCache, DiskType
from vmferryd.domains.safety import DiskFacts, DiskVerdict, judge_disk

LOCAL = DiskFacts()
SHARED = DiskFacts(on_shared_filesystem=True)
CLUSTER = DiskFacts(on_shared_filesystem=True, on_cluster_filesystem=True)
COPIED = DiskFacts(will_be_copied=True)
DROPPING = DiskFacts(on_shared_filesystem=True, driver_can_drop_caches=True)


def disk(kind=DiskType.FILE, source_path="/d", **parts):
    """A disk with a medium, unless said otherwise."""
    return Disk(type=kind, target="vda", bus=DiskBus.VIRTIO, source_path=source_path, **parts)


@pytest.mark.parametrize(
    ("judged", "facts", "expected"),
    [
        (disk(source_path=None), LOCAL, DiskVerdict.NO_MEDIUM),
        (disk(read_only=True), LOCAL, DiskVerdict.READ_ONLY),
        (disk(), COPIED, DiskVerdict.COPIED),
        (disk(), LOCAL, DiskVerdict.LOCAL_FILE),
        (disk(cache=DiskCache.NONE), LOCAL, DiskVerdict.LOCAL_FILE),
        (disk(), DiskFacts(driver_can_drop_caches=True), DiskVerdict.LOCAL_FILE),
        (disk(), CLUSTER, DiskVerdict.COHERENT),
        (disk(shareable=True), SHARED, DiskVerdict.SHAREABLE),
        (disk(cache=DiskCache.NONE), SHARED, DiskVerdict.UNCACHED),
        (disk(cache=DiskCache.DIRECTSYNC), SHARED, DiskVerdict.UNCACHED),
        (disk(), DROPPING, DiskVerdict.CACHES_DROPPED),
        (disk(cache=DiskCache.WRITEBACK), SHARED, DiskVerdict.CACHED),
        (disk(), SHARED, DiskVerdict.CACHED),
        (disk(DiskType.BLOCK), LOCAL, DiskVerdict.CACHED),
        (disk(DiskType.BLOCK, cache=DiskCache.NONE), LOCAL, DiskVerdict.UNCACHED),
    ],
)
def test_the_first_rule_that_applies_decides(judged, facts, expected):
    """The rules in the order of libvirt's check."""
    assert expected is judge_disk(judged, facts)


def test_exactly_two_verdicts_are_unsafe():
    """A local file and a cached disk; everything has a reason."""
    unsafe = {verdict for verdict in DiskVerdict if not verdict.is_safe}
    assert {DiskVerdict.LOCAL_FILE, DiskVerdict.CACHED} == unsafe
    assert all(verdict.reason for verdict in DiskVerdict)


def test_a_copied_disk_is_always_safe():
    """Whatever else is known of it."""
    for facts in product([False, True], repeat=3):
        shared, cluster, dropping = facts
        known = DiskFacts(shared, cluster, will_be_copied=True, driver_can_drop_caches=dropping)
        assert judge_disk(disk(), known).is_safe
