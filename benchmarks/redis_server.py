"""What a job costs on Redis: commands and CPU time of the server, the way to the limit, long queues, many workers.

- **commands, CPU**: from the server's own ``INFO commandstats`` and ``INFO cpu``, per job, publishing and consuming (prefetch
  50), ours and bare Kombu's on the same server. ``EVALSHA`` counts as one command; what scripts do inside is in the CPU.
- **limit**: the same bytes with bare redis-py, one LPUSH or RPOP at a time and pipelined by 100: what no queue can beat.
- **length**: publish and receive while 1,000 to 1,000,000 jobs wait, as a ratio to the shortest.
- **workers**: jobs a second that 1, 4 and 16 consumer processes drain together.

Rounds are interleaved and medians taken, as in ``backends.py``.

    python benchmarks/redis_server.py [--rounds 5] [--jobs 1000] [--longest 100000] [--workers 1 4 16]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import redis
from _sides import Bare, Jobs, Ours, Rounds, make_jobs, timed

from mindtrace.jobs import Consumer, Orchestrator
from tests.jobs.servers import RedisServer

_PIPELINE = 100


def cost(client: Any, action: Callable[[Jobs], None], jobs: Jobs) -> tuple[float, float]:
    """Commands, and microseconds of the server's CPU, for each job."""
    client.config_resetstat()
    before = client.info("cpu")
    action(jobs)
    after = client.info("cpu")
    # The scripts' own commands are counted too: what was asked from outside is what is not inside one.
    calls = {name: stats["calls"] for name, stats in client.info("commandstats").items()}
    asked = sum(calls.get(f"cmdstat_{name}", 0) for name in ("evalsha", "eval"))
    if not asked:
        asked = sum(calls.values())
    used = sum(after[name] - before[name] for name in ("used_cpu_user", "used_cpu_sys"))
    return asked / len(jobs), used / len(jobs) * 1e6


def server_costs(url: str, rounds: int, count: int) -> None:
    figures = Rounds()
    client: Any = redis.Redis.from_url(url)
    sides: dict[str, Any] = {"ours": Ours(url), "Kombu": Bare(url)}
    for number in range(rounds + 1):
        jobs = make_jobs(count)
        for name, side in sides.items():
            for action in ("publish", "consume"):
                commands, microseconds = cost(client, getattr(side, action), jobs)
                if number:
                    figures.note(name, action, "commands", value=commands)
                    figures.note(name, action, "cpu", value=microseconds)
    for action in ("publish", "consume"):
        ours, kombu = (
            [figures.median(name, action, what) for what in ("commands", "cpu")] for name in ("ours", "Kombu")
        )
        print(
            f"server   {action:8} ours {ours[0]:5.2f} commands, {ours[1]:6.1f} us of CPU a job; "
            f"Kombu {kombu[0]:5.2f} commands, {kombu[1]:6.1f} us",
            flush=True,
        )
    for side in sides.values():
        side.close()
    client.close()


def limit(url: str, rounds: int, count: int) -> None:
    figures = Rounds()
    ours = Ours(url)
    client: Any = redis.Redis.from_url(url)
    jobs = make_jobs(count)
    ours.publish(jobs[:1])
    raw = client.rpop(ours.queue)

    def lpush(these: Jobs) -> None:
        for _ in these:
            client.lpush("bare", raw)

    def rpop(these: Jobs) -> None:
        for _ in these:
            assert client.rpop("bare")

    def pipelined(command: str, *arguments: Any) -> Callable[[Jobs], None]:
        def send(these: Jobs) -> None:
            for _ in range(0, len(these), _PIPELINE):
                with client.pipeline(transaction=False) as pipe:
                    for _ in range(_PIPELINE):
                        pipe.execute_command(command, "bare", *arguments)
                    pipe.execute()

        return send

    actions: list[tuple[str, Callable[[Jobs], None]]] = [
        ("publish", ours.publish),
        ("bare LPUSH", lpush),
        ("receive", ours.receive),
        ("bare RPOP", rpop),
        ("publish_many", ours.publish_many),
        ("pipelined LPUSH", pipelined("LPUSH", raw)),
        ("consume", ours.consume),
        ("pipelined RPOP", pipelined("RPOP")),
    ]
    for number in range(rounds + 1):
        for name, action in actions:
            microseconds = timed(action, jobs)
            if number:
                figures.note(name, value=microseconds)
    for (mine, _), (bare, _) in zip(actions[::2], actions[1::2], strict=True):
        a, b = figures.median(mine), figures.median(bare)
        print(f"limit    {mine:13} {a:7.1f} us a job; {bare:15} {b:7.1f} us; ratio {a / b:5.2f}", flush=True)
    ours.close()
    client.close()


def length(url: str, rounds: int, longest: int) -> None:
    ours = Ours(url)
    shortest: dict[str, float] = {}
    waiting, target = 0, 1000
    while target <= longest:
        for start in range(waiting, target, 10_000):
            ours.publish_many(make_jobs(min(10_000, target - start)))
        waiting = target
        figures = Rounds()
        for _ in range(rounds):
            jobs = make_jobs(300)
            figures.note("publish", value=timed(ours.publish, jobs))
            figures.note("receive", value=timed(ours.receive, jobs))
        for action in ("publish", "receive"):
            found = figures.median(action)
            shortest.setdefault(action, found)
            print(f"length   {target:9,} waiting: {action} {found / shortest[action]:4.2f} of the shortest", flush=True)
        target *= 10
    ours.close()


def worker(url: str) -> None:
    """The consumer process that this script starts of itself."""
    with Orchestrator.from_url(url) as orchestrator:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        Consumer(orchestrator, "ours", lambda _: None, prefetch=50).consume_until_empty()


def workers(url: str, numbers: list[int], count: int) -> None:
    alone = 0.0
    for number in numbers:
        ours = Ours(url)
        ours.publish_many(make_jobs(count))
        command = [sys.executable, __file__, "--worker", url]
        with ExitStack() as stack:
            running: list[Any] = [
                stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
                for _ in range(number)
            ]
            for process in running:
                process.stdout.readline()
            start = time.perf_counter()
            for process in running:
                process.stdin.write("go\n")
                process.stdin.flush()
            while ours.orchestrator.queue_status("ours"):
                time.sleep(0.01)
            rate = count / (time.perf_counter() - start)
        alone = alone or rate
        print(f"workers  {number:3}: {rate:8.0f} jobs/s, {rate / alone:4.2f} of {numbers[0]} worker(s)", flush=True)
        ours.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--longest", type=int, default=100_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker)
        return
    with RedisServer() as server:
        server_costs(server.url(0), arguments.rounds, arguments.jobs)
        limit(server.url(1), arguments.rounds, arguments.jobs)
        workers(server.url(2), arguments.workers, 20 * arguments.jobs)
        length(server.url(3), arguments.rounds, arguments.longest)


if __name__ == "__main__":
    main()
