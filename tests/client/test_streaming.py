"""Streams into a topic, and their subscribers: the text is complete in spite of cuts; ends, cancellation, errors."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from time import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.client import Cancelled, Client, End, Gap, PublishError, SubscribeError, sent_events, streaming
from broker.client.retries import LASTING_SECONDS
from broker.settings import Settings
from tests.client.servers import CREATED, ScriptedServer, ServerConnection
from tests.support.local_broker import Serve, Server
from tests.support.tcp_proxy import Cuts, CuttingProxy, TcpProxy
from tests.support.tokens import HMAC, SECRET
from tests.support.waiting import WAIT_SECONDS, until


@contextlib.asynccontextmanager
async def broker(**given_settings: object) -> AsyncIterator[Server]:
    """A broker in this loop that asks its clients to reconnect at once."""
    server = Server(Settings.model_validate({"retry_min_ms": 0, "retry_max_ms": 10, **given_settings}), time)
    await server.start()
    yield server
    await server.stop()


async def followed(client: Client, topic: str) -> list[str]:
    """The data of all events of a topic, from the first to the end."""
    return [event.data async for event in client.follow(topic)]


async def test_a_stream_is_followed_from_the_start_to_the_end(server: Server) -> None:
    async with Client(server.url) as client:
        early = asyncio.create_task(followed(client, "a"))
        async with client.stream("a", retain="24h") as stream:
            for number in range(100):
                await stream.send(str(number), event="token" if number % 2 else None)
        texts = [str(number) for number in range(100)]
        assert await early == texts
        assert await followed(client, "a") == texts, "also by a later subscriber"
        info = await server.request("GET", "/topics/a", accept="application/json")
        assert info.json()["closed"] is True


async def test_a_token_is_delivered_before_the_next_one_is_sent(server: Server) -> None:
    async with Client(server.url) as client, client.stream("a") as stream:
        events = client.follow("a")
        for number in range(10):
            await stream.send(str(number))
            assert (await anext(events)).data == str(number)
        await events.aclose()  # type: ignore[attr-defined]


TOKENS = [f"{number}:" + "x" * (number * 37 % 400) for number in range(60)]

CUTS = st.lists(st.tuples(st.sampled_from(["up", "down"]), st.integers(1, 30_000)), max_size=4)


@given(CUTS, CUTS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_viewer_gets_the_complete_text_once_whatever_is_cut(sent: Cuts, seen: Cuts) -> None:
    async def scenario() -> None:
        async with (
            broker() as server,
            CuttingProxy(server.port, sent) as up,
            CuttingProxy(server.port, seen) as down,
            Client(up.url) as producer,
            Client(down.url, max_delay_seconds=0.1) as one,
            Client(server.url) as other,
            asyncio.timeout(WAIT_SECONDS),
        ):
            viewers = [asyncio.create_task(followed(client, "a")) for client in (one, other)]
            async with producer.stream("a") as stream:
                for token in TOKENS:
                    await stream.send(token)
                    await asyncio.sleep(0)
            for viewer in viewers:
                assert await viewer == TOKENS

    asyncio.run(scenario())


async def test_a_stream_continues_after_connections_are_cut(server: Server) -> None:
    """A restart of a broker with a persistent store looks like this to the client."""
    async with (
        CuttingProxy(server.port, [("up", 700), ("down", 1), ("up", 900)]) as way,
        Client(way.url) as client,
    ):
        async with client.stream("a") as stream:
            for token in TOKENS:
                await stream.send(token)
        assert way.connections >= 4
        assert await followed(client, "a") == TOKENS


async def test_a_block_that_is_busy_may_lose_a_connection_now_and_then(server: Server) -> None:
    """As by a proxy's idle time limit. Between them the broker was reachable, so the patience starts anew."""
    patience_seconds = 2 * LASTING_SECONDS
    loop = asyncio.get_running_loop()
    opened = server.node.metrics.opened_bodies
    async with (
        TcpProxy(server.port) as way,
        Client(way.url, patience_seconds=patience_seconds) as client,
        client.stream("a") as stream,
    ):
        await stream.send("1")
        await is_out(server)
        for number in (2, 3):
            over_at = loop.time() + patience_seconds
            way.cut()
            await until(lambda number=number: opened.value == number, "it has connected")  # type: ignore[misc]
            await until(lambda over_at=over_at: loop.time() > over_at, "the patience with the cut is over")  # type: ignore[misc]
        await stream.send("2")
    async with Client(server.url) as client:
        assert await followed(client, "a") == ["1", "2"]


async def test_a_finished_stream_has_its_whole_patience_if_its_connection_lasted(server: Server) -> None:
    """The first connection is lost early, the second one before the answer to its end."""
    loop = asyncio.get_running_loop()
    metrics = server.node.metrics

    async def cut_at_the_end(way: TcpProxy) -> None:
        await until(lambda: metrics.ended_bodies.values["ended"], "the broker has the end")
        way.swallow = False
        way.cut()

    patience_seconds = 2 * LASTING_SECONDS
    async with TcpProxy(server.port) as way, Client(way.url, patience_seconds=patience_seconds) as client:
        async with client.stream("a") as stream:
            await stream.send("1")
            await is_out(server)
            over_at = loop.time() + patience_seconds
            way.cut()
            await until(lambda: metrics.opened_bodies.value == 2, "it has connected")
            await until(lambda: loop.time() > over_at, "the patience with the cut is over")
            way.swallow = True
            cutting = asyncio.create_task(cut_at_the_end(way))
        await cutting
        assert metrics.opened_bodies.value == 3
        assert await followed(client, "a") == ["1"]


async def test_the_patience_ends_if_no_connection_lasts() -> None:
    """Such as those to a proxy without its broker."""

    async def cut(connection: ServerConnection) -> None:
        connection.reset()

    async with ScriptedServer(cut) as server, Client(server.url, patience_seconds=3) as client:
        with pytest.raises(PublishError) as caught:
            async with client.stream("a"):
                await asyncio.wait_for(asyncio.Event().wait(), WAIT_SECONDS)
    assert caught.value.code == "unreachable"
    assert len(server.accepted) > 1


# Irregular ends


async def test_cancel_is_raised_and_the_sent_text_stands(server: Server) -> None:
    async with asyncio.timeout(WAIT_SECONDS), Client(server.url) as client:
        viewer = asyncio.create_task(followed(client, "a"))
        published = server.node.metrics.published
        sent = 0
        with pytest.raises(Cancelled):
            async with client.stream("a") as stream:
                while True:
                    await stream.send(str(sent))
                    sent += 1
                    if sent == 20:
                        await until(lambda: published.value >= 20, "the broker knows the producer")
                        await client.cancel("a")
                    await asyncio.sleep(0.001)
        text = await viewer
        assert text[:20] == [str(number) for number in range(20)]
        assert await why_ended(client) == "cancelled"


async def is_out(server: Server) -> None:
    await until(lambda: server.node.metrics.published.value == 1, "the first event is out")


async def until_open(server: Server) -> None:
    """Return when the broker has a streamed body."""
    async with asyncio.timeout(WAIT_SECONDS):
        while b"\nbroker_streamed_bodies 1.0" not in (await server.request("GET", "/metrics")).body:
            await asyncio.sleep(0.01)


async def why_ended(client: Client) -> str:
    subscription = client.subscribe("a", since="earliest")
    async for _ in subscription:
        pass
    return subscription.ended["a"]


async def test_cancel_breaks_a_block_off_where_it_waits(server: Server) -> None:
    """Such as for a model that thinks: its request is broken off at once."""
    has_left = False
    async with Client(server.url) as client:
        with pytest.raises(Cancelled):
            async with client.stream("a") as stream:
                await stream.send("x")
                await is_out(server)
                await client.cancel("a")
                try:
                    await asyncio.wait_for(asyncio.Event().wait(), WAIT_SECONDS)
                except asyncio.CancelledError:
                    has_left = True
                    raise
        assert has_left
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0, "the task itself is not cancelled"
        await asyncio.sleep(0)
        assert await why_ended(client) == "cancelled"


async def test_cancel_breaks_a_block_off_before_its_first_event(server: Server) -> None:
    """A model may think for long: until its first token, the stream must be known to the broker too."""
    async with Client(server.url) as client:
        with pytest.raises(Cancelled):
            async with client.stream("a"):
                await until_open(server)
                await client.cancel("a")
                await asyncio.wait_for(asyncio.Event().wait(), WAIT_SECONDS)
        assert await why_ended(client) == "cancelled"


async def test_the_patience_ends_if_a_proxy_answers_each_time_for_its_broker() -> None:
    """A proxy tries for a while to reach the broker. That was taken for a connection that lasted, and the stream went on for ever."""

    async def answer_late(connection: ServerConnection) -> None:
        await asyncio.sleep(LASTING_SECONDS + 0.2)  # the time is the point
        await connection.send(
            b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )

    async with (
        ScriptedServer(answer_late) as server,
        Client(server.url, patience_seconds=2 * LASTING_SECONDS) as client,
    ):
        with pytest.raises(PublishError) as caught:
            async with client.stream("a"):
                await asyncio.wait_for(asyncio.Event().wait(), WAIT_SECONDS)
    assert caught.value.status == 504
    assert len(server.accepted) > 1


class GatedProxy(TcpProxy):
    """Passes connections on to `port` while the gate is open; until then, clients wait in the proxy."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.gate = asyncio.Event()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        await self.gate.wait()
        return await super()._connect()


async def test_a_cancel_while_the_connection_is_lost(server: Server) -> None:
    """The stream learns of it when it sends its events again."""
    ended = server.node.metrics.ended_bodies
    async with GatedProxy(server.port) as way, Client(way.url) as client:
        way.gate.set()
        with pytest.raises(Cancelled):
            async with client.stream("a") as stream:
                await stream.send("1")
                await is_out(server)
                way.gate.clear()
                way.cut()
                await until(lambda: ended.values["cut"], "the broker has seen it")
                assert (await server.request("POST", "/topics/a/cancel")).status == 202
                way.gate.set()
    async with Client(server.url) as client:
        assert await why_ended(client) == "cancelled"


async def test_cancel_reaches_a_block_that_ends(server: Server) -> None:
    async with Client(server.url) as client:
        with pytest.raises(Cancelled):
            async with client.stream("a") as stream:
                await stream.send("x")
                await is_out(server)
                await client.cancel("a")
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait_for(asyncio.Event().wait(), WAIT_SECONDS)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


async def test_an_error_of_the_producer_ends_the_topic_as_failed(server: Server) -> None:
    async with Client(server.url) as client:
        viewer = asyncio.create_task(followed(client, "a"))
        with pytest.raises(ZeroDivisionError):
            async with client.stream("a") as stream:
                await stream.send("x")
                await is_out(server)
                raise ZeroDivisionError
        with pytest.raises(SubscribeError) as caught:
            await asyncio.wait_for(viewer, WAIT_SECONDS)
        assert caught.value.code == "failed"
        assert await why_ended(client) == "failed"


@pytest.mark.parametrize("why", ["closed", "failed"])
async def test_follow_returns_the_end_if_asked_to(server: Server, why: str) -> None:
    async with Client(server.url) as client:
        await client.publish("a", "x")
        await client.end("a", why)
        event, end = [event async for event in client.follow("a", ends=True)]
        assert (event.data, event.type) == ("x", None)
        assert isinstance(end, End)
        assert (end.topic, end.reason, end.type) == ("a", why, "broker.end")
        assert json.loads(end.data) == {"topic": "a", "reason": why}
        assert end.id > event.id


async def test_a_cancelled_task_ends_the_topic_as_stopped(server: Server) -> None:
    async def produce(client: Client) -> None:
        async with client.stream("a") as stream:
            await stream.send("x")
            await asyncio.Event().wait()

    async with Client(server.url) as client:
        task = asyncio.create_task(produce(client))
        await is_out(server)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await why_ended(client) == "stopped"


async def test_a_time_limit_around_a_stream_ends_the_topic_as_stopped(server: Server) -> None:
    async with Client(server.url) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as limit, client.stream("a") as stream:
                await stream.send("x")
                await is_out(server)
                limit.reschedule(0)
                await asyncio.Event().wait()
        assert await why_ended(client) == "stopped"


async def test_without_a_broker_an_error_of_the_producer_is_raised_all_the_same(server: Server) -> None:
    async with Client(server.url, patience_seconds=0) as client:
        with pytest.raises(ZeroDivisionError):
            async with client.stream("a") as stream:
                await stream.send("x")
                await is_out(server)
                stopping = asyncio.create_task(server.stop())
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    raise ZeroDivisionError from None
        await stopping


async def test_a_refused_stream_breaks_its_block_off(server: Server) -> None:
    await server.request("POST", "/topics/a?end=true")
    async with Client(server.url) as client:
        with pytest.raises(PublishError) as caught:
            async with client.stream("a") as stream:
                await stream.send("x")
                await asyncio.wait_for(asyncio.Event().wait(), WAIT_SECONDS)
        assert caught.value.code == "closed"


async def test_a_refused_event_ends_the_topic_as_failed(serve: Serve) -> None:
    server = await serve(max_event_bytes=1024)
    async with Client(server.url) as client:
        with pytest.raises(PublishError) as caught:
            async with client.stream("a") as stream:
                await stream.send("x")
                await stream.send("x" * 2000)
                await asyncio.wait_for(asyncio.Event().wait(), WAIT_SECONDS)
        assert caught.value.code == "too-large"
        assert await why_ended(client) == "failed"
        with pytest.raises(PublishError):
            async with client.stream("b") as stream:
                await stream.send("x" * 2000)
        (end,) = [event async for event in client.follow("b", ends=True)]
        assert isinstance(end, End)
        assert end.reason == "failed"


async def test_an_error_of_another_stream_ends_the_topic_as_failed(server: Server) -> None:
    await server.request("POST", "/topics/b?end=true")
    async with Client(server.url) as client:
        with pytest.raises(PublishError, match="closed"):
            async with client.stream("a") as stream:
                await stream.send("x")
                await client.publish("b", "x")
        assert await why_ended(client) == "failed"


async def test_a_task_that_is_cancelled_at_the_end_of_the_block_ends_the_topic_as_stopped() -> None:
    """While the end of the body waits for its answer."""
    ends: list[str] = []

    async def swallow(connection: ServerConnection) -> None:
        await connection.left()

    async def end(connection: ServerConnection) -> None:
        ends.append(connection.target)
        await connection.send(CREATED)

    async def produce(client: Client) -> None:
        async with client.stream("a") as stream:
            await stream.send("x")

    async with ScriptedServer(swallow, end) as server, Client(server.url) as client:
        task = asyncio.create_task(produce(client))
        await until(lambda: server.accepted, "the body has begun")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ends == ["/topics/a?end=true&reason=stopped"]


async def test_events_beyond_the_retention_are_a_gap(serve: Serve) -> None:
    server = await serve(retention_events=5)
    async with Client(server.url) as client:
        async with client.stream("a") as stream:
            for number in range(20):
                await stream.send(str(number))
        events = [event async for event in client.follow("a")]
        assert [event.data for event in events if not isinstance(event, Gap)] == [
            str(number) for number in range(15, 20)
        ]


async def test_a_closed_topic_is_refused(server: Server) -> None:
    async with Client(server.url) as client:
        async with client.stream("a") as stream:
            await stream.send("x")
        with pytest.raises(PublishError) as caught:
            async with client.stream("a") as stream:
                await stream.send("more")
        assert (caught.value.status, caught.value.code) == (409, "closed")


async def test_an_empty_stream_closes(server: Server) -> None:
    async with Client(server.url) as client:
        async with client.stream("a"):
            pass
        assert await followed(client, "a") == []


async def test_an_unreachable_broker_is_an_error_after_the_time_limit(server: Server) -> None:
    async with Client("http://127.0.0.1:9", patience_seconds=0.3) as client:
        with pytest.raises(PublishError) as caught:
            async with client.stream("a") as stream:
                for _ in range(1000):
                    await stream.send("x" * 1000)
        assert caught.value.code == "unreachable"


async def test_the_kept_events_are_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sent_events, "MAX_KEPT_BYTES", 5000)
    async with Client(server.url) as client:
        async with client.stream("a") as stream:
            for number in range(500):
                await stream.send(str(number))
                assert stream._events.kept_bytes <= 5000 + streaming.MAX_UNSENT_BYTES
                await asyncio.sleep(0)
        assert len(await followed(client, "a")) == 500


async def test_a_stream_needs_a_grant(serve: Serve) -> None:
    server = await serve(jwt_secrets=[SECRET])
    async with Client(server.url, token=HMAC.token(["a"], ["a"])) as client:
        async with client.stream("a") as stream:
            await stream.send("x")
        assert await followed(client, "a") == ["x"]
    async with Client(server.url, token=HMAC.token(["b"])) as client:
        with pytest.raises(PublishError) as caught:
            async with client.stream("a") as stream:
                await stream.send("x")
        assert caught.value.code == "forbidden"


async def test_a_broker_that_never_responds_is_an_error() -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass
        writer.close()

    silent = await asyncio.start_server(swallow, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    async with Client(url, timeout_seconds=0.2, patience_seconds=0.5) as client:
        with pytest.raises(PublishError) as caught:
            async with asyncio.timeout(WAIT_SECONDS), client.stream("a") as stream:
                await stream.send("x")
        assert caught.value.code == "unreachable"
    silent.close()
    await silent.wait_closed()
