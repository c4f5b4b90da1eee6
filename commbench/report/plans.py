"""What a search for a bucket plan found, as sentences: plans, what is recommended, what the tail costs."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import msgspec

from commbench.emit import frameworks
from commbench.emit.target import Line, Place
from commbench.errors import SpecError
from commbench.records.recommendation import BucketPlan, Recommendation
from commbench.report.findings import safe
from commbench.tune.candidates import Settings
from commbench.tune.evidence import Interval
from commbench.tune.plans import Found, Planned, found, name_of
from commbench.units import format_time

_HEAD = ("plan", "predicted", "measured", "change of the step", "trials")


def text(planned: Planned, recommendation: Recommendation, folder: Path | None = None) -> Iterator[str]:
    """The answer first, then every plan, then what no plan can change and what the search cost; the folder at last."""
    seen = found(planned)
    yield from _answer(planned, recommendation)
    yield ""
    yield from table(planned, seen)
    yield from (f"# void: {name_of(planned, s)}: {safe(why)}" for s, why in sorted(seen.void.items()))
    yield ""
    yield from _job(planned)
    if planned.search:
        yield from (f"# {line}" for line in planned.search.lines())
    yield from (f"# note: {safe(note)}" for note in planned.notes)
    if folder:
        yield f"# folder: {folder}"


def as_json(planned: Planned, recommendation: Recommendation, **more: object) -> str:
    """`{"schema": 1, "decided": ..., "plans": [...], "recommendation": {...}}`; plan.json has the trials.

    `more`: entries of the caller's own, after these.
    """
    seen = found(planned)
    rows = [
        {
            "name": plan.name,
            "settings": dict(plan.settings),
            "predicted_seconds": plan.predicted,
            "measured_seconds": us / 1e6 if (us := seen.times_us.get(plan.settings)) else None,
            **_ratio(seen, plan.settings),
            "void": seen.void.get(plan.settings),
        }
        for plan in planned.plans
    ]
    told = {
        "schema": 1,
        "decided": seen.decided,
        "plans": rows,
        "tail_seconds": planned.tail,
        "seconds": planned.seconds,
        "recommendation": msgspec.to_builtins(recommendation),
        **more,
    }
    return json.dumps(told, indent=1)


def _ratio(seen: Found, settings: Settings) -> dict[str, float | int | None]:
    """Its step over the default's, with the interval that holds for all plans together."""
    ratio = seen.judged[settings].ratio if settings in seen.judged else None
    known = ratio is not None and not math.isnan(ratio.half)
    return {
        "ratio": math.exp(ratio.log_ratio) if ratio and not math.isnan(ratio.log_ratio) else None,
        "ratio_low": math.exp(ratio.low) if ratio and known else None,
        "ratio_high": math.exp(ratio.high) if ratio and known else None,
        "trials": ratio.trials if ratio else None,
    }


def _answer(planned: Planned, recommendation: Recommendation) -> Iterator[str]:
    if not recommendation.buckets:
        why = recommendation.keep_default
        yield (
            f"Nothing was decided: {why.partition(': ')[2]}"
            if not found(planned).decided
            else f"Keep the default: {why}"
        )
        return
    plan = recommendation.buckets[0]
    yield (
        f"Proved: the step takes {_share(plan.gain)} less with {name_of(planned, _settings(planned))} "
        f"({_share(plan.gain_low)} to {_share(plan.gain_high)}), {format_time(plan.step_us / 1e6)} in the place of "
        f"{format_time(plan.baseline_us / 1e6)}"
    )
    yield from (f"  {line}" for line in _uses(planned, plan, recommendation))


def _settings(planned: Planned) -> Settings:
    choice = found(planned).choice
    return choice.settings if choice else ()


def _uses(planned: Planned, plan: BucketPlan, recommendation: Recommendation) -> Iterator[str]:
    """The same plan in the words of each framework that has words for it."""
    if planned.spec.get("parallel") == "fsdp2":
        kept = "" if plan.reshard_after_forward else ", reshard_after_forward=False"
        yield f"FSDP2: fully_shard each of {', '.join(plan.modules)}{kept}; {plan.prefetch} groups fetched ahead"
        return
    said = [f"{name}={_python(value)}" for name, value in _settings(planned) if name != "hook"]
    yield f"DDP: DistributedDataParallel(model, {', '.join(said)})" if said else "DDP: no argument changes"
    if plan.hook:
        yield f"hook {plan.hook}: it was asked for; it changes the numbers that are summed, so compare the loss"
    if not plan.bucket_bytes or plan.hook:
        return
    for name, emit in (("DeepSpeed", frameworks.deepspeed), ("Megatron", frameworks.megatron)):
        try:
            yield f"{name}: {_short(emit(recommendation, _NOWHERE))} (raced as DDP's: measure it there)"
        except SpecError as error:
            yield f"{name}: {error}"


_NOWHERE = Place(Path(), "")


def _python(value: str) -> str:
    if value in ("true", "false"):
        return value.capitalize()
    return f"[{value.replace(',', ', ')}]" if "," in value else value


def _short(lines: list[Line]) -> str:
    """The whole file in one line, without its reasons."""
    return " ".join(line.text.strip() for line in lines if line.text.strip())


def table(planned: Planned, seen: Found) -> Iterator[str]:
    """One row a plan in the order of the model."""
    rows: list[tuple[str, ...]] = [_HEAD]
    for plan in planned.plans:
        measured, judged = seen.times_us.get(plan.settings), seen.judged.get(plan.settings)
        if plan.settings in seen.void:
            said, trials = "void", ""
        elif not plan.settings:
            said, trials = "", str(_rounds(planned))
        else:
            said = change(judged.ratio) if judged else "not raced"
            trials = str(judged.ratio.trials) if judged else ""
        rows.append(
            (
                plan.name,
                format_time(plan.predicted) if plan.predicted else "-",
                format_time(measured / 1e6) if measured else "-",
                said,
                trials,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()


def _rounds(planned: Planned) -> int:
    return sum(1 for trial in planned.trials if not trial.case.settings)


def change(ratio: Interval) -> str:
    """`-12.3% (-15.0% to -9.5%)`: of the step, against the default's."""
    middle = math.expm1(ratio.log_ratio)
    if math.isnan(ratio.half) or ratio.half > 1:
        return f"{middle:+.1%} (too few trials for an interval)"
    return f"{middle:+.1%} ({math.expm1(ratio.low):+.1%} to {math.expm1(ratio.high):+.1%})"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _job(planned: Planned) -> Iterator[str]:
    """What the model was made of, and what no bucket size changes."""
    backward, cost = planned.backward, planned.cost
    if backward is None or cost is None:
        yield "# no model: when gradients are ready is not known here, so the plans were raced without an order"
        return
    alone, loaded = cost.at([cost.largest])
    yield (
        f"# step with nothing sent {format_time(backward.seconds + backward.rest)}; {cost.alone.what} of "
        f"{cost.largest / 1e6:.1f} MB: {format_time(float(alone[0]))} idle, {format_time(float(loaded[0]))} beside "
        f"computing, which takes {cost.gamma:.2f} times as long meanwhile"
    )
    last = backward.gradients[-1]
    if planned.tail is not None:
        yield (
            f"# tail: {format_time(planned.tail)} of the step are the message of the last gradient ({safe(last.name)}, "
            f"{last.nbytes / 1e6:.2f} MB); no bucket size saves them, splitting or sharing that tensor can"
        )
    if planned.floor is not None:
        yield f"# the best cut into buckets is predicted to add {format_time(planned.floor)} to the step"
    if planned.wrong:
        yield f"# WRONG DATA: {planned.wrong} elements of the measured all-reduces were not the right sum"
