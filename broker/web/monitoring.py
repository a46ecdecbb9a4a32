"""What an operator asks (contract §6)."""

from __future__ import annotations

from aiohttp import hdrs, web

from broker.metrics import CONTENT_TYPE
from broker.web.app_keys import NODE, PRODUCING
from broker.web.identity import ACCESS, caller_of

_FRESH = {"Cache-Control": "no-store"}


async def healthz(_request: web.Request) -> web.Response:
    """200 while the process can answer."""
    return web.json_response({"status": "ok"}, headers=_FRESH)


async def readyz(request: web.Request) -> web.Response:
    """200 while events would arrive, else 503; each check says why."""
    checks = dict(request.app[NODE].checks())
    checks["producing"] = request.app[PRODUCING].check
    key_set = request.app[ACCESS].key_set
    if key_set is not None:
        checks["keys"] = key_set.check
    ready = all(check == "ok" for check in checks.values())
    body = {"status": "ready" if ready else "not ready", "checks": checks}
    return web.json_response(body, status=200 if ready else 503, headers=_FRESH)


async def metrics(request: web.Request) -> web.Response:
    """Prometheus' text format; for operators."""
    (await caller_of(request)).grant.check_admin()
    return await metrics_for_all(request)


async def metrics_for_all(request: web.Request) -> web.Response:
    """The same for whoever reaches the port."""
    return web.Response(
        body=request.app[NODE].metrics.text(), headers={hdrs.CONTENT_TYPE: CONTENT_TYPE, **_FRESH}
    )
