"""Traces of publishes: in this process with the SDK's exporter in memory, and from real processes with an OTLP receiver."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SentSpan
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from broker import sse
from broker.events import EventId
from broker.fanout.feed_table import FeedTable
from broker.process import tracing
from broker.settings import Settings
from tests.support.broker_process import BrokerProcess
from tests.support.event_stream import Stream
from tests.support.http import exchange, request
from tests.support.local_broker import Clock, Serve, Server, serving
from tests.support.redis_servers import Server as StoreServer
from tests.support.redis_servers import valkey
from tests.support.waiting import until, wait_for

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{PARENT}-01"
UNSAMPLED = f"00-{TRACE}-{PARENT}-00"
STATE = 'vendor=value,tenant@system=a "quoted" one'


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Gets the spans of the brokers that `start` starts."""
    made = InMemorySpanExporter()
    monkeypatch.setattr(
        tracing,
        "exporting_tracer",
        lambda _url, share: tracing.SdkTracer(SimpleSpanProcessor(made), share),
    )
    return made


@pytest.fixture(params=["front", "aiohttp"])
async def start(
    request: pytest.FixtureRequest, clock: Clock, exporter: InMemorySpanExporter
) -> AsyncIterator[Serve]:
    """Starts a broker that is traced, served in either way."""
    async with serving(clock, by_aiohttp=request.param == "aiohttp") as start:
        yield partial(start, trace_url="http://collector/v1/traces")


def spans(exporter: InMemorySpanExporter, name: str) -> Sequence[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def parent_id(span: ReadableSpan) -> str:
    return "" if span.parent is None else f"{span.parent.span_id:016x}"


def own_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.span_id:016x}"


async def test_a_publish_is_a_part_of_its_senders_trace(start: Serve, exporter: InMemorySpanExporter) -> None:
    server = await start()
    stream = await server.subscribe("/topics/news")
    await server.publish("news", "x", traceparent=SAMPLED)
    await stream.data(1)
    await until(lambda: spans(exporter, "fan-out"), "the span of the fan-out")
    (publish,), (store,), (fan_out,) = (spans(exporter, name) for name in ("publish", "store", "fan-out"))
    assert {span.context.trace_id for span in (publish, store, fan_out) if span.context} == {int(TRACE, 16)}
    assert parent_id(publish) == PARENT
    assert parent_id(store) == parent_id(fan_out) == own_id(publish)
    assert publish.attributes
    assert publish.attributes["messaging.destination.name"] == "news"
    assert fan_out.attributes
    assert fan_out.attributes["subscribers"] == 1
    assert publish.start_time
    assert store.start_time
    assert store.end_time
    assert publish.end_time
    assert publish.start_time <= store.start_time <= store.end_time <= publish.end_time


@pytest.mark.parametrize("headers", [{}, {"traceparent": UNSAMPLED}, {"traceparent": "00-bad"}])
async def test_what_the_sender_does_not_record_is_not_recorded(
    start: Serve, exporter: InMemorySpanExporter, headers: Mapping[str, str]
) -> None:
    server = await start()
    await server.subscribe("/topics/news")
    await server.publish("news", "x", **headers)
    await server.publish("news", "y", traceparent=SAMPLED)
    await until(lambda: spans(exporter, "fan-out"), "the span of the other publish")
    assert len(exporter.get_finished_spans()) == 3


async def test_a_share_of_the_others_is_recorded(start: Serve, exporter: InMemorySpanExporter) -> None:
    server = await start(trace_share=1)
    await server.publish("news", "x")
    (publish,) = spans(exporter, "publish")
    assert publish.parent is None
    await server.publish("news", "x", traceparent=UNSAMPLED)
    assert len(spans(exporter, "publish")) == 1, "its sender has decided"


async def test_a_refusal_is_an_error(start: Serve, exporter: InMemorySpanExporter) -> None:
    server = await start()
    await server.request("POST", "/topics/news?end=true", b"", traceparent=SAMPLED)
    answer = await server.request("POST", "/topics/news", b"x", traceparent=SAMPLED)
    assert answer.status == 409
    _, refused = spans(exporter, "publish")
    assert refused.attributes
    assert refused.attributes["error.type"] == "closed"
    assert not refused.status.is_ok


async def test_a_streamed_body_is_one_publish_with_its_calls(
    start: Serve, exporter: InMemorySpanExporter
) -> None:
    """Its handler waits in between: what others publish meanwhile is not a part of its trace."""
    server = await start()
    _reader, writer = await server.send(
        f"POST /topics/news HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
        f"traceparent: {SAMPLED}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    )
    stream = await server.subscribe("/topics/news")
    for number in range(3):
        line = json.dumps({"data": f"mine {number}"}).encode() + b"\n"
        writer.write(b"%x\r\n%b\r\n" % (len(line), line))
        await stream.data(2 * number + 1)
        await server.publish("news", "another's")
        await stream.data(2 * number + 2)
    assert spans(exporter, "publish") == []
    writer.write(b"0\r\n\r\n")
    await until(lambda: spans(exporter, "publish"), "the end of the publish")
    (publish,) = spans(exporter, "publish")
    calls = spans(exporter, "store")
    assert [parent_id(call) for call in calls] == [own_id(publish)] * 3


@pytest.mark.uncompiled
async def test_open_fanouts_of_a_topic_are_checked_together(
    start: Serve, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A topic may have as many feeds as subscribers: to visit them for each span would hold up the fan-out itself."""
    server = await start()
    for other in range(5):
        await server.subscribe(f"/topics?topic=news&topic=other.{other}")
    checks: list[str] = []
    written_to = FeedTable.written_to

    def counted(feeds: FeedTable, topic: str) -> EventId | None:
        checks.append(topic)
        return written_to(feeds, topic)

    monkeypatch.setattr(FeedTable, "written_to", counted)
    traces = [f"00-{TRACE}-{number:016x}-01" for number in range(1, 101)]
    await server.node.publish([("news", sse.traced(sse.lines(b"x"), trace)) for trace in traces])
    await until(lambda: len(spans(exporter, "fan-out")) == 100, "the ends of the fan-outs")
    assert len(checks) < 50


async def test_events_carry_their_trace_if_asked(start: Serve, exporter: InMemorySpanExporter) -> None:
    server = await start(trace_events=True)
    enveloped = await server.subscribe("/topics/news?envelope=json")
    plain = await server.subscribe("/topics/news")
    await server.publish("news", "two\nlines", "?event=kind", traceparent=SAMPLED)
    await server.publish("news", "untraced")
    (publish,) = spans(exporter, "publish")
    expected = f"00-{TRACE}-{own_id(publish)}-01"
    first, second = map(json.loads, await enveloped.data(2))
    assert (first["traceparent"], first["event"], first["data"]) == (expected, "kind", "two\nlines")
    assert "traceparent" not in second
    assert await plain.data(2) == ["two\nlines", "untraced"]
    assert f"\n:traceparent={expected}\nevent: kind\n".encode() in plain.body
    page = (await server.request("GET", "/topics/news/events")).json()
    assert [event.get("traceparent") for event in page["events"]] == [expected, None]


async def test_events_carry_the_tracestate_too(start: Serve, exporter: InMemorySpanExporter) -> None:
    server = await start(trace_events=True)
    enveloped = await server.subscribe("/topics/news?envelope=json")
    plain = await server.subscribe("/topics/news")
    await server.publish("news", "x", "?event=kind", traceparent=SAMPLED, tracestate=STATE)
    await server.publish("news", "y", traceparent=SAMPLED, tracestate="not valid")
    await server.publish("news", "z", tracestate=STATE)
    first, second, third = map(json.loads, await enveloped.data(3))
    assert first["tracestate"] == STATE
    assert (first["event"], first["data"]) == ("kind", "x")
    assert "traceparent" in second
    assert "tracestate" not in second
    assert not {"traceparent", "tracestate"} & third.keys(), "alone it means nothing"
    assert await plain.data(3) == ["x", "y", "z"]
    assert f"\n:tracestate={STATE}\nevent: kind\n".encode() in plain.body
    publish, _ = spans(exporter, "publish")
    assert publish.context
    assert publish.context.trace_state.to_header() == STATE


async def publish_streamed(server: Server, lines: int) -> None:
    body = b'{"data": "x"}\n' * lines
    answer = await server.request(
        "POST", "/topics/news", body, content_type="application/x-ndjson", traceparent=SAMPLED
    )
    assert answer.json()["published"] == lines


@pytest.mark.parametrize("streamed", [False, True])
async def test_publishers_cannot_make_it_trace_everything(
    start: Serve, exporter: InMemorySpanExporter, streamed: bool
) -> None:
    """A span each of the publish, the store and the fan-out; a streamed body is many calls of the store."""
    server = await start(trace_events=True, trace_forced_per_second=1)
    stream = await server.subscribe("/topics/news?envelope=json")
    if streamed:
        for _ in range(50):
            await publish_streamed(server, 2)
    else:
        for _ in range(100):
            await server.publish("news", "x", traceparent=SAMPLED)
    data = await stream.data(100)
    traces = [json.loads(one)["traceparent"] for one in data]
    assert 0 < sum(trace.endswith("-01") for trace in traces) < 30
    assert UNSAMPLED in traces, "others don't record it either"
    await server.publish("news", "x", traceparent=UNSAMPLED)
    assert 0 < len(exporter.get_finished_spans()) < 100


async def test_the_limit_is_for_publishers_alone(start: Serve, exporter: InMemorySpanExporter) -> None:
    server = await start(trace_share=1, trace_events=True, trace_forced_per_second=0)
    await server.subscribe("/topics/news")
    await server.publish("news", "x", traceparent=SAMPLED)
    assert spans(exporter, "publish") == []
    for _ in range(50):
        await server.publish("news", "x")
    assert len(spans(exporter, "publish")) == len(spans(exporter, "store")) == 50
    await until(lambda: len(spans(exporter, "fan-out")) == 50, "the ends of the fan-outs")


@pytest.mark.uncompiled
async def test_without_a_place_for_spans_no_fan_out_is_looked_at(
    clock: Clock, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[str] = []
    newest_traces = FeedTable.newest_traces

    def counted(feeds: FeedTable, topic: str, size: int) -> tuple[EventId, Sequence[str]]:
        looked_at.append(topic)
        return newest_traces(feeds, topic, size)

    monkeypatch.setattr(FeedTable, "newest_traces", counted)
    for url in (None, "http://collector/v1/traces"):
        server = Server(Settings(trace_events=True, trace_url=url), clock)
        await server.start()
        stream = await server.subscribe("/topics/news")
        await server.publish("news", "x", traceparent=UNSAMPLED)
        await stream.data(1)
        await server.stop()
    assert len(looked_at) == 1, "the second one, which records spans"


@pytest.mark.parametrize("by_aiohttp", [False, True])
async def test_events_carry_it_without_a_place_for_spans(clock: Clock, by_aiohttp: bool) -> None:
    async with serving(clock, by_aiohttp=by_aiohttp) as start:
        server = await start(trace_events=True)
        stream = await server.subscribe("/topics/news?envelope=json")
        for sent in (SAMPLED, UNSAMPLED):
            await server.publish("news", "x", traceparent=sent)
        assert [json.loads(data)["traceparent"] for data in await stream.data(2)] == [SAMPLED, UNSAMPLED]


async def test_without_it_no_byte_is_different(start: Serve) -> None:
    server = await start()
    stream = await server.subscribe("/topics/news")
    enveloped = await server.subscribe("/topics/news?envelope=json")
    await server.publish("news", "x", traceparent=SAMPLED)
    await stream.data(1)
    (data,) = await enveloped.data(1)
    assert b"traceparent" not in stream.body
    assert list(json.loads(data)) == ["topic", "id", "event", "time", "data"]


def test_without_traces_the_library_is_not_imported() -> None:
    program = (
        "import sys; from broker.process.app import create_app; from broker.settings import Settings; "
        "create_app(Settings(trace_events=True)); sys.exit(any('opentelemetry' in name for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


class Receiver:
    """A collector: takes spans by OTLP over HTTP.

    Attributes:
        spans: those received, with the name of their service.
    """

    def __init__(self) -> None:
        self.spans: list[tuple[str, SentSpan]] = []

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/traces", self._take)
        return app

    async def _take(self, request: web.Request) -> web.Response:
        sent = ExportTraceServiceRequest.FromString(await request.read())
        for resource in sent.resource_spans:
            names = {one.key: one.value.string_value for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [(names["service.name"], span) for span in scope.spans]
        return web.Response(content_type="application/x-protobuf")

    def named(self, name: str) -> list[SentSpan]:
        return [span for _, span in self.spans if span.name == name]


async def test_two_processes_send_one_trace(tmp_path: Path) -> None:
    """Published on one broker, fanned out on the other, which learns of the trace from the event."""
    program = valkey()
    assert program is not None
    receiver = Receiver()
    async with TestServer(receiver.app()) as collector:
        settings = {
            "trace_url": str(collector.make_url("/v1/traces")),
            "trace_events": True,
            "environment": {"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_SERVICE_NAME": "events"},
        }

        def publish_and_read() -> None:
            with (
                StoreServer(tmp_path / "store", program) as store,
                BrokerProcess(redis_url=store.url, **settings) as one,
                BrokerProcess(redis_url=store.url, **settings) as other,
                Stream(other.port, "/topics/news").opened() as stream,
            ):
                answer = exchange(
                    one.port, request("POST", "/topics/news", f"traceparent: {SAMPLED}", body=b"x")
                )
                assert answer.status == 201
                stream.wait_for_events(2)
                wait_for(lambda: receiver.named("fan-out"), "the spans")
                assert (one.terminate(), other.terminate()) == (0, 0)

        await asyncio.to_thread(publish_and_read)
    (publish,), (store,) = receiver.named("publish"), receiver.named("store")
    (fan_out,) = receiver.named("fan-out")
    assert {span.trace_id.hex() for _, span in receiver.spans} == {TRACE}
    assert {name for name, _ in receiver.spans} == {"events"}
    assert publish.parent_span_id.hex() == PARENT
    assert store.parent_span_id == fan_out.parent_span_id == publish.span_id


async def test_the_last_spans_are_sent_at_the_end_and_a_missing_collector_does_no_harm(
    tmp_path: Path,
) -> None:
    receiver = Receiver()
    async with TestServer(receiver.app()) as collector:

        def publish(url: str) -> None:
            with BrokerProcess(trace_url=url, trace_share=1) as broker:
                broker.publish("news", "x")
                assert broker.terminate() == 0

        await asyncio.to_thread(publish, str(collector.make_url("/v1/traces")))
        assert len(receiver.named("publish")) == 1
        await asyncio.to_thread(publish, "http://127.0.0.1:9/v1/traces")
