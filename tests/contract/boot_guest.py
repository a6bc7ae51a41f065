"""A guest that fits into a boot sector: it beats, writes pages at a given rate, and can be judged from outside.

At every timer tick (18.2 a second) it adds one to the beat at 0x604 and writes so many pages: page `n % 128` of the
memory from 0x10000 on gets the number `n` as its first and its last word, and 0x600 has the number last written. Its
source, for `as --32`:

        cli; xorw %ax,%ax; movw %ax,%ds; movw %ax,%ss; movw $0x600,%sp; ljmp $0,$(0x7c00+start)
    start:
        movw $(0x7c00+tick),0x20; movw %ax,0x22; cld; movw $0x1000,%bx
    clear:
        movw %bx,%es; xorw %di,%di; xorl %eax,%eax; movw $1024,%cx; rep stosl
        addw $0x100,%bx; cmpw $0x9000,%bx; jne clear
        movl %eax,0x600; movl %eax,0x604; movl $0x59525246,0x608; sti
    beat:
        hlt; incl 0x604; movw 0x7dfc,%cx; jcxz done
    write:
        movl 0x600,%eax; incl %eax; movw %ax,%bx; andw $127,%bx; shlw $8,%bx; addw $0x1000,%bx; movw %bx,%es
        movl %eax,%es:0; movl %eax,%es:4092; movl %eax,0x600; invlpg %es:0; loop write
    done:
        invlpg 0x600; jmp beat
    tick:
        pushw %ax; movb $0x20,%al; outb %al,$0x20; popw %ax; iret

The `invlpg` are there for QEMU before 9.0, which misses writes under TCG that go through warm entries of its soft TLB.
"""

from __future__ import annotations

import struct

_CODE = bytes.fromhex(
    "fa31c08ed88ed0bc0006ea0f7c0000c7062000827ca32200fcbb00108ec331ff6631c0b9000466f3ab81c3000181fb009075e966a3000666"
    "a3040666c706080646525259fbf466ff0604068b0efc7de32a66a10006664089c383e37fc1e30881c300108ec32666a300002666a3fc0f66"
    "a30006260f013e0000e2d60f013e0006ebc350b020e62058cf"
)
_TICKS_PER_S = 18.2
_SECTOR_BYTES = 512
_IMAGE_BYTES = 1 << 20
_READY = 0x59525246

STATE_ADDRESS, STATE_BYTES = 0x600, 12
PAGES_ADDRESS, PAGES, PAGE_BYTES = 0x10000, 128, 4096


def disk_image(pages_per_s: int) -> bytes:
    """A disk whose guest writes about so many pages a second; at least 18 if any."""
    per_tick = max(1, round(pages_per_s / _TICKS_PER_S)) if pages_per_s else 0
    sector = _CODE.ljust(_SECTOR_BYTES - 4, b"\0") + struct.pack("<H", per_tick) + b"\x55\xaa"
    return sector.ljust(_IMAGE_BYTES, b"\0")


def beat(state: bytes) -> int | None:
    """The beat in the bytes at `STATE_ADDRESS`; None before the guest has started."""
    _, number, ready = struct.unpack("<III", state)
    return number if ready == _READY else None


def damage(state: bytes, memory: bytes) -> str:
    """What is wrong with the bytes at `PAGES_ADDRESS`, both read while the guest stands still."""
    last = struct.unpack("<III", state)[0]
    if beat(state) is None:
        return "the guest has not started"
    wrong = []
    for page in range(PAGES):
        first_word, last_word = (
            struct.unpack_from("<I", memory, page * PAGE_BYTES + offset)[0] for offset in (0, PAGE_BYTES - 4)
        )
        number = last - (last - page) % PAGES
        allowed = {max(number, 0)} if (last + 1) % PAGES != page else {max(number, 0), last + 1}
        if not {first_word, last_word} <= allowed:
            wrong.append(f"page {page} has {first_word} and {last_word}, not {number}")
    return "; ".join(wrong)
