"""Progress on standard error."""

from __future__ import annotations

import sys

import pytest

from broker.cli.progress import Progress, ProgressLines, progress_bar
from tests.cli.commands import Command
from tests.support.broker_process import BrokerProcess


def test_a_line_for_each_phase(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLines() as progress:
        progress.begin("connecting", 1000)
        progress.update(500)
        progress.begin("publishing", None)
    assert capsys.readouterr().err == "connecting (1,000)\npublishing\n"


def test_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        progress.begin("connecting", 1000)
        progress.update(500, "half")
    assert capsys.readouterr() == ("", "")


def test_without_its_package_there_is_no_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert progress_bar("bench") is None
    assert capsys.readouterr().err.startswith("broker bench: no progress bar, because the package rich")


def test_a_terminal_shows_a_bar(broker: BrokerProcess) -> None:
    words = ("bench", "--subscribers=1", "--duration=0.1", f"--url={broker.url}/topics/t")
    with Command(broker.url, *words, terminal="stderr") as command:
        assert command.wait() == 0
        shown = b"".join(command.err)
        assert b"publishing" in shown
        assert b"100%" in shown
        assert any(line.startswith(b"subscribers") for line in command.out)
