"""The command `broker` without, or with an unknown, subcommand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from broker.cli import COMMANDS, INTERRUPTED
from tests.cli.commands import environment, run
from tests.support.waiting import WAIT_SECONDS


def test_the_version_is_printed() -> None:
    done = run("", "--version")
    assert (done.returncode, done.stdout.decode()) == (0, f"broker {version('sse-broker')}\n")


def test_a_checkout_that_is_not_installed_has_no_version() -> None:
    code = "import sys; sys.path.insert(0, '.'); from broker.cli import main; main(['--version'])"
    # -S: no installed package is found
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, check=True)
    assert done.stdout == b"broker: the version is unknown, because the package is not installed\n"


def test_without_a_command_the_help_is_printed_and_the_status_is_2() -> None:
    done = run("")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == run("", "--help").stdout
    for command in COMMANDS:
        assert command.encode() in done.stderr


@pytest.mark.parametrize("words", [["completion", "bash"], ["token", "--new-secret"]])
def test_output_into_a_program_that_exits(words: list[str]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as out:
        done = subprocess.run(
            [sys.executable, "-m", "broker", *words],
            stdout=out,
            stderr=subprocess.PIPE,
            timeout=WAIT_SECONDS,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, b"")


INTERRUPTED_IMPORT = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "broker.cli.subscribe":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
from broker.cli import main
sys.exit(main(["subscribe", "news"]))
"""


def test_an_interrupt_while_a_command_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT], capture_output=True, timeout=WAIT_SECONDS, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, b"", b"")


INTERRUPTING = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, *_):
        if name == "broker.cli":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
"""


def test_an_interrupt_before_any_command_is_known_prints_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTING, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "broker", "serve"],
        env={**environment(""), "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


@pytest.mark.parametrize("words", [["no-such-command"], ["--no-such-option"]])
def test_an_unknown_command_is_reported_in_one_line(words: list[str]) -> None:
    done = run("", *words)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"broker --help" in done.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["serve", "--prot", "1"],
            "broker serve: unrecognized arguments: --prot 1; did you mean --port? (see broker serve --help)",
        ),
        (
            ["publish", "a", "x", "--evnt=t"],
            "broker publish: unrecognized arguments: --evnt=t; did you mean --event? (see broker publish --help)",
        ),
        (["topics", "a"], "broker topics: unrecognized arguments: a (see broker topics --help)"),
        (["--zzz", "topics"], "broker topics: unrecognized arguments: --zzz (see broker topics --help)"),
    ],
)
def test_an_unknown_option_is_reported_by_its_command(words: list[str], line: str) -> None:
    done = run("", *words)
    assert (done.returncode, done.stderr.decode()) == (2, line + "\n")
