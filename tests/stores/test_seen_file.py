"""The ids that processes have seen, in files that outlive them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from broker.stores.redis.seen_file import SUFFIX, SeenFile

OTHER_PROCESS = """
import sys, time
from pathlib import Path
from broker.stores.redis.seen_file import SeenFile
SeenFile(Path(sys.argv[1])).raise_to(int(sys.argv[2]))
print(flush=True)
time.sleep(600)
"""


def other_process(directory: Path, seen: int) -> subprocess.Popen[bytes]:
    """A process that has seen an id, and lives on."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, str(directory), str(seen)], stdout=subprocess.PIPE
    )
    assert process.stdout
    assert process.stdout.readline()
    return process


def test_what_a_killed_process_has_seen_is_kept(tmp_path: Path) -> None:
    with other_process(tmp_path, 7 << 64 | 3) as killed, other_process(tmp_path, 5) as other:
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        seen = SeenFile(tmp_path)
        assert seen.value == 7 << 64 | 3
        assert len(list(tmp_path.iterdir())) == 2, "its file is gone, that of the other process is not"
        other.kill()
    seen.raise_to(9)
    assert SeenFile(tmp_path).value == 7 << 64 | 3
    seen.raise_to(8 << 64)
    assert SeenFile(tmp_path).value == 8 << 64


def test_a_file_without_its_content_counts_as_none(tmp_path: Path) -> None:
    """As after a power cut."""
    (tmp_path / f"a{SUFFIX}").touch()
    assert SeenFile(tmp_path).value == 0
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [16]
