"""Time-outs of stores, and between instances and workers, that a machine which stalls for seconds doesn't exceed.

Every test runs with them (`tests/conftest.py`), and so does every `BrokerProcess`. Tests about a time-out use `own_timeouts`
or `timeouts` around what has to be given up, or start the process with these.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from tests.support.waiting import WAIT_SECONDS

Constants = Mapping[str, Mapping[str, float]]
"""Values by the names of a module and of its constant."""

STORE = "broker.stores.redis"
LONG: Constants = {
    "broker.node.questions": {"SECONDS": WAIT_SECONDS},
    "broker.process.data_directory": {"LOCK_TIMEOUT_SECONDS": WAIT_SECONDS},
    "broker.process.merged_metrics": {"ANSWER_SECONDS": WAIT_SECONDS / 2},
    "broker.process.supervisor_channel": {"MERGE_SECONDS": WAIT_SECONDS},
    f"{STORE}.connector": {"REPLY_TIMEOUT_SECONDS": WAIT_SECONDS},
    f"{STORE}.counters": {"LIFE_MS": 1000 * WAIT_SECONDS},
    f"{STORE}.link": {"CONNECT_SECONDS": WAIT_SECONDS},
    f"{STORE}.receiver": {"PROBE_TIMEOUT_SECONDS": WAIT_SECONDS},
    f"{STORE}.script_pipeline": {"CALL_SECONDS": WAIT_SECONDS, "REPLICAS_MS": 1000 * WAIT_SECONDS},
    f"{STORE}.store": {"START_SECONDS": WAIT_SECONDS},
    f"{STORE}.watches": {"WATCH_SECONDS": WAIT_SECONDS},
}
OWN: Constants = {
    module: {name: getattr(import_module(module), name) for name in names} for module, names in LONG.items()
}
"""The broker's own."""


def environment(given: Mapping[str, float]) -> dict[str, str]:
    """Variables that give a broker's process those `given`, by the names of their constants, and all other long ones."""
    changed = _by_module(given)
    constants = {module: {**values, **changed[module]} for module, values in LONG.items()}
    return {
        "PYTHONPATH": str(Path(__file__).parent / "patient_process"),
        "TEST_CONSTANTS": json.dumps(constants),
    }


def _by_module(given: Mapping[str, float]) -> Constants:
    found = {module: {name: given[name] for name in names if name in given} for module, names in LONG.items()}
    assert sum(map(len, found.values())) == len(given), f"unknown, or in two modules: {given}"
    return found


@contextmanager
def long_timeouts() -> Iterator[None]:
    """The long ones, for what begins within the block, in this process."""
    with _set(LONG):
        yield


@contextmanager
def own_timeouts() -> Iterator[None]:
    """The broker's own, for what begins within the block, in this process."""
    with _set(OWN):
        yield


@contextmanager
def timeouts(**given: float) -> Iterator[None]:
    """These, by the names of their constants, for what begins within the block, in this process. All others stay as they are."""
    with _set(_by_module(given)):
        yield


@contextmanager
def _set(constants: Constants) -> Iterator[None]:
    before = [
        (import_module(module), name, getattr(import_module(module), name))
        for module, names in constants.items()
        for name in names
    ]
    try:
        for module, _, _ in before:
            vars(module).update(constants[module.__name__])
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
