"""The worker steps under the names that settings may have; they live in ``mindtrace_jobs.celery.worker.steps``."""

from __future__ import annotations

from mindtrace_jobs.celery.worker.steps import (
    ConsumerTimeoutWarning,
    DeliveryLimitWarning,
    ExtendedConsumer,
    PromptStop,
)

__all__ = ["ConsumerTimeoutWarning", "DeliveryLimitWarning", "ExtendedConsumer", "PromptStop"]
