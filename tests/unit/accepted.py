"""Acceptance runs that took place nowhere: whole journals of real records, with faults where a test wants them."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from commbench import matchings, store
from commbench.accept.judge import judge
from commbench.collectives import moved
from commbench.layouts import expand
from commbench.records import Case, Fabric, FabricHost, Host, Link, Machine, Measurement, Run, acceptance
from commbench.records.acceptance import Acceptance
from commbench.records.verdict import Verdict
from commbench.spec import Axes, Stop, SweepSpec
from commbench.spec.accept import AcceptSpec, Expect

RATE = 1e9  # bytes/s of a healthy host
SIZES = (2**20, 2**24)
Seconds = Callable[[Case, tuple[int, ...], int], float]  # (case, hosts, round) -> how much longer it takes


class Made(NamedTuple):
    """All that a judgement takes."""

    run: Run
    rows: list[Measurement]
    happened: Acceptance
    spec: AcceptSpec

    @property
    def verdict(self) -> Verdict:
        return judge(self.run, self.rows, self.happened, self.spec, {}, "0" * 64)

    def but(self, **changed: object) -> "Made":
        return self._replace(**changed)  # type: ignore[arg-type]

    def expecting(self, **changed: object) -> "Made":
        """With another `expect`."""
        expect = msgspec.structs.replace(self.spec.expect, **changed)
        return self._replace(spec=msgspec.structs.replace(self.spec, expect=expect))

    def asking(self, **changed: object) -> "Made":
        """With another spec."""
        return self._replace(spec=msgspec.structs.replace(self.spec, **changed))

    def told(self, **changed: object) -> "Made":
        return self._replace(happened=msgspec.structs.replace(self.happened, **changed))

    def rewritten(self, change: Callable[[Measurement], Measurement | None]) -> "Made":
        """With every row changed, or left out."""
        return self._replace(rows=[row for row in map(change, self.rows) if row is not None])


def machine(hosts: int, ranks: int = 1, fabric: Fabric | None = None, **facts: str) -> Machine:
    return Machine(
        hosts=tuple(Host(name=f"h{k + 1}") for k in range(hosts)),
        host_of=tuple(k for k in range(hosts) for _ in range(ranks)),
        launcher="mpirun",
        facts={"torch": "2.9.0", "python": "3.12.1", "cpu": "Xeon", "cores": "64"} | facts,
        fabric=fabric,
    )


def star(hosts: int, rate: float = RATE) -> Fabric:
    names = [f"h{k + 1}" for k in range(hosts)]
    links = tuple(Link(name=f"{name}-leaf", ends=(name, "leaf"), rate=rate) for name in names)
    return Fabric(name="star", hosts=tuple(FabricHost(name=name) for name in names), switches=("leaf",), links=links)


def spec_of(hosts: int, ranks: int = 1, windows: int = 4) -> AcceptSpec:
    axes = Axes(backend=("gloo",), op=("all_reduce", "all_gather"), sizes=SIZES)
    return AcceptSpec(
        name="made",
        source="made.yaml",
        sweep=SweepSpec(name="made", source="made.yaml", cases=(axes,), stop=Stop(max_samples=40)),
        expect=Expect(hosts=hosts, ranks_per_host=ranks),
        windows=windows,
    )


def usual(case: Case, hosts: tuple[int, ...], round_: int) -> float:
    return 1.0


def slow_host(host: int, left: float) -> Seconds:
    """A host that has this share of its rate left."""
    return lambda case, hosts, round_: 1 / left if host in hosts and case.mode == "throughput" else 1.0


def made(
    hosts: int = 8,
    ranks: int = 1,
    seconds: Seconds = usual,
    jitter: float = 0.01,
    fabric: Fabric | None = None,
    seed: int = 0,
    windows: int = 4,
    racks: int = 1,
    late: Sequence[str] = (),
) -> Made:
    """A run of `hosts` hosts in equal racks in which all went as `seconds` says. late: meetings after all else."""
    spec = spec_of(hosts, ranks, windows)
    size = hosts // racks
    where = [tuple(range(k * size, (k + 1) * size)) for k in range(racks)] if racks > 1 else [tuple(range(hosts))]
    if racks > 1:
        named = {f"leaf{k + 1}": tuple(f"h{host + 1}" for host in rack) for k, rack in enumerate(where)}
        spec = msgspec.structs.replace(spec, racks=named)
    about = machine(hosts, ranks, fabric)
    dice = random.Random(seed)
    rows: list[Measurement] = []

    def measure(case: Case) -> None:
        round_ = rows[-1].launch + 1 if rows else 0
        for index, group in enumerate(expand(case.groups, about.host_of)):
            members = tuple(sorted({about.host_of[rank] for rank in group}))
            nbytes = moved(case.op, case.nbytes, case.dtype, len(group))
            once = 20e-6 if case.mode == "latency" else 20e-6 + 1.02 * factor(case, len(group)) * nbytes / RATE
            once *= seconds(case, members, round_) * dice.lognormvariate(0, jitter)
            each = tuple(once * dice.lognormvariate(0, jitter) for _ in range(30))
            about_it = {"group": index, "ranks": len(group), "launch": round_, "nbytes": nbytes, "wrong": 0, "calls": 1}
            rows.append(msgspec.structs.replace(Measurement(case=case), seconds=each, **about_it))

    def pairs(symbol: str) -> None:
        for mode, nbytes in (("throughput", spec.pair_bytes), ("latency", spec.latency_bytes)):
            measure(Case(op="send_recv", backend="gloo", nbytes=nbytes, groups=symbol, mode=mode))  # type: ignore[arg-type]

    if ranks > 1:
        for _ in range(2):
            measure(Case(op="all_reduce", backend="gloo", nbytes=spec.pair_bytes, groups=matchings.each(range(hosts))))
    for round_ in range(4 if hosts > 4 else 3):
        for kind in ("in", "across") if racks > 1 else ("in",):
            pairs(matchings.symbol(where, kind, round_))
    full = [
        Case(op=op, backend="gloo", nbytes=nbytes, groups="world")
        for op in ("all_reduce", "all_gather")
        for nbytes in SIZES
    ]
    for case in [*full, *[full[1]] * (windows - 1)]:
        measure(case)
    for symbol in late:
        pairs(symbol)
    stages = {name: "done" for name in spec.stages if name != "preflight"}
    run = Run(
        format=store.FORMAT,
        name="made",
        created="2026-11-23T09:00:00+00:00",
        commbench="0.6",
        seed=0,
        spec=spec.sweep.canonical() | spec.also,
        machine=about,
    )
    return Made(run, rows, Acceptance(ended="done", stages=stages, launches=1, spent=60.0), spec)


def factor(case: Case, ranks: int) -> float:
    """Bytes that a rank sends for each byte of the message."""
    return {"all_reduce": 2.0, "all_gather": 1.0, "send_recv": ranks / max(1, ranks - 1)}[case.op] * (ranks - 1) / ranks


def sentences(verdict: Verdict) -> str:
    return "\n".join(f"{one.code} {one.component}: {one.sentence}" for one in verdict.reasons)


def codes(verdict: Verdict) -> set[str]:
    return {one.code for one in verdict.reasons}


def stored(one: Made, folder: Path) -> Path:
    """The run folder of it."""
    journal = store.create(folder, one.run)
    journal.append(one.rows)
    journal.close()
    (folder / acceptance.NAME).write_bytes(acceptance.encode(one.happened))
    (folder / "spec.json").write_bytes(msgspec.json.encode(one.spec))
    return folder


def hosts_of(row: Measurement, about: Machine) -> Sequence[int]:
    return sorted({about.host_of[rank] for rank in expand(row.case.groups, about.host_of)[row.group]})
