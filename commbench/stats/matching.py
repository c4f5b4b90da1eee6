"""Which answers belong to the same question, over runs, machines and tools.

A question is everything that must be equal for two times to be comparable. A setting that has one value in all of
BASE and another one in all of NEW is what the comparison is about: it is left out of the match, and said.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from commbench.collectives import COLLECTIVES
from commbench.records import Case, Measurement, Run

Side = Sequence[tuple[Run, Sequence[Measurement]]]
# Fields of a question that a user may leave out; the others never: other data, or times that are no times.
IGNORABLE = ("backend", "dtype", "redop", "groups", "group", "ranks", "hosts", "world", "in_place", "root", "settings")
# The first that both sides have is compared.
STATISTICS = ("median", "mean", "min", "p95", "p99", "max")
_BAD = ("failed", "hung")
_MOST_LIKE = 64  # candidates looked at for what keeps a row from its like


class Question(NamedTuple):
    """What was asked, of how many ranks (`ranks` in the group, `world` in all) on how many hosts. None: not known,
    no question for this collective, or left out of the match."""

    op: str
    nbytes: int
    mode: str
    simulated: bool
    backend: str | None
    dtype: str | None
    redop: str | None
    groups: str | None
    group: int | None
    ranks: int | None
    hosts: int | None
    world: int | None
    in_place: bool | None
    root: int | None
    settings: tuple[tuple[str, str], ...] | None


class Answer(NamedTuple):
    """The launches of one side that answered a question; the key of a launch is its run and its number there."""

    launches: Mapping[tuple[int, int], Measurement]
    full: Question  # before anything was left out

    @property
    def bad(self) -> str:
        """Why it is not all ok, "" where it is."""
        return next((f"{m.status}: {m.why}" for m in self.launches.values() if m.status in _BAD), "")

    @property
    def skipped(self) -> str:
        return next((m.why or "no reason told" for m in self.launches.values() if m.status == "skipped"), "")

    def statistics(self) -> set[str]:
        """Those that every launch with a figure has."""
        told = [found.keys() for found in map(figures, self.launches.values()) if found]
        return set.intersection(*map(set, told)) if told else set()

    def kinds(self) -> str:
        return " and ".join(sorted({m.kind for m in self.launches.values()}))


# Settings of imported rows that say what the figure is of, not how the library was set: never overlooked.
_MEANING = ("size", "pattern", "call", "source")


def figures(m: Measurement) -> dict[str, float]:
    """statistic -> seconds of one launch; none where it was not ok, or where a time is no time."""
    if m.status != "ok":
        return {}
    found = {"median" if name == "p50" else name: value for name, value in m.told.items()}
    if m.kind == "samples" and m.seconds:
        found |= {"median": float(np.median(m.seconds)), "mean": math.fsum(m.seconds) / len(m.seconds)}
        found["min"] = min(m.seconds)
    elif m.seconds:
        found["median" if m.kind == "p50" else m.kind] = m.seconds[0]
    return {name: value for name, value in found.items() if name in STATISTICS and 0 < value < math.inf}


class Matched(NamedTuple):
    """`both`: a question and its answers, one a side. `several`: what has more than one answer on a side, and why.
    `only`: what one side alone has. `differing`: settings that each side has one value of. `near`: fields -> how
    many rows that only BASE has would find their like in NEW without these."""

    both: dict[Question, tuple[Answer, Answer]]
    several: dict[Question, str]
    only: tuple[list[Question], list[Question]]
    differing: dict[str, tuple[str, str]]
    near: dict[tuple[str, ...], int]


def match(base: Side, new: Side, ignore: Iterable[str] = ()) -> Matched:
    """Questions in the order of BASE. `ignore`: fields of IGNORABLE to leave out."""
    sides = [answers(side) for side in (base, new)]
    differing = _differing(sides)
    reduced = [_reduced(side, frozenset(ignore), differing) for side in sides]
    shared = [question for question in reduced[0] if question in reduced[1]]
    several = {}
    for question in shared:
        many = [(name, found[question]) for name, found in zip(("BASE", "NEW"), reduced, strict=True)]
        if why := [f"{name} has {len(a)} answers ({_apart(a)})" for name, a in many if len(a) > 1]:
            several[question] = "; ".join(why)
    only = [[question for question in mine if question not in other] for mine, other in (reduced, reduced[::-1])]
    return Matched(
        both={q: (reduced[0][q][0], reduced[1][q][0]) for q in shared if q not in several},
        several=several,
        only=(only[0], only[1]),
        differing={name: (str(values[0]), str(values[1])) for name, values in differing.items()},
        near=_near(*only),
    )


def over_time(runs: Side) -> dict[Question, dict[int, Answer]]:
    """question -> its answer in each run that has one. Settings that each run has one value of are left out."""
    each = [answers([run]) for run in runs]
    differing = _differing([found for found in each if found])
    out: dict[Question, dict[int, Answer]] = {}
    for k, found in enumerate(each):
        for question, same in _reduced(found, frozenset(), differing).items():
            out.setdefault(question, {})[k] = same[0]  # what was left out has one value in a run
    return out


def answers(side: Side) -> dict[Question, Answer]:
    """All runs together: the launches of a second run are further launches. Of several answers the last counts."""
    moved = {}
    for _, measurements in side:
        moved.update({_asked(m.case): m.nbytes for m in measurements if m.nbytes and m.status == "ok"})
    found: dict[Question, dict[tuple[int, int], Measurement]] = {}
    for k, (run, measurements) in enumerate(side):
        shape = (len(run.machine.hosts) or None, run.machine.size or None)
        for m in measurements:
            if not m.control:
                nbytes = m.nbytes or moved.get(_asked(m.case), m.case.nbytes)
                found.setdefault(_question(m, nbytes, *shape), {})[k, m.launch] = m
    return {question: Answer(launches, question) for question, launches in found.items()}


def _asked(case: Case) -> tuple[str, str, str, int]:
    """What decides how many bytes are moved: an answer that failed may not tell it."""
    return case.op, case.dtype, case.groups, case.nbytes


def _question(m: Measurement, nbytes: int, hosts: int | None, world: int | None) -> Question:
    case = m.case
    about = COLLECTIVES.get(case.op)
    return Question(
        op=case.op,
        nbytes=nbytes if about is None or about.factor else 0,
        mode=case.mode,
        simulated=m.clock == "simulated",
        backend=case.backend,
        dtype=case.dtype if about is None or about.factor else None,
        redop=case.redop if about is None or about.reduces else None,
        groups=case.groups,
        group=m.group,
        ranks=m.ranks or None,
        hosts=hosts,
        world=world,
        in_place=case.in_place,
        root=case.root if about is None or about.rooted else None,
        settings=tuple(sorted(case.settings)),
    )


def _differing(sides: Sequence[Mapping[Question, Answer]]) -> dict[str, tuple[str | None, ...]]:
    """setting -> its value on each side (None: not set), where every side has one and not all have the same."""
    every = [[dict(question.settings or ()) for question in side] for side in sides]
    out = {}
    for name in dict.fromkeys(name for side in every for settings in side for name in settings):
        if name in _MEANING:
            continue
        values = [{settings.get(name) for settings in side} for side in every]
        if all(len(found) == 1 for found in values):
            told = tuple(next(iter(found)) for found in values)
            if len(set(told)) > 1:
                out[name] = told
    return out


def _reduced(
    side: Mapping[Question, Answer], ignore: frozenset[str], differing: Mapping[str, object]
) -> dict[Question, list[Answer]]:
    found: dict[Question, list[Answer]] = {}
    nothing: dict[str, Any] = dict.fromkeys(ignore)
    for question, answer in side.items():
        kept = tuple((name, value) for name, value in question.settings or () if name not in differing)
        found.setdefault(question._replace(settings=kept)._replace(**nothing), []).append(answer)
    return found


def _apart(found: Iterable[Answer]) -> str:
    """`dtype float16, float32`: in what several answers differ."""
    columns = zip(Question._fields, zip(*(answer.full for answer in found), strict=True), strict=True)
    return "; ".join(f"{name} {', '.join(map(_told, values))}" for name, values in columns if len(set(values)) > 1)


def _told(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(f"{name}={text}" for name, text in value) or "none"
    return "unknown" if value is None else str(value)


def _near(base: Sequence[Question], new: Sequence[Question]) -> dict[tuple[str, ...], int]:
    like: dict[tuple[str, int], list[Question]] = {}
    for question in new:
        like.setdefault((question.op, question.nbytes), []).append(question)
    out: dict[tuple[str, ...], int] = {}
    for question in base:
        others = like.get((question.op, question.nbytes), [])[:_MOST_LIKE]
        if others:
            fields = min((_unlike(question, other) for other in others), key=len)
            out[fields] = out.get(fields, 0) + 1
    return out


def _unlike(one: Question, other: Question) -> tuple[str, ...]:
    return tuple(name for name, a, b in zip(Question._fields, one, other, strict=True) if a != b)


def launch_order(found: Iterable[Answer]) -> list[tuple[int, int]]:
    """Every launch that any answer has."""
    return sorted({launch for answer in found for launch in answer.launches})
