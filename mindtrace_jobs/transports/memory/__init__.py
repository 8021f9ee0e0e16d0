"""Kombu transport for queues in this process's memory, with the semantics of a real broker.

A subclass of Kombu's own memory transport that adds what :class:`~mindtrace_jobs.transports.contract.JobsChannel` says:
typed queues, delays, counts, messages held until they are acknowledged, waiting without polling.

Connections of one broker id share queues, others are strangers. The id is ``transport_options["broker_id"]``, else what
the URL says: ``memory:///id``, ``memory://id`` (Kombu reads host names in lower case) or ``memory://host/id``, which is
the id ``host/id``; else "default".

Headers and properties are kept as they are and not turned into JSON, so a value comes out as the object that went in.
Brokers are safe for threads, also one channel acknowledging what another thread consumes. After ``os.fork`` the child
finds queues and exchanges declared, and every queue empty: each message stays in the parent.
"""

from __future__ import annotations

from mindtrace_jobs.transports.memory.channel import Channel
from mindtrace_jobs.transports.memory.transport import Transport

__all__ = ["Channel", "Transport"]
