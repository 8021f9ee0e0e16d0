"""How often a failing job is run again, and after which pause."""

from __future__ import annotations

import random
from dataclasses import dataclass

from mindtrace_jobs.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with jitter.

    Retry ``n`` (from 0) waits ``min(maximum, initial * factor ** n)`` seconds, of which a random share of up to
    ``jitter`` is left out, so that jobs that failed together do not come back together.

    Attributes:
        max_retries: Runs after the first one; 0 dead-letters at the first failure.
        initial: Seconds before the first retry.
        factor: What each further pause is multiplied by.
        maximum: Longest pause in seconds.
        jitter: 0 (none) to 1.
        max_worker_losses: How often a worker may vanish while it runs the job (killed, out of memory) before the job is
            dead-lettered instead of being run again.
    """

    max_retries: int = 3
    initial: float = 1.0
    factor: float = 2.0
    maximum: float = 600.0
    jitter: float = 0.5
    max_worker_losses: int = 3

    def __post_init__(self) -> None:
        # Written so that nan, for which no comparison holds, is refused.
        fits = self.max_retries >= 0 and self.initial >= 0 and self.maximum >= 0
        if not (fits and self.factor >= 1 and self.max_worker_losses >= 1):
            raise ConfigurationError(
                "RetryPolicy: max_retries, initial and maximum must not be negative, factor and max_worker_losses must "
                "be at least 1"
            )
        if not 0 <= self.jitter <= 1:
            raise ConfigurationError("RetryPolicy: jitter is a share, from 0 to 1")

    def delay(self, retries: int) -> float:
        """Seconds to wait before the retry that follows ``retries`` earlier ones."""
        try:
            pause = min(self.maximum, self.initial * self.factor**retries)
        except OverflowError:
            pause = self.maximum
        return pause * (1 - self.jitter * random.random())  # noqa: S311 - spreads load, keeps no secret
