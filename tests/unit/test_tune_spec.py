"""Tuning specs: what may be written, and the sentence where it may not. And what still holds of an old search."""

import math
from pathlib import Path

import numpy as np
import pytest

from commbench.errors import SpecError
from commbench.records import Case, Host, Machine, Measurement
from commbench.records.recommendation import Recommendation, Rule
from commbench.spec import cases
from commbench.spec.document import TUNING, shipped
from commbench.spec.train import load as load_training
from commbench.spec.tune import load, what
from commbench.tune.recheck import recheck
from commbench.tune.recommend import racing
from commbench.tune.rules import find

RING = (("coll_tuned_allreduce_algorithm", "4"),)


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def machine(mpi: str, ranks: int = 4, hosts: int = 1) -> Machine:
    names = tuple(Host(name=f"h{k}") for k in range(hosts))
    return Machine(
        hosts=names, host_of=tuple(k * hosts // ranks for k in range(ranks)), launcher="mpirun", facts={"mpi": mpi}
    )


def test_a_spec_becomes_a_grid_and_limits(tmp_path: Path) -> None:
    text = "{backend: mpi, collectives: [all_reduce, all_gather], sizes: 1KiB..4KiB x2, budget: 90s, regret: 3%}"
    spec = load(write(tmp_path, text), ["trial.max_time=50ms", "seed=7"])
    assert {(case.op, case.nbytes) for case in cases(spec.sweep, [0] * 4)} == {
        (op, n) for op in ("all_reduce", "all_gather") for n in (1024, 2048, 4096)
    }
    assert (spec.name, spec.budget, spec.options.regret, spec.options.confidence) == ("mine", 90.0, 0.03, 0.95)
    assert (spec.sweep.stop.max_time, spec.sweep.seed) == (0.05, 7)
    assert "budget" not in str(spec.also)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{backend: mpi, sizes: 8, collectives: allreduce}", "unknown collective 'allreduce'; did you mean"),
        ("{backend: simulated, sizes: 8, collectives: all_reduce}", "unknown backend 'simulated'"),
        ("{backend: mpi, collectives: all_reduce}", r"\$.sizes: is missing"),
        ("{backend: mpi, collectives: barrier, sizes: 8}", "unknown collective 'barrier'"),
        ("{backend: mpi, collectives: all_reduce, sizes: job}", "say which with the key job"),
        ("{backend: mpi, collectives: all_reduce, sizes: 8, candidates: []}", "write a list of settings"),
        ("{backend: mpi, collectives: all_reduce, sizes: 8, candidates: [{}]}", "names no setting"),
        ("{backend: mpi, collectives: all_reduce, sizes: 8, candidates: [{nonsense: 1}]}", "unknown key 'nonsense'"),
        ("{backend: gloo, collectives: all_reduce, sizes: 8, candidates: [{coll_x: 1}]}", "of mpi, not of gloo"),
        ("{backend: mpi, collectives: all_reduce, sizes: 8, catalogue: false}", "there must be candidates"),
        ("{backend: mpi, collectives: all_reduce, sizes: 8, budget: soon}", r"\$.budget"),
        ("{backend: mpi, collectives: all_reduce, sizes: 8, rounds: 2}", "whole number from 4 to 16"),
        ("{backend: mpi, collectives: all_reduce, sizes: 8, op: all_reduce}", "unknown key 'op'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_with_its_place(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SpecError, match=says) as stop:
        load(write(tmp_path, text))
    assert "mine.yaml" in str(stop.value)


def test_three_kinds_of_spec_are_told_apart(tmp_path: Path) -> None:
    assert what(write(tmp_path, "{collectives: all_reduce}")) == "collectives"
    assert what(write(tmp_path, "{model: gpt}")) == "model"
    assert what(write(tmp_path, "{command: [python, train.py]}")) == "command"
    for text in ("{model: gpt, collectives: all_reduce}", "{op: all_reduce}"):
        with pytest.raises(SpecError, match="write one of: collectives"):
            what(write(tmp_path, text))


def test_the_shipped_ones_load() -> None:
    kinds = {name: what(name) for name in shipped(TUNING)}
    assert {"collectives", "model"} <= set(kinds.values())
    for name, kind in kinds.items():
        assert load(name).sweep.cases if kind == "collectives" else load_training(name).steps


def test_who_takes_part_depends_on_the_library_and_the_hosts(tmp_path: Path) -> None:
    spec = load(write(tmp_path, "{backend: mpi, collectives: all_reduce, sizes: 8}"))
    one = racing(spec, machine("Open MPI v5.0.11"))["all_reduce"]
    assert one[0].settings == ()
    assert RING in [c.settings for c in one]
    several = racing(spec, machine("Open MPI v5.0.11", hosts=4))["all_reduce"]
    assert all(dict(c.settings).get("coll_han_priority") == "0" for c in several[1:])
    assert len(several) == len(one) + 1  # the default without han
    mpich = racing(spec, machine("MPICH Version: 4.3"))["all_reduce"]
    assert all(name.startswith("MPIR_CVAR_ALLREDUCE") for c in mpich for name, _ in c.settings)
    with pytest.raises(SpecError, match="no algorithms are known of 'mpi'"):
        racing(spec, machine("Somebody's MPI 1.0"))


def test_a_setting_of_one_collective_does_not_race_for_another(tmp_path: Path) -> None:
    text = (
        "{backend: mpi, collectives: [all_reduce, all_gather], sizes: 8, catalogue: false, candidates: "
        "[{coll_tuned_allreduce_algorithm: ring}, {coll_tuned_allgather_algorithm: ring}]}"
    )
    race = racing(load(write(tmp_path, text)), machine("Open MPI v5.0.11"))
    assert [c.settings for c in race["all_reduce"]] == [(), (("coll_tuned_allreduce_algorithm", "ring"),)]
    assert [c.settings for c in race["all_gather"]] == [(), (("coll_tuned_allgather_algorithm", "ring"),)]


# ---- recheck --------------------------------------------------------------------------------------------


def journal(ratio: dict[int, float], rounds: int = 8, noise: float = 0.005, seed: int = 1) -> list[Measurement]:
    """The default and RING at sizes; RING takes `ratio` times as long."""
    random = np.random.default_rng(seed)
    return [
        Measurement(
            case=Case(op="all_reduce", backend="mpi", nbytes=nbytes, settings=settings),
            ranks=4,
            nbytes=nbytes,
            seconds=(1e-3 * (times if settings else 1.0) * math.exp(random.normal(0, noise)),),
            wrong=0,
            launch=k,
        )
        for nbytes, times in ratio.items()
        for k in range(rounds)
        for settings in ((), RING)
    ]


def recommended(rows: list[Measurement]) -> Recommendation:
    from commbench.tune.candidates import DEFAULT, Candidate

    rules = find(rows, {"all_reduce": [DEFAULT, Candidate("ring", RING)]})
    return Recommendation(created="", expires="", machine={}, versions={}, data_sha256="", rules=rules)


THEN = {1024: 0.5, 2048: 0.5}


@pytest.mark.parametrize(
    ("now", "word", "why"),
    [
        ({1024: 0.6, 2048: 0.55}, "holds", "at its weakest size"),
        ({1024: 0.6, 2048: 1.0}, "gone", "no longer faster"),
        ({1024: 1.4, 2048: 1.4}, "gone", "no longer faster"),
        ({1024: 0.6}, "unsure", "at 2KiB it was not measured"),
    ],
)
def test_a_rule_holds_at_all_of_its_sizes_or_not(now: dict[int, float], word: str, why: str) -> None:
    then = journal(THEN)
    (one,) = recheck(recommended(then), then, journal(now, seed=2))
    assert one.word == word
    assert why in one.why
    assert str(one).startswith(word)


@pytest.mark.parametrize(
    ("now", "word", "why"),
    [
        ({1024: 0.5, 2048: 1.0, 4096: 0.5}, "holds", ""),
        ({1024: 0.5, 2048: 0.9, 4096: 0.5}, "holds", ""),
        ({1024: 0.5, 2048: 1.02, 4096: 0.5}, "unsure", "not proved harmless: "),
        ({1024: 0.5, 2048: 1.5, 4096: 0.5}, "gone", "it does harm: "),
        ({1024: 0.5, 2048: 1.0, 4096: 1.0}, "gone", "no longer faster: "),
        ({1024: 0.5, 4096: 0.5}, "unsure", "at 2KiB it was not measured"),
    ],
)
def test_where_a_rule_ran_through_a_tie_it_need_only_do_no_harm(now: dict[int, float], word: str, why: str) -> None:
    then = journal({1024: 0.5, 2048: 1.0, 4096: 0.5}, rounds=16)
    (rule,) = recommended(then).rules
    assert (rule.min_bytes, rule.max_bytes) == (1024, 4096)
    (one,) = recheck(recommended(then), then, journal(now, rounds=16, seed=2))
    assert (one.word, why in one.why) == (word, True), one.why


def test_harmless_alone_is_no_proof() -> None:
    tie = journal({1024: 1.0}, rounds=16)
    made = recommended(journal({1024: 0.5}))
    (one,) = recheck(made, tie, tie)
    assert (one.word, one.why) == ("unsure", "it is proved faster at none of its sizes")


def test_few_noisy_rounds_decide_nothing() -> None:
    then = journal(THEN)
    (one,) = recheck(recommended(then), then, journal({1024: 0.97, 2048: 0.97}, rounds=3, noise=0.1))
    assert one.word == "unsure"


def test_a_setting_that_the_new_library_refuses_is_gone() -> None:
    import msgspec

    then = journal(THEN)
    now = [
        msgspec.structs.replace(m, status="skipped", why="no such variable", seconds=()) if m.case.settings else m
        for m in journal(THEN)
    ]
    (one,) = recheck(recommended(then), then, now)
    assert (one.word, one.gain) == ("gone", None)
    assert "no such variable" in one.why


def test_a_rule_without_settings_is_no_question() -> None:
    keep = Rule(
        op="all_reduce", ranks=4, min_bytes=1, max_bytes=2, baseline_us=1, time_us=1, gain_low=0, gain=0, gain_high=0
    )
    old = Recommendation(created="", expires="", machine={}, versions={}, data_sha256="", rules=(keep,))
    assert recheck(old, [], []) == ()
