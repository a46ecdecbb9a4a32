"""What `deploy/hatch_build.py` builds: which modules are compiled, none or all that pyproject.toml names; and the page's charts."""

from __future__ import annotations

import base64
import hashlib
import importlib
import importlib.util
import io
import json
import os
import pkgutil
import tarfile
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import broker

ROOT = Path(__file__).parent.parent
HOOK = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
    "hooks"
]["custom"]


def matching(patterns: list[str]) -> set[Path]:
    found = {pattern: set(ROOT.glob(pattern)) for pattern in patterns}
    assert all(found.values()), found
    return {path.relative_to(ROOT) for paths in found.values() for path in paths}


@pytest.mark.parametrize("path", sorted(matching(HOOK["modules"]) - matching(HOOK["not-modules"])), ids=str)
def test_a_module_is_compiled_on_the_compiled_build(path: Path) -> None:
    module = importlib.import_module(".".join(path.with_suffix("").parts))
    assert module.__file__
    is_compiled = not module.__file__.endswith(".py")
    assert is_compiled == (os.environ.get("TESTED_BUILD") == "compiled")


def test_no_interpreted_class_derives_from_a_compiled_one() -> None:
    """mypyc forbids it: an instance can't be made."""
    compiled = {
        ".".join(path.with_suffix("").parts)
        for path in matching(HOOK["modules"]) - matching(HOOK["not-modules"])
    }
    names = {module.name for module in pkgutil.walk_packages(broker.__path__, "broker.")}
    interpreted = [name for name in sorted(names - compiled) if not name.endswith("__main__")]
    assert interpreted
    for name in interpreted:
        module = importlib.import_module(name)
        for found in vars(module).values():
            if isinstance(found, type) and found.__module__ == name:
                assert not compiled & {base.__module__ for base in found.__mro__}, found


# The library that draws the page's charts


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "deploy" / "hatch_build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path, hook: ModuleType) -> Path:
    """A checkout without uPlot."""
    (tmp_path / hook.UPLOT_FOLDER).parent.mkdir(parents=True)
    return tmp_path


def tarball_in(folder: Path, hook: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tarball as the registry has it, with the digest that the hook expects, and BROKER_UPLOT names its folder."""
    path = folder / hook.UPLOT_FILE
    with tarfile.open(path, "w:gz") as tarball:
        for member in hook.UPLOT_MEMBERS:
            info = tarfile.TarInfo(member)
            info.size = len(member)
            tarball.addfile(info, io.BytesIO(member.encode()))
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    monkeypatch.setattr(hook, "UPLOT_SHA512", digest)
    monkeypatch.setenv(hook.UPLOT_PLACE, str(folder))


def test_the_pinned_charts_library_is_that_of_the_tests(hook: ModuleType) -> None:
    lock = json.loads((ROOT / "tests" / "live" / "package-lock.json").read_text())
    package = lock["packages"]["node_modules/uplot"]
    assert f"uplot-{package['version']}.tgz" == hook.UPLOT_FILE
    assert package["integrity"] == f"sha512-{hook.UPLOT_SHA512}"


def test_the_charts_library_is_taken_from_a_folder_and_kept(
    checkout: Path, tmp_path: Path, hook: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    tarball_in(tmp_path, hook, monkeypatch)
    hook.put_uplot(checkout)
    made = checkout / hook.UPLOT_FOLDER
    assert (made / "uPlot.js").read_bytes() == b"package/dist/uPlot.iife.min.js" + hook.AS_MODULE
    assert (made / "LICENSE").read_text() == "package/LICENSE"
    (tmp_path / hook.UPLOT_FILE).unlink()
    hook.put_uplot(checkout)  # it is there, so nothing is fetched


def test_another_file_than_the_pinned_one_stops_the_build(
    checkout: Path, tmp_path: Path, hook: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    tarball_in(tmp_path, hook, monkeypatch)
    with (tmp_path / hook.UPLOT_FILE).open("ab") as tarball:
        tarball.write(b"x")
    with pytest.raises(SystemExit, match="not the file that this build expects"):
        hook.put_uplot(checkout)
    assert not (checkout / hook.UPLOT_FOLDER).exists()


def test_a_build_that_cannot_get_the_charts_library_says_what_to_do(
    checkout: Path, tmp_path: Path, hook: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(hook.UPLOT_PLACE, str(tmp_path))
    with pytest.raises(SystemExit, match="to none for a page without charts"):
        hook.put_uplot(checkout)
    monkeypatch.setenv(hook.UPLOT_PLACE, "none")
    hook.put_uplot(checkout)
    assert not (checkout / hook.UPLOT_FOLDER).exists()
