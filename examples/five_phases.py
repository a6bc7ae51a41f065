"""Walks the five phases of protocol 3 by hand, on nothing but the generated stubs.

`python examples/five_phases.py web unix:/run/a.sock unix:/run/b.sock`; the targets are gRPC's. vmferry's own engine does
this, and asks again when a reply is lost. Here a lost reply is simply an error: whatever this program does or leaves undone,
the two daemons settle the migration between themselves, and exactly one guest is left.
"""

from __future__ import annotations

import sys

import grpc

from vmferry.api.v1 import migration_pb2 as messages
from vmferry.api.v1 import types_pb2 as types
from vmferry.api.v1.migration_pb2_grpc import MigrationServiceStub

LIVE = 1 << 0
PHASE_S = 60.0


def walk(domain: str, source: MigrationServiceStub, destination: MigrationServiceStub) -> types.Domain:
    """The domain as the destination has it; each cookie is carried to the next phase.

    Raises:
        RpcError: what went wrong; `status_details` has our error, which says where the guest is.
    """
    begun = source.Begin(messages.BeginRequest(domain=domain, flags=LIVE), timeout=PHASE_S)
    print("begin:   the source has recorded migration", begun.migration_id)

    prepared = destination.Prepare(
        messages.PrepareRequest(
            migration_id=begun.migration_id, cookie=begun.cookie, domain_xml=begun.domain_xml, flags=LIVE
        ),
        timeout=PHASE_S,
    )
    print("prepare: a guest waits at", prepared.uri or "the destination")

    sent = perform(domain, begun.migration_id, prepared, source)
    verdict = types.VERDICT_COMMIT if sent else types.VERDICT_ROLL_BACK
    finished = destination.Finish(
        messages.FinishRequest(
            migration_id=begun.migration_id, cookie=sent.cookie if sent else b"", flags=LIVE, verdict=verdict
        ),
        timeout=PHASE_S,
    )
    print("finish: ", types.Outcome.Name(finished.outcome))
    if sent is None:  # Perform that fails has already cleaned up the source, so nothing is left to confirm
        sys.exit(f"the guest is at the source: {finished.failure}")

    lives_there = finished.outcome == types.OUTCOME_COMMITTED
    confirmed = source.Confirm(
        messages.ConfirmRequest(
            migration_id=begun.migration_id,
            cookie=finished.cookie,
            flags=LIVE,
            verdict=types.VERDICT_COMMIT if lives_there else types.VERDICT_ROLL_BACK,
        ),
        timeout=PHASE_S,
    )
    print("confirm:", types.Outcome.Name(confirmed.outcome))
    return finished.domain


def perform(
    domain: str, migration_id: str, prepared: messages.PrepareResponse, source: MigrationServiceStub
) -> messages.PerformResult | None:
    """What the transfer came to; None if it failed, and then the guest runs at the source."""
    request = messages.PerformRequest(
        migration_id=migration_id, domain=domain, cookie=prepared.cookie, uri=prepared.uri, flags=LIVE
    )
    try:
        for event in source.Perform(request):  # a stream: progress, and last of all the result
            if event.WhichOneof("event") == "result":
                return event.result
            print("perform:", event.progress.step, event.progress.statistics.memory_remaining_bytes, "bytes left")
    except grpc.RpcError as error:
        print("perform: failed:", error.details(), file=sys.stderr)
    return None


if __name__ == "__main__":
    name, source_target, destination_target = sys.argv[1:]
    with grpc.insecure_channel(source_target) as one, grpc.insecure_channel(destination_target) as other:
        moved = walk(name, MigrationServiceStub(one), MigrationServiceStub(other))
        print(moved.name, "is", types.DomainState.Name(moved.state))
