"""Whole runs on the simulated backend: plan, loop, statistics, store, command line; only time is made up."""

import io
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from commbench import store
from commbench.backends.base import BACKENDS
from commbench.backends.simulated import Simulated, SimulatedOp
from commbench.cli import main
from commbench.collectives import COLLECTIVES, DTYPES, REDOPS, Check
from commbench.errors import CommbenchError, FolderError, Unsupported
from commbench.jobs.inside import simulate
from commbench.jobs.request import Request, Watcher, check, exit_code
from commbench.layouts import Groups, expand
from commbench.records import Case, Measurement
from commbench.spec import cases, load

LAUNCHERS = ("OMPI_", "PMI", "SLURM_", "TORCHELASTIC_", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may themselves run inside a job."""
    for name in [name for name in os.environ if name.startswith(LAUNCHERS)]:
        monkeypatch.delenv(name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spec.yaml"


class Ended:
    """A run that came to its end: exit code, rows, and everything that was said."""

    def __init__(self, code: int, out: Path, said: Sequence[str], told: Sequence[Sequence[Measurement]]) -> None:
        self.code, self.out, self.said, self.told = code, out, tuple(said), tuple(told)
        self.run, self.rows = store.load(out)

    @property
    def journal(self) -> bytes:
        return (self.out / "journal.jsonl").read_bytes()

    @property
    def statuses(self) -> Counter[str]:
        return Counter(row.status for row in self.rows)


def write(path: Path, **fields: object) -> Path:
    values = {"backend": "simulated", "op": "all_reduce", "sizes": "[1KiB, 1MiB]", **fields}
    path.write_text("".join(f"{key}: {value}\n" for key, value in values.items()))
    return path


def run(path: Path, out: Path, *overrides: str, size: int = 4, resume: bool = False) -> Ended:
    request = Request(
        spec=load(str(path), overrides),
        out=out,
        resume=resume,
        created="2026-01-02T03:04:05+00:00",
        command=("commbench", "sweep"),
    )
    said: list[str] = []
    told: list[Sequence[Measurement]] = []
    check(request, size)
    watcher = Watcher(lambda total, expected: None, told.append, said.append)
    return Ended(simulate(request, size, watcher), out, said, told)


class Printed(NamedTuple):
    code: int
    out: str
    err: str


def commbench(*arguments: object) -> Printed:
    """The command line in this process, from its arguments to its exit code."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["commbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
    assert isinstance(end.value.code, int)
    return Printed(end.value.code, out.getvalue(), err.getvalue())


# ---- the same seed, the same run -----------------------------------------------------------------------


def test_the_same_seed_gives_the_same_journal_byte_for_byte(path: Path, tmp_path: Path) -> None:
    write(path, op="[all_reduce, barrier]", dtype="[float32, bfloat16]", groups="[world, node]", launches=2)
    first = run(path, tmp_path / "one", size=6)
    again = run(path, tmp_path / "two", size=6)
    assert first.code == again.code == 0
    assert len(first.rows) == 2 * 2 * (2 * 2 + 1)  # launches, layouts (one group each), sizes x dtypes and barrier
    assert first.journal == again.journal
    assert first.journal != run(path, tmp_path / "three", "seed=1", size=6).journal


def test_the_order_of_the_cases_does_not_change_their_figures(path: Path, tmp_path: Path) -> None:
    write(path, op="[all_reduce, all_gather]", sizes="1KiB..1MiB x4")
    shuffled = run(path, tmp_path / "one").rows
    as_given = run(path, tmp_path / "two", "order=as_given").rows
    assert [row.case for row in as_given] == list(cases(load(str(path)), [0] * 4))
    assert [row.case for row in shuffled] != [row.case for row in as_given]
    assert {row.case.key: row.seconds for row in shuffled} == {row.case.key: row.seconds for row in as_given}


# ---- everything that can be asked ----------------------------------------------------------------------

LAYOUTS = "[world, node, rail, pairs, {every: 2}, {mesh: {dp: 2, tp: 4}}, {mesh: {dp: 4, tp: 2}, alone: true}]"


@pytest.mark.parametrize("op", sorted(COLLECTIVES))
def test_every_question_gets_an_answer(op: str, path: Path, tmp_path: Path) -> None:
    write(
        path,
        op=op,
        sizes="[520]",
        dtype=f"[{', '.join(DTYPES)}]",
        redop=f"[{', '.join(REDOPS)}]",
        groups=LAYOUTS,
        simulated="{ranks_per_host: 4}",
        stop="{max_samples: 10}",
    )
    ended = run(path, tmp_path / "run", size=8)
    asked = cases(load(str(path)), ended.run.machine.host_of)
    answered = Counter((row.case, row.group) for row in ended.rows)
    assert set(answered) == {(c, g) for c in asked for g in range(len(expand(c.groups, ended.run.machine.host_of)))}
    assert set(answered.values()) == {1}
    for row in ended.rows:
        average = COLLECTIVES[op].reduces and row.case.redop == "avg" and not DTYPES[row.case.dtype].floating
        assert row.status == ("skipped" if average else "ok")
        if average:
            assert "average of integers" in row.why
            assert row.seconds == ()
        else:
            assert (row.why, row.clock) == ("", "simulated")
            assert len(row.seconds) == len(row.skew) == len(row.slowest) == 10
            assert row.wrong == (None if op == "barrier" else 0)
            group = expand(row.case.groups, ended.run.machine.host_of)[row.group]
            assert set(row.slowest) <= set(group)
            assert row.ranks == len(group)
            assert all(0 <= behind < slowest for behind, slowest in zip(row.skew, row.seconds, strict=True))
    assert ended.code == 0


@pytest.mark.parametrize("size", [2, 3, 5, 7, 16])
@pytest.mark.parametrize("groups", ["world", "node", "rail", "pairs", "{every: 2}"])
def test_worlds_of_any_size(size: int, groups: str, path: Path, tmp_path: Path) -> None:
    write(path, op="[all_reduce, gather]", sizes="1KiB", groups=f"[{groups}]", simulated="{ranks_per_host: 3}")
    ended = run(path, tmp_path / "run", size=size)
    for row in ended.rows:
        alone = size <= {"rail": 3, "{every: 2}": 2}.get(groups, 1)
        assert row.status == ("skipped" if alone else "ok")
        assert ("one rank" in row.why) == alone
    assert ended.code == (3 if ended.statuses["ok"] == 0 else 0)


# ---- when sampling ends --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        ("{ci: 20%}", "ci"),
        ("{ci: 0.0001%, max_samples: 37}", "max_samples"),
        ("{ci: 0.0001%, max_samples: 1000000, max_time: 30ms}", "max_time"),
    ],
)
@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_why_sampling_stopped(stop: str, reason: str, mode: str, path: Path, tmp_path: Path) -> None:
    ended = run(write(path, stop=stop, mode=mode, simulated="{noise: 10%}"), tmp_path / "run")
    assert {row.stopped for row in ended.rows} == {reason}
    for row in ended.rows:
        assert len(row.seconds) >= (6 if reason == "max_time" else 10)
        if reason == "max_samples":
            assert len(row.seconds) == 37
        if reason == "max_time":
            # The last batch may go over the limit by a sample, never by a multiple.
            assert sum(row.seconds) * row.calls == pytest.approx(0.03, rel=0.5)


def test_a_narrower_interval_needs_more_samples(path: Path, tmp_path: Path) -> None:
    write(path, sizes="1MiB", simulated="{noise: 10%}", mode="latency")
    taken = [len(run(path, tmp_path / ci, f"stop.ci={ci}").rows[0].seconds) for ci in ("5%", "2%", "1%")]
    assert taken == sorted(taken)
    assert taken[0] < taken[-1]


def test_latency_times_each_call_by_itself(path: Path, tmp_path: Path) -> None:
    rows = run(write(path, mode="latency", sizes="8B..1GiB x128", op="[all_reduce, barrier]"), tmp_path / "run").rows
    assert {row.calls for row in rows} == {1}


def test_throughput_makes_the_clock_a_small_part_of_a_sample(path: Path, tmp_path: Path) -> None:
    write(
        path,
        sizes="8B..1GiB x128",
        op="[all_reduce, barrier]",
        simulated="{latency: 2us, bandwidth: 100GB/s}",
    )
    rows = run(path, tmp_path / "run").rows
    for row in rows:
        assert Simulated.timer <= 0.01 * row.calls * min(row.seconds)
    small = [row.calls for row in sorted(rows, key=lambda row: row.case.nbytes)]
    assert small[0] > 10  # microsecond calls are timed together ...
    assert small[-1] < small[0]  # ... and calls that last are not piled up


def test_calls_that_cost_nothing_end_too(path: Path, tmp_path: Path) -> None:
    rows = run(write(path, op="barrier", simulated="{latency: 0s, noise: 0}"), tmp_path / "run").rows
    assert [row.status for row in rows] == ["ok"]


def test_the_warm_up_is_counted_and_not_sampled(path: Path, tmp_path: Path) -> None:
    for row in run(write(path), tmp_path / "run").rows:
        assert row.warmup > 0
        assert len(row.seconds) >= 10


# ---- launches and resume -------------------------------------------------------------------------------


def test_three_launches_are_three_answers_to_every_question(path: Path, tmp_path: Path) -> None:
    ended = run(write(path, op="[all_reduce, broadcast]", launches=3), tmp_path / "run")
    assert ended.code == 0
    found = Counter((row.case.key, row.launch) for row in ended.rows)
    assert found == Counter((case.key, launch) for case in cases(load(str(path)), [0] * 4) for launch in range(3))
    orders = [[row.case.key for row in ended.rows if row.launch == launch] for launch in range(3)]
    assert orders[0] != orders[1] or orders[1] != orders[2]  # shuffled anew, so that drift does not follow size
    assert len(ended.told) == len(ended.rows)
    assert ended.run.resumed == ()  # a further launch is no resume


RESUMED = {
    "op": "[all_reduce, all_gather, broadcast]",
    "sizes": "[1KiB, 64KiB, 1MiB]",
    "groups": "[world, node, {every: 2}]",
    "simulated": "{ranks_per_host: 2}",
}


@pytest.mark.parametrize("launches", [1, 2])
@pytest.mark.parametrize("seed", range(8))
def test_a_cut_run_is_resumed_with_every_case_once(seed: int, launches: int, path: Path, tmp_path: Path) -> None:
    write(path, **RESUMED, launches=launches)
    whole = run(path, tmp_path / "whole")
    choose = random.Random(seed)
    out = tmp_path / "cut"
    run(path, out)
    for _ in range(3):  # a resumed run is cut and resumed again
        data = (out / "journal.jsonl").read_bytes()
        cut = choose.randrange(len(data))
        (out / "journal.jsonl").write_bytes(data[:cut])
        ended = run(path, out, resume=True)
        assert ended.code == 0
        answers = [row for row in ended.rows if not row.control]
        key = lambda row: (row.case.key, row.group, row.launch)  # noqa: E731
        assert sorted(answers, key=key) == sorted(whole.rows, key=key)
        controls = [row for row in ended.rows if row.control]
        assert all(row.case in {answer.case for answer in answers} for row in controls)
    assert store.load_run(out).machine == whole.run.machine


def test_a_resume_measures_one_case_again_to_tell_drift(path: Path, tmp_path: Path) -> None:
    whole = run(write(path, sizes="[1KiB, 64KiB, 1MiB]"), tmp_path / "run")
    first, *_ = whole.journal.splitlines(keepends=True)
    (tmp_path / "run" / "journal.jsonl").write_bytes(first)
    ended = run(path, tmp_path / "run", resume=True)
    control, *rest = ended.rows[1:]
    assert control == msgspec.structs.replace(whole.rows[0], control=True)
    assert sorted(row.case.nbytes for row in rest) == sorted(row.case.nbytes for row in whole.rows[1:])
    assert any("control case all_reduce" in sentence and "(1.00 times)" in sentence for sentence in ended.said)
    assert ended.run.resumed == ({"at": "2026-01-02T03:04:05+00:00"},)


def test_resuming_a_complete_run_changes_nothing(path: Path, tmp_path: Path) -> None:
    whole = run(write(path), tmp_path / "run")
    again = run(path, tmp_path / "run", resume=True)
    assert again.code == 0
    assert again.journal == whole.journal
    assert again.run == whole.run
    assert again.told == ()


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("sizes=[1KiB, 2MiB]", "sizes"),
        ("stop.ci=7%", "stop.ci"),
        ("dtype=int8", "dtype"),
        ("seed=3", "seed"),
        ("launches=2", "launches"),
        ("simulated.noise=5%", "simulated.noise"),
    ],
)
def test_another_spec_in_the_same_folder_is_refused_by_its_key(
    override: str, key: str, path: Path, tmp_path: Path
) -> None:
    whole = run(write(path), tmp_path / "run")
    with pytest.raises(FolderError, match=rf"holds a run of another spec .*\b{key}\b") as stop:
        run(path, tmp_path / "run", override, resume=True)
    assert stop.value.exit_code == 2
    assert Ended(0, tmp_path / "run", (), ()).journal == whole.journal


def test_another_world_in_the_same_folder_is_refused(path: Path, tmp_path: Path) -> None:
    run(write(path), tmp_path / "run", size=4)
    with pytest.raises(FolderError, match="4 ranks on 1 hosts, this job has 6"):
        run(path, tmp_path / "run", size=6, resume=True)
    with pytest.raises(FolderError, match="already holds a run"):
        run(path, tmp_path / "run")


# ---- wrong data ----------------------------------------------------------------------------------------


class Wrong(Simulated):
    """A library that gives world rank 2 wrong elements, wherever that rank takes part."""

    def prepare(self, case: Case, groups: Groups) -> SimulatedOp:
        op = super().prepare(case, groups)
        check = op.check

        def wrong_on_rank_2() -> Sequence[Check]:
            order = [rank for group in groups for rank in group]
            return [Check(3, 17) if rank == 2 else one for rank, one in zip(order, check(), strict=True)]

        op.check = wrong_on_rank_2  # type: ignore[method-assign]
        return op


class Raising(Simulated):
    """A library that fails on one case."""

    def prepare(self, case: Case, groups: Groups) -> SimulatedOp:
        if case.op == "gather":
            raise RuntimeError("out of queue pairs\nand more")
        if case.op == "scatter":
            raise Unsupported("no scatter here")
        return super().prepare(case, groups)


@pytest.fixture
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "simulated", f"{__name__}:{request.param}")


@pytest.mark.parametrize("broken", ["Wrong"], indirect=True)
@pytest.mark.parametrize(
    ("groups", "size", "hit"),
    [
        ("world", 4, {0}),
        ("node", 6, {1}),
        ("rail", 6, {0}),
        ("{every: 2}", 5, {0}),
        ("{every: 3}", 6, {2}),
        ("{mesh: {dp: 3, tp: 2}}", 6, {0, 1}),
    ],
)
def test_wrong_data_fails_the_group_of_the_wrong_rank(
    broken: None, groups: str, size: int, hit: set[int], path: Path, tmp_path: Path
) -> None:
    write(path, sizes="1KiB", groups=f"[{groups}]", simulated="{ranks_per_host: 2}")
    ended = run(path, tmp_path / "run", size=size)
    failed = [row for row in ended.rows if row.status == "failed"]
    assert {row.group for row in failed} == hit
    assert ended.code == 1
    for row in ended.rows:
        group = expand(row.case.groups, ended.run.machine.host_of)[row.group]
        assert (row.status, row.wrong) == (("failed", 3) if 2 in group else ("ok", 0))
        if 2 in group:
            assert row.why == "wrong data: 3 elements on 1 ranks; first on rank 2 at index 17 (3 there)"
            assert row.seconds  # the samples are kept: they are what happened


@pytest.mark.parametrize("broken", ["Wrong"], indirect=True)
def test_wrong_data_is_found_in_layouts_that_leave_ranks_out(broken: None, path: Path, tmp_path: Path) -> None:
    """Each round of pairs on an odd world rests one rank; a mesh axis alone has one group only."""
    write(path, sizes="1KiB", groups="[pairs, {mesh: {dp: 5, tp: 1}, alone: true}]")
    ended = run(path, tmp_path / "run", size=5)
    for row in ended.rows:
        group = expand(row.case.groups, [0] * 5)[row.group]
        if len(group) > 1:
            assert (row.status, row.wrong) == (("failed", 3) if 2 in group else ("ok", 0)), row.case.groups


@pytest.mark.parametrize("broken", ["Wrong"], indirect=True)
def test_wrong_data_ends_with_exit_code_1(broken: None, path: Path, tmp_path: Path) -> None:
    write(path)
    assert commbench("sweep", path, "-n", 4, "--out", tmp_path / "run", "--quiet").code == 1
    assert {row.status for row in store.load(tmp_path / "run")[1]} == {"failed"}
    # Without the check nobody looks, and the row says so.
    unchecked = commbench("sweep", path, "-n", 4, "--out", tmp_path / "no", "--quiet", "--set", "check=false")
    assert unchecked.code == 0
    assert {(row.status, row.wrong) for row in store.load(tmp_path / "no")[1]} == {("ok", None)}


@pytest.mark.parametrize("broken", ["Raising"], indirect=True)
def test_an_error_of_the_library_is_a_row(broken: None, path: Path, tmp_path: Path) -> None:
    ended = run(write(path, op="[gather, scatter, broadcast]", sizes="1KiB"), tmp_path / "run")
    found = {row.case.op: (row.status, row.why) for row in ended.rows}
    assert found == {
        "gather": ("failed", "RuntimeError: out of queue pairs"),
        "scatter": ("skipped", "no scatter here"),
        "broadcast": ("ok", ""),
    }
    assert ended.code == 1


# ---- exit codes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "arguments", "code", "sentence"),
    [
        ({}, ["-n", "4"], 0, ""),
        (
            {"dtype": "[int8, float32]", "redop": "avg"},
            ["-n", "4"],
            0,
            "",
        ),  # a part is measured, the rest says why
        ({"dtype": "int8", "redop": "avg"}, ["-n", "4"], 3, ""),
        ({"op": "all_reduse"}, ["-n", "4"], 2, "did you mean 'all_reduce'"),
        ({}, [], 2, "how many ranks?"),
        ({}, ["-n", "1"], 2, "--allow-single"),
        ({}, ["-n", "1", "--allow-single"], 0, ""),
        ({}, ["-n", "4", "--resume"], 2, "--resume needs --out"),
        ({}, ["-n", "0"], 2, "-n"),
        ({}, ["-n", "4", "--set", "stop.ci=0"], 2, "stop.ci"),
        ({"groups": "[{mesh: {dp: 3, tp: 2}}]"}, ["-n", "4"], 2, "the mesh dp 3 x tp 2 has 6 ranks"),
        ({"backend": "[simulated, gloo]"}, ["-n", "4"], 2, "does not mix"),
    ],
)
def test_exit_codes(
    fields: dict[str, str], arguments: list[str], code: int, sentence: str, path: Path, tmp_path: Path
) -> None:
    out = [] if "--resume" in arguments else ["--out", tmp_path / "run"]
    ended = commbench("sweep", write(path, **fields), "--quiet", *out, *arguments)
    assert (ended.code, ended.out) == (code, ""), ended.err
    assert sentence in ended.err
    assert len(ended.err.splitlines()) == bool(sentence)


def test_a_place_that_cannot_be_written_ends_with_exit_code_4(path: Path, tmp_path: Path) -> None:
    ended = commbench("sweep", write(path), "-n", 4, "--quiet", "--out", path / "run")
    assert ended.code == 4
    assert ended.err == f"commbench: {path}/run: Not a directory; choose another --out; rows written before are kept\n"


def test_through_the_real_entry_point(path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "commbench", "sweep", str(write(path)), "-n", "4", "--quiet"]
    command += ["--out", str(tmp_path / "run")]
    for code, sentence in ((0, ""), (2, "already holds a run")):
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == code
        assert sentence in ended.stderr
        assert len(ended.stderr.splitlines()) == bool(sentence)
        assert ended.stdout == ""


def test_a_full_disc_in_the_middle_of_a_run_keeps_its_rows(path: Path, tmp_path: Path) -> None:
    write(path, sizes="1KiB..1GiB x2", stop="{ci: 0.001%, max_samples: 200}")
    script = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40000, resource.RLIM_INFINITY))\n"
        "from commbench.cli import main\n"
        "sys.argv[0] = 'commbench'\n"
        "main()\n"
    )
    out = tmp_path / "run"
    command = [sys.executable, "-c", script, "sweep", str(path), "-n", "4", "--quiet", "--out", str(out)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 4
    assert "rows written before are kept" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    kept = store.load(out)[1]
    assert 0 < len(kept) < 21
    assert run(path, out, resume=True).code == 0  # with room again, it goes on
    answers = [row for row in store.load(out)[1] if not row.control]
    assert answers[: len(kept)] == kept
    assert len({row.case.key for row in answers}) == len(answers) == 21


def row_of(status: str, launch: int = 0, control: bool = False, nbytes: int = 8) -> Measurement:
    case = Case(op="all_reduce", backend="gloo", nbytes=nbytes)
    return msgspec.convert({"case": case, "status": status, "launch": launch, "control": control}, Measurement)


@pytest.mark.parametrize(
    ("rows", "expected", "code"),
    [
        ([row_of("ok")], 1, 0),
        ([row_of("ok")], 2, 4),  # a case is missing
        ([row_of("ok"), row_of("skipped", nbytes=16)], 2, 0),
        ([row_of("skipped")], 1, 3),
        ([], 0, 3),
        ([row_of("failed"), row_of("hung", nbytes=16)], 2, 1),
        ([row_of("hung")], 1, 4),
        ([row_of("hung"), row_of("ok")], 1, 0),  # measured again after a resume
        ([row_of("ok"), row_of("failed", control=True)], 1, 0),
        ([row_of("ok"), row_of("hung", launch=1)], 1, 4),
    ],
)
def test_the_exit_code_is_what_the_rows_say(rows: list[Measurement], expected: int, code: int) -> None:
    assert exit_code(rows, expected) == code


def test_a_simulated_run_is_not_played_inside_a_launch(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    ended = commbench("sweep", write(path), "--allow-single", "--out", tmp_path / "run", "--quiet")
    assert ended.code == 2
    assert "without a launcher" in ended.err


def test_every_error_has_a_documented_exit_code() -> None:
    errors: list[type[CommbenchError]] = [CommbenchError, *CommbenchError.__subclasses__()]
    assert {error.exit_code for error in errors} <= {1, 2, 3, 4}
