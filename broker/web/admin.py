"""`POST /admin/disconnect` and `POST /admin/revoke`: an operator ends streams and revokes tokens, on all instances.

`GET /admin/request`: the request itself, as proxies have changed it; `broker doctor` reads it.

The body is `{"sub": "…"}` or `{"topic": "…"}` to disconnect, `{"jti": "…"}` or `{"sub": "…"}` to revoke; with `exp` the
revocation can be forgotten then (seconds since 1970, as in the token). A disconnected client may reconnect at once; with a
revoked token it is refused.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection

from broker.auth.tokens import MAX_CLAIM_CHARS
from broker.errors import InvalidBody
from broker.topics import check_topic
from broker.web.ndjson import refuse_constant
from broker.web.parameters import NO_OTHERS, check_names
from broker.web.request_id import request_id
from broker.web.services import Services
from broker.web.values import Answer, Request, json_answer

MAX_BODY_BYTES = 8192
MAX_TIME = 253_402_300_800  # the year 10,000


SHOWN_HEADERS = ("host", "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "via")
"""Headers that proxies write, none of which carries a secret."""
_FRESH = {"Cache-Control": "no-store"}


async def show_request(services: Services, request: Request) -> Answer:
    """The HTTP version, the addresses and `SHOWN_HEADERS` of this request; an address that isn't known is null."""
    caller = await services.authenticator.authenticate(request)
    caller.grant.check_admin()
    headers = request.headers
    shown = {name: ", ".join(headers.getall(name)) for name in SHOWN_HEADERS if name in headers}
    value = {
        "version": request.version,
        "peer": request.peer or None,
        "address": caller.address or None,
        "headers": shown,
    }
    return json_answer(value, _FRESH)


async def disconnect(services: Services, request: Request) -> Answer:
    """End the streams of a subject or of a topic."""
    name, value, _ = await _order(services, request, ("sub", "topic"), ())
    if name == "topic":
        await services.node.instances.disconnect(topic=check_topic(value))
    else:
        await services.node.instances.disconnect(subject=value)
    report_order(services, request, "disconnect", name, value)
    return Answer(202)


async def revoke(services: Services, request: Request) -> Answer:
    """Refuse a token, or all tokens that a subject has so far, and end their streams."""
    name, value, expires_at = await _order(services, request, ("jti", "sub"), ("exp",))
    token_id, subject = (value, None) if name == "jti" else (None, value)
    await services.node.instances.revoke(token_id=token_id, subject=subject, until=expires_at)
    report_order(services, request, "revoke", name, value)
    return Answer(202)


def report_order(services: Services, request: Request, action: str, name: str, value: str) -> None:
    """Log an order with its caller. Only administrators can give one, so no line is left out."""
    services.node.reporter.write(
        logging.INFO,
        "admin action",
        action,
        **{f"of_{name}": value},
        by=None if request.caller is None else request.caller.grant.subject,
        address=services.addresses.client(request.headers, request.peer),
        request_id=request_id(request.headers),
    )


async def _order(
    services: Services, request: Request, names: Collection[str], others: Collection[str]
) -> tuple[str, str, float | None]:
    """The one member of `names` in the body, its value, and `exp`. Checks first that the caller is an operator."""
    caller = await services.authenticator.authenticate(request)
    caller.grant.check_admin()
    check_names(request.query, NO_OTHERS)
    order = _object(await services.bodies.whole(request.body, caller, MAX_BODY_BYTES))
    services.node.streams.evictions.check(caller.grant)  # it may have changed while the body was read
    present = [name for name in names if name in order]
    if len(present) != 1 or order.keys() - {*names, *others}:
        raise InvalidBody("Send one of " + " or ".join(f'{{"{name}": "…"}}' for name in names) + ".")
    (name,) = present
    value = order[name]
    if isinstance(value, int) and not isinstance(value, bool) and name != "topic":
        value = str(value)  # as tokens may have it
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_CLAIM_CHARS:
        raise InvalidBody(f"{name!r} must be a string of 1 to {MAX_CLAIM_CHARS} characters.")
    expires_at = order.get("exp")
    if expires_at is not None and (
        isinstance(expires_at, bool)
        or not isinstance(expires_at, int | float)
        or not 0 <= expires_at <= MAX_TIME
    ):
        raise InvalidBody("'exp' must be a number: seconds since 1970.")
    return name, value, expires_at


def _object(body: bytes) -> dict[str, object]:
    try:
        value = json.loads(body, parse_constant=refuse_constant)
    except (ValueError, RecursionError):
        raise InvalidBody("The body is not JSON.") from None
    if not isinstance(value, dict):
        raise InvalidBody("The body is not a JSON object.")
    return value
