"""Is a training job faster with a recommendation than without it? Restarts in, a verdict with intervals out.

The unit is the restart: steps of one restart share its memory, placement and neighbours. Each restart is one figure,
the median of its steps, and the intervals are those of `commbench.stats.ratios`. Both sides are interleaved
in random order, so drift widens the interval and favours no side.

Two questions are asked of one set of restarts (is it faster, does it still learn the same), and what may be wrong is
split between them: `confidence` holds for both answers together.

Losses are compared as means over four stretches of the curve, as a share of the first side's mean loss. The
noise is that between restarts of the same side: another seed in every round, where the job obeys COMMBENCH_SEED.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec
import numpy as np

from commbench.records.recommendation import FLAGS, BucketPlan
from commbench.stats.compare import Effect, verdicts
from commbench.stats.ratios import log_ratios

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Side = Literal["default", "recommended"]
SIDES: tuple[Side, Side] = ("default", "recommended")
MIN_ROUNDS = 3  # two restarts a side leave two degrees of freedom, which find nothing small
MIN_STEPS = 3  # that count, in a restart
STRETCHES = 4  # of a loss curve
_LOSS_SHARE = 0.2  # of what may be wrong, for the losses
_LOSS_EFFECT = 1e-3  # of the mean loss: the least change of the curve that is told
_BARE = 1e-4  # of the mean loss: restarts that differ by less show no noise that could be that of a seed


class Restart(msgspec.Struct, frozen=True, kw_only=True):
    """One start of the user's job.

    seconds   of each step in order, on its slowest rank
    losses    of the same steps, mean over the ranks that told one; None where none did. () for a job without
    tokens    of all steps and ranks together; None: not told
    world     ranks; None: not told
    seen      settings that were asked for -> the values that ranks saw (empty text: not set). None: ranks told nothing
    buckets   bytes of each DDP bucket as they were in the end; () not told
    applied   what else DDP or FSDP2 says it was built with: {"static_graph": "true", "modules": "blocks.0,blocks.1"}
    dtypes    of the gradients; () not told
    facts     of the hosts, as all ranks tell them alike: {"cpu": ...}
    code      the exit code; None: it was stopped
    why       it is no answer; "" where it is one
    """

    side: Side
    round: int
    seconds: tuple[float, ...] = ()
    losses: tuple[float | None, ...] = ()
    tokens: int | None = None
    world: int | None = None
    seen: dict[str, tuple[str, ...]] | None = None
    buckets: tuple[int, ...] = ()
    applied: dict[str, str] = {}
    dtypes: tuple[str, ...] = ()
    facts: dict[str, str] = {}
    code: int | None = None
    wall_seconds: float
    why: str = ""


class Losses(msgspec.Struct, frozen=True, kw_only=True):
    """What the recommendation does to the loss curve.

    verdict   same: no stretch differs by more than 0.1 % of the mean loss and than the noise allows.
              higher, lower: one does. bare: it differs by more, and the restarts of a side do not differ at all, so the
              noise between seeds is not known. untold: the job told no losses
    changes   of each stretch: (change, half its interval), as shares of the mean loss of the default
    """

    verdict: Literal["same", "higher", "lower", "bare", "untold"] = "untold"
    changes: tuple[tuple[float, float], ...] = ()


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """`speed` is the ratio of step times, recommended / default, with its interval; None where there is no answer.

    void      why there is no answer at all
    doubts    why a gain that was seen does not count as proved
    effect    confirmed: the ranks of both sides told what they saw, the recommended ones every setting, and what DDP or
              FSDP2 made of a plan; untold: they did not, so a gain is a doubt
    """

    speed: Effect | None = None
    step_seconds: tuple[float, float] | None = None  # default, recommended: geometric mean over restarts
    restarts: tuple[int, int] = (0, 0)
    losses: Losses = Losses()
    effect: Literal["confirmed", "untold"] = "untold"
    void: str = ""
    doubts: tuple[str, ...] = ()

    @property
    def verdict(self) -> Literal["proved", "worse", "same", "unsure", "void"]:
        if self.void or self.speed is None:
            return "void"
        if self.speed.verdict == "slower" or self.losses.verdict == "higher":
            return "worse"
        if self.speed.verdict == "faster":
            return "unsure" if self.doubts else "proved"
        return "same" if self.speed.verdict == "same" else "unsure"

    @property
    def code(self) -> int:
        """0 proved, 1 worse, 3 neither."""
        return {"proved": 0, "worse": 1}.get(self.verdict, 3)


def judge(
    restarts: Sequence[Restart],
    wanted: "dict[str, str]",
    *,
    plans: Sequence[BucketPlan] = (),
    skip: int = 5,
    min_effect: float = 0.01,
    confidence: float = 0.95,
) -> Judgement:
    """The verdict on interleaved restarts. `wanted`: the settings of the recommendation; `plans`: its bucket plans, of
    which the job takes one.

    The first `skip` steps of each restart do not count.
    """
    sides = _Sides(*([one for one in restarts if one.side == side] for side in SIDES))
    counts = (len(sides.default), len(sides.recommended))
    void = next(_void(sides, wanted, plans, skip), "")
    if void:
        return Judgement(void=void, restarts=counts)
    medians, means = (
        [np.array([[f(one.seconds[skip:]) for one in side]]) for side in sides] for f in (_log_median, _log_mean)
    )
    log_ratio, half = log_ratios(medians[0], medians[1], 1 - (1 - confidence) * (1 - _LOSS_SHARE))
    (verdict,) = verdicts(log_ratio, half, min_effect)
    ratio, width = float(log_ratio[0]), float(half[0])
    speed = Effect(
        ratio=math.exp(ratio),
        low=math.exp(ratio - width),
        high=math.exp(ratio + width),
        verdict=verdict,
        basis="launches",
    )
    losses = _losses(sides, 1 - (1 - confidence) * _LOSS_SHARE)
    silent = _silent(sides, plans)
    doubts = []
    if verdict == "faster" and silent:
        doubts.append(silent)
    if verdict == "faster" and float(means[1].mean() - means[0].mean()) >= 0:
        doubts.append("the median step is faster, the mean step is not: some steps became much slower")
    if losses.verdict == "lower":
        doubts.append("the loss curve is lower, beyond the noise between restarts: it is not the same training")
    if losses.verdict == "bare":
        doubts.append(
            "the loss curve changes, and restarts of one side do not differ at all, so the noise between seeds is not "
            "known: let the job take its seed from COMMBENCH_SEED"
        )
    return Judgement(
        speed=speed,
        step_seconds=(math.exp(medians[0].mean()), math.exp(medians[1].mean())),
        restarts=counts,
        losses=losses,
        effect="untold" if silent else "confirmed",
        doubts=tuple(doubts),
    )


def _silent(sides: "_Sides", plans: Sequence[BucketPlan]) -> str:
    """What is not known of the effect, and how it would be; "" where it is confirmed."""
    every = [*sides.default, *sides.recommended]
    if any(one.seen is None for one in every):
        return (
            "nothing shows that the ranks ran with the settings, so the gain may be something else: make a "
            "commbench.StepRecorder() in the job, beside --step-regex too, which writes down what each rank sees"
        )
    if plans and not any(all(_tells(one, plan) for one in every) for plan in plans):
        return (
            "nothing shows what became of the plan, so the gain may be something else: call recorder.ddp(model) of "
            "commbench.StepRecorder after some steps"
        )
    return ""


def _asked(plan: BucketPlan) -> dict[str, str]:
    """What a plan changes beside sizes, as `Restart.applied` tells it."""
    found = {name: str(value).lower() for name in FLAGS if (value := getattr(plan, name)) is not None}
    found |= {"hook": plan.hook} if plan.hook else {}
    if plan.modules:
        found |= {"modules": ",".join(plan.modules), "prefetch": str(plan.prefetch or 0)}
        if plan.reshard_after_forward is not None:
            found["reshard_after_forward"] = str(plan.reshard_after_forward).lower()
    return found


def _tells(one: Restart, plan: BucketPlan) -> bool:
    """Whether it shows all that the plan is about."""
    return bool(one.buckets or not plan.bucket_bytes) and set(_asked(plan)) <= set(one.applied)


def _made(one: Restart, plan: BucketPlan) -> tuple[object, ...]:
    """What it made of all that the plan is about."""
    return (plan.bucket_bytes and one.buckets, *(one.applied.get(name) for name in _asked(plan)))


def _log_median(seconds: Sequence[float]) -> float:
    return math.log(float(np.median(seconds)))


def _log_mean(seconds: Sequence[float]) -> float:
    return math.log(float(np.mean(seconds)))


class _Sides(NamedTuple):
    default: list[Restart]
    recommended: list[Restart]


_WORDS = {"default": "without the recommendation", "recommended": "with the recommendation"}


def _void(sides: _Sides, wanted: "dict[str, str]", plans: Sequence[BucketPlan], skip: int) -> Iterator[str]:
    """Why these restarts give no answer; the first reason is the one that is told."""
    every = [*sides.default, *sides.recommended]
    for bad in (one for one in every if one.why):
        others = [one for one in every if one.side != bad.side]
        well = sum(not one.why for one in others)
        beside = f"; {_WORDS[others[0].side]} {well} of {len(others)} ended well" if others else ""
        yield f"round {bad.round + 1}, {_WORDS[bad.side]}: {bad.why}{beside}"
    if (fewest := min(map(len, sides))) < MIN_ROUNDS:
        yield f"{fewest} round{'s' * (fewest != 1)} of both sides; {MIN_ROUNDS} are the least that can decide"
    yield from _unlike(sides, "ranks", [[one.world for one in side] for side in sides], "")
    hint = "; give the job a fixed number of steps"
    yield from _unlike(sides, "steps", [[len(one.seconds) for one in side] for side in sides], hint)
    if (steps := len(every[0].seconds)) < skip + MIN_STEPS:
        yield f"{steps} steps, of which the first {skip} do not count (--skip-steps); {skip + MIN_STEPS} are needed"
    yield from _unlike(sides, "tokens", [[one.tokens for one in side] for side in sides], "")
    for one in sides.recommended:
        for name, value in wanted.items() if one.seen is not None else ():
            values = one.seen.get(name, ()) if one.seen else ()
            if set(values) != {value}:
                other = ", ".join(repr(v) if v else "nothing" for v in values) or "nothing"
                yield (
                    f"{name}={value} did not reach the ranks, which saw {other}: let the launcher pass it on "
                    "(mpirun -x NAME, srun --export=ALL), and do not set it in the job"
                )
    for one in sides.default:
        for name, values in (one.seen or {}).items():
            if wanted.get(name) in values:
                yield f"{name}={wanted[name]} was seen by ranks of the default side, too: the job sets it by itself"
    yield from _not_taken(sides, plans)


def _not_taken(sides: _Sides, plans: Sequence[BucketPlan]) -> Iterator[str]:
    """Where both sides made the same of all that a plan is about, or the recommended one something else."""
    every = [*sides.default, *sides.recommended]
    alike = []
    for plan in plans:
        base, new = ({_made(one, plan) for one in side} for side in sides)
        alike.append(base == new and all(_tells(one, plan) for one in every))
    if plans and all(alike):
        what = "buckets of DDP are" if any(plan.bucket_bytes for plan in plans) else "settings of the plan are"
        yield f"the {what} the same on both sides: does the job pass commbench.ddp_kwargs() on to DDP?"
    for plan in plans if len(plans) == 1 else ():
        for name, value in _asked(plan).items():
            told = sorted({one.applied[name] for one in sides.recommended if name in one.applied})
            if wrong := [one for one in told if not (value in one.lower() if name == "hook" else value == one)]:
                yield f"{name}={value} of the plan is not in effect: the job has {wrong[0] or 'none'}"


def _unlike(sides: _Sides, what: str, values: Sequence[Sequence[int | None]], hint: str) -> Iterator[str]:
    found = [sorted({-1 if value is None else value for value in side}) for side in values]
    if len({*found[0], *found[1]}) > 1:
        said = [" or ".join("unknown" if v < 0 else str(v) for v in side) for side in found]
        yield f"not the same work: {said[0]} {what} without the recommendation, {said[1]} with it{hint}"


def _losses(sides: _Sides, confidence: float) -> Losses:
    """What the recommendation does to the loss curve; all stretches together at this confidence."""
    curves = [np.array([[math.nan if x is None else x for x in one.losses] for one in side]) for side in sides]
    if curves[0].size == 0 or curves[1].size == 0 or curves[0].shape[1] != curves[1].shape[1]:
        return Losses()
    told = ~np.isnan(curves[0]).all(axis=0)  # steps in which the default tells a loss at all
    if told.sum() < STRETCHES:
        return Losses()
    curves = [curve[:, told] for curve in curves]
    if not np.isfinite(curves[0]).all():
        return Losses()  # no curve to compare with
    if not np.isfinite(curves[1]).all():
        return Losses(verdict="higher")  # it diverged, or stopped to tell
    scale = float(np.abs(curves[0]).mean()) or 1.0
    base, new = (
        np.array([part.mean(axis=1) for part in np.array_split(curve, STRETCHES, axis=1)]) / scale for curve in curves
    )
    change, half = log_ratios(base, new, confidence)
    beyond = (np.abs(change) > half) & (np.abs(change) > _LOSS_EFFECT)
    changes = tuple(zip(change.tolist(), half.tolist(), strict=True))
    if not beyond.any():
        return Losses(verdict="same", changes=changes)
    if max(float(np.ptp(side, axis=1).max()) for side in (base, new)) < _BARE:
        return Losses(verdict="bare", changes=changes)
    last = int(np.flatnonzero(beyond)[-1])  # where training ends counts most
    return Losses(verdict="higher" if change[last] > 0 else "lower", changes=changes)
