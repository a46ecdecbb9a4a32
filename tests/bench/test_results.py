"""Figures, computed from what the processes sent; and as text."""

from __future__ import annotations

from broker.bench.plan import Load
from broker.bench.proc import Sample
from broker.bench.report import text
from broker.bench.results import LoadResults, Result, compute
from broker.bench.types import ConnectProgress, PublisherResult, SubscriberResult

MS = 1_000_000
CONNECTED = ConnectProgress(10, 0, "", 0, 2000 * MS, True)
PUBLISHED = PublisherResult(4, 40, 0, "", 0, 3000 * MS, 5000 * MS, {MS: 4}, 100 * MS)
SAMPLES = [Sample(0, 0, 0, -1), Sample(50 * MS, 10 << 10, 0, -1), Sample(60 * MS, 0, 0, -1)]


def result(subscribers: SubscriberResult, publishers: PublisherResult = PUBLISHED, stuck: int = 0) -> Result:
    samples = [*SAMPLES, Sample(100 * MS, 5 << 20, 0, -1)]
    messages = LoadResults([CONNECTED], [subscribers], [publishers])
    return compute(Load("http://127.0.0.1/t", subscribers=10, stuck=stuck), messages, samples, 30 << 10, 2.0)


def test_figures_are_sums_over_time_and_count() -> None:
    made = result(SubscriberResult(40, {2 * MS: 40}, 7000 * MS, 0, 300 * MS))
    assert (made.connects.connected, made.connects.per_second) == (10, 5.0)
    assert made.publishing is not None
    assert made.delivering is not None
    assert made.cost is not None
    assert (made.publishing.per_second, made.publishing.latency.count) == (2.0, 4)
    assert (made.delivering.seconds, made.delivering.per_second) == (4.0, 10.0)
    assert (made.cost.cpu_us_per_connect, made.cost.cpu_us_per_delivery) == (5000.0, 1000.0)
    assert (made.cost.cpu_us_per_publish, made.cost.resident_kb_per_subscriber) == (None, 1.0)
    assert (made.load_cpus.all, made.load_cpus.busiest) == (0.2, 0.15)
    assert made.warnings() == []


def test_memory_is_counted_for_stuck_subscribers() -> None:
    made = result(SubscriberResult(40, {}, 7000 * MS, 0, 0), stuck=3)
    assert made.cost is not None
    assert (made.cost.kb_per_stuck_reader, made.cost.resident_kb_per_subscriber) == (10.0, None)


def test_warnings_name_what_is_missing() -> None:
    failed = PublisherResult(4, 40, 2, "HTTP/1.1 503", 1, 0, 1, {}, 0)
    made = result(SubscriberResult(39, {}, 1, 5, 2000 * MS), failed)
    assert made.warnings() == [
        "5 subscribers were closed by the server",
        "3 events were not published: HTTP/1.1 503",
        "1 deliveries are missing",
        "the load generator had no CPU time left: it may have measured itself",
    ]
    assert text(made).count("\nwarning: ") == 4


def test_secrets_in_headers_are_not_reported() -> None:
    load = Load("http://127.0.0.1/t", subscribers=0, headers=("Authorization: Bearer secret",))
    made = compute(load, LoadResults([CONNECTED], [], [PUBLISHED]), [None, None], 0, 1.0)
    assert made.as_json()["load"]["headers"] == ["Authorization"]
