"""What this package does when the process forks: one place, so that the order is defined.

As with :func:`os.register_at_fork`, ``before`` is called in the reverse of the order of registration, the others in
that order: what was registered first, because others build on it, is the last to be locked and the first to be mended.
A module's registration follows the imports at its top, so lower layers come first.

What is registered is kept for ever. Objects that come and go are not registered one by one: their module keeps them in
a ``WeakSet`` and registers one function that goes through it::

    _channels: WeakSet[Channel] = WeakSet()


    def _after_fork_in_child() -> None:
        for channel in list(_channels):
            channel.after_fork_in_child()


    _forks.register(after_in_child=_after_fork_in_child)

In the child only the thread that forked is left: a function must not wait for a lock that another thread may have held,
nor send anything over a connection that the parent goes on using.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import cache

_Hook = Callable[[], object]

_before: list[_Hook] = []
_after_in_parent: list[_Hook] = []
_after_in_child: list[_Hook] = []


def register(
    *, before: _Hook | None = None, after_in_parent: _Hook | None = None, after_in_child: _Hook | None = None
) -> None:
    """Have functions called around each fork of this process, for as long as it lives.

    One that raises keeps none of the others from being called, and the fork from nothing; Python reports it as it does
    for its own (``sys.unraisablehook``).

    Args:
        before: In the parent, before the fork.
        after_in_parent: In the parent, after it.
        after_in_child: In the child.
    """
    _register_with_python()
    for hooks, hook in ((_before, before), (_after_in_parent, after_in_parent), (_after_in_child, after_in_child)):
        if hook is not None:
            hooks.append(hook)


@cache
def _register_with_python() -> None:
    # Once, and not when this module is loaded: the standard library's modules that ours use have registered by then.
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(
            before=lambda: _call(reversed(_before)),
            after_in_parent=lambda: _call(_after_in_parent),
            after_in_child=lambda: _call(_after_in_child),
        )


def _call(hooks: Iterable[_Hook]) -> None:
    errors: list[BaseException] = []
    for hook in hooks:
        try:
            hook()
        except BaseException as error:
            errors.append(error)
    if errors:
        raise BaseExceptionGroup("at a fork", errors)
