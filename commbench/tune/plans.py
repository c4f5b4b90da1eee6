"""Bucket plans as candidates of a race, and what the race proves. Pure: what was measured in, a recommendation out.

One point is raced, the training step. Its candidates are arguments of DDP or FSDP2, in the order in which the model
puts them; the search and its statistics are those of every other search (commbench.tune.search, .verdicts).
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from commbench.model.bucket_advice import MIB, Advice
from commbench.model.buckets import ddp_buckets, predict
from commbench.model.curve import Cost
from commbench.model.step import Backward
from commbench.records import Case, Machine, Measurement
from commbench.records.recommendation import FLAGS, BucketPlan, Numerics, Recommendation, facts_of, versions_of
from commbench.tune.candidates import Candidate, Settings
from commbench.tune.evidence import Point, Trials
from commbench.tune.recommend import expires
from commbench.tune.search import Report
from commbench.tune.verdicts import LOOKS, USUAL, Choice, Judged, choices, judge

NAME = "plan.json"
OP = "training_step"
GENERIC = (1.0, 2.0, 5.0, 10.0, 25.0)  # MiB, where no model orders them


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate: settings of the race, and the step that the model expects (seconds; None: no model)."""

    name: str
    settings: Settings = ()
    predicted: float | None = None
    low: float | None = None
    high: float | None = None


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """plan.json: a search for a bucket plan in a real job.

    backward   when gradients are ready with nothing sent, from the beginning of the step: the forward pass is in it
    cost       the collective's time idle and beside computing, and how much it slows computing (gamma)
    slowdowns  gamma as each sample beside a collective told it
    plans      the candidates in the order of the model, the default among them
    trials     a Measurement each, the settings in its case, its round in `launch`, in `proof` what DDP made of them
    search     what the race cost and left open; None where there was none
    dtype      of the gradients, several joined by +; "" in the file of an older search
    wrong      elements of the measured collectives that were not the right sum
    """

    format: int = 1
    name: str
    created: str
    commbench: str
    spec: dict[str, Any]
    seed: int
    machine: Machine
    command: tuple[str, ...] = ()
    text_sha256: str
    parameters: int
    dtype: str = ""
    modules: tuple[str, ...] = ()
    backward: Backward | None = None
    cost: Cost | None = None
    slowdowns: tuple[float, ...] = ()
    wrong: int = 0
    keep: str = ""
    tail: float | None = None
    floor: float | None = None
    notes: tuple[str, ...] = ()
    plans: tuple[Plan, ...]
    trials: tuple[Measurement, ...]
    budget: float
    seconds: float
    search: Report | None = None


def case_of(spec: Mapping[str, Any], nbytes: int) -> Case:
    return Case(op=OP, backend=spec["backend"], nbytes=nbytes)


# -- settings ------------------------------------------------------------------------------------------------------


def settings_of(kwargs: Mapping[str, Any]) -> Settings:
    """Arguments as the race writes them: {"bucket_cap_mb_list": [1, 2.5]} is (("bucket_cap_mb_list", "1,2.5"),)."""
    return tuple(sorted((name, _text(value)) for name, value in kwargs.items()))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(f"{one:.12g}" for one in value) if isinstance(value, list | tuple) else str(value)


def kwargs_of(settings: Settings) -> dict[str, Any]:
    """The other way; `hook` is no argument of DDP and stays a name."""
    return {name: _value(name, value) for name, value in settings}


def _value(name: str, text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    if name == "bucket_cap_mb_list":
        return [float(one) for one in text.split(",")]
    if name == "hook":
        return text
    return float(text) if name == "bucket_cap_mb" else int(text)


def caps_of(settings: Settings) -> tuple[int, ...]:
    """Bytes of the caps that are set; () where DDP's own are in use."""
    kwargs = kwargs_of(settings)
    if "bucket_cap_mb_list" in kwargs:
        return tuple(int(cap * MIB) for cap in kwargs["bucket_cap_mb_list"])
    return (int(kwargs["bucket_cap_mb"] * MIB),) if "bucket_cap_mb" in kwargs else ()


# -- candidates ----------------------------------------------------------------------------------------------------


def ddp_plans(advice: Advice | None, present: Mapping[str, Any], hook: str) -> tuple[Plan, ...]:
    """The default, the advice's candidates in its order (generic caps without one), what the spec itself sets, and
    further arguments of the best. Where the advice sees nothing to gain: the default and the best other one."""
    if advice is None:
        plans = [Plan(name="default")]
        plans += [Plan(name=f"cap {cap:g}", settings=settings_of({"bucket_cap_mb": cap})) for cap in GENERIC]
    else:
        plans = [
            Plan(
                name=one.name,
                settings=settings_of(one.settings),
                predicted=one.prediction.step,
                low=one.prediction.low,
                high=one.prediction.high,
            )
            for one in advice.candidates
        ]
        if advice.keep:
            plans = [one for one in plans if not one.settings] + [one for one in plans if one.settings][:1]
    best = next((one for one in plans if one.settings), plans[0])
    if advice is None or not advice.keep:
        plans += [_also(best, {flag: True}) for flag in FLAGS]
    if hook:
        plans += [_also(one, {"hook": hook}, known=False) for one in dict.fromkeys((Plan(name="default"), best))]
    if present and (own := settings_of(present)) not in [one.settings for one in plans]:
        plans.append(Plan(name="as in the spec", settings=own))
    return tuple(plans)


def _also(plan: Plan, more: Mapping[str, Any], known: bool = True) -> Plan:
    """`known`: the model expects the same step with it."""
    name = " + ".join((plan.name, *(str(value) if key == "hook" else key for key, value in more.items())))
    settings = tuple(sorted((*plan.settings, *settings_of(more))))
    if not known:
        return Plan(name=name, settings=settings)
    return msgspec.structs.replace(plan, name=name, settings=settings)


def fsdp_plans(blocks: int) -> tuple[Plan, ...]:
    """Groups of 1, 2, 4 ... blocks, whether they are freed after the forward pass, groups fetched ahead."""
    counts = [2**k for k in range(10) if 2**k < blocks] + [blocks]
    found: dict[Settings, Plan] = {(): Plan(name="default")}
    for reshard in (True, False):
        for count in counts:
            for ahead in (0, 1, 2):
                if ahead >= math.ceil(blocks / count) and ahead:
                    continue
                changed = {"blocks": count, "prefetch": ahead, "reshard_after_forward": reshard}
                usual = {"blocks": 1, "prefetch": 0, "reshard_after_forward": True}
                settings = settings_of({key: value for key, value in changed.items() if value != usual[key]})
                name = f"blocks by {count}, {ahead} ahead" + ("" if reshard else ", kept gathered")
                found.setdefault(settings, Plan(name=name, settings=settings))
    return tuple(found.values())


def race(plans: Sequence[Plan]) -> tuple[Candidate, ...]:
    """As the search wants them; it sorts what it has no formula for by name, which is their place here."""
    return tuple(Candidate(f"{k:03}", one.settings) for k, one in enumerate(plans))


def expected(planned: Planned, settings: Settings) -> float | None:
    """The step that the model expects with any caps, in seconds; None without a model."""
    if planned.backward is None or planned.cost is None:
        return None
    from commbench.model.bucket_advice import DDP_CAPS

    buckets = ddp_buckets(planned.backward, caps_of(settings) or DDP_CAPS)
    return predict(planned.backward, planned.cost, buckets).step


# -- what was proved -----------------------------------------------------------------------------------------------


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What the trials say: the choice, every candidate against the default, its median step in us, the void ones."""

    choice: Choice | None
    judged: dict[Settings, Judged]
    times_us: dict[Settings, float]
    void: dict[Settings, str]

    @property
    def decided(self) -> bool:
        """Whether there was an honest comparison: a proof, or enough trials to call the rest a tie."""
        choice = self.choice
        if choice is None or choice.default_us is None or not self.judged:
            return False
        most = max(one.ratio.trials for one in self.judged.values())
        return bool(choice.settings) or most >= LOOKS[0] or (most > 1 and not choice.uncertain)


def found(planned: Planned) -> Found:
    trials = Trials(planned.trials)
    if not trials.logs:
        return Found(choice=None, judged={}, times_us={}, void={})
    point: Point = next(iter(trials.logs))
    (choice,) = choices(trials, USUAL)
    return Found(
        choice=choice,
        judged=judge(trials, USUAL)[point],
        times_us={
            s: us for s in trials.tried(point) if not math.isnan(us := math.exp(trials.log_time(point, s)) * 1e6)
        },
        void={settings: why for (_, settings), why in trials.void.items()},
    )


def recommend(planned: Planned) -> Recommendation:
    """The recommendation that follows from plan.json and nothing else."""
    seen = found(planned)
    choice = seen.choice
    bucket = _with_uniform(planned, choice, seen) if choice and choice.settings else None
    notes = list(planned.notes)
    notes += [choice.uncertain] if choice and choice.uncertain else []
    notes += [f"void: {name_of(planned, settings)}: {why}" for settings, why in sorted(seen.void.items())]
    return Recommendation(
        name=planned.name,
        created=planned.created,
        expires=expires(planned.created),
        machine=_facts(planned),
        versions=versions_of(planned.machine),
        data_sha256=hashlib.sha256(msgspec.json.encode(planned)).hexdigest(),
        buckets=(bucket,) if bucket else (),
        keep_default="" if bucket else _why_keep(planned, seen),
        notes=tuple(notes),
    )


def _facts(planned: Planned) -> dict[str, str]:
    """A job of the user's own does not tell how its ranks lie on hosts: what is not known is left out."""
    unknown = ("hosts", "ranks_per_host") if planned.spec.get("backend") == "job" else ()
    return {name: value for name, value in facts_of(planned.machine).items() if name not in unknown}


def _dtype(planned: Planned) -> str:
    """The reference job's gradients are float32; those of another job are not known unless it tells."""
    return planned.dtype or ("unknown" if planned.spec.get("backend") == "job" else "float32")


def name_of(planned: Planned, settings: Settings) -> str:
    return next((one.name for one in planned.plans if one.settings == settings), str(settings))


def _why_keep(planned: Planned, seen: Found) -> str:
    if not seen.decided:
        left = "; ".join(planned.search.left_out) if planned.search else ""
        why = (seen.choice and seen.choice.uncertain) or left or "no trial of the default and another plan is valid"
        return f"nothing was decided: {why}"
    best = min(seen.judged.values(), key=lambda one: one.ratio.log_ratio)
    change = f"{name_of(planned, best.settings)} changes the step by {math.expm1(best.ratio.log_ratio):+.1%}"
    if not math.isnan(best.ratio.half):
        change += f" ({math.expm1(best.ratio.low):+.1%} to {math.expm1(best.ratio.high):+.1%})"
    head = f"{planned.keep}; measured" if planned.keep else "no plan is proved to save more than 2 % of the step"
    open_ = seen.choice.uncertain if seen.choice else ""
    more = "; the budget ended before that was settled: a larger --budget goes on" if open_ and _ended(planned) else ""
    return f"{head}: the best of {len(seen.judged)}, {change}{more}"


def _ended(planned: Planned) -> bool:
    return planned.search is not None and any("budget" in one for one in planned.search.left_out)


def _with_uniform(planned: Planned, choice: Choice, seen: Found) -> BucketPlan:
    """The plan; where it is more than one size, with the best single size that is proved too."""
    plan = _bucket_plan(planned, choice, seen.judged[choice.settings])
    sizes = [
        one
        for s, one in seen.judged.items()
        if [name for name, _ in s] == ["bucket_cap_mb"] and one.verdict == "faster"
    ]
    if plan.one_size or not sizes:
        return plan
    best = min(sizes, key=lambda one: one.ratio.log_ratio)
    return msgspec.structs.replace(plan, uniform=_bucket_plan(planned, choice, best))


def _bucket_plan(planned: Planned, choice: Choice, one: Judged) -> BucketPlan:
    """A plan that is proved, as the recommendation has it; `choice` tells the point and the default's time."""
    assert choice.default_us is not None
    kwargs = kwargs_of(one.settings)
    hook = kwargs.get("hook", "")
    numerics: Numerics = "changes-convergence" if hook else "bitwise-changing"
    plan = BucketPlan(
        model=planned.spec["model"],
        ranks=planned.machine.size,
        bucket_bytes=caps_of(one.settings),
        dtype=_dtype(planned),
        parameters=planned.parameters,
        baseline_us=choice.default_us,
        step_us=choice.default_us * math.exp(one.ratio.log_ratio),
        gain_low=1 - math.exp(one.ratio.high),
        gain=1 - math.exp(one.ratio.log_ratio),
        gain_high=1 - math.exp(one.ratio.low),
        tail_us=None if planned.tail is None else planned.tail * 1e6,
        gradient_as_bucket_view=kwargs.get("gradient_as_bucket_view"),
        static_graph=kwargs.get("static_graph"),
        hook=hook,
        evidence=(msgspec.structs.replace(choice.point.case, settings=one.settings).key, choice.point.case.key),
        numerics=numerics,
    )
    if planned.spec.get("parallel") != "fsdp2":
        return plan
    step = kwargs.get("blocks", 1)
    groups = [planned.modules[k : k + step] for k in range(0, len(planned.modules), step)]
    return msgspec.structs.replace(
        plan,
        modules=tuple("+".join(group) for group in groups),
        prefetch=kwargs.get("prefetch", 0),
        reshard_after_forward=kwargs.get("reshard_after_forward", True),
    )
