"""`broker bench` against a small SSE server of the test's own: counts, keys and errors; never timings."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import resource
import socket
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from broker import cli
from broker.bench import BenchError, Load, Result, answers, marks, measure, plan, tally
from broker.bench.plot import svg
from broker.bench.report import text
from tests.support.local_broker import Serve
from tests.support.tokens import HMAC

pytestmark = pytest.mark.timeout(60)

StartServer = Callable[[web.Application], Awaitable[TestServer]]


class Small:
    """An SSE server as small as can be: topics, ids, replay, NDJSON."""

    def __init__(self) -> None:
        self.ids = itertools.count(1)
        self.kept: defaultdict[str, list[bytes]] = defaultdict(list)
        self.subscribers: defaultdict[str, set[web.StreamResponse]] = defaultdict(set)
        self.cursors: Counter[str] = Counter()
        self.closing = asyncio.Event()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/page", self.page)
        app.router.add_get("/topics/{topic}", self.subscribe)
        app.router.add_post("/topics/{topic}", self.publish)
        app.on_shutdown.append(self.close)
        return app

    async def close(self, _app: web.Application) -> None:
        self.closing.set()

    async def page(self, _request: web.Request) -> web.Response:
        return web.Response(text="<p>no stream here", content_type="text/html")

    async def subscribe(self, request: web.Request) -> web.StreamResponse:
        topic = request.match_info["topic"]
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        cursor = request.headers.get("Last-Event-ID", "")
        self.cursors[cursor] += 1
        if cursor:
            await response.write(b"".join(self.kept[topic][int(cursor) :]))
        self.subscribers[topic].add(response)
        await self.closing.wait()
        return response

    async def publish(self, request: web.Request) -> web.Response:
        topic = request.match_info["topic"]
        if request.content_type != "application/x-ndjson":
            await self.fan_out(topic, await request.read())
            return web.json_response({"topic": topic}, status=201)
        published = 0
        async for line in request.content:
            await self.fan_out(topic, json.loads(line)["data"].encode())
            published += 1
        return web.json_response({"published": published})

    async def fan_out(self, topic: str, data: bytes) -> None:
        kept = self.kept[topic]
        kept.append(b"data: %b\nid: %d\n\n" % (data, len(kept) + 1))
        for subscriber in tuple(self.subscribers[topic]):
            try:
                await subscriber.write(kept[-1])
            except ConnectionResetError:
                self.subscribers[topic].discard(subscriber)


@pytest.fixture
def small() -> Small:
    return Small()


@pytest.fixture
async def url(small: Small, aiohttp_server: StartServer) -> str:
    server = await aiohttp_server(small.app())
    return str(server.make_url("/topics/")) + "t{n}"


async def measured(**fields: Any) -> Result:
    return await asyncio.to_thread(measure, Load(**fields))


async def test_every_delivery_is_counted(small: Small, url: str) -> None:
    result = await measured(url=url, subscribers=30, rate=40.0, duration=0.5, server_pid=os.getpid())
    assert result.connects.connected == 30
    assert result.publishing is not None
    assert result.publishing.published > 0
    assert result.publishing.failed == 0
    assert result.delivering is not None
    assert result.delivering.delivered == result.delivering.expected == 30 * result.publishing.published
    assert result.delivering.latency.count == result.delivering.delivered
    assert result.delivering.latency.max >= result.delivering.latency.p50 > 0
    assert result.cost is not None
    assert result.cost.cpu_us_per_delivery is not None
    assert [warning for warning in result.warnings() if "load generator" not in warning] == []
    assert "delivered" in text(result)


async def test_subscribers_and_events_spread_over_topics(small: Small, url: str) -> None:
    result = await measured(url=url, subscribers=10, topics=4, rate=0.0, publishers=3, duration=0.3)
    assert sorted(len(there) for topic, there in small.subscribers.items()) == [2, 2, 3, 3]
    assert result.publishing is not None
    assert result.delivering is not None
    assert result.publishing.published >= 4
    assert result.delivering.delivered == result.delivering.expected


async def test_more_than_one_process_counts_the_same(url: str) -> None:
    result = await measured(url=url, subscribers=11, processes=3, rate=20.0, duration=0.3)
    assert result.connects.connected == 11
    assert result.delivering is not None
    assert result.delivering.delivered == result.delivering.expected > 0


async def test_reconnecting_subscribers_are_done_when_all_is_replayed(small: Small, url: str) -> None:
    result = await measured(url=url, subscribers=12, connects=True, replay=25)
    assert result.connects.connected == 12
    assert result.connects.refused == 0
    cursors = {cursor: times for cursor, times in small.cursors.items() if cursor}
    assert list(cursors.values()) == [12]
    assert len(small.kept["t0"]) - int(next(iter(cursors))) == 25
    assert result.publishing is None
    assert result.delivering is None


async def test_publish_only_counts_what_the_server_took(small: Small, url: str) -> None:
    result = await measured(url=url, subscribers=0, publishers=4, rate=0.0, duration=0.3)
    assert result.publishing is not None
    assert result.publishing.published == sum(not is_unstamped(event) for event in small.kept["t0"])
    assert result.publishing.latency.count == result.publishing.published
    assert result.delivering is None


def is_unstamped(event: bytes) -> bool:
    return event.startswith(b"data: " + marks.stamp(0))


async def test_ndjson_counts_what_the_answer_says(small: Small, url: str) -> None:
    result = await measured(url=url, subscribers=2, rate=0.0, ndjson=True, duration=0.2, drain=30.0)
    assert result.publishing is not None
    assert result.publishing.published > 0
    assert result.delivering is not None
    assert result.delivering.delivered == result.delivering.expected == 2 * result.publishing.published
    assert result.delivering.latency.count == 0


async def test_stuck_readers_are_connected_and_get_no_deliveries(small: Small, url: str) -> None:
    result = await measured(url=url, subscribers=3, stuck=2, rate=20.0, duration=0.3, server_pid=os.getpid())
    assert result.connects.connected == 5
    assert len(small.subscribers["t0"]) == 5
    assert result.delivering is not None
    assert result.delivering.delivered == result.delivering.expected
    assert result.cost is not None
    assert result.cost.kb_per_stuck_reader is not None
    assert result.cost.resident_kb_per_subscriber is None


async def test_json_and_plot(url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "latency.svg"
    words = [
        "bench",
        "--url",
        url,
        "--subscribers",
        "5",
        "--rate",
        "20",
        "--duration",
        "0.3",
        "--json",
        "--plot",
        str(picture),
    ]
    assert await asyncio.to_thread(cli.main, words) == 0
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert {"load", "connects", "publishing", "delivering", "cost", "load_cpus"} == said.keys()
    assert said["load"]["subscribers"] == said["connects"]["connected"] == 5
    assert said["delivering"]["latency"]["count"] > 0
    assert said["cost"] is None
    assert "publishing" in err
    assert ElementTree.fromstring(picture.read_text(encoding="utf-8")).tag.endswith("svg")


async def test_the_token_goes_with_every_request_and_not_into_the_report(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = await serve(jwt_secrets=json.dumps([HMAC.material]))
    target = f"{server.url}/topics/bench"
    token = HMAC.token(["bench"], ["bench"])
    words = [
        "bench",
        "--subscribers",
        "2",
        "--rate",
        "50",
        "--duration",
        "0.3",
        "--processes",
        "2",
        "--json",
        "--url",
    ]
    monkeypatch.delenv("BROKER_TOKEN", raising=False)
    assert await asyncio.to_thread(cli.main, [*words, target]) == 1
    assert "401" in capsys.readouterr().err
    assert await asyncio.to_thread(cli.main, [*words, target, "--token", token]) == 0
    monkeypatch.setenv("BROKER_TOKEN", token)
    assert await asyncio.to_thread(cli.main, [*words, target]) == 0
    out, err = capsys.readouterr()
    assert out.count('"Authorization"') == 2
    assert token not in out + err


async def test_no_event_stream_is_one_line(
    aiohttp_server: StartServer, small: Small, capsys: pytest.CaptureFixture[str]
) -> None:
    server = await aiohttp_server(small.app())
    assert await asyncio.to_thread(cli.main, ["bench", "--url", str(server.make_url("/page"))]) == 1
    error = capsys.readouterr().err
    assert "not an event stream: HTTP/1.1 200 OK, text/html" in error
    assert error.count("\n") == 1
    assert await asyncio.to_thread(cli.main, ["bench", "--url", str(server.make_url("/nothing"))]) == 1
    assert "404" in capsys.readouterr().err


def test_unreachable_server_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert cli.main(["bench", "--url", f"http://127.0.0.1:{taken.getsockname()[1]}/t"]) == 1
    error = capsys.readouterr().err
    assert "cannot connect: Connection refused" in error
    assert error.count("\n") == 1


async def test_refused_publishing_is_said(url: str, small: Small) -> None:
    with pytest.raises(BenchError, match=r"publishing is answered HTTP/1\.1 405"):
        await measured(url=url, publish_url=url.replace("/topics/t{n}", "/page"), subscribers=1)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"url": "http://192.0.2.1/t"}, "not on loopback"),
        ({"url": "http://127.0.0.1/t", "publish_url": "http://192.0.2.1/t"}, "not on loopback"),
        ({"url": "https://127.0.0.1/t"}, "only http"),
        ({"url": "http://127.0.0.1:x/t"}, "port"),
        ({"url": "http://127.0.0.1/t", "topics": 2}, "{n}"),
        ({"url": "http://127.0.0.1/t", "size": 5}, "--size 5"),
        ({"url": "http://127.0.0.1/t", "replay": 5}, "--connects"),
        ({"url": "http://127.0.0.1/t", "ndjson": True}, "--rate 0"),
        ({"url": "http://127.0.0.1/t", "headers": ("nonsense",)}, "--header"),
        ({"url": "http://127.0.0.1/t", "subscribers": 0, "publishers": 0}, "nothing to do"),
        ({"url": "http://127.0.0.1/t", "subscribers": -1}, "negative"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_any_load(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(BenchError) as raised:
        measure(Load(**fields))
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def test_too_many_connections_for_the_file_limit_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (1100, 1100))
    load = Load("http://127.0.0.1/t", subscribers=2500, processes=2)
    with pytest.raises(BenchError, match="give --processes 3"):
        plan.shares(load)
    assert len(plan.shares(Load("http://127.0.0.1/t", subscribers=2500))) == 3


def test_many_connections_come_from_several_addresses() -> None:
    at = plan.target("http://127.0.0.1/t", Load("http://127.0.0.1/t"))
    assert plan.source_address(9_999, 10_000, at) is None
    assert plan.source_address(0, 50_000, at) == "127.0.0.1"
    assert plan.source_address(49_999, 50_000, at) == "127.0.0.5"


def test_the_draw_hits_every_event_of_a_chunk_equally_often() -> None:
    events = [b"id: %d\ndata: %b\n\n" % (n % 10, marks.data(100, n + 1)) for n in range(7)]
    chunk = bytearray(b"".join(events))
    assert marks.count(chunk, len(chunk)) == 7
    hits = Counter(marks.draw(chunk, len(chunk), place / len(chunk)) for place in range(len(chunk)))
    assert hits == dict.fromkeys(range(1, 8), len(chunk) // 7)


def test_a_stamp_that_is_cut_or_not_there_has_no_age() -> None:
    whole = marks.data(marks.WIDTH, 12345)
    assert marks.draw(bytearray(whole), len(whole), 0.0) == 12345
    assert marks.draw(bytearray(whole), len(whole) - 1, 0.0) == 0
    assert marks.draw(bytearray(b":\n"), 2, 0.5) == 0
    assert marks.draw(bytearray(marks.data(30, 0)), 30, 0.0) == 0


def test_data_has_the_size_asked_for_and_one_mark() -> None:
    for size in (marks.WIDTH, 200, 5000):
        data = marks.data(size, 7)
        assert len(data) == size
        assert data.count(marks.MARK) == 1


def test_the_tally_keeps_percentiles_within_a_thousandth() -> None:
    draws = random.Random(1)
    ages = sorted(int(draws.lognormvariate(15, 1)) for _ in range(5000))
    seen: tally.Tally = {}
    for age in ages:
        tally.add(seen, age, 2)
    latency = tally.latency(seen)
    assert latency.count == 10_000
    for percentile, value in ((50, latency.p50), (90, latency.p90), (99, latency.p99), (100, latency.max)):
        true = ages[min(len(ages) - 1, len(ages) * percentile // 100 - 1)] / 1e6
        assert value == pytest.approx(true, rel=0.003)
    assert [p for p, _ in latency.curve] == sorted(p for p, _ in latency.curve)


def test_an_empty_curve_is_still_a_picture() -> None:
    assert ElementTree.fromstring(svg("<&>", {"none": tally.NO_LATENCY})).tag.endswith("svg")


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        (b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}", True),
        (b"HTTP/1.1 201 Created\r\ncontent-length:2\r\n\r\n{", False),
        (b"HTTP/1.1 201 Created\r\nContent-Le", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", False),
    ],
)
def test_where_an_answer_ends(answer: bytes, whole: bool) -> None:
    assert answers.answer_end(answer) == (len(answer) if whole else 0)
