"""The guest of the demo: a Linux whose only process checks its own memory and beats on its serial port."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

NAME = "traveller"

_XML = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>{memory_mib}</memory>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>{command_line}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='maximum'/>
  <devices>
    <serial type='file'><source path={serial} append='on'/><target port='0'/></serial>
  </devices>
</domain>
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the guest is made of. It writes its beats to the end of `serial`, a path that every host of it must have."""

    kernel: Path
    initrd: Path
    command_line: str
    serial: Path
    memory_mib: int

    def definition(self) -> str:
        """Its domain XML."""
        return _XML.format(
            name=NAME,
            memory_mib=self.memory_mib,
            kernel=escape(str(self.kernel)),
            initrd=escape(str(self.initrd)),
            command_line=escape(self.command_line),
            serial=quoteattr(str(self.serial)),
        )
