"""The spec of a search for faster settings: what is measured, who takes part, what it may cost."""

import re
from collections.abc import Sequence
from itertools import product
from pathlib import PurePath
from typing import Any, Literal

import msgspec

from commbench.backends.base import BACKENDS
from commbench.collectives import COLLECTIVES, DTYPES, REDOPS
from commbench.errors import SpecError
from commbench.spec import values as v
from commbench.spec.document import TUNING, Field, find, read, show
from commbench.spec.sweep import Axes, Stop, SweepSpec, Warmup
from commbench.tune.verdicts import LOOKS, USUAL, Options

What = Literal["collectives", "model", "command"]
Settings = tuple[tuple[str, str], ...]


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One trial: samples for max_time seconds, of which its figure is the median."""

    max_time: float = 0.2
    min_samples: int = 3
    max_samples: int = 200
    warmup: float = 0.05


class TuneSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A search. `sweep` is its grid without settings; `sizes_of_job` fills the sizes in.

    candidates  settings that take part besides those of the catalogue, or (`catalogue` false) instead of them
    thorough    as tune.search.Search has it
    job         path of a training job's record (traces, train.json, step files, shapes): what its messages are
    job_ranks   ranks of its collectives, where the record does not tell them (old traces)
    """

    name: str
    source: str
    sweep: SweepSpec
    budget: float = 600.0
    options: Options = USUAL
    candidates: tuple[Settings, ...] = ()
    catalogue: bool = True
    thorough: bool = False
    job: str = ""
    job_ranks: int | None = None
    sizes_of_job: bool = False

    @property
    def also(self) -> dict[str, Any]:
        """What beside the grid decides the search, as plain JSON. Not the budget: a search may be gone on with."""
        return {
            "tune": {
                **self.options._asdict(),
                "candidates": [dict(one) for one in self.candidates],
                "catalogue": self.catalogue,
            }
        }


def _candidates(field: Field) -> tuple[Settings, ...]:
    if not isinstance(field.value, list) or not field.value:
        raise field.error("write a list of settings, as in [{coll_tuned_allreduce_algorithm: ring}]")
    found: dict[Settings, None] = {}
    for entry in field.entries():
        each = v.settings(entry)
        if not each:
            raise entry.error("names no setting; the default takes part anyway")
        names = [name for name, _ in each]
        found |= {tuple(zip(names, chosen, strict=True)): None for chosen in product(*(values for _, values in each))}
    return tuple(found)


def _text(field: Field) -> str:
    if not isinstance(field.value, str) or not field.value:
        raise field.error(f"{show(field.value)} is no path")
    return field.value


def _sizes(field: Field) -> tuple[int, ...]:
    return () if field.value == "job" else v.sizes(field)


_AXES: dict[str, v.Reader] = {
    "collectives": v.each(v.choice([name for name in COLLECTIVES if name != "barrier"], "collective")),
    "sizes": _sizes,
    "dtype": v.each(v.choice(DTYPES, "dtype")),
    "redop": v.each(v.choice(REDOPS, "redop")),
    "groups": v.each(v.group),
    "mode": v.each(v.choice(("latency", "throughput"), "mode")),
}
TRIAL: dict[str, v.Reader] = {
    "max_time": v.time,
    "min_samples": v.whole(1, 10**6),
    "max_samples": v.whole(1, 10**6),
    "warmup": v.time,
}
_REST: dict[str, v.Reader] = {
    "name": v.name,
    "backend": v.choice([name for name in BACKENDS if name != "simulated"], "backend"),
    "trial": v.section(Trial, TRIAL),
    "budget": v.time,
    "regret": v.share,
    "confidence": v.share,
    "rounds": v.whole(LOOKS[0], LOOKS[-1]),
    "candidates": _candidates,
    "catalogue": v.flag,
    "job": _text,
    "job_ranks": v.whole(1, 2**20),
    "seed": v.whole(0, 2**63 - 1),
    "deadline": v.time,
}


def what(source: str, overrides: Sequence[str] = ()) -> What:
    """What is to be tuned: settings of collectives, the buckets of a model, or those of a job of the user's own."""
    top = read(find(source, TUNING), overrides, TUNING)
    given = top.value if isinstance(top.value, dict) else {}
    kinds: tuple[What, ...] = ("collectives", "model", "command")
    found = [key for key in kinds if key in given]
    if len(found) != 1:
        have = " and ".join(found) if found else f"{', '.join(map(str, given)) or 'nothing'}"
        raise top.error(
            f"has {have}; write one of: collectives (settings of a library), model (buckets of the reference job), "
            "command (buckets of your own job)"
        )
    return found[0]


def load(source: str, overrides: Sequence[str] = ()) -> TuneSpec:
    """The tuning spec at a path, or the shipped one of that name; `key=value` overrides go in before checking."""
    path = find(source, TUNING)
    top = read(path, overrides, TUNING)
    fields = top.mapping((*_AXES, *_REST))
    for key in ("backend", "collectives", "sizes"):
        if key not in fields:
            raise top.child(key).error(f"is missing; a tuning spec says {TUNING.least}")
    axes = {key: _AXES[key](fields[key]) for key in _AXES if key in fields}
    rest = {key: _REST[key](fields[key]) for key in _REST if key in fields}
    backend, trial = rest.pop("backend"), rest.pop("trial", Trial())
    for settings in rest.get("candidates", ()):
        for name, _ in settings:
            if backend not in (able := v.SETTINGS[name].backends):
                raise fields["candidates"].error(f"{name} is a setting of {', '.join(able)}, not of {backend}")
    if "catalogue" in rest and not rest["catalogue"] and not rest.get("candidates"):
        raise fields["catalogue"].error("without the catalogue there must be candidates")
    of_job = fields["sizes"].value == "job"
    if of_job and "job" not in rest:
        raise fields["sizes"].error("job: say which with the key job: PATH of its traces, train.json or step files")
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", PurePath(path).stem).lstrip("._-")[:64]
    name = rest.pop("name", stem or "tune")
    places = {v.group(entry): entry.place for entry in fields["groups"].entries()} if "groups" in fields else {}
    sweep = SweepSpec(
        name=name,
        source=path,
        cases=(Axes(backend=(backend,), op=axes.pop("collectives"), places=places, **axes),),
        stop=Stop(
            ci=1e-9,
            max_time=trial.max_time,
            min_samples=min(trial.min_samples, trial.max_samples),
            max_samples=trial.max_samples,
        ),
        warmup=Warmup(max_time=trial.warmup),
        seed=rest.pop("seed", 0),
        deadline=rest.pop("deadline", 60.0),
    )
    options = Options(*(rest.pop(key, usual) for key, usual in zip(Options._fields, USUAL, strict=True)))
    return TuneSpec(name=name, source=path, sweep=sweep, options=options, sizes_of_job=of_job, **rest)


def with_sizes(spec: TuneSpec, sizes: Sequence[int]) -> TuneSpec:
    """The same search at other sizes."""
    if not sizes:
        raise SpecError(f"{spec.job or spec.source}: no size to measure")
    axes = msgspec.structs.replace(spec.sweep.cases[0], sizes=tuple(sizes))
    return msgspec.structs.replace(spec, sweep=msgspec.structs.replace(spec.sweep, cases=(axes,)))
