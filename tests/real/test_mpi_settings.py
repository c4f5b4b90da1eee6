"""Settings of real MPI libraries in running processes: they turn, the data is right, afterwards all is as before."""

import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ranks import COMMBENCH, MPIRUN, ROOT, Ended, load, run

MPICH = Path(os.environ.get("COMMBENCH_MPICH_PYTHON", ROOT / ".venv-mpich/bin/python"))
FOUR = [MPIRUN[0], "-n", "4", "--oversubscribe", "--mca", "mpi_yield_when_idle", "1"]
AR, MPICH_AR = "coll_tuned_allreduce_algorithm", "MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM"
pytestmark = pytest.mark.real

# One line of JSON for each question (collective, bytes, settings): what the operation proved or why it was refused,
# the wrong elements on all ranks, the seconds of a call, how many control variables differ from the start, and
# whether the default all-reduce has the same partial reductions and is served by the same function as at first.
PROBE = """
import json, sys
import numpy as np
from commbench.backends.mpi import MPI, Mpi, MpiOp
from commbench.backends.mpi_tool import serving
from commbench.errors import Unsupported
from commbench.records import Case

world = MPI.COMM_WORLD
mpi = Mpi(world)
groups = (tuple(range(world.size)),)

def default():
    op = mpi.prepare(Case(op="all_reduce", backend="mpi", nbytes=65536), groups)
    pieces = []
    op._redop = spy = MPI.Op.Create(lambda a, b, kind: pieces.append(len(b) // 4), commute=True)
    op._python_call()()
    op._redop = MPI.SUM
    spy.Free()
    assert not any(check.wrong for check in op.check())
    fresh = world.Dup()
    served = serving(MPI._handleof(fresh), "allreduce")
    fresh.Free()
    op.close()
    return [pieces, served]

def values():
    tool = mpi._tool
    numbers = [n for n, v in tool.variables.items() if v.kind and n.startswith(("coll_", "MPIR_CVAR_"))] if tool else []
    return {n: tool.read(n) for n in numbers}

def ask(op, nbytes, settings):
    case = Case(op=op, backend="mpi", nbytes=nbytes, in_place=op == "broadcast", settings=tuple(settings.items()))
    try:
        made = mpi.prepare(case, groups)
    except Unsupported as reason:
        return {"refused": str(reason)}
    times = made.run(15, 1)
    wrong = np.array([sum(check.wrong for check in made.check())])
    world.Allreduce(MPI.IN_PLACE, wrong)
    proof = made.proof
    made.close()
    return {"proof": proof, "wrong": int(wrong[0]), "seconds": float(np.median(times))}

first, start = default(), None
for question in json.loads(sys.argv[1]):
    answer = ask(*question)
    now = values()
    start = now if start is None else start
    answer["changed"] = sum(now[n] != v for n, v in start.items())
    answer["default"] = default() == first
    if world.rank == 0:
        print("ANSWER " + json.dumps(answer), flush=True)
"""


def ask(launch: Sequence[str], questions: Sequence[tuple[str, int, dict[str, str]]]) -> list[dict[str, Any]]:
    ended: Ended = run([*launch, "-c", PROBE, json.dumps(questions)], 100, PYTHONPATH=str(ROOT))
    assert ended.code == 0, ended.err
    answers = [
        json.loads(line.removeprefix("ANSWER ")) for line in ended.out.splitlines() if line.startswith("ANSWER ")
    ]
    assert len(answers) == len(questions)
    for answer in answers:
        assert (answer["changed"], answer["default"]) == (0, True), answer  # as if nothing had been
        assert answer.get("wrong", 0) == 0
    return answers


SHOWN = ["ring", "recursive_doubling", "rabenseifner", "segmented_ring", "basic_linear"]
OTHERS = [
    ("all_gather", "coll_tuned_allgather_algorithm", "ring"),
    ("broadcast", "coll_tuned_bcast_algorithm", "pipeline"),
    ("reduce_scatter", "coll_tuned_reduce_scatter_block_algorithm", "butterfly"),
    ("all_to_all", "coll_tuned_alltoall_algorithm", "pairwise"),
]
OBEYED = [("all_reduce", 65536, {AR: name}) for name in SHOWN] + [(op, 65536, {name: v}) for op, name, v in OTHERS]
WITHOUT_EFFECT = [
    ("all_reduce", 8, {AR: "ring"}, "another algorithm ran"),
    ("all_reduce", 65536, {AR: "ring", "coll_tuned_use_dynamic_rules": "false"}, "its own rules"),
    ("all_reduce", 65536, {AR: "ring", "coll_tuned_priority": "0"}, "basic serves allreduce"),
    ("all_gather", 65536, {"coll_tuned_allgather_algorithm": "two_proc"}, "cannot serve"),
    ("all_reduce", 65536, {f"{AR}_count": "9"}, "does not let it be set"),
    ("all_reduce", 65536, {"btl_tcp_sndbuf": "1"}, "is read when the process starts"),
]
TINY, WHOLE = {AR: "segmented_ring", f"{AR}_segmentsize": "64"}, {AR: "segmented_ring"}


def obeyed(answers: Sequence[dict[str, Any]]) -> None:
    for name, answer in zip(SHOWN, answers, strict=False):
        assert f"{AR}={name} read back; served by ompi_coll_tuned_allreduce_intra_dec_dynamic" in answer["proof"]
        assert f"partial reductions, those of {name}" in answer["proof"]
    for (_, name, value), answer in zip(OTHERS, answers[len(SHOWN) :], strict=True):
        assert f"{name}={value} read back" in answer["proof"]
        assert answer["proof"].endswith("_dec_dynamic")


def test_openmpi_runs_the_algorithm_that_is_asked_for_and_then_the_default_again() -> None:
    """Two ranks; and a segment size is felt."""
    answers = ask(
        [*MPIRUN, "--mca", "mpi_yield_when_idle", "1", sys.executable],
        OBEYED + [("all_reduce", 2**18, s) for s in (TINY, WHOLE) * 3],
    )
    obeyed(answers[: len(OBEYED)])
    slow, fast = (statistics.median(a["seconds"] for a in answers[len(OBEYED) + k :: 2]) for k in (0, 1))
    assert slow > 2 * fast


def test_openmpi_settings_without_effect_are_refused_with_the_reason() -> None:
    """Four ranks, on which the others are obeyed."""
    answers = ask([*FOUR, sys.executable], OBEYED + [question[:3] for question in WITHOUT_EFFECT])
    obeyed(answers[: len(OBEYED)])
    for answer, (*_, sentence) in zip(answers[len(OBEYED) :], WITHOUT_EFFECT, strict=True):
        assert sentence in answer["refused"]


def test_openmpi_algorithms_that_do_not_suit_three_ranks_are_not_what_is_measured() -> None:
    three = [*(("3" if part == "4" else part) for part in FOUR), sys.executable]
    name = "coll_tuned_allgather_algorithm"
    answers = ask(three, [("all_gather", 65536, {name: v}) for v in ("neighbor", "3", "ring")])
    assert ["on 3 Open MPI takes another" in a.get("refused", "") for a in answers] == [True, True, False]


def test_mpich_runs_the_algorithm_that_is_asked_for_and_then_the_default_again() -> None:
    if not MPICH.exists():
        pytest.skip("no second environment with MPICH: `make test` makes .venv-mpich")
    answers = ask(
        [str(MPICH.with_name("mpiexec")), "-n", "2", str(MPICH)],
        [
            ("all_reduce", 65536, {MPICH_AR: "ring"}),
            ("all_reduce", 65536, {MPICH_AR: "recursive_doubling"}),
            ("all_reduce", 65536, {MPICH_AR: "smp"}),
            ("all_gather", 65536, {"MPIR_CVAR_ALLGATHER_INTRA_ALGORITHM": "ring"}),
            ("broadcast", 65536, {"MPIR_CVAR_BCAST_INTRA_ALGORITHM": "scatter_ring_allgather"}),
            ("reduce_scatter", 65536, {"MPIR_CVAR_REDUCE_SCATTER_BLOCK_INTRA_ALGORITHM": "noncommutative"}),
            ("all_reduce", 65536, {"MPIR_CVAR_ALLREDUCE_INTRA_ALGORITM": "ring"}),
            ("all_reduce", 65536, {MPICH_AR: "brucks"}),
            ("all_reduce", 65536, {AR: "ring"}),
        ],
    )
    for name, answer in zip(("ring", "recursive_doubling"), answers, strict=False):
        assert f"{MPICH_AR}={name} read back; MPICH does not fall back" in answer["proof"]
        assert f"partial reductions, those of {name}" in answer["proof"]
    assert all("read back" in answer["proof"] for answer in answers[:6])
    assert all("MPICH does not fall back" in answer["proof"] for answer in answers[3:6])
    assert f"did you mean {MPICH_AR}?" in answers[6]["refused"]
    assert "'brucks' is no value of it" in answers[7]["refused"]
    assert "no such variable" in answers[8]["refused"]


def test_a_sweep_over_settings(spec: Callable[..., str], out: Path) -> None:
    cases = f"[{{}}, {{settings: {{{AR}: [ring, rign, 3]}}}}, {{settings: {{coll_tuned_alreduce_algorithm: ring}}}}]"
    command = [*COMMBENCH, "sweep", spec(sizes="64KiB", cases=cases), "-n", "2", "--out", str(out), "--quiet"]
    assert run(command, 100).code == 0
    answers = {dict(m.case.settings).get(AR, "none"): m for m in load(out)[1] if m.case.settings != ()}
    assert {text: m.status for text, m in answers.items()} == {
        "ring": "ok", "3": "ok", "rign": "skipped", "none": "skipped",
    }  # fmt: skip
    assert "did you mean 'ring'" in answers["rign"].why
    assert f"did you mean {AR}?" in answers["none"].why
    assert all(m.wrong == 0 for m in load(out)[1] if m.status == "ok")
