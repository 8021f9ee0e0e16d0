"""A consumer process: ``python -m tests.jobs.loss.worker OPTIONS`` with OPTIONS as JSON; SIGTERM ends it in order."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kombu import Connection, Queue
from kombu.mixins import ConsumerMixin

from mindtrace_jobs import BrokerUnavailableError, Consumer, Job, Orchestrator, RetryPolicy
from mindtrace_jobs.testing.models import ImageSchema
from tests.jobs.loss.plan import QUEUE
from tests.jobs.loss.processes import begun


def recorder(path: str, worker: str, seconds: float) -> Callable[[str], None]:
    """A function that does the work of a job and writes down, in one write each, that it was begun and was done."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    first, last = os.open(begun(Path(path)), flags), os.open(path, flags)

    def work(text: str) -> None:
        line = f"{worker} {text.strip('#')}\n".encode()
        os.write(first, line)
        time.sleep(seconds)  # the work
        os.write(last, line)

    return work


class StockConsumer(ConsumerMixin):
    """Kombu's own way to consume for ever, reconnecting."""

    def __init__(self, connection: Any, work: Callable[[str], None], prefetch: int) -> None:
        self.connection = connection
        self._work = work
        self._prefetch = prefetch

    def get_consumers(self, Consumer: Any, channel: Any) -> list[Any]:
        return [Consumer([Queue(QUEUE)], callbacks=[self._on_message], accept=["json"], prefetch_count=self._prefetch)]

    def _on_message(self, body: Any, message: Any) -> None:
        self._work(body["token"])
        message.ack()


def consume_ours(options: dict[str, Any], work: Callable[[str], None]) -> None:
    def handle(job: Job[ImageSchema]) -> None:
        work(job.payload.input.url)

    redis = options["url"].startswith("redis")
    # A job may be at work at many kills of this test.
    with Orchestrator.from_url(
        options["url"],
        client_options={"lease": options["lease"]} if redis else {},
        retry=RetryPolicy(max_worker_losses=1_000_000),
    ) as orchestrator:
        while True:
            consumer = Consumer(orchestrator, QUEUE, handle, schema=ImageSchema, prefetch=options["prefetch"])
            try:
                consumer.run_forever()
            except BrokerUnavailableError:
                time.sleep(0.1)  # the broker was away at the start
            else:
                return


def consume_stock(options: dict[str, Any], work: Callable[[str], None]) -> None:
    redis = options["url"].startswith("redis")
    transport_options = {"visibility_timeout": options["lease"], "unacked_restore_throttle": 1} if redis else {}
    with Connection(options["url"], transport_options=transport_options) as connection:
        consumer: Any = StockConsumer(connection, work, options["prefetch"])

        def stop(*_: object) -> None:
            consumer.should_stop = True

        signal.signal(signal.SIGTERM, stop)
        consumer.run()


def main(options: dict[str, Any]) -> None:
    faulthandler.register(signal.SIGUSR1)
    work = recorder(options["record"], options["worker"], options["work"])
    consume = consume_stock if options["stock"] else consume_ours
    consume(options, work)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
