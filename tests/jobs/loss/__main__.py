"""The loss test as a script: a report as one line of JSON, and as text. Its exit status is 1 if anything was lost."""

from __future__ import annotations

import logging
import sys
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from pathlib import Path

from tests.jobs.loss.brokers import RabbitMQBroker, RedisBroker
from tests.jobs.loss.plan import Kind, Plan, Report
from tests.jobs.loss.run import run
from tests.jobs.servers import RabbitMQServer, RedisServer


def main() -> int:
    parser = ArgumentParser(
        "python -m tests.jobs.loss", description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--broker", choices=("redis", "rabbitmq"), default="redis")
    parser.add_argument("--consumer", type=Kind, choices=list(Kind), default=Kind.OURS)
    parser.add_argument("--jobs", type=int, default=2000, help="queued at the start, and again when they run short")
    parser.add_argument("--kills", type=int, default=100, help="consumers killed with SIGKILL")
    parser.add_argument("--restarts", type=int, default=5, help="restarts of the broker")
    parser.add_argument("--cuts", type=int, default=20, help="times that all connections are cut")
    parser.add_argument("--workers", type=int, default=3, help="consumer processes")
    parser.add_argument("--prefetch", type=int, default=10, help="jobs that each holds")
    parser.add_argument("--lease", type=float, default=2.0, help="seconds; the controls' visibility timeout")
    parser.add_argument("--work", type=float, default=0.004, help="seconds that a job takes")
    parser.add_argument("--seed", type=int, default=1, help="of the order and the instants of the faults")
    parser.add_argument("--spare-stock", action="store_true", help="of mixed consumers, kill only ours")
    parser.add_argument("--logs", type=Path, help="folder to which the consumers' logs are copied")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options = vars(parser.parse_args())
    broker, logs = options.pop("broker"), options.pop("logs")
    report = _run(broker, Plan(kind=options.pop("consumer"), **options), logs)
    print(report.as_json())
    print(report.as_text())
    return 0 if report.clean else 1


def _run(broker: str, plan: Plan, logs: Path | None) -> Report:
    if broker == "redis":
        # The whole history is read at the end.
        with RedisServer(appendonly=True, arguments=["--auto-aof-rewrite-percentage", "0"]) as redis:
            return run(plan, RedisBroker(redis), logs)
    with RabbitMQServer() as node:
        return run(plan, RabbitMQBroker(node.url(), node), logs)


if __name__ == "__main__":
    sys.exit(main())
