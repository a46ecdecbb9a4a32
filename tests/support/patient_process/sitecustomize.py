"""Sets constants of modules in a broker's process, when they are imported; `tests.support.patience` says which.

Python imports this module at its start, because its folder is in PYTHONPATH. The variable TEST_CONSTANTS has the values, as
JSON: `{"module": {"NAME": value}}`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

Constants = Mapping[str, float]


class SettingLoader(Loader):
    """Loads a module, then sets its constants."""

    def __init__(self, loader: Loader, constants: Constants) -> None:
        self._loader = loader
        self._constants = constants

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        for name, value in self._constants.items():
            assert hasattr(module, name), f"{module.__name__} has no {name}"
            setattr(module, name, value)


class SettingFinder(MetaPathFinder):
    """Finds the modules whose constants are set."""

    def __init__(self, constants: Mapping[str, Constants]) -> None:
        self._constants = constants

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._constants:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = SettingLoader(spec.loader, self._constants[fullname])
        return spec


sys.meta_path.insert(0, SettingFinder(json.loads(os.environ["TEST_CONSTANTS"])))
