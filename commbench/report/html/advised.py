"""What a search recommends, as the cells and sentences of its part of the page."""

from collections.abc import Sequence
from typing import NamedTuple

from commbench.records.recommendation import BucketPlan, Recommendation, Rule
from commbench.report.html.examined import Examined, counted, listed
from commbench.report.html.phrases import Said, ended
from commbench.report.tuning import following
from commbench.report.view import figure, one_line, size

_MOST = 200  # rules, plans and notes
RULES = ("collective", "ranks", "sizes", "settings", "default (us)", "with them (us)", "less time", "results")
PLANS = ("model", "ranks", "buckets", "step by default (us)", "step (us)", "less time", "results")


class Advised(NamedTuple):
    """What the template prints of one run: the answer, tables of rules and plans, what to do, what is left open."""

    id: str
    run: str
    answer: str
    rules: Sequence[Sequence[str]]
    plans: Sequence[Sequence[str]]
    commands: Sequence[str]
    notes: Sequence[str]
    left_out: int


def advised(k: int, one: Examined) -> Advised:
    found = one.recommendation
    if found is None:
        return Advised(f"advice{k}", one.name, _NOTHING, (), (), (), (), 0)
    each = (found.rules, found.buckets, found.notes)
    return Advised(
        f"advice{k}",
        one.name,
        answer(found),
        [_rule(rule) for rule in found.rules[:_MOST]],
        [_plan(plan) for plan in found.buckets[:_MOST]],
        commands(found),
        [ended(note) for note in found.notes[:_MOST]],
        sum(len(several[_MOST:]) for several in each),
    )


_NOTHING = (
    "This search has not come to its end: it recommends nothing yet. commbench tune with --resume goes on with it."
)


def brief(runs: Sequence[Examined]) -> tuple[list[Said], list[Said]]:
    """(what stands out, what to do next) of the searches, for the summary."""
    out, steps = [], []
    for one in runs:
        if one.searched:
            name = f"{one.name}: " if len(runs) > 1 else ""
            told = _NOTHING if one.recommendation is None else answer(one.recommendation)
            out.append(Said(f"{name}{told}", "advice", "warning" if one.recommendation is None else ""))
            lines = commands(one.recommendation) if one.recommendation is not None else []
            steps += [Said(f"{name}{line}", "advice") for line in lines[:3]]
    return out, steps


def answer(found: Recommendation) -> str:
    """In one sentence."""
    rules = [rule for rule in found.rules if rule.settings]
    gains = [*((rule.gain, rule.op) for rule in rules), *((plan.gain, plan.model) for plan in found.buckets)]
    if not gains:
        return ended(f"Keep the default: {found.keep_default or 'nothing is recommended'}")
    most, where = max(gains)
    parts = [counted(len(of), word) for of, word in ((rules, "rule"), (found.buckets, "bucket plan")) if of]
    return f"Proved: {' and '.join(parts)}; up to {100 * most:.3g} % less time ({one_line(where)})."


def commands(found: Recommendation) -> list[str]:
    """What applies, proves and guards it."""
    targets = dict.fromkeys("fsdp2" if plan.modules else "ddp" for plan in found.buckets)
    return [*map(one_line, following(found)), *(f"commbench emit DIR --for {target}" for target in targets)]


def _rule(rule: Rule) -> Sequence[str]:
    sizes = listed(dict.fromkeys((size(rule.min_bytes), size(rule.max_bytes)))).replace(", ", " to ")
    settings = " ".join(f"{name}={value}" for name, value in rule.settings) or "those of the default"
    return (
        one_line(rule.op),
        str(rule.ranks),
        sizes,
        one_line(settings),
        figure(rule.baseline_us, 3),
        figure(rule.time_us, 3),
        _gain(rule),
        _RESULTS[rule.numerics],
    )


def _plan(plan: BucketPlan) -> Sequence[str]:
    buckets = listed((size(nbytes) for nbytes in plan.bucket_bytes), 8) or "those of the framework"
    settings = [f"hook {plan.hook}"] if plan.hook else []
    return (
        one_line(plan.model),
        str(plan.ranks),
        one_line("; ".join([buckets, *settings])),
        figure(plan.baseline_us, 3),
        figure(plan.step_us, 3),
        _gain(plan),
        _RESULTS[plan.numerics],
    )


_RESULTS = {
    "neutral": "the same, bit by bit",
    "bitwise-changing": "bits can change",
    "changes-convergence": "CHANGED: compare the loss",
}


def _gain(one: Rule | BucketPlan) -> str:
    return f"{100 * one.gain:.3g} % ({100 * one.gain_low:.3g} to {100 * one.gain_high:.3g} %)"
