"""Python's blocking SSE clients: each is a context manager for the data of its events, one by one.

requests, urllib3 and the clients built on them read a body by chunk. Without chunks they wait until a buffer is full, so that
events come late, several together, or never.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, cast

import requests
import urllib3
from ld_eventsource import SSEClient as LaunchDarklyClient
from ld_eventsource.config import ConnectStrategy, ErrorStrategy
from requests_sse import EventSource, InvalidStatusCodeError
from sseclient import SSEClient

from broker.sse import Decoder
from tests.support.waiting import WAIT_SECONDS

ACCEPT = {"Accept": "text/event-stream"}

Texts = Iterator[str]
"""The data of each event."""


@contextmanager
def requests_lines(url: str) -> Iterator[Texts]:
    with requests.get(url, headers=ACCEPT, stream=True, timeout=WAIT_SECONDS) as response:
        yield (line[6:].decode() for line in response.iter_lines() if line.startswith(b"data: "))


@contextmanager
def requests_content(url: str) -> Iterator[Texts]:
    with requests.get(url, headers=ACCEPT, stream=True, timeout=WAIT_SECONDS) as response:
        yield decoded(response.iter_content(chunk_size=None))


@contextmanager
def urllib3_stream(url: str) -> Iterator[Texts]:
    with urllib3.PoolManager(timeout=WAIT_SECONDS) as pool:
        response = pool.request("GET", url, headers=ACCEPT, preload_content=False)
        with closing(response):
            yield decoded(response.stream())


def decoded(pieces: Iterator[bytes]) -> Texts:
    decoder = Decoder()
    return (event.data for piece in pieces for event in decoder.feed(piece))


@contextmanager
def sseclient_py(url: str) -> Iterator[Texts]:
    with requests.get(url, headers=ACCEPT, stream=True, timeout=WAIT_SECONDS) as response:
        yield (event.data for event in SSEClient(iter(response)).events())


@contextmanager
def requests_sse(url: str) -> Iterator[Texts]:
    with EventSource(url, timeout=WAIT_SECONDS, max_connect_retry=0) as source:
        yield until_204(source)


def until_204(source: EventSource) -> Texts:
    """It reconnects after the end, and takes the 204 that stops a browser for an error."""
    try:
        for event in source:
            yield event.data or ""
    except InvalidStatusCodeError as error:
        if error.status_code != 204:
            raise


@contextmanager
def launchdarkly(url: str) -> Iterator[Texts]:
    strategy = ConnectStrategy.http(url, urllib3_request_options={"timeout": WAIT_SECONDS})
    with closing(LaunchDarklyClient(strategy, error_strategy=ErrorStrategy.always_fail())) as client:
        yield (event.data for event in client.events)


# The libraries of models' services, which take each event for a part of the answer


def openai_event(text: str) -> tuple[None, str]:
    """A `chat.completion.chunk` that says `text`."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return None, json.dumps(chunk)


@contextmanager
def openai_python(url: str) -> Iterator[Texts]:
    import openai  # takes a second, which no other test should wait for
    from openai.types.chat import ChatCompletionChunk

    origin, path = _split(url)
    with (
        openai.OpenAI(api_key="none", base_url=origin, max_retries=0) as client,
        client.get(
            f"{path}?control=none",
            cast_to=ChatCompletionChunk,
            stream=True,
            stream_cls=openai.Stream[ChatCompletionChunk],
        ) as chunks,
    ):
        yield (chunk.choices[0].delta.content or "" for chunk in chunks)


def anthropic_event(text: str) -> tuple[str, str]:
    """A `content_block_delta` that says `text`."""
    name = "content_block_delta"
    return name, json.dumps({"type": name, "index": 0, "delta": {"type": "text_delta", "text": text}})


@contextmanager
def anthropic_python(url: str) -> Iterator[Texts]:
    import anthropic  # likewise
    from anthropic.types import RawMessageStreamEvent

    origin, path = _split(url)
    with (
        anthropic.Anthropic(api_key="none", base_url=origin, max_retries=0) as client,
        client.get(
            f"{path}?control=none",
            cast_to=cast("Any", RawMessageStreamEvent),
            stream=True,
            stream_cls=anthropic.Stream[RawMessageStreamEvent],
        ) as events,
    ):
        yield (
            event.delta.text
            for event in events
            if event.type == "content_block_delta" and event.delta.type == "text_delta"
        )


def _split(url: str) -> tuple[str, str]:
    origin, path = url.split("/topics/")
    return origin, f"/topics/{path}"
