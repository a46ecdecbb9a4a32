"""Compiles the broker's core with mypyc while a wheel is built, if BROKER_COMPILED=1 is set.

Without it the wheel is pure Python, and needs neither a compiler nor this file's dependencies. Compiled modules lie in the
wheel next to their sources, and Python prefers them. Everything is built in a temporary directory: hatch-mypyc would leave
the compiled modules in the checkout, where every later run would import them unseen.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SWITCH = "BROKER_COMPILED"


class CompiledCore(BuildHookInterface[BuilderConfig]):
    """The hook; its options `modules` and `not-modules` in pyproject.toml, globs, name the modules to compile."""

    def dependencies(self) -> list[str]:
        return list(self.config["requires"]) if self._is_on else []

    @property
    def _is_on(self) -> bool:
        return self.target_name == "wheel" and os.environ.get(SWITCH) == "1"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not self._is_on or version == "editable":
            return
        self._built = Path(tempfile.mkdtemp(prefix="broker-compiled-"))
        os.chdir(self.root)  # names of modules come from relative paths
        sources = matching(self.config["modules"]) - matching(self.config["not-modules"])
        for file in compiled(sorted(sources), self._built):
            build_data["force_include"][str(file)] = str(file.relative_to(self._built / "lib"))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._is_on and version != "editable":
            shutil.rmtree(self._built)


def matching(patterns: list[str]) -> set[str]:
    """The files that the globs match; each must match one."""
    found = {pattern: {str(path) for path in Path().glob(pattern)} for pattern in patterns}
    for pattern, paths in found.items():
        if not paths:
            sys.exit(f"{SWITCH}: pyproject.toml names {pattern}, which matches no file")
    return set().union(*found.values())


def compiled(sources: list[str], directory: Path) -> list[Path]:
    """Compile `sources`, paths relative to the working directory; returns the files made, all below `directory/lib`."""
    from mypyc.build import mypycify
    from setuptools import Distribution

    extensions = mypycify(
        ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent", *sources],
        opt_level="2",
        multi_file=True,  # one C file for all would need more memory than a small machine has
        target_dir=str(directory / "c"),
    )
    distribution = Distribution({"name": "broker", "ext_modules": extensions})
    command = distribution.get_command_obj("build_ext")
    command.build_lib, command.build_temp = str(directory / "lib"), str(directory / "temp")
    command.ensure_finalized()
    command.run()
    return sorted(path for path in (directory / "lib").rglob("*") if path.is_file())
