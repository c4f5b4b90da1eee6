"""Whether recommended rules still hold: the default and each rule's settings raced again at the rule's sizes. Pure."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from commbench.records import Case, Measurement
from commbench.records.recommendation import Recommendation, Rule
from commbench.tune.evidence import Point, Trials
from commbench.tune.verdicts import USUAL, Judged, Options, describe, judge
from commbench.units import format_bytes

Word = Literal["holds", "gone", "unsure"]


class Rechecked(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a rule. gain: 1 - its time / the default's, now, the least over its sizes; None: not known."""

    rule: Rule
    word: Word
    gain: float | None
    why: str

    def __str__(self) -> str:
        rule = self.rule
        span = f"{format_bytes(rule.min_bytes)} to {format_bytes(rule.max_bytes)}"
        return f"{self.word:6} {rule.op} {rule.ranks} ranks {span} {describe(rule.settings)}: {self.why}"


def cases_of(rule: Rule, measurements: Sequence[Measurement]) -> tuple[Case, ...]:
    """The questions, without settings, that a rule rests on."""
    keys = set(rule.evidence)
    found = {m.case: None for m in measurements if m.case.key in keys and not m.case.settings}
    return tuple(sorted(found, key=lambda case: case.nbytes))


def recheck(
    old: Recommendation, then: Sequence[Measurement], now: Sequence[Measurement], options: Options = USUAL
) -> tuple[Rechecked, ...]:
    """One answer for each rule with settings. `then` and `now`: the journals of the two searches.

    A rule holds if its settings are proved faster wherever they were then, and proved harmless at the sizes between
    that it only runs through. It is gone as soon as they are proved to be no better at one of the former, to do harm at
    one of the latter, or cannot be used at one; else nobody knows.
    """
    trials = Trials(now)
    judged, before = judge(trials, options), judge(Trials(then), options)
    out = []
    for rule in old.rules:
        if not rule.settings:
            continue
        words: list[tuple[Word, str]] = []
        gains = []
        proved = False
        for case in cases_of(rule, then):
            point = Point(case)
            one, was = (found.get(point, {}).get(rule.settings) for found in (judged, before))
            gains += [-one.ratio.change] if one else []
            proved |= one is not None and one.verdict == "faster"
            void = trials.void.get((point, rule.settings), "")
            words.append(_at(format_bytes(case.nbytes), one, was, void, options.margin))
        worst = next((w for word in ("gone", "unsure") for w in words if w[0] == word), None)
        best: tuple[Word, str] = ("holds", f"{-min(gains, default=0.0):+.1%} at its weakest size")
        word, why = worst or (best if proved else ("unsure", "it is proved faster at none of its sizes"))
        out.append(Rechecked(rule=rule, word=word, gain=min(gains, default=None), why=why))
    return tuple(out)


def _at(at: str, one: Judged | None, was: Judged | None, void: str, margin: float) -> tuple[Word, str]:
    """What became of a rule at one size. `was`: what the old search proved there."""
    if void:
        return "gone", f"at {at} it cannot be used: {void}"
    if one is None:
        return "unsure", f"at {at} it was not measured"
    told = f"{one.ratio.change:+.1%} at {at} in {one.ratio.trials} trials"
    if one.verdict == "faster":
        return "holds", told
    if was and was.verdict == "faster":
        # Gone: not faster by more than what does not matter.
        return ("gone", f"no longer faster: {told}") if one.ratio.low > -margin else ("unsure", f"not proved: {told}")
    if one.harmless:
        return "holds", told
    return ("gone", f"it does harm: {told}") if one.ratio.low > margin else ("unsure", f"not proved harmless: {told}")
