"""Celery's publish signals, fired for what is published without Celery: instrumentation hears of every job."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, ParamSpec, TypeVar

from mindtrace_jobs.jobs import Job
from mindtrace_jobs.message import Message

P = ParamSpec("P")
T = TypeVar("T")


class Publication:
    """One job on its way to the broker, as receivers of ``before_task_publish`` and ``after_task_publish`` see it.

    Its receivers run in a copy of the caller's context. Instrumentation makes its span the current one in the first
    signal and ends it in the second: in the caller's own context, jobs published together would become each other's
    parents, and a job that could not be published the parent of all that follows.

    Args:
        job, message: What is published; receivers may add to the message's headers.
        exchange, routing_key: Where to.
    """

    def __init__(self, job: Job[Any], message: Message, exchange: str, routing_key: str) -> None:
        self._context = copy_context()
        self._properties = message.properties
        self._fields: dict[str, Any] = {
            "sender": job.payload.name,
            "body": ((job,), {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}),
            "exchange": exchange,
            "routing_key": routing_key,
            "headers": message.headers,
        }

    def before(self) -> None:
        """Tell that it is about to be published."""
        self._send("before_task_publish", declare=[], properties=self._properties, retry_policy={})

    def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what publishes it in its context: what that traces belongs to this publication."""
        return self._context.run(call, *args, **kwargs)

    def after(self) -> None:
        """Tell that the broker has it."""
        self._send("after_task_publish")

    def _send(self, name: str, **fields: Any) -> None:
        signals = sys.modules.get("celery.signals")
        if signals is not None:  # else nobody can have connected a receiver
            self._context.run(getattr(signals, name).send, **self._fields, **fields)
