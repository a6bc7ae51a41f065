"""The whole system in one process, under a seed: a client, two daemons, two machines, and everything that can go wrong.

What runs is the real thing, from the client library's `Connection.migrate` down to the journal's SQLite file and the guests'
pages. Four things are not real, and all four are handed in where the machine's own are the default
(`vmferryd.app.Surroundings`):

* `loop.py`, asyncio's event loop: one order of steps for one seed, virtual time, processes that can be killed between any
  two steps, or frozen.
* `network.py`, HTTP/2 and TCP: connections, and messages that are lost, late, doubled or cut off. `rpc.py` has gRPC's faces
  over it, so that stubs, services, interceptors and messages are the real ones.
* `disk.py`, the thread under the journal: writes take time and fail, also at the very end.
* `sockets.py`, the sockets between daemons and hypervisors.

A seed is a `Plan` (`plan.py`): hosts, guest, migrations, and faults with the moments that they wait for. `world.py` carries
it out. When nothing goes wrong any more, `oracle.py` waits until both hosts are of one mind and judges: never two copies
executing, exactly one guest with all its memory, nothing left over, records that agree, true words to the client, the same
answer to a repeated call, and a next migration that works.

**When a seed fails** its report ends with the command that replays it, step by step the same::

    PYTHONPATH=tests .venv/bin/python -m simulation 4711             # told as it goes
    PYTHONPATH=tests .venv/bin/python -m simulation 4711 --shrink    # which of its faults are enough
    PYTHONPATH=tests .venv/bin/python -m simulation 4711 --keep 0,2  # with those only

Then write the scenario down as a test of its own (`tests/scenario`), for a seed means something else as soon as the code
takes one step more.

**To add a fault**: a member of `plan.What` and a case in `World._fire`. **To add a mode**: a field of `plan.Attempt` or
`plan.Plan`, drawn in `draw`, and used in `World`. **To add a rule**: a generator in `oracle.py`; then show with a mutant
(`mutants.py`) that it can fail.

Nothing on the path may depend on something that no seed decides: the order of a set of objects (their addresses), a thread,
the real clock. `test_simulation.py` runs seeds in two processes with different hash seeds and compares the traces.
"""
