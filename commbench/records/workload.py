"""One training job as its traces tell it: the communication, the steps, and how much of it computing hides.

Times are microseconds since `Rank.began`; the clocks of two ranks are not the same clock, so only lengths are
compared between ranks. What a trace does not tell is None (or "" for a word), never a guess.
"""

import msgspec


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A process group: what the job calls it, how many ranks it has, and which (empty: not told)."""

    name: str = ""
    description: str = ""
    size: int | None = None
    ranks: tuple[int, ...] = ()


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One communication call of one rank.

    op          the collective in commbench's names; None where the trace tells only that something was sent.
                `send` and `recv` are both `send_recv`
    said        what the trace calls it: `_allgather_base`, `all_to_allv`, `send`, or the kernel's name
    nbytes      the larger of the bytes sent and received by this rank, as in a Case
    dtype       commbench's name, or the trace's own for a type that commbench does not send
    group       index into `Workload.groups`
    step        index into `Rank.steps`: the step that made the call (without a call: in which it began)
    clock       `device`: a kernel on the GPU; `host`: the library's own thread (Gloo, MPI)
    stream      the GPU's stream
    kernels     kernels of this call; 0 on the host
    launch_us   when the program made the call
    start_us, end_us   when it ran; None where the trace holds the call but not the kernel
    exposed_us  the part of that time in which this rank computed nothing
    """

    op: str | None = None
    said: str = ""
    nbytes: int | None = None
    dtype: str = ""
    group: int | None = None
    step: int | None = None
    clock: str = ""
    stream: int | None = None
    kernels: int = 0
    launch_us: float | None = None
    start_us: float | None = None
    end_us: float | None = None
    exposed_us: float | None = None

    @property
    def time_us(self) -> float | None:
        return None if self.start_us is None or self.end_us is None else self.end_us - self.start_us


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One training step of one rank. Kernels count to the step that launched them.

    number      the job's own (`ProfilerStep#5`); None: the trace marks no steps, and this is all of it
    compute_us  time in which at least one computing kernel ran; without a GPU, one operator on the host
    copy_us     the same of copies and fills on the GPU
    comm_us     the same of communication
    exposed_us  the part of `comm_us` in which this rank computed nothing
    """

    number: int | None = None
    start_us: float
    end_us: float
    compute_us: float | None = None
    copy_us: float | None = None
    comm_us: float | None = None
    exposed_us: float | None = None


class Rank(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What one rank's trace tells.

    began   when the trace begins, seconds since the epoch; None: not told
    device  of the GPU; "" for none
    """

    rank: int | None = None
    host: str = ""
    device: str = ""
    began: float | None = None
    steps: tuple[Step, ...] = ()
    calls: tuple[Call, ...] = ()


class Workload(msgspec.Struct, tag=True, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A job, or what some of its ranks tell of it.

    backend  torch's word: nccl, gloo, mpi
    library  with its version: `NCCL 2.17.1`
    """

    world_size: int | None = None
    backend: str = ""
    library: str = ""
    groups: tuple[Group, ...] = ()
    ranks: tuple[Rank, ...] = ()
