"""Files that apply a recommendation: one function a target, one table of targets, one header for all."""

import textwrap

from commbench.emit import frameworks, mpi, mpich, nccl, variables
from commbench.emit.target import Line, Place, Target, library_of, proven, share
from commbench.errors import SpecError, nearest
from commbench.records.recommendation import BucketPlan, Recommendation, Rule

TARGETS: dict[str, Target] = {
    "nccl-csv": Target(
        nccl.csv, "nccl", "rules", "nccl-tuner.csv", "CSV for commbench's tuner plugin, and NVIDIA's example"
    ),
    "nccl-plugin": Target(nccl.csv, "nccl", "rules", "nccl-tuner.csv", "the same CSV; --build makes the plugin too"),
    "ncclx": Target(nccl.ncclx, "nccl", "rules", "ncclx-tuner.csv", "CSV for NCCLX: NCCLX_TUNER_CONFIG_FILE"),
    "rccl": Target(nccl.csv, "nccl", "rules", "rccl_tuner_commbench.csv", "CSV for RCCL's tuner"),
    "openmpi": Target(mpi.classic, "openmpi", "rules", "openmpi-rules.conf", "rules file for Open MPI 4.1 to 5.0"),
    "openmpi-json": Target(mpi.document, "openmpi", "rules", "openmpi-rules.json", "rules file for Open MPI 6.0", ""),
    "mpich": Target(mpich.document, "mpich", "rules", "mpich-tuning.json", "all decisions of MPICH", ""),
    "env": Target(variables.shell, "", "rules", "commbench-env.sh", "variables, to be sourced"),
    "slurm": Target(variables.slurm, "", "rules", "commbench-slurm.sh", "variables, for a batch script"),
    "k8s": Target(variables.kubernetes, "", "rules", "commbench-configmap.yaml", "variables and files as ConfigMaps"),
    "ddp": Target(frameworks.ddp, "torch", "buckets", "commbench_ddp.py", "arguments of DistributedDataParallel (MiB)"),
    "fsdp2": Target(
        frameworks.fsdp2, "torch", "buckets", "commbench_fsdp2.py", "what FSDP2 shards, and when it prefetches"
    ),
    "deepspeed": Target(
        frameworks.deepspeed,
        "torch",
        "buckets",
        "ds_config.patch.json",
        "patch of ds_config (elements)",
        "",
        one_size=True,
    ),
    "megatron": Target(
        frameworks.megatron,
        "torch",
        "buckets",
        "megatron-args.sh",
        "arguments of Megatron-LM (parameters)",
        one_size=True,
    ),
    "inductor": Target(
        frameworks.inductor,
        "torch",
        "both",
        "commbench_inductor.py",
        "torch.compile: bandwidths and cap",
        one_size=True,
    ),
}
_WIDTH = 200  # NVIDIA's example plugin reads lines of 255 bytes at most, comments too


def target(name: str) -> Target:
    """SpecError with the nearest name where there is no such target."""
    if name not in TARGETS:
        raise SpecError(f"unknown target {name!r}; {nearest(name, TARGETS)}")
    return TARGETS[name]


def emit(recommendation: Recommendation, name: str, place: Place) -> dict[str, str]:
    """File name -> content. A format without comments has its header and reasons in NAME.provenance.txt beside it.

    `env` and `slurm` point at rules files, which are among the files. SpecError says what cannot be written and why.
    """
    one = target(name)
    lines = one.write(recommendation, place)
    head = [*header(recommendation, name), f"{name}: {one.says}"]
    found = {}
    if one.mark:
        found[place.name] = _commented(head, lines, one.mark)
    else:
        found[place.name] = "".join(f"{line.text}\n" for line in lines if line.text or not line.why)
        reasons = [line.why for line in lines if line.why]
        found[f"{place.name}.provenance.txt"] = "".join(
            f"{text}\n" for text in [*map(_plain, head), *map(_plain, reasons)]
        )
    for other in variables.files(recommendation) if name in ("env", "slurm") else ():
        beside = Place(place.folder, TARGETS[other].file, place.mpich)
        found |= emit(recommendation, other, beside)
    return found


def header(recommendation: Recommendation, name: str) -> list[str]:
    """Where a file is from: machine, versions, data, expected gain, numerics, expiry."""
    facts = ", ".join(f"{key} {text}" for key, text in sorted(recommendation.machine.items()))
    versions = ", ".join(f"{key} {text}" for key, text in sorted(recommendation.versions.items()))
    one = TARGETS[name]
    plans = [plan for plan in recommendation.buckets if plan.gain_low > 0] if one.kind != "rules" else []
    if one.one_size:
        plans = [plan.one_size for plan in plans if plan.one_size]
    rules = [rule for rule in recommendation.rules if proven(rule)] if one.kind == "rules" else []
    reach = variables.reach(recommendation) if rules else {}
    numerics = sorted({plan.numerics for plan in plans} | {rule.numerics for rule in rules})
    return [
        f"Written by commbench emit --for {name} from run {recommendation.name or 'without a name'}. Do not edit.",
        f"machine     {recommendation.fingerprint} ({facts})",
        f"versions    {versions or 'unknown'}",
        f"data        sha256 {recommendation.data_sha256}",
        f"expected    {_expected(rules, plans)}",
        f"numerics    {', '.join(numerics) or 'neutral'}",
        *(f"reach       {told}" for library, told in reach.items() if one.library in ("", library)),
        f"created     {recommendation.created}, expires {recommendation.expires}: then measure again",
        *(f"note        {note}" for note in recommendation.notes),
    ]


def _expected(rules: list[Rule], plans: list[BucketPlan]) -> str:
    if plans:
        return f"{share(plans[0].gain, plans[0].gain_low, plans[0].gain_high)} less time for a step of {plans[0].model}"
    if not rules:
        return "no gain of its own"
    best = max(rules, key=lambda rule: rule.gain)
    told = share(best.gain, best.gain_low, best.gain_high)
    where = f"{best.op}, {best.min_bytes} to {best.max_bytes} bytes"
    return f"up to {told} less time for a call ({where}); of each rule at its line"


def _plain(text: str) -> str:
    """One printable line: what a host or a model is called must not end a comment."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _commented(head: list[str], lines: list[Line], mark: str) -> str:
    found = [f"{mark} {part}" for text in head for part in _cut(text)]
    for line in lines:
        indent = line.text[: len(line.text) - len(line.text.lstrip())]
        found += [f"{indent}{mark} {part}" for part in _cut(line.why)]
        found.append(line.text)
    return "".join(f"{text}\n" for text in found)


def _cut(text: str) -> list[str]:
    return textwrap.wrap(_plain(text), _WIDTH, drop_whitespace=True)


__all__ = ["TARGETS", "Place", "Target", "emit", "header", "library_of", "target"]
