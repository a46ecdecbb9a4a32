"""The structure is what `broker/__init__.py` says it is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "broker"

LAYERS = [
    {"events", "topics", "errors", "notices", "hosts", "keys", "settings"},
    {
        "sse",
        "entry",
        "log",
        "logs",
        "producers",
        "start",
        "access",
        "tokens",
        "revocations",
        "buckets",
        "metrics",
    },
    {
        "hub",
        "fanout",
        "feeds",
        "feed",
        "ends",
        "walk",
        "subscriber",
        "gate",
        "dismissals",
        "expiries",
        "slices",
        "stores",
        "descriptors",
    },
    {"node", "admission", "readings"},
    {"web"},
    {"cli", "web.app", "process", "instance", "supervisor", "__main__"},
]
BESIDE = {"client", "bench"}
"""They talk to a broker from outside: they use words and bytes, and nobody below uses them."""

FORBIDDEN = {
    "sse": {"asyncio", "aiohttp", "redis"},
    "log": {"asyncio", "aiohttp", "redis"},
    "logs": {"asyncio", "aiohttp", "redis"},
    "entry": {"asyncio", "aiohttp", "redis"},
    "producers": {"asyncio", "aiohttp", "redis"},
    "start": {"asyncio", "aiohttp", "redis"},
    "access": {"asyncio", "aiohttp", "redis"},
    "buckets": {"asyncio", "aiohttp", "redis"},
    "revocations": {"asyncio", "aiohttp", "redis"},
    "tokens": {"asyncio", "aiohttp", "redis"},
    "metrics": {"asyncio", "aiohttp", "redis"},
    "hub": {"aiohttp", "redis"},
    "fanout": {"aiohttp", "redis"},
    "ends": {"aiohttp", "redis"},
    "feed": {"aiohttp", "redis"},
    "feeds": {"aiohttp", "redis"},
    "walk": {"aiohttp", "redis"},
    "subscriber": {"aiohttp", "redis"},
    "node": {"aiohttp", "redis", "pydantic"},
    "web": {"redis"},
    "cli": {"redis"},
    "process": {"aiohttp", "redis"},
    "instance": {"redis"},
    "supervisor": {"aiohttp", "redis"},
    "stores.redis.scripts": {"asyncio", "aiohttp", "redis"},
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def layer(module: str) -> int | None:
    """Index of the layer; the longest name that fits counts."""
    for name in (module, module.split(".")[0]):
        for index, names in enumerate(LAYERS):
            if name in names:
                return index
    return None


def imports(path: Path) -> set[str]:
    """What a module imports when it runs; imports for the type checker alone don't count."""
    found: set[str] = set()
    todo: list[ast.AST] = list(ast.parse(path.read_text()).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
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
    module = name_of(path)
    own = layer(module)
    for imported in imports(path):
        if not imported.startswith("broker."):
            forbidden = FORBIDDEN.get(module) or FORBIDDEN.get(module.split(".")[0], set())
            assert imported.split(".")[0] not in forbidden, f"{module} imports {imported}"
            continue
        target = imported.removeprefix("broker.")
        if module.split(".")[0] in BESIDE:
            assert target.split(".")[0] in BESIDE | LAYERS[0] | {"sse", "descriptors"}, (
                f"{module} imports {imported}"
            )
            continue
        if target.split(".")[0] in BESIDE:
            assert module.split(".")[0] == "cli", f"{module} imports {imported}"
            continue
        other = layer(target) if layer(target) is not None else layer(target.rpartition(".")[0])
        assert own is not None, f"{module} is in no layer"
        assert other is not None, f"{imported} is in no layer"
        assert other <= own, f"{module} imports upwards: {imported}"


def test_i6_no_redis_type_above_the_stores() -> None:
    for path in MODULES:
        if not name_of(path).startswith("stores"):
            assert not any(name.split(".")[0] == "redis" for name in imports(path)), path


PARTS = {"hub", "fanout", "feeds", "feed", "ends", "walk", "subscriber", "dismissals", "expiries", "slices"}


def test_hub_and_stores_do_not_know_each_other() -> None:
    for path in MODULES:
        module = name_of(path)
        if module in PARTS:
            assert not any(name.startswith("broker.stores") for name in imports(path))
        if module.startswith("stores"):
            assert not {name.split(".")[1] for name in imports(path) if name.startswith("broker.")} & {
                "hub",
                "feed",
                "subscriber",
            }


def test_i3_fan_out_has_no_coroutine() -> None:
    """Fan-out never awaits a subscriber."""
    for module in (*PARTS, "log", "logs"):
        tree = ast.parse((ROOT / f"{module}.py").read_text())
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef | ast.Await)]


def test_every_invariant_has_a_test_of_its_name() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))
    numbers = re.findall(r"^    (I\d)  ", (ROOT / "__init__.py").read_text(), re.MULTILINE)
    assert len(numbers) == 9
    for number in numbers:
        assert re.search(rf"def test_{number.lower()}_", tests), number
