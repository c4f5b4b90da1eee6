"""A recommendation in the user's own job: `DDP(model, **commbench.ddp_kwargs())`."""

import os
import warnings
from pathlib import Path
from typing import Any

from commbench.errors import CommbenchError, FolderError
from commbench.records.recommendation import BucketPlan, Recommendation, decode
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
    where the file is missing or damaged, CommbenchError where it was made for another number of ranks or another
    torch; `force` (or $COMMBENCH_FORCE=1) applies it all the same with a warning, because nobody has measured what is
    used then. Neither torch nor MPI is loaded.
    """
    name = os.environ.get(FILE)
    if not name:
        return {}
    path = Path(name)
    try:
        found = decode(path.read_bytes(), path)
    except OSError as error:
        raise FolderError(f"{path}: {error.strerror}; {FILE} must name a recommendation.json") from None
    if not found.buckets:
        return {}
    if ranks is None:
        place = discover(os.environ)
        ranks = place.size if place else None
    return kwargs(_plan(found, path, model, ranks, force or os.environ.get(FORCE) == "1"))


def _plan(found: Recommendation, path: Path, model: str, ranks: int | None, force: bool) -> BucketPlan:
    """The plan for this job. Raises CommbenchError where there is none, or more than one."""
    plans = [plan for plan in found.buckets if not model or plan.model == model]
    if not plans:
        known = ", ".join(sorted({plan.model for plan in found.buckets}))
        raise CommbenchError(f"{path}: has no bucket plan for model {model!r}; it has: {known}")
    differ = []
    then, now = found.versions.get("torch"), _torch()
    if then and now and then != now:
        differ.append(f"torch: measured with {then}, here {now}")
    if fitting := [plan for plan in plans if ranks in (None, plan.ranks)]:
        plans = fitting
    else:
        measured = ", ".join(str(plan.ranks) for plan in plans)
        differ.append(f"ranks: measured with {measured}, here {ranks}")
    if differ and not force:
        raise CommbenchError(
            f"{path}: made for another job ({'; '.join(differ)}); measure again with commbench tune, unset {FILE}, or "
            f"say ddp_kwargs(force=True): then {_RISK}"
        )
    if differ:
        warnings.warn(f"{path}: forced, although made for another job ({'; '.join(differ)}); {_RISK}", stacklevel=4)
    if len({str(kwargs(plan)) for plan in plans}) > 1:
        known = ", ".join(f"{plan.model} on {plan.ranks} ranks" for plan in plans)
        raise CommbenchError(
            f"{path}: has several bucket plans ({known}); choose with ddp_kwargs(model=..., ranks=...)"
        )
    if plans[0].hook:
        warnings.warn(f"{path}: hook {plans[0].hook} is no argument of DDP: register it yourself", stacklevel=4)
    return plans[0]


def _torch() -> str:
    from importlib import metadata

    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""


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
    for key in ("gradient_as_bucket_view", "static_graph"):
        if (value := getattr(plan, key)) is not None:
            found[key] = value
    return found
