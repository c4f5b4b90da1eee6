"""A run folder of a search to a recommendation. Pure: the same journal gives the same bytes."""

from collections.abc import Mapping, Sequence

import numpy as np

from commbench.collectives import COLLECTIVES
from commbench.errors import SpecError
from commbench.records import Machine, Measurement, Run
from commbench.records.recommendation import Recommendation, Rule, facts_of, versions_of
from commbench.spec.tune import TuneSpec
from commbench.tune.candidates import DEFAULT, Candidate, candidates, chosen, concerns, over_hosts
from commbench.tune.evidence import Trials
from commbench.tune.rules import find
from commbench.tune.verdicts import Choice, Options, choices

_HOLDS = 90  # days; then libraries, drivers and cables are no longer what they were
_MPI = ("openmpi", "mpich")

Race = dict[str, tuple[Candidate, ...]]


def racing(spec: TuneSpec, machine: Machine) -> Race:
    """Who takes part for each collective: the default, the catalogue's choices, the spec's own. SpecError: nobody."""
    (backend,), hosts = spec.sweep.backends, len(machine.hosts)
    library = next((name for name in _MPI if name in versions_of(machine)), backend) if backend == "mpi" else backend
    found: Race = {}
    for op in dict.fromkeys(op for axes in spec.sweep.cases for op in axes.op):
        listed = candidates(library, op, machine.size) if spec.catalogue else (DEFAULT,)
        own = tuple(chosen(settings) for settings in spec.candidates if concerns(settings, op))
        every = (*listed, *own)  # of a recheck: the rules as they are, which say of han what they need
        taking = {one.settings: one for one in (every if spec.thorough else over_hosts(every, library, hosts))}
        if len(taking) < 2:
            raise SpecError(f"{spec.source}: nothing but the default takes part for {op}; write candidates")
        found[op] = tuple(taking.values())
    return found


def recommend(
    run: Run,
    measurements: Sequence[Measurement],
    race: Mapping[str, Sequence[Candidate]],
    options: Options,
    data_sha256: str,
    held: Sequence[Rule] = (),
) -> Recommendation:
    """The rules that the trials prove, or why the default stays."""
    machine = run.machine
    found = find(measurements, race, nodes=len(machine.hosts), options=options, held=held)
    each = choices(Trials(measurements), options)
    return Recommendation(
        name=run.name,
        created=run.created,
        expires=expires(run.created),
        machine=facts_of(machine),
        versions=versions_of(machine),
        data_sha256=data_sha256,
        rules=found,
        keep_default="" if found else _keep(each, options),
        busbw_gbps=_plateau(each, len(machine.hosts)),
        notes=tuple(f"uncertain at {_at(one)}: {one.uncertain}" for one in each if one.uncertain),
    )


def expires(created: str) -> str:
    """The moment, ISO 8601 like `created`, from which on it is to be measured again."""
    return f"{np.datetime64(created[:10]) + np.timedelta64(_HOLDS, 'D')}{created[10:]}"


def _keep(each: Sequence[Choice], options: Options) -> str:
    if not decided(each):
        whys = "; ".join(dict.fromkeys(one.uncertain for one in each if one.uncertain)) or "no trial was made"
        return f"nothing could be decided: {whys}"
    most = max(one.candidates for one in each)
    trials = sum(one.trials for one in each)
    open_ = sum(bool(one.uncertain) for one in each)
    rest = f"; at {open_} of {len(each)} sizes more trials might still show one" if open_ else ""
    return (
        f"no setting is proved faster than the default by more than {options.regret:.0%} "
        f"({most} candidates, {trials} trials at {len(each)} sizes){rest}"
    )


def decided(each: Sequence[Choice]) -> bool:
    """Whether any size was compared to an end: a candidate proved faster, or all of them proved to be no better."""
    return any(one.settings or (one.default_us and one.candidates and not one.uncertain) for one in each)


def _at(one: Choice) -> str:
    return f"{one.point.case.op} {one.point.case.nbytes} bytes"


def _plateau(each: Sequence[Choice], hosts: int) -> dict[str, float]:
    """GB/s of the largest all_reduce, with what was chosen."""
    factor = COLLECTIVES["all_reduce"].factor
    found = {
        one.point.case.nbytes: one.point.case.nbytes / one.best_us * 1e-3 * factor(one.ranks)
        for one in each
        if factor and one.point.case.op == "all_reduce" and one.best_us and one.ranks > 1
    }
    return {"inter_node" if hosts > 1 else "intra_node": float(f"{found[max(found)]:.4g}")} if found else {}
