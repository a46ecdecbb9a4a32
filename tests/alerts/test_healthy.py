"""No alert fires on the metrics of a broker under healthy load."""

from __future__ import annotations

from contextlib import ExitStack

from tests.alerts.promtool import firing, needs_promtool, over_time
from tests.alerts.test_failures import open_stream, scrape, without_machine
from tests.support.broker_process import BrokerProcess
from tests.support.http import exchange, request

pytestmark = needs_promtool

MINUTES = 20
STREAMS = 120


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
