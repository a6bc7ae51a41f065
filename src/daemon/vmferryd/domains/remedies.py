"""What to do about a construct that is not supported, where there is more to say than to remove it."""

_REMOVE = "Remove it if the guest can do without; vmferry cannot honour it."

_DUMPED = "It describes a running guest: 'virsh dumpxml --migratable' leaves it out."
_HOST_DEVICE = "A guest that holds a device of its host cannot migrate; give it a virtual one."
_SPICE = "Use <graphics type='vnc'> and remove the SPICE devices."
_HOST_TUNING = "It binds the guest to one host; remove it and place the guest by other means."
_FIRMWARE = "Only the default BIOS is supported; remove it."
_IDE = "Use bus='sata' with machine 'q35', or bus='virtio' or 'scsi' with any machine."

_MEMORY = "The guest's memory is ordinary anonymous memory, which can be locked; remove it."

_REMEDIES = {
    "domain/seclabel": "vmferryd confines no guest. " + _DUMPED,
    "domain/vcpus": _DUMPED,
    "domain/cputune": _HOST_TUNING,
    "domain/numatune": _HOST_TUNING,
    "domain/iothreads": "All disks are served by the main loop; remove it and the disks' iothread attributes.",
    "memoryBacking/hugepages": _MEMORY,
    "memoryBacking/source": _MEMORY,
    "memoryBacking/access": _MEMORY,
    "memoryBacking/allocation": _MEMORY,
    "domain/memtune": "The host bounds no guest's memory; remove it. What may be locked is the daemon's own limit.",
    "domain/maxMemory": "Memory cannot be plugged; remove it and give <memory> what the guest may have.",
    "domain/sysinfo": "The firmware tables cannot be set; remove it.",
    "domain/genid": "The generation identifier is not supported; remove it.",
    "domain/launchSecurity": "Encrypted guests cannot migrate here; remove it.",
    "domain/on_lockfailure": "There is no lock manager; remove it.",
    "domain/{http://libvirt.org/schemas/domain/qemu/1.0}commandline": (
        "Raw QEMU arguments cannot be carried to another host; use the elements of the domain XML."
    ),
    "os/@firmware": _FIRMWARE,
    "os/loader": _FIRMWARE,
    "os/nvram": _FIRMWARE,
    "os/bootmenu": "The boot menu is not supported; remove it.",
    "missing/type": "Write <type arch='x86_64' machine='q35'>hvm</type>.",
    "missing/name": "Name the guest.",
    "missing/memory": "Give the guest memory, as in <memory unit='GiB'>2</memory>.",
    "missing/os": "Write <os><type arch='x86_64' machine='q35'>hvm</type></os>.",
    "missing/cmdline": _REMOVE,
    "domain/@type": "Write type='kvm' or type='qemu'; it is never guessed from the host.",
    "type/@arch": "Write arch='x86_64'; it is not guessed from the host.",
    "type/@machine": "Write machine='q35' or machine='pc', or one of their versions.",
    "model/@type": "Write the model, for instance type='virtio'; libvirt's default depends on its version.",
    "model/@type=qxl": _SPICE,
    "graphics/@type=spice": _SPICE,
    "graphics/@passwd": "A password in the definition would be stored in the clear; listen on a socket instead.",
    "graphics/@websocket": "Put a WebSocket proxy in front of the VNC server.",
    "channel/@type=spicevmc": _SPICE,
    "disk/@type=network": "Attach the volume on both hosts and use type='block'.",
    "disk/@type=volume": "Write the volume's path, with type='file' or 'block'.",
    "disk/@device=floppy": "Use a CD-ROM or a disk.",
    "disk/@device=lun": "Use device='disk'; SCSI commands are not passed through.",
    "disk/backingStore": "QEMU reads the backing file from the image's header; remove it.",
    "backingStore/@type": "QEMU reads the backing file from the image's header; remove the element.",
    "backingStore/format": "QEMU reads the backing file from the image's header; remove the element.",
    "backingStore/source": "QEMU reads the backing file from the image's header; remove the element.",
    "disk/mirror": "Wait until the running copy of the disk has ended.",
    "disk/encryption": "Encrypt inside the guest or below the image.",
    "driver/@iothread": "All disks are served by the main loop; remove it.",
    "target/@bus=ide": _IDE,
    "target/@bus=usb": _IDE,
    "target/@bus": "Write bus='virtio', 'sata' or 'scsi'.",
    "interface/@type=network": "Write type='bridge' and the network's bridge; there are no libvirt networks here.",
    "interface/@type=direct": "A macvtap device cannot be handed over; write type='bridge'.",
    "interface/@type=hostdev": _HOST_DEVICE,
    "interface/source": "A tap device is named by <target dev='…'/>.",
    "source/@dev": "Use file='…' with type='file' and dev='…' with type='block'; name a tap in <target dev='…'/>.",
    "controller/@model": "Write model='virtio-scsi' for SCSI, 'qemu-xhci' for USB, 'pcie-root-port' for PCI.",
    "devices/hostdev": _HOST_DEVICE,
    "devices/filesystem": _HOST_DEVICE,
    "devices/tpm": "A TPM's state cannot be moved; remove it.",
    "devices/vsock": "Use a channel of type 'unix'.",
    "devices/sound": "A server needs no sound; remove it.",
    "devices/redirdev": _SPICE,
    "devices/watchdog": "The watchdog is not supported; remove it (libvirt adds 'itco' to q35 by itself).",
    "memballoon/stats": "Statistics are asked for when they are needed; remove it.",
    "resource/partition": "Control groups are the host's matter; only libvirt's default '/machine' is accepted.",
    "vcpu/@cpuset": _HOST_TUNING,
    "cpu/numa": "The guest has one NUMA node; remove it.",
    "text()": "Remove the text; only elements have a meaning here.",
    "processing-instruction()": "Remove it.",
}


def remedy_for(key: str, otherwise: str = _REMOVE) -> str:
    """Return the remedy for `parent/child`, `tag/@attribute` or `tag/@attribute=value`."""
    return _REMEDIES.get(key, otherwise)
