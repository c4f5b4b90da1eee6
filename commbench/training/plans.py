"""What a bucket plan needs to know, measured on the ranks of one launch: computing alone, the collective idle and
beside computing, and trials of whole steps with the model wrapped anew for each.

All ranks call the same methods in the same order; what comes of them is on rank 0. A trial is a Measurement like any
other: it has no time unless its settings are seen to be in effect and its numbers are right.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from commbench.model.curve import Cost, Curve, curve
from commbench.model.step import Backward, backward_of_stats
from commbench.records import Case, Measurement
from commbench.spec.train import Fsdp, TrainSpec
from commbench.stats.summary import low_rank
from commbench.tune.candidates import Settings
from commbench.tune.plans import case_of, kwargs_of
from commbench.world import World

if TYPE_CHECKING:
    from commbench.training.job import Job

_START_UP = 180.0
_REBUILD = 2  # steps before DDP has its final buckets
STEPS = 5  # of a trial that count
_NEAR = 1e-3  # share by which losses differ by sums in another order, at most
_HOOKED = 0.1  # the same where a hook changes what is summed
_SEEN = 0.25  # of the backward pass: a collective that takes less tells little of how it slows computing
_LEAST, _MOST = 3, 7  # rounds of the collectives
Guard = Callable[[str, float], AbstractContextManager[None]]


class Costs(NamedTuple):
    """What the collectives cost, gamma as each sample told it, elements that were wrong."""

    cost: Cost
    slowdowns: tuple[float, ...]
    wrong: int


class _Told(msgspec.Struct):
    """What a rank tells of a trial."""

    seconds: tuple[float, ...]
    digest: int
    in_effect: bool | None
    why: str
    buckets: tuple[int, ...]
    seen: str = ""


class Session:
    """One rank's part of the search for a plan."""

    def __init__(self, spec: TrainSpec, world: World, guard: Guard, job: "Job") -> None:
        self._spec, self._world, self._guard, self._job = spec, world, guard, job
        self._losses: tuple[float, ...] = ()  # of the default, on this rank
        self.nbytes = sum(job.nbytes)

    def _all(self, mine: Any) -> list[Any]:
        """What every rank has, on rank 0."""
        return [msgspec.json.decode(part) for part in self._world.gather(msgspec.json.encode(mine))]

    def share(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        return msgspec.json.decode(self._world.share(msgspec.json.encode(value)))

    # -- computing alone

    def backward(self, steps: int) -> Backward | None:
        """The step with nothing sent, on all ranks at once; None on other ranks, and where hooks do not tell (GPUs).

        Counted from the beginning of the step: ranks that share cores come to their backward passes apart, and a
        collective waits for the last one.
        """
        job, rows = self._job, []
        job.learn()
        for k in range(steps + 1):
            with self._guard(f"step {k} without communication", self._spec.deadline):
                self._world.barrier()
                times = job.step(k)
            if times.ready_s is None:
                return None
            ready = [times.forward_s + at for at in times.ready_s]
            rows.append([*ready, times.forward_s + times.backward_s, times.optimizer_s])
        told = self._all(rows[1:])  # the first step pays for what is done once
        if not told:
            return None
        latest = [[max(column) for column in zip(*ranks, strict=True)] for ranks in zip(*told, strict=True)]
        parameters = [
            {"name": name, "nbytes": nbytes, "elements": nbytes // 4}
            for name, nbytes in zip(job.names, job.nbytes, strict=True)
        ]
        return backward_of_stats(
            [[at * 1e9 for at in row[:-2]] for row in latest],
            parameters,
            seconds=median(row[-2] for row in latest),
            rest=median(row[-1] for row in latest),
        )

    # -- the collective

    def sizes(self) -> tuple[int, ...]:
        """Buckets from the smallest to all gradients at once, each four times the one before; twice above 1 MiB."""
        found, at = [], 4096
        while at < self.nbytes:
            found.append(at)
            at *= 4 if at < 2**20 else 2
        return (*found, self.nbytes)

    def costs(self, seconds: float, clock: Callable[[], float]) -> Costs | None:
        """Rounds of every size, idle and beside computing, for about `seconds`; on rank 0."""
        began, sizes = clock(), self.sizes()
        idle: dict[int, list[float]] = {size: [] for size in sizes}
        beside: dict[int, list[tuple[float, float]]] = {size: [] for size in (0, *sizes)}
        wrong = 0
        for k in range(_MOST + 1):
            spent = clock() - began
            if self.share(k > _LEAST and spent + spent / k > seconds):
                break
            for size in (0, *sizes):
                with self._guard(f"all_reduce of {size} bytes beside computing", self._spec.deadline):
                    loaded = self._job.beside(size, k)
                with self._guard(f"all_reduce of {size} bytes", self._spec.deadline):
                    alone = self._job.idle(size) if size else loaded
                told = self._all([loaded.seconds, loaded.backward_s, alone.seconds, loaded.wrong + alone.wrong])
                if not told or not k:  # the first round connects and warms up
                    continue
                slow, backward, bare, bad = (max(column) for column in zip(*told, strict=True))
                beside[size].append((slow, backward))
                wrong += bad
                if size:
                    idle[size].append(bare)
        if self._world.rank:
            return None
        what = f"all_reduce {self._spec.backend} {self._world.size} ranks"
        slowdowns = _slowdowns(beside)
        loaded_curve = _curve({size: [t for t, _ in beside[size]] for size in sizes}, what + " beside computing")
        cost = Cost(alone=_curve(idle, what), loaded=loaded_curve, gamma=max(1.0, median(slowdowns or [1.0])))
        return Costs(cost, tuple(slowdowns), wrong)

    # -- a trial

    def trial_seconds(self, step: float) -> float:
        """What a trial takes whose steps take `step` seconds; the first steps and the wrapping take longer."""
        return 0.2 + 1.3 * (_REBUILD + STEPS) * step

    def trial(self, settings: Settings) -> Measurement | None:
        """Steps with these settings, from the model's beginning on; on rank 0 the slowest rank's times."""
        kwargs = kwargs_of(settings)
        hook = str(kwargs.pop("hook", ""))
        job = self._job
        with self._guard(f"wrapping the model for {_name(settings)}", _START_UP):
            job.fresh(kwargs, hook)
        times = []
        for k in range(_REBUILD + STEPS):
            with self._guard(f"step {k} with {_name(settings)}", self._spec.deadline):
                times.append(job.step(k))
        losses = tuple(one.loss for one in times)
        if not settings and not self._losses:
            self._losses = losses
        told = self._all(self._told(kwargs, tuple(one.seconds for one in times[_REBUILD:])))
        if not told:
            return None
        made = [msgspec.convert(one, _Told) for one in told]
        apart = self._spec.parallel == "ddp" and len({one.digest for one in made}) > 1
        return _measurement(self.case(settings), made, apart, self._off(losses, hook))

    def case(self, settings: Settings = ()) -> Case:
        return msgspec.structs.replace(case_of({"backend": self._spec.backend}, self.nbytes), settings=settings)

    def _told(self, kwargs: Mapping[str, Any], seconds: tuple[float, ...]) -> _Told:
        if self._spec.parallel == "ddp":
            found = self._job.buckets(kwargs, _REBUILD + STEPS)
            return _Told(seconds, self._job.digest(), found.in_effect, found.why, found.nbytes)
        right, seen = self._job.sharding(Fsdp(**kwargs))
        return _Told(seconds, 0, right, "" if right else f"FSDP2 has {seen}", (), seen)

    def _off(self, losses: Sequence[float], hook: str) -> int:
        """Steps whose loss on this rank is not the default's."""
        reach = _HOOKED if hook else _NEAR
        return sum(not abs(a - b) <= reach * abs(b) for a, b in zip(losses, self._losses, strict=False))


def _name(settings: Settings) -> str:
    return " ".join(f"{key}={value}" for key, value in settings) or "the default"


def _measurement(case: Case, told: Sequence[_Told], apart: bool, off: int) -> Measurement:
    """The trial as rank 0 sees it: wrong counts steps whose loss is another one, and parameters that drifted apart."""
    middles = [median(one.seconds) for one in told]
    slowest = middles.index(max(middles))
    void = next((one for one in told if not one.in_effect), None)
    wrong = off + apart
    why = f"not in effect: {void.why}" if void else ""
    if not why and wrong:
        why = "the ranks' parameters differ after it" if apart else f"another loss than the default's in {off} steps"
    return Measurement(
        case=case,
        status="failed" if why else "ok",
        why=why,
        ranks=len(told),
        nbytes=case.nbytes,
        seconds=told[slowest].seconds,
        slowest=(slowest,) * len(told[slowest].seconds),
        skew=tuple(max(each) - min(each) for each in zip(*(one.seconds for one in told), strict=True)),
        calls=1,
        warmup=_REBUILD,
        wrong=wrong,
        proof="" if void else told[0].seen or f"buckets of {', '.join(map(str, told[0].buckets))} bytes",
    )


def _slowdowns(beside: Mapping[int, Sequence[tuple[float, float]]]) -> list[float]:
    """gamma of each sample: what the backward pass took more, by the time in which the collective ran beside it.

    Where collectives outlast the pass, only those samples count: of a short one little is seen beside the noise.
    """
    alone = median(backward for _, backward in beside[0])
    rows = [row for size, each in beside.items() for row in each if size]
    rows = [row for row in rows if row[0] >= row[1]] or [row for row in rows if row[0] >= _SEEN * alone]
    found = []
    for seconds, backward in rows:
        both = min(seconds, backward)
        found.append(both / max(both - (backward - alone), alone / 10))
    return found


def _curve(samples: Mapping[int, Sequence[float]], what: str) -> Curve:
    points: list[tuple[int, float, float | None, float | None]] = []
    for size, each in samples.items():
        ordered, rank = sorted(each), low_rank(len(each), 0.95)
        low, high = (ordered[rank - 1], ordered[-rank]) if rank else (None, None)
        points.append((size, median(ordered), low, high))
    return curve(points, what)
