"""`POST /admin/disconnect` and `POST /admin/revoke`: what an operator does to streams and tokens, on all instances.

`{"sub": "…"}` or `{"topic": "…"}` is disconnected, `{"jti": "…"}` or `{"sub": "…"}` is revoked; `exp` beside it, as in the
token (seconds since 1970), says when the revocation may be forgotten. Who is disconnected may come back at once; whoever
is revoked is refused.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import NoReturn

from aiohttp import web

from broker.auth.tokens import MAX_CLAIM_CHARS
from broker.errors import InvalidBody, TooLarge
from broker.topics import check_topic
from broker.web.app_keys import BODIES, NODE
from broker.web.identity import caller_of
from broker.web.ndjson import refuse_constant

MAX_BODY_BYTES = 8192
MAX_TIME = 253_402_300_800  # the year 10,000


async def disconnect(request: web.Request) -> web.Response:
    """End the streams of a subject, or of a topic. 202: all instances that can be reached hear of it."""
    (await caller_of(request)).grant.check_admin()
    name, value, _ = await _order(request, ("sub", "topic"), ())
    if name == "topic":
        await request.app[NODE].instances.disconnect(topic=check_topic(value))
    else:
        await request.app[NODE].instances.disconnect(subject=value)
    return web.Response(status=202)


async def revoke(request: web.Request) -> web.Response:
    """Refuse a token, or all that a subject was given so far, from now on; end their streams. 202 as above."""
    (await caller_of(request)).grant.check_admin()
    name, value, expires = await _order(request, ("jti", "sub"), ("exp",))
    token_id, subject = (value, None) if name == "jti" else (None, value)
    await request.app[NODE].instances.revoke(token_id=token_id, subject=subject, until=expires)
    return web.Response(status=202)


async def _order(
    request: web.Request, names: Collection[str], others: Collection[str]
) -> tuple[str, str, float | None]:
    """The one of `names` that the body has, with its value; and `exp`."""
    order = _object(await _body(request))
    named = [name for name in names if name in order]
    value = order.get(named[0]) if named else None
    if len(named) != 1 or order.keys() - {*names, *others}:
        _malformed(names)
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_CLAIM_CHARS:
        raise InvalidBody(f"{named[0]!r} is a string of 1 to {MAX_CLAIM_CHARS} characters.")
    expires = order.get("exp")
    if expires is not None and (
        isinstance(expires, bool) or not isinstance(expires, int | float) or not 0 <= expires <= MAX_TIME
    ):
        raise InvalidBody("'exp' is a number, seconds since 1970.")
    return named[0], value, expires


async def _body(request: web.Request) -> bytes:
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise TooLarge(f"The body is at most {MAX_BODY_BYTES} bytes.")

    async def read() -> bytes:
        body = b""
        while data := await request.content.readany():
            body += data
            if len(body) > MAX_BODY_BYTES:
                raise TooLarge(f"The body is at most {MAX_BODY_BYTES} bytes.")
        return body

    try:
        return await request.app[BODIES].whole(read)
    except web.RequestPayloadError:
        raise InvalidBody("The body breaks the rules of its Transfer-Encoding.") from None


def _object(body: bytes) -> dict[str, object]:
    try:
        order = json.loads(body, parse_constant=refuse_constant)
    except (ValueError, RecursionError):
        raise InvalidBody("The body is not JSON.") from None
    if not isinstance(order, dict):
        raise InvalidBody("The body is not a JSON object.")
    return order


def _malformed(names: Collection[str]) -> NoReturn:
    raise InvalidBody("Send one of " + " or ".join(f'{{"{name}": "…"}}' for name in names) + ".")
