"""An event loop of several simulated processes under one seed: nothing runs in parallel, and time is a number.

Whatever is ready is run in an order that the seed decides; when nothing is ready, time jumps to the next timer. So an hour
of waiting costs nothing, and the same seed gives the same run, step by step.

Each task belongs to the `Process` in whose context it was made. A process can be killed between any two steps: its tasks
never go on, not even into a `finally`, exactly as after `kill -9`. A frozen one goes on where it stood when it is thawed.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import heapq
import sys
import warnings
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from enum import Enum
from random import Random
from typing import Any

from simulation.sockets import PipeEnd

SLOWEST_THREAD_S = 0.01

MOST_STEPS = 400_000
"""More steps than any run needs: whoever needs more goes round in circles."""

_PROCESS: contextvars.ContextVar[Process] = contextvars.ContextVar("process")


class Life(Enum):
    """What a process does."""

    RUNNING = "running"
    FROZEN = "frozen"
    DEAD = "dead"


class Order(Enum):
    """In which order the steps of one process run that are ready. Between processes there is no order, ever."""

    FIFO = "fifo"
    """As asyncio runs them."""
    ANY = "any"
    """As no code may rely on."""


class Stuck(AssertionError):
    """Nothing will ever happen any more, or things happen without end."""


class Process:
    """A daemon, a client, or the world around them. Made by `VirtualLoop.process`."""

    def __init__(self, loop: VirtualLoop, name: str, host: str, order: Order, number: int) -> None:
        self.name = name
        self.number = number
        self.host = host
        self.life = Life.RUNNING
        self.order = order
        self.ready: deque[asyncio.Handle] = deque()
        self.tasks: list[asyncio.Task[Any]] = []
        self._loop = loop
        self.context = contextvars.Context()
        self.context.run(_PROCESS.set, self)

    def spawn(self, work: Coroutine[Any, Any, Any], name: str = "main") -> asyncio.Task[Any]:
        """`work` is a task of this process."""
        return self._loop.create_task(work, name=f"{self.name}: {name}", context=self.context.copy())

    def pending(self) -> list[asyncio.Task[Any]]:
        """Its tasks that have not ended."""
        self.tasks = [task for task in self.tasks if not task.done()]
        return list(self.tasks)

    def kill(self) -> None:
        """None of its tasks ever goes on."""
        self.life = Life.DEAD
        # They are kept: a coroutine that is thrown away would run its `finally` clauses.
        self.pending()
        self.ready.clear()
        self._loop.bury(self)

    def freeze(self) -> None:
        """Its tasks stand still until `thaw`."""
        if self.life is Life.RUNNING:
            self.life = Life.FROZEN

    def thaw(self) -> None:
        """A frozen process goes on."""
        if self.life is Life.FROZEN:
            self.life = Life.RUNNING


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module. `step_hooks` are called with the number of each step before it runs.

    `trace` is a number that depends on every step: two runs with the same trace were the same run.
    """

    def __init__(self, rng: Random, order: Order) -> None:
        super().__init__()
        self.rng = rng
        self.order = order
        self.now_s = 1_000.0
        self.steps = 0
        self.trace = 0
        self.failures: list[str] = []
        self.soon: deque[Callable[[], None]] = deque()
        """What is to happen before the next step, whoever was about to run."""
        self.due: list[tuple[int, int, Callable[[], None]]] = []
        """What is to happen before the step of that number; a heap."""
        self._numbers = 0
        self._timers: list[tuple[float, int, Process, asyncio.TimerHandle]] = []
        self._processes: list[Process] = []
        self._dead: list[Process] = []
        self._made_processes = 0
        self.world = self.process("world", "world", Order.FIFO)
        self.set_task_factory(self._made)
        self.set_exception_handler(self._failed)

    def process(self, name: str, host: str, order: Order | None = None) -> Process:
        """A new process on `host`."""
        self._made_processes += 1
        process = Process(self, name, host, order or self.order, self._made_processes)
        self._processes.append(process)
        return process

    def bury(self, process: Process) -> None:
        """It is dead; what it left half done is kept until the end."""
        if process in self._processes:
            self._processes.remove(process)
            self._dead.append(process)

    @staticmethod
    def current() -> Process:
        """The process whose step is running."""
        return _PROCESS.get()

    def before_step(self, number: int, happens: Callable[[], None]) -> None:
        """`happens` is called before the step of that number, counted from the beginning."""
        self._numbers += 1
        heapq.heappush(self.due, (number, self._numbers, happens))

    def note(self, number: int) -> None:
        """The trace depends on `number` too."""
        self.trace = hash((self.trace, number))

    def forget(self) -> None:
        """What is left half done is thrown away; what it does then has no effect on anything."""
        for process in (*self._processes, *self._dead):
            for task in process.pending():
                task._log_destroy_pending = False
                with contextlib.suppress(BaseException):
                    task.get_coro().close()  # type: ignore[union-attr]

    # -- asyncio's side ---------------------------------------------------------------------------------------------

    def time(self) -> float:
        """Seconds on the clock that everyone goes by."""
        return self.now_s

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> asyncio.Handle:
        """See `asyncio.loop.call_soon`."""
        # The busiest lines of a run: `_queue` by hand.
        handle = asyncio.Handle(callback, args, self, context)
        process = handle._context.get(_PROCESS, self.world)
        if process.life is not Life.DEAD:
            process.ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_at(self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:
        """See `asyncio.loop.call_at`."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        process = _process_of(timer, self.world)
        if when <= self.now_s:
            self._queue(process, timer)
        else:
            self._numbers += 1
            heapq.heappush(self._timers, (when, self._numbers, process, timer))
        return timer

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        """A thread's work is one step, some time from now."""
        promised = self.create_future()

        def work() -> None:
            if promised.done():
                return
            try:
                promised.set_result(func(*args))
            except Exception as error:  # noqa: BLE001 - whoever waits gets it
                promised.set_exception(error)

        self.call_later(self.rng.random() * SLOWEST_THREAD_S, work)
        return promised

    async def sock_recv(self, sock: Any, nbytes: int) -> bytes:
        """See `asyncio.loop.sock_recv`; for simulated sockets."""
        end: PipeEnd = sock
        return await end.recv(nbytes)

    async def sock_sendall(self, sock: Any, data: Any) -> None:
        """See `asyncio.loop.sock_sendall`; for simulated sockets."""
        end: PipeEnd = sock
        await end.sendall(data)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def _queue(self, process: Process, handle: asyncio.Handle) -> None:
        if process.life is not Life.DEAD:
            process.ready.append(handle)

    def _made(self, loop: asyncio.AbstractEventLoop, work: Any, context: Any = None) -> asyncio.Task[Any]:
        task = asyncio.Task(work, loop=loop, context=context)
        process = _PROCESS.get(self.world) if context is None else context.get(_PROCESS, self.world)
        process.tasks.append(task)
        return task

    def _failed(self, _: Any, facts: dict[str, Any]) -> None:
        self.failures.append(f"{facts.get('message')}: {facts.get('exception')!r}")

    def _run_once(self) -> None:
        random, due, soon, running = self.rng.random, self.due, self.soon, Life.RUNNING
        while not self._stopping:
            while due and due[0][0] <= self.steps:
                heapq.heappop(due)[2]()
            while soon:
                soon.popleft()()
            ready = [process for process in self._processes if process.ready and process.life is running]
            if not ready:
                self._jump()
                continue
            process = ready[0] if len(ready) == 1 else ready[int(random() * len(ready))]
            queue = process.ready
            if process.order is Order.ANY and len(queue) > 1:
                queue.rotate(-int(random() * len(queue)))
            handle = queue.popleft()
            if handle._cancelled:
                continue
            self.steps += 1
            if self.steps > MOST_STEPS:
                raise Stuck(f"{self.steps} steps, and no end")
            self.trace = hash((self.trace, process.number, self.now_s))
            handle._run()

    def _jump(self) -> None:
        """Time is that of the next timer, and what is due then is ready."""
        while self._timers:
            when, _, process, timer = heapq.heappop(self._timers)
            if timer._cancelled or process.life is Life.DEAD:
                continue
            self.now_s = when
            process.ready.append(timer)
            while self._timers and self._timers[0][0] <= when:
                _, _, other, also = heapq.heappop(self._timers)
                self._queue(other, also)
            return
        if not self._stopping:
            raise Stuck("nothing will ever happen any more")


def _process_of(handle: asyncio.Handle, otherwise: Process) -> Process:
    return handle._context.get(_PROCESS, otherwise)


@contextmanager
def simulated(rng: Random, order: Order) -> Iterator[VirtualLoop]:
    """A loop, and afterwards nothing of it. What dead processes left half done is thrown away without a word."""
    collecting = gc.isenabled()
    gc.disable()  # a collection at some moment would be a step that no seed decides
    loop = VirtualLoop(rng, order)
    try:
        yield loop
    finally:
        with quiet():
            loop.forget()
            loop.close()
        if collecting:
            gc.enable()


@contextmanager
def quiet() -> Iterator[None]:
    """What is thrown away meanwhile does not complain: coroutines of killed processes, which never end well."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    finally:
        sys.unraisablehook = hook
