"""Definitions made up by hypothesis: any that `definition.parse` could return."""

from uuid import UUID

from hypothesis import strategies as st

from vmferryd.domains import devices as d
from vmferryd.domains import model as m

KIB_BYTES = 1024
texts = st.text(
    st.characters(min_codepoint=32, max_codepoint=0x2FFF, blacklist_categories=("Cs", "Cc")), min_size=1, max_size=20
).filter(lambda text: text.strip())
long_texts = st.text(st.sampled_from("ab é<&>\"'\t\n\r]"), min_size=1, max_size=20)
names = texts.filter(lambda text: "/" not in text and text not in {".", ".."})
words = st.from_regex(r"[a-z][a-z0-9_.-]{0,10}", fullmatch=True)
paths = texts.map(lambda text: "/" + text)
switches = st.none() | st.booleans()
small = st.integers(1, 1000)
kib = st.integers(1, 2**30).map(lambda count: count * KIB_BYTES)


def maybe(strategy):
    """The strategy, or None."""
    return st.none() | strategy


def tuples_of(strategy, maximum=3, by=None):
    """A tuple of what the strategy makes, unique by `by`."""
    return st.lists(strategy, max_size=maximum, unique_by=by).map(tuple)


backends = st.one_of(
    st.builds(d.CharacterBackend, type=st.just(d.CharacterType.PTY), path=maybe(paths)),
    st.builds(d.CharacterBackend, type=st.just(d.CharacterType.FILE), path=paths, append=switches),
)
sockets = st.one_of(
    st.builds(d.CharacterBackend, type=st.just(d.CharacterType.UNIX), path=maybe(paths), mode=st.just(d.SocketMode.BIND)),
    st.builds(d.CharacterBackend, type=st.just(d.CharacterType.UNIX), path=paths, mode=st.just(d.SocketMode.CONNECT)),
)


@st.composite
def disks(draw):
    """A disk or a CD-ROM drive."""
    device = draw(st.sampled_from(d.DiskDevice))
    cdrom = device is d.DiskDevice.CDROM
    return d.Disk(
        device=device,
        type=draw(st.sampled_from(d.DiskType)),
        format=draw(st.sampled_from(d.DiskFormat)),
        cache=draw(maybe(st.sampled_from(d.DiskCache))),
        io=draw(maybe(st.sampled_from(d.DiskIo))),
        discard=draw(maybe(st.sampled_from(d.DiskDiscard))),
        detect_zeroes=draw(maybe(st.sampled_from(d.DetectZeroes))),
        source_path=draw(maybe(paths) if cdrom else paths),
        source_index=draw(maybe(small)),
        target=draw(st.from_regex(r"(vd|sd)[a-f]", fullmatch=True)),
        bus=draw(st.sampled_from(d.DiskBus)),
        serial=draw(maybe(texts)),
        read_only=cdrom or draw(st.booleans()),
        shareable=draw(st.booleans()),
        without_backing_file=draw(st.booleans()),
    )


@st.composite
def interfaces(draw):
    """A network interface."""
    kind = draw(st.sampled_from(d.InterfaceType))
    tail = draw(st.binary(min_size=3, max_size=3))
    return d.Interface(
        type=kind,
        mac="52:54:00:" + ":".join(f"{byte:02x}" for byte in tail),
        bridge=draw(words) if kind is d.InterfaceType.BRIDGE else None,
        target_device=draw(maybe(words)),
        target_managed=draw(switches) if kind is d.InterfaceType.ETHERNET else None,
        model=draw(st.sampled_from(d.InterfaceModel)),
        link=draw(maybe(st.sampled_from(d.LinkState))),
        mtu_bytes=draw(maybe(st.integers(68, 65535))),
    )


@st.composite
def controllers(draw):
    """Controllers of q35, each at most once, and some root ports."""
    ports = maybe(st.integers(8, 31))
    scsi = d.Controller(type=d.ControllerType.SCSI, index=0, model=d.ControllerModel.VIRTIO_SCSI)
    serial = d.Controller(type=d.ControllerType.VIRTIO_SERIAL, index=0, ports=draw(ports))
    usb = d.Controller(type=d.ControllerType.USB, index=0, model=d.ControllerModel.QEMU_XHCI, ports=draw(ports))
    sata = d.Controller(type=d.ControllerType.SATA, index=0)
    chosen = draw(st.lists(st.sampled_from([scsi, serial, usb, sata]), unique=True, max_size=4))
    root = d.Controller(type=d.ControllerType.PCI, index=0, model=d.ControllerModel.PCIE_ROOT)
    root_ports = [
        d.Controller(
            type=d.ControllerType.PCI,
            index=index + 1,
            model=d.ControllerModel.PCIE_ROOT_PORT,
            hardware=draw(maybe(st.just("pcie-root-port"))),
            chassis=draw(maybe(st.just(index + 1))),
            port=draw(maybe(st.integers(0, 255))),
        )
        for index in range(draw(st.integers(0, 10)))
    ]
    return (*chosen, root, *root_ports)


graphics = st.one_of(
    st.builds(
        d.Graphics,
        port=maybe(st.integers(5900, 65535)),
        autoport=st.booleans(),
        listen=maybe(st.builds(d.ListenAddress, maybe(texts))),
    ),
    st.builds(d.Graphics, autoport=st.booleans(), listen=st.builds(d.ListenSocket, paths)),
)
videos = st.builds(
    d.Video,
    model=st.sampled_from(d.VideoModel),
    vram_bytes=maybe(st.integers(1, 2**20).map(lambda count: count * KIB_BYTES)),
    heads=maybe(st.integers(1, 16)),
    primary=switches,
)
inputs = st.builds(d.Input, type=st.sampled_from(d.InputType), bus=st.sampled_from(d.InputBus)).filter(
    lambda device: (device.type, device.bus) != (d.InputType.TABLET, d.InputBus.PS2)
)
rngs = st.builds(d.Rng, path=maybe(paths)) | st.builds(d.Rng, rate_bytes=small, rate_period_ms=small)


@st.composite
def device_sets(draw):
    """Devices that go together."""
    serials = draw(st.lists(backends | sockets, max_size=4))
    consoles = draw(st.lists(backends | sockets, max_size=2))
    shown = draw(tuples_of(graphics, 1))
    return d.Devices(
        emulator=draw(maybe(paths)),
        disks=draw(tuples_of(disks(), 6, by=lambda disk: disk.target)),
        controllers=draw(controllers()),
        interfaces=draw(tuples_of(interfaces(), by=(lambda nic: nic.mac, lambda nic: nic.target_device or nic.mac))),
        serials=tuple(d.Serial(backend=backend, port=port) for port, backend in enumerate(serials)),
        consoles=tuple(d.Console(backend=backend, port=port) for port, backend in enumerate(consoles)),
        channels=draw(
            tuples_of(
                st.builds(d.Channel, backend=sockets, name=texts, state=maybe(st.sampled_from(d.ChannelState))),
                by=lambda channel: channel.name,
            )
        ),
        inputs=draw(tuples_of(inputs)),
        graphics=shown,
        audio=(d.Audio(id=1),) if draw(st.booleans()) else (),
        videos=draw(st.lists(videos, min_size=len(shown), max_size=2).map(tuple)),
        rngs=draw(tuples_of(rngs, 2)),
        memory_balloon=draw(
            st.builds(
                d.MemoryBalloon,
                model=st.sampled_from(d.BalloonModel),
                autodeflate=switches,
                free_page_reporting=switches,
            )
        ),
    )


@st.composite
def cpus(draw, vcpus):
    """A CPU for so many vCPUs."""
    mode = draw(st.sampled_from(m.CpuMode))
    from_host = mode in {m.CpuMode.HOST_PASSTHROUGH, m.CpuMode.MAXIMUM}
    name = draw(maybe(words)) if mode is m.CpuMode.CUSTOM else None
    features = st.builds(m.CpuFeature, words, st.sampled_from(m.CpuFeaturePolicy))
    return m.Cpu(
        mode=mode,
        match=draw(st.sampled_from(m.CpuMatch)) if name else None,
        check=draw(maybe(st.sampled_from(m.CpuCheck))),
        migratable=draw(switches) if from_host else None,
        model=name,
        fallback=None if from_host else draw(maybe(st.sampled_from(m.CpuFallback))),
        vendor=draw(maybe(words)),
        topology=draw(maybe(st.just(m.CpuTopology(sockets=1, cores=vcpus, threads=1)))),
        features=draw(tuples_of(features, by=lambda feature: feature.name)),
    )


@st.composite
def clocks(draw):
    """A clock with some timers."""
    offset = draw(st.sampled_from(m.ClockOffset))
    is_variable = offset is m.ClockOffset.VARIABLE
    timers = [
        m.Timer(name=m.TimerName.RTC, tick_policy=draw(maybe(st.just(m.TickPolicy.CATCHUP)))),
        m.Timer(name=m.TimerName.PIT, tick_policy=draw(maybe(st.just(m.TickPolicy.DISCARD)))),
        m.Timer(name=m.TimerName.HPET, present=draw(switches)),
        m.Timer(name=m.TimerName.TSC, frequency_hz=draw(maybe(small))),
    ]
    return m.Clock(
        offset=offset,
        adjustment_s=draw(st.integers(-(2**40), 2**40)) if is_variable else None,
        basis=draw(st.sampled_from(m.ClockBasis)) if is_variable else None,
        timers=tuple(draw(st.lists(st.sampled_from(timers), unique=True))),
    )


@st.composite
def systems(draw):
    """A q35 machine that boots from devices or a kernel."""
    kernel = draw(maybe(long_texts))
    return m.OperatingSystem(
        architecture=m.Architecture.X86_64,
        machine=draw(st.sampled_from(["q35", "pc-q35-8.2"])),
        boot_devices=draw(st.lists(st.sampled_from(m.BootDevice), min_size=1, unique=True).map(tuple)),
        kernel=kernel,
        initrd=draw(maybe(paths)) if kernel else None,
        cmdline=draw(maybe(long_texts)) if kernel else None,
    )


simulations = st.builds(
    m.Simulation,
    dirty_rate_pages_per_s=maybe(st.integers(0, 2**53)),
    working_set_pages=maybe(small),
    boot_time_ms=maybe(small),
)
metadata = st.sampled_from(
    [
        (),
        ('<a:b xmlns:a="urn:a"></a:b>',),
        ('<b xmlns="urn:b"> text <!-- kept --><c d="e">\n</c></b>', '<a:b xmlns:a="urn:a" a:c="d">x</a:b>'),
    ]
)


@st.composite
def definitions(draw):
    """A definition without addresses; `addresses.assign_addresses` can give it all of them."""
    kind = draw(st.sampled_from(m.DomainType))
    memory_bytes = draw(kib)
    vcpus = draw(st.integers(1, 64))
    lifecycle = st.sampled_from(m.LifecycleAction)
    return m.DomainDefinition(
        type=kind,
        name=draw(names),
        uuid=UUID(int=draw(st.integers(1, 2**128 - 1))),
        live_id=draw(maybe(small)),
        title=draw(maybe(texts)),
        description=draw(maybe(long_texts)),
        memory_bytes=memory_bytes,
        current_memory_bytes=draw(st.sampled_from([memory_bytes, KIB_BYTES])),
        memory_locked=draw(st.booleans()),
        vcpus=vcpus,
        resource_partition=draw(maybe(st.just("/machine"))),
        os=draw(systems()),
        features=draw(st.builds(m.Features, acpi=st.booleans(), apic=st.booleans(), pae=st.booleans(), vmport=switches)),
        cpu=draw(maybe(cpus(vcpus))),
        clock=draw(clocks()),
        lifecycle=draw(st.builds(m.Lifecycle, on_poweroff=lifecycle, on_reboot=lifecycle, on_crash=lifecycle)),
        power_management=draw(st.builds(m.PowerManagement, suspend_to_mem=switches, suspend_to_disk=switches)),
        simulation=draw(maybe(simulations)) if kind is m.DomainType.TEST else None,
        metadata=draw(metadata),
        devices=draw(device_sets()),
    )
