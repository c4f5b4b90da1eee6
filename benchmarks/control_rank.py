"""One rank that only agrees. control.py starts it: AGREEMENTS SAMPLES BACKEND. Rank 0 prints microseconds."""

import json
import os
import statistics
import sys
import time

import numpy as np

from commbench.layouts import expand
from commbench.world import slowest
from commbench.world.discover import discover
from commbench.world.join import join

WARMUP = 20


def main() -> None:
    agreements, samples, backend = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    world, rollcall = join(discover(os.environ), [backend], lambda sentence: print(sentence, file=sys.stderr))
    groups = expand("world", [0] * world.size)
    times = np.full((1, samples), 1e-4 * (1 + world.rank))
    word = b'[20,20,""]' if world.rank == 0 else b""  # what the loop says after a batch
    took: dict[str, list[float]] = {"slowest": [], "share": [], "both": []}
    for k in range(-WARMUP, agreements):
        start = time.perf_counter()
        found = slowest(world, groups, times)
        middle = time.perf_counter()
        world.share(word)
        end = time.perf_counter()
        if k >= 0:
            for name, seconds in (
                ("slowest", middle - start),
                ("share", end - middle),
                ("both", end - start),
            ):
                took[name].append(seconds * 1e6)
    if world.rank == 0:
        assert found[0].slowest.tolist() == [world.size - 1] * samples
        print(json.dumps({name: statistics.median(values) for name, values in took.items()}))
    if rollcall:
        rollcall.close()
    world.close()


if __name__ == "__main__":
    main()
