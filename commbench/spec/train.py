"""The spec of the reference training job: model, sizes, how gradients travel, how many steps."""

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, Literal, TypeAlias, get_args

import msgspec

from commbench.spec import values as v
from commbench.spec.document import Field, Kind, find, read, show
from commbench.units import parse_bytes

TRAINING = Kind("training spec", "model", "model: gpt", "layers=12 or --set ddp.bucket_cap_mb=4", "tuning")
Hook: TypeAlias = Literal["bf16", "fp16", "powersgd"]
HOOKS: tuple[str, ...] = get_args(Hook)


class Ddp(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of DistributedDataParallel; None leaves its default. Caps are MiB, as DDP wants them.

    hook: what gradients are on the wire; it changes the numbers that are summed, so it is used only where asked for.
    """

    bucket_cap_mb: float | None = None
    bucket_cap_mb_list: tuple[float, ...] | None = None
    gradient_as_bucket_view: bool | None = None
    static_graph: bool | None = None
    hook: Literal["", Hook] = ""

    def kwargs(self) -> dict[str, Any]:
        """Those that are set; the hook is none of them."""
        found = {name: getattr(self, name) for name in self.__struct_fields__ if name != "hook"}
        found = {name: value for name, value in found.items() if value is not None}
        if "bucket_cap_mb_list" in found:
            found["bucket_cap_mb_list"] = list(found["bucket_cap_mb_list"])
        return found


class Fsdp(msgspec.Struct, frozen=True, kw_only=True):
    """FSDP2: blocks that are sharded as one group, whether they are freed after the forward pass, and how many groups
    are fetched ahead (0: the default)."""

    blocks: int = 1
    reshard_after_forward: bool = True
    prefetch: int = 0


class TrainSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A training job. batch is per rank; context and batch are bytes of text and windows; text is bytes."""

    name: str
    source: str
    model: Literal["gpt", "mlp"]
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    backend: Literal["gloo", "nccl"] = "gloo"
    layers: int = 4
    width: int = 128
    heads: int = 4
    context: int = 64
    batch: int = 8
    steps: int = 30
    warmup: int = 5
    alone: int = 5
    learning_rate: float = 0.001
    threads: int = 1
    text: int = 4 * 2**20
    seed: int = 0
    deadline: float = 60.0
    ddp: Ddp = Ddp()
    fsdp: Fsdp = Fsdp()

    def canonical(self) -> dict[str, Any]:
        """What decides the run, as plain JSON: the same however the spec was written down."""
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        del plain["source"]
        return plain


def number(low: float, high: float) -> v.Reader:
    """A number above `low`, up to `high`."""

    def reader(field: Field) -> float:
        value = field.value
        if isinstance(value, bool) or not isinstance(value, int | float) or not low < value <= high:
            raise field.error(f"{show(value)} is not a number above {low:g} and up to {high:g}")
        return float(value)

    return reader


def _bytes(field: Field) -> int:
    try:
        return parse_bytes(field.value if isinstance(field.value, str) else show(field.value))
    except ValueError as error:
        raise field.error(str(error)) from None


def caps(field: Field) -> tuple[float, ...]:
    entries = field.entries()
    if not entries:
        raise field.error("the list is empty; give at least one cap in MiB, or leave the key out")
    return tuple(cap(entry) for entry in entries)


cap = number(0, 2**20)
_SIZE = v.whole(1, 2**20)
KEYS: dict[str, v.Reader] = {
    "name": v.name,
    "model": v.choice(("gpt", "mlp"), "model"),
    "parallel": v.choice(("ddp", "fsdp2"), "way to be parallel"),
    "backend": v.choice(("gloo", "nccl"), "backend"),
    "layers": v.whole(1, 1000),
    "width": _SIZE,
    "heads": v.whole(1, 1024),
    "context": _SIZE,
    "batch": _SIZE,
    "steps": v.whole(1, 10**6),
    "warmup": v.whole(0, 10**6),
    "alone": v.whole(0, 1000),
    "learning_rate": number(0, 10),
    "threads": v.whole(1, 1024),
    "text": _bytes,
    "seed": v.whole(0, 2**63 - 1),
    "deadline": v.time,
    "ddp": v.section(
        Ddp,
        {
            "bucket_cap_mb": cap,
            "bucket_cap_mb_list": caps,
            "gradient_as_bucket_view": v.flag,
            "static_graph": v.flag,
            "hook": v.choice(HOOKS, "hook"),
        },
    ),
    "fsdp": v.section(
        Fsdp, {"blocks": v.whole(1, 1000), "reshard_after_forward": v.flag, "prefetch": v.whole(0, 1000)}
    ),
}


def load(source: str, overrides: Sequence[str] = ()) -> TrainSpec:
    """The training spec at a path, or the shipped one of that name; `key=value` overrides go in before checking."""
    path = find(source, TRAINING)
    top = read(path, overrides, TRAINING)
    fields = top.mapping(tuple(KEYS))
    if "model" not in fields:
        raise top.child("model").error("is missing; say what to train: gpt or mlp")
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", PurePath(path).stem).lstrip("._-")[:64]
    values = {"name": stem or "train", **{key: KEYS[key](field) for key, field in fields.items()}}
    spec = TrainSpec(**values, source=path)
    for key, way in (("ddp", "ddp"), ("fsdp", "fsdp2")):
        if key in fields and fields[key].value and spec.parallel != way:
            raise fields[key].error(f"goes with parallel: {way}, not with {spec.parallel}")
    if spec.ddp.bucket_cap_mb is not None and spec.ddp.bucket_cap_mb_list is not None:
        raise fields["ddp"].child("bucket_cap_mb_list").error("goes without bucket_cap_mb: keep one of them")
    if spec.ddp.hook == "bf16" and spec.backend == "gloo":
        raise fields["ddp"].child("hook").error("bf16 is for NCCL: torch refuses it over gloo; use fp16 there")
    if spec.model == "gpt" and spec.width % spec.heads:
        raise top.child("heads" if "heads" in fields else "width").error(
            f"width {spec.width} is not a multiple of the {spec.heads} heads"
        )
    if spec.warmup >= spec.steps:
        if "warmup" in fields:
            raise fields["warmup"].error(f"{spec.warmup} of {spec.steps} steps leave none to look at")
        spec = msgspec.structs.replace(spec, warmup=spec.steps - 1)  # only the default was more
    return spec
