"""The bucket plan against trying every plan, and DDP's bucketing as commbench computes it against torch's own.

1,000 random jobs of up to 12 gradients: sizes over five decades, any monotone curve, gradients that are ready at once,
half of them with both slowdowns, a third with a limit on the size of a bucket. Every cut of every job is played by a
simulation of its own that shares no line with the package; the plan must end as early as the best of them. Jobs in
which overlapping is slower than one after the other are counted apart: there the plan says that it is not exact.
"""

import itertools
import random
import sys
import time

import _common as common

from commbench.model.buckets import assign, optimum, predict
from commbench.model.curve import Cost, Curve
from commbench.model.step import Backward, Gradient


def job(rng: random.Random, most: int, harmful: bool = False) -> tuple[Backward, Cost, int | None]:
    """A random backward pass, what communication costs in it, and the largest bucket."""
    count = rng.randint(1, most)
    ready = sorted(rng.choice([0.0, 0.25, rng.random(), rng.random()]) for _ in range(count))
    sizes = [int(10 ** rng.uniform(2, 7)) for _ in range(count)]
    total = sum(sizes)
    points = sorted({int(10 ** rng.uniform(1, 7.5)) for _ in range(rng.randint(2, 9))} | {50, 2 * total})
    scale = 10 ** rng.uniform(-1.5, 0.7)
    times = sorted(scale * rng.choice([rng.random(), size / total, 0.1 + size / total]) + 1e-6 for size in points)
    alone = Curve(nbytes=tuple(points), seconds=tuple(times))
    gamma = delta = 1.0
    if harmful:
        gamma, delta = rng.uniform(2, 4), rng.uniform(2.1, 4)
    elif rng.random() < 0.5:
        gamma = rng.choice([1.0, rng.uniform(1, 4)])
        delta = rng.uniform(1, min(6.0, gamma / (gamma - 1) if gamma > 1 else 6.0))
    limit = rng.choice([None, None, int(total * rng.uniform(0.1, 0.9)) + 1])
    gradients = tuple(Gradient(index=k, nbytes=n, ready=r) for k, (n, r) in enumerate(zip(sizes, ready, strict=True)))
    end = ready[-1] + rng.choice([0.0, rng.random() / 4])
    return Backward(gradients=gradients, seconds=end), Cost(alone=alone, loaded=alone.scaled(delta), gamma=gamma), limit


def every_plan(backward: Backward, cost: Cost, limit: int | None) -> float:
    """The earliest end over all cuts into consecutive buckets."""
    count = len(backward.gradients)
    return min(
        end
        for cut in itertools.product((False, True), repeat=count - 1)
        if (end := walk(backward, cost, [k + 1 for k, here in enumerate(cut) if here] + [count], limit)) is not None
    )


def walk(backward: Backward, cost: Cost, ends: list[int], limit: int | None) -> float | None:
    """The end of the step, from event to event; None for a bucket that is too large."""
    now = done = 0.0  # time, and how far computing is
    begin = 0
    for end in ends:
        nbytes = sum(one.nbytes for one in backward.gradients[begin:end])
        if limit and nbytes > limit and end - begin > 1:
            return None
        alone, loaded = (float(one) for one in times(cost, nbytes))
        wait = max(0.0, backward.gradients[end - 1].ready - done)  # nothing is sent: computing runs alone
        now, done = now + wait, done + wait
        left = 1.0
        if done < backward.seconds:
            together = min(left * loaded, (backward.seconds - done) * cost.gamma)
            now, done, left = now + together, done + together / cost.gamma, left - together / loaded
        now += left * alone
        if left > 1e-15:
            done = backward.seconds
        begin = end
    return now + max(0.0, backward.seconds - done)


_TIMES: dict[tuple[int, int], tuple[float, float]] = {}


def times(cost: Cost, nbytes: int) -> tuple[float, float]:
    key = id(cost), nbytes
    if key not in _TIMES:
        alone, loaded = cost.at([nbytes])
        _TIMES[key] = float(alone[0]), float(loaded[0])
    return _TIMES[key]


def plans(jobs: int, most: int, seed: int, harmful: bool) -> dict[str, float]:
    rng = random.Random(seed)
    equal = exact = 0
    worst = 0.0
    slow = 0.0
    for _ in range(jobs):
        _TIMES.clear()
        backward, cost, limit = job(rng, most, harmful)
        began = time.perf_counter()
        found = optimum(backward, cost, limit)
        slow = max(slow, time.perf_counter() - began)
        best = every_plan(backward, cost, limit)
        played = predict(backward, cost, found.buckets).step
        over = max(found.end, played) / best - 1
        equal += abs(found.end / best - 1) < 1e-9 and abs(played / best - 1) < 1e-9
        exact += found.within == 0
        worst = max(worst, over)
    return {"jobs": jobs, "equal": equal, "exact": exact, "worst": worst, "slowest_s": slow}


def torch_agrees(cases: int, seed: int) -> dict[str, int]:
    import torch
    import torch.distributed as dist

    rng = random.Random(seed)
    kinds = [torch.float32, torch.bfloat16, torch.float64, torch.float16]
    same = 0
    for _ in range(cases):
        tensors = [
            torch.zeros(rng.randint(1, 2000), dtype=rng.choice(kinds[: rng.randint(1, 4)]))
            for _ in range(rng.randint(1, 40))
        ]
        limits = [rng.randint(1, 20000) for _ in range(rng.randint(1, 5))]
        sparse = [rng.random() < 0.1 for _ in tensors]
        sort = rng.random() < 0.5
        order = [] if sort else list(range(len(tensors)))
        theirs, _ = dist._compute_bucket_assignment_by_size(tensors, limits, sparse, order)
        sizes = [one.numel() * one.element_size() for one in tensors]
        ours = assign(sizes, limits, [one.dtype for one in tensors], sparse, sort=sort)
        same += [list(bucket) for bucket in ours] == theirs
    return {"cases": cases, "same": same}


def main() -> None:
    parser = common.parser(__doc__, repeats=1)
    parser.add_argument("--jobs", type=int, default=1000, help="random jobs (default 1000)")
    parser.add_argument("--gradients", type=int, default=12, help="of a job, at most (default 12)")
    parser.add_argument("--seed", type=int, default=5)
    given = parser.parse_args()
    found = {
        "plan": plans(given.jobs, given.gradients, given.seed, harmful=False),
        "harmful": plans(given.jobs // 10, given.gradients, given.seed, harmful=True),
        "torch": torch_agrees(given.jobs * 2, given.seed),
    }
    one, other, real = found["plan"], found["harmful"], found["torch"]
    print(f"plans equal to the best of all: {one['equal']} of {one['jobs']} (claimed exact: {one['exact']})")
    print(f"slowest plan: {one['slowest_s'] * 1e3:.1f} ms")
    print(
        f"where overlapping does harm: {other['equal']} of {other['jobs']} equal, claimed exact: {other['exact']}, "
        f"at most {other['worst']:.1%} over the best"
    )
    print(f"DDP's buckets as torch makes them: {real['same']} of {real['cases']}")
    common.finish(given.json, found)
    sys.exit(one["equal"] != one["jobs"] or real["same"] != real["cases"])


if __name__ == "__main__":
    main()
