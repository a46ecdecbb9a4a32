"""The broker without what it records, to which the broker is compared, and how both are compared."""

from __future__ import annotations

import importlib.util
import os
import socket
import threading
import urllib.request
from pathlib import Path

import pytest

from tests.bench.observing import VARIANTS, arguments, pair
from tests.bench.pairs import LOADS, ratio, read_created, read_until
from tests.bench.peers.servers import Broker, Peer, running
from tests.bench.unobserved import RECORDING, copy, unobserved

BY_NAME = {one.name: one for one in VARIANTS}


@pytest.mark.parametrize("module", RECORDING)
def test_all_that_records_is_found(module: str) -> None:
    found = importlib.util.find_spec(module)
    assert found is not None
    assert found.origin is not None
    source = Path(found.origin).with_suffix("").with_suffix(".py").read_text(encoding="utf-8")
    compile(unobserved(module, source), found.origin, "exec")
    with pytest.raises(LookupError):
        unobserved(module, source.replace(next(iter(RECORDING[module])), ""))


@pytest.mark.uncompiled
@pytest.mark.parametrize(("variant", "count"), [(Broker(), 1), (BY_NAME["metrics and logs off"], 0)])
def test_only_the_metrics_are_missing(variant: Peer, count: int, tmp_path: Path) -> None:
    (cpu, *_) = sorted(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    try:
        with running(variant, cpu, cpu, tmp_path) as server:
            url = server.publish_url.format(n=0)
            with urllib.request.urlopen(urllib.request.Request(url, b"one", method="POST")) as answer:
                assert answer.status == 201
            base = url.partition("/topics/")[0]
            with urllib.request.urlopen(f"{base}/topics/bench.0/events") as answer:
                assert b"one" in answer.read()
            with urllib.request.urlopen(f"{base}/metrics") as answer:
                assert f"\nbroker_published_events_total {count}.0\n".encode() in answer.read()
    finally:
        os.sched_setaffinity(0, before)


def test_the_copy_lacks_what_records(tmp_path: Path) -> None:
    copy(tmp_path / "copy")
    for module in RECORDING:
        path = f"{module.replace('.', '/')}.py"
        assert (tmp_path / "copy" / path).read_text(encoding="utf-8") == unobserved(
            module, Path(path).read_text(encoding="utf-8")
        )
    assert (tmp_path / "copy/broker/cli/__init__.py").exists()
    assert (tmp_path / "copy/pyproject.toml").exists()


@pytest.mark.slow
@pytest.mark.uncompiled
@pytest.mark.parametrize("load", LOADS)
def test_the_dearer_broker_is_found(load: str) -> None:
    """The access log costs more than a POST itself; whatever else the CPU does, both brokers have it at the same time."""
    before = os.sched_getaffinity(0)
    cpus = sorted(before)
    options = arguments(["--rounds", "2", "--seconds", "0.1"])
    logging = BY_NAME["access log"]
    try:
        found = pair(logging, Broker(), load, (cpus[0], cpus[-1]), options)
    finally:
        os.sched_setaffinity(0, before)
    assert found.cpu_us > 0
    if load == "delivery":
        assert found.value < 1.5  # one line for 400 deliveries
    else:
        assert found.value < 1 / 1.05


def test_one_round_has_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["--rounds", "1"])
    assert "1: at least 2, so that the error is known" in capsys.readouterr().err
    assert str(ratio([(0.9, 10.0), (1.1, 12.0)])) == "1.000 ± 0.100"
    assert ratio([(0.9, 10.0), (1.1, 12.0)]).cpu_us == 11


@pytest.mark.parametrize("at", range(1, 40))
def test_events_are_counted_across_reads(at: int) -> None:
    data = b"id: 1\ndata: a\n\nid: 2\ndata: b\n\nid: 3\ndata: "
    near, far = socket.socketpair()
    with near, far:
        near.sendall(data[:at])
        sender = threading.Thread(target=near.sendall, args=(data[at:] + b"c",))
        sender.start()
        read_until(far, b"\ndata: ", 3)
        sender.join()
        near.close()
        with pytest.raises(ConnectionError):
            read_until(far, b"\ndata: ", 1)


def test_an_answer_is_read_whole_or_refused() -> None:
    near, far = socket.socketpair()
    with near, far:
        near.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\n")
        sender = threading.Thread(target=near.sendall, args=(b"done",))
        sender.start()
        read_created(far)
        sender.join()
        near.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
        with pytest.raises(ConnectionError, match="503 Busy"):
            read_created(far)
