"""Fixtures of the real launches."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ranks import ranks_of


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., str]:
    """Writes a small spec that takes little time; keyword arguments are its fields, as YAML text."""

    def write(**fields: str) -> str:
        values = {
            "backend": "mpi",
            "op": "all_reduce",
            "sizes": "[8, 64KiB]",
            "stop": "{max_time: 0.2s, max_samples: 50}",
            "warmup": "{max_time: 0.1s}",
            **fields,
        }
        path = tmp_path / "spec.yaml"
        path.write_text("".join(f"{key}: {value}\n" for key, value in values.items()))
        return str(path)

    return write


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """A run folder that is not there yet; no rank that writes to it outlives the test."""
    folder = tmp_path / "run"
    yield folder
    for pid in ranks_of(folder).values():
        os.kill(pid, signal.SIGKILL)
