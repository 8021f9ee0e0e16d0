"""What one run of the loss test does, and what it found."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from enum import StrEnum

#: The one queue of a run.
QUEUE = "loss_jobs"


class Kind(StrEnum):
    """Who consumes."""

    OURS = "ours"
    CELERY_SOLO = "celery-solo"
    CELERY_PREFORK = "celery-prefork"
    CELERY_THREADS = "celery-threads"
    #: Typed jobs in processes; the others of Celery run plain tasks.
    CELERY_JOBS = "celery-jobs"
    STOCK_KOMBU = "stock-kombu"
    STOCK_CELERY = "stock-celery"
    #: Stock Celery workers and installed ones side by side.
    MIXED = "mixed"

    @property
    def members(self) -> tuple[Kind, ...]:
        """The kinds of its workers, in turn."""
        return (Kind.STOCK_CELERY, Kind.CELERY_PREFORK, Kind.CELERY_SOLO) if self is Kind.MIXED else (self,)

    @property
    def pool(self) -> str:
        """Its Celery worker's pool; empty if it is none."""
        if self in (Kind.STOCK_CELERY, Kind.CELERY_JOBS):
            return "prefork"
        return self.removeprefix("celery-") if self.startswith("celery-") else ""

    @property
    def typed(self) -> bool:
        """Whether what it consumes are typed jobs."""
        return self in (Kind.OURS, Kind.CELERY_JOBS)

    @property
    def stock(self) -> bool:
        """Whether it is a control: nothing of this package runs in it."""
        return self.startswith("stock")


@dataclass(frozen=True)
class Plan:
    """How much of what.

    Args:
        kind: Who consumes.
        jobs: Jobs queued at the start; as many again whenever the consumers run dry before the last fault.
        kills: Consumers killed with SIGKILL, each replaced at once. Of mixed ones, stock ones and ours in turn.
        restarts: Restarts of the broker, every other one a SIGKILL.
        cuts: Times that all connections of all consumers are cut, every other time with RST.
        workers: Consumer processes at a time.
        prefetch: Jobs each holds (Celery: for each of its two slots).
        lease: Seconds; for the controls the visibility timeout.
        work: Seconds a job takes.
        seed: Of the order and the instants of the faults.
        spare_stock: Of mixed consumers, kill only ours. Cuts and restarts hit both.
    """

    kind: Kind
    jobs: int = 300
    kills: int = 5
    restarts: int = 0
    cuts: int = 0
    workers: int = 2
    prefetch: int = 10
    lease: float = 2.0
    work: float = 0.004
    seed: int = 1
    spare_stock: bool = False


@dataclass
class Report:
    """What a run found."""

    broker: str
    consumer: str
    #: Jobs published.
    jobs: int
    kills: int
    #: How many of the kills hit stock consumers.
    stock_kills: int
    restarts: int
    cuts: int
    #: Jobs that were executed at least once.
    executed: int = 0
    #: Executions that a fault ended midway.
    interrupted: int = 0
    #: Executions beyond the first of each job.
    duplicates: int = 0
    #: Jobs never executed that are nowhere on the broker.
    lost: list[int] = field(default_factory=list)
    #: The same, where mixed consumers share a queue and a stock one had the job last: its loss, not ours.
    lost_by_stock: list[int] = field(default_factory=list)
    #: Jobs never executed that are still on the broker though consumers were there for long enough.
    stuck: list[int] = field(default_factory=list)
    dead_lettered: int = 0
    #: What was left on the broker: keys of deliveries and locks, or messages.
    left: list[str] = field(default_factory=list)
    #: Times that no consumer did anything for long although there was work.
    stalls: int = 0
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether every job was executed that stock consumers did not lose, and nothing is left behind."""
        return not (self.lost or self.stuck or self.dead_lettered or self.left)

    def as_json(self) -> str:
        """One line."""
        return json.dumps({**dataclasses.asdict(self), "clean": self.clean})

    def as_text(self) -> str:
        """A few lines for people."""
        verdict = "nothing lost" if self.clean else "NOT CLEAN"
        return "\n".join(
            (
                f"{self.consumer} on {self.broker}: {verdict} ({self.seconds:.1f} s)",
                f"  faults      {self.kills} kills ({self.stock_kills} of stock), {self.restarts} restarts, {self.cuts} cuts, {self.stalls} stalls",
                f"  executed    {self.executed} of {self.jobs} jobs, {self.duplicates} times more than once",
                f"  ended       {self.interrupted} executions midway",
                f"  lost        {len(self.lost)} {self.lost[:10] or ''}",
                f"  by stock    {len(self.lost_by_stock)} {self.lost_by_stock[:10] or ''}",
                f"  stuck       {len(self.stuck)} {self.stuck[:10] or ''}",
                f"  dead        {self.dead_lettered}",
                f"  left behind {', '.join(self.left) or 'nothing'}",
            )
        )


def token(number: int) -> str:
    """What tells a job apart wherever its body lies."""
    return f"#{number}#"
