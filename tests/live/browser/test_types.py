"""The browser client's types: the sources agree with their JSDoc, the stored `.d.ts` come from them, and applications can use them.

The stored types are written anew by: python -m tests.live.browser.test_types
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import broker.web.browser_client
from tests.live.event_source import MODULES
from tests.support.waiting import WAIT_SECONDS

CLIENT = Path(broker.web.browser_client.__file__).parent
USAGE = Path(__file__).with_name("usage.ts")


@pytest.fixture
def tsc(node: str) -> list[str]:
    """The command of the TypeScript compiler."""
    return [node, str(MODULES / "typescript" / "bin" / "tsc")]


OPTIONS = {
    "strict": True,
    "target": "es2022",
    "module": "es2022",
    "moduleResolution": "bundler",
    "lib": ["es2023", "dom", "dom.iterable", "dom.asynciterable"],
    "types": [],
    "skipLibCheck": True,
}
PATHS = {"ai": [str(MODULES / "ai")], "react": [str(MODULES / "@types" / "react")]}


def compile_types(tsc: list[str], folder: Path, files: list[Path], options: dict[str, object]) -> None:
    """Run the compiler on `files`; it must find nothing. Its configuration is written into `folder`."""
    config = folder / "tsconfig.json"
    config.write_text(
        json.dumps({"compilerOptions": {**OPTIONS, **options}, "files": [str(file) for file in files]})
    )
    done = subprocess.run(
        [*tsc, "--project", str(config)], capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def declare(tsc: list[str], folder: Path) -> dict[str, str]:
    """The types of all modules, by path below the client's folder; made in `folder`.

    The compiler works on a copy, for it would take the stored types for those of the modules.
    """
    sources, made = folder / "sources", folder / "made"
    shutil.copytree(CLIENT, sources, ignore=shutil.ignore_patterns("*.d.ts", "*.py", "__pycache__"))
    shutil.copy(CLIENT / "client" / "types.d.ts", sources / "client")
    checking = {
        "allowJs": True,
        "checkJs": True,
        "noImplicitAny": False,
        "declaration": True,
        "emitDeclarationOnly": True,
    }
    options = {**checking, "paths": PATHS, "rootDir": str(sources), "outDir": str(made)}
    compile_types(tsc, folder, sorted(sources.rglob("*.js")), options)
    return {str(path.relative_to(made)): path.read_text() for path in sorted(made.rglob("*.d.ts"))}


def test_stored_types_come_from_the_sources(tsc: list[str], tmp_path: Path) -> None:
    made = declare(tsc, tmp_path)
    stored = {str(path.relative_to(CLIENT)): path.read_text() for path in CLIENT.rglob("*.d.ts")}
    del stored["client/types.d.ts"]  # the source of the others
    assert stored == made


def test_an_application_is_checked(tsc: list[str], tmp_path: Path) -> None:
    own = {"sse-broker": [str(CLIENT / "client.d.ts")], "sse-broker/*": [str(CLIENT / "client" / "*.d.ts")]}
    compile_types(tsc, tmp_path, [USAGE], {"noEmit": True, "paths": {**PATHS, **own}})


def test_the_package_names_files_that_exist() -> None:
    package = json.loads((CLIENT / "package.json").read_text())
    for entry in package["exports"].values():
        for name in entry.values():
            assert (CLIENT / name).is_file()


def test_the_package_has_what_it_needs_and_no_more(node: str) -> None:
    """As npm would publish it."""
    npm = shutil.which("npm")
    assert npm
    command = [npm, "pack", "--dry-run", "--json", "--offline"]
    done = subprocess.run(
        command, cwd=CLIENT, capture_output=True, text=True, timeout=WAIT_SECONDS, check=True
    )
    (package,) = json.loads(done.stdout)
    files = {file["path"] for file in package["files"]}
    modules = {str(path.relative_to(CLIENT)) for path in CLIENT.rglob("*.js")}
    types = {str(path.relative_to(CLIENT)) for path in CLIENT.rglob("*.d.ts")}
    assert files == {"package.json", "README.md"} | modules | types


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        compiler = [shutil.which("node") or sys.exit("node is missing"), str(MODULES / "typescript/bin/tsc")]
        for name, text in declare(compiler, Path(temporary)).items():
            (CLIENT / name).write_text(text)
