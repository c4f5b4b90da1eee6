"""`commbench verify`: restarts of the user's own job with and without a recommendation, in random order, judged."""

import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import msgspec

from commbench.emit import emit, mpich, refuse
from commbench.emit import variables as emitted
from commbench.emit.build import build
from commbench.emit.target import Place, library_of, proven
from commbench.errors import FolderError, SpecError, StoreError
from commbench.measure import trial
from commbench.measure.guard import guarded
from commbench.records import recommendation as records
from commbench.records.recommendation import BucketPlan, Recommendation
from commbench.stats.trials import MIN_ROUNDS, SIDES, Judgement, Restart, Side, judge
from commbench.store import write_atomically
from commbench.training.apply import FILE, FORCE
from commbench.training.place import elsewhere
from commbench.units import format_time

FORMAT = 1
NAME = "verify.json"
_FEWEST = 2 * MIN_ROUNDS  # starts of an honest comparison
_MARGIN = 1.1  # for starts that take a little longer than the first
_PATIENCE = 2.0  # seconds without a sign of life, at least, before a start hangs
_SLOW = 3.0  # a start that takes so many times the slowest before it hangs
_SPARE = 10.0  # seconds added to that
_RISK = (
    "Run commbench tune here, or try it with --force: what follows then says nothing about the gain that was measured, "
    "and a setting may be ignored or keep the job from starting"
)


class Request(NamedTuple):
    """What to verify, and how. `folder` holds recommendation.json; `created` names the folder of the restarts."""

    folder: Path
    argv: tuple[str, ...]
    created: str
    rounds: int = 5
    skip: int = 5
    pattern: trial.Pattern | None = None
    budget: float = 600.0
    min_effect: float = 0.01
    confidence: float = 0.95
    seed: int = 0
    force: bool = False


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """verify.json. `restarts_in`: the folder with each restart's output and steps. `spent_seconds`: all of it."""

    format: int = FORMAT
    created: str
    command: tuple[str, ...]
    settings: dict[str, str]
    recommendation_sha256: str
    seed: int
    rounds: int
    skip_steps: int
    min_effect: float
    confidence: float
    spent_seconds: float
    restarts_in: str
    verdict: str
    code: int
    judgement: Judgement
    restarts: tuple[Restart, ...]
    notes: tuple[str, ...] = ()


Told = Callable[[Restart], None]
_VERIFIES = "COMMBENCH_VERIFIES"  # in the environment of all that is started here: a word that nobody else has


def verify(request: Request, told: Told, environment: Mapping[str, str]) -> Verification:
    """Runs the job as often as the budget allows, judges, writes verify.json.

    SpecError, FolderError: there is nothing to run, or it must not be run here. LaunchError: the job cannot be started.
    """
    recommendation = records.read(request.folder)
    gains = [*map(proven, recommendation.rules), *(plan.gain_low > 0 for plan in recommendation.buckets)]
    if recommendation.keep_default or not any(gains):
        reason = recommendation.keep_default or "no rule and no bucket plan in it has a gain above zero"
        return _write(request, recommendation, {}, [], 0.0, Judgement(void=f"nothing to verify: {reason}"), ())
    plans = [one for one in recommendation.buckets if one.gain_low > 0]
    _takes(request, plans)
    notes = _fits(request, recommendation)
    settings = variables(recommendation, _restarts_in(request))
    notes += _beside(settings, environment)
    if settings and not request.force:
        refuse.aws("env", recommendation, environment)
    if settings:
        write_files(recommendation, _restarts_in(request), request.argv[0])
    if plans:
        settings[FILE] = str((request.folder / records.NAME).absolute())
        if request.force:
            settings[FORCE] = "1"
    began = time.monotonic()
    word = uuid.uuid4().hex
    with guarded(f"{_VERIFIES}={word}"):
        restarts, short = _restarts(request, recommendation, settings, {**environment, _VERIFIES: word}, told)
    notes += _other_ranks(recommendation, restarts)
    judgement = judge(
        _evenly(restarts) if request.pattern else restarts,
        settings,
        plans=plans,
        skip=request.skip,
        min_effect=request.min_effect,
        confidence=request.confidence,
    )
    if any(one.code is None for one in restarts) and not short:
        silent = format_time(max(_PATIENCE, request.budget / _FEWEST))
        notes.append(f"a start that shows nothing for {silent} is ended; with a larger --budget, later")
    if short:
        notes.append(short)
        if judgement.void and not any(one.why for one in restarts[1:]):
            judgement = msgspec.structs.replace(judgement, void=short)
    return _write(request, recommendation, settings, restarts, time.monotonic() - began, judgement, tuple(notes))


def variables(recommendation: Recommendation, folder: Path) -> dict[str, str]:
    """Variables that make a job use the rules, with the files that they point at in `folder` (`write_files`).

    SpecError where the rules cannot be set from outside.
    """
    rules = [rule for rule in recommendation.rules if proven(rule)]
    for rule in rules:
        if foreign := [name for name, _ in rule.settings if not library_of(name)]:
            raise SpecError(f"{foreign[0]} ({rule.op}): no variable sets it in a job that is not commbench's")
    return (
        {one.name: one.value for one in emitted.variables(recommendation, PurePosixPath(folder.absolute()))}
        if rules
        else {}
    )


def write_files(recommendation: Recommendation, folder: Path, program: str) -> None:
    """What holds for some sizes only, as files of the libraries. `program` is the launcher beside which an MPICH lies.

    SpecError, MissingLibrary, LaunchError: a file cannot be made. StoreError: `folder` cannot be written.
    """
    place = folder.absolute()
    files = emit(recommendation, "env", Place(place, "environment.sh", mpich.installed(program)))
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}; the restarts are kept there") from None
    for name, text in files.items():
        write_atomically(place / name, text.encode())
    if "nccl-csv" in emitted.files(recommendation):
        build(place)


def _takes(request: Request, plans: Sequence[BucketPlan]) -> None:
    """SpecError for a plan that no variable brings into a job: both sides would be the default."""
    if ("commbench", "train") in pairwise(PurePosixPath(word).name for word in request.argv):
        return  # the reference job takes all of a plan, and tells what became of it
    say = f"commbench verify {request.folder} -- commbench train SPEC -n N has the reference job do it"
    for plan in plans:
        if plan.modules:
            raise SpecError(
                f"the plan of {plan.model} shards modules with FSDP2, which {FILE} does not do in this job: {say}; "
                f"commbench emit {request.folder} --for fsdp2 writes the function for a job of yours"
            )
        if plan.hook:
            raise SpecError(
                f"the plan of {plan.model} has the communication hook {plan.hook}, which ddp_kwargs() does not "
                f"register in this job: {say}; in a job of yours, register it by hand and compare the "
                "losses, which it changes"
            )


def _fits(request: Request, recommendation: Recommendation) -> list[str]:
    """Refuses another machine or library version, with the facts that differ; with --force they become notes."""
    differ = elsewhere(recommendation)
    if differ and not request.force:
        raise FolderError(f"{request.folder} was made elsewhere: {'; '.join(map(str, differ))}. {_RISK}")
    notes = [f"forced: {one}" for one in differ]
    if recommendation.expires and recommendation.expires < request.created:
        notes.append(f"the recommendation expired on {recommendation.expires[:10]}")
    return notes


def _beside(settings: Mapping[str, str], environment: Mapping[str, str]) -> list[str]:
    """The default side is the environment as it is: what of the recommendation is in it already?"""
    own = {name: environment[name] for name in settings if name in environment}
    same = [f"{name}={value}" for name, value in own.items() if settings[name] == value]
    if same:
        raise SpecError(f"{', '.join(same)} is set here already, so both sides would be alike; unset it and try again")
    return [f"the default side keeps {name}={value} of this environment" for name, value in own.items()]


def _restarts(
    request: Request,
    recommendation: Recommendation,
    settings: Mapping[str, str],
    environment: Mapping[str, str],
    told: Told,
) -> tuple[list[Restart], str]:
    """(the restarts, why there are fewer than asked for). A round in which a start fails is the last."""
    base = {name: value for name, value in environment.items() if name not in (FILE, FORCE)}
    folder = _restarts_in(request)
    done: list[Restart] = []
    began = time.monotonic()
    for index, order in enumerate(orders(request.rounds, request.seed)):
        if done and not _room(done, request.budget - (time.monotonic() - began)):
            return done, _too_short(done, request)
        for side in order:
            slowest = max((one.wall_seconds for one in done), default=request.budget)
            wanted = trial.Wanted(
                side=side,
                round=index,
                argv=request.argv,
                environment=base | (dict(settings) if side == "recommended" else {}),
                watched=tuple(settings),
                folder=folder / f"{index + 1:02d}-{side}",
                pattern=request.pattern,
            )
            limits = trial.Limits(
                deadline=min(request.budget, _SLOW * slowest + _SPARE),
                patience=max(_PATIENCE, request.budget / _FEWEST),
            )
            one = trial.restart(wanted, limits)
            done.append(one)
            told(one)
            if len(done) == 1 and one.code is None and one.wall_seconds >= request.budget:
                return done, _unfinished(one, request)
            if not one.why and len(done) == 1 and one.wall_seconds * _FEWEST > request.budget:
                return done, _too_short(done, request)
        worlds = {one.world for one in done} - {None}
        if (other := _other_ranks(recommendation, done)) and len(worlds) == 1 and not request.force:
            raise FolderError(f"{request.folder}: {other[0]}. {_RISK}")
        if any(one.why for one in done):
            break
        if len(worlds) > 1:
            words = " and ".join(sorted(f"{one.world} {one.side}" for one in done[-2:]))
            return done, f"the two sides have different numbers of ranks ({words}), so they did not do the same work"
    return done, ""


def _evenly(restarts: Sequence[Restart]) -> list[Restart]:
    """A job that is only looked at may escape a look: what was not seen in every start is taken for seen in none."""
    if all(one.seen is not None for one in restarts):
        return list(restarts)
    return [msgspec.structs.replace(one, seen=None, world=None) for one in restarts]


def orders(rounds: int, seed: int) -> list[tuple[Side, Side]]:
    """Which side begins each round: each in half of the rounds, shuffled."""
    found: list[tuple[Side, Side]] = [(SIDES[k % 2], SIDES[1 - k % 2]) for k in range(rounds)]
    chance = random.Random(seed)
    if rounds % 2 and chance.random() < 0.5:
        found[-1] = found[-1][::-1]
    chance.shuffle(found)
    return found


def _room(done: Sequence[Restart], left: float) -> bool:
    return 2 * max(one.wall_seconds for one in done[-4:]) <= left


def _too_short(done: Sequence[Restart], request: Request) -> str:
    slowest = max(one.wall_seconds for one in done)
    rounds = len(done) // 2
    if rounds >= MIN_ROUNDS:
        return f"--budget {format_time(request.budget)} was enough for {rounds} of {request.rounds} rounds"
    least = slowest * _FEWEST * _MARGIN
    return (
        f"--budget {format_time(request.budget)} is too small: one start takes {format_time(slowest)}, and the least "
        f"honest comparison ({MIN_ROUNDS} rounds of two starts) {format_time(least)}"
    )


def _unfinished(first: Restart, request: Request) -> str:
    """What to do where nobody knows how long a start takes."""
    return (
        f"--budget {format_time(request.budget)} is too small: the first start ({first.side}) is not done in it; the "
        f"smallest that would do is {_FEWEST * _MARGIN:.2g} times as long as one start of the job: give it fewer "
        "steps, or a larger --budget"
    )


def _other_ranks(recommendation: Recommendation, restarts: Sequence[Restart]) -> list[str]:
    """What it means that the job has another number of ranks than was measured; nothing where it has not."""
    measured = {rule.ranks for rule in recommendation.rules} | {plan.ranks for plan in recommendation.buckets}
    other = {one.world for one in restarts if one.world is not None} - measured
    if not other:
        return []
    then, now = (" and ".join(map(str, sorted(some))) for some in (measured, other))
    silent = ": its rules for some sizes do nothing there" if recommendation.rules else ""
    return [f"the job has {now} ranks, the recommendation was measured with {then}{silent}"]


def _write(
    request: Request,
    recommendation: Recommendation,
    settings: Mapping[str, str],
    restarts: Sequence[Restart],
    spent: float,
    judgement: Judgement,
    notes: Sequence[str],
) -> Verification:
    found = Verification(
        created=request.created,
        command=request.argv,
        settings=dict(settings),
        recommendation_sha256=recommendation.data_sha256,
        seed=request.seed,
        rounds=request.rounds,
        skip_steps=request.skip,
        min_effect=request.min_effect,
        confidence=request.confidence,
        spent_seconds=round(spent, 3),
        restarts_in=str(_restarts_in(request)) if restarts else "",
        verdict=judgement.verdict,
        code=judgement.code,
        judgement=judgement,
        restarts=tuple(restarts),
        notes=tuple(notes),
    )
    write_atomically(request.folder / NAME, msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    return found


def _restarts_in(request: Request) -> Path:
    """One folder a verification, named by its date."""
    stamp = "".join(c for c in request.created.replace("+00:00", "Z") if c.isalnum())
    return request.folder / f"verify-{stamp}"
