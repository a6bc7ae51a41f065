"""Domain XML as people and tools write it, and a small document to vary."""

import pytest

from vmferryd.domains import definition
from vmferryd.domains.findings import DefinitionRefused

CLOUD_GUEST = """\
<domain type="kvm">
  <name>web-1</name>
  <uuid>5f2c8a6e-0b57-4d0e-9a36-0d9f5c2ab001</uuid>
  <metadata>
    <libosinfo:libosinfo xmlns:libosinfo="http://libosinfo.org/xmlns/libvirt/domain/1.0">
      <libosinfo:os id="http://debian.org/debian/12"/>
    </libosinfo:libosinfo>
  </metadata>
  <memory>2097152</memory>
  <currentMemory>2097152</currentMemory>
  <vcpu>2</vcpu>
  <os>
    <type arch="x86_64" machine="q35">hvm</type>
    <boot dev="hd"/>
  </os>
  <features>
    <acpi/>
    <apic/>
  </features>
  <cpu mode="host-passthrough"/>
  <clock offset="utc">
    <timer name="rtc" tickpolicy="catchup"/>
    <timer name="pit" tickpolicy="delay"/>
    <timer name="hpet" present="no"/>
  </clock>
  <pm>
    <suspend-to-mem enabled="no"/>
    <suspend-to-disk enabled="no"/>
  </pm>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type="file" device="disk">
      <driver name="qemu" type="qcow2" discard="unmap"/>
      <source file="/srv/images/web-1.qcow2"/>
      <target dev="vda" bus="virtio"/>
    </disk>
    <disk type="file" device="cdrom">
      <driver name="qemu" type="raw"/>
      <source file="/srv/images/web-1-seed.iso"/>
      <target dev="sda" bus="sata"/>
      <readonly/>
    </disk>
    <controller type="usb" model="qemu-xhci" ports="15"/>
    <controller type="pci" model="pcie-root"/>
    <controller type="pci" model="pcie-root-port"/>
    <controller type="pci" model="pcie-root-port"/>
    <controller type="pci" model="pcie-root-port"/>
    <interface type="bridge">
      <source bridge="br0"/>
      <mac address="52:54:00:6B:3C:58"/>
      <model type="virtio"/>
    </interface>
    <console type="pty"/>
    <channel type="unix">
      <source mode="bind"/>
      <target type="virtio" name="org.qemu.guest_agent.0"/>
    </channel>
    <input type="tablet" bus="usb"/>
    <graphics type="vnc" port="-1" listen="127.0.0.1"/>
    <video>
      <model type="virtio"/>
    </video>
    <memballoon model="virtio"/>
    <rng model="virtio">
      <backend model="random">/dev/urandom</backend>
    </rng>
  </devices>
</domain>
"""

RUNNING_GUEST = """\
<domain type='kvm' id='7'>
  <name>db-1</name>
  <uuid>9d1f3e52-7c44-4f5b-8c0d-3a0c86d7f002</uuid>
  <memory unit='KiB'>4194304</memory>
  <currentMemory unit='KiB'>4194304</currentMemory>
  <vcpu placement='static' current='4'>4</vcpu>
  <resource>
    <partition>/machine</partition>
  </resource>
  <os>
    <type arch='x86_64' machine='pc-i440fx-8.2'>hvm</type>
  </os>
  <features><acpi/><apic/><vmport state='off'/></features>
  <cpu mode='custom' match='exact' check='full'>
    <model fallback='forbid'>Skylake-Server-IBRS</model>
    <vendor>Intel</vendor>
    <topology sockets='1' dies='1' clusters='1' cores='2' threads='2'/>
    <feature policy='require' name='pcid'/>
    <feature policy='disable' name='hle'/>
  </cpu>
  <clock offset='variable' adjustment='-3' basis='utc'><timer name='kvmclock' present='yes'/></clock>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>preserve</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='block' device='disk'>
      <driver name='qemu' type='raw' cache='none' io='native' detect_zeroes='unmap'/>
      <source dev='/dev/mapper/db-1' index='2'/>
      <backingStore/>
      <target dev='sda' bus='scsi'/>
      <shareable/>
      <serial>DB1-0001</serial>
      <boot order='1'/>
      <alias name='scsi0-0-0-0'/>
      <address type='drive' controller='0' bus='0' target='0' unit='0'/>
    </disk>
    <controller type='pci' index='0' model='pci-root'>
      <alias name='pci.0'/>
    </controller>
    <controller type='ide' index='0'>
      <alias name='ide'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x1'/>
    </controller>
    <controller type='usb' index='0' model='piix3-uhci'>
      <alias name='usb'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x2'/>
    </controller>
    <controller type='scsi' index='0' model='virtio-scsi'>
      <alias name='scsi0'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x05' function='0x0'/>
    </controller>
    <interface type='ethernet'>
      <mac address='52:54:00:aa:bb:02'/>
      <target dev='tap7' managed='no'/>
      <model type='e1000'/>
      <link state='up'/>
      <mtu size='9000'/>
      <boot order='2'/>
      <alias name='net0'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x03' function='0x0'/>
    </interface>
    <serial type='pty'>
      <source path='/dev/pts/4'/>
      <target type='isa-serial' port='0'><model name='isa-serial'/></target>
      <alias name='serial0'/>
    </serial>
    <console type='pty' tty='/dev/pts/4'>
      <source path='/dev/pts/4'/>
      <target type='serial' port='0'/>
      <alias name='serial0'/>
    </console>
    <input type='mouse' bus='ps2'><alias name='input0'/></input>
    <input type='keyboard' bus='ps2'><alias name='input1'/></input>
    <graphics type='vnc' port='5901' autoport='yes' listen='127.0.0.1'>
      <listen type='address' address='127.0.0.1'/>
    </graphics>
    <audio id='1' type='none'/>
    <video>
      <model type='vga' vram='16384' heads='1' primary='yes'/>
      <alias name='video0'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/>
    </video>
    <memballoon model='none'/>
  </devices>
</domain>
"""

BARE = """\
<domain type='{type}'>
<name>bare</name>
<uuid>5f2c8a6e-0b57-4d0e-9a36-0d9f5c2ab003</uuid>
<memory unit='MiB'>512</memory>
{general}
<os><type arch='x86_64' machine='{machine}'>hvm</type>{os}</os>
<devices>
{devices}
</devices>
</domain>
"""
DISK = "<disk><source file='/d/{0}'/><target dev='{0}' bus='{1}'/>{2}</disk>"
NIC = "<interface type='user'><mac address='52:54:00:00:00:{0:02x}'/><model type='virtio'/>{1}</interface>"


def bare(devices="", general="", os="", machine="q35", type="kvm"):  # noqa: A002 - as in the document
    """A minimal guest; devices begin on line 8, what is general is line 5."""
    return BARE.format(type=type, general=general, os=os, machine=machine, devices=devices)


def parsed(devices="", **parts):
    """The guest that the bare document with these devices and parts describes."""
    return definition.parse(bare(devices, **parts))


def devices_of(devices):
    """The devices that the bare document with these devices describes."""
    return parsed(devices).devices


def refusals(xml):
    """The findings of a refused document as (xpath, line)."""
    with pytest.raises(DefinitionRefused) as caught:
        definition.parse(xml)
    return [(finding.xpath, finding.line) for finding in caught.value.findings]


def refused_parts(devices="", **parts):
    """The paths below /domain/devices, or from the root, of what is refused; each has a line."""
    found = refusals(bare(devices, **parts))
    assert all(line is not None for _, line in found)
    return [xpath.removeprefix("/domain/devices/") for xpath, _ in found]
