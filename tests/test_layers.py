"""The structure is what `broker/__init__.py` says it is."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "broker"
MAX_LINES = 300

LAYERS = [
    {
        "backoff",
        "descriptors",
        "durations",
        "errors",
        "events",
        "hosts",
        "measures",
        "metrics",
        "reports",
        "sse",
        "topics",
        "traces",
        "version",
    },
    {"log", "auth"},
    {"fanout", "stores", "settings"},
    {"node"},
    {"web"},
    {"process"},
    {"cli", "__main__"},
]
"""From the bottom up, by the first part of a module's name."""
SIDE_BY_SIDE = [{"log", "auth"}, {"fanout", "stores", "settings"}]
"""Folders on one layer that must not import each other."""
OUTSIDE = {"client", "bench", "doctor"}
"""They talk to a broker over HTTP: they import only each other and the root's words, and only `cli` imports them."""

NO_IO = {"asyncio", "aiohttp", "redis", "socket"}
FORBIDDEN = {
    "errors": NO_IO,
    "events": NO_IO,
    "topics": NO_IO,
    "traces": NO_IO,
    "sse": NO_IO,
    "measures": NO_IO | {"prometheus_client"},
    "metrics": NO_IO,
    "reports": NO_IO,
    "log": NO_IO,
    "auth": NO_IO,
    "fanout": {"aiohttp", "redis", "pydantic"},
    "stores": {"aiohttp", "pydantic"},
    "node": {"aiohttp", "redis", "pydantic"},
    "web": {"redis"},
    "process": {"redis"},
    "cli": {"redis"},
}
"""Libraries that a folder must not import."""


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def layer(folder: str) -> int:
    return next(index for index, folders in enumerate(LAYERS) if folder in folders)


def imports(path: Path, *, all_of_them: bool = False) -> set[str]:
    """The imports of a module when it runs; with `all_of_them` also those for the type checker alone."""
    found: set[str] = set()
    todo: list[ast.AST] = list(ast.parse(path.read_text()).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            if all_of_them:
                todo += node.body
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        todo += ast.iter_child_nodes(node)
    return found


MODULES = sorted(path for path in ROOT.rglob("*.py") if name_of(path))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    folder = name_of(path).split(".")[0]
    for imported in imports(path):
        library, _, rest = imported.partition(".")
        if library != "broker":
            assert library not in FORBIDDEN.get(folder, set()), f"{name_of(path)} imports {imported}"
            continue
        target = rest.split(".")[0]
        if folder in OUTSIDE:
            assert target in OUTSIDE | LAYERS[0], f"{name_of(path)} imports {imported}"
        elif target in OUTSIDE:
            assert folder == "cli", f"{name_of(path)} imports {imported}"
        elif target != folder:
            assert layer(target) <= layer(folder), f"{name_of(path)} imports upwards: {imported}"
            assert not any({folder, target} <= group for group in SIDE_BY_SIDE), (
                f"{name_of(path)} imports sideways: {imported}"
            )


AIOHTTP = {"aiohttp_adapter", "response_stream", "runner", "jwks_fetcher"}
"""The modules of `web` that use aiohttp. The others take and return plain values, and import none of these."""


def test_handlers_know_no_http_library() -> None:
    for path in MODULES:
        folder, _, module = name_of(path).partition(".")
        if folder != "web" or module in AIOHTTP:
            continue
        for imported in imports(path, all_of_them=True):
            parts = imported.split(".")
            assert parts[0] != "aiohttp", f"{name_of(path)} imports {imported}"
            assert parts[:2] != ["broker", "web"] or parts[2] not in AIOHTTP, (
                f"{name_of(path)} imports {imported}"
            )


def test_no_import_cycle() -> None:
    """Not even one that only the type checker meets."""
    names = {name_of(path) for path in MODULES}
    graph: dict[str, set[str]] = {name: set() for name in names}
    for path in MODULES:
        for imported in imports(path, all_of_them=True):
            name = imported.removeprefix("broker.")
            graph[name_of(path)] |= {name if name in names else name.rpartition(".")[0]} & names
    TopologicalSorter(graph).prepare()  # raises `CycleError`, which names the cycle


def test_the_root_holds_only_the_words() -> None:
    flat = {path.stem for path in ROOT.glob("*.py")} - {"__init__", "__main__"}
    assert flat == LAYERS[0]


def test_no_module_is_longer_than_a_reader_can_hold() -> None:
    assert [path.name for path in MODULES if len(path.read_text().splitlines()) > MAX_LINES] == []


POSSESSIVE_GROUPS = {"web.ndjson"}
"""Their parts can't fail midway in valid JSON."""


def test_regular_expressions_work_in_each_python() -> None:
    """Before 3.11.5, a possessive group that fails midway doesn't go back, so that `1.` is taken for a number."""
    found = {name_of(path) for path in MODULES if re.search(r"\)[*+?]\+", path.read_text())}
    assert found == POSSESSIVE_GROUPS


def test_i6_no_redis_type_above_the_stores() -> None:
    for path in MODULES:
        if not name_of(path).startswith("stores"):
            assert not any(name.split(".")[0] == "redis" for name in imports(path)), path


def test_i3_fan_out_has_no_coroutine() -> None:
    """Fan-out never awaits a subscriber."""
    waits = {"fanout.backpressure"}  # publishers wait there
    for path in MODULES:
        if name_of(path).split(".")[0] in {"fanout", "log"} and name_of(path) not in waits:
            tree = ast.parse(path.read_text())
            assert not [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef | ast.Await)]


def test_every_invariant_has_a_test_of_its_name() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))
    numbers = re.findall(r"^    (I\d)  ", (ROOT / "__init__.py").read_text(), re.MULTILINE)
    assert len(numbers) == 9
    for number in numbers:
        assert re.search(rf"def test_{number.lower()}_", tests), number
