"""Environment variables: for a shell, for Slurm, for Kubernetes.

A variable holds for all sizes and collectives. So what was chosen for some sizes goes into the library's own rules
file, and the variables only switch it on; a setting that has no place there is a variable only where it was raced for
whole processes. What the switches take along (Open MPI's han) is said in the file.
"""

import json
import shlex
from pathlib import PurePosixPath
from typing import NamedTuple

from commbench.backends.mpi_tool import at_start, implied
from commbench.emit import mpi, mpich, nccl
from commbench.emit.target import Line, Place, library_of, plain, proven
from commbench.errors import SpecError
from commbench.records.recommendation import Recommendation, Rule

FILES = {"openmpi": "openmpi-rules.conf", "mpich": "mpich-tuning.json", "nccl": "nccl-tuner.csv"}
PLUGIN = "libnccl-tuner-commbench.so"


class Variable(NamedTuple):
    name: str
    value: str
    why: str


def files(recommendation: Recommendation) -> list[str]:
    """The targets whose files the variables point at."""
    target = {"openmpi": "openmpi", "mpich": "mpich", "nccl": "nccl-csv"}
    return [target[library] for library in _libraries(recommendation) if _scoped(recommendation, library)]


def _libraries(recommendation: Recommendation) -> list[str]:
    names = {library_of(name) for rule in filter(proven, recommendation.rules) for name, _ in rule.settings}
    return [library for library in FILES if library in names]


def _scoped(recommendation: Recommendation, library: str) -> bool:
    """Whether a library has rules that hold for some sizes: an algorithm, a protocol."""
    marks = {"openmpi": "_algorithm", "mpich": "_INTRA_ALGORITHM", "nccl": "NCCL_ALGO"}
    return any(marks[library] in name for rule in filter(proven, recommendation.rules) for name, _ in rule.settings)


def variables(recommendation: Recommendation, folder: PurePosixPath) -> list[Variable]:
    """What to set; `folder` is where the job finds the rules files. SpecError where a variable would reach too far."""
    found: list[Variable] = []
    for library in _libraries(recommendation):
        own = _own(recommendation, library)
        if _scoped(recommendation, library):
            found += _switches(library, recommendation, own, folder)
        else:
            found += _agreed(own)
    if not found:
        raise SpecError(f"nothing to set: {recommendation.keep_default or 'no proven rule has a variable'}")
    return found


def reach(recommendation: Recommendation) -> dict[str, str]:
    """Library -> what the switches of its rules file take along where it has no rule."""
    found = {"openmpi": mpi.REACH, "mpich": mpich.REACH}
    if mpi.HAN not in mpi.switches(recommendation, _own(recommendation, "openmpi")):
        del found["openmpi"]
    return {library: told for library, told in found.items() if _scoped(recommendation, library)}


def _own(recommendation: Recommendation, library: str) -> list[Rule]:
    rules = filter(proven, recommendation.rules)
    return [rule for rule in rules if any(library_of(name) == library for name, _ in rule.settings)]


def _switches(library: str, recommendation: Recommendation, rules: list[Rule], folder: PurePosixPath) -> list[Variable]:
    """What makes the library read its rules file, and obey it."""
    path = str(folder / FILES[library])
    if library == "nccl":
        return [
            Variable("NCCL_TUNER_PLUGIN", str(folder / PLUGIN), "commbench emit --for nccl-plugin --build makes it"),
            Variable("NCCL_TUNER_CONFIG_FILE", path, "rules by size; NCCL decides where there is none"),
        ]
    if library == "openmpi":
        read = Variable(
            "OMPI_MCA_coll_tuned_dynamic_rules_filename", path, "a file that is not there is not complained of"
        )
        more = mpi.switches(recommendation, rules)
    else:
        read = Variable(
            "MPIR_CVAR_COLL_SELECTION_TUNING_JSON_FILE", path, "all decisions, of which some are the measured ones"
        )
        more = {"MPIR_CVAR_DEVICE_COLLECTIVES": "percoll"}
    needs = {key: value for rule in rules for name in plain(rule) for key, value in implied(name).items()} | more
    return [read, *(Variable(_full(name), value, _WHY.get(name, mpich.REACH)) for name, value in needs.items())]


_WHY = {
    "coll_tuned_use_dynamic_rules": "without it no rules are read",
    mpi.HAN: mpi.REACH,
}


def _full(name: str) -> str:
    """As the environment calls it: Open MPI's variables have a prefix there."""
    return f"OMPI_MCA_{name}" if library_of(name) == "openmpi" and not name.startswith("OMPI_MCA_") else name


def _agreed(rules: list[Rule]) -> list[Variable]:
    """One value for all sizes: of what a process starts with, so that the race was one of whole processes."""
    found = []
    for name in dict.fromkeys(name for rule in rules for name, _ in rule.settings):
        values = {dict(rule.settings).get(name) for rule in rules}
        if len(values) > 1:
            raise SpecError(
                f"{name} differs between sizes ({', '.join(sorted(map(str, values)))}), and a variable holds for all"
            )
        value = dict(rules[0].settings)[name]
        sizes = f"{min(rule.min_bytes for rule in rules)} to {max(rule.max_bytes for rule in rules)} bytes"
        if library_of(name) != "nccl" and not at_start(name):
            ops = ", ".join(dict.fromkeys(rule.op for rule in rules))
            helps = f"; {mpi.by_launch(name, value)}" if library_of(name) == "openmpi" else ""
            raise SpecError(
                f"{name}={value} is proved for {ops} of {sizes}, and a variable holds for all sizes and collectives, "
                f"where it may be slower{helps}"
            )
        reason = f"proved at {sizes}; it holds for all, and was proved slower at no measured size"
        found.append(Variable(_full(name), value, reason))
    return found


def shell(recommendation: Recommendation, place: Place) -> list[Line]:
    """`source` it before the launcher; with Open MPI's mpirun the variables reach all ranks."""
    made = variables(recommendation, PurePosixPath(place.folder))
    return [Line(f"export {one.name}={shlex.quote(one.value)}", one.why) for one in made]


def slurm(recommendation: Recommendation, place: Place) -> list[Line]:
    """Lines for a batch script: srun hands the environment of the script to the ranks."""
    return [*shell(recommendation, place), Line("export SLURM_EXPORT_ENV=ALL", "srun then passes the lines above on")]


def kubernetes(recommendation: Recommendation, place: Place) -> list[Line]:
    """A ConfigMap for envFrom, and one with the files, to be mounted at /etc/commbench."""
    made = variables(recommendation, PurePosixPath("/etc/commbench"))
    lines = [
        Line(text) for text in ("apiVersion: v1", "kind: ConfigMap", "metadata:", "  name: commbench-env", "data:")
    ]
    lines += [Line(f"  {one.name}: {json.dumps(one.value)}", one.why) for one in made]
    writers = {"openmpi": mpi.classic, "mpich": mpich.document, "nccl-csv": nccl.csv}
    if wanted := files(recommendation):
        head = ("---", "apiVersion: v1", "kind: ConfigMap", "metadata:", "  name: commbench-files", "data:")
        lines += [Line(text) for text in head]
    for target in wanted:
        text = "\n".join(line.text for line in writers[target](recommendation, place) if line.text)
        lines.append(
            Line(f"  {FILES[target.removesuffix('-csv')]}: {json.dumps(text + chr(10))}", "mount at /etc/commbench")
        )
    return lines
