"""One run of the loss test: load, faults, and the count at the end."""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from tests.jobs.loss.brokers import Broker
from tests.jobs.loss.plan import Kind, Plan, Report
from tests.jobs.loss.processes import Options, begun, lines, start
from tests.jobs.loss.publishing import Publisher, publisher
from tests.jobs.servers import ServerError, TcpProxy
from tests.jobs.servers.process import ServerProcess
from tests.jobs.servers.waiting import POLL_INTERVAL, wait_until

log = logging.getLogger(__name__)

#: Seconds without any execution after which consumers that have work are called stalled.
_STALL = 20.0
#: Seconds a consumer may take to stop in order.
_STOP = 20.0
#: Longest pause in seconds between what makes a fault possible and the fault.
_SPREAD = 0.15


def run(plan: Plan, broker: Broker, logs: Path | None = None) -> Report:
    """Queue jobs, let consumers work, break things, and count.

    Args:
        plan: How much of what.
        broker: An empty one.
        logs: Folder to which the consumers' logs are copied.

    Returns:
        The report; nothing is asserted here.
    """
    parts = urlsplit(broker.url)
    assert parts.hostname is not None
    assert parts.port is not None
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, TcpProxy(parts.hostname, parts.port) as proxy:
        one = _Run(plan, broker, proxy, Path(folder))
        try:
            one.work()
        finally:
            one.close()
            if logs is not None:
                shutil.copytree(folder, logs, dirs_exist_ok=True)
        report = one.report()
    report.seconds = round(time.monotonic() - start, 1)
    return report


class _Run:
    def __init__(self, plan: Plan, broker: Broker, proxy: TcpProxy, folder: Path) -> None:
        self._plan = plan
        self._broker = broker
        self._proxy = proxy
        self._folder = folder
        self._record = folder / "record"
        self._random = random.Random(plan.seed)
        self._publisher: Publisher = publisher(plan.kind, broker.url)
        self._workers: dict[str, ServerProcess] = {}
        self._kinds: dict[str, Kind] = {}
        self._started = 0
        self._published = 0
        self._faults: Counter[str] = Counter()
        self._stalls = 0

    def work(self) -> None:
        self._publish()
        for number in range(self._plan.workers):
            self._start_worker(self._plan.kind.members[number % len(self._plan.kind.members)])
        faults = [self._kill] * self._plan.kills + [self._restart] * self._plan.restarts + [self._cut] * self._plan.cuts
        self._random.shuffle(faults)
        for fault in faults:
            self._wait_for_work()
            fault()
            log.info("%s, %d of %d executed", fault.__name__.strip("_"), len(self._executed()), self._published)
        self._wait_for_end()
        self._stop_workers()

    def close(self) -> None:
        for process in self._workers.values():
            process.kill()
        self._publisher.close()

    def report(self) -> Report:
        executed = self._executed()
        missing = set(range(self._published)) - set(executed)
        left = self._broker.left()
        gone = missing - left.numbers
        by_stock = gone & self._broker.gone_with_stock() if self._plan.kind is Kind.MIXED else set()
        return Report(
            broker=self._broker.name,
            consumer=self._plan.kind,
            jobs=self._published,
            kills=self._faults["kill"],
            stock_kills=self._faults["stock kill"],
            restarts=self._faults["restart"],
            cuts=self._faults["cut"],
            executed=len(executed),
            interrupted=len(lines(begun(self._record))) - executed.total(),
            duplicates=executed.total() - len(executed),
            lost=sorted(gone - by_stock),
            lost_by_stock=sorted(by_stock),
            stuck=sorted(missing & left.numbers),
            dead_lettered=left.dead_lettered,
            left=left.names,
            stalls=self._stalls,
        )

    # --- faults

    def _kill(self) -> None:
        """Kill a consumer that has worked, at a random instant, and start another."""
        victims = self._victims()
        name = self._random.choice(sorted(self._at_work() & victims) or sorted(victims))
        kind = self._kinds[name]
        self._pause()
        process = self._workers[name]
        ways: list[Callable[[ServerProcess], object]] = [ServerProcess.kill]
        if kind.pool == "prefork":
            ways = [_kill_child, _kill_main, ServerProcess.kill]
        way = ways[self._faults["kill"] % len(ways)]
        way(process)
        self._faults["kill"] += 1
        self._faults["stock kill"] += kind.stock
        if way is not _kill_child:
            del self._workers[name]
            self._start_worker(kind)
            process.kill()  # what is left of its group

    def _victims(self) -> set[str]:
        """Who may be killed next: all, or of mixed consumers stock ones and ours in turn."""
        if self._plan.kind is not Kind.MIXED:
            return set(self._workers)
        stock = not self._plan.spare_stock and self._faults["kill"] % 2 == 0
        return {name for name in self._workers if self._kinds[name].stock is stock}

    def _restart(self) -> None:
        self._pause()
        self._broker.restart(hard=self._faults["restart"] % 2 == 0)
        self._faults["restart"] += 1

    def _cut(self) -> None:
        self._pause()
        self._proxy.cut(reset=self._faults["cut"] % 2 == 0)
        self._faults["cut"] += 1

    def _pause(self) -> None:
        time.sleep(self._random.uniform(0, _SPREAD))  # the instant is random: nothing is waited for

    # --- progress

    def _publish(self) -> None:
        numbers = range(self._published, self._published + self._plan.jobs)
        self._publisher.publish(numbers)
        self._published = numbers.stop

    def _lines(self) -> list[tuple[str, int]]:
        return lines(self._record)

    def _executed(self) -> Counter[int]:
        return Counter(number for _, number in self._lines())

    def _at_work(self) -> set[str]:
        return {name for name, _ in self._lines()} & set(self._workers)

    def _wait_for_work(self) -> None:
        """Wait until a job was executed since the last fault, by a consumer that lives."""
        before = len(self._lines())

        def working() -> bool:
            # With nothing in hand there would be nothing to lose.
            if self._published - len(self._executed()) < self._plan.jobs // 2:
                self._publish()
            return len(self._lines()) > before and bool(self._at_work())

        try:
            wait_until(working, "work", timeout=_STALL)
        except TimeoutError:
            self._stalls += 1
            log.info("stalled: at work %s of %s", sorted(self._at_work()), sorted(self._workers))
            for process in self._workers.values():
                # Has it write to its log where it is; Celery's workers do so by themselves.
                os.kill(process.pid, signal.SIGUSR1)

    def _wait_for_end(self) -> None:
        """Wait until all was executed and is settled, or until nothing has happened for long enough."""
        quiet = max(_STALL, 5 * self._plan.lease)
        runs, changed = -1, time.monotonic()
        while time.monotonic() - changed < quiet:
            executed = self._executed()
            if len(executed) == self._published and self._broker.idle():
                return
            if executed.total() != runs:
                runs, changed = executed.total(), time.monotonic()
            time.sleep(POLL_INTERVAL)

    # --- consumers

    def _start_worker(self, kind: Kind) -> None:
        name = f"w{self._started}"
        self._started += 1
        plan = self._plan
        options = Options(
            url=self._proxy.url(self._broker.url),
            record=str(self._record),
            worker=name,
            work=plan.work,
            lease=plan.lease,
            prefetch=plan.prefetch,
            stock=kind.stock,
        )
        self._kinds[name] = kind
        self._workers[name] = start(kind, options, self._folder)

    def _stop_workers(self) -> None:
        for process in self._workers.values():
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)
        for process in self._workers.values():
            with suppress(ServerError):  # it is killed then, and what it held shows at the end
                process.terminate(timeout=_STOP)


def _kill_main(process: ServerProcess) -> None:
    """Kill a Celery worker's main process alone."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)


def _kill_child(process: ServerProcess) -> None:
    """Kill one of its pool's processes; its main process notices and starts another."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in children[:1]:
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
