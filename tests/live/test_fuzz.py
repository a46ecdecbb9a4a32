"""Thousands of fuzzed requests leave nothing behind in one broker; see `fuzz` for tens of thousands."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.live.fuzz.run import SETTINGS, Run, without_collector
from tests.support.broker_process import BrokerProcess
from tests.support.scale import scaled

WARM_UP = 4000
REQUESTS = scaled(8000)


@pytest.mark.slow
@pytest.mark.exclusive  # memory is compared
@pytest.mark.parametrize("has_collector", [True, False], ids=["", "without collector"])
def test_i4_fuzzed_requests_leave_no_error_descriptor_or_memory(has_collector: bool, tmp_path: Path) -> None:
    seed = int(os.environ.get("TEST_SEED", random.randrange(1 << 32)))
    print(f"TEST_SEED={seed}")
    environment = {} if has_collector else without_collector(tmp_path)
    with BrokerProcess(**SETTINGS, environment=environment) as broker:
        run = Run(broker, seed)
        run.send(range(WARM_UP))
        descriptors, resident_bytes = run.descriptors(), broker.resident_bytes()
        run.send(range(WARM_UP, WARM_UP + REQUESTS))
        run.check_what_stayed(descriptors, resident_bytes)
        assert not run.problems, f"{run.problems}\n{broker.output[-5000:]}"
        assert {200, 201, 204, 400, 403, 404, 405} <= set(run.statuses)
