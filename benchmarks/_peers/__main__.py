"""Do one library's part, and print the microseconds a job: by the clock, and of the processor."""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from _peers.place import Place, Verb  # noqa: E402

if __name__ == "__main__":
    side, verb, kind, url, results, queue, jobs = sys.argv[1:]
    logging.disable(logging.WARNING)
    verbs: dict[str, Verb] = importlib.import_module(f"_peers.{side}").VERBS
    place = Place(kind, url, results, queue, int(jobs))
    verbs[verb](place)
    print(*place.watch.taken)
