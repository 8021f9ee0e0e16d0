"""RunnerConformance: all parts of the contract of a runner in one class."""

from __future__ import annotations

from mindtrace_jobs.testing.runners.endings import CompletedConformance, FailedConformance, WaitingConformance
from mindtrace_jobs.testing.runners.hostile import HostileConformance
from mindtrace_jobs.testing.runners.losses import (
    InterruptConformance,
    LossConformance,
    PrefetchConformance,
    TimeLimitConformance,
)
from mindtrace_jobs.testing.runners.messages import MessageConformance
from mindtrace_jobs.testing.runners.raising import ExceptionConformance, ExitConformance


class LivingRunnerConformance(
    CompletedConformance,
    FailedConformance,
    WaitingConformance,
    MessageConformance,
    HostileConformance,
    ExceptionConformance,
    ExitConformance,
):
    """The part of the contract that ends no runner."""


class LostRunnerConformance(
    LossConformance,
    PrefetchConformance,
    TimeLimitConformance,
    InterruptConformance,
):
    """The part of the contract about runners that are killed, stopped or interrupted."""


class RunnerConformance(LivingRunnerConformance, LostRunnerConformance):
    """What every runner of jobs does, be it a Consumer or a Celery worker.

    Each test states the record and the dead letter of a job that something happens to. They are the same for every
    runner, so runners that pass answer alike.

    Subclass it and provide one fixture, of the scope module or class:

    * ``runners``: a ``Runners`` on a broker that nobody else uses. All tests share its runner, but for those that kill
      one. Give it a result backend: without records there is little to check.

    A test of what a runner has not (processes that can be killed, a task, a coroutine function) passes. The two base
    classes are parts of the contract, for a suite that runs them side by side.
    """
