"""A guest that fits into a boot sector and writes to its disk for ever, one block further at each timer tick.

A failed write is not repeated by the guest; its hypervisor does that, when it stopped the guest for it. Its source, for
`as --32`:

        ljmp $0,$(0x7c00+begin)
    begin:
        xorw %ax,%ax; movw %ax,%ds; movw %ax,%ss; movw $0x7c00,%sp; sti; movb %dl,0x7dfd
    again:
        hlt; movw $(0x7c00+packet),%si; movb 0x7dfd,%dl; movw $0x4300,%ax; int $0x13
        addl $8,(0x7c00+packet+8); jmp again
    packet:
        .byte 16,0; .word 1,0x7c00,0; .long 8,0
"""

from __future__ import annotations

from pathlib import Path

_CODE = bytes.fromhex(
    "ea057c000031c08ed88ed0bc007cfb8816fd7df4be287c8a16fd7db80043cd13668306307c08ebeb10000100007c00000800000000000000"
)
_IMAGE_BYTES = 256 << 20


def make_image(path: Path) -> None:
    """A disk of the guest, of which nothing but the first sector takes space."""
    with path.open("wb") as image:
        image.write(_CODE.ljust(510, b"\0") + b"\x55\xaa")
        image.truncate(_IMAGE_BYTES)


def written_bytes(path: Path) -> int:
    """What the image takes on its disk: more after each write of the guest."""
    return path.stat().st_blocks * 512


def definition(name: str, image: Path, emulator: str | None) -> str:
    """The guest as domain XML."""
    return f"""
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>2048</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/></os>
  <features><acpi/></features>
  <devices>
    {f"<emulator>{emulator}</emulator>" if emulator else ""}
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none'/>
      <source file='{image}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
  </devices>
</domain>"""
