"""Heads that are known by their bytes: a request is treated as if it had been parsed, and what changes is reckoned anew."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.web.front.exchange import Exchange
from broker.web.front.known_heads import (
    MAX_FIRST_HEADS,
    MAX_HEAD_BYTES,
    MAX_HEADS,
    MAX_PARTS,
    KnownHeads,
)
from broker.web.front.parser import RequestParser
from tests.support.http import HOST, NDJSON, chunked, read_answer, request
from tests.support.local_broker import Clock, Serve, Server
from tests.support.tokens import SECRET, sign_any
from tests.support.waiting import until

FIRST = request("GET", "/healthz")
"""The head of a connection's first request isn't learned at once."""
CHUNKED = "Transfer-Encoding: chunked"
REQUESTS = [
    request("POST", "/topics/a", body=b"event"),
    request("POST", "/topics/a", body=b""),
    request("POST", "/topics/a"),
    request("POST", "/topics/a", "Content-Length: 0005") + b"event",
    request("POST", "/topics/a", body=b"\r\n\r\n" + FIRST),
    request("POST", "/topics/a?event=x", "Idempotency-Key: k", NDJSON, body=b'{"data": 1}\n'),
    request("POST", "/topics/a", CHUNKED) + chunked(b"some", b"chunks"),
    request("POST", "/topics/a", CHUNKED) + b"5\r\nevent\r\n0\r\nTrailer: x\r\n\r\n",
    request("POST", "/topics/a", "Expect: 100-continue", body=b"event"),
    request("POST", "/topics/a", "Expect: more", body=b"event"),
    request("POST", "/topics/a", "Connection: close", body=b"event"),
    request("POST", "/topics/a", "Connection: Upgrade", "Upgrade: h2c", body=b"event"),
    request("POST", "http://other/topics/a", body=b"event"),
    request("GET", "/topics/a", "Accept: text/event-stream", "Cookie: a=b", "Cookie: c=d"),
    request("GET", "/topics/a", "X: " + "x" * MAX_HEAD_BYTES),
    request("OPTIONS", "*"),
    request("CONNECT", "host:1"),
    b"\r\n\r\n" + FIRST,
    b"\r\n" + FIRST,
    b"POST /topics/a HTTP/1.0\r\nContent-Length: 1\r\n\r\nx",
    b"POST /topics/a HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx",
    b"POST /topics/a HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
    b"POST /topics/a HTTP/1.1\r\nHost: x\r\nHost: y\r\nContent-Length: 1\r\n\r\nx",
    b"POST /topics/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    b"POST /topics/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx",
    b"POST /topics/a HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\nx",
    b"POST /topics/a HTTP/1.1\nHost: x\nContent-Length: 1\n\nx",
    b"POST /topics/a HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\nContent-Length: 1\r\n\r\nx",
    b"GET /topics/a\r\n\r\n",
    b"\0\r\n\r\n",
]


class Flow:
    """The connection of a parser."""

    def hold_body(self, *, held: bool) -> None: ...

    def coalesce(self, *, on: bool) -> None: ...
    def send_continue(self) -> None: ...


def seen(exchange: Exchange) -> object:
    """All that a handler, and the front, may see of a request."""
    head = exchange.head
    refusal = head.refusal and (head.refusal.status, head.refusal.body)
    headers = dict(head.headers), head.headers.repeated
    body = b"".join(exchange._pieces), exchange.is_complete, exchange._fault
    return head.method, head.target, head.version, headers, head.keeps_alive, head.length, refusal, body


def fed(known_heads: KnownHeads, *pieces: bytes) -> list[object]:
    """What a parser makes of `pieces`, after each of them. A request that closes its connection is the last."""
    parser = RequestParser(Flow(), 2 * MAX_HEAD_BYTES, known_heads)
    parser.feed(FIRST)
    steps: list[object] = []
    for piece in pieces:
        parser.feed(piece)
        requests = list(parser.ready)
        last = next((at for at, each in enumerate(requests) if not each.head.keeps_alive), len(requests))
        steps.append([seen(each) for each in requests[: last + 1]])
        if last == len(requests):
            steps.append((parser.is_head_begun, parser.body is not None))
    return steps


def parsed(*pieces: bytes) -> list[object]:
    """The same by llhttp alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("broker.web.front.parser.MAX_HEAD_BYTES", 0)  # of a head that may be known
        return fed(KnownHeads(), *pieces)


def check(stream: bytes) -> None:
    """Fails unless `stream` is parsed in the same way with its heads known, wherever it is split."""
    known_heads = KnownHeads()
    fed(known_heads, stream)
    fed(known_heads, *(stream[at : at + 1] for at in range(len(stream))))
    whole = parsed(stream)
    assert fed(KnownHeads(), stream) == whole, "while its heads are learned"
    assert fed(known_heads, stream) == whole
    for at in range(1, len(stream)):
        pieces = stream[:at], stream[at:]
        assert fed(known_heads, *pieces) == parsed(*pieces), pieces


@pytest.mark.parametrize("index", range(len(REQUESTS)))
def test_a_request_is_treated_as_if_it_had_been_parsed(index: int) -> None:
    check(REQUESTS[index] * 2 + FIRST)


@given(st.lists(st.sampled_from(REQUESTS), min_size=2, max_size=4), st.data())
@settings(max_examples=50, deadline=None)
def test_pipelined_requests_with_a_fault_too(requests: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(requests)
    at = data.draw(st.integers(0, len(stream) - 1))
    fault = data.draw(
        st.sampled_from([b"", b"\r\n", b"\n", b"\0", b" ", b":", b"\xff", b"Content-Length: 9\r\n"])
    )
    known_heads = KnownHeads()
    fed(known_heads, stream)
    damaged = stream[:at] + fault + stream[at + data.draw(st.integers(0, 2)) :]
    for pieces in ((damaged,), (damaged[:at], damaged[at:])):
        assert fed(known_heads, *pieces) == parsed(*pieces)


def learned(*requests: bytes) -> KnownHeads:
    known_heads = KnownHeads()
    for number, each in enumerate(requests):
        parser = RequestParser(Flow(), 2 * MAX_HEAD_BYTES, known_heads)
        parser.feed(request("GET", f"/first/{number}"))
        parser.feed(each)
    return known_heads


def test_only_heads_with_nothing_special_are_learned() -> None:
    assert len(learned(*REQUESTS[:6])) == 6
    assert len(learned(*REQUESTS[6:12])) == 0


def test_a_connections_first_head_is_learned_when_it_begins_another_one() -> None:
    known_heads = KnownHeads()
    for known in (0, 1, 1):
        parser = RequestParser(Flow(), 1000, known_heads)
        parser.feed(FIRST)
        assert [each.is_complete for each in parser.ready] == [True]
        assert len(known_heads) == known


def test_i4_first_heads_are_bounded() -> None:
    known_heads = KnownHeads()
    for number in range(MAX_FIRST_HEADS + 10):
        RequestParser(Flow(), 1000, known_heads).feed(request("GET", f"/topics/{number}"))
    assert (len(known_heads), len(known_heads._first_heads)) == (0, 10)


def test_i4_known_heads_are_bounded() -> None:
    known_heads = learned(
        *(request("POST", f"/topics/{number}", body=b"x") for number in range(MAX_HEADS + 10))
    )
    assert len(known_heads) == 10


def test_i4_heads_of_many_parts_are_not_learned() -> None:
    """Parsed, three hundred parameters in a KB take fifty times their bytes."""
    parameters = "&".join(f"{number:02x}" for number in range(MAX_PARTS + 1))
    headers = [f"X{number}: y" for number in range(MAX_PARTS)]
    repeated = ["X: y"] * MAX_PARTS
    many = [
        request("GET", f"/topics/a?{parameters}"),
        request("GET", "/topics/a", *headers),
        request("GET", "/topics/a", *repeated),
        request("GET", f"/topics/a?{parameters[:60]}", *headers[20:]),
    ]
    assert len(learned(*many)) == 0
    assert len(learned(request("GET", f"/topics/a?{parameters[:50]}", *headers[20:]))) == 1


def test_known_requests_do_not_reach_the_parser() -> None:
    known_heads = learned(REQUESTS[0])
    parser = RequestParser(Flow(), 1000, known_heads)
    parser.feed(REQUESTS[0] * 3)
    assert (len(parser.ready), parser._heads) == (3, 0)
    assert {each.head for each in parser.ready} == {known_heads.get(REQUESTS[0].removesuffix(b"event"))}


async def publish_again(server: Server, *headers: str, bodies: list[bytes]) -> list[int]:
    """The statuses of publishes with the same head on one connection."""
    reader, writer = await server.send(b"")
    statuses = []
    for body in bodies:
        writer.write(request("POST", "/topics/a", *headers, body=body))
        statuses.append((await read_answer(reader)).status)
    return statuses


async def test_a_token_is_checked_with_each_request(serve: Serve, clock: Clock) -> None:
    server = await serve(jwt_secrets=json.dumps([SECRET]))
    token = sign_any({"broker": {"publish": ["a"]}, "jti": "7", "exp": clock.now + 100})
    admin = sign_any({"broker": {"admin": True}})
    reader, writer = await server.send(b"")

    async def status() -> int:
        writer.write(request("POST", "/topics/a", f"Authorization: Bearer {token}", body=b"event"))
        return (await read_answer(reader)).status

    assert [await status() for _ in range(4)] == [201] * 4
    assert len(server.front.known_heads) == 1
    clock.now += 101
    assert await status() == 401, "it has expired"
    clock.now -= 101
    assert await status() == 201
    order = b'{"jti": "7", "exp": %d}' % (clock.now + 100)
    await server.request("POST", "/admin/revoke", order, authorization=f"Bearer {admin}")
    assert await status() == 401, "it was revoked"


async def test_equal_heads_get_streams_of_their_own(serve: Serve, clock: Clock) -> None:
    """As of a crowd after a deploy. Changes since the first head apply to each."""
    server = await serve(max_connections_per_address=4)
    first = await server.publish("a", "1")
    by_cursor, by_age, live = (
        f"/topics/a?lastEventId={first}",
        "/topics/a?since=10m",
        "/topics?topic=a&topic=b",
    )
    for number in range(2, 5):
        await server.publish("a", str(number))
        for target, count in ((by_cursor, number - 1), (by_age, number)):
            replay = await server.subscribe(target)
            assert (await replay.data(count))[-1] == str(number)
            await replay.close()
        opened = await server.subscribe(live)
        assert (await opened.event(1)).type == "broker.open"
        await opened.close()
        await until(lambda: server.subscribers_of("a") == 0, "all have left")
    clock.now += 1800
    await server.publish("a", "last")
    late = await server.subscribe(by_age)
    assert await late.data(1) == ["last"], "an age is reckoned anew"
    kept = [await server.subscribe(live) for _ in range(3)]
    assert (await server.request("GET", live, accept="*/*")).status == 429
    await server.request("DELETE", "/topics/a")
    await server.publish("b", "x", "?end=true")
    for stream in (late, *kept):
        await stream.end()


async def test_bodies_and_limits_are_checked_with_each_request(serve: Serve) -> None:
    server = await serve(max_publishes_per_second=4, max_event_bytes=10)
    assert await publish_again(server, bodies=[b"text", b"1234", b"\xff\xff\xff\xff", b"more"]) == [
        201,
        201,
        400,
        201,
    ]
    assert await publish_again(server, bodies=[b"text"] * 10) == [201] * 2 + [429] * 8
    assert await publish_again(server, bodies=[b"x" * 11] * 3) == [413] * 3
    assert len(server.front.known_heads) >= 1


async def test_a_drain_closes_after_a_known_head_too(server: Server) -> None:
    reader, writer = await server.send(b"")
    post = b"POST /topics/a HTTP/1.1\r\nHost: %b\r\nContent-Length: 1\r\n\r\nx" % HOST.encode()
    for is_draining, connection in ((False, ""), (False, ""), (False, ""), (True, "close")):
        server.node.streams.is_draining = is_draining
        writer.write(post)
        answer = await read_answer(reader)
        assert (answer.status, answer.headers.get("connection", "")) == (201, connection)
    assert await reader.read() == b""
