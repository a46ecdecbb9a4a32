"""No alert fires on the metrics of a broker under healthy load."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.alerts.healthy import SCRAPE_SECONDS, run
from tests.alerts.prometheus import Prometheus, needs_prometheus
from tests.alerts.promtool import alerts, firing, needs_promtool, over_time
from tests.alerts.test_failures import open_stream, scrape, without_machine
from tests.support.broker_process import BrokerProcess
from tests.support.http import exchange, request
from tests.support.waiting import wait_for

pytestmark = [needs_promtool, needs_prometheus]

MINUTES = 20
STREAMS = 120
RUN_SECONDS = 150
FROM_THE_MACHINE = {"BrokerLoopLags", "BrokerSlowDelivery", "BrokerStoreLags", "BrokerManyLagging"}
"""May be pending on a busy machine."""
WHILE_RESTARTED = {"BrokerDown", "BrokerStoreGone", "BrokerStreamsFellOff", "BrokerWorkerMissing"}
"""May be pending: a scrape fails, so that its streams aren't counted; a new process answers before it has reached its store, and
before all its workers have begun.
"""


def test_no_alert_fires_under_healthy_load() -> None:
    """Streams come and go, clients resume, events and token streams are published; one scrape for each minute."""
    ndjson = "Content-Type: application/x-ndjson"
    with BrokerProcess() as broker, ExitStack() as stack:
        scrapes = []
        open_streams = [stack.enter_context(open_stream(broker.port, "news")) for _ in range(STREAMS)]
        for minute in range(MINUTES):
            cursor = [broker.publish("news", f"{minute}.{number}") for number in range(10)][-1]
            for number in range(5):
                open_streams.pop(0).close()
                resumed = open_stream(broker.port, "news", f"Last-Event-ID: {cursor}")
                open_streams.append(stack.enter_context(resumed))
                answer = exchange(
                    broker.port,
                    request(
                        "POST",
                        f"/topics/chat-{minute}-{number}?end=true",
                        ndjson,
                        body=b'{"data": "a"}\n' * 10,
                    ),
                )
                assert answer.status == 200, answer
            scrapes.append(without_machine(scrape(broker.port)))
        fires = firing(over_time(scrapes, [1] * MINUTES), *range(MINUTES))
        assert fires == [set()] * MINUTES


@pytest.mark.slow
@pytest.mark.exclusive  # an alert on latency or on a scrape that fails would be right on a machine that is too busy
async def test_nothing_is_even_pending_under_load_with_restarts() -> None:
    """Alerts that wait have no time to fire here; `python -m tests.alerts.healthy` gives them ten minutes."""
    found = await run(RUN_SECONDS)
    assert len(found.scrapes) == 2
    assert min(found.scrapes.values()) > 0.8 * RUN_SECONDS / SCRAPE_SECONDS
    assert found.unhealthy_rules == []
    assert found.load["streams that came back"] > 200, "the restarts ended all streams"
    for kind in (
        "publishes",
        "bursts",
        "token streams",
        "long token streams",
        "polls",
        "streams that came and went",
    ):
        assert found.load[kind], kind
    assert set(found.firing) == set()
    assert set(found.pending) <= FROM_THE_MACHINE | WHILE_RESTARTED


@pytest.mark.slow
def test_prometheus_evaluates_every_alert(tmp_path: Path) -> None:
    """With the files of deploy/: a broker that is gone is noticed."""
    with BrokerProcess() as broker, Prometheus([broker.port], tmp_path) as prometheus:
        broker.kill()
        wait_for(lambda: "BrokerDown" in prometheus.evaluations("pending", 60), "it is pending")
        rules = prometheus.rules()
    assert {rule["name"] for rule in rules} == {rule["alert"] for rule in alerts()}
    assert {rule["health"] for rule in rules} == {"ok"}
