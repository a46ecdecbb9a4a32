"""The broker without what it records, to which the broker is compared."""

from __future__ import annotations

import importlib.util
import os
import urllib.request
from pathlib import Path

import pytest

from tests.bench.observing import VARIANTS
from tests.bench.peers.servers import running
from tests.bench.unobserved import RECORDING, unobserved


@pytest.mark.parametrize("module", RECORDING)
def test_all_that_records_is_found(module: str) -> None:
    found = importlib.util.find_spec(module)
    assert found is not None
    assert found.origin is not None
    source = Path(found.origin).with_suffix("").with_suffix(".py").read_text(encoding="utf-8")
    compile(unobserved(module, source), found.origin, "exec")
    with pytest.raises(LookupError):
        unobserved(module, source.replace(next(iter(RECORDING[module])), ""))


@pytest.mark.uncompiled
@pytest.mark.parametrize(("variant", "count"), [(VARIANTS[0], 1), (VARIANTS[1], 0)])
def test_only_the_metrics_are_missing(variant: object, count: int, tmp_path: Path) -> None:
    (cpu, *_) = sorted(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    try:
        with running(variant, cpu, cpu, tmp_path) as server:  # type: ignore[arg-type]
            url = server.publish_url.format(n=0)
            with urllib.request.urlopen(urllib.request.Request(url, b"one", method="POST")) as answer:
                assert answer.status == 201
            base = url.partition("/topics/")[0]
            with urllib.request.urlopen(f"{base}/topics/bench.0/events") as answer:
                assert b"one" in answer.read()
            with urllib.request.urlopen(f"{base}/metrics") as answer:
                assert f"\nbroker_published_events_total {count}.0\n".encode() in answer.read()
    finally:
        os.sched_setaffinity(0, before)
