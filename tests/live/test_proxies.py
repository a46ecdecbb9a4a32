"""Behind nginx, HAProxy and Caddy, as deploy/ sets them up, everything is as without."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser

from broker.client import Client, Gap
from tests.live.conftest import Behind
from tests.live.proxied import Front, Swallower
from tests.live.proxies import DEPLOY, NAMES, PROXIES, ProxyProcess, substituted
from tests.support.broker_process import BrokerProcess, SharedBrokers
from tests.support.child_process import enter_all
from tests.support.event_stream import ACCEPT, Stream
from tests.support.http import HOST, JSON, NDJSON, Answer, Connection, chunked, exchange, request
from tests.support.waiting import WAIT_SECONDS, wait_for

BEAT_SECONDS = 0.05
IDLE_SECONDS = 3
MAX_EVENT_BYTES = 262_144
QUICK: dict[str, Any] = {"retry_min_ms": 50, "retry_max_ms": 50}
EachBefore = Callable[[BrokerProcess, int], dict[str, ProxyProcess]]


def publish(port: int, data: bytes, *headers: str, target: str = "/topics/a") -> Answer:
    return exchange(port, request("POST", target, *headers, body=data))


def asks_for_stream(front: Front) -> tuple[int, str | None, bytes]:
    """The answer of a broker that ends an EventSource's stream at once."""
    with Stream(front.port, "/topics/a") as stream:
        body = stream.rest()
        return stream.status, stream.headers.get("content-type"), body


# Streams


def test_head_and_opening_come_at_once_on_a_silent_topic(front: Front) -> None:
    with Stream(front.port, "/topics/a") as stream:
        stream.opened()
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["cache-control"] == "no-cache, no-transform"
        assert stream.headers["x-accel-buffering"] == "no"


def test_each_event_arrives_before_the_next_is_published(front: Front) -> None:
    with Stream(front.port, "/topics/a") as stream:
        stream.opened()
        for number in range(20):
            assert publish(front.port, b"%d" % number).status == 201
            assert stream.wait_for_events(number + 2)[-1].data == str(number)


def test_events_do_not_arrive_in_clumps(fronts: dict[str, Front]) -> None:
    count = 40

    def arrivals(stream: Stream) -> int:
        arrived = 0
        while len(stream.events) < count + 1:
            before = len(stream.events)
            assert stream.read()
            arrived += len(stream.events) > before
        return arrived

    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        streams = [stack.enter_context(Stream(front.port, "/topics/a")).opened() for front in fronts.values()]
        reading = pool.map(arrivals, streams)
        for number in range(count):
            fronts["nginx"].broker.publish("a", str(number))
            time.sleep(BEAT_SECONDS)
        found = dict(zip(fronts, reading, strict=True))
    assert all(arrived > count / 2 for arrived in found.values()), f"most events arrive alone: {found}"


def test_heartbeats_keep_a_silent_stream_open(each_before: EachBefore, shared_brokers: SharedBrokers) -> None:
    broker = shared_brokers.get(heartbeat_seconds=1)
    with ExitStack() as stack:
        streams = {
            name: stack.enter_context(Stream(proxy.port, "/topics/a")).opened()
            for name, proxy in each_before(broker, IDLE_SECONDS).items()
        }
        for name, stream in streams.items():
            while bytes(stream.body).split(b"\n").count(b":") < 7:
                assert stream.read(), f"cut by {name} in spite of its heartbeats"
        broker.publish("a", "still there")
        for stream in streams.values():
            assert stream.wait_for_events(2)[-1].data == "still there"


def test_without_them_it_is_cut(each_before: EachBefore, broker: BrokerProcess) -> None:
    """Else the test above would say nothing."""
    with ExitStack() as stack:
        streams = {
            name: stack.enter_context(Stream(proxy.port, "/topics/a")).opened()
            for name, proxy in each_before(broker, IDLE_SECONDS).items()
            if proxy.cuts_silent_streams
        }
        for name, stream in streams.items():
            assert not stream.read(), name


BELOW: dict[str, dict[str, str]] = {
    "nginx": {"location / {": "location /events/ {"},
    "haproxy": {
        "if METH_GET": "if METH_GET { path_beg /events/ }",
        "default_backend requests": "use_backend requests if { path_beg /events/ }",
    },
    "caddy": {
        "method POST": "expression {method} == 'POST' && path('/events/*')",
        "handle {": "handle /events/* {",
    },
    "envoy": {'prefix: "/"': 'prefix: "/events/"'},
    "traefik": {"PathPrefix(`/`)": "PathPrefix(`/events/`)"},
}
"""What the guide says to change for a host that has other paths too."""


def test_the_guide_says_what_to_change_for_a_path() -> None:
    guide = (DEPLOY / "guides" / "operating.md").read_text()
    for changes in BELOW.values():
        for old, new in changes.items():
            assert f"`{old}`" in guide
            assert f"`{new}`" in " ".join(guide.split())


@pytest.mark.parametrize("shares_host", [False, True])
@pytest.mark.parametrize("kind", sorted(PROXIES))
def test_a_broker_below_a_path(
    proxies: dict[str, type[ProxyProcess]], tmp_path: Path, kind: str, shares_host: bool
) -> None:
    with BrokerProcess(base_path="/events") as broker:
        changes = {**BELOW[kind]} if shares_host else {}
        with proxies[kind]([f"{HOST}:{broker.port}"], tmp_path, changes=changes, below="/events") as proxy:
            with Stream(proxy.port, "/events/topics/a") as stream:
                stream.opened()
                assert publish(proxy.port, b"x", target="/events/topics/a").status == 201
                assert stream.wait_for_events(2)[-1].data == "x"
            assert publish(proxy.port, b"x", target="/topics/a").status != 201


@pytest.mark.slow
@pytest.mark.first
def test_stream_is_silent_for_90_s_with_all_timeouts_as_they_come(
    proxies: dict[str, type[ProxyProcess]], tmp_path: Path
) -> None:
    with ExitStack() as stack:
        broker = stack.enter_context(BrokerProcess())
        streams = []
        for name, kind in proxies.items():
            folder = tmp_path / name
            folder.mkdir()
            proxy = stack.enter_context(kind([broker.url], folder))
            streams.append(stack.enter_context(Stream(proxy.port, "/topics/a", seconds=120)).opened())
        time.sleep(90)
        broker.publish("a", "still there")
        for stream in streams:
            assert stream.wait_for_events(2)[-1].data == "still there"


def test_nothing_is_compressed_though_the_client_would_take_it(front: Front) -> None:
    accepts = {"Accept-Encoding": "gzip, br, zstd, deflate"}
    with Stream(front.port, "/topics/a", ACCEPT | accepts) as stream:
        stream.opened()
        assert "content-encoding" not in stream.headers
    for target in ("/", "/topics/a", "/metrics"):
        answer = exchange(
            front.port, request("GET", target, JSON, "Accept-Encoding: gzip", "Connection: close")
        )
        assert answer.status == 200
        assert "content-encoding" not in answer.headers


def test_cursor_resumes(front: Front) -> None:
    first, *_ = (front.broker.publish("a", str(number)) for number in range(3))
    for target, headers in (("/topics/a", {"Last-Event-ID": first}), (f"/topics/a?lastEventId={first}", {})):
        with Stream(front.port, target, ACCEPT | headers) as stream:
            assert [event.data for event in stream.wait_for_events(2)] == ["1", "2"]


def test_broker_learns_that_a_subscriber_has_left(front: Front) -> None:
    with Stream(front.port, "/topics/a") as stream:
        stream.opened()
        assert front.subscribers == 1
    wait_for(lambda: front.subscribers == 0, "the broker to know")


@pytest.mark.asyncio(loop_scope="session")
async def test_browser_holds_more_streams_than_http_1_1_gives_it(chromium: Browser, front: Front) -> None:
    page = await chromium.new_page(ignore_https_errors=True)
    await page.goto(f"https://localhost:{front.proxy.tls_port}/page/page.css", wait_until="load")
    protocol = await page.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol")
    assert protocol == "h2"
    await page.evaluate(
        """() => Promise.all(Array.from({length: 10}, () => new Promise((resolve, reject) => {
            const source = new EventSource("/topics/a");
            source.onopen = resolve;
            source.onerror = reject;
        })))"""
    )
    assert front.subscribers == 10


# Publishers


def test_lines_are_published_while_the_body_still_comes(front: Front) -> None:
    with Stream(front.port, "/topics/a") as stream, Connection(front.port) as publisher:
        stream.opened()
        publisher.send(request("POST", "/topics/a", NDJSON, "Transfer-Encoding: chunked"))
        for number in range(3):
            publisher.send(chunked(b'{"data": "%d"}\n' % number, end=b""))
            assert stream.wait_for_events(number + 2)[-1].data == str(number)
        publisher.send(chunked())
        assert publisher.answer().json()["published"] == 3


def test_streamed_body_may_take_longer_than_a_hop_may_be_silent(
    each_before: EachBefore, broker: BrokerProcess
) -> None:
    with ExitStack() as stack:
        publishers = {
            name: stack.enter_context(Connection(proxy.port))
            for name, proxy in each_before(broker, IDLE_SECONDS).items()
        }
        for name, publisher in publishers.items():
            publisher.send(request("POST", f"/topics/{name}", NDJSON, "Transfer-Encoding: chunked"))
        for number in range(2 * IDLE_SECONDS):
            for publisher in publishers.values():
                publisher.send(chunked(b'{"data": "%d"}\n' % number, end=b""))
            time.sleep(1)
        for name, publisher in publishers.items():
            publisher.send(chunked())
            answer = publisher.answer()
            assert answer.status == 200, (name, answer)
            assert answer.json()["published"] == 2 * IDLE_SECONDS


@pytest.mark.parametrize("headers", [(), ("Idempotency-Key: k",)], ids=["without a key", "with a key"])
def test_largest_event_passes_and_a_larger_one_is_refused_by_the_broker(
    headers: tuple[str, ...], front: Front
) -> None:
    data = b"x" * MAX_EVENT_BYTES
    assert publish(front.port, data, *headers).status == 201
    refused = publish(front.port, data + b"x", *headers)
    assert (refused.status, refused.json()["code"]) == (413, "too-large")
    assert exchange(front.port, request("GET", "/topics/a", JSON, "Connection: close")).status == 200


def test_long_ndjson_body_passes(front: Front) -> None:
    line = b'{"data": "%b"}\n' % (b"x" * 100_000)
    assert publish(front.port, line * 200, NDJSON).json()["published"] == 200


def test_bad_line_is_answered_while_the_body_still_comes(front: Front) -> None:
    with Connection(front.port) as publisher:
        published = front.broker.metric("broker_published_events_total")
        publisher.send(request("POST", "/topics/a", NDJSON, "Transfer-Encoding: chunked"))
        publisher.send(chunked(b'{"data": "1"}\nno json\n', end=b""))
        if not front.proxy.answers_early:
            wait_for(
                lambda: front.broker.metric("broker_published_events_total") > published, "the good line"
            )
            publisher.send(chunked())
        answer = publisher.answer()
        assert (answer.status, answer.json()["line"], answer.json()["published"]) == (400, 2, 1)


def test_page_of_the_public_name_may_publish_and_no_other(behind: Behind) -> None:
    front = behind(allowed_hosts="events.example.com")

    def status(host: str, origin: str) -> int:
        head = f"POST /topics/a HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nContent-Length: 1\r\n\r\nx"
        return exchange(front.port, head.encode()).status

    assert status("events.example.com", "https://events.example.com") == 201
    assert status("events.example.com", "https://elsewhere.example.com") == 403
    assert status("elsewhere.example.com", "https://elsewhere.example.com") == 403


# A broker that stops


async def follow_over_a_restart(front: Front, *, kill: bool) -> list[str]:
    """What a subscriber was handed of 20 events, a gap as its reason; the broker is restarted after the tenth."""
    async with Client(front.proxy.url) as client, client.subscribe("a") as events:
        for number in range(10):
            front.broker.publish("a", str(number))
        seen = [(await anext(events)).data for _ in range(10)]
        await asyncio.to_thread(front.broker.kill if kill else front.broker.terminate)
        await asyncio.to_thread(front.broker.start)
        for number in range(10, 20):
            front.broker.publish("a", str(number))
        async with asyncio.timeout(WAIT_SECONDS):
            while seen[-1] != "19":
                event = await anext(events)
                seen.append(event.reason if isinstance(event, Gap) else event.data)
        return seen


async def test_subscriber_comes_back_and_gets_the_gap_of_the_lost_memory(behind: Behind) -> None:
    front = behind(**QUICK)
    for kill in (False, True):
        seen = await follow_over_a_restart(front, kill=kill)
        assert seen == [*map(str, range(10)), "lost", *map(str, range(10, 20))]


async def test_subscriber_comes_back_and_misses_nothing_that_redis_has(
    behind: Behind, store_arguments: dict[str, Any]
) -> None:
    front = behind(**QUICK, **store_arguments)
    for kill in (False, True):
        assert await follow_over_a_restart(front, kill=kill) == [*map(str, range(20))]


def test_eventsource_comes_back_while_no_broker_is_there(behind: Behind) -> None:
    front = behind()
    front.broker.kill()
    others = (
        request("GET", "/topics/a"),
        request("GET", "/topics/a", JSON),
        request("GET", "/readyz"),
        request("POST", "/topics/a", body=b"x"),
    )
    with ThreadPoolExecutor() as pool:  # Caddy tries each for 5 s
        answers = pool.map(partial(exchange, front.port), others)
        status, content_type, body = asks_for_stream(front)
        if front.proxy.comes_back:
            assert (status, content_type) == (200, "text/event-stream")
            assert re.fullmatch(rb"retry: \d{5}\n", body)
        else:
            assert status in (502, 503)
        assert all(answer.status in (502, 503) for answer in answers)


def test_eventsource_comes_back_while_all_brokers_are_full(behind: Behind) -> None:
    front = behind(max_connections=1)
    with Stream(front.port, "/topics/a") as stream:
        stream.opened()
        status, content_type, body = asks_for_stream(front)
        assert (status, content_type) == (200, "text/event-stream")
        assert body.startswith(b"retry: ")
        assert publish(front.port, b"x").status == 201, "publishers are not concerned"


@pytest.fixture
def three(behind: Behind, store_arguments: dict[str, Any]) -> Front:
    """Three brokers on one Redis that leave time between failing readiness and ending streams."""
    return behind(3, drain_notice_seconds=60, **QUICK, **store_arguments)


def drain(broker: BrokerProcess) -> None:
    broker.send_signal(signal.SIGTERM)
    wait_for(lambda: exchange(broker.port, request("GET", "/readyz")).status == 503, "it to drain")


def test_new_streams_go_to_others_while_a_broker_drains_and_open_ones_stay(three: Front) -> None:
    with ExitStack() as stack:

        def six() -> list[Stream]:
            streams = [stack.enter_context(Stream(three.port, "/topics/a")) for _ in range(6)]
            for stream in streams:
                stream.read_first()
            return streams

        early = six()
        while not all(broker.metric("broker_subscribers") for broker in three.brokers):
            assert len(early) < 60, "one broker gets no streams"
            early += six()
        drain(three.broker)
        wait_for(lambda: all(stream.events for stream in six()), "all new streams to be real ones")
        assert publish(three.port, b"x").status == 201
        for stream in early:
            assert stream.wait_for_events(2)[-1].data == "x"


def test_new_streams_go_past_a_full_broker(
    proxy: type[ProxyProcess], store_arguments: dict[str, Any], tmp_path: Path
) -> None:
    """It has the fewest, so it is asked first each time."""
    with ExitStack() as stack:
        brokers = enter_all(
            stack, [BrokerProcess(max_connections=most, **store_arguments) for most in (1, 100, 100)]
        )
        front = Front(brokers, stack.enter_context(proxy([broker.url for broker in brokers], tmp_path)))
        for accept, refusal in (("text/event-stream", 200), ("*/*", 503)):
            headers = {"Accept": accept}
            streams = [stack.enter_context(Stream(front.port, "/topics/a", headers)) for _ in range(12)]
            for stream in streams:
                stream.read_first()
            opened = sum(bool(stream.events) for stream in streams)
            assert opened == len(streams) or not front.proxy.asks_past_refusal
            assert {stream.status for stream in streams if not stream.events} <= {refusal}


def test_requests_are_answered_by_others_once_a_broker_has_gone(three: Front) -> None:
    """It has the fewest requests, none, so it is the first choice until the proxy knows."""
    with ExitStack() as stack:
        streams = [stack.enter_context(Stream(three.port, "/topics/a")) for _ in range(12)]
        for stream in streams:
            stream.opened()
        three.broker.kill()
        if not three.proxy.resends_bodies:
            wait_for(
                lambda: all(publish(three.port, b"x").status == 201 for _ in range(30)), "it to be known"
            )
        for _ in range(20):
            assert publish(three.port, b"x").status == 201
            with Stream(three.port, "/topics/a") as stream:
                stream.opened()


@pytest.fixture
def swallowing(proxy: type[ProxyProcess], tmp_path: Path) -> Iterator[tuple[Swallower, Front]]:
    """A broker that swallows events, and a real one at the other two places."""
    with (
        Swallower() as swallower,
        BrokerProcess() as broker,
        proxy([swallower.url, broker.url, broker.url], tmp_path) as process,
    ):
        yield swallower, Front([broker], process)


def statuses_until_one_is_swallowed(swallower: Swallower, front: Front, *headers: str) -> list[int]:
    """What publishers were answered."""
    statuses: list[int] = []
    while not swallower.swallowed:
        assert len(statuses) < 100, "the swallower is never asked"
        statuses.append(publish(front.port, b"x", *headers).status)
    return statuses


def test_event_with_a_key_is_sent_to_another_broker_if_one_dies_of_it(
    swallowing: tuple[Swallower, Front],
) -> None:
    swallower, front = swallowing
    *others, last = statuses_until_one_is_swallowed(swallower, front, "Idempotency-Key: k")
    assert set(others) <= {201}
    assert last == (201 if front.proxy.resends_bodies else 502)


def test_event_without_a_key_is_not_sent_twice(swallowing: tuple[Swallower, Front]) -> None:
    swallower, front = swallowing
    *others, last = statuses_until_one_is_swallowed(swallower, front)
    assert (set(others) - {201}, swallower.swallowed) == (set(), 1)
    assert last in (502, 503)
    assert front.broker.metric("broker_published_events_total") == len(others)


# The files


def test_files_name_the_same_three_brokers() -> None:
    for kind in PROXIES.values():
        text = (DEPLOY / kind.file).read_text()
        assert {name for name in NAMES if kind.address.format(name, 8080) in text} == set(NAMES)


def test_replacement_of_text_that_is_not_there_fails() -> None:
    assert substituted("listen 443", {"443": "8443"}) == "listen 8443"
    with pytest.raises(AssertionError, match="isn't in the file any more"):
        substituted("listen 443", {"80": "8080"})


# Logs


def test_no_log_has_a_token(behind: Behind, tmp_path: Path) -> None:
    """Not of a request that is answered, nor of one for which no broker is there."""
    front = behind()
    target = "/topics/a?access_token=s3cret"
    headers = ("Accept: application/json", "Referer: http://localhost/?access_token=s3cret")
    assert exchange(front.port, request("GET", target, *headers)).status == 200
    front.broker.kill()
    unanswered = (request("GET", target, *headers), request("POST", target, *headers, body=b"x"))
    stream = request("GET", target, "Accept: text/event-stream")
    with ThreadPoolExecutor() as pool:  # Caddy tries each for 5 s
        *answers, _ = pool.map(partial(exchange, front.port), (*unanswered, stream))
    assert all(answer.status >= 500 for answer in answers)
    log = front.proxy.output + "".join(path.read_text() for path in tmp_path.rglob("*.log"))
    assert "s3cret" not in log


# Limits


def test_clients_are_distinguished_by_the_proxys_headers(behind: Behind) -> None:
    front = behind(max_connections_per_address=1, trusted_proxies=HOST, forwarded_header="x-forwarded-for")
    with (
        Stream(front.port, "/topics/a", source="127.0.0.2") as one,
        Stream(front.port, "/topics/a", source="127.0.0.3") as other,
    ):
        one.opened()
        other.opened()
        forged = {**ACCEPT, "X-Forwarded-For": "203.0.113.7", "Forwarded": "for=203.0.113.8"}
        with Stream(front.port, "/topics/a", forged, source="127.0.0.2") as refused:
            assert re.fullmatch(rb"retry: \d{5}\n", refused.rest())
            assert refused.status == 200, "anything else is final to an EventSource"
