"""What `commbench verify` found, as sentences; whatever came from a job is made harmless here."""

import json
from collections.abc import Iterator, Mapping, Sequence

from commbench.report.findings import safe
from commbench.stats.compare import Effect
from commbench.stats.trials import SIDES, Judgement, Losses, Restart
from commbench.units import format_time


def restart(one: Restart, rounds: int, skip: int) -> str:
    """One line for the progress: `round 2 of 5, recommended: 40 steps, median 12.3 ms, 4.1 s in all`."""
    head = f"round {one.round + 1} of {rounds}, {one.side}: "
    if one.why:
        return head + safe(one.why)
    return f"{head}{len(one.seconds)} steps{_median(one, skip)}, {format_time(one.wall_seconds)} in all"


def _median(one: Restart, skip: int) -> str:
    import numpy as np

    counted = one.seconds[skip:]
    return f", median {format_time(float(np.median(counted)))}" if counted else ""


def text(found: Judgement, settings: Mapping[str, str], notes: Sequence[str], min_effect: float) -> Iterator[str]:
    """The answer first, then what it rests on, then what to do."""
    yield _answer(found, min_effect)
    if found.step_seconds:
        base, new = map(format_time, found.step_seconds)
        each = " and ".join(f"{count} {side}" for count, side in zip(found.restarts, SIDES, strict=True))
        yield f"# step: {base} by default, {new} with the recommendation (medians; restarts: {each})"
        yield f"# losses: {_losses(found.losses)}"
        yield f"# effect: {_effect(found, settings)}"
    for name, value in settings.items():
        yield f"# with: {safe(name)}={safe(value)}"
    for doubt in found.doubts:
        yield f"# doubt: {safe(doubt)}"
    for note in notes:
        yield f"# note: {safe(note)}"


def _answer(found: Judgement, min_effect: float) -> str:
    effect = found.speed
    if found.verdict == "void" or effect is None:
        return f"Cannot tell: {safe(found.void)}."
    range_ = _range(effect)
    if found.verdict == "proved":
        return f"Proved: the job is faster with the recommendation, {range_}."
    if effect.verdict == "slower":
        return f"Worse: the job is slower with the recommendation, {range_}. Keep the default."
    if found.verdict == "worse":
        return f"Worse: the job learns worse with the recommendation (its step time is {range_}). Keep the default."
    if effect.verdict == "faster":
        return f"Cannot tell: the steps are faster, {range_}, but that is not proof."
    if found.verdict == "same":
        return f"No gain: the difference is less than {100 * min_effect:.3g} % of the step, {range_}. Keep the default."
    return f"Cannot tell: {range_}. More --rounds narrow the interval, as does a quieter machine."


def _range(effect: Effect) -> str:
    """Shares of the default's step time; minus is shorter."""
    assert effect.ratio is not None
    assert effect.low is not None
    assert effect.high is not None
    middle, low, high = (100 * (x - 1) for x in (effect.ratio, effect.low, effect.high))
    return f"{middle:+.1f} % of the step time ({low:+.1f} to {high:+.1f} %)"


def _losses(losses: Losses) -> str:
    shown = ", ".join(f"{100 * change:+.2f} ±{100 * half:.2f} %" for change, half in losses.changes)
    along = f" (change along the run: {shown})" if shown else ""
    return {
        "same": "the curve does not change beyond the noise between restarts of one side",
        "higher": "THE CURVE IS HIGHER, beyond the noise between restarts of one side",
        "lower": "the curve is lower, beyond the noise between restarts of one side",
        "bare": "the curve changes; the noise between seeds is not known",
        "untold": "the job told none that can be compared; whether it learns the same was not checked",
    }[losses.verdict] + along


def _effect(found: Judgement, settings: Mapping[str, str]) -> str:
    if found.effect == "confirmed":
        return (
            f"the ranks saw {'all settings' if len(settings) > 1 else 'the setting'}, those of the default side did not"
        )
    return (
        "not confirmed: the ranks did not tell which settings they saw (StepRecorder does), or DDP not its buckets "
        "(recorder.ddp(model) after some steps)"
    )


def as_json(
    found: Judgement, restarts: Sequence[Restart], settings: Mapping[str, str], notes: Sequence[str], skip: int
) -> str:
    """`{"schema": 1, "verdict": ..., ...}`, ASCII alone. Single steps are left to verify.json."""
    effect = found.speed
    told = {
        "schema": 1,
        "verdict": found.verdict,
        "code": found.code,
        "why": found.void or None,
        "ratio": effect.ratio if effect else None,
        "ratio_low": effect.low if effect else None,
        "ratio_high": effect.high if effect else None,
        "default_seconds": found.step_seconds[0] if found.step_seconds else None,
        "recommended_seconds": found.step_seconds[1] if found.step_seconds else None,
        "losses": {"verdict": found.losses.verdict, "changes": found.losses.changes},
        "effect": found.effect,
        "doubts": found.doubts,
        "settings": dict(settings),
        "notes": list(notes),
        "restarts": [_summary(one, skip) for one in restarts],
    }
    return json.dumps(told, indent=1)


def _summary(one: Restart, skip: int) -> dict[str, object]:
    import numpy as np

    counted = one.seconds[skip:]
    return {
        "side": one.side,
        "round": one.round,
        "steps": len(one.seconds),
        "median_seconds": float(np.median(counted)) if counted else None,
        "world": one.world,
        "wall_seconds": one.wall_seconds,
        "code": one.code,
        "why": one.why or None,
    }
