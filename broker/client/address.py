"""URLs of a broker and of its topics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlencode, urlsplit

from broker.client.errors import ClientError, PublishError
from broker.client.types import FAILED, STOPPED
from broker.errors import InvalidTopic
from broker.topics import check_topic

DEFAULT_URL = "http://127.0.0.1:8080"
TOPICS_PAGE = 1000


def base_url(url: str) -> str:
    """`url` without a final slash, ready for the paths of the HTTP interface. A path of its own (behind a proxy) is kept.

    Raises:
        ValueError: `url` does not have the form `http[s]://host[:port][/path]`.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"{url!r}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError(f"{url!r} is not the URL of a broker; write http://host:port or https://host:port")
    if parts.query or parts.fragment:
        raise ValueError(f"{url!r} has a query or a fragment; leave it out")
    return f"{parts.scheme}://{parts.netloc}{quote(parts.path.rstrip('/'), safe='/%:@~')}"


def topic_url(
    error_type: type[ClientError], base: str, topics: Sequence[str], query: Mapping[str, str] | None = None
) -> str:
    """The URL of one topic, or of several topics together, with `query` appended.

    Topic names are checked here, so that a name cannot change the path of the URL.

    Raises:
        ClientError: an `error_type` with the code `invalid-topic`: a topic name is invalid.
        ValueError: `topics` is empty.
    """
    if not topics:
        raise ValueError("name at least one topic")
    try:
        for topic in topics:
            check_topic(topic)
    except InvalidTopic as error:
        raise error_type(error.code, error.detail) from None
    pairs = [] if len(topics) == 1 else [("topic", topic) for topic in topics]
    pairs += (query or {}).items()
    path = f"/topics/{topics[0]}" if len(topics) == 1 else "/topics"
    return f"{base}{path}?{urlencode(pairs)}" if pairs else base + path


def publish_query(
    event: str | None, *, end: bool = False, retain: str | None = None, reason: str | None = None
) -> dict[str, str]:
    """The query of a publish with these options."""
    given = {"event": event, "end": "true" if end else None, "retain": retain, "reason": reason}
    return {name: value for name, value in given.items() if value is not None}


def stream_query(*, retain: str | None, last_viewer: str | None) -> dict[str, str]:
    """The query of a stream with these options."""
    given = {"retain": retain, "last_viewer": last_viewer}
    return {name: value for name, value in given.items() if value is not None}


def stream_urls(base: str, topic: str, query: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The URL that a stream's body goes to, and by reason the URLs that end its topic. Raises `PublishError`."""
    ends = {
        reason: topic_url(PublishError, base, [topic], {"end": "true", "reason": reason})
        for reason in (FAILED, STOPPED)
    }
    return topic_url(PublishError, base, [topic], {**query, "end": "on-disconnect"}), ends


def topics_url(base: str, after: str | None) -> str:
    """The URL of a page of the list of topics; `after` is the `next` of the page before it."""
    query = {"limit": str(TOPICS_PAGE), **({} if after is None else {"after": after})}
    return f"{base}/topics?{urlencode(query)}"
