"""The search for a bucket plan with two real ranks over Gloo: one launch, in which every trial is what it says."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ranks import COMMBENCH, TORCHRUN, run

from commbench import store
from commbench.jobs.plan import read, write
from commbench.records.recommendation import read as recommendation
from commbench.report.plans import text
from commbench.tune.plans import Planned, caps_of, recommend

pytestmark = pytest.mark.real

SPEC = (
    "model: gpt\nlayers: 2\nwidth: 64\nheads: 2\ncontext: 32\nbatch: 2\nsteps: 8\nwarmup: 2\nalone: 3\ntext: 256KiB\n"
)
SEARCH = """
import os, sys
from pathlib import Path
from functools import partial
from commbench.jobs import plan
from commbench.jobs.plan import PlanRequest, work
from commbench.spec.train import load
from commbench.world.discover import discover
from commbench.tune.search import Search
from commbench.tune.verdicts import Options

plan.Search = partial(Search, options=Options(rounds=2))  # a search is tested elsewhere; here it only has to be short
spec, out, budget, *overrides = sys.argv[1:]
request = PlanRequest(load(spec, overrides), Path(out), "2026-01-02T03:04:05+00:00", ("x",), float(budget))
sys.exit(work(request, discover(os.environ), lambda said: print("commbench:", said, file=sys.stderr, flush=True)))
"""


def files(folder: Path) -> tuple[str, str]:
    (folder / "search.py").write_text(SEARCH)
    (folder / "small.yaml").write_text(SPEC)
    return str(folder / "search.py"), str(folder / "small.yaml")


def test_a_search_tells_what_every_trial_really_was(tmp_path: Path) -> None:
    script, spec = files(tmp_path)
    out = tmp_path / "run"
    own = "ddp.bucket_cap_mb=0.05"  # takes part whatever the model thinks of this small a job
    ended = run([*TORCHRUN, script, spec, str(out), "60", own])
    found = read(out)
    assert ended.code in (0, 1), ended.err  # torchrun says 1 for any other code
    assert len({trial.case.settings for trial in found.trials}) > 1
    backward, cost = found.backward, found.cost
    assert backward is not None
    assert cost is not None
    nbytes = sum(gradient.nbytes for gradient in backward.gradients)
    assert nbytes == 4 * found.parameters == cost.largest
    names = [gradient.name for gradient in backward.gradients]
    assert names.index("head.weight") < names.index("blocks.0.qkv.weight") < names.index("token.weight")
    assert cost.loaded is not None
    assert found.wrong == 0
    assert found.tail is not None
    _, journal = store.load(out)
    assert [m for m in journal if not m.control] == [m for m in found.trials if not m.control]
    for trial in found.trials:
        assert (trial.status, trial.wrong, len(trial.seconds)) == ("ok", 0, 5), trial.why
        sizes = [int(word.strip(",")) for word in trial.proof.split()[2:-1]]
        assert sum(sizes) == nbytes
        for cap, size in zip(caps_of(trial.case.settings), sizes[:-1], strict=False):
            assert size >= cap
    assert recommendation(out) == recommend(found)
    assert list(text(found, recommendation(out)))
    _looked_at_again(found, tmp_path)


def _looked_at_again(found: Planned, folder: Path) -> None:
    """As if the first plan had been proved to halve the step: a recheck races it against the default, to the end."""
    plan = next(one.settings for one in found.plans if one.settings)
    trial = next(one for one in found.trials if one.case.settings == plan and not one.control)
    made = [
        msgspec.structs.replace(
            trial, case=msgspec.structs.replace(trial.case, settings=one), launch=k, seconds=(1e-3 * (k + 9) * share,)
        )
        for k in range(8)
        for one, share in (((), 1.0), (plan, 0.5))
    ]
    old, again = folder / "old", folder / "again"
    write(old, msgspec.structs.replace(found, trials=tuple(made)))
    ended = run([*COMMBENCH, "tune", "--recheck", str(old), "-n", "2", "--budget", "60s", "--out", str(again)])
    now = read(again)
    tried = Counter(one.case.settings for one in now.trials if not one.control)
    assert set(tried) == {(), plan}
    assert min(tried.values()) > 3
    assert re.search(r"^(holds|gone|unsure): .*[-+][0-9.]+% of the step in [0-9]+ trials", ended.out, re.M), ended.out
    assert ended.code in (0, 1, 3)


# Several things in one launch, because to start Python and torch takes longer than all of them.
MANY = """
import gc, os, sys
import msgspec, torch
from contextlib import nullcontext
from torch.nn.parallel import DistributedDataParallel
from commbench.spec.train import load
from commbench.training.job import Job
from commbench.training.plans import Session
from commbench.training.text import standard_library
from commbench.tune.plans import fsdp_plans, settings_of
from commbench.world.discover import discover
from commbench.world.torch import TorchWorld

world = TorchWorld(discover(os.environ))
rank = world.rank

def session(*overrides):
    spec = load(sys.argv[1], overrides)
    job = Job(spec, standard_library(spec.text), rank, 2, torch.device("cpu"))
    return Session(spec, world, lambda what, seconds: nullcontext(), job), job

told = {}
def keep(name, trial):
    if trial:
        told[name] = [trial.status, trial.why, trial.proof]

def alive():
    gc.collect()
    return sum(isinstance(one, DistributedDataParallel) for one in gc.get_objects())

ddp, job = session()
for k, settings in enumerate(({}, {"bucket_cap_mb": 0.05}, {"bucket_cap_mb_list": [0.02, 0.1], "static_graph": True})):
    keep(f"ddp {k}", ddp.trial(settings_of(settings)))
    told.setdefault("alive", []).append(alive())
keep("fp16", ddp.trial(settings_of({"hook": "fp16"})))
keep("powersgd", ddp.trial(settings_of({"hook": "powersgd"})))

whole = job.buckets
job.buckets = lambda kwargs, steps: whole({"bucket_cap_mb": 0.01}, steps)  # as if it had been asked for
keep("ignored", ddp.trial(settings_of({"bucket_cap_mb": 1})))
job.buckets = whole
step = job.step
job.step = lambda k: (step(k), rank and k == 6 and job.model.module.head.weight.data.add_(1))[0]
keep("apart", ddp.trial(()))
job.step = lambda k: step(k)._replace(loss=1.0)
keep("loss", ddp.trial(()))

sharded, job = session("parallel=fsdp2")
for plan in fsdp_plans(2):
    keep("fsdp2 " + plan.name, sharded.trial(plan.settings))
whole = job.sharding
from commbench.spec.train import Fsdp
job.sharding = lambda options: whole(Fsdp(blocks=2, reshard_after_forward=False))
keep("fsdp2 ignored", sharded.trial(()))
if rank == 0:
    open(sys.argv[2], "wb").write(msgspec.json.encode(told))
del ddp, sharded, job, step, whole
world.close()
"""


def test_a_trial_without_its_settings_or_with_other_numbers_is_void(tmp_path: Path) -> None:
    """And a wrapped model is gone when the next one is made."""
    (tmp_path / "many.py").write_text(MANY)
    spec = files(tmp_path)[1]
    ended = run([*TORCHRUN, str(tmp_path / "many.py"), spec, str(tmp_path / "told.json")])
    assert ended.code == 0, ended.err
    told: dict[str, Any] = json.loads((tmp_path / "told.json").read_text())
    assert told.pop("alive") == [1, 1, 1]
    void = {name: why for name, (status, why, _) in told.items() if status != "ok"}
    assert sorted(void) == ["apart", "fsdp2 ignored", "ignored", "loss"], void
    assert "DDP uses" in void["ignored"]
    assert "parameters differ" in void["apart"]
    assert "another loss" in void["loss"]
    assert "2 groups of blocks, 0 of them not resharded" in void["fsdp2 ignored"]
    proofs = [told[f"ddp {k}"][2] for k in range(3)]
    assert len(set(proofs)) == 3
    assert len({told[name][2] for name in told if name.startswith("fsdp2 blocks")}) > 3
