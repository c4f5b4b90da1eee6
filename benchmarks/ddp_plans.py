"""The bucket plan that tune finds in a real DDP job, against an exhaustive race of 12 plans in the same launch.

On the hosts of a lab topology (--topology local: on this machine, where nothing slows the network) the ranks first do
the search, as `commbench tune` does, then race 12 plans and the one that tune chose: every plan in every round, in a
random order. Reported: the gain of the best of 12 with its interval; tune's regret, where the best is chosen in one
half of the rounds and compared in the other; and the step that the model predicted for each plan before any ran.
"""

import json
import math
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import _common as common
import msgspec
import numpy as np

from commbench.jobs.plan import PlanRequest, read, work
from commbench.lab import launch as lab_launch
from commbench.measure import launch
from commbench.model.bucket_advice import DDP_CAPS
from commbench.model.buckets import ddp_buckets, fitted, predict
from commbench.records import Measurement
from commbench.report.plans import change
from commbench.spec.train import load
from commbench.training.plans import Session
from commbench.tune.candidates import Settings
from commbench.tune.evidence import Point, Trials
from commbench.tune.plans import Planned, caps_of, expected, found, settings_of
from commbench.tune.verdicts import judge
from commbench.world.discover import discover

CAPS = (0.5, 1, 2, 4, 5, 8, 10, 13, 25)  # MiB
NEAR = 0.15
FITTED = ("default", "cap 1", "cap 25")
RANK = "--as-a-rank"


def plans(planned: Planned) -> dict[str, Settings]:
    """Twelve, as far as they differ."""
    advised = next((one.settings for one in planned.plans if one.name == "list"), ())
    made: dict[str, Settings] = {"default": ()}
    made |= {f"cap {cap:g}": settings_of({"bucket_cap_mb": cap}) for cap in CAPS}
    made["a bucket a tensor"] = settings_of({"bucket_cap_mb": 0.000001})
    return made | ({"advice's list": advised} if advised else {})


def rank(folder: str, spec: str, budget: str, seed: str, rounds: str, *overrides: str) -> None:
    """One rank: the search, then every plan in every round."""
    out, rng = Path(folder), random.Random(int(seed))

    def race(session: Session, planned: Planned | None) -> None:
        chosen: dict[str, list[list[str]]] = {}
        if planned:
            choice = found(planned).choice
            chosen = {name: [list(one) for one in settings] for name, settings in plans(planned).items()}
            chosen["tune's"] = [list(one) for one in choice.settings] if choice else []
        chosen = session.share(chosen)
        different = {tuple((name, value) for name, value in settings): None for settings in chosen.values()}
        rows: list[Measurement] = []
        for k in range(int(rounds)):
            order = list(different)
            rng.shuffle(order)  # alike on all ranks: one seed
            for settings in order:
                measured = session.trial(settings)
                if measured:
                    rows.append(msgspec.structs.replace(measured, launch=k))
                    common.note(f"round {k + 1} of {rounds}: {dict(settings)} {np.median(measured.seconds):.3f} s")
        if planned:
            (out / "exhaustive.json").write_bytes(msgspec.json.encode(rows))

    request = PlanRequest(
        load(spec, overrides), out, "2000-01-01T00:00:00+00:00", tuple(sys.argv), float(budget), int(seed)
    )
    sys.exit(work(request, discover(os.environ), common.note, race))


def launched(topology: str, ranks: int, arguments: list[str]) -> None:
    """Runs this file on every rank, to its end."""
    mine = [str(Path(__file__).resolve()), RANK, *arguments]
    if topology == "local":
        command = launch.argv("torchrun", ranks, [], ("gloo",))
        code = subprocess.run([*command[:-2], *mine], check=False).returncode
    else:
        from commbench.lab.client import lab
        from commbench.spec.topology import load as load_topology

        with lab(load_topology(topology)) as net:
            command = lab_launch.argv(net, "torchrun", ranks, [], ("gloo",))
            code = subprocess.run([*command[:-2], *mine], check=False).returncode
    if code not in (0, 3):
        sys.exit(f"the ranks ended with {code}")


def regret(trials: Trials, point: Point, among: list[Settings], chosen: Settings) -> float:
    """How much longer a step takes with tune's plan than with the best: chosen in half of the rounds, compared in the
    other, both ways."""
    logs = trials.logs[point]
    sound = [one for one in among if (point, one) not in trials.void]
    every = sorted(logs[()])
    shares = []
    for half in (0, 1):
        seen, judged = every[half::2], every[1 - half :: 2]
        best = min(sound, key=lambda one: np.mean([logs[one][k] for k in seen]))
        shares.append(np.mean([logs[chosen][k] - logs[best][k] for k in judged]))
    return float(np.expm1(np.mean(shares)))


def predictions(planned: Planned, made: dict[str, Settings], measured: dict[Settings, float]) -> dict[str, Any]:
    """Predicted over measured for each plan; nothing of it was fitted. `fitted`: two slowdowns and the rest of the step
    from three measured plans, judged on the others alone."""
    bare = {name: (expected(planned, settings) or math.nan) / measured[settings] for name, settings in made.items()}
    assert planned.backward is not None
    assert planned.cost is not None
    cut = {name: ddp_buckets(planned.backward, caps_of(settings) or DDP_CAPS) for name, settings in made.items()}
    cost, rest = fitted(planned.backward, planned.cost.alone, [(cut[name], measured[made[name]]) for name in FITTED])
    backward = msgspec.structs.replace(planned.backward, rest=rest)
    corrected = {
        name: predict(backward, cost, buckets).step / measured[made[name]]
        for name, buckets in cut.items()
        if name not in FITTED
    }
    return {"predicted": bare, "fitted": corrected}


def within(ratios: dict[str, float]) -> float:
    return sum(abs(one - 1) <= NEAR for one in ratios.values()) / len(ratios)


def report(planned: Planned, rows: list[Measurement]) -> dict[str, Any]:
    trials = Trials(rows)
    (point,) = trials.logs
    made = {name: one for name, one in plans(planned).items() if (point, one) not in trials.void}
    choice = found(planned).choice
    chosen = choice.settings if choice else ()
    measured = {one: math.exp(trials.log_time(point, one)) for one in {*made.values(), chosen}}
    ratios = predictions(planned, made, measured)
    judged = judge(trials)[point]
    best = min(made, key=lambda name: measured[made[name]])
    table = []
    for name, settings in made.items():
        ratio = judged[settings].ratio if settings in judged else None
        shown = change(ratio) if ratio else ""
        fit = ratios["fitted"].get(name)
        table.append(
            (
                name,
                f"{measured[settings] * 1e3:.0f}",
                shown,
                f"{ratios['predicted'][name]:.2f}",
                f"{fit:.2f}" if fit else "",
            )
        )
    common.table(("plan", "step ms", "against the default", "predicted/measured", "fitted/measured"), table)
    for (_, settings), why in trials.void.items():
        print(f"void: {settings}: {why}")
    lost = regret(trials, point, list(made.values()), chosen)
    ratio = judged[made[best]].ratio if made[best] in judged else None
    gain = (-math.expm1(ratio.high), -math.expm1(ratio.log_ratio), -math.expm1(ratio.low)) if ratio else (0.0, 0.0, 0.0)
    told = choice.gain if choice and choice.gain else None
    print(
        f"best of {len(made)}: {best}, gain {gain[1]:.1%} "
        f"(step {change(ratio) if ratio else 'unchanged'}, all intervals together)"
    )
    said = f"gain {told[1]:.1%} ({told[0]:.1%} to {told[2]:.1%})" if told else "keep the default"
    print(f"tune: {dict(chosen) or 'the default'}, {said}, in {planned.seconds:.0f} s and {len(planned.trials)} trials")
    print(f"Verdict: regret {lost:+.1%} (at most 3 %): {'reached' if lost <= 0.03 else 'NOT reached'}")
    shown = gain[0] > 0 and gain[1] >= 0.1
    verified = bool(told and told[0] > 0 and told[1] >= 0.1)
    print(
        "Verdict: "
        + (
            f"a gain of 10 % is there, and tune {'proved it' if verified else 'did NOT prove it'}"
            if shown
            else f"no gain of 10 % is shown here, and tune says: {said}"
        )
    )
    for key, what in (
        ("predicted", "nothing fitted"),
        ("fitted", f"fitted to {', '.join(FITTED)}, judged on the others"),
    ):
        print(f"Verdict: within 15 % of the measured step ({what}): {within(ratios[key]):.0%} of plans (aim: 80 %)")
    return {"regret": lost, "gain": gain, "tune": told, "best": best, **ratios}


def main() -> None:
    parser = common.parser(__doc__, repeats=8)
    parser.add_argument("--topology", default="star4", help="a lab topology, or local (default star4)")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--spec", default="ddp-star4", help="a training spec (default ddp-star4)")
    parser.add_argument("--budget", type=float, default=300.0, help="seconds for tune (default 300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a field of the spec")
    parser.add_argument("--folder", type=Path, help="keep what was measured there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="commbench-") as name:
        folder = (given.folder or Path(name) / "run").resolve()
        if not (folder / "exhaustive.json").exists():  # what was measured before is only read
            launched(
                given.topology,
                given.ranks,
                [str(folder), given.spec, str(given.budget), str(given.seed), str(given.repeats), *given.set],
            )
        rows = msgspec.json.decode((folder / "exhaustive.json").read_bytes(), type=list[Measurement])
        figures = report(read(folder), rows)
    common.finish(given.json, json.loads(json.dumps(figures)))


if __name__ == "__main__":
    if RANK in sys.argv:
        rank(*sys.argv[sys.argv.index(RANK) + 1 :])
    main()
