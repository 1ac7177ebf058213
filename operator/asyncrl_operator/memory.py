"""What the operator remembers of a job beyond the API server; losing it costs seconds at most."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from asyncrl_api.exits import Note
from asyncrl_operator.kube.certificates import Files
from asyncrl_operator.plan.names import Role
from asyncrl_operator.plan.observed import Observed, Pod, RoleJob

REFUSED_FOR = timedelta(seconds=30)
"""An object that the API server refused is tried again after this."""


@dataclass
class Memory:
    """Of one job, by its uid."""

    uid: str
    files: Files | None = None
    """The job's certificates, as read from or written to its Secret."""
    files_read: datetime | None = None
    ready: dict[Role, tuple[str, set[int]]] = field(default_factory=dict)
    """Of the present Job of a role, by its uid: the indexes whose pods were ready."""
    replaced: dict[tuple[Role, int], datetime] = field(default_factory=dict)
    refusal: Note | None = None
    refused_at: datetime | None = None
    refused_generation: int | None = None

    def see(self, jobs: dict[Role, RoleJob], pods: tuple[Pod, ...]) -> None:
        """Remember which indexes were ready.

        One that was scaled away and comes again is the Job controller's to make: it does so at
        once, and a pod of ours beside it would be the same actor twice.
        """
        for role, job in jobs.items():
            known = self.ready.get(role)
            if known is None or known[0] != job.uid:
                known = self.ready[role] = (job.uid, set())
            ready = {p.index for p in pods if p.job_uid == job.uid and p.ready and p.live}
            known[1].update(ready)
            known[1].intersection_update(range(job.completions))

    def seen_ready(self) -> dict[Role, frozenset[int]]:
        """Which indexes of the present Jobs were once ready."""
        return {role: frozenset(indexes) for role, (_, indexes) in self.ready.items()}

    def refuse(self, note: Note, now: datetime, generation: int | None) -> None:
        """The API server refused an object for what is in it."""
        self.refusal, self.refused_at, self.refused_generation = note, now, generation

    def refused(self, now: datetime, generation: int | None) -> Note | None:
        """Why an object was refused, until it is time to try again, or the spec changes."""
        if self.refused_at is None or self.refused_generation != generation:
            return None
        return self.refusal if now - self.refused_at < REFUSED_FOR else None


def short_of_pods(observed: Observed, now: datetime) -> list[tuple[Role, RoleJob]]:
    """Roles whose Job has fewer pods than it should have after a moment."""
    short = []
    for role, job in observed.jobs.items():
        late = now - job.created > timedelta(seconds=3)
        pods = [pod for pod in observed.current(role) if pod.phase != "Failed"]
        if late and not job.suspended and not job.deleting and len(pods) < job.completions:
            short.append((role, job))
    return short
