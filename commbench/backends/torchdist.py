"""Gloo and NCCL through torch.distributed: the same lines for both, only buffers, clock and pipeline differ.

Gloo calls are waited for one after another; NCCL calls are enqueued on a stream and timed by CUDA events,
optionally replayed from a CUDA graph. The calls are those a PyTorch job makes, on buffers of torch's own
allocator, because that is what a training job gets.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from commbench.backends.base import IN_PLACE_ONLY, python_timer
from commbench.collectives import COLLECTIVES, DTYPES, POISON, Check, Data, at_page, elements, encode, spans
from commbench.errors import MissingLibrary, Unsupported
from commbench.layouts import Groups
from commbench.records import Case
from commbench.records.measurement import Clock
from commbench.tune import effect
from commbench.tune.candidates import SPLIT
from commbench.world.torch import leave

if TYPE_CHECKING:
    from commbench.backends.base import Times
    from commbench.world import World

_LONG = timedelta(days=1)  # deadlines are the roll call's
_THREADS = 2  # of a process group of Gloo, as torch makes it
_SENTENCE = 400  # bytes of a reason that ranks tell each other
_REDOPS = {
    "sum": dist.ReduceOp.SUM,
    "prod": dist.ReduceOp.PRODUCT,
    "min": dist.ReduceOp.MIN,
    "max": dist.ReduceOp.MAX,
    "avg": dist.ReduceOp.AVG,
}
# torch 2.13 renamed these two and warns about the old names.
_ALL_GATHER = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_REDUCE_SCATTER = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class TorchBackend:
    """What Gloo and NCCL share: rendezvous, process groups, facts."""

    name: ClassVar[str]

    def __init__(self, world: "World") -> None:
        self._world = world
        self.device = self._device()
        self._owner = not dist.is_initialized()
        if self._owner:
            # The world is MPI's: rank 0 offers a port, its address is the one the roll call found reachable.
            with socket.socket() as probe:
                probe.bind(("", 0))
                port = probe.getsockname()[1]
            address = world.address
            where = world.share(f"tcp://{address}:{port}".encode()).decode()
            dist.init_process_group("gloo", init_method=where, rank=world.rank, world_size=world.size)
        self._groups: dict[Any, tuple[Made, Any]] = {}  # by group and settings
        self.timer = python_timer()
        self.facts = {"torch": str(torch.__version__), "torch_threads": str(torch.get_num_threads())}

    def _device(self) -> torch.device:
        return torch.device("cpu")

    def prepare(self, case: Case, groups: Groups) -> "TorchOp | None":
        _refuse(self.name, case)
        settings = tuple((name, text) for name, text in case.settings if name != "cuda_graph")
        for group in groups:
            if (group, settings) not in self._groups:
                made = self._made(group, dict(settings))
                self._groups[group, settings] = made, self._new(group, "sync", "gloo")
        mine = next((group for group in groups if self._world.rank in group), None)
        if mine is None:
            return None
        made, sync = self._groups[mine, settings]
        if settings:
            _agree(sync, made.refused)
        op = TorchOp(self, case, mine, made.groups, sync)
        found, reason = self._evidence(op, dict(settings)) if settings else ("", "")
        if settings:
            _agree(sync, reason)
        op.proof = "; ".join(filter(None, [made.proof, found]))
        return op

    def _made(self, group: tuple[int, ...], settings: Mapping[str, str]) -> "Made":
        """The process groups that share a message under these settings. Every rank makes them, and refuses later."""
        return Made((self._new(group, "under test", self.name),))

    def _evidence(self, op: "TorchOp", settings: Mapping[str, str]) -> tuple[str, str]:
        """(what shows that the settings have an effect on a prepared operation, why they have none)."""
        return "", ""

    def _new(self, group: tuple[int, ...], role: str, backend: str, options: Any = None) -> Any:
        # Every rank makes every group, also those it is not in: torch names a group after the number of groups
        # a rank has made, so with use_local_synchronization ranks of different histories wait for each other.
        named = f"{self.name} {role}"
        return dist.new_group(list(group), backend=backend, timeout=_LONG, group_desc=named, pg_options=options)

    # -- how time is taken; NCCL overrides these three

    clock: Clock = "host"

    def time(self, call: Callable[[], None], calls: int) -> float:
        """Seconds for `calls` calls back to back."""
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return time.perf_counter() - start

    def finish(self) -> None:
        """Waits for everything enqueued."""

    def captured(self, call: Callable[[], None]) -> Callable[[], None]:
        raise Unsupported("cuda_graph: only the nccl backend can replay a CUDA graph")

    def close(self) -> None:
        self._groups.clear()
        if self._owner:
            leave()


class Gloo(TorchBackend):
    name = "gloo"

    def __init__(self, world: "World") -> None:
        if not dist.is_gloo_available():
            raise MissingLibrary(f"this PyTorch ({torch.__version__}) was built without Gloo")
        super().__init__(world)

    def _made(self, group: tuple[int, ...], settings: Mapping[str, str]) -> "Made":
        """Proof is the count of Gloo's threads in this process: it grows by what was asked for."""
        rail = effect.rail(settings["rails"].split(",")) if "rails" in settings else ""
        threads = settings.get("threads") or (str(_THREADS) if rail else None)
        count = int(settings.get("groups", "1"))
        usual, before = effect.interfaces(), effect.threads()
        links = [rail] if rail else usual
        made = []
        for _ in range(count):
            made.append(self._new(group, "under test", "gloo"))
            if threads and self._world.rank in group:
                _threaded(made[-1], group, self._world.rank, int(threads), links)
        if not settings or self._world.rank not in group:
            return Made(tuple(made))
        for name, text in settings.items():
            if name.startswith("GLOO_") and (name != "GLOO_SOCKET_IFNAME" or ",".join(links) != text):
                return Made((), refused=f"{name}={text} is not in force here, or nothing would show it")
        # torch gives every group threads of its own, for each interface; those that were asked for come on top.
        expected = count * (_THREADS * max(1, len(usual)) + int(threads or 0))
        loops, devices = effect.gloo_started(before, expected)
        if loops != expected or devices < count * max(1, len(links)):
            return Made((), refused=f"Gloo should have started {expected} threads for {dict(settings)}, not {loops}")
        asked = " ".join(map("=".join, settings.items()))
        return Made(tuple(made), f"{asked}: Gloo started {loops} threads on {devices} devices")


class Nccl(TorchBackend):
    """Untested on this project's CPU machines; shares every line above and below with Gloo."""

    name = "nccl"
    clock = "device"

    def __init__(self, world: "World") -> None:
        if not torch.cuda.is_available() or not dist.is_nccl_available():
            raise MissingLibrary(
                f"nccl needs an NVIDIA GPU: PyTorch {torch.__version__} on {socket.gethostname()} "
                f"finds {torch.cuda.device_count()}; for CPU ranks use --set backend=gloo"
            )
        super().__init__(world)
        self.facts |= {
            "nccl": ".".join(map(str, torch.cuda.nccl.version())),
            "cuda": str(torch.version.cuda),
            "gpu": torch.cuda.get_device_name(self.device),
        }

    def _made(self, group: tuple[int, ...], settings: Mapping[str, str]) -> "Made":
        config = {name: int(text) for name, text in settings.items() if not name.startswith("NCCL_")}
        if not config:
            return super()._made(group, settings)
        options = dist.ProcessGroupNCCL.Options()
        if lacking := [name for name in config if not hasattr(options.config, name)]:
            return Made((), refused=f"{lacking[0]}: PyTorch {torch.__version__} does not hand it to NCCL")
        for name, value in config.items():
            setattr(options.config, name, value)
        made = self._new(group, "under test", "nccl", options)
        if self._world.rank not in group:
            return Made((made,))
        held = made._get_backend(self.device).options.config
        if other := [name for name, value in config.items() if getattr(held, name) != value]:
            return Made((), refused=f"{other[0]}: the communicator holds {getattr(held, other[0])}")
        return Made((made,), "; ".join(f"{name}={value} of this communicator" for name, value in config.items()))

    def _evidence(self, op: "TorchOp", settings: Mapping[str, str]) -> tuple[str, str]:
        started = {name: text for name, text in settings.items() if name.startswith("NCCL_")}
        op.run(1, 1)
        self.finish()
        try:
            log = os.environ.get("NCCL_DEBUG_FILE", "")
            return effect.nccl_says(log, started, op._case.op, self._world.rank == 0) if started else "", ""
        except Unsupported as error:
            return "", str(error)

    def _device(self) -> torch.device:
        local = int(os.environ.get("LOCAL_RANK", self._world.rank))
        device = torch.device("cuda", local % torch.cuda.device_count())
        torch.cuda.set_device(device)
        return device

    def time(self, call: Callable[[], None], calls: int) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3

    def finish(self) -> None:
        torch.cuda.synchronize(self.device)

    def captured(self, call: Callable[[], None]) -> Callable[[], None]:
        call()  # NCCL connects on first use, which a capture must not contain
        self.finish()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return graph.replay


class Made(NamedTuple):
    """Process groups of the same ranks that share each message, and what was seen of their settings."""

    groups: tuple[Any, ...]
    proof: str = ""
    refused: str = ""


def _agree(group: Any, reason: str) -> None:
    """Raises Unsupported on every rank of the group with the first rank's reason, if any has one."""
    mine = torch.zeros(_SENTENCE, dtype=torch.uint8)
    told = list(reason.encode()[:_SENTENCE])
    mine[: len(told)] = torch.tensor(told, dtype=torch.uint8)
    everyone = [torch.zeros_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everyone, mine, group)
    for one in everyone:
        if one[0]:
            raise Unsupported(bytes(one.tolist()).rstrip(b"\0").decode(errors="replace"))


def _threaded(made: Any, group: tuple[int, ...], rank: int, threads: int, links: Sequence[str]) -> None:
    """Puts a Gloo of so many threads behind a process group: torch's new_group takes options for Gloo and drops them.

    It is registered as another kind of backend, because of the kind that is there torch keeps the one it has.
    """
    kind: Any = dist.ProcessGroupGloo  # torch's stubs leave most of it out
    options = kind._Options()
    options._threads, options._timeout = threads, _LONG
    options._devices = [kind.create_device(interface=name) for name in links] or [kind.create_default_device()]
    store = dist.distributed_c10d.PrefixStore(
        f"commbench/{made.group_name}", dist.distributed_c10d._get_default_store()
    )
    backend = kind(store, group.index(rank), len(group), options)
    made._register_backend(torch.device("cpu"), dist.ProcessGroup.BackendType.CUSTOM, backend)


def _refuse(name: str, case: Case) -> None:
    """Raises Unsupported for what torch.distributed or the library below it does not offer."""
    if "groups" in dict(case.settings) and case.op not in SPLIT:
        raise Unsupported(f"groups: only {', '.join(SPLIT)} can be cut into parts that know nothing of each other")
    reduces = COLLECTIVES[case.op].reduces
    if case.op in IN_PLACE_ONLY[name] and not case.in_place:
        raise Unsupported(f"torch.distributed offers {case.op} in place only")
    if case.in_place and case.op in ("all_to_all", "gather", "scatter", "send_recv"):
        raise Unsupported(f"torch.distributed offers {case.op} out of place only")
    if name == "gloo" and reduces and case.redop == "avg":
        raise Unsupported("Gloo has no avg reduction")


class TorchOp:
    proof = ""

    def __init__(
        self, backend: TorchBackend, case: Case, mine: tuple[int, ...], groups: tuple[Any, ...], sync: Any
    ) -> None:
        self._backend, self._case, self._members = backend, case, mine
        self._group, self._sync, self._shared_by = groups[0], sync, groups
        rank, n = mine.index(backend._world.rank), len(mine)
        count = elements(case.op, case.nbytes, case.dtype, n)
        self._data = Data(case.op, case.dtype, case.redop, n, rank, count, case.root)
        send, recv = self._data.send_count, self._data.recv_count
        try:
            whole = self._zeros(max(send, recv) if case.in_place else recv)
            other = whole if case.in_place else self._zeros(send)
        except (RuntimeError, MemoryError):  # torch raises OutOfMemoryError (a RuntimeError) on a GPU
            size = (send + recv) * DTYPES[case.dtype].itemsize
            raise Unsupported(f"{size} bytes of buffers do not fit into the memory of {backend.device}") from None
        own = slice(rank * count, rank * count + count)
        self._send = other[own] if case.in_place and send < recv else other
        self._recv = whole[own] if case.in_place and recv < send else whole
        self._fill()
        self.clock: Clock = backend.clock
        self._issue = self._call()
        if dict(case.settings).get("cuda_graph") == "true":
            self._issue, self.clock = backend.captured(self._issue), "graph"

    def _call(self) -> Callable[[], None]:
        """One collective, as a PyTorch job would ask for it."""
        case, group, send, recv = self._case, self._group, self._send, self._recv
        op, root = _REDOPS[case.redop], self._members[case.root] if COLLECTIVES[case.op].rooted else 0
        at_root = self._data.rank == self._data.root
        n, count, rank = self._data.n, self._data.count, self._data.rank
        parts = lambda buffer: list(buffer.split(count)) if at_root else None  # noqa: E731
        to, source = self._members[(rank + 1) % n], self._members[(rank - 1) % n]
        if len(self._shared_by) > 1:
            return self._split(op, root)
        calls: dict[str, Callable[[], Any]] = {
            "all_reduce": lambda: dist.all_reduce(recv, op, group),
            "all_gather": lambda: _ALL_GATHER(recv, send, group),
            "reduce_scatter": lambda: _REDUCE_SCATTER(recv, send, op, group),
            "broadcast": lambda: dist.broadcast(recv, root, group),
            "reduce": lambda: dist.reduce(recv, root, op, group),
            "all_to_all": lambda: dist.all_to_all_single(recv, send, group=group),
            "gather": lambda: dist.gather(send, parts(recv), root, group),
            "scatter": lambda: dist.scatter(recv, parts(send), root, group),
            "send_recv": lambda: self._exchange(to, source),
            "barrier": lambda: dist.barrier(group),
        }
        return calls[case.op]

    def _split(self, op: Any, root: int) -> Callable[[], None]:
        """The same with a part of the message on each group, all at once. A short message has fewer parts."""
        parts = list(zip(self._recv.tensor_split(len(self._shared_by)), self._shared_by, strict=True))
        begin: Callable[[torch.Tensor, Any], Any] = {
            "all_reduce": lambda part, group: dist.all_reduce(part, op, group, async_op=True),
            "reduce": lambda part, group: dist.reduce(part, root, op, group, async_op=True),
            "broadcast": lambda part, group: dist.broadcast(part, root, group, async_op=True),
        }[self._case.op]

        def call() -> None:
            for work in [begin(part, group) for part, group in parts if len(part)]:
                work.wait()

        return call

    def _exchange(self, to: int, source: int) -> None:
        # The receive first: Gloo says that it is ready on the connection of the data, where it would wait behind them.
        receive = dist.P2POp(dist.irecv, self._recv, source, self._group)
        send = dist.P2POp(dist.isend, self._send, to, self._group)
        for work in dist.batch_isend_irecv([receive, send]):
            work.wait()

    def run(self, samples: int, calls: int) -> "Times":
        out = np.zeros((1, samples))
        for i in range(samples):
            self._backend.finish()
            dist.barrier(self._sync)
            out[0, i] = self._backend.time(self._issue, calls) / calls
        return out

    def _fill(self) -> None:
        data, dtype = self._data, self._case.dtype
        self._recv.fill_(POISON)
        gives = data.op not in ("broadcast", "scatter") or data.rank == data.root
        for start, stop in spans(data.send_count if gives else 0):
            self._send[start:stop] = self._tensor(encode(data.given(start, stop), dtype))

    def _zeros(self, count: int) -> torch.Tensor:
        if self._backend.device.type != "cpu":
            return torch.zeros(count, dtype=getattr(torch, self._case.dtype), device=self._backend.device)
        return self._tensor(at_page(count, DTYPES[self._case.dtype], offset=64))

    def _tensor(self, stored: Any) -> torch.Tensor:
        if self._case.dtype == "bfloat16":
            return torch.from_numpy(stored.view(np.int16)).view(torch.bfloat16).to(self._backend.device)
        return torch.from_numpy(stored).to(self._backend.device)

    def _stored(self, tensor: torch.Tensor) -> Any:
        tensor = tensor.cpu()
        if self._case.dtype == "bfloat16":
            return tensor.view(torch.int16).numpy().view(np.uint16)
        return tensor.numpy()

    def check(self) -> Sequence[Check]:
        self._fill()
        self.run(1, 1)
        self._backend.finish()
        return [self._data.verify(lambda start, stop: self._stored(self._recv[start:stop]))]

    def close(self) -> None:
        self._send = self._recv = torch.zeros(0)
        self._issue = lambda: None
