"""What every process sets up at its start."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.broker_process import BrokerProcess


def test_soft_descriptor_limit_is_raised() -> None:
    with BrokerProcess() as broker:
        limits = Path(f"/proc/{broker.pid}/limits").read_text()
        soft, hard = re.search(r"Max open files\s+(\d+)\s+(\d+)", limits).groups()  # type: ignore[union-attr]
        assert soft == hard
