"""What a tuning run concludes: rules for sizes, plans for buckets, or that the defaults are best; with their evidence.

A recommendation is a pure function of a run folder and holds for one machine, one number of ranks and one set of
library versions: `differences` names what is not the same.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from commbench.errors import FolderError
from commbench.records.machine import Machine

FORMAT = 1
NAME = "recommendation.json"  # in the run folder

# Another algorithm, protocol or number of channels sums in another order: the bits of a result can change.
Numerics = Literal["bitwise-changing", "neutral", "changes-convergence"]

# Facts that make two machines the same for a measurement. Names of hosts are not among them.
_FACTS = ("cpu", "cores", "governor", "nvidia_driver", "nccl_ll128")
_LIBRARIES = {"Open MPI": "openmpi", "MPICH": "mpich", "Intel": "intelmpi"}


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """For messages of min_bytes to max_bytes (both included, both within what was measured) use these settings.

    nbytes count as in `Case`: all_gather and reduce_scatter by the rank-scaled total. `nodes` None: any number of
    hosts. No settings: the default is best here. `gain` is the share of the default's time that is saved
    (1 - time_us / baseline_us), `gain_low` and `gain_high` its interval. `evidence` are the keys of the cases.
    """

    op: str
    ranks: int
    min_bytes: int
    max_bytes: int
    settings: tuple[tuple[str, str], ...] = ()
    nodes: int | None = None
    baseline_us: float
    time_us: float
    gain_low: float
    gain: float
    gain_high: float
    evidence: tuple[str, ...] = ()
    numerics: Numerics = "bitwise-changing"
    backend: str = ""
    dtype: str = "float32"


FLAGS = ("gradient_as_bucket_view", "static_graph")  # arguments of DDP that a plan may set; fields of BucketPlan


class BucketPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """How the gradients of one model are put into messages.

    bucket_bytes   size of each bucket in the order in which gradients become ready; the last repeats. One entry: all
                   buckets alike. None: keep the framework's default
    dtype          of the gradients on the wire: element counts of other frameworks come from it
    parameters     of the model; 0 unknown
    baseline_us    step of the default, step_us of the plan; both measured in the job
    tail_us        exposed at the end of the step whatever the buckets are
    modules        FSDP2: names of the modules to shard, each a group of its own; prefetch: how many are fetched ahead
    hook           a communication hook, only where one was asked for; it changes numerics
    uniform        where the plan is more than one size: the best that is, and is proved too, for frameworks that have
                   a size and nothing else
    """

    model: str
    ranks: int
    bucket_bytes: tuple[int, ...] = ()
    dtype: str = "float32"
    parameters: int = 0
    baseline_us: float
    step_us: float
    gain_low: float
    gain: float
    gain_high: float
    tail_us: float | None = None
    gradient_as_bucket_view: bool | None = None
    static_graph: bool | None = None
    modules: tuple[str, ...] = ()
    prefetch: int | None = None
    reshard_after_forward: bool | int | None = None
    hook: str = ""
    evidence: tuple[str, ...] = ()
    numerics: Numerics = "bitwise-changing"
    uniform: "BucketPlan | None" = None

    @property
    def one_size(self) -> "BucketPlan | None":
        """The plan itself where one size of all buckets is all that it changes, else `uniform`."""
        more = self.hook or any(getattr(self, name) is not None for name in FLAGS)
        return self.uniform if more or len(set(self.bucket_bytes)) != 1 else self


class Recommendation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """recommendation.json.

    machine        facts by which another machine is recognised (`facts_of`)
    versions       of the libraries that were measured: {"openmpi": "5.0.11"} (`versions_of`)
    data_sha256    of the journal that it was derived from
    created, expires   ISO 8601, UTC
    keep_default   why nothing is recommended; "" where rules or buckets are
    busbw_gbps     measured plateaus in GB/s (1e9): {"intra_node": 180.0, "inter_node": 0.118}
    """

    format: int = FORMAT
    name: str = ""
    created: str
    expires: str
    machine: dict[str, str]
    versions: dict[str, str]
    data_sha256: str
    rules: tuple[Rule, ...] = ()
    buckets: tuple[BucketPlan, ...] = ()
    keep_default: str = ""
    busbw_gbps: dict[str, float] = {}
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """12 hex digits that are the same for machines with the same facts."""
        return hashlib.sha256(repr(sorted(self.machine.items())).encode()).hexdigest()[:12]


class Difference(msgspec.Struct, frozen=True):
    """A fact that is not what it was when the recommendation was made."""

    fact: str
    then: str
    now: str

    def __str__(self) -> str:
        return f"{self.fact}: measured with {self.then}, here {self.now}"


def facts_of(machine: Machine) -> dict[str, str]:
    """The facts of a recommendation's machine: kind of hosts, ranks and how they lie on hosts, network."""
    per_host = sorted({machine.host_of.count(index) for index in range(len(machine.hosts))})
    found = {name: machine.facts[name] for name in _FACTS if name in machine.facts}
    found |= {
        "ranks": str(machine.size),
        "hosts": str(len(machine.hosts)),
        "ranks_per_host": "/".join(map(str, per_host)),
    }
    if machine.fabric is not None:
        found["fabric"] = hashlib.sha256(msgspec.json.encode(machine.fabric)).hexdigest()[:12]
    return found


def versions_of(machine: Machine) -> dict[str, str]:
    """Versions of the communication libraries that a machine's facts tell: torch, nccl, openmpi, mpich."""
    found: dict[str, str] = {name: machine.facts[name] for name in ("torch", "nccl") if name in machine.facts}
    told = machine.facts.get("mpi", "")
    number = re.search(r"\d+\.\d+(?:\.\d+)?\w*", told)
    library = next((short for name, short in _LIBRARIES.items() if told.startswith(name)), None)
    if library and number:
        found[library] = number[0]
    return found


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> tuple[Difference, ...]:
    """Facts known on both sides that differ; a fact that one side does not know is not compared."""
    known = [name for name in sorted(then) if name in now]
    return tuple(Difference(name, then[name], now[name]) for name in known if now[name] != then[name])


def encode(recommendation: Recommendation) -> bytes:
    """The content of recommendation.json."""
    return msgspec.json.format(msgspec.json.encode(recommendation), indent=2) + b"\n"


def decode(data: bytes, where: Path) -> Recommendation:
    """FolderError where it is damaged, newer, or contradicts itself."""
    try:
        made_for = msgspec.json.decode(data, type=dict[str, msgspec.Raw]).get("format", msgspec.Raw(b"1"))
        if (number := msgspec.json.decode(made_for, type=int)) > FORMAT:
            raise FolderError(
                f"{where}: format {number} is newer than this commbench reads ({FORMAT}); update commbench"
            )
        found = msgspec.json.decode(data, type=Recommendation)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FolderError(f"{where}: not a recommendation: {error}; make it again with commbench tune") from error
    for index, rule in enumerate(found.rules):
        if not 0 <= rule.min_bytes <= rule.max_bytes or rule.ranks < 1:
            span = f"{rule.min_bytes} to {rule.max_bytes} bytes on {rule.ranks} ranks"
            raise FolderError(f"{where}: rules[{index}]: {span}")
    for index, plan in enumerate(found.buckets):
        if any(size < 1 for size in plan.bucket_bytes):
            raise FolderError(f"{where}: buckets[{index}]: a bucket of less than a byte")
    return found


def read(folder: Path) -> Recommendation:
    """The recommendation of a run folder. FolderError says what is not there."""
    path = folder / NAME
    try:
        return decode(path.read_bytes(), path)
    except OSError as error:
        raise FolderError(
            f"{path}: {error.strerror}; make a recommendation with commbench tune SPEC --out {folder}"
        ) from error
