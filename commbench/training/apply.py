"""A recommendation in the user's own job: `DDP(model, **commbench.ddp_kwargs())`."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commbench.errors import CommbenchError, FolderError
from commbench.records.recommendation import FLAGS, BucketPlan, Recommendation, decode
from commbench.training.place import elsewhere, installed
from commbench.world.discover import discover

FILE = "COMMBENCH_RECOMMENDATION"
FORCE = "COMMBENCH_FORCE"  # set by commbench verify --force
_RISK = "nobody has measured whether it helps or harms"
_MIB = 2**20
_LISTS = (2, 12)  # the first torch with bucket_cap_mb_list


def ddp_kwargs(model: str = "", ranks: int | None = None, force: bool = False) -> dict[str, Any]:
    """Arguments of DistributedDataParallel from the file that $COMMBENCH_RECOMMENDATION names; {} where it is not set
    or recommends the default.

    `model` chooses among plans of several models, `ranks` is the launcher's number unless given. Raises FolderError
    where the file is missing or damaged, CommbenchError where it was made on another machine, for another number of
    ranks, another torch, or for FSDP2; `force` (or $COMMBENCH_FORCE=1) applies it elsewhere all the same with a
    warning, because nobody has measured what is used then. Neither torch nor MPI is loaded.
    """
    plan = chosen(model, ranks, force)
    if plan is None:
        return {}
    if plan.hook:
        name = os.environ[FILE]
        warnings.warn(f"{name}: hook {plan.hook} is no argument of DDP: register it yourself", stacklevel=2)
    return kwargs(plan)


def chosen(model: str = "", ranks: int | None = None, force: bool = False, sharded: bool = False) -> BucketPlan | None:
    """The plan for this job, of FSDP2 where it is `sharded`; None where there is no file or it has no plan. Raises as
    `ddp_kwargs`."""
    name = os.environ.get(FILE)
    if not name:
        return None
    path = Path(name)
    try:
        found = decode(path.read_bytes(), path)
    except OSError as error:
        raise FolderError(f"{path}: {error.strerror}; {FILE} must name a recommendation.json") from None
    if not found.buckets:
        return None
    if ranks is None:
        place = discover(os.environ)
        ranks = place.size if place else None
    plans = [plan for plan in found.buckets if bool(plan.modules) == sharded]
    if not plans and sharded:
        raise CommbenchError(f"{path}: its bucket plan is for DDP, and this job shards with FSDP2; unset {FILE}")
    if not plans:
        raise CommbenchError(
            f"{path}: its bucket plan shards modules with FSDP2, and DDP has no argument for that; commbench emit DIR "
            f"--for fsdp2 writes a function that does it, or unset {FILE}"
        )
    return _plan(found, plans, path, model, ranks, force or os.environ.get(FORCE) == "1")


def _plan(
    found: Recommendation, plans: list[BucketPlan], path: Path, model: str, ranks: int | None, force: bool
) -> BucketPlan:
    """The one of `plans` for this job. Raises CommbenchError where there is none, or more than one."""
    known = ", ".join(sorted({plan.model for plan in plans}))
    plans = [plan for plan in plans if not model or plan.model == model]
    if not plans:
        raise CommbenchError(f"{path}: has no bucket plan for model {model!r}; it has: {known}")
    differ = [str(one) for one in elsewhere(found)]
    if fitting := [plan for plan in plans if ranks in (None, plan.ranks)]:
        plans = fitting
    else:
        measured = ", ".join(str(plan.ranks) for plan in plans)
        differ.append(f"ranks: measured with {measured}, here {ranks}")
    if differ and not force:
        raise CommbenchError(
            f"{path}: made for another job ({'; '.join(differ)}); measure again with commbench tune, unset {FILE}, or "
            f"say ddp_kwargs(force=True) or {FORCE}=1: then {_RISK}"
        )
    if differ:
        warnings.warn(f"{path}: forced, although made for another job ({'; '.join(differ)}); {_RISK}", stacklevel=4)
    if len({str(_as_applied(plan)) for plan in plans}) > 1:
        several = ", ".join(f"{plan.model} on {plan.ranks} ranks" for plan in plans)
        raise CommbenchError(
            f"{path}: has several bucket plans ({several}); choose with ddp_kwargs(model=..., ranks=...)"
        )
    return plans[0]


def _as_applied(plan: BucketPlan) -> tuple[Any, ...]:
    """Equal for plans that make the same of a job."""
    sizes = (plan.bucket_bytes, plan.gradient_as_bucket_view, plan.static_graph, plan.hook)
    return (*sizes, plan.modules, plan.prefetch, plan.reshard_after_forward)


def _torch() -> str:
    return installed(("torch",)).get("torch", "")


def kwargs(plan: BucketPlan) -> dict[str, Any]:
    """The plan in DDP's words: caps in MiB. Any cap, 25 too, takes away the default's small first bucket.

    Raises CommbenchError where the plan has buckets of several sizes and this torch takes one size only.
    """
    caps = [size / _MIB for size in plan.bucket_bytes]  # exact: a division by a power of two
    found: dict[str, Any] = {}
    if len(caps) == 1:
        found["bucket_cap_mb"] = caps[0]
    elif caps:
        version = _torch()
        if version and tuple(int(part) for part in version.split(".")[:2]) < _LISTS:
            raise CommbenchError(
                f"the plan of {plan.model} has buckets of several sizes, which DDP takes from torch 2.12 on; here is "
                f"torch {version}"
            )
        found["bucket_cap_mb_list"] = caps
    for key in FLAGS:
        if (value := getattr(plan, key)) is not None:
            found[key] = value
    return found


def sharding(plan: BucketPlan, modules: Sequence[str]) -> dict[str, Any]:
    """A plan of FSDP2 in the words of a spec of the reference job, whose model has these modules, in order.

    Raises CommbenchError where the plan groups them otherwise than by a fixed number, or groups others.
    """
    step = plan.modules[0].count("+") + 1
    if plan.modules != tuple("+".join(modules[k : k + step]) for k in range(0, len(modules), step)):
        raise CommbenchError(
            f"the plan of {plan.model} shards {', '.join(plan.modules[:4])} ..., and this model has {modules[0]} to "
            f"{modules[-1]}: it is for another model"
        )
    found: dict[str, Any] = {"blocks": step, "prefetch": plan.prefetch or 0}
    if plan.reshard_after_forward is not None:
        if not isinstance(plan.reshard_after_forward, bool):
            raise CommbenchError(
                f"the plan of {plan.model} reshards to {plan.reshard_after_forward} ranks after the forward pass, and "
                "the reference job does that on all or not at all"
            )
        found["reshard_after_forward"] = plan.reshard_after_forward
    return found
