"""A worker that lost a job while it worked on it leaves the job to whoever has it now."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from mindtrace_jobs import Consumer, ExecutionStatus, Job, LeaseLostError, Orchestrator
from mindtrace_jobs.testing.models import ImageOutput, ImageSchema, image_job
from tests.jobs.fault_worker import PATIENCE, Worker
from tests.jobs.redis_channels import connection, server, tracks
from tests.jobs.servers import TcpProxy, wait_until

OPTIONS = {"lease": 1.0, "socket_timeout": 1.0, "connect_timeout": 1.0}


@pytest.mark.parametrize(
    ("fault", "end"),
    [("stopped", "return"), ("stopped", "raise"), ("stopped", "reject"), ("cut off", "return"), ("cut off", "raise")],
)
def test_late_worker_neither_records_nor_retries_nor_dead_letters_what_runs_elsewhere(
    redis_url: str, proxy_to: Callable[[str], TcpProxy], fault: str, end: str
) -> None:
    proxy = proxy_to(redis_url)
    first = f"wait:{end}"
    ran: list[str] = []
    done = threading.Event()

    def handle(job: Job[ImageSchema]) -> ImageOutput:
        ran.append(job.payload.input.url)
        done.wait(PATIENCE)
        return ImageOutput(objects=["elsewhere"])

    with ExitStack() as stack:
        # given: a worker at work on one job, with another one at hand
        orchestrator = stack.enter_context(Orchestrator.from_url(redis_url, client_options=OPTIONS))
        handle_of_first = orchestrator.submit(image_job(first), queue="q")
        orchestrator.publish_message("q", image_job("behind"))
        worker = stack.enter_context(Worker(proxy.url(redis_url), "q", prefetch=2, client_options=OPTIONS))
        worker.wait_for(f"started {first}")
        wait_until(lambda: orchestrator.queue_info("q").unacknowledged == 2, "it holds both")

        # when: it is away for longer than its lease, and another one is at work on the job when it comes back
        if fault == "stopped":
            worker.process.send_signal(signal.SIGSTOP)
        else:
            proxy.freeze()
        other = Consumer(orchestrator, "q", handle, schema=ImageSchema)
        thread = threading.Thread(target=other.run_forever)
        thread.start()
        wait_until(lambda: ran == [first], "the other one has it")
        if fault == "stopped":
            worker.process.send_signal(signal.SIGCONT)
        else:
            proxy.thaw()
        worker.go_on()
        worker.wait_for("finished behind")
        done.set()
        wait_until(lambda: handle_of_first.status().final, "the other one is done")

        # then: what the other one did is what counts, and each job that waited was run by one of them
        record = handle_of_first.record()
        assert (record.status, record.starts) == (ExecutionStatus.COMPLETED, 2)
        assert record.output == ImageOutput(objects=["elsewhere"])
        assert record.worker is not None
        assert record.worker.startswith(f"{os.getpid()}@")
        with server(redis_url) as client:
            wait_until(lambda: not tracks(client), "everything is acknowledged")
        other.stop()
        thread.join(PATIENCE)
        assert ran == [first]
        assert worker.said.count("started behind") == 1
        assert orchestrator.queue_info("q").model_dump(include={"ready", "delayed", "dead_lettered"}) == {
            "ready": 0,
            "delayed": 0,
            "dead_lettered": 0,
        }


@pytest.mark.parametrize("fails", [False, True])
def test_receiving_block_that_lost_its_job_says_so_and_decides_nothing(
    redis_url: str, caplog: pytest.LogCaptureFixture, fails: bool
) -> None:
    with (
        Orchestrator.from_url(redis_url, client_options=OPTIONS) as orchestrator,
        connection(redis_url, stock=True) as stock,
        server(redis_url) as client,
    ):
        handle = orchestrator.submit(image_job("a"), queue="q")

        def work() -> None:
            with orchestrator.receiving("q", schema=ImageSchema) as job:
                assert job is not None
                job.payload.output = ImageOutput(objects=["late"])
                [tag] = client.hkeys("unacked")
                # The quickest way to lose one: a stock process takes it back.
                stock.default_channel.qos.restore_by_tag(tag)
                wait_until(lambda: "could not renew it in time" in caplog.text, "it is known")
                if fails:
                    raise ValueError("late")

        with pytest.raises(LeaseLostError):
            work()
        assert handle.status() is ExecutionStatus.RUNNING
        with orchestrator.receiving("q", schema=ImageSchema) as again:
            assert again is not None
            again.payload.output = ImageOutput(objects=["elsewhere"])
        assert handle.result(PATIENCE) == ImageOutput(objects=["elsewhere"])
        assert orchestrator.dead_letters.count("q") == 0
        assert orchestrator.queue_info("q").delayed == 0
        assert not tracks(client)
