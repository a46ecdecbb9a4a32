"""Reads the Dockerfile, and takes its steps without Docker: each stage in a virtual environment in place of its image.

This doesn't show that the base images exist, nor what their layers hold in addition to Python.

Rules: only the instructions that our Dockerfile uses. A path of the image stands for one in the stage's folder; what one
stage mounts from another is that one's.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import venv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
WHEELS = ROOT / ".cache" / "wheels"
RUN_SECONDS = 2400  # with the compiler, on a busy machine


@dataclass(frozen=True, slots=True)
class Instruction:
    """One, with its flags: `RUN`, `{"mount": "type=bind,from=build,…"}`, `pip install …`."""

    word: str
    flags: dict[str, str]
    value: str


def instructions(text: str) -> Iterator[Instruction]:
    """All of a Dockerfile, in order; lines that go on are joined, comments left out."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in lines.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        word, value = line.strip().split(None, 1)
        flags: dict[str, str] = {}
        while found := re.match(r"--([a-z-]+)=(\S+)\s+", value):
            flags[found[1]] = found[2]
            value = value[found.end() :]
        yield Instruction(word.upper(), flags, value)


@dataclass
class Stage:
    """What a stage came to.

    Attributes:
        folder: stands for the image's root.
        env: as ENV says.
        user: as USER says.
        command: ENTRYPOINT and CMD.
        health: the HEALTHCHECK's command.
    """

    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    user: str = ""
    entrypoint: list[str] = field(default_factory=list)
    cmd: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    _workdir: str = "/"

    @property
    def command(self) -> list[str]:
        return self.entrypoint + self.cmd

    @property
    def programs(self) -> Path:
        """Where the image's python is, and what pip installs."""
        return self.folder / "venv" / "bin"

    def path(self, inside: str) -> Path:
        """Where a path of the image is."""
        return self.folder / os.path.normpath(os.path.join(self._workdir, inside)).lstrip("/")  # noqa: PTH118

    def take(self, step: Instruction, others: dict[str, Stage]) -> None:
        """Do what an instruction says, or note it. Fails for one that isn't known here."""
        match step.word:
            case "WORKDIR":
                self._workdir = step.value
                self.path(".").mkdir(parents=True)
            case "COPY":
                self._copy(*step.value.split())
            case "RUN":
                self._run(step, others)
            case "ENV":
                self.env |= dict(pair.split("=", 1) for pair in shlex.split(step.value))
            case "USER":
                self.user = step.value
            case "HEALTHCHECK":
                self.health = json.loads(step.value.removeprefix("CMD "))
            case "ENTRYPOINT":
                self.entrypoint = json.loads(step.value)
            case "CMD":
                self.cmd = json.loads(step.value)
            case "EXPOSE":
                pass
            case _:
                raise AssertionError(f"{step.word} isn't known here")

    def _copy(self, *names: str) -> None:
        *sources, target = names
        if target.endswith("/"):
            self.path(target).mkdir(parents=True, exist_ok=True)
        for source in map(ROOT.joinpath, sources):
            if source.is_dir():
                shutil.copytree(source, self.path(target), ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, self.path(target))

    def _run(self, step: Instruction, others: dict[str, Stage]) -> None:
        """The command, each path of the image in it replaced by the one that stands for it."""
        places = {"/wheels": self.path("/wheels")}
        if mount := step.flags.get("mount"):
            options = dict(pair.split("=", 1) for pair in mount.split(","))
            places[options["target"]] = others[options["from"]].path(options["source"])
        command = step.value
        for inside, outside in places.items():
            command = re.sub(rf"(?<![\w/]){re.escape(inside)}\b", str(outside), command)
        fetched = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(WHEELS)} if WHEELS.exists() else {}
        done = subprocess.run(
            ["/bin/sh", "-ec", command],
            cwd=self.path("."),
            env={**self.environment(), **fetched},
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
        )
        assert done.returncode == 0, f"{step.value}\n{done.stdout}\n{done.stderr}"

    def environment(self) -> dict[str, str]:
        """What a process of this stage sees: nothing of ours but the PATH."""
        path = f"{self.programs}:{os.environ['PATH']}"
        return {"PATH": path, "HOME": "/nonexistent", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **self.env}


def build(folder: Path) -> Stage:
    """Take all steps of the Dockerfile, and return its last stage."""
    stages: dict[str, Stage] = {}
    stage = None
    for step in instructions((ROOT / "Dockerfile").read_text()):
        if step.word == "ARG":
            if (
                stage is not None and os.environ.get("CI") == "true"
            ):  # else the core isn't compiled, which takes a minute
                stage.take(Instruction("ENV", {}, step.value), stages)
            continue
        if step.word == "FROM":
            name = step.value.partition(" AS ")[2] or "last"
            stage = stages[name] = Stage(folder / name)
            venv.create(stage.folder / "venv", with_pip=True)
            continue
        assert stage is not None
        stage.take(step, stages)
    assert stage is not None
    return stage
