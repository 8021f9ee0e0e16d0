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
        retry_on: Exceptions after which a job is retried; after any other it is dead-lettered at once. Default all that
            derive from Exception, hence neither SystemExit nor asyncio.CancelledError.
        dont_retry_on: Exceptions of those after which it is dead-lettered all the same.
    """

    max_retries: int = 3
    initial: float = 1.0
    factor: float = 2.0
    maximum: float = 600.0
    jitter: float = 0.5
    max_worker_losses: int = 3
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    dont_retry_on: tuple[type[BaseException], ...] = ()

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
        for name in ("retry_on", "dont_retry_on"):
            listed = getattr(self, name)
            listed = (listed,) if isinstance(listed, type) else tuple(listed)
            if not all(isinstance(one, type) and issubclass(one, BaseException) for one in listed):
                raise ConfigurationError(f"RetryPolicy: {name} is {listed!r:.80}; it takes classes of exceptions")
            object.__setattr__(self, name, listed)

    def delay(self, retries: int) -> float:
        """Seconds to wait before the retry that follows ``retries`` earlier ones."""
        try:
            pause = min(self.maximum, self.initial * self.factor**retries)
        except OverflowError:
            pause = self.maximum
        return pause * (1 - self.jitter * random.random())  # noqa: S311 - spreads load, keeps no secret

    def allows(self, error: BaseException, retries: int) -> bool:
        """Whether a job that was retried ``retries`` times is retried after this error."""
        if retries >= self.max_retries:
            return False
        return isinstance(error, self.retry_on) and not isinstance(error, self.dont_retry_on)
