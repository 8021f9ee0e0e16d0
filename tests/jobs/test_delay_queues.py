"""RabbitMQ's delay queues: their times are late by little and never early, and all of them are found again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindtrace_jobs.clients.delay_queues import _LONGEST, _powers, _three_digits

NAMES = {digits * 10**power for power in _powers() for digits in range(1 if power == 0 else 100, 1000)}


@given(st.floats(0.0001, 10.0 * _LONGEST))
def test_a_delay_is_never_early_and_at_most_one_percent_late(milliseconds: float) -> None:
    found, power = _three_digits(milliseconds)
    wanted = min(milliseconds, _LONGEST)
    assert wanted <= found <= max(1.0, wanted * 1.01 + 1)
    assert found in NAMES
    assert power in _powers()
    assert found % 10**power == 0
    assert found // 10**power < 1000


@pytest.mark.parametrize("milliseconds", [1, 999, 1000, 1001, 9_990, 9_991, 999_001, _LONGEST - 1, _LONGEST])
def test_every_delay_has_a_name_that_is_looked_for(milliseconds: int) -> None:
    assert _three_digits(milliseconds)[0] in NAMES
