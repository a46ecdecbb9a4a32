"""Puts uPlot, which draws the page's charts, into the package; and compiles the broker's core, if BROKER_COMPILED=1 is set.

uPlot comes from the npm registry, once: it stays in the checkout, where git ignores it. BROKER_UPLOT names another place, a
folder that has the registry's tarball, or is `none`: the page then shows its figures without charts. For an environment
without a build, `python deploy/hatch_build.py` puts it into the checkout.

Without BROKER_COMPILED=1 the wheel is pure Python, and needs neither a compiler nor this file's dependencies. Compiled modules
lie in the wheel next to their sources, and Python prefers them. They are built in a temporary directory: hatch-mypyc would
leave them in the checkout, where every later run would import them unseen.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SWITCH = "BROKER_COMPILED"

UPLOT_PLACE = "BROKER_UPLOT"
UPLOT_FILE = "uplot-1.6.32.tgz"
UPLOT_URL = f"https://registry.npmjs.org/uplot/-/{UPLOT_FILE}"
UPLOT_SHA512 = "KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw=="
UPLOT_FOLDER = "broker/web/page/uplot"
UPLOT_MEMBERS = {
    "package/dist/uPlot.iife.min.js": "uPlot.js",
    "package/dist/uPlot.min.css": "uPlot.css",
    "package/LICENSE": "LICENSE",
}
AS_MODULE = b"\nexport default uPlot;\n"
"""The package has its minified form only as a script; with this line it is a module."""
FETCH_SECONDS = 60


class Hook(BuildHookInterface[BuilderConfig]):
    """The hook; its options `modules` and `not-modules` in pyproject.toml, globs, name the modules to compile."""

    def dependencies(self) -> list[str]:
        return list(self.config["requires"]) if self._is_on else []

    @property
    def _is_on(self) -> bool:
        return self.target_name == "wheel" and os.environ.get(SWITCH) == "1"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name == "wheel":
            put_uplot(Path(self.root))
            build_data["artifacts"].append(f"/{UPLOT_FOLDER}/")
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


def put_uplot(root: Path) -> None:
    """Put uPlot into the checkout at `root`, unless it is there. Stops the build if it can't be had."""
    folder, place = root / UPLOT_FOLDER, os.environ.get(UPLOT_PLACE, "")
    made_from = folder / "made-from"
    if place == "none":
        shutil.rmtree(folder, ignore_errors=True)
        return
    if made_from.exists() and made_from.read_text() == UPLOT_SHA512:
        return
    try:
        tarball = (Path(place) / UPLOT_FILE).read_bytes() if place else fetched(UPLOT_URL)
    except OSError as error:
        sys.exit(
            f"can't get uPlot, which draws the page's charts: {error}. Set {UPLOT_PLACE} to a folder that has {UPLOT_FILE}, "
            f"or to none for a page without charts."
        )
    if base64.b64encode(hashlib.sha512(tarball).digest()).decode() != UPLOT_SHA512:
        sys.exit(f"{UPLOT_FILE} from {place or UPLOT_URL} is not the file that this build expects")
    folder.mkdir(exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(tarball)) as members:
        for member, name in UPLOT_MEMBERS.items():
            found = members.extractfile(member)
            assert found is not None, member
            (folder / name).write_bytes(found.read() + (AS_MODULE if name.endswith(".js") else b""))
    made_from.write_text(UPLOT_SHA512)


def fetched(url: str) -> bytes:
    """What `url` has. Raises `OSError`."""
    with urllib.request.urlopen(url, timeout=FETCH_SECONDS) as answer:  # noqa: S310 - our own https URL
        return bytes(answer.read())


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


if __name__ == "__main__":
    put_uplot(Path(__file__).parents[1])
