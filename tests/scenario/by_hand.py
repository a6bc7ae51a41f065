"""A migration walked by hand, so that a test can do between two phases what no client should."""

from __future__ import annotations

from dataclasses import dataclass, field

from support.daemons import NAME, TwoHosts
from vmferry.endpoint import Reply, Request, ignore_progress
from vmferry.flags import Flag
from vmferry.model import MigrationId, Phase, Verdict, new_migration_id


@dataclass
class ByHand:
    """One migration; each method is one call, with the cookie of the phase before."""

    hosts: TwoHosts
    migration_id: MigrationId = field(default_factory=new_migration_id)
    replies: dict[Phase, Reply] = field(default_factory=dict)
    flags: Flag = Flag.LIVE

    def request(self, cookie: Phase | None = None, verdict: Verdict = Verdict.COMMIT) -> Request:
        """What is asked of a phase that gets the cookie of the phase `cookie`."""
        begun, prepared = self.replies.get(Phase.BEGIN), self.replies.get(Phase.PREPARE)
        return Request(
            migration_id=self.migration_id,
            domain=NAME,
            flags=self.flags,
            domain_xml=begun.domain_xml if begun else "",
            cookie=self.replies[cookie].cookie if cookie in self.replies else b"",
            uri=prepared.uri if prepared else "",
            verdict=verdict,
        )

    async def begin(self) -> Reply:
        """Begin."""
        return self._keep(Phase.BEGIN, await self.hosts.source.connection.begin(self.request()))

    async def prepare(self) -> Reply:
        """Prepare, with Begin's cookie."""
        return self._keep(Phase.PREPARE, await self.hosts.destination.connection.prepare(self.request(Phase.BEGIN)))

    async def perform(self) -> Reply:
        """Perform, with Prepare's cookie."""
        request = self.request(Phase.PREPARE)
        return self._keep(Phase.PERFORM, await self.hosts.source.connection.perform(request, ignore_progress))

    async def finish(self, verdict: Verdict = Verdict.COMMIT) -> Reply:
        """Finish, with Perform's cookie."""
        request = self.request(Phase.PERFORM, verdict)
        return self._keep(Phase.FINISH, await self.hosts.destination.connection.finish(request))

    async def confirm(self, verdict: Verdict = Verdict.COMMIT) -> Reply:
        """Confirm, with Finish's cookie."""
        request = self.request(Phase.FINISH, verdict)
        return self._keep(Phase.CONFIRM, await self.hosts.source.connection.confirm(request))

    async def up_to(self, last: Phase) -> ByHand:
        """Every phase up to `last` has run."""
        for phase in Phase:
            await getattr(self, phase.value)()
            if phase is last:
                break
        return self

    def _keep(self, phase: Phase, reply: Reply) -> Reply:
        self.replies[phase] = reply
        return reply
