"""A spec on a world: the cases, their order, which sizes are rounded, and how long it may take."""

import math
import random
from collections.abc import Iterator, Sequence
from itertools import product

from commbench.backends.base import IN_PLACE_ONLY
from commbench.collectives import COLLECTIVES, moved
from commbench.errors import SpecError
from commbench.layouts import expand, parse_mesh
from commbench.records import Case
from commbench.spec.sweep import Axes, SweepSpec
from commbench.spec.values import MAX_CASES, SETTINGS
from commbench.units import format_bytes

# What `estimate` believes about any machine. Crude on purpose and in one place; set by runs of `quick` on two
# cores that other work was using (gloo 23 to 56 s, mpi 8 and 19 s), so it is too low there and wants a quiet
# machine. A dry run promises the order of magnitude.
START_UP = 5.0  # seconds for a launch: interpreter, torch, rendezvous
CONTROL = 0.1  # seconds for a case: preparing, agreeing, journalling, the sample that overshoots max_time
NOISE = 0.2  # relative scatter of samples; the interval of a median is 2.45 * NOISE / sqrt(samples)
WARM_CALLS = 20  # calls until the times are steady
PIPELINE = (20, 0.05, 2e-4)  # a throughput sample: so many calls, at most and at least so many seconds
FILL = 2e8  # bytes per second of making and checking known data
WIRE = 1e9  # bytes per second of any backend
LATENCY = {"gloo": 1e-3, "mpi": 5e-6, "nccl": 2e-5, "simulated": 0.0}  # seconds of a call without bytes


def _symbols(entry: str, axes: Axes, size: int) -> Iterator[str]:
    """The layout symbols of one entry of `groups` in a world of `size` ranks."""
    place = axes.places.get(entry, "groups")
    if entry == "pairs":
        if size < 2:
            raise SpecError(f"{place}: pairs need at least 2 ranks, the world has {size}")
        yield from (f"pairs/{k}" for k in range(size + size % 2 - 1))
    elif entry.startswith("every:"):
        if (k := int(entry.partition(":")[2])) > size:
            raise SpecError(f"{place}: every {k} needs at least {k} ranks, the world has {size}")
        yield entry
    elif entry.startswith("mesh("):
        mesh, _, alone = entry.partition(" ")
        sizes = parse_mesh(f"{mesh}/any")[0]
        if (total := math.prod(length for _, length in sizes)) != size:
            shape = " x ".join(f"{name} {length}" for name, length in sizes)
            raise SpecError(f"{place}: the mesh {shape} has {total} ranks, but the world has {size}")
        for name, length in sizes:
            groups = range(size // length) if alone else ()
            yield from [f"{mesh}/{name}#{k}" for k in groups] or [f"{mesh}/{name}"]
    else:
        yield entry


def _ranks(symbol: str, host_of: Sequence[int]) -> tuple[int, ...]:
    """The different numbers of ranks that groups of the layout have, ascending."""
    if symbol.startswith("pairs/"):
        return (2,)
    if symbol.startswith("mesh("):
        axes, name, _ = parse_mesh(symbol)
        return (dict(axes)[name],)
    return tuple(sorted({len(group) for group in expand(symbol, host_of)}))


def _check_root(axes: Axes, symbol: str, host_of: Sequence[int]) -> None:
    smallest = _ranks(symbol, host_of)[0]
    for root in axes.root:
        if root >= smallest:
            raise SpecError(
                f"{axes.places.get('root', 'root')}: root {root} is outside the smallest group of {symbol}, "
                f"which has {smallest} ranks (0 to {smallest - 1})"
            )


def _settings(axes: Axes, backend: str) -> list[tuple[tuple[str, str], ...]]:
    """Every combination of the settings that this backend knows."""
    own = [(name, values) for name, values in axes.settings if backend in SETTINGS[name].backends]
    return [tuple(zip([n for n, _ in own], chosen, strict=True)) for chosen in product(*(v for _, v in own))]


def _of_op(axes: Axes, op: str, backend: str, symbols: Sequence[str]) -> Iterator[Case]:
    """The cases of one collective; an axis that means nothing to it has one value and does not multiply."""
    collective = COLLECTIVES[op]
    nothing = collective.send == "0"
    in_place: tuple[bool, ...] = axes.in_place or (op in IN_PLACE_ONLY.get(backend, ()),)
    if collective.one_buffer or nothing:
        in_place = (collective.one_buffer,)
    for nbytes, dtype, redop, groups, mode, where, root, settings in product(
        (0,) if nothing else axes.sizes,
        ("float32",) if nothing else axes.dtype,
        axes.redop if collective.reduces else ("sum",),
        symbols,
        axes.mode,
        in_place,
        axes.root if collective.rooted else (0,),
        _settings(axes, backend),
    ):
        yield Case(
            op=op,
            backend=backend,
            nbytes=nbytes,
            dtype=dtype,
            redop=redop,
            groups=groups,
            mode=mode,
            in_place=where,
            root=root,
            settings=settings,
        )


def cases(spec: SweepSpec, host_of: Sequence[int], roots: bool = True) -> tuple[Case, ...]:
    """The grid on a world of len(host_of) ranks, each case once, in the order of the spec.

    `roots`: also refuse a root outside a group, which depends on who shares a host with whom.
    """
    found: dict[Case, None] = {}
    for axes in spec.cases:
        symbols = [symbol for entry in axes.groups for symbol in _symbols(entry, axes, len(host_of))]
        if roots and any(COLLECTIVES[op].rooted for op in axes.op):
            for symbol in symbols:
                _check_root(axes, symbol, host_of)
        for backend, op in product(axes.backend, axes.op):
            for case in _of_op(axes, op, backend, symbols):
                found[case] = None
                if len(found) > MAX_CASES:
                    raise SpecError(
                        f"{spec.source}: on {len(host_of)} ranks these are more than {MAX_CASES:,} cases; "
                        "use fewer sizes, or fewer groups"
                    )
    return tuple(found)


def guess(spec: SweepSpec, size: int) -> tuple[Case, ...]:
    """The grid before the hosts are known, as if all `size` ranks shared one."""
    return cases(spec, [0] * size, roots=False)


def order(cases: Sequence[Case], spec: SweepSpec, launch: int) -> tuple[Case, ...]:
    """The order of one launch: shuffled by seed and launch, so that drift does not follow size."""
    if spec.order == "as_given":
        return tuple(cases)
    shuffled = list(cases)
    random.Random(f"{spec.seed}/{launch}").shuffle(shuffled)
    return tuple(shuffled)


def rounded(cases: Sequence[Case], host_of: Sequence[int], most: int = 4) -> list[str]:
    """Which sizes become others because every rank holds whole elements: one sentence a kind of case."""
    counts = {symbol: _ranks(symbol, host_of) for symbol in {case.groups for case in cases}}
    changes: dict[str, dict[str, None]] = {}
    for case in cases:
        for n in counts[case.groups]:
            real = moved(case.op, case.nbytes, case.dtype, n)
            if real != case.nbytes:
                kind = f"{case.dtype} {case.op} on {n} rank{'s' * (n != 1)}"
                change = f"{format_bytes(case.nbytes)} -> {format_bytes(real)}"
                changes.setdefault(kind, {})[change] = None
    sentences = []
    for kind, found in changes.items():
        more = f" and {len(found) - most} more sizes" if len(found) > most else ""
        sentences.append(f"{', '.join([*found][:most])}{more} for {kind}")
    return sentences


def estimate(spec: SweepSpec, cases: Sequence[Case]) -> tuple[float, float]:
    """(expected, at most) seconds. The second is what the spec's own limits allow, not a promise.

    A call takes latency + bytes / WIRE; a sample is a call, or a pipeline of them in throughput mode. A case
    takes warm-up + samples until the interval is narrow (or max_time is over) + the data check + CONTROL.
    """
    expected = most = START_UP
    stop = spec.stop
    narrow = min(max((2.45 * NOISE / stop.ci) ** 2, stop.min_samples), stop.max_samples)
    calls, longest, shortest = PIPELINE
    for case in cases:
        if case.backend == "simulated":  # its seconds are only counted, never waited for
            expected += CONTROL / 10
            most += CONTROL
            continue
        call = LATENCY[case.backend] + case.nbytes / WIRE
        sample = call
        if case.mode == "throughput":
            sample = max(min(calls * call, longest), shortest, call)
        fixed = CONTROL + (case.nbytes / FILL if spec.check else 0.0)
        expected += fixed + min(spec.warmup.max_time, WARM_CALLS * call) + min(stop.max_time, narrow * sample)
        most += fixed + spec.warmup.max_time + max(stop.max_time, stop.min_samples * sample)
    return expected * spec.launches, most * spec.launches
