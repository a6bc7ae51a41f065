"""The nouns of a domain definition that are not devices.

Everything here is frozen and holds what the guest will be, not how the XML spelled it: sizes are in bytes, what
libvirt fills in by itself is filled in. A value is constructed by `definition.parse`, which refuses what does not
fit together; the constructors themselves check nothing.
"""

from dataclasses import dataclass, field
from enum import Enum, StrEnum
from uuid import UUID

from vmferryd.domains.devices import Devices


class DomainType(StrEnum):
    """Who runs the guest's instructions. It is always said, never guessed from what the host could do."""

    KVM = "kvm"
    QEMU = "qemu"
    TEST = "test"


class Architecture(StrEnum):
    """The guest's processor architecture."""

    X86_64 = "x86_64"


class Chipset(Enum):
    """The family of a machine type: it decides where on the PCI bus things can be."""

    I440FX = ("pc", "pc-i440fx-")
    Q35 = ("q35", "pc-q35-")

    @classmethod
    def of_machine(cls, machine: str) -> "Chipset | None":
        """Return the family `machine` belongs to; None for one that is not supported."""
        families = (chipset for chipset in cls if chipset.has_machine(machine))
        return next(families, None)

    def has_machine(self, machine: str) -> bool:
        """Return whether `machine` is this family's short name or one of its versions."""
        short, versioned = self.value
        return machine == short or (machine.startswith(versioned) and machine != versioned)


class BootDevice(StrEnum):
    """A class of devices the firmware tries."""

    HD = "hd"
    CDROM = "cdrom"
    NETWORK = "network"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingSystem:
    """The machine and what it boots.

    Attributes:
        machine: QEMU's machine type; its family is supported.
        boot_devices: in the order tried; empty exactly when devices carry a boot order of their own.
        kernel: path of a kernel booted without a boot loader; `initrd` and `cmdline` come only with it.
    """

    architecture: Architecture
    machine: str
    boot_devices: tuple[BootDevice, ...] = (BootDevice.HD,)
    kernel: str | None = None
    initrd: str | None = None
    cmdline: str | None = None

    @property
    def chipset(self) -> Chipset:
        """The machine type's family."""
        chipset = Chipset.of_machine(self.machine)
        if chipset is None:
            raise ValueError(f"no supported family has the machine type {self.machine!r}")
        return chipset


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Switches of the machine; None is QEMU's own choice."""

    acpi: bool = False
    apic: bool = False
    pae: bool = False
    vmport: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerManagement:
    """Whether the firmware offers the sleep states to the guest; None is QEMU's own choice."""

    suspend_to_mem: bool | None = None
    suspend_to_disk: bool | None = None


class CpuMode(StrEnum):
    """Where the guest's CPU comes from."""

    CUSTOM = "custom"
    HOST_MODEL = "host-model"
    HOST_PASSTHROUGH = "host-passthrough"
    MAXIMUM = "maximum"


class CpuMatch(StrEnum):
    """How the host's CPU may differ from a custom one."""

    MINIMUM = "minimum"
    EXACT = "exact"
    STRICT = "strict"


class CpuCheck(StrEnum):
    """How much of the CPU is verified before the guest starts."""

    NONE = "none"
    PARTIAL = "partial"
    FULL = "full"


class CpuFallback(StrEnum):
    """Whether a simpler model may stand in for one that QEMU does not know."""

    ALLOW = "allow"
    FORBID = "forbid"


class CpuFeaturePolicy(StrEnum):
    """What becomes of one CPU feature."""

    FORCE = "force"
    REQUIRE = "require"
    OPTIONAL = "optional"
    DISABLE = "disable"
    FORBID = "forbid"


@dataclass(frozen=True, slots=True)
class CpuFeature:
    """One CPU feature, named once per CPU."""

    name: str
    policy: CpuFeaturePolicy = CpuFeaturePolicy.REQUIRE


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTopology:
    """How the vCPUs are arranged; the product is the number of vCPUs."""

    sockets: int
    dies: int = 1
    cores: int
    threads: int

    @property
    def vcpus(self) -> int:
        """The number of vCPUs arranged so."""
        return self.sockets * self.dies * self.cores * self.threads


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """The guest's CPU.

    Attributes:
        match: given exactly for a custom CPU with a model.
        migratable: only features that can migrate; for the modes taken from the host.
        model: a model's name; None for the hypervisor's default or where the host decides.
        vendor: the vendor the host's CPU must be of.
    """

    mode: CpuMode = CpuMode.CUSTOM
    match: CpuMatch | None = None
    check: CpuCheck | None = None
    migratable: bool | None = None
    model: str | None = None
    fallback: CpuFallback | None = None
    vendor: str | None = None
    topology: CpuTopology | None = None
    features: tuple[CpuFeature, ...] = ()


class ClockOffset(StrEnum):
    """What the guest's clock shows when it starts."""

    UTC = "utc"
    LOCALTIME = "localtime"
    VARIABLE = "variable"


class ClockBasis(StrEnum):
    """What a variable clock is an adjustment of."""

    UTC = "utc"
    LOCALTIME = "localtime"


class TimerName(StrEnum):
    """A timer the guest can see."""

    RTC = "rtc"
    PIT = "pit"
    HPET = "hpet"
    TSC = "tsc"
    KVMCLOCK = "kvmclock"


class TickPolicy(StrEnum):
    """What becomes of ticks the guest missed."""

    DELAY = "delay"
    CATCHUP = "catchup"
    DISCARD = "discard"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer:
    """One timer, named once per clock. The frequency is that of the TSC."""

    name: TimerName
    present: bool | None = None
    tick_policy: TickPolicy | None = None
    frequency_hz: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """The guest's clock; adjustment and basis are given exactly for a variable one."""

    offset: ClockOffset = ClockOffset.UTC
    adjustment_s: int | None = None
    basis: ClockBasis | None = None
    timers: tuple[Timer, ...] = ()


class LifecycleAction(StrEnum):
    """What happens to the guest's process after an event in the guest."""

    DESTROY = "destroy"
    RESTART = "restart"
    PRESERVE = "preserve"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifecycle:
    """The action for each event."""

    on_poweroff: LifecycleAction = LifecycleAction.DESTROY
    on_reboot: LifecycleAction = LifecycleAction.RESTART
    on_crash: LifecycleAction = LifecycleAction.DESTROY


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """How a guest of type `test` behaves; None is the driver's own choice.

    Attributes:
        dirty_rate_pages_per_s: pages the guest writes each second while it runs.
        working_set_pages: distinct pages those writes go to.
        boot_time_ms: time from the start until the guest answers.
    """

    dirty_rate_pages_per_s: int | None = None
    working_set_pages: int | None = None
    boot_time_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainDefinition:
    """A guest: everything needed to build the same machine anywhere.

    Attributes:
        live_id: the number libvirt gives a running guest; carried, never used.
        memory_bytes: a multiple of 1024, as is `current_memory_bytes`, which is never greater.
        memory_locked: the host may swap none of it out.
        resource_partition: libvirt's default control group of a running guest; carried, never used.
        simulation: given only for type `test`.
        metadata: other people's elements, each as canonical XML with the namespaces it needs.
    """

    type: DomainType
    name: str
    uuid: UUID
    memory_bytes: int
    current_memory_bytes: int
    os: OperatingSystem
    live_id: int | None = None
    title: str | None = None
    description: str | None = None
    memory_locked: bool = False
    vcpus: int = 1
    resource_partition: str | None = None
    features: Features = field(default_factory=Features)
    cpu: Cpu | None = None
    clock: Clock = field(default_factory=Clock)
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    power_management: PowerManagement = field(default_factory=PowerManagement)
    simulation: Simulation | None = None
    metadata: tuple[str, ...] = ()
    devices: Devices = field(default_factory=Devices)
