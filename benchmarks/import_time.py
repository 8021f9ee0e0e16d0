"""How long an import takes, as a ratio to ``import pydantic``: medians of fresh processes, interleaved.

The process itself is not counted: each one reports the time of its import statement.

    python benchmarks/import_time.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

#: What ``import mindtrace_jobs`` may cost, relative to Pydantic's own.
AIM = 1.3
YARDSTICK = "import pydantic; pydantic.BaseModel"  # Pydantic is lazy too: name what every user of it needs
STATEMENTS = {
    "import pydantic": YARDSTICK,
    "... and one model": "import pydantic\nclass Model(pydantic.BaseModel):\n    when: pydantic.AwareDatetime",
    "import mindtrace_jobs": "import mindtrace_jobs",
    "... import Job": "from mindtrace_jobs import Job, JobSchema, JobInput, JobOutput",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    medians = measure(parser.parse_args().rounds)
    for name, seconds in medians.items():
        ratio = seconds / medians["import pydantic"]
        print(f"{name:>22}: {seconds * 1000:6.1f} ms, {ratio:.2f} of pydantic (aim: at most {AIM})")


def measure(rounds: int) -> dict[str, float]:
    """Median seconds of each import statement."""
    taken: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(rounds):
        for name, statement in STATEMENTS.items():
            code = f"import time; start = time.perf_counter()\n{statement}\nprint(time.perf_counter() - start)"
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=60)
            taken[name].append(float(done.stdout))
    return {name: statistics.median(times) for name, times in taken.items()}


if __name__ == "__main__":
    main()
