"""train.json: what a reference job was, what its gradients are, which settings it really ran with, how fast it was."""

from collections.abc import Sequence
from typing import Any

import msgspec

from commbench.records import Machine

FORMAT = 1
NAME = "train.json"


class Gradient(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter's gradient.

    alone_us: when it is ready after the beginning of the backward pass, in a process that sends nothing (median of the
    alone steps); ready_us: the same while buckets are being reduced. The medians are rank 0's; None: not measured.
    """

    name: str
    nbytes: int
    alone_us: float | None = None
    ready_us: float | None = None


class Alone(msgspec.Struct, frozen=True, kw_only=True):
    """Median seconds of a rank's steps that sent nothing, on all ranks at the same time."""

    forward_s: float
    backward_s: float


class RankResult(msgspec.Struct, frozen=True, kw_only=True):
    """Of one rank: medians over the steps after the warm-up, in seconds.

    exposed_s: from the last gradient of the backward pass to its end. There the rank only waits for buckets: the
    part of communication that nothing hides. What communication costs beside, because it slows computing down, is not
    in it; backward_s - alone.backward_s has both.
    """

    seconds: float
    forward_s: float
    backward_s: float
    optimizer_s: float
    exposed_s: float | None
    alone: Alone | None
    tokens_per_s: float
    first_loss: float | None
    last_loss: float | None


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """train.json.

    applied    arguments that DDP or FSDP2 was built with; `origin` says from where: spec, or the recommendation's path
    buckets    bytes of the buckets that DDP really used, in the order in which they are reduced; empty for FSDP2
    in_effect  whether those are the ones that `applied` asks for; None where that cannot be told
    unproved   why in_effect is None or false
    told       DDP's logging data, in its words
    exposed    why exposed_s is None, or ""
    """

    format: int = FORMAT
    name: str
    created: str
    commbench: str
    spec: dict[str, Any]
    machine: Machine
    command: tuple[str, ...] = ()
    text_sha256: str
    parameters: int
    gradients: tuple[Gradient, ...]
    applied: dict[str, Any]
    origin: str
    buckets: tuple[int, ...]
    in_effect: bool | None
    unproved: str
    told: dict[str, Any]
    exposed: str
    ranks: tuple[RankResult, ...]


def expected_buckets(sizes: Sequence[int], caps: Sequence[int]) -> tuple[int, ...]:
    """The buckets that DDP makes of gradients in the order in which they are ready, all of one type.

    A cap is a threshold: a bucket closes when its sum reaches it. The last cap repeats. Source: torch,
    compute_bucket_assignment_by_size in csrc/distributed/c10d/reducer.cpp. sizes, caps and result are bytes.
    """
    found: list[int] = []
    held = 0
    for size in sizes:
        held += size
        if held >= caps[min(len(found), len(caps) - 1)]:
            found.append(held)
            held = 0
    return tuple([*found, held] if held else found)
