"""The control channel over torch.distributed: Gloo on a group of its own, under torchrun and srun."""

import gc
import os
import re
import socket
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from commbench.errors import LaunchError
from commbench.layouts import Groups
from commbench.world.discover import Place
from commbench.world.protocol import Words

_LONG = timedelta(days=1)  # deadlines are the roll call's: it knows the case and names the rank
_RENDEZVOUS = timedelta(seconds=120)


def leave() -> None:
    """Leaves torch.distributed without a thread of Gloo: one that still holds the tensors of the last message when
    Python ends aborts the process. They are joined by whoever lets go of a group last, and what holds groups (DDP,
    FSDP2) lives in circles."""
    gc.collect()
    dist.destroy_process_group()


def rendezvous(env: Mapping[str, str], place: Place) -> tuple[str, int]:
    """MASTER_ADDR and MASTER_PORT, or the same answer for every rank of a Slurm step."""
    if "MASTER_ADDR" in env and "MASTER_PORT" in env:
        return env["MASTER_ADDR"], int(env["MASTER_PORT"])
    if place.launcher != "srun":
        raise LaunchError(f"{place.launcher} without MPI needs MASTER_ADDR and MASTER_PORT to find rank 0")
    # A port that the ranks of one step agree on and other steps of the node most likely do not use.
    step = int(env["SLURM_JOB_ID"]) * 131 + int(env["SLURM_STEP_ID"]) * 7
    return _first_host(env), 20000 + step % 12000


def _first_host(env: Mapping[str, str]) -> str:
    """Rank 0's host: the first of the step's node list, or the launch node where that name does not resolve."""
    nodes = env.get("SLURM_STEP_NODELIST", "")
    first = re.sub(r"^([^,\[]*)\[([0-9]+).*$", r"\1\2", nodes).split(",")[0]
    try:
        return socket.gethostbyname(first)
    except OSError:
        if "SLURM_LAUNCH_NODE_IPADDR" not in env:
            raise LaunchError(f"SLURM_STEP_NODELIST={nodes}: {first!r} does not resolve; set MASTER_ADDR") from None
        return env["SLURM_LAUNCH_NODE_IPADDR"]


class TorchWorld:
    channel = "gloo"

    def __init__(self, place: Place) -> None:
        self.rank, self.size = place.rank, place.size
        self.ranks: Sequence[int] = (self.rank,)
        self.address = ""
        address, port = rendezvous(os.environ, place)
        try:
            if place.launcher == "torchrun":
                dist.init_process_group("gloo", timeout=_RENDEZVOUS)
            else:
                dist.init_process_group(
                    "gloo",
                    init_method=f"tcp://{address}:{port}",
                    rank=self.rank,
                    world_size=self.size,
                    timeout=_RENDEZVOUS,
                )
            self._group: Any = dist.new_group(backend="gloo", timeout=_LONG)
        except (RuntimeError, ValueError) as error:
            raise LaunchError(
                f"rank {self.rank} of {self.size} ({place.source}) did not meet the others at {address}:{port} "
                f"within {_RENDEZVOUS.seconds} s: {str(error).splitlines()[0]}"
            ) from None
        self._subs: dict[tuple[int, ...], dist.ProcessGroup] = {}

    def share(self, data: bytes) -> bytes:
        length = torch.tensor([len(data)])
        dist.broadcast(length, 0, group=self._group)
        buffer = torch.zeros(int(length), dtype=torch.uint8)
        if self.rank == 0:
            buffer = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)[: len(data)]
        if len(buffer):
            dist.broadcast(buffer, 0, group=self._group)
        return bytes(buffer.numpy().tobytes())

    def gather(self, data: bytes) -> list[bytes]:
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(data)]), group=self._group)
        longest = max(int(n) for n in lengths)
        mine = torch.zeros(max(longest, 1), dtype=torch.uint8)
        mine[: len(data)] = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)[: len(data)]
        parts = [torch.zeros_like(mine) for _ in range(self.size)] if self.rank == 0 else None
        dist.gather(mine, parts, 0, group=self._group)
        return [part.numpy()[: int(n)].tobytes() for part, n in zip(parts or [], lengths, strict=False)]

    def reduce_max(self, groups: Groups, words: Words) -> list[Words]:
        mine = next((group for group in groups if self.rank in group), None)
        out = torch.from_numpy(words.copy())
        sub = self._sub(mine or (), groups)
        if mine and len(mine) > 1:
            dist.reduce(out, mine[0], op=dist.ReduceOp.MAX, group=sub)
        if len(groups) == 1 and groups[0][0] == 0:
            return [out.numpy()] if self.rank == 0 else []
        parts = self.gather(out.numpy().tobytes() if mine and mine[0] == self.rank else b"")
        return [np.frombuffer(parts[group[0]], np.int64) for group in groups] if self.rank == 0 else []

    def _sub(self, mine: tuple[int, ...], groups: Groups) -> Any:
        if len(mine) == self.size:
            return self._group
        for group in groups:  # on every rank, as in backends.torchdist
            if group not in self._subs:
                self._subs[group] = dist.new_group(list(group), backend="gloo", timeout=_LONG, group_desc="control")
        return self._subs.get(mine)

    def barrier(self) -> None:
        dist.barrier(group=self._group)

    def abort(self, code: int) -> None:
        os._exit(code)

    def close(self) -> None:
        dist.barrier(group=self._group)
        self._subs.clear()
        self._group = None
        leave()
