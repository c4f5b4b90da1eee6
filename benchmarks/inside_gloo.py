"""commbench's own loop and a bare torch loop in one process, turn by turn, on one group: what the loop itself adds.

    torchrun --nproc-per-node 2 benchmarks/inside_gloo.py [ROUNDS BYTES]

Process starts, groups and buffers differ by several percent here, which two programs beside each other cannot
tell from a difference between them. Here both sides make `CALLS` calls of all_reduce behind a barrier, on the
same group and the same buffer; the slower rank counts. Rank 0 prints the medians and the ratio of the rounds
with its 95 % interval.
"""

import os
import statistics
import sys
import time

import _common as common
import torch
import torch.distributed as dist

from commbench.backends.torchdist import Gloo
from commbench.layouts import expand
from commbench.records import Case
from commbench.world.discover import discover
from commbench.world.join import join

CALLS, LIMIT = 10, 0.02


def main() -> None:
    rounds, nbytes = [int(text) for text in sys.argv[1:]] if len(sys.argv) > 2 else (300, 2**20)
    world, rollcall = join(discover(os.environ), ["gloo"], lambda sentence: print(sentence, file=sys.stderr))
    backend = Gloo(world)
    case = Case(op="all_reduce", backend="gloo", nbytes=nbytes, in_place=True)
    op = backend.prepare(case, expand("world", [0] * world.size))
    assert op
    tensor, group, sync = op._recv, op._group, op._sync

    def bare() -> float:
        dist.barrier(sync)
        start = time.perf_counter()
        for _ in range(CALLS):
            dist.all_reduce(tensor, group=group)
        return (time.perf_counter() - start) / CALLS

    sides = {"bare": bare, "commbench": lambda: float(op.run(1, CALLS)[0, 0])}
    took = torch.zeros(len(sides), rounds, dtype=torch.float64)
    for k in range(-10, rounds):
        for side in (0, 1) if k % 2 else (1, 0):
            seconds = list(sides.values())[side]()
            if k >= 0:
                took[side, k] = seconds
    dist.all_reduce(took, dist.ReduceOp.MAX)
    if world.rank == 0:
        one, other = took.tolist()
        told = [f"{name} {statistics.median(t) * 1e6:.0f} us" for name, t in zip(sides, (one, other), strict=True)]
        print(f"{common.size_name(nbytes)}, {rounds} rounds: {', '.join(told)}")
        print(f"Verdict: {common.Ratios(other, one).verdict(LIMIT)}")
    op.close()
    if rollcall:
        rollcall.close()
    op = tensor = group = sync = None
    backend.close()
    world.close()


if __name__ == "__main__":
    main()
