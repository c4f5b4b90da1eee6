"""Whether recommended rules still hold: the default and each rule's settings raced again at the rule's sizes. Pure."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from commbench.records import Case, Measurement
from commbench.records.recommendation import Recommendation, Rule
from commbench.tune.evidence import Trials
from commbench.tune.verdicts import USUAL, Options, describe, judge
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

    A rule holds if its settings are proved faster at every one of its sizes; it is gone as soon as they are proved to
    be no better at one (or cannot be used there); else nobody knows.
    """
    trials = Trials(now)
    judged = {point.case: found for point, found in judge(trials, options).items()}
    void = {(point.case, settings): why for (point, settings), why in trials.void.items()}
    out = []
    for rule in old.rules:
        if not rule.settings:
            continue
        words: list[tuple[Word, str]] = []
        gains = []
        for case in cases_of(rule, then):
            at = format_bytes(case.nbytes)
            one = judged.get(case, {}).get(rule.settings)
            if why := void.get((case, rule.settings)):
                words.append(("gone", f"at {at} it cannot be used: {why}"))
            elif one is None:
                words.append(("unsure", f"at {at} it was not measured"))
            else:
                gains.append(-one.ratio.change)
                told = f"{one.ratio.change:+.1%} at {at} in {one.ratio.trials} trials"
                if one.verdict == "faster":
                    words.append(("holds", told))
                elif one.ratio.low > -options.margin:  # not faster by more than what does not matter
                    words.append(("gone", f"no longer faster: {told}"))
                else:
                    words.append(("unsure", f"not proved: {told}"))
        worst = next((w for word in ("gone", "unsure") for w in words if w[0] == word), None)
        best: tuple[Word, str] = ("holds", f"{-min(gains, default=0.0):+.1%} at its weakest size")
        word, why = worst or (best if gains else ("unsure", "it has no evidence"))
        out.append(Rechecked(rule=rule, word=word, gain=min(gains, default=None), why=why))
    return tuple(out)
