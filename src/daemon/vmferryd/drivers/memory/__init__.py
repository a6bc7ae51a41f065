"""The driver for domains of type `test`: simulated guests, where no QEMU is needed.

A `MemoryHost` is the machine, a `MemoryDriver` a daemon's hands on it::

    host = MemoryHost(DrivenClock())
    driver = MemoryDriver(host)
    guest = await driver.start(driver.plan(definition), definition, StartMode.RUNNING)
    host.faults.once(Verb.SEND, FaultKind.LOSE_AFTER)

Guests have real pages, write to them at a rate, and are sent by a pre-copy loop of their own over a real socket. All of
it goes by the host's clock. `host.log` knows who executed what and when, and `host.leftovers()` what is still there.
"""

from vmferryd.drivers.memory.bare import BareHypervisor, bare_hypervisor
from vmferryd.drivers.memory.driver import MemoryDriver
from vmferryd.drivers.memory.execution import ExecutionLog, Span, findings
from vmferryd.drivers.memory.faults import FaultKind, FaultPlan, Verb
from vmferryd.drivers.memory.guest import Program, SimulatedGuest
from vmferryd.drivers.memory.handles import MemoryGuest, MemoryIncomingGuest, MemoryOutgoingGuest
from vmferryd.drivers.memory.host import MemoryHost

__all__ = [
    "BareHypervisor",
    "ExecutionLog",
    "FaultKind",
    "FaultPlan",
    "MemoryDriver",
    "MemoryGuest",
    "MemoryHost",
    "MemoryIncomingGuest",
    "MemoryOutgoingGuest",
    "Program",
    "SimulatedGuest",
    "Span",
    "Verb",
    "bare_hypervisor",
    "findings",
]
