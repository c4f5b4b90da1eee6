"""What tune says of a search: answer, table, rules with proof, the job's gain, what to do next; and its JSON."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from commbench.model.messages import Job, Message, Use
from commbench.records import Case, Measurement
from commbench.records.recommendation import Difference, Recommendation
from commbench.report import tuning
from commbench.report.tuning import Tuned
from commbench.tune.candidates import DEFAULT, Candidate
from commbench.tune.explain import explain
from commbench.tune.recheck import Rechecked
from commbench.tune.rules import find
from commbench.tune.search import Search

ALGORITHM = "coll_tuned_allreduce_algorithm"
RACE = {
    "all_reduce": (DEFAULT, *(Candidate(name, ((ALGORITHM, str(k)),)) for k, name in enumerate(("ring", "tree"), 3)))
}
SIZES = [2**k for k in range(12, 18)]
JOB = Job({Message("all_reduce", 4, 2**16): Use(10)}, 1e6, "gpt/train.json: 10 buckets", notes=("a note",))
ESCAPE = "\x1b[31m"


def searched(
    truth: Mapping[str, float],
    spoil: Mapping[str, Any] = {},
    seed: int = 0,
    sizes: list[int] = SIZES,
    noise: float = 0.02,
    **options: Any,
) -> Tuned:
    """A search on a simulated network: `truth` is a candidate's time over the default's. `spoil` changes each answer of
    `tree`."""
    random, clock = np.random.default_rng(seed), [0.0]
    asked = [Case(op="all_reduce", backend="mpi", nbytes=n) for n in sizes]
    search = Search(asked, RACE, ranks=4, clock=lambda: clock[0], **options)
    names = {one.settings: one.name for one in RACE["all_reduce"]}
    rows: list[Measurement] = []
    while batch := search.ask():
        for case in batch:
            name = names[case.settings]
            seconds = 1e-6 * case.nbytes**0.7 * truth.get(name, 1.0) * math.exp(random.normal(0, noise))
            answer = Measurement(
                case=case,
                ranks=4,
                nbytes=case.nbytes,
                seconds=(seconds,),
                wrong=0,
                launch=search.round,
                proof=f"read back: {name}" if case.settings else "",
            )
            rows.append(msgspec.structs.replace(answer, **spoil) if name == "tree" else answer)
            clock[0] += 1.0
            search.tell(rows[-1:])
    rules = find(rows, RACE)
    recommendation = Recommendation(
        name="t",
        created="2026-01-01T00:00:00+00:00",
        expires="2026-04-01T00:00:00+00:00",
        machine={},
        versions={},
        data_sha256="",
        rules=rules,
        keep_default="" if rules else "no setting is proved faster",
    )
    told = explain(rows, JOB.messages, JOB.step_us, rules=rules)
    return Tuned(rows, RACE, search.report(), recommendation, told, job=JOB)


def test_a_proved_setting_is_answer_table_rule_and_next_step() -> None:
    tuned = searched({"ring": 0.5, "tree": 0.8})
    lines = list(tuning.text(tuned, Path("results/my run")))
    assert lines[0].startswith("Proved: 1 rule; ")
    assert lines[0].endswith(" less time (all_reduce, 4KiB to 128KiB)")
    text = "\n".join(lines)
    assert "# all sizes: all_reduce · mpi · float32 · world · throughput" in text
    rows = [line.split() for line in lines if line.endswith("  proved")]
    assert [row[1] for row in rows] == ["4KiB", "8KiB", "16KiB", "32KiB", "64KiB", "128KiB"]
    assert {row[3] for row in rows} == {"ring"}
    assert all(float(row[5]) == pytest.approx(50, abs=4) for row in rows)
    assert f"rule: all_reduce, 4 ranks, float32, 4KiB to 128KiB: {ALGORITHM}=3" in text
    assert "bits of results" not in text  # the candidate is neutral
    assert text.count("seen: read back: ring") == 1
    assert "job: 100 % of your bytes are in 1 size; possible gain " in text
    assert "# job: a note" in text
    assert f"{len(tuned.measurements)} trials of 2 candidates at 6 sizes" in text
    assert "next: commbench emit 'results/my run' --for openmpi" in text
    assert "next: commbench verify 'results/my run' -- mpirun -n 4 python train.py" in text
    assert "before 2026-04-01" in text


def test_no_gain_keeps_the_default_and_says_nothing_to_emit() -> None:
    lines = list(tuning.text(searched({"ring": 1.0, "tree": 1.3})))
    assert lines[0] == "Keep the default: no setting is proved faster"
    assert not [line for line in lines if line.startswith(("next:", "rule:"))]
    marks = {line.rsplit("  ", 1)[-1] for line in lines if line.startswith("  ")}
    assert marks <= {"not proved", "uncertain"}
    assert any(line.startswith("# not proved: nothing is faster than the default by more than 2 %") for line in lines)


def test_too_few_trials_are_uncertain() -> None:
    tuned = searched({"ring": 0.97}, budget=14.0, trial=1.0)
    found = tuning.sizes(tuned)
    assert {one.mark for one in found} == {"uncertain"}
    assert all(one.uncertain for one in found)
    assert all(one.trials <= 14 for one in found)
    assert "# uncertain: something may be faster" in "\n".join(tuning.text(tuned))


def test_the_figures_are_those_of_the_rules() -> None:
    tuned = searched({"ring": 0.6})
    told = tuning.as_dict(tuned)
    (rule,) = told["rules"]
    gains = [one["gain"] for one in told["sizes"]]
    assert min(gains) <= rule["gain"] <= max(gains)
    assert rule["settings"] == {ALGORITHM: "3"}
    assert rule["proofs"] == ["read back: ring"]
    for one in told["sizes"]:
        assert one["gain_low"] < one["gain"] < one["gain_high"]
        assert one["time_us"] / one["default_us"] == pytest.approx(1 - one["gain"], abs=0.02)
        assert 0 < one["rounds"] <= one["trials"]
    assert sum(one["trials"] for one in told["sizes"]) == told["search"]["trials"] == len(tuned.measurements)
    assert told["job"]["gain"] == pytest.approx(told["job"]["gain_us"] / 1e6)
    assert told["job"]["step_us"] == 1e6


def test_the_interval_of_a_searchs_gain_covers_the_truth() -> None:
    """Equal settings near the default: what is accepted was lucky, at every size, and luck does not average out."""
    sizes = [2**k for k in range(9, 21)]
    alike = {Message("all_reduce", 4, n): Use(1e6 / n**0.7) for n in sizes}  # every size takes as long as any other
    found, inside = 0, 0
    for seed in range(int(os.environ.get("COMMBENCH_EXAMPLES", "8"))):
        tuned = searched({"ring": 0.95, "tree": 0.95}, seed=seed, sizes=sizes, noise=0.04)
        told = explain(tuned.measurements, alike, rules=tuned.recommendation.rules)
        truth = sum(line.calls * (line.default_us or 0) * 0.05 for line in told.lines if line.settings)
        found += truth > 0
        inside += truth > 0 and abs(told.gain_us[0] - truth) <= told.gain_us[1]
    assert found >= 5
    assert inside >= 0.9 * found


def test_json_is_a_document_without_what_no_reader_takes() -> None:
    for tuned in (
        searched({"ring": 0.5}),
        searched({}, sizes=SIZES[:1], budget=9.0, trial=1.0),
        searched({}, {"seconds": ()}, sizes=SIZES[:2]),
        Tuned((), RACE, searched({}, sizes=SIZES[:1]).report, searched({}, sizes=SIZES[:1]).recommendation),
    ):
        told = json.loads(tuning.as_json(tuned), parse_constant=pytest.fail)
        assert told["schema"] == 1
        assert set(told) >= {"keep_default", "sizes", "rules", "search", "job"}
        assert list(tuning.text(tuned))


def test_names_and_reasons_cannot_write_to_the_terminal() -> None:
    evil = searched({"ring": 0.5}, {"status": "failed", "why": f"host{ESCAPE}\nname"})
    rules = tuple(
        msgspec.structs.replace(rule, settings=((ALGORITHM, f"3{ESCAPE}"),)) for rule in evil.recommendation.rules
    )
    evil = evil._replace(
        recommendation=msgspec.structs.replace(evil.recommendation, rules=rules, expires=f"{ESCAPE}2026"),
        job=Job({}, None, f"trace{ESCAPE}", notes=(f"note\n{ESCAPE}",)),
    )
    lines = list(tuning.text(evil, Path(f"run{ESCAPE}")))
    assert any("void: " in line and "host" in line for line in lines)
    assert all(line.isprintable() for line in lines)
    assert tuning.as_json(evil).isascii()


def test_a_recheck_says_what_to_delete() -> None:
    (rule,) = searched({"ring": 0.5}).recommendation.rules
    again = (
        Rechecked(rule=rule, word="holds", gain=0.4, why="+40 % at least"),
        Rechecked(rule=rule, word="gone", gain=-0.1, why=f"no longer faster{ESCAPE}"),
    )
    changed = (Difference("openmpi", "5.0.5", "5.0.9"),)
    lines = list(tuning.rechecked(again, changed))
    assert lines[0] == "1 of 2 rules hold, 1 gone, 0 unsure"
    assert "# changed: openmpi: measured with 5.0.5, here 5.0.9" in lines
    assert lines[-1].startswith("next: delete the rules that are gone")
    assert all(line.isprintable() for line in lines)
    told = json.loads(tuning.as_json(searched({"ring": 0.5}), again, changed))
    assert [one["word"] for one in told["rechecked"]] == ["holds", "gone"]
    assert told["changed"] == [{"fact": "openmpi", "then": "5.0.5", "now": "5.0.9"}]
