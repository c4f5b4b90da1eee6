"""A bare torch loop: blocks of all_reduce behind a barrier. gloo.py starts it: BLOCKS SIZE:CALLS...

Rank 0 prints {size: [seconds a call on the slowest rank, for each block]}.
"""

import json
import sys
import time

import torch
import torch.distributed as dist

WARMUP = 20


def main() -> None:
    dist.init_process_group("gloo")
    blocks = int(sys.argv[1])
    found = {}
    for size, calls in (map(int, pair.split(":")) for pair in sys.argv[2:]):
        tensor = torch.ones(size // 4)
        for _ in range(WARMUP):
            dist.all_reduce(tensor)
        took = torch.zeros(blocks, dtype=torch.float64)
        for block in range(blocks):
            dist.barrier()
            start = time.perf_counter()
            for _ in range(calls):
                dist.all_reduce(tensor)
            took[block] = (time.perf_counter() - start) / calls
        dist.all_reduce(took, dist.ReduceOp.MAX)
        found[size] = took.tolist()
    if dist.get_rank() == 0:
        print(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
