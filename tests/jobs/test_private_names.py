"""The private names of other libraries that this package relies on are there; a new one has to be listed here.

The dependencies are bounded to the versions that were tested. Whoever raises a bound learns here what has gone.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import mindtrace_jobs

ROOT = Path(mindtrace_jobs.__file__).parent

#: Name -> whose it is: a module, or a class in one.
CALLED = {
    "_active_queues": "kombu.transport.redis:Channel",
    "_cache": "celery.backends.base:Backend",
    "_callbacks": "kombu.transport.virtual.base:Transport",
    "_chan_to_sock": "kombu.transport.redis:MultiChannelPoller",
    "_connection": "kombu.connection:Connection",
    "_deliver": "kombu.transport.virtual.base:Transport",
    "_delivered": "kombu.transport.virtual.base:QoS",
    "_dirty": "kombu.transport.virtual.base:QoS",
    "_disconnect_pools": "kombu.transport.redis:Channel",
    "_encoders": "kombu.serialization:SerializerRegistry",
    "_fanout_queues": "kombu.transport.redis:Channel",
    "_fd_to_chan": "kombu.transport.redis:MultiChannelPoller",
    "_flush": "kombu.transport.virtual.base:QoS",
    "_get_active_apps": "celery._state",
    "_get_publish_topics": "kombu.transport.redis:Channel",
    "_get_running_loop": "asyncio",
    "_getframe": "sys",
    "_inplace_augment_message": "kombu.transport.virtual.base:Channel",
    "_is_owned": "threading:_RLock",
    "_lookup": "kombu.transport.virtual.base:Channel",
    "_maybe_update_queues_expire": "kombu.transport.redis:Channel",
    "_on_collect": "kombu.transport.virtual.base:QoS",
    "_parse_url": "kombu.utils.url",
    "_parser": "redis.connection:AbstractConnection",
    "_poll_error": "kombu.transport.redis:Channel",
    "_put_fanout": "kombu.transport.redis:Channel",
    "_qos": "kombu.transport.virtual.base:Channel",
    "_queue_bind": "kombu.transport.redis:Channel",
    "_queue_cycle": "kombu.transport.redis:Channel",
    "_request_dict": "celery.worker.request:Request",
    "_register": "kombu.transport.redis:MultiChannelPoller",
    "_register_LISTEN": "kombu.transport.redis:MultiChannelPoller",
    "_sock": "redis.connection:AbstractConnection",
    "_success_was_stored": "celery.worker.request:Request",
    "_to_keys": "celery.utils.collections:ConfigurationView",
    "_transport": "amqp.connection:Connection",
    "_unregister_from_poll": "kombu.transport.redis:MultiChannelPoller",
}
#: What this package's subclasses override or set, so that it would be silently without effect if it had gone.
OVERRIDDEN = {
    "celery.app.task:Task": ["_backend", "backend", "start_strategy", "from_config"],
    "celery.backends.base:Backend": [
        "_get_result_meta",
        "always_retry",
        "exception_to_python",
        "on_chord_part_return",
        "retry_policy",
        "store_result",
    ],
    "celery.worker.consumer.consumer:Consumer": [
        "call_soon_ack",
        "create_task_handler",
        "on_decode_error",
        "on_invalid_task",
        "on_unknown_message",
        "on_unknown_task",
        "stop",
    ],
    "celery.worker.request:Request": [
        "_already_cancelled",
        "_already_revoked",
        "_announce_revoked",
        "_argsrepr",
        "_body",
        "_content_encoding",
        "_content_type",
        "_context",
        "_kwargsrepr",
        "_payload",
        "_request_dict",
        "on_accepted",
        "on_timeout",
    ],
    "kombu.transport.redis:Channel": ["_connparams", "_create_client", "_after_fork"],
    "kombu.transport.redis:SentinelChannel": ["_sentinel_managed_pool"],
    "kombu.transport.virtual.base:Channel": ["_new_queue", "_put", "_size", "_purge", "_has_queue"],
    "kombu.messaging:Consumer": ["_active_tags"],
}


def owner(path: str) -> Any:
    module, _, name = path.partition(":")
    found = import_module(module)
    return getattr(found, name) if name else found


def has(path: str, name: str) -> bool:
    """Whether a class has a name, or sets it on its instances."""
    found = owner(path)
    if hasattr(found, name):
        return True
    bases = inspect.getmro(found) if inspect.isclass(found) else (found,)
    return any(f"self.{name}" in inspect.getsource(base) for base in bases if base is not object)


def accessed() -> Iterator[str]:
    """Private names that the package's code reads and nowhere defines."""
    read: set[str] = set()
    defined: set[str] = set()
    for path in ROOT.rglob("*.py"):
        if "testing" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    defined.add(node.name)
                case ast.Attribute(attr=name, ctx=ast.Store()):
                    defined.add(name)
                case ast.Attribute(attr=name):
                    read.add(name)
                case ast.Name(id=name, ctx=ast.Store()):
                    defined.add(name)
                case ast.ImportFrom(module=module) if module and not module.startswith("mindtrace_jobs"):
                    read.update(alias.name for alias in node.names)
    return iter(sorted(name for name in read - defined if name.startswith("_") and not name.startswith("__")))


def test_every_private_name_that_the_code_reads_of_others_is_listed() -> None:
    assert list(accessed()) == sorted(CALLED)


@pytest.mark.parametrize(("name", "path"), CALLED.items())
def test_a_private_name_that_is_read_is_there(name: str, path: str) -> None:
    assert has(path, name)


@pytest.mark.parametrize(("path", "name"), [(path, name) for path, names in OVERRIDDEN.items() for name in names])
def test_a_name_that_is_overridden_is_there(path: str, name: str) -> None:
    assert has(path, name)
