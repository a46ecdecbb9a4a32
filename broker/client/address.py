"""URLs: where a broker is, and where its topics are (contract §2, §3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlencode, urlsplit

from broker.client.errors import ClientError
from broker.errors import InvalidTopic
from broker.topics import check_topic

DEFAULT_URL = "http://127.0.0.1:8080"


def base_url(url: str) -> str:
    """`url` as what the contract's paths are appended to; a path of its own, as behind a proxy, stays.

    Raises:
        ValueError: it isn't `http[s]://host[:port][/path]`.
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
    kind: type[ClientError], base: str, topics: Sequence[str], query: Mapping[str, str] | None = None
) -> str:
    """The URL of one topic, or of several together; `query` is appended.

    Names are checked here too, so that none can leave its place in the URL.

    Raises:
        ClientError: of that `kind` and with the code `invalid-topic`, for a name that is none.
        ValueError: no topic.
    """
    if not topics:
        raise ValueError("name at least one topic")
    try:
        for topic in topics:
            check_topic(topic)
    except InvalidTopic as error:
        raise kind(error.code, error.detail) from None
    pairs = [] if len(topics) == 1 else [("topic", topic) for topic in topics]
    pairs += (query or {}).items()
    path = f"/topics/{topics[0]}" if len(topics) == 1 else "/topics"
    return f"{base}{path}?{urlencode(pairs)}" if pairs else base + path
