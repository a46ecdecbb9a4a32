"""CPU time and memory from /proc."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from broker.bench import BenchError
from broker.bench.proc import descendants, sample


def test_descendants_are_included() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert {os.getpid(), child.pid} <= set(descendants(os.getpid()))
        assert child.stdin is not None
        child.stdin.close()
    assert child.pid not in descendants(os.getpid())


def test_a_sample_has_cpu_time_and_memory() -> None:
    first = sample(os.getpid())
    sum(range(1_000_000))
    second = sample(os.getpid())
    assert second.cpu_ns > first.cpu_ns > 0
    assert 1 << 20 < second.resident <= second.memory


def test_a_process_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(BenchError, match="--server-pid 4194305"):
        sample(4_194_305)
