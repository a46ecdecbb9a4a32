"""Entity tags: a client that has an answer already gets 304 instead (RFC 9110 §8.8.3, §13.1.2)."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

from broker.web.values import Answer


def tagged(body: bytes, headers: Mapping[str, str], none_match: str) -> Answer:
    """200 with `body` and its `ETag`; 304 if the request's `If-None-Match` names it. `headers` must have `Cache-Control`."""
    tag = f'"{blake2b(body, digest_size=12).hexdigest()}"'
    if none_match and _matches(none_match, tag):
        return Answer(304, headers={"Cache-Control": headers["Cache-Control"], "ETag": tag})
    return Answer(200, body, {**headers, "ETag": tag})


def _matches(none_match: str, tag: str) -> bool:
    """By weak comparison."""
    tags = [one.strip().removeprefix("W/") for one in none_match.split(",")]
    return tag in tags or tags == ["*"]
