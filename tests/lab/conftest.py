"""The fixture of all tests is the lab itself."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import inhabitants

from commbench.errors import CommbenchError
from commbench.lab.client import Lab, lab


def _room() -> Path:
    """A short path: sockets in it have names of at most 107 bytes."""
    return Path(tempfile.mkdtemp(prefix="lab-", dir="/tmp"))


@pytest.fixture(scope="session", autouse=True)
def _own_room() -> Iterator[None]:
    """The labs of the tests have a place of their own; where no lab can be built, all tests are skipped."""
    base = _room()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(base))
        try:
            lab("star4").down()
        except CommbenchError as error:
            pytest.skip(str(error))
        yield
    left = inhabitants(base)
    shutil.rmtree(base)
    assert not left


@pytest.fixture(scope="module")
def net() -> Iterator[Lab]:
    """A star of four hosts, shared by the tests of a file: each leaves it as it was."""
    with lab("star4") as found:
        yield found


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of all labs of one test alone; it is not there yet."""
    base = _room()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
    yield base / "commbench-lab"
    left = inhabitants(base)
    shutil.rmtree(base)
    assert not left
