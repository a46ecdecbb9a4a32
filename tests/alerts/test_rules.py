"""Each alert fires on the series of its failure, and none on healthy ones; promtool evaluates the rules."""

from __future__ import annotations

import pytest

from tests.alerts.promtool import Series, alerts, firing, needs_promtool

pytestmark = needs_promtool

SEVERITIES = {"critical", "warning"}


def histogram(name: str, **bounds: str) -> dict[str, str]:
    """Cumulative buckets: `le_1_0="0+1x30"` is that up to 1.0."""
    return {
        f'{name}_bucket{{instance="a",le="{bound.removeprefix("le_").replace("_", ".").replace("Inf", "+Inf")}"}}': values
        for bound, values in bounds.items()
    }


HEALTHY: Series = {
    'up{job="sse-broker",instance="a"}': "1x90",
    'process_start_time_seconds{job="sse-broker",instance="a"}': "1000x90",
    'broker_workers{instance="a"}': "4x90",
    'broker_draining{instance="a"}': "0x90",
    'broker_subscribers{instance="a"}': "1000+5x90",
    'broker_max_subscribers{instance="a"}': "10000x90",
    'broker_connects_total{kind="resume"}': "0+600x90",
    'broker_gaps_total{reason="lost"}': "3x90",
    'broker_refused_connects_total{reason="overloaded"}': "7x90",
    'broker_cut_requests_total{reason="room",instance="a"}': "0x90",
    'broker_cut_requests_total{reason="idle",instance="a"}': "0+10x90",
    'broker_closes_total{reason="client"}': "0+600x90",
    'broker_closes_total{reason="slow"}': "0+1x90",
    'broker_closes_total{reason="answered"}': "0+50x90",
    'broker_lagging_subscribers{instance="a"}': "5 0 9 2 7 0 1 3 2 5x80",
    'broker_backlog_bytes{instance="a"}': "1000 20000 500000x3 0x85",
    **histogram("broker_publish_written_seconds", le_0_01="0+99x90", le_1_0="0+100x90", Inf="0+100x90"),
    **histogram("broker_loop_lag_seconds", le_0_01="0+599x90", le_0_1="0+600x90", Inf="0+600x90"),
    'broker_publish_errors_total{code="unavailable"}': "5x90",
    'broker_publish_errors_total{code="invalid-body"}': "0+3x90",
    'broker_requests_total{route="/topics/{topic}",status="500"}': "0x90",
    'broker_denied_requests_total{status="401",reason="signature"}': "0+1x90",
    'broker_denied_requests_total{status="401",reason="expired"}': "0+30x90",
    'broker_streamed_bodies_ended_total{reason="ended"}': "0+100x90",
    'broker_streamed_bodies_ended_total{reason="cancelled"}': "0+20x90",
    'broker_streamed_bodies_ended_total{reason="cut"}': "0+2x90",
    'broker_store_connected{instance="a"}': "1x90",
    'broker_store_memory_bytes{instance="a"}': "100x90",
    'broker_store_memory_limit_bytes{instance="a"}': "0x90",
    'broker_store_lag_seconds{instance="a"}': "0.002 0.4 0.003 0.002x87",
}

FAILURES: dict[str, Series] = {
    "BrokerDown": {'up{job="sse-broker",instance="a"}': "1x30 0x60"},
    "BrokerRestarts": {
        'process_start_time_seconds{job="sse-broker",instance="a"}': "1000x30 2000 3000 4000x60",
    },
    "BrokerWorkerMissing": {'broker_workers{instance="a"}': "4x30 3x60"},
    "BrokerStreamsFellOff": {'broker_subscribers{instance="a"}': "1000x30 400x60"},
    "BrokerReconnectStorm": {'broker_connects_total{kind="resume"}': "0+60x30 6000x60"},
    "BrokerGaps": {'broker_gaps_total{reason="lost"}': "0x30 5000x60"},
    "BrokerRefusesStreams": {'broker_refused_connects_total{reason="overloaded"}': "0x30 20x60"},
    "BrokerNearlyFull": {'broker_subscribers{instance="a"}': "1000x30 9200x60"},
    "BrokerOutOfDescriptors": {'broker_cut_requests_total{reason="room",instance="a"}': "0x30 4x60"},
    "BrokerSlowReaders": {'broker_closes_total{reason="slow"}': "0x30 1000x60"},
    "BrokerManyLagging": {'broker_lagging_subscribers{instance="a"}': "5x30 400x60"},
    "BrokerSlowDelivery": histogram(
        "broker_publish_written_seconds",
        le_0_01="0+99x30 2970x60",
        le_1_0="0+100x30 3000x60",
        le_2_5="0+100x30 3050+50x60",
        Inf="0+100x30 3100+100x60",
    ),
    "BrokerFanOutAtItsLimit": {'broker_backlog_bytes{instance="a"}': "1000x30 900000x60"},
    "BrokerLoopLags": histogram(
        "broker_loop_lag_seconds",
        le_0_01="0+600x30 18000x60",
        le_0_1="0+600x30 18500+500x60",
        le_1_0="0+600x30 18600+600x60",
        Inf="0+600x30 18600+600x60",
    ),
    "BrokerRefusesPublishes": {'broker_publish_errors_total{code="unavailable"}': "0x30 1x60"},
    "BrokerDefect": {'broker_requests_total{route="/topics/{topic}",status="500"}': "0x30 1x60"},
    "BrokerTokensDontFit": {'broker_denied_requests_total{status="401",reason="signature"}': "0x30 60x60"},
    "BrokerTokenStreamsCut": {'broker_streamed_bodies_ended_total{reason="cut"}': "0x30 500x60"},
    "BrokerStoreGone": {'broker_store_connected{instance="a"}': "1x30 0x60"},
    "BrokerStoreShortOfMemory": {
        'broker_store_memory_bytes{instance="a"}': "50x30 95x60",
        'broker_store_memory_limit_bytes{instance="a"}': "100x90",
    },
    "BrokerStoreLags": {'broker_store_lag_seconds{instance="a"}': "0.002x30 0.4x60"},
}


def test_nothing_fires_on_healthy_series() -> None:
    assert firing(HEALTHY, 1, 5, 12, 30, 60, 90) == [set()] * 6


@pytest.mark.parametrize("alert", FAILURES)
def test_an_alert_fires_on_its_failure_alone(alert: str) -> None:
    series = {**HEALTHY, **FAILURES[alert]}
    before, *after = firing(series, 30, *range(31, 42))
    assert before == set()
    assert {alert} in after, after
    assert set().union(*after) == {alert}


def test_nothing_fires_while_a_broker_drains_for_minutes() -> None:
    """It refuses streams and ends streamed bodies, and its workers no longer count."""
    drain: Series = {
        'broker_workers{instance="a"}': "4x30 0x5 4x55",
        'broker_draining{instance="a"}': "0x30 1x5 0x55",
        'broker_refused_connects_total{reason="draining"}': "0x30 500x60",
        'broker_publish_errors_total{code="draining"}': "0x30 500x60",
        'broker_streamed_bodies_ended_total{reason="draining"}': "0x30 500x60",
    }
    assert firing({**HEALTHY, **drain}, *range(28, 45)) == [set()] * 17


def test_nothing_fires_when_thousands_come_back_after_a_drain() -> None:
    """Half of all streams end within a minute, and are open again soon after."""
    drain: Series = {
        'broker_subscribers{instance="a"}': "6000x30 2500 6000x59",
        'broker_connects_total{kind="resume"}': "0+60x30 4860 6360+60x58",
        'broker_draining{instance="a"}': "0x30 1 0x59",
    }
    assert firing({**HEALTHY, **drain}, *range(28, 45)) == [set()] * 17


def test_each_alert_has_a_failure_a_severity_and_advice() -> None:
    assert {rule["alert"] for rule in alerts()} == set(FAILURES)
    for rule in alerts():
        assert rule["labels"]["severity"] in SEVERITIES
        assert set(rule["annotations"]) == {"summary", "description"}


def test_a_burst_of_gaps_stays_visible_for_ten_minutes() -> None:
    """All at once, and never again: a rate over ten minutes that must hold for ten minutes never fires on this."""
    series = {**HEALTHY, 'broker_gaps_total{reason="lost"}': "0x10 5000x80"}
    fires = ["BrokerGaps" in names for names in firing(series, *range(10, 25))]
    assert fires == [False] + [True] * 10 + [False] * 4
