"""What a NCCL (or RCCL) debug log tells. Everything carries the line that told it first; lists are bounded.

A log of a large job is gigabytes and says the same thing thousands of times: it is kept as counts. Where a list
was cut, the number of what there was stands beside it. What the log does not tell is None or "", never a guess.
"""

import msgspec


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Base of the parts of a NcclLog."""


class NcclHost(_Part, frozen=True, kw_only=True):
    """One host and the network devices that NCCL found there.

    nics        RDMA devices as NCCL writes them: `mlx5_0:1/RoCE`, `mlx5_4:1/IB/SHARP`
    interfaces  IP interfaces of NET/Socket, with their address: `eth0:172.17.0.2`
    bootstrap   interface of the bootstrap: `eth0:172.17.0.2`
    """

    name: str
    nics: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    bootstrap: str = ""


class NcclRank(_Part, frozen=True, kw_only=True):
    """A rank of the largest communicator: where it ran, its CUDA device, the bus id in NCCL's hexadecimal form.

    host    index into `NcclLog.hosts`
    lines   lines of NCCL that its process wrote from this device
    """

    rank: int
    host: int
    pid: int
    device: int
    bus: str = ""
    lines: int = 0


class NcclRing(_Part, frozen=True, kw_only=True):
    """The order of the ranks in one channel's ring; NCCL itself cuts long ones (`whole` is false)."""

    channel: int
    order: tuple[int, ...]
    whole: bool
    line: int


class NcclComm(_Part, frozen=True, kw_only=True):
    """A communicator.

    id         NCCL's own commId, "" before 2.16 and for a communicator split off another
    nranks     its size
    ranks      how many of its ranks are in the log
    nnodes     nodes, where told (from 2.20 on)
    state      the last that was told of it: `started`, `complete`, `destroyed`, `aborted`, `revoked`
    channels   rings or trees, and those of the other kinds
    rings      the first channels'
    trees      `rank 3: 2/-1/-1->3->0` of channel 0: children -> rank -> parent, as NCCL writes it
    seconds    the longest that a rank took to initialise
    mnnvl      it spans hosts by NVLink; None: not told
    """

    id: str
    nranks: int
    ranks: int
    line: int
    nnodes: int | None = None
    state: str = ""
    channels: int | None = None
    collnet_channels: int | None = None
    nvls_channels: int | None = None
    p2p_channels: int | None = None
    rings: tuple[NcclRing, ...] = ()
    trees: tuple[str, ...] = ()
    seconds: float | None = None
    mnnvl: bool | None = None


class NcclTransport(_Part, frozen=True, kw_only=True):
    """How ranks are connected: lines of one kind. A connection over the network is told by both of its ends.

    kind      as NCCL writes it, without the channel: `P2P/CUMEM/read`, `SHM/direct/direct`, `NET/IB/0/GDRDMA`
    network   the part behind NET/ or COLLNET/: `IB`, `Socket`, `AWS Libfabric`; "" for P2P and SHM
    nic       index of the network device; None for P2P and SHM
    gdrdma    the NIC reads and writes GPU memory directly; None for P2P and SHM
    pxn       lines that go through the NIC of another GPU of the host
    intra, inter, unplaced   lines inside one host, between hosts, and where the log does not tell
    """

    kind: str
    line: int
    network: str = ""
    nic: int | None = None
    gdrdma: bool | None = None
    pxn: int = 0
    intra: int = 0
    inter: int = 0
    unplaced: int = 0

    @property
    def count(self) -> int:
        """All lines."""
        return self.intra + self.inter + self.unplaced


class NcclPair(_Part, frozen=True, kw_only=True):
    """Connections of one rank to another in the largest communicator: transport -> lines."""

    source: int
    target: int
    kinds: dict[str, int]


class NcclGdr(_Part, frozen=True, kw_only=True):
    """GPUDirect RDMA for one network device, over all hosts that say so.

    nic      `mlx5_0`, or its number; `GPU / HCA` where the line is about the distance between the two
    why      `nvidia-peermem`, `DMABUF`, `no module`, `distance 5 > 4`; "" where the log gives no reason
    """

    network: str
    nic: str
    enabled: bool
    why: str
    count: int
    line: int


class NcclPlugin(_Part, frozen=True, kw_only=True):
    """A plugin and what became of it.

    kind     net, collnet, tuner, profiler, env, gin, rma
    name     `AWS Libfabric`, `libnccl-tuner.so`
    version  of the interface (`v8`), or of the plugin itself where it says so (`1.13.2-aws`)
    state    loaded, missing, failed, assigned (a communicator uses it; also NCCL's own IB and Socket)
    """

    kind: str
    name: str
    state: str
    count: int
    line: int
    version: str = ""


class NcclChoice(_Part, frozen=True, kw_only=True):
    """What NCCL chose for calls of one size. Algorithm and protocol in capitals; channels first and last (inclusive).

    op       as NCCL writes it (`AllReduce`); "" before 2.23, which does not tell
    time_us  what NCCL expected, microseconds; told up to 2.23
    count    lines: calls times ranks that told
    """

    op: str
    nbytes: int
    algorithm: str
    protocol: str
    count: int
    line: int
    channels: tuple[int, int] | None = None
    time_us: float | None = None


class NcclCost(_Part, frozen=True, kw_only=True):
    """NCCL's own model at the start: latency in us and bandwidth in GB/s; what it excludes (0/0) is left out."""

    op: str
    algorithm: str
    protocol: str
    latency_us: float
    bandwidth_gbps: float
    max_threads: int | None = None


class NcclCosts(_Part, frozen=True, kw_only=True):
    """One cost table; `comm` is the id of its communicator where known."""

    line: int
    costs: tuple[NcclCost, ...]
    comm: str = ""


class NcclSetting(_Part, frozen=True, kw_only=True):
    """A variable that NCCL says it obeyed.

    values   every value that some rank told, in order of appearance
    source   `environment`, or `plugin` where a plugin set it
    """

    name: str
    values: tuple[str, ...]
    count: int
    line: int
    source: str = "environment"


class NcclFact(_Part, frozen=True, kw_only=True):
    """Something the log says in passing that matters: how often, and where first."""

    name: str
    count: int
    line: int


class NcclMessage(_Part, frozen=True, kw_only=True):
    """A warning or an error; those that differ only in numbers are one.

    level   warn (NCCL WARN), error (a call failed, a process was aborted), torch (ProcessGroupNCCL: watchdog, timeouts)
    where   NCCL's source line, where told
    text    the first of them
    """

    level: str
    text: str
    count: int
    line: int
    where: str = ""


class NcclLog(msgspec.Struct, tag=True, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A NCCL_DEBUG log.

    library       NCCL or RCCL
    versions      library versions in order of appearance: more than one is worth a question
    drivers       CUDA driver versions (12080 is 12.8), HIP and ROCm versions
    network       what `Using network` named -> lines
    ranks         of the largest communicator, as far as told
    facts         NVLS, CollNet, MNNVL, P2P that could not be enabled, no IB device ...
    lines         lines that NCCL wrote
    comms_total, transports_total, pairs_total, choices_total, messages_total, ranks_total  before the lists were cut
    """

    library: str = "NCCL"
    versions: tuple[NcclFact, ...] = ()
    drivers: tuple[NcclFact, ...] = ()
    hosts: tuple[NcclHost, ...] = ()
    ranks: tuple[NcclRank, ...] = ()
    comms: tuple[NcclComm, ...] = ()
    network: tuple[NcclFact, ...] = ()
    gdr: tuple[NcclGdr, ...] = ()
    plugins: tuple[NcclPlugin, ...] = ()
    transports: tuple[NcclTransport, ...] = ()
    pairs: tuple[NcclPair, ...] = ()
    choices: tuple[NcclChoice, ...] = ()
    costs: tuple[NcclCosts, ...] = ()
    settings: tuple[NcclSetting, ...] = ()
    facts: tuple[NcclFact, ...] = ()
    messages: tuple[NcclMessage, ...] = ()
    lines: int = 0
    ranks_total: int = 0
    comms_total: int = 0
    transports_total: int = 0
    pairs_total: int = 0
    choices_total: int = 0
    messages_total: int = 0
