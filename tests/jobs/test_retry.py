"""RetryPolicy: how long to wait, whatever the numbers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindtrace_jobs.errors import ConfigurationError
from mindtrace_jobs.execution.retry import RetryPolicy


def test_without_jitter_each_pause_is_the_last_times_the_factor_up_to_the_maximum() -> None:
    policy = RetryPolicy(initial=2, factor=3, maximum=50, jitter=0)
    assert [policy.delay(retries) for retries in range(5)] == [2, 6, 18, 50, 50]


@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1e6), st.floats(1, 1e6), st.floats(0, 1e6))
def test_a_pause_lies_between_what_jitter_leaves_and_the_maximum(
    retries: int, jitter: float, initial: float, factor: float, maximum: float
) -> None:
    policy = RetryPolicy(initial=initial, factor=factor, maximum=maximum, jitter=jitter)
    full = dataclasses.replace(policy, jitter=0).delay(retries)
    assert full <= maximum
    assert full * (1 - jitter) <= policy.delay(retries) <= full


def test_jitter_spreads_jobs_that_failed_together() -> None:
    assert len({RetryPolicy(jitter=1).delay(3) for _ in range(20)}) > 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_retries": -1},
        {"initial": -0.1},
        {"maximum": -1},
        {"factor": 0.5},
        {"jitter": 1.5},
        {"jitter": -0.1},
        {"max_worker_losses": 0},
        *({name: math.nan} for name in ("initial", "maximum", "factor", "jitter")),
    ],
    ids=repr,
)
def test_numbers_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="RetryPolicy"):
        RetryPolicy(**wrong)


def test_a_policy_cannot_be_changed_under_a_running_consumer() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RetryPolicy().max_retries = 5  # type: ignore[misc]
