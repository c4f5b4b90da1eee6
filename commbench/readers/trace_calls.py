"""What a profiler's trace says of one communication call, in every wording since PyTorch 1.8.

A call shows up to three times on the thread that made it, one inside the other: the operator `c10d::allreduce_`,
the annotation `record_param_comms` (since 2.3 with the sizes and the group as its arguments) and the range
`nccl:all_reduce`. Shapes, where they were recorded, are on the first and the last. On the GPU it is a kernel.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from commbench.records.workload import Group

# Torch's names of element types: as `record_param_comms` has them, and as recorded shapes do.
DTYPES: dict[str, tuple[str, int]] = {
    "Float": ("float32", 4),
    "float": ("float32", 4),
    "Double": ("float64", 8),
    "double": ("float64", 8),
    "Half": ("float16", 2),
    "c10::Half": ("float16", 2),
    "BFloat16": ("bfloat16", 2),
    "c10::BFloat16": ("bfloat16", 2),
    "Long": ("int64", 8),
    "long": ("int64", 8),
    "long int": ("int64", 8),
    "Int": ("int32", 4),
    "int": ("int32", 4),
    "Short": ("int16", 2),
    "short": ("int16", 2),
    "Char": ("int8", 1),
    "signed char": ("int8", 1),
    "Byte": ("uint8", 1),
    "unsigned char": ("uint8", 1),
    "Bool": ("bool", 1),
    "bool": ("bool", 1),
    "ComplexFloat": ("complex64", 8),
    "c10::complex<float>": ("complex64", 8),
    "ComplexDouble": ("complex128", 16),
    "c10::complex<double>": ("complex128", 16),
    **{
        prefix + name: (name.lower(), 1)
        for prefix in ("", "c10::")
        for name in ("Float8_e4m3fn", "Float8_e5m2", "Float8_e4m3fnuz", "Float8_e5m2fnuz")
    },
}

# A name without prefix, underscores and capitals begins with one of these; the first that fits counts.
_OPS = (
    ("allreducebarrier", "barrier"),
    ("sparseallreduce", "all_reduce"),
    ("allreduce", "all_reduce"),
    ("allgather", "all_gather"),
    ("reducescatter", "reduce_scatter"),
    ("alltoall", "all_to_all"),
    ("broadcast", "broadcast"),
    ("reduce", "reduce"),
    ("gather", "gather"),
    ("scatter", "scatter"),
    ("sendrecv", "send_recv"),
    ("send", "send_recv"),
    ("recv", "send_recv"),
    ("barrier", "barrier"),
    ("monitoredbarrier", "barrier"),
)
ON_THE_HOST = ("gloo", "mpi", "ucc")  # their ranges are the work itself; the others' only launch it
ON_THE_DEVICE = ("nccl", "rccl", "xccl", "hccl")
_RANGE = re.compile(rf"({'|'.join(ON_THE_HOST + ON_THE_DEVICE)}):\s*(\S+)")
_KERNEL = re.compile(r"(?:void )?(?:nccl|rccl|msccl|oneccl)\w*kernel", re.IGNORECASE)
# Older NCCL runs any collective in whatever kernel it has, and calls most of those SendRecv: that name says nothing.
_KERNEL_OP = re.compile(r"kernel_(AllReduce|AllGather|ReduceScatter|Broadcast|Reduce)(?![A-Za-z])", re.IGNORECASE)
_NO_TRANSFER = ("wait", "init", "barrierwait", "watchdog")


class Args(msgspec.Struct, kw_only=True):
    """Of an event's arguments those that are looked at; anything may be in them."""

    correlation: Any = None
    stream: Any = None
    external: Any = msgspec.field(name="External id", default=None)
    said: Any = msgspec.field(name="Collective name", default=None)
    sent: Any = msgspec.field(name="In msg nelems", default=None)
    received: Any = msgspec.field(name="Out msg nelems", default=None)
    dtype: Any = None
    group_size: Any = msgspec.field(name="Group size", default=None)
    group_name: Any = msgspec.field(name="Process Group Name", default=None)
    group_about: Any = msgspec.field(name="Process Group Description", default=None)
    group_ranks: Any = msgspec.field(name="Process Group Ranks", default=None)
    rank_start: Any = msgspec.field(name="Global rank start", default=None)
    rank_stride: Any = msgspec.field(name="Global rank stride", default=None)
    dims: Any = msgspec.field(name="Input Dims", default=None)
    types: Any = msgspec.field(name="Input type", default=None)


class Payload(msgspec.Struct, frozen=True):
    """What one event tells of what is carried. `ranks` is how many share it, where the shapes tell."""

    nbytes: int | None = None
    dtype: str = ""
    ranks: int | None = None


def range_of(name: str) -> tuple[str, str] | None:
    """(library, what it does) of a range like `nccl:send 0->1`."""
    match = _RANGE.match(name)
    return (match[1], match[2]) if match else None


def op_of(said: str) -> str | None:
    """commbench's name of what torch calls `_allgather_base`, `c10d::alltoall_base_`, `allreduce_coalesced`."""
    plain = re.sub(r"[^a-z]", "", said.rpartition(":")[2].lower())
    return next((op for start, op in _OPS if plain.startswith(start)), None)


def carries(said: str) -> bool:
    """Not a wait for an earlier call, nor the making of a communicator."""
    return re.sub(r"[^a-z]", "", said.lower()) not in _NO_TRANSFER


def is_communication(kernel: str) -> bool:
    return _KERNEL.match(kernel) is not None


def kernel_op(kernel: str) -> str | None:
    match = _KERNEL_OP.search(kernel)
    return op_of(match[1]) if match else None


def count(value: Any, below: int = 2**50) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < below else None


def word(value: Any) -> str:
    return value[:200] if isinstance(value, str) else ""


def told(args: Args, op: str | None) -> Payload:
    """From the arguments of a call: the larger of what this rank sends and receives."""
    dtype, itemsize = DTYPES.get(word(args.dtype), (word(args.dtype), 0))
    if op == "barrier":
        return Payload(0)
    elements = [n for n in (count(args.sent), count(args.received)) if n is not None]
    return Payload(max(elements) * itemsize if elements and itemsize else None, dtype)


def shaped(op: str | None, operator: Args | None, ranged: Args | None, size: int | None) -> Payload:
    """From recorded shapes: `operator` has the output and the input, `ranged` has what is sent.

    all_gather and gather give back more than is sent: without the output's shape the group's size must tell.
    """
    if op == "barrier":
        return Payload(0)
    outer, inner = _tensors(operator), _tensors(ranged)
    sent = sum(nbytes for nbytes, _ in inner) if inner else None
    dtype = next((dtype for _, dtype in (*inner, *outer)), "")
    both = [nbytes for nbytes, _ in outer]
    ratio = None
    if op in ("all_gather", "reduce_scatter") and len(both) == 2 and min(both) > 0 and max(both) % min(both) == 0:
        ratio = max(both) // min(both)
    if op in ("all_gather", "gather"):
        if len(both) < 2:
            return Payload(sent * size if sent is not None and size else None, dtype)
        return Payload(max(both), dtype, ratio)
    if op is None or (op == "scatter" and len(both) < 2):
        return Payload(None, dtype)
    found = [*both, *([] if sent is None else [sent])]
    return Payload(max(found) if found else None, dtype, ratio)


def _tensors(args: Args | None) -> list[tuple[int, str]]:
    """(bytes, dtype) of the tensors among an event's inputs whose shape and type are both there."""
    if args is None or not isinstance(args.dims, list) or not isinstance(args.types, list):
        return []
    found = []
    for dims, kind in zip(args.dims, args.types, strict=False):
        dtype, itemsize = DTYPES.get(kind if isinstance(kind, str) else "", ("", 0))
        if itemsize and isinstance(dims, list) and dims and all(count(n) is not None for n in dims):
            total = itemsize
            for n in dims:
                total = min(total * n, 2**60)
            found.append((total, dtype))
    return found


def group_of(args: Args, known: Mapping[str, Group]) -> Group | None:
    """The process group that a call's arguments tell; what they leave out is taken from the job's list of groups."""
    name, about, size = word(args.group_name), word(args.group_about), count(args.group_size)
    if not name and not size:
        return None
    listed = known.get(name)
    if listed and size not in (None, listed.size):
        listed = None
    ranks = _ranks(args, size) or (listed.ranks if listed else ())
    return Group(
        name=name,
        description=about or (listed.description if listed else ""),
        size=size or len(ranks) or None,
        ranks=ranks,
    )


def _ranks(args: Args, size: int | None) -> tuple[int, ...]:
    """From `[0, 1]`; a long list ends in `...`, and then the first rank and the distance tell the rest."""
    text = args.group_ranks if isinstance(args.group_ranks, str) else ""
    listed = tuple(int(n) for n in re.findall(r"\d{1,9}", text))
    if listed and "..." not in text and size in (None, len(listed)):
        return listed
    start, stride = count(args.rank_start), count(args.rank_stride)
    if start is None or not stride or size is None or size > 2**17:
        return ()
    ranks = tuple(range(start, start + stride * size, stride))
    return ranks if ranks[: len(listed)] == listed else ()


def listed_groups(distributed: Any) -> tuple[Group, ...]:
    """The groups of `distributedInfo`."""
    listed = distributed.get("pg_config") if isinstance(distributed, dict) else None
    found = []
    for one in listed[:4096] if isinstance(listed, list) else ():
        if not isinstance(one, dict):
            continue
        ranks, size = one.get("ranks"), count(one.get("pg_size"))
        good = isinstance(ranks, list) and len(ranks) == size and all(count(n) is not None for n in ranks)
        found.append(
            Group(
                name=word(one.get("pg_name")),
                description=word(one.get("pg_desc")),
                size=size,
                ranks=tuple(ranks) if good and isinstance(ranks, list) else (),
            )
        )
    return tuple(found)
