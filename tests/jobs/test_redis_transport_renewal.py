"""What a process holds is renewed whatever the process is like, and whatever becomes of other servers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from mindtrace_jobs.transports.redis.leases import keeper
from tests.jobs.redis_channels import Child, Connect, connection, consume, get, publish
from tests.jobs.servers import RedisServer, wait_until

LEASE = 1.0


@pytest.fixture
def connect(redis_url: str) -> Iterator[Connect]:
    """Opens connections to one empty database, with a lease of a second."""
    opened: list[Any] = []

    def new(**options: Any) -> Any:
        opened.append(connection(redis_url, **{"lease": LEASE, **options}))
        return opened[-1]

    yield new
    for one in opened:
        one.release()


#: A process that says what it lost after it was at work for some leases, which leaves the interpreter no time for more.
BUSY = """
from tests.jobs.redis_channels import connection, get
channel = connection(sys.argv[1], lease=float(sys.argv[2])).default_channel
message = get(channel)
report(message.payload)
time.sleep(3.5 * float(sys.argv[2]))
message.ack()
report(sorted(channel.lost_deliveries))
"""
#: As in a worker that serves a thousand connections.
MANY_FILES = """
import resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
files = [open(os.devnull) for _ in range(1100)]
"""
#: There was no descriptor left when it first tried to take the message.
NO_FILES = """
import resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
try:
    channel.basic_get("q")
except OSError:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
"""
#: The work holds up the hub, as it does that computes.
GEVENT = """
from gevent import monkey
monkey.patch_all()
time.sleep = monkey.get_original("time", "sleep")
"""


@pytest.mark.parametrize(
    "program",
    [MANY_FILES + BUSY, GEVENT + BUSY, BUSY.replace("message =", NO_FILES + "message =")],
    ids=["many files", "gevent", "no files for a moment"],
)
def test_living_holder_keeps_what_it_took_in_any_process(connect: Connect, redis_url: str, program: str) -> None:
    publish(connect().default_channel, 1)
    with Child(program, redis_url, str(LEASE)) as child:
        assert child.line() == 1
        waiting = connect()
        others = consume(waiting.default_channel)
        end = time.monotonic() + 3.4 * LEASE
        while (left := end - time.monotonic()) > 0:
            with suppress(TimeoutError):
                waiting.drain_events(timeout=left)
        assert child.line() == []
        assert others == []


def test_living_holder_keeps_what_it_took_while_another_server_does_not_answer(connect: Connect) -> None:
    with RedisServer() as frozen, connection(frozen.url(), lease=1.5) as elsewhere:
        publish(elsewhere.default_channel, 1)
        channel = connect(lease=1.5).default_channel
        publish(channel, 2)
        held = [get(elsewhere.default_channel), get(channel)]
        wait_until(lambda: len(keeper._wires) >= 2, "both are renewed")
        frozen.freeze()
        time.sleep(3.0)  # the work
        # As another process would that sweeps.
        assert channel.store.restore_expired(channel.store.wire) == 0
        frozen.thaw()
        for message in held:
            message.ack()
