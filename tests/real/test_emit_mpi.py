"""Emitted files in the hands of the real libraries.

Which algorithm ran is read from the bits of the result: each adds floats in an order of its own. Inside the measured
sizes the bits must be those of the algorithm forced by a variable, outside them those of the default.
"""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import msgspec
import pytest
from ranks import MPIRUN

from commbench import emit
from commbench.emit import mpich
from commbench.errors import MissingLibrary
from commbench.records.recommendation import Recommendation, Rule

SIZES = (4096, 131072, 2097152)
INSIDE = (65536, 1048576)
EVERY = tuple(2**k for k in range(10, 18))  # as many as a collective has algorithms
ROOT = Path(__file__).resolve().parents[2]
# The python of an environment with the wheels mpich and mpi4py; Open MPI's needs one of its own.
MPICH = Path(os.environ.get("COMMBENCH_MPICH_PYTHON", ROOT / ".venv-mpich/bin/python")).parents[1]
JOB = """
import hashlib, sys
import numpy as np
from mpi4py import MPI
comm = MPI.COMM_WORLD
def told(name, nbytes, data):
    if comm.rank == 0:
        print(name, nbytes, hashlib.sha256(data.tobytes()).hexdigest(), flush=True)
everyone = [np.random.default_rng(rank) for rank in range(comm.size)]
for nbytes in map(int, sys.argv[1:]):
    gifts = [some.standard_normal(nbytes // 4).astype(np.float32) for some in everyone]
    give, take = gifts[comm.rank], np.zeros(nbytes // 4, np.float32)
    comm.Allreduce(give, take)
    assert np.allclose(take, sum(gifts), atol=1e-4)
    told("all_reduce", nbytes, take)
    part = np.zeros(nbytes // 4 // comm.size, np.float32)
    comm.Reduce_scatter_block(give, part)
    assert np.allclose(part, np.split(sum(gifts), comm.size)[comm.rank], atol=1e-4)
    told("reduce_scatter", nbytes, part)
    comm.Allgather(give[: part.size], take)
    assert (take == np.concatenate([gift[: part.size] for gift in gifts])).all()
"""
Bits = dict[tuple[str, int], str]


def recommend(*settings: tuple[str, tuple[tuple[str, str], ...]]) -> Recommendation:
    numbers = {"baseline_us": 2.0, "time_us": 1.0, "gain_low": 0.4, "gain": 0.5, "gain_high": 0.6}
    low, high = INSIDE
    rules = [Rule(op=op, ranks=4, min_bytes=low, max_bytes=high, settings=some, **numbers) for op, some in settings]
    return Recommendation(
        created="2026-11-23T00:00:00+00:00",
        expires="2027-11-23T00:00:00+00:00",
        machine={"hosts": "1", "ranks": "4"},
        versions={},
        data_sha256="0" * 64,
        rules=tuple(rules),
    )


def bits(command: tuple[str, ...], variables: tuple[tuple[str, str], ...], sizes: tuple[int, ...] = SIZES) -> Bits:
    """What 4 ranks found: (op, bytes) -> digest of rank 0's result. Fails where the job does."""
    arguments = [*command, "-c", JOB, *map(str, sizes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **dict(variables)}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    words = [line.split() for line in done.stdout.splitlines()]
    return {(op, int(nbytes)): digest for op, nbytes, digest in words}


def exports(folder: Path, recommendation: Recommendation, library: Path | None = None) -> tuple[tuple[str, str], ...]:
    """The variables of the emitted env file, after its files were written."""
    for name, content in emit.emit(recommendation, "env", emit.Place(folder, "env.sh", library)).items():
        (folder / name).write_text(content)
    asked = ["bash", "-c", '. "$1"; env -0', "bash", str(folder / "env.sh")]
    out = subprocess.run(asked, env={}, capture_output=True, check=True, timeout=10).stdout.decode()
    pairs = [entry.partition("=")[::2] for entry in out.split("\0") if entry]
    return tuple((name, value) for name, value in pairs if name.startswith(("OMPI_", "MPIR_")))


def compare(op: str, default: Bits, forced: Bits, applied: Bits) -> None:
    low, high = INSIDE
    inside = [size for size in SIZES if low <= size <= high]
    assert any(default[op, size] != forced[op, size] for size in inside), "this algorithm cannot be told by its bits"
    for size in SIZES:
        assert applied[op, size] == (forced if size in inside else default)[op, size], (op, size)
    assert any(default[op, size] != applied[op, size] for size in inside)


class TestOpenMPI:
    @staticmethod
    @cache
    def run(variables: tuple[tuple[str, str], ...] = ()) -> Bits:
        always = (("OMPI_MCA_mpi_yield_when_idle", "1"), ("OMPI_ALLOW_RUN_AS_ROOT", "1"))
        root = ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        mpirun = (MPIRUN[0], "--oversubscribe", "--bind-to", "none", "-n", "4", sys.executable)
        return bits(mpirun, (*always, root, *variables))

    @pytest.fixture(autouse=True)
    def _here(self) -> None:
        pytest.importorskip("mpi4py")
        try:
            told = subprocess.run(
                [MPIRUN[0], "--version"], capture_output=True, text=True, timeout=20, check=False
            ).stdout
        except FileNotFoundError:
            pytest.skip("no mpirun here")
        if "Open MPI" not in told:
            pytest.skip("mpirun is not Open MPI's")

    def test_the_rules_file_changes_the_algorithm_inside_and_only_there(self, tmp_path: Path) -> None:
        names = {"all_reduce": "allreduce", "reduce_scatter": "reduce_scatter_block"}
        rules = [(op, ((f"coll_tuned_{name}_algorithm", "1"),)) for op, name in names.items()]
        variables = tuple((f"OMPI_MCA_{name}", value) for _, some in rules for name, value in some)
        default = self.run()
        forced = self.run((("OMPI_MCA_coll_tuned_use_dynamic_rules", "1"), *variables))
        applied = self.run(exports(tmp_path, recommend(*rules)))
        for op in names:
            compare(op, default, forced, applied)

    def test_a_rule_for_other_ranks_changes_nothing(self, tmp_path: Path) -> None:
        one = recommend(("all_reduce", (("coll_tuned_allreduce_algorithm", "1"),)))
        rules = tuple(msgspec.structs.replace(rule, ranks=ranks) for rule in one.rules for ranks in (3, 5))
        assert self.run(exports(tmp_path, msgspec.structs.replace(one, rules=rules))) == self.run()


class TestMPICH:
    @staticmethod
    @cache
    def run(variables: tuple[tuple[str, str], ...] = (), sizes: tuple[int, ...] = SIZES) -> Bits:
        mpiexec = (str(MPICH / "bin/mpiexec"), "-n", "4", str(MPICH / "bin/python"))
        return bits(mpiexec, (("PYTHONPATH", ""), *variables), sizes)

    @pytest.fixture
    def library(self) -> Path:
        found = sorted((MPICH / "lib").glob("libmpi.so.12*"))
        if not found:
            pytest.skip(
                "no MPICH: set COMMBENCH_MPICH_PYTHON to the python of an environment with the wheels mpich and mpi4py"
            )
        try:
            mpich.builtin(found[0])
        except MissingLibrary as error:
            pytest.skip(str(error))
        return found[0]

    def test_the_tree_is_accepted_and_changes_the_algorithm_inside_only(self, library: Path, tmp_path: Path) -> None:
        reduce, scatter = "MPIR_CVAR_ALLREDUCE_", "MPIR_CVAR_REDUCE_SCATTER_BLOCK_"
        rules = (
            ("all_reduce", ((f"{reduce}INTRA_ALGORITHM", "ring"),)),
            ("reduce_scatter", ((f"{scatter}INTRA_ALGORITHM", "pairwise"),)),
        )
        own = (("MPIR_CVAR_DEVICE_COLLECTIVES", "percoll"), (f"{reduce}DEVICE_COLLECTIVE", "0"))
        own = (*own, (f"{scatter}DEVICE_COLLECTIVE", "0"))
        default = self.run(own)
        forced = self.run((*own, *rules[0][1], *rules[1][1]))
        applied = self.run(exports(tmp_path, recommend(*rules), library))
        for op, _ in rules:
            compare(op, default, forced, applied)

    def test_every_algorithm_that_can_be_written_is_accepted(self, library: Path, tmp_path: Path) -> None:
        """Each at a size of its own. The job checks its results; an unknown word in the file would abort it."""
        data, rules = library.read_bytes(), []
        for op in ("all_reduce", "all_gather", "reduce_scatter"):
            one = mpich.COLLECTIVES[op]
            words = {name: f"\0algorithm=MPIR_{one.name.capitalize()}_intra_{name}\0" for name in one.guards}
            known = [name for name, word in words.items() if word.encode() in data]
            assert len(known) > 2
            for nbytes, name in zip(EVERY, known, strict=False):
                (rule,) = recommend((op, ((f"MPIR_CVAR_{one.name.upper()}_INTRA_ALGORITHM", name),))).rules
                rules.append(msgspec.structs.replace(rule, min_bytes=nbytes, max_bytes=nbytes))
        made = msgspec.structs.replace(recommend(), rules=tuple(rules))
        assert len(self.run(exports(tmp_path, made, library), EVERY)) == 2 * len(EVERY)

    def test_a_damaged_file_aborts(self, library: Path, tmp_path: Path) -> None:
        """So an accepted file has been read."""
        variables = exports(
            tmp_path, recommend(("all_reduce", (("MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM", "ring"),))), library
        )
        path = Path(dict(variables)["MPIR_CVAR_COLL_SELECTION_TUNING_JSON_FILE"])
        path.write_text(path.read_text()[:-100])
        with pytest.raises(AssertionError):
            self.run(variables)
