"""The folder of a search: refused early, gone on with, never with a conclusion that is not its trials'."""

import errno
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from commbench import store
from commbench.errors import FolderError, LaunchError, SpecError, StoreError
from commbench.jobs import plan, runfolder
from commbench.lab import launch as lab
from commbench.measure import launch
from commbench.records import Case, Host, Machine, Measurement, Run
from commbench.records import recommendation as records
from commbench.report.plans import text
from commbench.spec.train import load
from commbench.tune.candidates import Settings
from commbench.tune.plans import OP, found, name_of, recommend

HERE = Machine(hosts=(Host(name="h"),), host_of=(0, 0), launcher="torchrun", facts={"torch": "2.13.0", "cores": "2"})


def run(**fields: Any) -> Run:
    given = {"name": "x", "created": "2026-01-02", "commbench": "0", "seed": 0, "spec": {"model": "mlp"}}
    return Run(**{"format": store.FORMAT, "machine": HERE, **given, **fields})


def trial(settings: Settings = (), round_: int = 0, seconds: float = 1.0) -> Measurement:
    case = Case(op=OP, backend="gloo", nbytes=8, settings=settings)
    return Measurement(case=case, launch=round_, ranks=2, nbytes=8, seconds=(seconds,) * 5, wrong=0)


# ---- what is there already -----------------------------------------------------------------------------------


def test_a_run_begins_with_its_first_trial_and_goes_on_with_all(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    book = runfolder.Book(folder, run(), False)
    assert not folder.exists()
    assert runfolder.kept(folder) == "nothing was tried"
    book.add(trial())
    book.add(trial((("bucket_cap_mb", "5"),)))
    book.close()
    with (folder / "journal.jsonl").open("ab") as file:
        file.write(b'{"crc":"0123')  # killed as it was written
    assert "2 trials are kept" in runfolder.kept(folder)
    again = runfolder.Book(folder, run(created="2026-01-03"), True)
    assert [one.case.settings for one in again.trials] == [(), (("bucket_cap_mb", "5"),)]
    again.add(trial(round_=1))
    again.close()
    kept, trials = store.load(folder)
    assert len(trials) == 3
    assert [one["at"] for one in kept.resumed] == ["2026-01-03"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"spec": {"model": "gpt"}}, "another spec (it differs in model)"),
        ({"machine": msgspec.structs.replace(HERE, host_of=(0, 0, 0))}, "measured with 2 ranks on 1 hosts, this job"),
        (
            {"machine": msgspec.structs.replace(HERE, facts={"torch": "2.14.0"})},
            "torch: measured with 2.13.0, here 2.14.0",
        ),
    ],
)
def test_another_question_does_not_go_on(tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    book = runfolder.Book(tmp_path, run(), False)
    book.add(trial())
    book.close()
    before = (tmp_path / "journal.jsonl").read_bytes()
    with pytest.raises(FolderError) as refused:
        runfolder.Book(tmp_path, run(**fields), True)
    assert says in str(refused.value)
    assert "--out" in str(refused.value)
    assert (tmp_path / "journal.jsonl").read_bytes() == before


def test_what_was_concluded_goes_before_the_trials_become_more(tmp_path: Path) -> None:
    for name in (records.NAME, plan.NAME, "journal.jsonl"):
        (tmp_path / name).touch()
    runfolder.forget(tmp_path, plan.NAME)
    assert [path.name for path in tmp_path.iterdir()] == ["journal.jsonl"]


# ---- a disc that takes nothing -------------------------------------------------------------------------------


def test_a_folder_is_tried_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runfolder.check_room(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="choose a folder you may write with --out; nothing was tried"):
        runfolder.check_room(tmp_path / "file" / "run")

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError, match="No space left on device; make room or choose another --out"):
        runfolder.check_room(tmp_path)


# ---- what rank 0 refuses -------------------------------------------------------------------------------------


@pytest.fixture
def asked(tmp_path: Path) -> plan.PlanRequest:
    path = tmp_path / "small.yaml"
    path.write_text("model: gpt\nparallel: fsdp2\nlayers: 2\nwidth: 64\nheads: 2\n")
    return plan.PlanRequest(load(str(path)), tmp_path / "run", "2026-01-02T03:04:05+00:00", ("x",), 60.0)


def launched(refusal: str) -> Callable[..., launch.Launched]:
    def ranks(command: Any, progress: Any, patience: float, say: Callable[[str], None], count: int) -> launch.Launched:
        say("computing alone 1 s a step")
        if refusal:
            runfolder.refuse(Path(command[-1]), SpecError(refusal))
        say(refusal or "rank 1 died")
        return launch.Launched(1, (f"commbench: {refusal or 'rank 1 died'}",), "")

    return ranks


def test_a_refusal_of_the_ranks_is_told_once_and_their_death_says_what_is_left(
    asked: plan.PlanRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher's own code is 1 for everything, as torchrun's."""
    said: list[str] = []
    monkeypatch.setattr(lab, "argv", lambda net, launcher, ranks, arguments, backends: [launcher, *arguments])
    monkeypatch.setattr(launch, "run", launched("too small a budget"))
    with pytest.raises(SpecError, match=r"^too small a budget$"):
        plan.start(asked, 2, "torchrun", ["tune"], said.append)
    assert said == ["computing alone 1 s a step"]
    assert not list(asked.out.iterdir())
    monkeypatch.setattr(launch, "run", launched(""))
    with pytest.raises(LaunchError, match=r"the search for a plan ended early .*rank 1 died; nothing was tried"):
        plan.start(asked, 2, "torchrun", ["tune"], said.append)


# ---- a search for a plan that goes on ------------------------------------------------------------------------


class Steps:
    """The ranks of a search for a plan: the second candidate saves a tenth of the step. Dies after so many trials."""

    def __init__(self, dies: int = 10**6) -> None:
        self.now, self.left, self.random = 0.0, dies, random.Random(dies)

    def backward(self, steps: int) -> None:
        return None

    def share(self, value: Any) -> Any:
        return value

    def sizes(self) -> tuple[int, ...]:
        return (8,)

    def trial_seconds(self, step: float) -> float:
        return step

    def case(self) -> Case:
        return Case(op=OP, backend="gloo", nbytes=8)

    def trial(self, settings: Settings) -> Measurement:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        self.now += 1.0
        return trial(settings, seconds=self.random.gauss(0.9 if settings == FAST else 1.0, 0.01))


FAST = (("prefetch", "1"),)


def search(request: plan.PlanRequest, ranks: Any, book: runfolder.Book) -> Any:
    around = plan.Surroundings(HERE, "", 0, ("blocks.0", "blocks.1"))
    return plan.search(request, ranks, around, book, lambda line: None, lambda: ranks.now)


def test_a_search_for_a_plan_goes_on_with_its_trials(asked: plan.PlanRequest) -> None:
    asked = asked._replace(budget=200.0)
    book = runfolder.Book(asked.out, run(), False)
    with pytest.raises(KeyboardInterrupt):
        search(asked, Steps(dies=8), book)
    book.close()
    before = store.load(asked.out)[1]
    assert len(before) == 7  # the first trial is no part of the race
    assert not (asked.out / records.NAME).exists()
    again = runfolder.Book(asked.out, run(), True)
    again.add(trial((("bucket_cap_mb", "3.3"),)))  # the model had put forward what it does not now
    again.add(trial((("bucket_cap_mb", "4.4"),), round_=99))  # cut off before the default's turn
    planned = search(asked, Steps(), again)
    again.close()
    assert list(text(planned, recommend(planned)))
    assert list(planned.trials[:7]) == before
    assert planned.trials == tuple(m for m in store.load(asked.out)[1] if m.launch != 99)
    choice = found(planned).choice
    assert choice is not None
    assert choice.settings == FAST
    assert name_of(planned, (("bucket_cap_mb", "3.3"),)).startswith("as before: ")
    rounds = [one.launch for one in planned.trials if one.case.settings == () and not one.control]
    assert len(set(rounds)) == len(rounds)
