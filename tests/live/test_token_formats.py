"""A piped stream comes out unharmed: the parsers that applications use read the relayed stream as the original.

The relay adds to it: ids, a reconnect delay, heartbeats, and the broker's own events, of which a stream that starts at
`earliest` has but `broker.end` as a rule. The services' libraries look at the data and hardly at the type: openai-python hands out
the broker's events before `[DONE]` as chunks without choices, and stops there; anthropic's, all of them as events without a type.
The terminal chunk of the data (`[DONE]`, `message_stop`) is the answer's, and not the end of the topic.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx
import httpx2  # the one that both services' libraries are made of
import httpx_sse
import pytest

from tests.live import formats
from tests.support.broker_process import BrokerProcess
from tests.support.event_stream import Stream
from tests.support.http import JSON, Connection, chunked, exchange, request

EVENT_STREAM = {"Content-Type": "text/event-stream"}
CONTENT = "Content-Type: text/event-stream"
CUTS = (1, 7, 1000, None)
"""How large the pieces are that the body comes in; None for a random size each."""

ANSWERS = {
    "openai": formats.openai(),
    "openai with CRLF": formats.openai(end="\r\n"),
    "anthropic": formats.anthropic(),
    "anthropic with CRLF": formats.anthropic(end="\r\n"),
    "anthropic that fails": formats.anthropic(fails=True),
    "vercel": formats.vercel(),
    "unusual": formats.unusual(),
}


def pieces(body: bytes, size: int | None) -> Iterator[bytes]:
    chance = random.Random(7)
    while body:
        cut = size or chance.randint(1, 60)
        yield body[:cut]
        body = body[cut:]


def relayed(broker: BrokerProcess, name: str, body: bytes, size: int | None) -> bytes:
    """The topic's whole stream, after `body` was piped into it, and ended it, in pieces of `size`."""
    topic = "".join(char if char.isalnum() else "-" for char in f"{name}-{size}")
    with Connection(broker.port) as connection:
        connection.send(request("POST", f"/topics/{topic}?end=true", CONTENT, "Transfer-Encoding: chunked"))
        for piece in pieces(body, size):
            connection.send(chunked(piece, end=b""))
        connection.send(chunked())
        answer = connection.answer()
        assert answer.status == 200, answer
    with Stream(broker.port, f"/topics/{topic}?since=earliest") as stream:
        relayed = stream.rest()
    assert b"event: broker.end\n" in relayed
    return relayed


def by_httpx_sse(stream: bytes) -> Sequence[tuple[str, str]]:
    """Type and data of each event except the broker's own."""
    response = httpx.Response(200, headers=EVENT_STREAM, content=stream)
    events = httpx_sse.EventSource(response).iter_sse()
    return [
        (event.event, event.data) for event in events if not event.event.startswith("broker.") and event.data
    ]


@pytest.mark.parametrize("size", CUTS)
@pytest.mark.parametrize("name", ANSWERS)
def test_httpx_sse_reads_the_relayed_stream_as_the_original(
    broker: BrokerProcess, name: str, size: int | None
) -> None:
    original = ANSWERS[name]
    assert by_httpx_sse(relayed(broker, name, original, size)) == by_httpx_sse(
        original.removeprefix(b"\xef\xbb\xbf")
    )


def client_answered_with(stream: bytes) -> httpx2.Client:
    """A client that gets `stream` as the answer to every request."""
    return httpx2.Client(
        transport=httpx2.MockTransport(
            lambda _request: httpx2.Response(200, headers=EVENT_STREAM, content=stream)
        )
    )


def by_openai(stream: bytes) -> Sequence[Mapping[str, Any]]:
    """The chunks that openai-python makes of it."""
    import openai  # takes a second, which no other test should wait for

    client = openai.OpenAI(
        api_key="none", base_url="http://model/v1", http_client=client_answered_with(stream)
    )
    chunks = client.chat.completions.create(
        model="gpt-x", messages=[{"role": "user", "content": "Hello"}], stream=True
    )
    return [chunk.model_dump() for chunk in chunks]


@pytest.mark.parametrize("size", CUTS)
@pytest.mark.parametrize("name", ["openai", "openai with CRLF"])
def test_openai_python_reads_the_relayed_stream_as_the_original(
    broker: BrokerProcess, name: str, size: int | None
) -> None:
    original = by_openai(ANSWERS[name])
    assert by_openai(relayed(broker, "o" + name, ANSWERS[name], size)) == original
    text = "".join(chunk["choices"][0]["delta"]["content"] or "" for chunk in original)
    assert text == "".join(formats.TEXT)


def followed_live(broker: BrokerProcess, topic: str, body: bytes) -> bytes:
    """The stream of a subscriber that was there before the answer began, and while its producer was asked to stop."""
    with Connection(broker.port) as viewer, Connection(broker.port) as producer:
        viewer.send(request("GET", f"/topics/{topic}", "Accept: text/event-stream"))
        viewer.stream_head()
        stream = viewer.until(b"event: broker.open\n")
        assert exchange(broker.port, request("POST", f"/topics/{topic}/cancel", body=b"")).status == 202
        stream += viewer.until(b"event: broker.cancel\n")
        producer.send(request("POST", f"/topics/{topic}?end=true", CONTENT, body=body))
        assert producer.answer().status == 200
        return stream + viewer.rest()


def test_openai_python_hands_out_the_brokers_own_events_as_chunks_without_choices(
    broker: BrokerProcess,
) -> None:
    stream = followed_live(broker, "live.openai", formats.openai())
    opened, cancelled, *answer = by_openai(stream)
    assert opened["choices"] is cancelled["choices"] is None
    assert (opened["topics"], cancelled["topic"]) == (["live.openai"], "live.openai")
    assert answer == by_openai(formats.openai())


def test_openai_python_that_meets_the_end_without_done_is_handed_it_too(broker: BrokerProcess) -> None:
    """If the model's service was cut, `[DONE]` is missing, and the end says that nothing will follow."""
    cut = formats.openai().removesuffix(b"data: [DONE]\n\n")
    *answer, last = by_openai(relayed(broker, "cut", cut, None))
    assert answer == by_openai(cut)
    assert (last["choices"], last["reason"]) == (None, "closed")


def by_anthropic(stream: bytes) -> tuple[Sequence[Mapping[str, Any]], str]:
    """The events that anthropic's library makes of it, and the error that it raises at the end."""
    import anthropic  # likewise

    client = anthropic.Anthropic(
        api_key="none", base_url="http://model", http_client=client_answered_with(stream), max_retries=0
    )
    events = client.messages.create(
        model="claude-x", max_tokens=100, messages=[{"role": "user", "content": "Hello"}], stream=True
    )
    found: list[Mapping[str, Any]] = []
    try:
        found.extend(event.model_dump() for event in events)
    except anthropic.APIStatusError as error:
        return found, str(error.body)
    return found, ""


@pytest.mark.parametrize("size", CUTS)
@pytest.mark.parametrize("name", ["anthropic", "anthropic with CRLF", "anthropic that fails"])
def test_anthropics_library_reads_the_relayed_stream_as_the_original(
    broker: BrokerProcess, name: str, size: int | None
) -> None:
    """With one exception: it returns every event, also of types that it doesn't know, such as `broker.end` at the end."""
    events, failure = by_anthropic(ANSWERS[name])
    found, why = by_anthropic(relayed(broker, "a" + name, ANSWERS[name], size))
    assert (found[: len(events)], why) == (events, failure)
    assert [event["type"] for event in found[len(events) :]] == ([] if failure else [None])
    assert ("Overloaded" in failure) is ("fails" in name), "an error in the stream is passed through"
    assert len(events) >= len(formats.TEXT)


def test_the_terminal_chunk_of_the_data_is_not_the_end(broker: BrokerProcess) -> None:
    """After `[DONE]` the topic is open, until its producer ends it."""
    for _ in range(2):
        assert exchange(
            broker.port, request("POST", "/topics/open", CONTENT, body=formats.openai())
        ).status in (200, 201)
    assert exchange(broker.port, request("GET", "/topics/open", JSON)).json()["closed"] is False
