"""The archive the guest boots from."""

from support.guest.cpio import archive, character_device, directory, executable


def test_every_part_starts_on_four_bytes() -> None:
    """Headers and contents are padded, or Linux would not find the next entry."""
    packed = archive([directory("dev"), executable("init", b"12345")])
    starts = [i for i in range(len(packed)) if packed.startswith(b"070701", i)]
    assert len(starts) == 3
    assert all(start % 4 == 0 for start in starts)
    assert len(packed) % 4 == 0


def test_a_device_node_carries_its_numbers() -> None:
    """Major and minor stand in the fields for the device itself, not for its host's."""
    header = archive([character_device("dev/console", 5, 1)])[:110]
    fields = [int(header[6 + 8 * i : 14 + 8 * i], 16) for i in range(13)]
    assert fields[1] == 0o20600
    assert fields[9:11] == [5, 1]


def test_the_same_entries_give_the_same_bytes() -> None:
    """Nothing of the time or place of building gets in."""
    assert archive([directory("dev")]) == archive([directory("dev")])
