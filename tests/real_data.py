"""Files that other tools made, read where they lie; they are not part of this repository."""

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("COMMBENCH_REAL_DATA", Path(__file__).resolve().parents[2] / "shared/data/real"))


def real(name: str) -> Path:
    """The file or folder of that name; the test is skipped where there is none."""
    if not (ROOT / name).exists():
        pytest.skip(f"no collected file {name}: set COMMBENCH_REAL_DATA to the folder that holds them")
    return ROOT / name
