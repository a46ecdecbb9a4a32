"""schemathesis against a started broker: each answer is as the OpenAPI document says, to requests that follow it and others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from schemathesis import Case, CheckFunction, GenerationMode, SerializationContext
from schemathesis.specs.openapi import checks
from schemathesis.specs.openapi.schemas import OpenApiSchema

from tests.support.broker_process import BrokerProcess
from tests.support.scale import scaled
from tests.support.waiting import WAIT_SECONDS

TEXTS = (
    "text/plain",
    "text/event-stream",
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/jsonlines",
)


@schemathesis.serializer(*TEXTS)
def as_text(_: SerializationContext, value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    with BrokerProcess(max_age_seconds=0.2, heartbeat_seconds=0.1, producer_timeout_seconds=1) as started:
        yield started


PATHS = json.loads((files("broker.web.openapi") / "openapi.json").read_bytes())["paths"]
OPERATIONS = [(path, method) for path, item in PATHS.items() for method in item]
VIOLABLE = [
    (path, method)
    for path, method in OPERATIONS
    if path.startswith(("/topics", "/events", "/admin")) and path != "/admin/request"
]
"""Those that a request can violate: they have parameters or a body."""
CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.unsupported_method,
    checks.ignored_auth,
]


@pytest.fixture(scope="module")
def api(broker: BrokerProcess) -> OpenApiSchema:
    """The document as it is served."""
    return schemathesis.openapi.from_url(f"{broker.url}/openapi.json")


def run(api: OpenApiSchema, path: str, method: str, mode: GenerationMode, *more: CheckFunction) -> None:
    """Send requests of one kind to an operation, always the same, and check the answers."""

    @given(api[path][method].as_strategy(generation_mode=mode))
    @settings(
        max_examples=scaled(30),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Case[Any]) -> None:
        assume(case.media_type not in TEXTS or case.body is not None)  # text is sent, whatever its type was
        # Without control events, the end by maximum age cuts the answer.
        case.query = {name: value for name, value in (case.query or {}).items() if name != "control"}
        case.call_and_validate(checks=[*CHECKS, *more], timeout=WAIT_SECONDS)

    check()


@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=str)
def test_answers_to_good_requests(api: OpenApiSchema, path: str, method: str) -> None:
    run(api, path, method, GenerationMode.POSITIVE)


@pytest.mark.parametrize(("path", "method"), VIOLABLE, ids=str)
def test_answers_to_bad_requests(api: OpenApiSchema, path: str, method: str) -> None:
    """Which of them are refused is checked for those that change something. In a reading, one start wins over another, bad one."""
    reads = method in ("get", "head")
    run(api, path, method, GenerationMode.NEGATIVE, *(() if reads else (checks.negative_data_rejection,)))
