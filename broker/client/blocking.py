"""A blocking `publish`, for Django, Flask and scripts. Needs only the standard library."""

from __future__ import annotations

import http.client
import ssl
from urllib.parse import urlsplit

from broker.client.address import base_url, publish_query, topic_url
from broker.client.errors import (
    MAX_RESPONSE_BYTES,
    UNREACHABLE,
    PublishError,
    json_object,
    problem,
    unexpected,
)
from broker.client.errors import reason as why


def publish(
    url: str,
    topic: str,
    data: str | bytes,
    event: str | None = None,
    *,
    timeout: float = 10.0,
    idempotency_key: str | None = None,
    token: str | None = None,
    end: bool = False,
    retain: str | None = None,
    reason: str | None = None,
) -> str:
    """Publish one event and return its id. Makes one attempt, on a connection of its own.

    Args:
        url: the broker's URL, such as `http://127.0.0.1:8080`.
        data: text, or UTF-8 bytes.
        event: the event's type.
        timeout: limit in seconds for connecting, for sending, and for each read.
        idempotency_key: 1 to 200 visible ASCII characters. Calls with the same key publish the event once.
        token: a bearer token.
        end: close the topic together with this event, or without an event if `data` is empty.
        retain: how long the topic keeps its events, if it is new: a duration such as `24h`.
        reason: why the topic ends, such as `failed`; needs `end`.

    Raises:
        PublishError: the event was not published. With the code `unreachable` it may have been published.
        ValueError: `url` is not the URL of a broker, or `data` has a lone surrogate.
    """
    query = publish_query(event, end=end, retain=retain, reason=reason)
    address = topic_url(PublishError, base_url(url), [topic], query)
    body = data.encode() if isinstance(data, str) else data
    status, retry_after, answer = _post(address, body, _headers(idempotency_key, token), timeout)
    return _event_id(status, retry_after, answer)


def _headers(idempotency_key: str | None, token: str | None) -> dict[str, str]:
    given = {"Idempotency-Key": idempotency_key, "Authorization": token and f"Bearer {token}"}
    return {
        "Content-Type": "text/plain; charset=utf-8",
        **{name: value for name, value in given.items() if value},
    }


def _event_id(status: int, retry_after: str | None, answer: bytes) -> str:
    if status != 201:
        raise problem(PublishError, status, retry_after, answer)
    try:
        return str(json_object(answer)["id"])
    except (ValueError, KeyError):
        raise unexpected(PublishError, "The response has no id", status) from None


def _post(url: str, body: bytes, headers: dict[str, str], timeout: float) -> tuple[int, str | None, bytes]:
    parts = urlsplit(url)
    assert parts.hostname
    if parts.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=timeout, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    try:
        connection.request("POST", target, body, headers)
        response = connection.getresponse()
        return response.status, response.getheader("Retry-After"), response.read(MAX_RESPONSE_BYTES)
    except (OSError, http.client.HTTPException) as error:
        detail = f"No answer from {parts.scheme}://{parts.netloc}: {why(error)}."
        raise PublishError(UNREACHABLE, detail) from error
    finally:
        connection.close()
