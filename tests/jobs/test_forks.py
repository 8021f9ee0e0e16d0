"""Functions around a fork are called in a defined order, whatever one of them raises."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, sys
from mindtrace_jobs import _forks

said = []
def say(word):
    return lambda: said.append(word)

def fail():
    raise ValueError("on purpose")

sys.unraisablehook = lambda unraisable: said.append(type(unraisable.exc_value).__name__)
_forks.register(before=say("before 1"), after_in_parent=say("parent 1"), after_in_child=say("child 1"))
_forks.register(before=fail, after_in_parent=fail, after_in_child=fail)
_forks.register(before=say("before 3"), after_in_parent=say("parent 3"), after_in_child=say("child 3"))
child = os.fork()
if child:
    os.waitpid(child, 0)
print(*said, sep=", ", flush=True)
os._exit(0)
"""


def test_functions_around_a_fork_are_called_in_order_and_each_of_them() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True, text=True, timeout=60)
    child, parent = done.stdout.splitlines()
    assert child.split(", ") == ["before 3", "before 1", "ExceptionGroup", "child 1", "child 3", "ExceptionGroup"]
    assert parent.split(", ") == ["before 3", "before 1", "ExceptionGroup", "parent 1", "parent 3", "ExceptionGroup"]


def test_the_registry_loads_nothing_else_of_the_package() -> None:
    code = (
        "import sys, mindtrace_jobs._forks; print(*sorted(n for n in sys.modules if n.startswith('mindtrace_jobs.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=60)
    assert set(done.stdout.split()) <= {"mindtrace_jobs._forks", "mindtrace_jobs._lazy", "mindtrace_jobs._version"}
