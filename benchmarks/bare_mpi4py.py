"""A plain mpi4py loop in the sequence of OSU's program. osu.py starts it: SAMPLES WARMUP SIZE...

Rank 0 prints {size: [seconds, the mean over ranks, for each sample]}.
"""

import json
import sys

import numpy as np
from mpi4py import MPI


def main() -> None:
    comm = MPI.COMM_WORLD
    samples, warmup, *sizes = map(int, sys.argv[1:])
    found = {}
    for size in sizes:
        send, recv = np.ones(size // 4, np.float32), np.zeros(size // 4, np.float32)
        own = np.zeros(samples)
        comm.Barrier()
        for i in range(-warmup, samples):
            start = MPI.Wtime()
            comm.Allreduce(send, recv, MPI.SUM)
            stop = MPI.Wtime()
            comm.Barrier()
            if i >= 0:
                own[i] = stop - start
        total = np.zeros(samples)
        comm.Reduce(own, total, MPI.SUM, 0)
        found[size] = (total / comm.size).tolist()
    if comm.rank == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
