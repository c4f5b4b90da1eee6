"""Bucket plans as the frameworks take them: each counts in a unit of its own."""

import json
import re

from commbench.emit.target import Line, Place, plan_of, why_plan
from commbench.errors import SpecError
from commbench.records.recommendation import FLAGS, BucketPlan, Recommendation

ITEMSIZE = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
_MIB = 2**20
_LIST_SINCE = (2, 12)  # torch: bucket_cap_mb_list


def _uniform(recommendation: Recommendation, framework: str) -> BucketPlan:
    """The plan of one bucket size and nothing else. SpecError where none is proved."""
    plan = plan_of(recommendation)
    if plan.one_size is None:
        parts = [", ".join(map(str, plan.bucket_bytes[:6])) or "none"]
        extra = {name: getattr(plan, name) for name in FLAGS} | {"hook": plan.hook or None}
        parts += [f"{name}={value}" for name, value in extra.items() if value is not None]
        raise SpecError(
            f"{framework} has one size for all buckets, the plan has {' with '.join(parts)}; no single size is proved "
            "alone"
        )
    return plan.one_size


def _elements(plan: BucketPlan, framework: str) -> int:
    if plan.dtype not in ITEMSIZE:
        raise SpecError(f"{framework} counts elements, and a {plan.dtype} has no known size")
    count = plan.bucket_bytes[0] // ITEMSIZE[plan.dtype]
    if not count:
        raise SpecError(f"{framework}: a bucket of {plan.bucket_bytes[0]} bytes holds no {plan.dtype}")
    return count


def ddp(recommendation: Recommendation, _: Place) -> list[Line]:
    """Keyword arguments of DistributedDataParallel.

    An explicit cap drops the small first bucket of the default, even where it is the default's 25; a list says each.
    """
    plan = plan_of(recommendation)
    if not plan.bucket_bytes and not plan.hook and all(getattr(plan, name) is None for name in FLAGS):
        raise SpecError("the plan changes nothing that DDP has an argument for")
    reason = why_plan(plan)
    arguments: list[tuple[str, object, str]] = []
    caps = [nbytes / _MIB for nbytes in plan.bucket_bytes]  # exact: a power of two
    if len(set(caps)) == 1:
        note = "MiB for every bucket: an explicit cap, even 25, also drops the default's first bucket of 1 MiB"
        arguments.append(("bucket_cap_mb", caps[0], f"{note}. {reason}"))
    elif caps:
        told = re.match(r"(\d+)\.(\d+)", recommendation.versions.get("torch", ""))
        if told is None or (int(told[1]), int(told[2])) < _LIST_SINCE:
            version = recommendation.versions.get("torch", "an unknown version")
            raise SpecError(f"buckets of several sizes need bucket_cap_mb_list, torch 2.12 or newer; here is {version}")
        note = "MiB for each bucket as gradients become ready, the last repeats; it replaces the first bucket of 1 MiB"
        arguments.append(("bucket_cap_mb_list", caps, f"{note}. {reason}"))
    for name in FLAGS:
        if getattr(plan, name) is not None:
            arguments.append((name, getattr(plan, name), f"part of the measured plan. {reason}"))
    lines = [Line("DDP_KWARGS = {")]
    lines += [Line(f'    "{name}": {value!r},', why) for name, value, why in arguments]
    lines += [Line("}"), *_checked(plan)]
    if plan.hook:
        note = "asked for; it changes the numbers that are summed. DDP takes it by register_comm_hook, not as argument"
        lines.append(Line(f"COMM_HOOK = {plan.hook!r}", f"{note}. {reason}"))
    return lines


def _checked(plan: BucketPlan) -> list[Line]:
    return [
        Line(""),
        Line(""),
        Line("def ddp_kwargs(world_size: int) -> dict:"),
        Line(f"    if world_size != {plan.ranks}:", "on another number of ranks nothing of this was measured"),
        Line(f'        raise ValueError(f"this bucket plan is for {plan.ranks} ranks, not {{world_size}}")'),
        Line("    return dict(DDP_KWARGS)"),
    ]


def fsdp2(recommendation: Recommendation, _: Place) -> list[Line]:
    """A function that shards the model: each named module is one message; FSDP2 has no size to set."""
    plan = plan_of(recommendation)
    if not plan.modules:
        raise SpecError(
            "FSDP2 has no bucket size: its buckets are the modules that are sharded, and the plan names none"
        )
    reason = why_plan(plan)
    ahead = plan.prefetch or 0
    text = """
def shard(model, **options):
    from torch.distributed.fsdp import fully_shard

    found = dict(model.named_modules())
    if missing := [name for group in MODULES for name in group.split("+") if name not in found]:
        raise ValueError(f"the plan is for another model: it has no {missing[0]}")
    if RESHARD_AFTER_FORWARD is not None:
        options = {"reshard_after_forward": RESHARD_AFTER_FORWARD, **options}
    groups = [[found[name] for name in group.split("+")] for group in MODULES]
    units = [fully_shard(group, **options)[0] for group in groups]
    fully_shard(model, **options)
    for at, unit in enumerate(units if PREFETCH else ()):
        unit.set_modules_to_forward_prefetch(units[at + 1 : at + 1 + PREFETCH])
        unit.set_modules_to_backward_prefetch(units[max(0, at - PREFETCH) : at][::-1])
    return model
"""
    return [
        Line(f"MODULES = {list(plan.modules)!r}", f"each is one all-gather and one reduce-scatter. {reason}"),
        Line(f"PREFETCH = {ahead}", "modules that are gathered ahead: memory for overlap"),
        Line(f"RESHARD_AFTER_FORWARD = {plan.reshard_after_forward!r}", "None: torch's own choice"),
        *(Line(line) for line in text.rstrip("\n").split("\n")),
    ]


def deepspeed(recommendation: Recommendation, _: Place) -> list[Line]:
    """A patch of ds_config.json. Its sizes are numbers of elements."""
    plan = _uniform(recommendation, "DeepSpeed")
    count = _elements(plan, "DeepSpeed")
    text = json.dumps({"zero_optimization": {"reduce_bucket_size": count}}, indent=2)
    note = f"reduce_bucket_size: elements, {plan.bucket_bytes[0]} bytes of {plan.dtype}. {why_plan(plan)}"
    return [*(Line(line) for line in text.split("\n")), Line("", note)]


def megatron(recommendation: Recommendation, _: Place) -> list[Line]:
    """Arguments of Megatron-LM. The size is a number of parameters, and counts with --overlap-grad-reduce only."""
    plan = _uniform(recommendation, "Megatron")
    count = _elements(plan, "Megatron")
    note = f"parameters, {plan.bucket_bytes[0]} bytes of {plan.dtype} gradients. {why_plan(plan)}"
    lines = [Line("MEGATRON_ARGS=("), Line("  --overlap-grad-reduce", "without it there is one bucket of any size")]
    lines.append(Line(f"  --ddp-bucket-size {count}", note))
    if plan.dtype == "bfloat16":
        lines.append(Line("  --grad-reduce-in-bf16", "the size was measured with gradients of 2 bytes"))
    elif plan.dtype != "float32":
        raise SpecError(f"Megatron reduces float32 or bfloat16 gradients, the plan has {plan.dtype}")
    return [*lines, Line(")")]


def inductor(recommendation: Recommendation, _: Place) -> list[Line]:
    """Measured bandwidths in the place of torch.compile's table, and the cap of FSDP buckets where a plan has one."""
    lines = [Line("import torch._inductor.config as config"), Line("")]
    for name, option in (("intra_node", "intra_node_bw"), ("inter_node", "inter_node_bw")):
        if name in recommendation.busbw_gbps:
            value = recommendation.busbw_gbps[name]
            lines.append(Line(f"config.{option} = {value!r}", "GB/s (1e9), the measured plateau of the bus bandwidth"))
    good = [plan.one_size for plan in recommendation.buckets if plan.gain_low > 0 and plan.one_size]
    if len(good) == 1:
        cap = good[0].bucket_bytes[0] / _MIB
        option = "aten_distributed_optimizations.pre_bucketing_fsdp_collectives_bucket_cap_mb"
        lines.append(Line(f"config.{option} = {cap!r}", f"MiB. {why_plan(good[0])}"))
    if len(lines) == 2:
        raise SpecError("nothing for torch.compile: no measured bandwidth within or between hosts, and no uniform plan")
    return lines
