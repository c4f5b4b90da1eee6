"""What an acceptance test asks next: hosts inside, pairs, confirmation, the full scale, whether it stays so, and at the
end those that are accused once more.

The most telling tests come first, so that a budget that ends early has bought the most.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import msgspec

from commbench import matchings
from commbench.accept.hunt import Hunt
from commbench.accept.locate import Options, Seen
from commbench.accept.observe import fleet_of, meetings, met, parts, racks_of, rounds
from commbench.accept.slow import LATENCY_SLOWDOWN
from commbench.accept.stages import stage
from commbench.records import Case, Machine, Measurement
from commbench.spec import grid
from commbench.spec.accept import AcceptSpec

AGAIN = 4  # rounds of those accused at the end, at most
_INSIDE = 2  # rounds of the ranks of each host: once is no proof


class AcceptPlan:
    """Asks one case at a time.

    machine   of the run, all hosts that began; `here` are those that still take part (indices)
    over      a sentence once time is up or somebody asked to stop, "" before
    """

    def __init__(
        self,
        spec: AcceptSpec,
        machine: Machine,
        here: Sequence[int],
        measured: Sequence[Measurement],
        over: Callable[[], str],
    ) -> None:
        self._spec, self._machine, self._here, self._over = spec, machine, tuple(here), over
        self._done = rounds(measured)
        # In how many rounds each case was measured.
        self._count = Counter(rows[0].case for rows in self._done if rows[0].status != "hung")
        self.round = max((row.launch for row in measured), default=-1)
        self.stages: dict[str, str] = {}
        self.stopped = ""
        self._answer: list[Measurement] = []
        racks = racks_of(machine, spec.racks)
        fleet = fleet_of(machine, racks)
        options = Options(slowdown=spec.slowdown, alpha=spec.alpha, beta=spec.beta, spread=spec.spread,
                          seed=spec.sweep.seed)  # fmt: skip
        self._hunts = {
            mode: Hunt(fleet, options._replace(slowdown=slowdown), self._seen(mode), hosts=self._here)
            for mode, slowdown in (("throughput", spec.slowdown), ("latency", LATENCY_SLOWDOWN))
        }
        self._script = self._stages()

    # -- the protocol of a plan

    def ask(self) -> Sequence[Case]:
        self.stopped = self.stopped or self._over()
        if self.stopped:
            return ()
        case = next(self._script, None)
        if case is None:
            return ()
        self.round += 1
        return (case,)

    def tell(self, answers: Sequence[Measurement]) -> None:
        self._answer = list(answers)
        self._count.update(row.case for row in answers[:1])

    def numbered(self, rows: Sequence[Measurement]) -> list[Measurement]:
        """The rows with the number of their round."""
        return [msgspec.structs.replace(row, launch=self.round) for row in rows]

    def left(self) -> dict[str, str]:
        """What became of each stage of the spec."""
        return {
            name: self.stages.get(name, self.stopped or "not reached")
            for name in self._spec.stages
            if name != "preflight"
        }

    # -- the stages

    def _stages(self) -> Iterator[Case]:
        table = {"intra": self._intra, "spread": self._pairs, "full": self._full, "stability": self._stability}
        for name, script in table.items():
            if name in self._spec.stages:
                yield from script()
                self.stages.setdefault(name, "done")
        if "spread" in self._spec.stages:
            if "full" in self._spec.stages:  # else no time has passed
                yield from self._again()
            self.stages.setdefault("confirm", "done")

    def _intra(self) -> Iterator[Case]:
        """The ranks of each host among themselves, all hosts at once."""
        if max(self._machine.host_of.count(host) for host in self._here) < 2:
            self.stages["intra"] = "done: hosts have one rank, nothing to measure inside"
            return
        case = self._pair_case(matchings.each(self._here), "throughput", "all_reduce")
        for _ in range(_INSIDE - self._count[case]):
            yield case

    def _pairs(self) -> Iterator[Case]:
        """Both hunts: what the one asks the other measures too while they spread, then each confirms for itself."""
        if len(self._here) < 2:
            self.stages["spread"] = self.stages["confirm"] = "one host: there is nobody to meet"
            return
        decided = self._whole()
        for mode, other in (("throughput", "latency"), ("latency", "throughput")):
            while not decided and (symbol := self._hunts[mode].ask()):
                yield from self._meet(mode, symbol)
                if symbol.startswith("racks(") and other == "latency":
                    yield from self._meet(other, symbol)
        if not any(hunt.state().standing.found for hunt in self._hunts.values()):
            self.stages["confirm"] = "done"  # else those accused are looked at once more at the end

    def _again(self) -> Iterator[Case]:
        """Who is accused meets others once more, now that time has passed; a few times where it is not slow then."""
        for mode, hunt in self._hunts.items():
            late = len(self._seen(mode, self._after_full()))  # of a launch before this one
            since = len(self._seen(mode)) - late if late else hunt.met
            for _ in range(AGAIN - late):
                if symbol := hunt.again(since):
                    yield from self._meet(mode, symbol)

    def _whole(self) -> bool:
        """Whether a launch before this one came to the end of the full scale with the same hosts: what pairs were to
        tell before it is told then, and a test that goes on asks what one without a break would ask."""
        cases = self._full_cases()
        cases = [case for case in cases if case.groups == cases[0].groups]
        most = max((self._count[case] for case in cases), default=0)
        wanted = self._spec.windows if "stability" in self._spec.stages else 1
        return bool(cases) and min(self._count[case] for case in cases) > 0 and most >= wanted

    def _after_full(self) -> int:
        """The rounds of the journal from which on the full scale was done, as far as it was."""
        return max(
            (k + 1 for k, rows in enumerate(self._done) if stage(rows[0].case) == "full"), default=len(self._done)
        )

    def _meet(self, mode: str, symbol: str) -> Iterator[Case]:
        """In parts, one after another, where all pairs at once would share links and judge each other."""
        whole = self._pair_case(symbol, mode)
        count, rows = parts(whole, self._machine), []
        for index in range(count):
            yield msgspec.structs.replace(whole, groups=matchings.part(symbol, index, count))
            rows += self._answer
        if found := met(rows, self._machine):
            self._hunts[mode].tell(found.seen)

    def _full(self) -> Iterator[Case]:
        """The collectives of training on everybody, and without the suspects where there are some."""
        for case in self._full_cases():
            if not self._count[case]:
                yield case

    def _stability(self) -> Iterator[Case]:
        """The largest case again and again: what an average hides."""
        cases = [case for case in self._full_cases() if case.op != "barrier"]
        if not cases:
            self.stages["stability"] = "there is no collective to repeat"
            return
        largest = max(cases, key=lambda case: (case.groups == cases[0].groups, case.nbytes))
        for _ in range(self._spec.windows - self._count[largest]):
            yield largest

    # -- cases

    def _full_cases(self) -> list[Case]:
        everybody = len(self._here) == len(self._machine.hosts)
        suspects = {host for found in self._hunts["throughput"].located().found for host in found.hosts}
        groups = ["world" if everybody else matchings.only(self._here)]
        good = [host for host in self._here if host not in suspects]
        if 1 < len(good) < len(self._here):
            groups.append(matchings.only(good))
        cases = grid.cases(self._spec.sweep, self._machine.host_of, roots=False)
        return [msgspec.structs.replace(case, groups=symbol) for symbol in groups for case in cases]

    def _pair_case(self, symbol: str, mode: str, op: str = "send_recv") -> Case:
        spec = self._spec
        backend = spec.sweep.backends[0]
        rails = (("rails", ",".join(spec.rails)),) if spec.rails and backend == "gloo" else ()
        return Case(
            op=op,
            backend=backend,
            nbytes=spec.pair_bytes if mode == "throughput" else spec.latency_bytes,
            groups=symbol,
            mode="throughput" if mode == "throughput" else "latency",
            in_place=op == "all_reduce" and backend in ("gloo", "nccl"),
            settings=rails if op == "send_recv" else (),
        )

    def _seen(self, mode: str, first: int = 0) -> list[Seen]:
        """Meetings of the journal, from round `first` of it on."""
        rows = [row for rows in self._done[first:] for row in rows if stage(row.case) in ("spread", "confirm")]
        return [one.seen for one in meetings([row for row in rows if row.case.mode == mode], self._machine)]
