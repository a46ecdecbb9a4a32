"""The HTTP interface as an OpenAPI document, for tools: `openapi.json`, kept by hand and held against the routes by tests."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files

from broker.web.etag import tagged
from broker.web.services import Services
from broker.web.values import Answer, Request

_HEADERS = {"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-cache"}


async def document(services: Services, request: Request) -> Answer:
    """`GET /openapi.json`: the document. Its server is this broker, below the base path."""
    await services.authenticator.check_host(request)
    return tagged(_document(services.settings.base_path), _HEADERS, request.headers.get("if-none-match", ""))


@lru_cache(maxsize=4)
def _document(base_path: str) -> bytes:
    value = json.loads((files(__name__) / "openapi.json").read_bytes())
    value["servers"] = [{"url": base_path or "/"}]
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
