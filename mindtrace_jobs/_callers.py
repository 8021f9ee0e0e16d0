"""Where a warning belongs: on the user's line."""

from __future__ import annotations

import sys

_OURS = ("mindtrace_jobs.", "celery.", "kombu.", "vine.")


def caller_level() -> int:
    """The ``stacklevel`` at which ``warnings.warn`` points to the user's line, not to one of this package or Celery's."""
    level = 1
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_OURS):
        level, frame = level + 1, frame.f_back
    return level
