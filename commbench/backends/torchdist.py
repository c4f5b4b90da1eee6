"""Gloo and NCCL through torch.distributed: the same lines for both, only buffers, clock and pipeline differ.

Gloo calls are waited for one after another; NCCL calls are enqueued on a stream and timed by CUDA events,
optionally replayed from a CUDA graph. The calls are those a PyTorch job makes, on buffers of torch's own
allocator, because that is what a training job gets.
"""

import os
import socket
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.distributed as dist

from commbench.backends.base import IN_PLACE_ONLY, python_timer
from commbench.collectives import COLLECTIVES, DTYPES, POISON, Check, Data, at_page, elements, encode, spans
from commbench.errors import MissingLibrary, Unsupported
from commbench.layouts import Groups
from commbench.records import Case
from commbench.records.measurement import Clock

if TYPE_CHECKING:
    from commbench.backends.base import Times
    from commbench.world import World

_LONG = timedelta(days=1)  # deadlines are the roll call's
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
        self._groups: dict[tuple[int, ...], tuple[Any, Any]] = {}
        self.timer = python_timer()
        self.facts = {"torch": str(torch.__version__), "torch_threads": str(torch.get_num_threads())}

    def _device(self) -> torch.device:
        return torch.device("cpu")

    def prepare(self, case: Case, groups: Groups) -> "TorchOp | None":
        _refuse(self.name, case)
        for group in groups:
            if group not in self._groups:
                self._groups[group] = self._new(group, "under test", self.name), self._new(group, "sync", "gloo")
        mine = next((group for group in groups if self._world.rank in group), None)
        return TorchOp(self, case, mine, *self._groups[mine]) if mine else None

    def _new(self, group: tuple[int, ...], role: str, backend: str) -> Any:
        # Every rank makes every group, also those it is not in: torch names a group after the number of groups
        # a rank has made, so with use_local_synchronization ranks of different histories wait for each other.
        return dist.new_group(list(group), backend=backend, timeout=_LONG, group_desc=f"{self.name} {role}")

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
            dist.destroy_process_group()


class Gloo(TorchBackend):
    name = "gloo"

    def __init__(self, world: "World") -> None:
        if not dist.is_gloo_available():
            raise MissingLibrary(f"this PyTorch ({torch.__version__}) was built without Gloo")
        super().__init__(world)


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


def _refuse(name: str, case: Case) -> None:
    """Raises Unsupported for what torch.distributed or the library below it does not offer."""
    reduces = COLLECTIVES[case.op].reduces
    if case.op in IN_PLACE_ONLY[name] and not case.in_place:
        raise Unsupported(f"torch.distributed offers {case.op} in place only")
    if case.in_place and case.op in ("all_to_all", "gather", "scatter", "send_recv"):
        raise Unsupported(f"torch.distributed offers {case.op} out of place only")
    if name == "gloo" and reduces and case.redop == "avg":
        raise Unsupported("Gloo has no avg reduction")


class TorchOp:
    proof = ""

    def __init__(self, backend: TorchBackend, case: Case, mine: tuple[int, ...], group: Any, sync: Any) -> None:
        self._backend, self._case, self._members = backend, case, mine
        self._group, self._sync = group, sync
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

    def _exchange(self, to: int, source: int) -> None:
        works = dist.batch_isend_irecv(
            [
                dist.P2POp(dist.isend, self._send, to, self._group),
                dist.P2POp(dist.irecv, self._recv, source, self._group),
            ]
        )
        for work in works:
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
