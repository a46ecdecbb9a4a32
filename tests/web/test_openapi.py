"""The OpenAPI document against the code: its routes, parameters, headers and errors are those of the handlers, and no others."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import validate

from broker.web import parameters
from broker.web.errors import STATUS
from broker.web.identity import PARAMETER as TOKEN
from broker.web.ndjson import MAX_MEMBERS
from broker.web.routes import ROUTES
from tests.support.local_broker import Serve, Server

DOCUMENT: dict[str, Any] = json.loads((files("broker.web.openapi") / "openapi.json").read_bytes())
SOURCES = sorted((Path(parameters.__file__).parent).rglob("*.py"))

OTHER_HEADERS = {
    "accept": "the content types of an answer",
    "content-type": "the content types of a body",
    "content-length": "HTTP",
    "transfer-encoding": "HTTP",
    "content-encoding": "a compressed body is refused",
    "connection": "HTTP",
    "expect": "HTTP",
    "upgrade": "HTTP",
    "host": "HTTP",
    "authorization": "a security scheme",
    "cookie": "a security scheme",
    "origin": "set by browsers",
    "sec-fetch-site": "set by browsers",
    "access-control-request-method": "set by browsers",
    "referer": "only logged",
    "user-agent": "only logged",
    "traceparent": "of any request; the description names it",
    "x-request-id": "likewise",
    "forwarded": "set by proxies",
    "x-forwarded-for": "set by proxies",
    "x-forwarded-proto": "set by proxies",
}
"""Request headers that the code reads and the document has no parameter for, and why."""


def resolved(value: dict[str, Any]) -> dict[str, Any]:
    """What a reference stands for."""
    if "$ref" not in value:
        return value
    found: Any = DOCUMENT
    for part in value["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return dict(found)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def names(operation: dict[str, Any], where: str) -> set[str]:
    """The names of an operation's parameters in `query`, `header` or `path`."""
    found = map(resolved, operation.get("parameters", []))
    return {parameter["name"] for parameter in found if parameter["in"] == where}


def test_it_is_valid() -> None:
    validate(DOCUMENT)


def test_it_has_the_routes_of_the_router() -> None:
    expected = {(route.method, route.path) for route in ROUTES}
    expected |= {("HEAD", path) for method, path in expected if method == "GET"}
    assert {(method, path) for method, path, _ in operations()} == expected


def test_ids_of_operations_are_unique() -> None:
    found = [operation["operationId"] for _, _, operation in operations()]
    assert len(found) == len(set(found))


def test_it_names_the_placeholders_of_each_path() -> None:
    for _, path, operation in operations():
        assert names(operation, "path") == {part.strip("{}") for part in path.split("/") if "{" in part}


def test_it_has_the_query_parameters_that_each_post_knows() -> None:
    by_path = {
        "/topics/{topic}": parameters.OF_PUBLISH,
        "/topics": parameters.OF_PUBLISH_TO_SEVERAL,
    }
    for method, path, operation in operations():
        if method == "POST":
            known = by_path.get(path, parameters.NO_OTHERS)
            assert names(operation, "query") | {TOKEN} == known, path


def _read(owner: str) -> set[str]:
    """The literal names that the web layer's code asks a request's `query` or `headers` for."""
    found: set[str] = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Call):
                called = node.func
                of = called.value if isinstance(called, ast.Attribute) else None
                is_owner = any(_is(one, owner) for one in (of, *node.args[:1]))
                asked = node.args if _is(of, owner) else node.args[1:]
                found |= {one.value for one in asked[:1] if is_owner and _is_text(one)}  # type: ignore[attr-defined]
            elif isinstance(node, ast.Compare) and _is(node.comparators[0], owner) and _is_text(node.left):
                found.add(node.left.value)  # type: ignore[attr-defined]
    return found


def _is(node: ast.AST | None, owner: str) -> bool:
    name = getattr(node, "attr", getattr(node, "id", ""))
    return str(name) == owner


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and bool(node.value)


def test_it_has_the_query_parameters_that_the_code_reads() -> None:
    documented = set().union(*(names(operation, "query") for _, _, operation in operations()))
    known = _read("query") | parameters.OF_PUBLISH_TO_SEVERAL | {"lastEventId"}  # which has many spellings
    assert documented == known - {TOKEN}, "a security scheme"


def test_it_has_the_headers_that_the_code_reads() -> None:
    asked = {name for name in _read("headers") if name.islower()}  # the others are headers of answers
    documented = set().union(*(names(operation, "header") for _, _, operation in operations()))
    assert {name.lower() for name in documented} == asked - OTHER_HEADERS.keys()


def test_it_has_the_errors_of_the_code() -> None:
    assert DOCUMENT["components"]["schemas"]["Problem"]["properties"]["code"]["enum"] == list(STATUS)
    described = {
        code: status
        for _, _, operation in operations()
        for status, response in operation["responses"].items()
        for code in STATUS
        if f"`{code}`" in resolved(response)["description"]
    }
    left_out = {"method-not-allowed"}  # no operation of the document answers it
    assert described == {code: str(status) for code, status in STATUS.items() if code not in left_out}


def test_each_answer_that_is_an_error_is_a_problem() -> None:
    for method, path, operation in operations():
        for status, response in operation["responses"].items():
            content = resolved(response).get("content", {})
            if status >= "400" and method != "HEAD" and (path, status) != ("/readyz", "503"):
                assert list(content) == ["application/problem+json"], (path, status)


def test_its_examples_follow_its_schemas() -> None:
    checked = 0
    for _, _, operation in operations():
        bodies = [operation.get("requestBody", {}), *map(resolved, operation["responses"].values())]
        for body in bodies:
            for media_type, content in body.get("content", {}).items():
                if "example" in content and media_type == "application/json":
                    schema = {**content["schema"], "components": DOCUMENT["components"]}
                    jsonschema.validate(content["example"], schema, format_checker=jsonschema.FormatChecker())
                    checked += 1
    assert checked >= 4


def test_it_has_the_limit_of_a_line() -> None:
    assert DOCUMENT["components"]["schemas"]["Line"]["maxProperties"] == MAX_MEMBERS


async def test_it_is_served(server: Server) -> None:
    answer = await server.request("GET", "/openapi.json")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.json() == DOCUMENT
    again = await server.request("GET", "/openapi.json", if_none_match=answer.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    assert (await server.request("HEAD", "/openapi.json")).headers["etag"] == answer.headers["etag"]


async def test_its_server_is_below_the_base_path(serve: Serve) -> None:
    server = await serve(base_path="/live")
    assert (await server.request("GET", "/openapi.json")).status == 404
    found = (await server.request("GET", "/live/openapi.json")).json()
    assert found == {**DOCUMENT, "servers": [{"url": "/live"}]}


@pytest.mark.parametrize(("path", "link"), [("/", "openapi.json"), ("/topics/news", "../openapi.json")])
async def test_the_page_links_to_it(server: Server, path: str, link: str) -> None:
    page = (await server.request("GET", path, accept="text/html")).body.decode()
    assert f'href="{link}"' in page
