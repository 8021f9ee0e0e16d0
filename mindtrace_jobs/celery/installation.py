"""What is installed on an app, found from the app."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from mindtrace_jobs import _forks
from mindtrace_jobs.execution.lifecycle import Lifecycle
from mindtrace_jobs.orchestrator import Orchestrator
from mindtrace_jobs.routing import JobRouter
from mindtrace_jobs.wire.packing import MAX_DECOMPRESSED

_lock = threading.Lock()
_installed: WeakKeyDictionary[Any, Installation] = WeakKeyDictionary()


@dataclass
class Installation:
    """The choices made at ``install`` and what is made from them.

    Attributes:
        app: The Celery app.
        lease: Seconds a received job stays with a worker that no longer renews its lease.
        dead_letters: Whether what cannot run is kept in ``<queue>.dlq``.
        track: Whether the start of every job is recorded, not only of submitted ones.
        max_worker_losses: How often a job may lose its worker before it is dead-lettered.
        max_decompressed_bytes: Most bytes that a compressed body may have when it is decompressed; None: any number.
        router: Where jobs go that the app's own routes do not mention; None: by the documented rules.
    """

    app: Any
    lease: float = 60.0
    dead_letters: bool = True
    track: bool = False
    max_worker_losses: int = 3
    max_decompressed_bytes: int | None = MAX_DECOMPRESSED
    router: JobRouter | None = None
    _orchestrator: Orchestrator | None = field(default=None, repr=False)
    _made_for: tuple[Any, ...] = ()

    @property
    def orchestrator(self) -> Orchestrator:
        """An orchestrator on the app's broker and results; another one when the app's broker has changed."""
        conf = self.app.conf
        broker = (conf.broker_write_url, conf.broker_transport_options, conf.broker_use_ssl)
        wanted = (*map(str, broker), self.lease, self.max_decompressed_bytes)
        with _lock:
            if self._orchestrator is None or self._made_for != wanted:
                self._orchestrator = Orchestrator.from_celery(
                    self.app, lease=self.lease, max_decompressed_bytes=self.max_decompressed_bytes
                )
                self._made_for = wanted
            return self._orchestrator

    def lifecycle(self, worker: str | None = None, *, reported: bool = False) -> Lifecycle:
        """What records and settles the jobs of a worker of this name; ``reported``: see there."""
        orchestrator = self.orchestrator
        return Lifecycle(
            orchestrator.client,
            orchestrator.results,
            orchestrator.dead_letters if self.dead_letters else None,
            track=self.track,
            worker=worker,
            announces=True,
            reported=reported,
            signing=orchestrator.signing,
        )


def _after_fork_in_child() -> None:
    global _lock  # noqa: PLW0603 - another thread may have held it
    _lock = threading.Lock()


_forks.register(after_in_child=_after_fork_in_child)


def real_app(app: Any) -> Any:
    """The app behind a proxy such as ``celery.current_app``."""
    found = getattr(app, "_get_current_object", None)
    return app if found is None else found()


def find(app: Any) -> Installation | None:
    """What is installed on an app, or None."""
    return _installed.get(real_app(app))


def of(app: Any) -> Installation:
    """What is installed on an app; the defaults if nothing is."""
    return find(app) or Installation(real_app(app))


def remember(installation: Installation) -> None:
    """Make an installation findable from its app."""
    _installed[installation.app] = installation
