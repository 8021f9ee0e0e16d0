"""Job records in the result backend of an existing Celery app, with the app's own settings for it."""

from __future__ import annotations

from functools import cache
from typing import Any

from mindtrace_jobs.clients.redaction import Redactor
from mindtrace_jobs.errors import ConfigurationError, ResultsNotConfiguredError
from mindtrace_jobs.results.store import ResultStore


class AppResultStore(ResultStore):
    """The result store that shares an app's backend: its URL, serializer, key prefix, expiry and connections.

    ``rpc://`` counts as no backend, since only the client that published a job can read its result there.

    Args:
        app: The Celery app; nothing is read from it before the first use.
    """

    def __init__(self, app: Any) -> None:
        super().__init__(None)
        self._app = app

    @property
    def configured(self) -> bool:
        # Celery keeps one for each thread; a look at the settings takes longer.
        return not isinstance(self._app_backend(), _unreadable())

    @property
    def backend(self) -> Any:
        if not self.configured:
            raise ResultsNotConfiguredError(
                "this Celery app keeps no results that others can read: set result_backend, for example to "
                "'redis://localhost/1'"
            )
        from mindtrace_jobs.results.backend import extended

        return extended(self._app_backend())

    def leave_thread(self) -> None:
        """Close the connections of this thread's backend: Celery makes one for each, and forgets it with the thread."""
        from mindtrace_jobs.results import records

        backend = self._app_backend()
        if not backend.thread_safe:
            records.disconnect(backend)

    @property
    def _redactor(self) -> Redactor:
        url = self._app.conf.result_backend
        return Redactor(url if isinstance(url, str) else "", self._app.conf.table(censored=False))

    def _app_backend(self) -> Any:
        from kombu.exceptions import SerializerNotInstalled

        try:
            return self._app.backend
        except SerializerNotInstalled as error:
            raise ConfigurationError(
                f"the app accepts results in a serializer that this process does not have ({error}): for 'auth', call "
                "app.setup_security() where the app is made"
            ) from error
        except Exception as error:
            raise self._unusable(error) from self._redactor.cause(error)


@cache
def _unreadable() -> tuple[type[Any], ...]:
    """Celery's backends that keep nothing that another client could read."""
    from celery.backends.base import DisabledBackend
    from celery.backends.rpc import RPCBackend

    return DisabledBackend, RPCBackend
