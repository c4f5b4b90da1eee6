"""The one timing loop: warm up, calibrate, sample, agree to stop, verify the data.

Every process of the world runs these lines for every case, also those outside the case's groups, because
rank 0 decides and tells all. Backends differ only in what Op.run and Op.check do.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import msgspec
import numpy as np

from commbench.backends.base import Backend, Op
from commbench.collectives import Check, moved
from commbench.errors import Unsupported
from commbench.layouts import Groups, expand
from commbench.records import Case, Measurement
from commbench.stats.stopping import Decision, Limits, decide
from commbench.world import GroupTimes, World, slowest
from commbench.world.rollcall import RollCall

_CLOCK_SHARE = 0.01  # reading the clock stays under this share of a sample
_MIN_SAMPLE = 200e-6  # seconds of a throughput sample: well above the jitter of leaving a barrier
_PIPELINE = 20  # calls back to back in a throughput sample, as nccl-tests has by default ...
_PIPELINE_TIME = 0.05  # ... unless that takes longer than this
_MAX_CALLS = 10_000
_FEW = 3  # samples are always taken, however long a call is
_WINDOW = 4  # samples of one look at the warm-up ...
_WINDOW_TIME = 1e-3  # ... which take at least this many seconds
_STEADY = 0.03  # warm when a window is no more than this faster than the best before
_SLOWEST_BANDWIDTH = 5e6  # bytes/s: the slowest link that a deadline still has patience for
_PATIENCE = 20.0  # a step may take this many times what the last one predicts


class Options(NamedTuple):
    """What the spec says about measuring. Times in seconds."""

    limits: Limits = Limits()
    warmup: float = 1.0
    deadline: float = 60.0
    check: bool = True
    launch: int = 0
    now: Callable[[], float] = lambda: 0.0  # seconds since the epoch; only what was started by people reads that clock


class _Told(msgspec.Struct, frozen=True, array_like=True):
    """Rank 0's word after every batch: take so many samples of so many calls, or stop."""

    samples: int
    calls: int
    reason: str


class _Outcome(msgspec.Struct, frozen=True, array_like=True):
    """What one process says of a step that may fail on it."""

    unsupported: str = ""
    error: str = ""
    checks: tuple[tuple[int, int], ...] = ()


class Loop:
    """Measures cases in one world, one after another."""

    def __init__(self, world: World, rollcall: RollCall | None, options: Options, simulated: bool = False) -> None:
        self._world, self._rollcall, self._options = world, rollcall, options
        self._simulated = simulated  # time is what the simulated calls took, not what the clock says

    def measure(self, case: Case, backend: Backend | str, host_of: tuple[int, ...]) -> tuple[Measurement, ...]:
        """One Measurement for each group of the case, on rank 0; an empty tuple elsewhere.

        `backend` is a sentence where the backend could not be started on this machine.
        """
        groups = expand(case.groups, host_of)
        began = round(self._options.now(), 3)
        blank = [
            Measurement(
                case=case,
                group=index,
                ranks=len(group),
                launch=self._options.launch,
                nbytes=moved(case.op, case.nbytes, case.dtype, len(group)),
                at=began,
            )
            for index, group in enumerate(groups)
        ]
        what = f"{case.op} {case.nbytes} B {case.dtype} {case.backend} {case.groups}"
        allowance = self._options.deadline + case.nbytes * self._world.size / _SLOWEST_BANDWIDTH
        op: Op | None = None

        def prepare() -> tuple[Check, ...]:
            nonlocal op
            if isinstance(backend, str):
                raise Unsupported(backend)
            if max(map(len, groups)) < 2 and self._world.size > 1:
                raise Unsupported("every group of this layout has one rank: nothing is communicated")
            op = backend.prepare(case, groups)
            if op:
                op.run(1, 1)
            return ()

        told = self._together(what, allowance, prepare)
        if told.unsupported or told.error:
            status = "failed" if told.error else "skipped"
            return self._answer(
                [msgspec.structs.replace(b, status=status, why=told.error or told.unsupported) for b in blank]
            )
        assert not isinstance(backend, str)
        measured = self._sample(what, allowance, case, op, groups, backend.timer)
        clock = op.clock if op else "host"
        done = [
            msgspec.structs.replace(
                b,
                seconds=_rounded(times.seconds),
                skew=_rounded(times.skew),
                slowest=tuple(times.slowest.tolist()),
                clock=clock,
                proof=op.proof if op else "",
                **measured.about,
            )
            for b, times in zip(blank, measured.times, strict=False)
        ]
        if self._options.check and case.op != "barrier":
            verdict = self._together(f"data check of {what}", allowance, lambda: self._checked(op, groups))
            done = [_judged(m, group, verdict) for m, group in zip(done, groups, strict=False)]
        if op:
            op.close()
        return self._answer(done)

    def _checked(self, op: Op | None, groups: Groups) -> tuple[Check, ...]:
        """Checks of the ranks played here, in the order of the world."""
        found = tuple(op.check()) if op else ()
        if len(self._world.ranks) == 1:
            return found
        by_rank = dict(zip([rank for group in groups for rank in group], found, strict=True))
        return tuple(by_rank.get(rank, Check(0, -1)) for rank in self._world.ranks)

    def _answer(self, rows: list[Measurement]) -> tuple[Measurement, ...]:
        return tuple(rows) if self._world.rank == 0 else ()

    def _step(self, what: str, seconds: float) -> AbstractContextManager[None]:
        return self._rollcall.step(what, seconds) if self._rollcall else nullcontext()

    def _out_of_call(self) -> None:
        if self._rollcall:
            self._rollcall.out_of_call()

    def _together(self, what: str, allowance: float, act: "Callable[[], tuple[Check, ...]]") -> "_Outcome":
        """Runs `act` on every process; what went wrong on any is known on all. An error on one rank is reported
        at once, since the others may be waiting for it inside the collective."""
        outcome = _Outcome()
        with self._step(what, allowance):
            try:
                outcome = _Outcome(checks=tuple((c.wrong, c.first) for c in act()))
            except Unsupported as reason:
                outcome = _Outcome(unsupported=str(reason))
            except (RuntimeError, ValueError, TypeError, MemoryError) as error:
                text = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                outcome = _Outcome(error=text)
                if self._rollcall:
                    self._rollcall.report(f"{text} in {what}")
            self._out_of_call()
            parts = self._world.gather(msgspec.json.encode(outcome))
            if self._rollcall and self._world.rank == 0:
                self._rollcall.settled()
            if self._world.rank == 0:
                outcome = _merged([msgspec.json.decode(part, type=_Outcome) for part in parts])
            return msgspec.json.decode(self._world.share(msgspec.json.encode(outcome)), type=_Outcome)

    def _sample(
        self, what: str, allowance: float, case: Case, op: Op | None, groups: Groups, timer: float
    ) -> "_Sampled":
        """Warm-up, calibration and sampling; rank 0 holds the samples and says what comes next."""
        judge = _Judge(case, self._options, timer, self._simulated) if self._world.rank == 0 else None
        told = _Told(1, 1, "")
        while told.samples:
            expected = judge.predicted(told) if judge else 0.0
            with self._step(what, allowance + _PATIENCE * expected):
                began = time.monotonic()
                local = op.run(told.samples, told.calls) if op else np.zeros((0, told.samples))
                self._out_of_call()
                times = slowest(self._world, groups, local)
                word = b""
                if judge:
                    word = msgspec.json.encode(judge.hear(times, told, time.monotonic() - began))
                told = msgspec.json.decode(self._world.share(word), type=_Told)
        return judge.sampled(told.reason) if judge else _Sampled([], {})


class _Sampled(NamedTuple):
    times: list[GroupTimes]
    about: dict[str, int | str]


class _Judge:
    """Rank 0's part of the loop: first the warm-up, then the samples. Pure but for the elapsed time it is told."""

    def __init__(self, case: Case, options: Options, timer: float, simulated: bool) -> None:
        self._mode, self._options, self._timer, self._simulated = case.mode, options, timer, simulated
        self._warm: list[float] = []  # median of each window of the warm-up
        self._spent = 0.0
        self._warm_calls = 0
        self._sampling = False
        self._batches: list[list[GroupTimes]] = []
        self._calls = 1
        self._per_call = 0.0

    def predicted(self, told: _Told) -> float:
        return self._per_call * told.samples * told.calls

    def hear(self, times: list[GroupTimes], told: _Told, elapsed: float) -> _Told:
        """Takes one batch, answers with what to do next."""
        per_call = max(float(np.median(group.seconds)) for group in times)
        self._per_call = max(per_call, 1e-9)
        self._spent += self.predicted(told) if self._simulated else elapsed
        if not self._sampling:
            self._warm_calls += told.samples * told.calls
            if not self._is_warm(per_call):
                # A window covers at least a millisecond of calls, or microsecond calls would never settle.
                calls = min(_MAX_CALLS, max(1, math.ceil(_WINDOW_TIME / _WINDOW / self._per_call)))
                return _Told(_WINDOW, calls, "") if self._mode == "throughput" else _Told(_WINDOW * calls, 1, "")
            self._sampling, self._spent = True, 0.0
            self._calls = self._calibrated() if self._mode == "throughput" else 1
            return _Told(self._first(), self._calls, "")
        self._batches.append(times)
        so_far = [np.concatenate([batch[g].seconds for batch in self._batches]) for g in range(len(times))]
        decision: Decision = decide(so_far, self._options.limits, self._spent)
        return _Told(decision.more, self._calls, decision.reason)

    def _is_warm(self, per_call: float) -> bool:
        """Steady: the last window is not faster than the best one before; or the time for it is used up."""
        best = min(self._warm, default=math.inf)
        self._warm.append(per_call)
        if self._spent >= self._options.warmup:
            return True
        return len(self._warm) >= 3 and per_call >= best * (1 - _STEADY)

    def _first(self) -> int:
        """The first batch: min_samples, or what fits into max_time where a call takes seconds (but some)."""
        limits = self._options.limits
        fits = int(limits.max_time / (self._per_call * self._calls))
        return min(limits.min_samples, max(_FEW, fits))

    def _calibrated(self) -> int:
        """Calls per sample: the clock is a small part of it, and throughput mode has something to pipeline."""
        target = max(self._timer / _CLOCK_SHARE, _MIN_SAMPLE)
        pipeline = min(_PIPELINE, math.ceil(_PIPELINE_TIME / self._per_call))
        return min(_MAX_CALLS, max(math.ceil(target / self._per_call), pipeline, 1))

    def sampled(self, reason: str) -> _Sampled:
        groups = range(len(self._batches[0]))
        joined = [
            GroupTimes(*(np.concatenate([getattr(b[g], field) for b in self._batches]) for field in GroupTimes._fields))
            for g in groups
        ]
        return _Sampled(joined, {"calls": self._calls, "warmup": self._warm_calls, "stopped": reason})


def _merged(outcomes: list[_Outcome]) -> _Outcome:
    """One word for all: the first error, then the first reason, with all checks in rank order."""
    for rank, outcome in enumerate(outcomes):
        if outcome.error:
            same = all(o.error == outcome.error for o in outcomes)
            return _Outcome(error=outcome.error if same else f"rank {rank}: {outcome.error}")
    reason = next((o.unsupported for o in outcomes if o.unsupported), "")
    # -1 stands for a process without a rank in the groups
    return _Outcome(unsupported=reason, checks=tuple(check for o in outcomes for check in o.checks or ((-1, -1),)))


def _judged(measurement: Measurement, group: tuple[int, ...], verdict: _Outcome) -> Measurement:
    """The measurement with the data check of its ranks; wrong data makes it failed."""
    if verdict.error or verdict.unsupported:
        return msgspec.structs.replace(
            measurement, status="failed", why=f"data check: {verdict.error or verdict.unsupported}"
        )
    bad = [(rank, *verdict.checks[rank]) for rank in group if verdict.checks[rank][0] > 0]
    wrong = sum(count for _, count, _ in bad)
    if not bad:
        return msgspec.structs.replace(measurement, wrong=0)
    rank, count, first = bad[0]
    why = f"wrong data: {wrong} elements on {len(bad)} ranks; first on rank {rank} at index {first} ({count} there)"
    return msgspec.structs.replace(measurement, status="failed", wrong=wrong, why=why)


def _rounded(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> tuple[float, ...]:
    """Six significant digits: far below the noise, and a third of the journal's size."""
    return tuple(float(f"{value:.6g}") for value in values)
