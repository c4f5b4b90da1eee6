"""What `commbench tune` found for collectives, as sentences, a table and JSON; settings and reasons are made harmless.

The answer comes first, then each size, then the rules with what was seen of their effect, what they are worth to the
job, what the search cost and leaves open, and what to do next.
"""

import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from commbench.emit.target import library_of, proven, share
from commbench.model.messages import Job
from commbench.records import Measurement
from commbench.records.recommendation import Difference, Recommendation, Rule
from commbench.report.findings import safe
from commbench.tune.candidates import Candidate, Settings
from commbench.tune.evidence import Point, Trials
from commbench.tune.explain import Explanation
from commbench.tune.recheck import Rechecked
from commbench.tune.search import Report
from commbench.tune.verdicts import USUAL, Choice, Judged, Options, choices, describe, judge, leader
from commbench.units import format_bytes

Mark = Literal["proved", "not proved", "uncertain"]

_TARGETS = {"openmpi": "openmpi", "mpich": "mpich", "nccl": "nccl-csv"}
_NUMERICS = {
    "neutral": "results stay the same, bit by bit",
    "bitwise-changing": "sums in another order: bits of results can change",
    "changes-convergence": "CHANGES WHAT IS COMPUTED: compare the loss",
}
_FIELDS = (
    *("op", "ranks", "nodes", "backend", "dtype", "min_bytes", "max_bytes", "baseline_us", "time_us"),
    *("gain", "gain_low", "gain_high", "numerics"),
)
_WIDE = 10.0  # an interval of more than ten times the default's time says nothing that is worth its digits


class Tuned(NamedTuple):
    """All there is to tell of a search. job: whose messages the explanation weighs."""

    measurements: Sequence[Measurement]
    race: Mapping[str, Sequence[Candidate]]
    report: Report
    recommendation: Recommendation
    explanation: Explanation | None = None
    options: Options = USUAL
    job: Job | None = None


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the table. gain: 1 - time / default with its interval; None: not known.

    candidate  the fastest that is proved faster; where none is, the fastest that was tried
    mark       proved: faster than the default by more than the regret; uncertain: more trials could change the answer;
               not proved: the default stays, and more trials would not change that
    """

    op: str
    backend: str
    dtype: str
    groups: str
    mode: str
    ranks: int
    nbytes: int
    default_us: float | None
    candidate: str | None
    settings: dict[str, str]
    time_us: float | None
    gain: float | None
    gain_low: float | None
    gain_high: float | None
    trials: int
    rounds: int
    candidates: int
    mark: Mark
    uncertain: str


def sizes(tuned: Tuned) -> list[Size]:
    """One for each (collective, ranks, size) that was measured."""
    trials = Trials(tuned.measurements)
    judged = judge(trials, tuned.options)
    return [_size(tuned, trials, one, judged[one.point]) for one in choices(trials, tuned.options)]


def _size(tuned: Tuned, trials: Trials, choice: Choice, judged: Mapping[Settings, Judged]) -> Size:
    case = choice.point.case
    best = choice.settings or _fastest(trials, choice.point)
    ratio = judged[best].ratio if best in judged else None
    known = ratio is not None and not math.isnan(ratio.half)
    ranks, nbytes = trials.about[choice.point]
    void = any(point == choice.point and settings for point, settings in trials.void)
    open_ = choice.uncertain or ("" if judged or void else "nothing was tried beside the default")
    time = _finite(math.exp(trials.log_time(choice.point, best)) * 1e6) if best else None
    return Size(
        op=case.op,
        backend=case.backend,
        dtype=case.dtype,
        groups=case.groups,
        mode=case.mode,
        ranks=ranks,
        nbytes=nbytes,
        default_us=choice.default_us,
        candidate=_name(tuned.race, case.op, best) if best else None,
        settings=dict(best),
        time_us=time,
        gain=_finite(-math.expm1(ratio.log_ratio)) if ratio else None,
        gain_low=_finite(-math.expm1(min(ratio.high, 700.0))) if ratio and known else None,
        gain_high=-math.expm1(ratio.low) if ratio and known else None,
        trials=sum(map(len, trials.logs[choice.point].values())),
        rounds=trials.rounds(choice.point),
        candidates=len(judged),
        mark="proved" if choice.settings else "uncertain" if open_ else "not proved",
        uncertain=open_,
    )


def _fastest(trials: Trials, point: Point) -> Settings:
    return leader(trials, point, [s for s in trials.tried(point) if s])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _name(race: Mapping[str, Sequence[Candidate]], op: str, settings: Settings) -> str:
    return next((one.name for one in race.get(op, ()) if one.settings == settings), describe(settings))


# ---- text ---------------------------------------------------------------------------------------------------


def text(tuned: Tuned, folder: Path | None = None) -> Iterator[str]:
    """All of it, as lines. `folder` is the run's, for what to do next."""
    yield _answer(tuned)
    yield ""
    yield from table(sizes(tuned), tuned.options)
    yield ""
    yield from rules(tuned)
    yield from job(tuned)
    yield from (f"# {safe(line)}" for line in tuned.report.lines())
    yield from (f"next: {line}" for line in following(tuned.recommendation, folder))


def _answer(tuned: Tuned) -> str:
    found = [rule for rule in tuned.recommendation.rules if rule.settings]
    if not found:
        why = safe(tuned.recommendation.keep_default) or "nothing is recommended"
        kept = not why.startswith("nothing could be decided")
        return (
            f"Keep the default: {why}" if kept else f"Nothing was decided{why.removeprefix('nothing could be decided')}"
        )
    best = max(found, key=lambda rule: rule.gain)
    many = f"{len(found)} rules" if len(found) > 1 else "1 rule"
    most = f"{'up to ' if len(found) > 1 else ''}{share(best.gain, best.gain_low, best.gain_high)}"
    return f"Proved: {many}; {most} less time ({safe(best.op)}, {_span(best)})"


def _span(rule: Rule) -> str:
    low, high = format_bytes(rule.min_bytes), format_bytes(rule.max_bytes)
    return low if low == high else f"{low} to {high}"


def table(found: Sequence[Size], options: Options = USUAL) -> Iterator[str]:
    """Titles, a line a size, and what the marks mean; what is the same in all lines is said once above."""
    if not found:
        yield "# no size was measured"
        return
    about = {name: [str(getattr(one, name)) for one in found] for name in ("op", "backend", "dtype", "groups", "mode")}
    same = [safe(cells[0]) for cells in about.values() if len(set(cells)) == 1]
    columns = {name: cells for name, cells in about.items() if len(set(cells)) > 1}
    columns |= {
        "ranks": [str(one.ranks) for one in found],
        "size": [format_bytes(one.nbytes) for one in found],
        "default_us": [_us(one.default_us) for one in found],
        "best candidate": [one.candidate or "-" for one in found],
        "time_us": [_us(one.time_us) for one in found],
        "gain%": ["-" if one.gain is None else f"{100 * one.gain:+.1f}" for one in found],
        "interval": [_interval(one) for one in found],
        "trials": [str(one.trials) for one in found],
        "": [one.mark for one in found],
    }
    if same:
        yield f"# all sizes: {' · '.join(same)}"
    yield f"# gain% = 1 - time / default; all intervals hold together at {100 * options.confidence:g} %"
    lines = _aligned({title: [safe(cell) for cell in cells] for title, cells in columns.items()})
    yield f"# {next(lines)}"
    yield from (f"  {line}" for line in lines)
    marks = {one.mark for one in found}
    if "not proved" in marks:
        yield f"# not proved: nothing is faster than the default by more than {100 * options.regret:g} %, so it stays"
    if "uncertain" in marks:
        yield "# uncertain: something may be faster; more trials would tell"


def _us(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if value < 1e4 else f"{value:.0f}"


def _interval(one: Size) -> str:
    if one.gain_low is None or one.gain_high is None or one.gain_high - one.gain_low > _WIDE:
        return "-" if one.gain is None else "?"
    return f"{100 * one.gain_low:+.1f} to {100 * one.gain_high:+.1f}"


def _aligned(columns: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The titles, then the lines; words to the left, figures to the right."""
    left = {"op", "backend", "dtype", "groups", "mode", "best candidate", ""}
    widths = {title: max(len(title), *map(len, cells)) for title, cells in columns.items()}
    for row in (tuple(columns), *zip(*columns.values(), strict=True)):
        each = zip(row, widths.items(), strict=True)
        yield "  ".join(f"{c:<{width}}" if title in left else f"{c:>{width}}" for c, (title, width) in each).rstrip()


def rules(tuned: Tuned) -> Iterator[str]:
    """Each rule with its reason, and what was seen of the effect of its settings."""
    seen = proofs(tuned)
    for rule in tuned.recommendation.rules:
        if not rule.settings:
            continue
        name, plain = _name(tuned.race, rule.op, rule.settings), describe(rule.settings)
        yield f"rule: {rule.op}, {rule.ranks} ranks, {rule.dtype}, {_span(rule)}: {safe(plain)}"
        called = "" if name == plain else f"{safe(name)}: "
        yield (
            f"      {called}{share(rule.gain, rule.gain_low, rule.gain_high)} less time, {_us(rule.baseline_us)} us -> "
            f"{_us(rule.time_us)} us; {_NUMERICS[rule.numerics]}"
        )
        if each := seen.get(describe(rule.settings)):
            more = f" (and {len(each) - 1} more like it)" if len(each) > 1 else ""
            yield f"      seen: {safe(each[0])}{more}"


def proofs(tuned: Tuned) -> dict[str, list[str]]:
    """Settings of the rules -> what the trials saw of their effect, each sentence once."""
    used = {rule.settings for rule in tuned.recommendation.rules if rule.settings}
    found: dict[str, dict[str, None]] = {}
    for m in tuned.measurements:
        if m.proof and m.case.settings in used and m.status == "ok":
            found.setdefault(describe(m.case.settings), {})[m.proof] = None
    return {settings: list(sentences) for settings, sentences in found.items()}


def job(tuned: Tuned) -> Iterator[str]:
    """What the rules are worth to the job, and how it is known."""
    if tuned.explanation:
        first, *rest = tuned.explanation.sentences()
        yield f"job: {safe(first)}"
        yield from (f"     {safe(line)}" for line in rest)
    if tuned.job:
        yield f"# job: {safe(tuned.job.source)}"
        yield from (f"# job: {safe(note)}" for note in tuned.job.notes)


def _target(rule: Rule) -> str:
    """Rules files are about algorithms; a setting of a whole process is a variable."""
    chosen = [name for name, _ in rule.settings if re.search(r"(?i)_algorithm$|^NCCL_(ALGO|PROTO)$", name)]
    return _TARGETS[library_of(chosen[0])] if chosen else "env"


def following(recommendation: Recommendation, folder: Path | None = None) -> Iterator[str]:
    """The commands that apply, prove and guard what was found."""
    where = safe(shlex.quote(str(folder))) if folder else "DIR"
    found = [rule for rule in recommendation.rules if proven(rule)]
    for target in dict.fromkeys(_target(rule) for rule in found):
        yield f"commbench emit {where} --for {target}"
    if found:
        yield f"commbench verify {where} -- mpirun -n {found[0].ranks} python train.py    # in your own job"
        until = safe(recommendation.expires[:10])
        yield f"commbench tune --recheck {where} -n {found[0].ranks}    # after an upgrade, and before {until}"


def rechecked(again: Sequence[Rechecked], changed: Sequence[Difference]) -> Iterator[str]:
    """Which rules still hold, and what to do with the others."""
    count = {word: sum(one.word == word for one in again) for word in ("holds", "gone", "unsure")}
    yield f"{count['holds']} of {len(again)} rules hold, {count['gone']} gone, {count['unsure']} unsure"
    yield from (f"  {safe(str(one))}" for one in again)
    yield from (f"# changed: {safe(str(one))}" for one in changed)
    if count["gone"]:
        yield "next: delete the rules that are gone, or find new ones with commbench tune SPEC"
    if count["unsure"]:
        yield "next: a longer --budget tells more of what is unsure"


# ---- JSON ---------------------------------------------------------------------------------------------------


def as_dict(tuned: Tuned) -> dict[str, Any]:
    """Stable keys, units in their names; gains are shares, null is not known."""
    recommendation, explanation = tuned.recommendation, tuned.explanation
    return {
        "schema": 1,
        "name": recommendation.name,
        "keep_default": recommendation.keep_default or None,
        "confidence": tuned.options.confidence,
        "regret": tuned.options.regret,
        "sizes": [msgspec.structs.asdict(one) for one in sizes(tuned)],
        "rules": [_rule(tuned, rule) for rule in recommendation.rules],
        "search": {
            "seconds": tuned.report.seconds,
            "budget_seconds": tuned.report.budget,
            "trials": tuned.report.trials,
            "sizes": tuned.report.points,
            "candidates": tuned.report.candidates,
            "void": list(tuned.report.void),
            "left_out": list(tuned.report.left_out),
            "uncertain": list(tuned.report.uncertain),
        },
        "job": explanation and _explained(explanation, tuned.job),
    }


def _rule(tuned: Tuned, rule: Rule) -> dict[str, Any]:
    found = {name: getattr(rule, name) for name in _FIELDS}
    seen = proofs(tuned).get(describe(rule.settings), [])
    return found | {"settings": dict(rule.settings), "evidence": list(rule.evidence), "proofs": seen}


def _explained(found: Explanation, told: Job | None) -> dict[str, Any]:
    lines = [
        {
            **line.message._asdict(),
            "calls": line.calls,
            "share_of_bytes": line.share,
            "default_us": line.default_us,
            "best_us": line.best_us,
            "settings": dict(line.settings),
            "gain_us": line.gain_us and line.gain_us[0],
            "gain_half_us": line.gain_us and line.gain_us[1],
        }
        for line in found.lines
    ]
    return {
        "source": told and told.source,
        "notes": list(told.notes) if told else [],
        "step_us": told and told.step_us,
        "sentences": list(found.sentences()),
        "top_sizes": found.top,
        "top_share_of_bytes": found.top_share,
        "measured_share_of_bytes": found.measured_share,
        "exposed_us": found.exposed_us,
        "gain_us": found.gain_us[0],
        "gain_half_us": found.gain_us[1],
        "gain": found.gain and found.gain[0],
        "gain_half": found.gain and found.gain[1],
        "messages": lines,
    }


def as_json(tuned: Tuned, again: Sequence[Rechecked] = (), changed: Sequence[Difference] = ()) -> str:
    """The document of --json, ASCII alone; after a recheck also what became of each rule."""
    told = as_dict(tuned)
    if again:
        told["rechecked"] = [
            {**_rule(tuned, one.rule), "word": one.word, "gain_now": one.gain, "why": one.why} for one in again
        ]
        told["changed"] = msgspec.to_builtins(changed)
    return json.dumps(told, indent=1, allow_nan=False)
