"""Ranks of a stranger's job, seen from outside: what they were given, and when nothing is told."""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator

import pytest

from commbench.measure.witness import Witness

LAUNCHED = ("OMPI_", "PMI", "SLURM_", "TORCHELASTIC_", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_")
Start = Callable[..., None]


@pytest.fixture
def mark() -> str:
    return f"COMMBENCH_TEST={uuid.uuid4().hex}"


@pytest.fixture
def start(mark: str) -> Iterator[Start]:
    """Processes with the mark and these variables, which wait."""
    running: list[subprocess.Popen[str]] = []

    def make(**env: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHED)}
        name, _, word = mark.partition("=")
        program = [sys.executable, "-I", "-S", "-c", "print(flush=True); input()"]
        process = subprocess.Popen(
            program, env={**clean, name: word, **env}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        assert process.stdout is not None
        process.stdout.readline()

    yield make
    for process in running:
        process.communicate("\n", timeout=20)


def mpi(rank: int, size: int = 2, **env: str) -> dict[str, str]:
    return {"OMPI_COMM_WORLD_RANK": str(rank), "OMPI_COMM_WORLD_SIZE": str(size), **env}


def look(mark: str) -> dict[str, object]:
    witness = Witness(mark, ["NCCL_PROTO", "NCCL_ALGO"])
    assert witness.look() == bool(witness.told)
    return witness.told


def test_nothing_is_told_until_every_rank_was_seen(start: Start, mark: str) -> None:
    witness = Witness(mark, ["NCCL_PROTO", "NCCL_ALGO"])
    start(NCCL_PROTO="LL")  # mpirun itself
    start(**mpi(0, NCCL_PROTO="LL"))
    assert not witness.look()
    assert witness.told == {}
    start(**mpi(1))
    assert witness.look()
    assert witness.told == {"world": 2, "seen": {"NCCL_PROTO": ("", "LL"), "NCCL_ALGO": ("",)}}


def test_of_one_rank_with_two_environments_nothing_is_told(start: Start, mark: str) -> None:
    start(**mpi(0, 1, NCCL_PROTO="LL"))
    start(**mpi(0, 1, NCCL_PROTO="Simple"))  # a script of the rank has changed it
    assert look(mark) == {}


def test_the_inner_launcher_has_the_ranks(start: Start, mark: str) -> None:
    start(**mpi(0, 1))
    start(**mpi(0, 1, NCCL_PROTO="LL", RANK="0", WORLD_SIZE="1", MASTER_ADDR="x", TORCHELASTIC_RUN_ID="1"))
    assert look(mark) == {"world": 1, "seen": {"NCCL_PROTO": ("LL",), "NCCL_ALGO": ("",)}}


def test_a_place_that_was_inherited_is_no_rank(start: Start, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in mpi(0, 1).items():
        monkeypatch.setenv(name, value)
    start(**mpi(0, 1))
    assert look(mark) == {}


def test_other_jobs_are_not_looked_at(start: Start, mark: str) -> None:
    start(**mpi(0, 1))
    assert look("COMMBENCH_TEST=another") == {}
