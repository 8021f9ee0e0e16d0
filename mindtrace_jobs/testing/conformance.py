"""BackendConformance: all parts of the contract in one class."""

from __future__ import annotations

from mindtrace_jobs.testing.dead_letters import DeadLetterConformance, LifeConformance
from mindtrace_jobs.testing.exchanges import ExchangeConformance
from mindtrace_jobs.testing.foreign import ForeignMessageConformance
from mindtrace_jobs.testing.names import NameConformance
from mindtrace_jobs.testing.queues import QueueConformance
from mindtrace_jobs.testing.receiving import ReceivingConformance
from mindtrace_jobs.testing.results import ResultConformance
from mindtrace_jobs.testing.running import ConsumerConformance


class BackendConformance(
    QueueConformance,
    NameConformance,
    ExchangeConformance,
    ReceivingConformance,
    ConsumerConformance,
    ResultConformance,
    DeadLetterConformance,
    ForeignMessageConformance,
    LifeConformance,
):
    """What every backend does.

    Subclass it and provide two fixtures, fresh for each test:

    * ``orchestrator``: an open Orchestrator on your client;
    * ``other_orchestrator``: another one, with a client of its own, on the same broker. Tests close it.

    Each test uses queues and exchanges of names that nobody has, and deletes them, except for the documented queues
    ``vbrain_jobs``, ``detection_jobs`` and ``default_jobs``: run it on a broker without those.

    What the client declares in ``abilities`` must work, and what it does not must be refused, or answered with None,
    as the documentation of each verb says. ``Capability.DURABLE`` is the exception: whether jobs outlive a restart of the
    broker can only be seen by restarting it, which is left to the backend's own tests.
    """
