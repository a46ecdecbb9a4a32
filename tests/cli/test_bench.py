"""`broker bench` as a shell runs it."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest

from broker import cli
from tests.cli.commands import run, without
from tests.support.local_broker import Serve, Server
from tests.support.tokens import HMAC

SMALL_LOAD = ("bench", "--subscribers=2", "--rate=50", "--duration=0.3", "--processes=2", "--json")


async def bench(*words: str) -> int:
    return await asyncio.to_thread(cli.main, [*SMALL_LOAD, *words])


async def test_the_result_is_json_and_the_progress_is_on_standard_error(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await bench("--url", f"{server.url}/topics/bench.{{n}}") == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert {"load", "connects", "publishing", "delivering", "cost", "load_cpus"} == result.keys()
    assert result["load"]["subscribers"] == result["connects"]["connected"] == 2
    assert result["delivering"]["latency"]["count"] > 0
    assert result["cost"] is None
    assert "publishing" in err


async def test_the_token_goes_with_every_request_and_not_into_the_report(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = await serve(jwt_secrets=json.dumps([HMAC.material]))
    target = f"{server.url}/topics/bench"
    token = HMAC.token(["bench"], ["bench"])
    monkeypatch.delenv("BROKER_TOKEN", raising=False)
    assert await bench("--url", target) == 1
    assert "401" in capsys.readouterr().err
    assert await bench("--url", target, "--token", token) == 0
    monkeypatch.setenv("BROKER_TOKEN", token)
    assert await bench("--url", target) == 0
    out, err = capsys.readouterr()
    assert out.count('"Authorization"') == 2
    assert token not in out + err


async def test_an_unreachable_server_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert await bench("--url", f"http://127.0.0.1:{unused.getsockname()[1]}/t") == 1
    error = capsys.readouterr().err
    assert "cannot connect: Connection refused" in error
    assert error.count("\n") == 1


def test_without_its_packages_it_says_how_to_install_them(tmp_path: Path) -> None:
    done = run("", "bench", variables=without(tmp_path, "hdrh"))
    assert (done.returncode, done.stdout) == (1, b"")
    (line,) = done.stderr.splitlines()
    assert line.startswith(b"broker bench: the package hdrh is missing")
    assert b"pip install '.[bench]'" in line
    assert run("", "bench", "--help", variables=without(tmp_path, "hdrh", "rich")).returncode == 0
