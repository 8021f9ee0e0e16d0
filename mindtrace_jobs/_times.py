"""Times as this package keeps them: aware, and naive ones taken as UTC, as Celery does."""

from __future__ import annotations

from datetime import UTC, datetime


def aware(moment: datetime) -> datetime:
    """The same time, aware: a naive one is UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def parsed(text: object) -> datetime | None:
    """The aware time that an ISO 8601 text says; None if it is no such text."""
    try:
        return aware(datetime.fromisoformat(text)) if isinstance(text, str) else None
    except ValueError:
        return None
