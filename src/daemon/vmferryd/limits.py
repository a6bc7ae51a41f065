"""Every bound of every wait, in one place. All can be configured, and none is infinite."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Limits(BaseModel):
    """Seconds, unless the name says otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    phase_lease_s: float = Field(60.0, gt=0, description="how long a coordinator may think between two phases")
    coordinator_grace_s: float = Field(
        2.0,
        ge=0,
        description="how long a coordinator whose call broke may take to come back before the source ends the transfer",
    )
    coordinator_silence_s: float = Field(
        5.0,
        gt=0,
        description="how long a coordinator may be silent after the last part was sent before the source asks the "
        "destination itself what became of the guest; it hurries nobody",
    )
    connect_s: float = Field(10.0, gt=0, description="how long the source waits for the destination's data channel")
    data_hello_s: float = Field(5.0, gt=0, description="how long a data connection may take to prove itself")
    data_strangers: int = Field(32, ge=1, description="how many data connections may be unproved at once")
    data_silence_s: float = Field(
        30.0, gt=0, description="how long the peer of a data connection may be silent in its kernel"
    )
    lanes: int = Field(
        272, ge=1, description="how many data connections one migration may have: 255 for its memory, the others for disks"
    )
    transfer_stall_s: float = Field(30.0, gt=0, description="how long a transfer may make no progress at all")
    longest_pause_s: float = Field(
        30.0,
        gt=0,
        description="how long a guest that is moved live may stand still until it can be released, or else it runs on at the "
        "source; and once more, after the last part was sent, until the source asks for an end or says: in doubt",
    )
    recovery_s: float = Field(
        60.0,
        gt=0,
        description="how long a caller waits for a new way of a post-copy that was cut, before it hears of the cut; the "
        "hosts go on looking for one",
    )
    let_go_s: float = Field(30.0, gt=0, description="how long the last part may take while the guest stands still")
    finish_s: float = Field(60.0, gt=0, description="how long Finish waits for the state to be loaded")
    journal_s: float = Field(
        10.0,
        gt=0,
        description="how long the disk may take for one write or read of the journal; a guest that was to be released then "
        "runs on at the source",
    )
    doubt_s: float = Field(10.0, gt=0, description="how long Perform and Confirm ask a silent peer before they say: in doubt")
    peer_call_s: float = Field(5.0, gt=0, description="how long one question to the other daemon may take")
    peer_phase_s: float = Field(
        120.0, gt=0, description="how long one phase may take that this daemon asks of the destination (peer-to-peer)"
    )
    reconnect_first_s: float = Field(0.2, gt=0, description="the first pause before a lost connection is tried again")
    reconnect_longest_s: float = Field(2.0, gt=0, description="the longest pause before a lost connection is tried again")
    peer_silence_s: float = Field(
        3.0,
        gt=0,
        description="how long the destination may be silent while this daemon coordinates, before it ends a transfer",
    )
    resolver_first_s: float = Field(0.25, gt=0, description="the resolver's first pause between two questions")
    resolver_longest_s: float = Field(15.0, gt=0, description="the resolver's longest pause between two questions")
    examine_s: float = Field(5.0, gt=0, description="how long a guest may take to answer when somebody asks where it is")
    progress_s: float = Field(0.25, gt=0, description="how often progress is reported")
    shutdown_s: float = Field(3.0, gt=0, description="how long calls under way may go on after SIGTERM")
    remembered_migrations: int = Field(
        1000, ge=1, description="how many ended migrations the journal keeps with all that is known of them"
    )
    remembered_days: float = Field(
        90.0,
        gt=0,
        description="how many days the journal keeps at least how a migration ended, in case the other host asks; after that "
        "the answer would be: never heard of it, and an operator would have to decide",
    )
    housekeeping_s: float = Field(3600.0, gt=0, description="how often the journal forgets what is old enough")
