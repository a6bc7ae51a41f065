"""The daemon's configuration: one TOML file, overridden by the command line. Nothing else reads files or environment.

Everything is checked here, all findings are reported together, and an unknown key is one of them.
"""

from __future__ import annotations

import ipaddress
import tomllib
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from vmferry.bounds import Bounds
from vmferry.channel import DEFAULT_SOCKET, ChannelOptions, Transport, Uri, parse_uri
from vmferry.errors import InvalidParameter, Violation, VmferryError
from vmferry.features import Feature
from vmferry.negotiation import LADDER
from vmferry.protocol import ProtocolVersion
from vmferryd.limits import Limits

OTHER_FEATURES = frozenset(
    {
        Feature.MIGRATION_P2P,
        Feature.MIGRATION_DIRECT,
        Feature.MIGRATE_CHANGE_PROTECTION,
        Feature.XML_MIGRATABLE,
        Feature.MIGRATION_OFFLINE,
    }
)
"""What this daemon can besides the protocols."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)


class Keepalive(_Section):
    """How a silent connection is noticed, in seconds."""

    interval_s: float = Field(5.0, gt=0)
    timeout_s: float = Field(5.0, gt=0)


class QemuSection(_Section):
    """The QEMU driver. `emulator` replaces the one that is found in the search path."""

    enabled: bool = True
    emulator: Path | None = None
    start_timeout_s: float = Field(
        20.0, gt=0, description="from the start of a QEMU until its monitor answers; 8 s more for each GiB that it locks"
    )
    stop_timeout_s: float = Field(5.0, gt=0, description="for a QEMU to end by itself, and again after it was killed")
    monitor_timeout_s: float = Field(5.0, gt=0, description="for a monitor to greet; another client may hold it")
    command_timeout_s: float = Field(30.0, gt=0, description="for the answer to one command of a monitor")
    cancel_timeout_s: float = Field(30.0, gt=0, description="for a cancelled transfer to reach its end")
    yank_after_s: float = Field(2.0, gt=0, description="for a transfer to react before its channel is shut under it")
    handshake_timeout_s: float = Field(10.0, gt=0, description="for a TLS handshake in which its main loop waits")
    settle_timeout_s: float = Field(2.0, gt=0, description="for a QEMU to settle its own state after a transfer's end")
    statistics_timeout_s: float = Field(1.0, gt=0, description="for fresh figures of a transfer")
    look_timeout_s: float = Field(2.0, gt=0, description="for one look at the processes of the host, or at an image")


class AnnounceSection(_Section):
    """What other daemons and clients may use of this one; by default all that it can.

    `protocols` are the versions whose calls it answers, `params` the typed spelling of protocol 3, which is a question of
    its own. `features` are the numbers of the other features that it announces.
    """

    protocols: frozenset[ProtocolVersion] = frozenset(ProtocolVersion)
    params: bool = True
    features: frozenset[Feature] = OTHER_FEATURES

    @field_validator("features")
    @classmethod
    def _features(cls, value: frozenset[Feature]) -> frozenset[Feature]:
        known = ", ".join(str(feature.value) for feature in sorted(OTHER_FEATURES))
        if strange := sorted(value - OTHER_FEATURES):
            named = ", ".join(f"{feature.value} ({feature.name})" for feature in strange)
            raise ValueError(f"only {known} can be listed, not {named}; `protocols` and `params` say the rest")
        return value

    @property
    def announced(self) -> tuple[Feature, ...]:
        """Every feature that is announced, by number."""
        speaks = {feature for version, feature in LADDER if version in self.protocols}
        return tuple(sorted(self.features | speaks | ({Feature.MIGRATION_PARAMS} if self.params else set())))


class DataSection(_Section):
    """How guests' data comes in besides the tunnel."""

    native: bool = Field(
        default=True, description="let data travel outside the daemons' own connection, where that is allowed"
    )
    listen: str = Field("", description="the address to wait at; by default that of the daemon's first TLS place, else TCP")
    port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="the port that migrations share; by default the one after the daemon's, or any with UNIX sockets alone",
    )
    first_port: int = Field(49152, ge=1, le=65535, description="the first port for migrations that ask for one of their own")
    last_port: int = Field(49215, ge=1, le=65535, description="the last of those ports")
    host: str = Field("", description="how sources reach the data ports; by default the host that other daemons are told")
    plain: bool = Field(
        default=False, description="let data travel unencrypted over a network, to where a migration asks for"
    )
    window_mib: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="how much of a tunnel's data may be on its way to here; by default what the line turns out to need",
    )

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.last_port < self.first_port:
            raise ValueError(f"last_port {self.last_port} comes before first_port {self.first_port}")
        return self


class LogSection(_Section):
    """The log goes to stderr."""

    level: str = Field("info", pattern="^(debug|info|warning|error)$")
    json_lines: bool = False


class Config(_Section):
    """All that can be configured.

    `listen` are the places where the daemon answers. `advertise` is where a peer reaches it; by default the first TLS place,
    else the first TCP place, else the first UNIX socket. `certificates` is a folder that `vmferry pki issue host`
    made: `ca-cert.pem`, `server-cert.pem`, `server-key.pem`, and `client-cert.pem` with `client-key.pem` for the connections
    that the daemon makes itself.
    """

    listen: tuple[Uri, ...] = (Uri(Transport.UNIX, path=str(DEFAULT_SOCKET)),)
    advertise: Uri | None = None
    insecure: bool = False
    certificates: Path | None = None
    state_directory: Path = Path("/var/lib/vmferry")
    run_directory: Path = Path("/run/vmferry")
    host_name: str = ""
    host_uuid: UUID | None = None
    limits: Limits = Limits()
    keepalive: Keepalive = Keepalive()
    qemu: QemuSection = QemuSection()
    announce: AnnounceSection = AnnounceSection()
    data: DataSection = DataSection()
    log: LogSection = LogSection()

    @field_validator("listen", mode="before")
    @classmethod
    def _listen(cls, value: Any) -> Any:
        items = value if isinstance(value, (list, tuple)) else [value]
        if not items:
            raise ValueError("the daemon must listen somewhere")
        return tuple(_uri(item) for item in items)

    @field_validator("advertise", mode="before")
    @classmethod
    def _advertise(cls, value: Any) -> Any:
        return _uri(value)

    @model_validator(mode="after")
    def _checked(self) -> Self:
        problems = [problem for uri in self.listen if (problem := self._problem_of(uri))]
        if self.data.listen and not (self.data.plain or self.insecure or _loopback(self.data.listen) or self._speaks_tls):
            problems.append(
                f"data.listen = {self.data.listen} would let guests travel unencrypted over the network: "
                "let the daemon listen with vmferry+tls://, or set data.plain = true"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _problem_of(self, uri: Uri) -> str:
        if uri.transport is Transport.TLS and self.certificates is None:
            return f"{uri} needs `certificates`: a folder that `vmferry pki issue host` made"
        if uri.transport is Transport.TCP and not self.insecure and not _loopback(uri.host):
            return (
                f"{uri} would let anyone on the network move guests: use vmferry+tls:// with certificates, "
                "or spell out --insecure"
            )
        return ""

    @property
    def _speaks_tls(self) -> bool:
        return self.reached_at.transport is Transport.TLS

    @property
    def as_client(self) -> Bounds:
        """The bounds of this daemon where it asks another one."""
        return Bounds(
            keepalive_s=self.keepalive.interval_s,
            keepalive_timeout_s=self.keepalive.timeout_s,
            reconnect_first_s=self.limits.reconnect_first_s,
            reconnect_longest_s=self.limits.reconnect_longest_s,
            call_s=self.limits.peer_call_s,
            phase_s=self.limits.peer_phase_s,
            patience_s=self.limits.doubt_s,
            patience_pause_s=self.limits.resolver_first_s,
        )

    @property
    def as_server(self) -> ChannelOptions:
        """The bounds of a connection that somebody makes to this daemon."""
        window_bytes = self.data.window_mib << 20 if self.data.window_mib is not None else None
        return ChannelOptions(self.keepalive.interval_s, self.keepalive.timeout_s, window_bytes=window_bytes)

    @property
    def reached_at(self) -> Uri:
        """The place that peers are told."""
        if self.advertise is not None:
            return self.advertise
        return self.main_place

    @property
    def main_place(self) -> Uri:
        """The first TLS place; without one the first TCP place, and without that the first socket.

        Who speaks TLS at all is reached so by its peers: what it offers besides is for programs beside it, perhaps.
        """
        order = (Transport.TLS, Transport.TCP, Transport.UNIX)
        return min(self.listen, key=lambda uri: order.index(uri.transport))


def load(path: Path | None, options: dict[str, Any]) -> Config:
    """The configuration in `path`, with `options` on top of it.

    Raises:
        InvalidParameter: it cannot be read, or says what it may not; all findings at once.
    """
    settings = _read(path) if path else {}
    for section, value in options.items():
        before = settings.get(section)
        settings[section] = {**before, **value} if isinstance(value, dict) and isinstance(before, dict) else value
    try:
        return Config(**settings)
    except ValidationError as error:
        raise InvalidParameter(
            "the configuration cannot be used" + (f" ({path})" if path else ""),
            violations=tuple(_violation(dict(finding)) for finding in error.errors()),
        ) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidParameter(f"the configuration {path} cannot be read: {error}") from None


def _violation(finding: dict[str, Any]) -> Violation:
    place = ".".join(str(part) for part in finding["loc"]) or "configuration"
    remedy = "remove it, or correct its spelling" if finding["type"] == "extra_forbidden" else ""
    return Violation(place, str(finding["msg"]).removeprefix("Value error, "), remedy)


def _uri(value: Any) -> Any:
    try:
        return parse_uri(value) if isinstance(value, str) else value
    except VmferryError as error:
        raise ValueError(f"{error.message}: {error.remedy}") from None


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
