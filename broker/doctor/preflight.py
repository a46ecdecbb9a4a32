"""What must hold before anything can be examined: the host answers, its certificate is valid, and a broker lets us in."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from urllib.parse import urlsplit

from broker.client.errors import reason
from broker.doctor import hops, wire
from broker.doctor.finding import Verdict, error
from broker.doctor.site import POSTS, Reply, RequestFailed, Site

_RIGHTS = "broker token --publish 'doctor.*' --subscribe 'doctor.*' --admin"


class Unreachable(Exception):
    """Nothing can be examined; the text says why, and what to do."""


async def preflight(site: Site) -> Mapping[str, Verdict]:
    """Verdicts, by code, that keep the checks from running, if one of them is an error. Finds the site's hops and rights.

    Raises:
        Unreachable: no broker was reached, or it doesn't let us in.
    """
    url = site.target.url
    try:
        _, writer = await wire.connect(url, site.context)
        writer.close()
    except ssl.SSLCertVerificationError as failure:
        return {"tls": error(f"The certificate is not valid: {failure.verify_message}.")}
    except OSError as failure:
        raise Unreachable(f"No connection to {url}: {reason(failure)}") from None
    topic = site.topic(POSTS)
    reply = await _ask(site, topic)
    if reply.status == 401 and site.target.token is not None:
        site.token_in_query = True
        again = await _ask(site, topic)
        site.token_in_query = again.status == 201
        reply = again if again.status == 201 else reply
    if reply.code == "invalid-parameter" and "'retain'" in reply.detail:
        site.may_retain = False
        reply = await _ask(site, topic)
    site.hops = hops.distinct(
        [
            *await _error_page(site),
            *hops.from_headers(reply.headers),
        ]
    )
    if reply.status == 201 and reply.json().get("topic") == topic:
        site.has_broker = True
        await _check_subscribe(site, topic)
        site.is_admin = (
            await site.request("GET", "/topics", {"limit": "1"}, {"Accept": "application/json"})
        ).status == 200
        return {}
    return _refused(site, reply)


async def _error_page(site: Site) -> Sequence[str]:
    try:
        return await hops.from_error_page(site.target.url, site.context, urlsplit(site.target.url).netloc)
    except OSError:
        return ()  # such a request may be answered with a reset


async def _ask(site: Site, topic: str) -> Reply:
    try:
        reply = await site.publish(topic)
        why = ""
    except RequestFailed as failure:
        reply, why = None, str(failure)
    if reply is not None and reply.status != HTTPStatus.BAD_REQUEST:
        return reply
    url = site.target.url
    secure = f"https:{url.removeprefix('http:')}"
    if await _speaks_tls(url, secure):
        why = f"the port speaks TLS; use {secure}"
    elif reply is not None:
        return reply
    raise Unreachable(f"No answer from {url}: {why}")


async def _speaks_tls(url: str, secure: str) -> bool:
    """Whether a TLS handshake succeeds at the port of `url`, an http URL; `secure` is the same URL with https."""
    if not url.startswith("http:") or urlsplit(url).port is None:
        return False
    try:
        _, writer = await wire.connect(secure, ssl.create_default_context())
    except ssl.SSLCertVerificationError:
        return True
    except OSError:
        return False
    writer.close()
    return True


async def _check_subscribe(site: Site, topic: str) -> None:
    """Raises `Unreachable` if the token allows publishing only."""
    reply = await site.request("GET", f"/topics/{topic}", headers={"Accept": "application/json"})
    if reply.code in ("unauthorized", "forbidden"):
        raise Unreachable(_refusal(site, reply))


def _refusal(site: Site, reply: Reply) -> str:
    prefix = site.target.prefix
    return (
        f"The broker refuses: {reply.detail} The doctor publishes and subscribes to {prefix}.*; make a token with: "
        f"{_RIGHTS.replace('doctor', prefix)}"
    )


def _refused(site: Site, reply: Reply) -> Mapping[str, Verdict]:
    """What a refusal means. Raises `Unreachable` if the path isn't the cause."""
    url = site.target.url
    if reply.code == "not-found" and "topics are at" in reply.detail:
        base = reply.detail.partition("topics are at ")[2].partition("topics/")[0]
        return {
            "base-path": error(
                f"Below {url} the broker finds no topics. It answers that its topics are at {base}topics/: the URL lacks "
                "its base path, or a proxy changes the path.",
                advice="Use a URL with the broker's base path, pass the path on unchanged, and set --base-path to it.",
            )
        }
    if reply.code == "forbidden" and "--allowed-hosts" in reply.detail:
        return {
            "host": error(
                "Without a token, the broker refuses the host name that it gets: it is not one of its --allowed-hosts.",
                advice="Add the public name to --allowed-hosts, or pass Host on unchanged if a proxy rewrites it.",
            )
        }
    if reply.code in ("unauthorized", "forbidden"):
        raise Unreachable(_refusal(site, reply))
    if 300 <= reply.status < 400:
        where = reply.headers.get("Location", "another address")
        raise Unreachable(f"{url} redirects to {where}; name that URL instead")
    raise Unreachable(
        f"{url} answered a publish with {reply.status}"
        + (f": {reply.detail}" if reply.code else ", which is not an answer of a broker; is this its URL?")
    )
