"""`python -m tests.bench.unobserved serve …`: the broker without what it records for metrics and log lines, for a comparison.

No setting turns metrics off. So the statements that record are taken out of the source while it is imported, in this process
only. Each must be found, so that this can't silently measure the whole broker after a change.

With `--whole` before `serve` nothing is taken out: modules that are loaded in this way are 0.5 % faster than others, so that both
sides of a comparison must be. For the compiled build, `python -m tests.bench.unobserved --copy FOLDER` writes the repository without them to a new folder.

What is asked for at a scrape, and the sample that the dashboard gets once a second, stay: they cost nothing per request.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from broker.cli import main

ROOT = Path(__file__).parents[2]
PACKAGED = ("broker", "deploy", "pyproject.toml", "README.md")
NOTHING = "pass"
NEVER = "if False:"
RECORDING: Mapping[str, Mapping[str, str]] = {
    "broker.fanout.catch_up": {"self._sent.bytes += len(opening)": NOTHING},
    "broker.fanout.fanout": {
        "self.sent.events += written * events": NOTHING,
        "sent = self.sent\n        sent.events += written * events\n        sent.bytes += written * len(chunk)": NOTHING,
        "self.sent.bytes += written * len(chunk)": NOTHING,
        "if group.published_at <= 0.0:\n                group.published_at = published_at": "group.published_at = 0.0",
        "self._written.within_least += 1": NOTHING,
        "self.delivered(topic, size, now)": "self.delivered(topic, size)",
        "if group.published_at > 0.0:": NEVER,
        "if group.pass_published_at > 0.0:": NEVER,
    },
    "broker.fanout.feed_table": {
        "group.pass_published_at, group.published_at = group.published_at, NOT_DUE": "group.published_at = NOT_DUE"
    },
    "broker.fanout.subscriber": {
        "self.own_bytes += sent": NOTHING,
        "self.own_bytes += len(rest)": NOTHING,
    },
    "broker.fanout.write_each": {
        "if subscriber.totals is before:": "if True:",
        "subscriber.totals = after\n": "pass\n",
    },
    "broker.node.loop_lag": {"self._timer = self._loop.call_later(PERIOD_SECONDS, self._tick)": NOTHING},
    "broker.node.node": {
        "self._acknowledged.observe(monotonic() - published_at, number)": NOTHING,
        "self._published.value += number": NOTHING,
        "self._published.value += len(events)": NOTHING,
        "if self._meter.is_on:": NEVER,
    },
    "broker.node.streams": {
        "self._count_opened(where.gaps, resumed=isinstance(start, _CURSORS))": NOTHING,
        "subscriber.own_bytes -= len(opening)": NOTHING,
        "describe(subscriber, client, _START_NAMES[type(start)], gap)": NOTHING,
        "self._metrics.closes.add(reason)": NOTHING,
        "self._metrics.age.observe(age)": NOTHING,
        "report_closed(self._reporter, subscriber, reason, age)": NOTHING,
    },
    "broker.stores.memory.logs": {"0.0 if published_at is None else published_at or monotonic()": "0.0"},
    "broker.web.front.front": {
        "self._answer_bytes.value += len(data)": NOTHING,
        "routed.statuses[result.status] += 1  # as most: it costs no call": NOTHING,
        "route.statuses[status] += 1": NOTHING,
        "self._measure_of(exchange.head).answered(status, waited)": NOTHING,
        "exchange.began_at = monotonic()": NOTHING,
        "client = self._services.client(exchange.head.headers, connection.peer)": "client = UNKNOWN_CLIENT",
        "from broker.web.front.head import": "from broker.fanout.origin import UNKNOWN_CLIENT\nfrom broker.web.front.head import",
    },
}
"""By module, what records, and what takes its place."""


def unobserved(module: str, source: str) -> str:
    """The source of `module` without what records. Raises `LookupError` if something of that is not found."""
    for text, substitute in RECORDING[module].items():
        if text not in source:
            raise LookupError(f"{module} has no longer: {text}")
        source = source.replace(text, substitute)
    return source


class _Loader(SourceFileLoader):
    """Compiles a source without what records, unless `is_whole`; leaves the cache of compiled modules alone."""

    is_whole = False

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path).decode()
        source = source if self.is_whole else unobserved(fullname, source)
        code: CodeType = self.source_to_code(source.encode(), self.path)
        return code


class _Finder(MetaPathFinder):
    """Finds the modules of `RECORDING`."""

    def __init__(self, *, is_whole: bool) -> None:
        self._is_whole = is_whole

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in RECORDING else None
        if spec is not None:
            loader = _Loader(fullname, spec.origin or "")
            loader.is_whole = self._is_whole
            spec.loader = loader
        return spec


def copy(folder: Path) -> None:
    """Write what the package is built from to `folder`, which must not exist, without what records."""
    for name in PACKAGED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy(source, folder)
    for module in RECORDING:
        path = folder / f"{module.replace('.', '/')}.py"
        path.write_text(unobserved(module, path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1] == "--copy":
        copy(Path(sys.argv[2]))
        sys.exit()
    is_whole = sys.argv[1] == "--whole"
    sys.meta_path.insert(0, _Finder(is_whole=is_whole))
    sys.exit(main(sys.argv[1 + is_whole :]))
