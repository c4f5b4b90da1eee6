"""`commbench tune` before any rank starts: on how many ranks, what it refuses; and what a recheck prints of a plan."""

import json
import math
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result

from commbench import store
from commbench.cli import group
from commbench.errors import SpecError
from commbench.jobs import plan as plans
from commbench.jobs import recheck
from commbench.jobs.plan import PlanRequest
from commbench.records import Case, Host, Machine, Measurement, Run
from commbench.records import recommendation as records
from commbench.records.recommendation import Recommendation, facts_of
from commbench.spec.train import load as load_training
from commbench.spec.tune import TuneSpec
from commbench.spec.tune import load as load_tuning
from commbench.tune.candidates import Settings
from commbench.tune.plans import Plan, Planned, case_of, settings_of
from commbench.tune.recommend import racing
from commbench.tune.rules import find

RING = (("coll_tuned_allreduce_algorithm", "4"),)
CAP = settings_of({"bucket_cap_mb": 5.0})
MACHINE = Machine(
    hosts=tuple(Host(name=f"h{k}") for k in range(4)), host_of=(0, 1, 2, 3), launcher="mpirun",
    facts={"mpi": "Open MPI v5.0.11"},
)  # fmt: skip
STARTS = ("commbench.jobs.tune.start", "commbench.jobs.plan.start", "commbench.jobs.train.start",
          "commbench.jobs.outside.start")  # fmt: skip


def commbench(*words: object) -> Result:
    return CliRunner().invoke(group, [str(word) for word in words])


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No launch round the tests, no lab, and whatever would be started is refused with the number of its ranks."""

    def start(asked: object, ranks: int, launcher: str, arguments: Sequence[str], *more: object) -> int:
        raise SpecError(f"started {ranks} ranks")

    @contextmanager
    def lab(topology: object) -> Any:
        yield SimpleNamespace(script=lambda: None)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("commbench.world.discover.discover", lambda environ: None)
    monkeypatch.setattr("commbench.lab.client.lab", lab)
    for name in STARTS:
        monkeypatch.setattr(name, start)


def trials(case: Case, settings: Settings, ratio: float, seed: int = 1) -> tuple[Measurement, ...]:
    """Eight rounds of the default and of `settings`, which take `ratio` times as long."""
    random = np.random.default_rng(seed)
    return tuple(
        Measurement(
            case=msgspec.structs.replace(case, settings=one),
            ranks=4,
            nbytes=case.nbytes,
            seconds=(1e-2 * (ratio if one else 1.0) * math.exp(random.normal(0, 0.005)),),
            wrong=0,
            launch=k,
        )
        for k in range(8)
        for one in ((), settings)
    )


def planned(ratio: float, **facts: str) -> Planned:
    machine = msgspec.structs.replace(MACHINE, facts={**MACHINE.facts, **facts})
    spec = load_training("ddp-star4", []).canonical()
    return Planned(
        name="p", created="2026-10-01T00:00:00+00:00", commbench="0", spec=spec, seed=0, machine=machine,
        text_sha256="", parameters=10, plans=(Plan(name="default"), Plan(name="cap 5", settings=CAP)),
        trials=trials(case_of(spec, 1000), CAP, ratio), budget=1.0, seconds=1.0,
    )  # fmt: skip


def searched(folder: Path, spec: TuneSpec, ratio: float) -> Path:
    """The folder of a finished search for settings on four ranks."""
    created = "2026-10-01T00:00:00+00:00"
    rows = trials(Case(op="all_reduce", backend="mpi", nbytes=65536), RING, ratio)
    run = Run(
        format=store.FORMAT, name="r", created=created, commbench="0", seed=0,
        spec={**spec.sweep.canonical(), **spec.also}, machine=MACHINE, command=(),
    )  # fmt: skip
    journal = store.create(folder, run)
    journal.append(rows)
    journal.close()
    found = Recommendation(
        created=created, expires=created, machine=facts_of(MACHINE), versions={}, data_sha256="",
        rules=find(rows, racing(spec, MACHINE), options=spec.options),
    )  # fmt: skip
    (folder / records.NAME).write_bytes(records.encode(found))
    return folder


@pytest.fixture
def measured(tmp_path: Path) -> Callable[[str], Path]:
    """A folder of either kind, made on four ranks."""

    def make(kind: str) -> Path:
        folder = tmp_path / kind
        if kind == "plan":
            plans.write(folder, planned(0.7))
            return folder
        return searched(folder, load_tuning("allreduce", []), 0.7)

    return make


# ---- what is refused before anything starts ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plan", "rules"])
def test_a_recheck_on_other_ranks_is_another_question(measured: Callable[[str], Path], kind: str) -> None:
    folder = measured(kind)
    other = commbench("tune", "--recheck", folder, "-n", 2, "--out", "again")
    assert (other.exit_code, other.output.count("\n")) == (2, 1), other.output
    assert f"{folder} was made with 4 ranks, this is a job of 2: give it -n 4" in other.output
    assert not Path("again").exists()
    assert (
        "was made with 4 ranks, this is a job of 8" in commbench("tune", "--recheck", folder, "--lab", "star8").output
    )
    assert "started 4 ranks" in commbench("tune", "--recheck", folder, "-n", 4, "--out", "again").output


@pytest.mark.parametrize("kind", ["plan", "rules"])
def test_a_recheck_asks_what_was_asked(measured: Callable[[str], Path], kind: str) -> None:
    ended = commbench("tune", "--recheck", measured(kind), "-n", 4, "--set", "layers=99", "--out", "again")
    assert ended.exit_code == 2
    assert "--set layers=99: --recheck asks what" in ended.output


@pytest.mark.parametrize("text", ["0s", "0ms", "0.0m"])
def test_no_time_is_no_budget(measured: Callable[[str], Path], text: str) -> None:
    folder = measured("rules")
    for words in (["tune", "allreduce", "-n", 2], ["tune", "--recheck", folder, "-n", 4], ["verify", folder]):
        ended = commbench(*words, "--budget", text, *(["--", "true"] if words[0] == "verify" else []))
        assert ended.exit_code == 2
        assert f"'{text}' is no time to measure in; write more than 0" in ended.output


# ---- how many ranks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("tune", "ddp-star4"), ("tune", "allreduce"), ("train", "gpt"), ("sweep", "quick")])
def test_a_lab_tells_how_many_ranks(words: tuple[str, str]) -> None:
    assert "how many ranks?" in commbench(*words, "--out", "run").output
    assert "started 4 ranks" in commbench(*words, "--lab", "star4", "--out", "a").output
    assert "started 8 ranks" in commbench(*words, "--lab", "rails", "--out", "b").output  # two for each host
    assert "started 2 ranks" in commbench(*words, "--lab", "star4", "-n", 2, "--out", "c").output


def test_one_rank_is_nothing_to_tune(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text("{hosts: h1, switches: s1, links: [{from: h1, to: s1, rate: 1Gbit/s}]}")
    ended = commbench("tune", "allreduce", "--lab", path, "--out", "run")
    assert (ended.exit_code, "give -n 2 or more" in ended.output) == (2, True)


# ---- what a plan's recheck prints -------------------------------------------------------------------------


@pytest.mark.parametrize(("ratio", "word", "code"), [(0.7, "holds", 0), (1.0, "gone", 1)])
def test_json_is_json_and_quiet_is_quiet(
    measured: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, ratio: float, word: str, code: int
) -> None:
    def start(request: PlanRequest, *more: object) -> int:
        plans.write(request.out, planned(ratio, mpi="Open MPI v6.0.0"))
        return 0

    monkeypatch.setattr("commbench.jobs.plan.start", start)
    command = ["tune", "--recheck", measured("plan"), "-n", 4]
    told = commbench(*command, "--out", "a", "--json")
    assert told.exit_code == code
    (one,) = json.loads(told.stdout)["rechecked"]
    assert json.loads(told.stdout)["changed"] == [{"fact": "openmpi", "then": "5.0.11", "now": "6.0.0"}]
    assert (one["word"], one["settings"]) == (word, {"bucket_cap_mb": "5.0"})
    assert "of the step in 8 trials" in one["why"]
    quiet = commbench(*command, "--out", "b", "--quiet")
    assert (quiet.exit_code, quiet.output) == (code, "")
    text, changed = commbench(*command, "--out", "c").stdout.splitlines()[-2:]
    assert text.startswith(f"{word}: ")
    assert ("; delete what " in text) == (word == "gone")
    assert changed == "# changed: openmpi: measured with 5.0.11, here 6.0.0"


# ---- by the limits of the old search ----------------------------------------------------------------------


def test_a_small_gain_that_was_proved_by_a_strict_search_is_looked_for_as_strictly(tmp_path: Path) -> None:
    folder = searched(tmp_path / "strict", load_tuning("allreduce", ["regret=0.5%"]), 0.985)
    assert records.read(folder).rules
    assert recheck.spec_of(folder, 4).options.regret == 0.005
    run, rows = store.load(folder)
    now: Any = SimpleNamespace(run=run, measurements=rows)
    assert [one.word for one in recheck.rechecked(folder, now)] == ["holds"]
