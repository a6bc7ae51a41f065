"""Amounts of memory as libvirt spells them."""

KIB_BYTES = 1024

_SUFFIXES = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
SPELLINGS = "b, bytes, KB, k, KiB, MB, M, MiB, GB, G, GiB, TB, T, TiB"


def unit_bytes(unit: str) -> int | None:
    """Return what one `unit` is, in bytes; None if there is no such unit.

    The case does not matter. 'k' and 'KiB' are powers of 1024, 'KB' is a power of 1000.
    """
    word = unit.lower()
    if word in {"b", "byte", "bytes"}:
        return 1
    for ending, base in (("ib", 1024), ("b", 1000), ("", 1024)):
        prefix = word.removesuffix(ending) if ending else word
        if prefix and word.endswith(ending) and prefix in _SUFFIXES:
            return int(base ** _SUFFIXES[prefix])
    return None


def whole_kib(size_bytes: int) -> int:
    """Return `size_bytes` rounded up to a multiple of 1024, as libvirt does."""
    return -(-size_bytes // KIB_BYTES) * KIB_BYTES
