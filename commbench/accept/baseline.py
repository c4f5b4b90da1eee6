"""What an accepted machine did: distributions of its tests, to compare a later run of it with. Pure but for reading.

The unit is the round, not the sample: samples of one round share what was in the way then. Where a question has fewer
than three rounds its samples are cut into blocks, which tell less: another start of the job may differ by more.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from commbench.accept.advice import significant
from commbench.accept.evidence import Evidence, Test
from commbench.errors import FolderError
from commbench.records import Machine, Run
from commbench.records.case import Case, Mode
from commbench.records.recommendation import Difference, differences, facts_of, versions_of
from commbench.records.verdict import Word
from commbench.stats.compare import Effect, verdicts
from commbench.stats.ratios import log_ratios

FORMAT = 1
_ROUNDS, _SAMPLES = 24, 40  # kept of each question: a file of some 100 KiB, whatever the run
_BLOCKS = 5
_FEWEST = 3
ALL = "all"  # ranks together; the other places are those of _where


class Series(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One question and its answers: seconds of each round, at most _ROUNDS of at most _SAMPLES, ascending in a round.

    where   the ranks `inside` each host, pairs `in racks` or `across racks` (`on rail 1` alone; a sample is the median
            of one pair), or `all` ranks together
    """

    op: str
    backend: str
    nbytes: int
    dtype: str
    mode: Mode
    where: str
    ranks: int
    rounds: tuple[tuple[float, ...], ...]

    @property
    def question(self) -> tuple[str, str, int, str, str, str, int]:
        return self.op, self.backend, self.nbytes, self.dtype, self.mode, self.where, self.ranks


class Baseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """baseline.json.

    word       verdict of the run that it was made from; `forced`: somebody wanted it in spite of that
    machine, versions   as in a recommendation: by these another machine is recognised
    """

    format: int = FORMAT
    name: str
    created: str
    word: Word
    forced: bool = False
    machine: dict[str, str]
    versions: dict[str, str]
    journal_sha256: str
    commbench: str
    series: tuple[Series, ...]


class Change(NamedTuple):
    """A question of both sides: times in seconds, and their ratio. effect.ratio: NEW / BASE of the time."""

    series: Series
    base: float
    new: float
    effect: Effect


class Comparison(NamedTuple):
    """`missing`: questions of the baseline that the run did not answer. `code` as of `commbench compare`."""

    changes: tuple[Change, ...]
    missing: tuple[Series, ...]
    slowdown: float

    @property
    def slower(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.effect.verdict == "slower")

    @property
    def unsure(self) -> tuple[Change, ...]:
        """Neither slower nor shown not to be."""
        bound = 1 + self.slowdown
        return tuple(
            c
            for c in self.changes
            if c.effect.verdict == "unsure" and not (c.effect.high is not None and c.effect.high <= bound)
        )

    @property
    def code(self) -> int:
        """1: slower. 0: nothing can be slower by more than the slowdown. 3: cannot tell."""
        if self.slower:
            return 1
        return 3 if self.unsure or self.missing or not self.changes else 0


def series(evidence: Evidence) -> tuple[Series, ...]:
    """The questions of a run with all that was answered well, in a fixed order."""
    found: dict[tuple[object, ...], dict[int, list[Test]]] = {}
    for test in evidence.tests:
        if test.ok and test.stage != "confirm":  # which pairs are confirmed is no question of every run
            case = test.row.case
            key = (_where(test), case.op, case.mode, case.backend, case.dtype, test.row.nbytes, test.row.ranks)
            found.setdefault(key, {}).setdefault(test.row.launch, []).append(test)
    out = []
    for rounds in found.values():
        first = next(iter(rounds.values()))[0]
        out.append(_series(first, _where(first), rounds))
    return tuple(sorted(out, key=lambda one: one.question))


def _series(first: Test, where: str, rounds: Mapping[int, Sequence[Test]]) -> Series:
    case: Case = first.row.case
    each = [
        list(tests[0].row.seconds) if where == ALL else [test.seconds for test in tests if test.seconds is not None]
        for _, tests in sorted(rounds.items())
    ]
    if where == ALL and len(each) < _FEWEST:  # blocks of what followed one another
        each = [block for samples in each for block in _blocks(samples)]
    return Series(
        op=case.op,
        backend=case.backend,
        nbytes=first.row.nbytes,
        dtype=case.dtype,
        mode=case.mode,
        where=where,
        ranks=first.row.ranks,
        rounds=tuple(_thinned(samples) for samples in each[:_ROUNDS]),
    )


def _where(test: Test) -> str:
    if test.stage != "spread":
        return "inside" if test.stage == "intra" else ALL
    meeting, _, rail = test.row.case.groups.partition("@")
    return ("in racks" if "/in/" in meeting else "across racks") + (f" on rail {rail}" if rail else "")


def _blocks(samples: Sequence[float]) -> list[list[float]]:
    count = min(_BLOCKS, len(samples))
    edges = [len(samples) * k // count for k in range(count + 1)]
    return [list(samples[low:high]) for low, high in pairwise(edges)]


def _thinned(samples: Sequence[float]) -> tuple[float, ...]:
    """At most _SAMPLES of them, evenly spaced by rank: the same distribution."""
    ordered = sorted(samples)
    n = len(ordered)
    if n <= _SAMPLES:
        return tuple(map(significant, ordered))
    return tuple(significant(ordered[(2 * k + 1) * n // (2 * _SAMPLES)]) for k in range(_SAMPLES))


def make(run: Run, evidence: Evidence, word: Word, journal_sha256: str, forced: bool = False) -> Baseline:
    return Baseline(
        name=run.name,
        created=run.created,
        word=word,
        forced=forced,
        machine=facts_of(run.machine),
        versions=versions_of(run.machine),
        journal_sha256=journal_sha256,
        commbench=run.commbench,
        series=series(evidence),
    )


def elsewhere(base: Baseline, machine: Machine) -> tuple[Difference, ...]:
    """Facts by which a machine is another one than the baseline's."""
    return (*differences(base.machine, facts_of(machine)), *differences(base.versions, versions_of(machine)))


def compare(base: Sequence[Series], new: Sequence[Series], slowdown: float, confidence: float = 0.99) -> Comparison:
    """Every question of the baseline against the same one now; the intervals hold for all of them at once."""
    now = {one.question: one for one in new}
    both = [(one, now[one.question]) for one in base if one.question in now]
    missing = tuple(one for one in base if one.question not in now)
    if not both:
        return Comparison((), missing, slowdown)
    sides = [_logs([pair[k] for pair in both]) for k in (0, 1)]
    log_ratio, half = log_ratios(sides[0], sides[1], confidence)
    said = verdicts(log_ratio, half, slowdown)
    changes = []
    for k, (one, _) in enumerate(both):
        known = not math.isnan(half[k])
        effect = Effect(
            ratio=significant(math.exp(log_ratio[k])),
            low=significant(math.exp(log_ratio[k] - half[k])) if known else None,
            high=significant(math.exp(log_ratio[k] + half[k])) if known else None,
            verdict=said[k],
            basis="one launch",
        )
        times = [significant(float(np.exp(np.nanmean(side[k])))) for side in sides]
        changes.append(Change(one, times[0], times[1], effect))
    return Comparison(tuple(changes), missing, slowdown)


def _logs(each: Sequence[Series]) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    """rows x rounds: log of the median of each round, NaN where there is none."""
    out = np.full((len(each), max(len(one.rounds) for one in each)), np.nan)
    for k, one in enumerate(each):
        out[k, : len(one.rounds)] = np.log([statistics.median(samples) for samples in one.rounds])
    return out


def encode(baseline: Baseline) -> bytes:
    """The content of baseline.json."""
    return msgspec.json.format(msgspec.json.encode(baseline), indent=1) + b"\n"


def read(path: Path) -> Baseline:
    """FolderError: no such file, damaged, newer, or with times that are no times."""
    try:
        data = path.read_bytes()
        keys = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        if "spec" not in keys and msgspec.json.decode(keys.get("format", msgspec.Raw(b"1")), type=int) > FORMAT:
            raise FolderError(f"{path}: a newer commbench wrote it; upgrade to read it")
        found = msgspec.json.decode(data, type=Baseline)
    except OSError as error:
        raise FolderError(f"{path}: {error.strerror}; commbench baseline create DIR -o {path} makes it") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FolderError(f"{path} is no baseline: {error}; make it with commbench baseline create DIR") from None
    for one in found.series:
        if not one.rounds or not all(samples and all(0 < s < math.inf for s in samples) for samples in one.rounds):
            raise FolderError(f"{path}: {one.op} of {one.nbytes} bytes has a round without times above 0")
    return found
