"""Races by launches: what comes next, when it ends, what a process may have; and what NCCL's log proves."""

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest

from commbench import store
from commbench.backends.mpi_tool import Tool, Variable, in_force
from commbench.errors import LaunchError, SpecError, Unsupported
from commbench.jobs import relaunch as job
from commbench.jobs.request import Request
from commbench.jobs.tune import Asked
from commbench.measure import launch
from commbench.records import Case, Host, Machine, Measurement, Run
from commbench.spec import tune
from commbench.tune.candidates import DEFAULT, Settings, at_start, candidates, chosen, concerns, over_hosts
from commbench.tune.effect import logged, nccl_says
from commbench.tune.evidence import Point, Trials
from commbench.tune.relaunch import Launch, Launches, for_all

A, B = (("OMPI_MCA_a", "1"),), (("OMPI_MCA_b", "1"),)
RACE = {"all_reduce": (DEFAULT, chosen(A), chosen(B))}
HERE = Machine(hosts=(Host(name="h"),), host_of=(0, 0), launcher="mpirun")
SIZES = (1024, 65536, 1 << 20)
Truth = Mapping[tuple[Settings, int], float]


def cases(sizes: tuple[int, ...] = SIZES) -> list[Case]:
    return [Case(op="all_reduce", backend="mpi", nbytes=n) for n in sizes]


class Net:
    """A start is 3 % apart from the next, a size 1 % from what the start says; a launch takes 4 seconds."""

    def __init__(self, truth: Truth, seed: int = 0) -> None:
        self.truth, self.random, self.clock = truth, np.random.default_rng(seed), 0.0
        self.launches: list[Launch] = []
        self.rows: list[Measurement] = []

    def answer(self, launch: Launch) -> list[Measurement]:
        self.clock += 4.0
        self.launches.append(launch)
        start = self.random.normal(0, 0.03)
        rows = []
        for case in launch.cases:
            log = start + self.random.normal(0, 0.01)
            seconds = 1e-6 * case.nbytes**0.7 * self.truth.get((launch.settings, case.nbytes), 1.0) * math.exp(log)
            rows.append(
                Measurement(case=case, ranks=2, launch=launch.round, nbytes=case.nbytes, seconds=(seconds,), wrong=0)
            )
        self.rows += rows
        return rows


def race(net: Net, **options: object) -> Launches:
    plan = Launches(cases(), RACE, clock=lambda: net.clock, **options)  # type: ignore[arg-type]
    while one := plan.ask():
        plan.tell(net.answer(one))
    return plan


def test_rounds_hold_all_that_are_in_the_race_in_another_order_and_each_launch_all_sizes() -> None:
    net = Net({(A, n): 0.9 for n in SIZES})
    race(net)
    assert all(len(one.cases) == len(SIZES) for one in net.launches)
    rounds: dict[int, list[Settings]] = {}
    for one in net.launches:
        rounds.setdefault(one.round, []).append(one.settings)
    assert all(() in found and A in found for found in rounds.values())
    assert len({tuple(found) for found in rounds.values()}) > 1
    assert list(rounds) == list(range(len(rounds)))


def test_a_candidate_that_is_faster_is_found_and_one_that_is_slow_everywhere_leaves() -> None:
    net = Net({(A, n): 0.5 for n in SIZES} | {(B, n): 3.0 for n in SIZES})
    plan = race(net)
    kept, notes = for_all(net.rows)
    assert {m.case.settings for m in kept} == {(), A}
    assert notes == ("OMPI_MCA_a=1 holds for a whole process, at all sizes",)
    assert sum(one.settings == B for one in net.launches) == 2
    assert not plan.report().uncertain


def test_a_candidate_that_is_hopeless_at_one_size_only_stays() -> None:
    net = Net({(A, 1024): 3.0, (A, 65536): 0.5, (A, 1 << 20): 0.5})
    race(net)
    assert sum(one.settings == A for one in net.launches) >= 4
    kept, notes = for_all(net.rows)
    assert {m.case.settings for m in kept} == {()}
    assert notes[0].startswith("OMPI_MCA_a=1 is faster at all_reduce 64KiB, all_reduce 1MiB, but slower at")


def test_identical_candidates_are_not_recommended() -> None:
    found = 0
    for seed in range(20):
        net = Net({}, seed)
        race(net)
        found += {m.case.settings for m in for_all(net.rows)[0]} != {()}
    assert found <= 1


def test_the_budget_is_kept_and_too_small_a_one_refused_with_what_would_do() -> None:
    net = Net({})
    plan = race(net, budget=70.0, launch=4.0)
    assert plan.spent <= 70.0 < plan.spent + 12
    assert "the budget is spent; more would go to what is uncertain" in plan.report().left_out
    with pytest.raises(SpecError, match="the smallest that would do is 90 s"):
        race(Net({}), budget=60.0, launch=10.0, spent=10.0)


def test_few_launches_mean_fewer_candidates() -> None:
    plan = race(Net({}), budget=40.0, launch=4.0)
    assert plan.report().left_out[0] == "not tried for want of time: OMPI_MCA_b=1"


def test_what_failed_is_not_launched_again_and_an_interrupted_race_goes_on() -> None:
    net = Net({})
    plan = Launches(cases(), RACE, clock=lambda: net.clock)
    for _ in range(4):
        one = plan.ask()
        assert one
        rows = net.answer(one)
        if one.settings == B:
            rows = [msgspec.structs.replace(row, status="failed", why="its launch crashed") for row in rows]
            net.rows[-len(rows) :] = rows
        plan.tell(rows)
    again = Launches(cases(), RACE, clock=lambda: net.clock, trials=plan.trials)
    first = again.ask()
    assert first
    assert (first.round, first.settings == B) == (2, False)
    while one := again.ask():
        assert one.settings != B
        again.tell(net.answer(one))
    assert any("OMPI_MCA_b=1" in line and "crashed" in line for line in again.report().void)


def test_a_default_that_fails_at_a_size_takes_the_size_away() -> None:
    net = Net({})
    plan = Launches(cases(), RACE, clock=lambda: net.clock)
    while one := plan.ask():
        rows = net.answer(one)
        if not one.settings:
            bad = [r.case.nbytes == 1024 for r in rows]
            rows = [
                msgspec.structs.replace(r, status="failed", why="no") if b else r
                for r, b in zip(rows, bad, strict=True)
            ]
        plan.tell(rows)
    assert {len(one.cases) for one in net.launches[3:]} == {2}


def test_the_environment_of_a_launch_has_what_a_setting_needs() -> None:
    ring = (("OMPI_MCA_coll_tuned_allreduce_algorithm", "ring"), ("coll_tuned_allgather_algorithm", "ring"))
    assert Launch(0, ring, ()).environment == {
        "OMPI_MCA_coll_tuned_use_dynamic_rules": "true",
        "OMPI_MCA_coll_tuned_allreduce_algorithm": "ring",
    }


def test_which_settings_are_turned_by_a_launch() -> None:
    starts = ["OMPI_MCA_btl", "NCCL_ALGO", "GLOO_SOCKET_IFNAME", "MPIR_CVAR_CH4_NUM_VCIS"]
    turned = ["coll_tuned_allreduce_algorithm", "MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM", "threads", "min_ctas"]
    assert [at_start(name) for name in starts + turned] == [True] * 4 + [False] * 4
    assert not concerns((("OMPI_MCA_coll_tuned_allreduce_algorithm", "ring"),), "all_gather")


def test_without_han_is_raced_as_what_the_others_are() -> None:
    """Where processes are started for the others, as a variable of the process: then it holds for one."""
    by_launch = over_hosts((DEFAULT, chosen(A)), "openmpi", 4)
    assert [one.settings for one in by_launch] == [(), (("OMPI_MCA_coll_han_priority", "0"),), A]
    assert {one.level for one in by_launch[1:]} == {"process"}
    own = over_hosts((DEFAULT, chosen(by_launch[1].settings)), "openmpi", 4)
    assert {one.settings for one in own} == {(), by_launch[1].settings}
    inside = over_hosts(candidates("openmpi", "all_reduce", 4), "openmpi", 4)
    assert (inside[1].settings, inside[1].level) == ((("coll_han_priority", "0"),), "communicator")
    assert {one.numerics for one in (by_launch[1], inside[1])} == {"bitwise-changing"}


def test_the_catalogues_of_gloo_and_nccl() -> None:
    gloo = [one.name for one in candidates("gloo", "all_reduce", 4)]
    assert gloo == ["default", "threads=1", "threads=4", "threads=8", "groups=2", "groups=4"]
    assert "groups=2" not in [one.name for one in candidates("gloo", "all_gather", 4)]
    nccl = candidates("nccl", "all_reduce", 8)
    assert {one.level for one in nccl[1:]} == {"process"}
    assert (("NCCL_ALGO", "Tree"), ("NCCL_PROTO", "LL")) in [one.settings for one in nccl]
    assert not any("LL128" in one.name for one in nccl)
    assert [one.numerics for one in candidates("gloo", "all_reduce", 4)[-3:]] == ["neutral", *["bitwise-changing"] * 2]
    assert chosen((("OMPI_MCA_btl_tcp_sndbuf", "1"),)).numerics == "neutral"
    assert chosen((("OMPI_MCA_coll_xyz", "1"),)).numerics == "bitwise-changing"


def test_a_spec_with_a_setting_of_the_start_is_raced_by_launches(tmp_path: Path) -> None:
    def spec(backend: str, candidate: str) -> tune.TuneSpec:
        path = tmp_path / "spec.yaml"
        path.write_text(f"{{backend: {backend}, collectives: all_reduce, sizes: 1KiB, candidates: [{candidate}]}}")
        return tune.load(str(path))

    assert job.needed(spec("mpi", '{OMPI_MCA_btl: "tcp,self"}'))
    assert not job.needed(spec("mpi", "{coll_tuned_allreduce_algorithm: ring}"))
    assert not job.needed(spec("gloo", "{threads: 4}"))
    assert job.needed(spec("nccl", "{min_ctas: 4}"))  # the catalogue's are variables
    with pytest.raises(SpecError, match="GLOO_SOCKET_IFNAME is a setting of gloo, not of mpi"):
        spec("mpi", "{GLOO_SOCKET_IFNAME: eth0}")
    with pytest.raises(SpecError, match="is no value of a variable"):
        spec("mpi", '{OMPI_MCA_btl: "a; rm b"}')


def started(folder: Path, monkeypatch: pytest.MonkeyPatch, *rows: Measurement) -> job._Starter:
    """A starter whose launches leave these rows in the journal and end with exit 137."""
    path = folder / "spec.yaml"
    path.write_text("{backend: mpi, collectives: all_reduce, sizes: [1KiB, 1MiB], candidates: [{OMPI_MCA_a: 1}]}")
    spec = tune.load(str(path))
    request = Request(spec.sweep, folder / "run", True, "2026-01-01T00:00:00+00:00", ())
    run = Run(format=1, name="x", created=request.created, commbench="0", seed=0, spec={}, machine=HERE, command=())
    store.create(request.out, run).close()

    def launched(*given: object) -> launch.Launched:
        journal = store.reopen(request.out, lambda case: 1)
        journal.append(rows)
        journal.close()
        return launch.Launched(137, ("a library's noise", "commbench: rank 1 was killed"), "")

    monkeypatch.setattr(job.launch, "run", launched)
    return job._Starter(Asked(spec, request), 2, "mpirun", ["tune", str(path)], print, None)


def test_a_launch_that_hangs_or_crashes_voids_its_settings_and_of_the_default_ends_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = tuple(msgspec.structs.replace(case, settings=A) for case in cases((1024, 1 << 20)))
    fine = Measurement(case=both[0], ranks=2, launch=3, seconds=(1e-6,), wrong=0)
    hung = Measurement(case=both[1], ranks=2, launch=3, status="hung", why="rank 1 did not come back")
    trials = Trials()
    starter = started(tmp_path, monkeypatch, fine, hung)
    for rows in (job._launched(starter, Launch(3, A, both), HERE, 9.0), store.load(starter.folder)[1]):
        trials = Trials(rows)
        assert {trials.void[Point.of(case), A] for case in both} <= {
            "its launch hung: rank 1 did not come back",
            "rank 1 did not come back",
        }
    with pytest.raises(LaunchError, match=r"with default .*exit 137.*: rank 1 was killed; .*--resume --out .* goes on"):
        job._launched(starter, Launch(4, (), tuple(cases((1024,)))), HERE, 9.0)


# ---- proof -------------------------------------------------------------------------------------------------


class Held(Tool):
    """A library's variables as a table."""

    def __init__(self, values: Mapping[str, int | str]) -> None:
        self.values = values
        kinds = {name: None if isinstance(value, str) else object for name, value in values.items()}
        self.variables = {name: Variable(0, name, kind, {}) for name, kind in kinds.items()}

    def read(self, name: str) -> int | float:
        return int(self.values[name])

    def text(self, name: str) -> str:
        return str(self.values[name])

    def value(self, name: str, text: str) -> int | float:
        return int(text)


def test_what_a_process_starts_with_must_be_in_force() -> None:
    tool = Held({"btl": "tcp,self", "btl_tcp_sndbuf": 4096})
    sentences = in_force(tool, {"OMPI_MCA_btl": "tcp,self", "OMPI_MCA_btl_tcp_sndbuf": "4096"}, "ob1")
    assert list(sentences)[1] == "OMPI_MCA_btl_tcp_sndbuf=4096 in force since start"
    for settings, carrier, why in [
        ({"OMPI_MCA_btl_tcp_sndbuf": "8192"}, "ob1", "here it is 4096"),
        ({"OMPI_MCA_btl": "sm,self"}, "ob1", "here it is tcp,self"),
        ({"OMPI_MCA_btl_tcp_sndbf": "4096"}, "ob1", "did you mean btl_tcp_sndbuf"),
        ({"OMPI_MCA_btl_tcp_sndbuf": "4096"}, "ucx", "ucx carries the messages"),
    ]:
        with pytest.raises(Unsupported, match=why):
            list(in_force(tool, settings, carrier))


LOG = """\
h1:101:101 [0] NCCL INFO NCCL version 2.27.5+cuda12.9
h1:101:120 [0] NCCL INFO NCCL_ALGO set by environment to Ring
h1:101:120 [0] NCCL INFO NCCL_PROTO set by environment to Simple
h1:101:120 [0] NCCL INFO NCCL_BUFFSIZE set by environment to 8388608.
h1:101:120 [0] NCCL INFO AllReduce: 1048576 Bytes -> Algo RING proto SIMPLE channel{Lo..Hi}={0..1}
"""


def test_nccls_own_log_proves_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(LOG)
    both = {"NCCL_ALGO": "Ring", "NCCL_PROTO": "Simple"}
    said = nccl_says(str(path), both, "all_reduce", first=True)
    assert "NCCL_ALGO set by environment to Ring" in said
    assert said.endswith("AllReduce of 1048576 bytes ran as RING SIMPLE")
    path.write_text(LOG.replace("Algo RING", "Algo TREE"))
    assert "ran as" not in nccl_says(str(path), both, "all_reduce", first=False)
    for settings, op, text, why in [
        (both, "all_reduce", LOG.replace("Algo RING", "Algo TREE"), "but AllReduce of 1048576 bytes ran as TREE"),
        ({"NCCL_ALGOO": "Ring"}, "all_reduce", LOG, "does not say that it was read"),
        ({"NCCL_ALGO": "Tree"}, "all_reduce", LOG, "NCCL_ALGO is Ring for NCCL, not Tree"),
        (both, "all_reduce", "no word of it\n", "says nothing"),
    ]:
        path.write_text(text)
        with pytest.raises(Unsupported, match=why):
            nccl_says(str(path), settings, op, first=True)
    with pytest.raises(Unsupported, match="writes no log here"):
        nccl_says("", both, "all_reduce", first=True)


def test_ranks_of_nccl_write_a_log_with_the_default_too() -> None:
    found = job.prepare(["NCCL_ALGO=Ring"], ("nccl",))
    assert found == {**logged(tempfile.gettempdir()), "NCCL_ALGO": "Ring"}
    assert found["NCCL_DEBUG_SUBSYS"] == "INIT,ENV,TUNING"
    assert job.prepare(["OMPI_MCA_btl=tcp,self", "A=b=c"], ("mpi",)) == {"OMPI_MCA_btl": "tcp,self", "A": "b=c"}


@pytest.mark.parametrize(
    ("code", "ranks", "refused"),
    [(2, (), True), (1, (2,), True), (1, (2, -15), True), (1, (1,), False), (1, (2, -9), False), (1, (), False)],
)
def test_a_mistake_that_ranks_under_torchrun_found_stays_one(code: int, ranks: tuple[int, ...], refused: bool) -> None:
    report = [f"  exitcode  : {each} (pid: 77)" for each in ranks]
    ended = launch.Launched(code, ("commbench: slowdown: unknown key", *report), "")
    assert ended.refused is refused
    error = ended.failure("the test", ["/usr/bin/torchrun"], "nothing was measured")
    assert error.exit_code == (2 if refused else 4)
    assert "slowdown: unknown key" in str(error)
