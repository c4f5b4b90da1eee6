"""How fast a profiler's trace is read, and in how much memory: a made one of 200 MB, plain and gzip.

The events are what Kineto writes for a training step on GPUs (operators, launches, kernels, flow arrows, collectives
with their arguments), in its own layout. Each reading is a process of its own; its peak memory is the system's
figure for it. Fails where the calls read are not those made.
"""

import argparse
import gzip
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HEAD = """
{
  "schemaVersion": 1,
  "deviceProperties": [{"id": 0, "name": "Made-up GPU"}],
  "distributedInfo": {"backend": "nccl", "rank": 0, "world_size": 8, "pg_count": 1, "pg_config": [{"pg_name": "0", \
"pg_desc": "default_pg", "pg_size": 8, "ranks": [0, 1, 2, 3, 4, 5, 6, 7]}], "nccl_version": "2.27.3"},
  "displayTimeUnit": "ms",
  "baseTimeNanoseconds": 1700000000000000000,
  "traceEvents": ["""
TAIL = '\n  {\n    "ph": "M", "name": "end", "ts": 0, "pid": 1, "tid": 1, "args": {}\n  }\n  ]\n}\n'
EVENT = """
  {
    "ph": "X", "cat": "%s", "name": "%s", "pid": %d, "tid": %d,
    "ts": %.3f, "dur": %.3f,
    "args": {
      %s
    }
  },"""
FLOW = """
  {
    "ph": "s", "id": %d, "pid": 1, "tid": 1, "ts": %.3f,
    "cat": "ac2g", "name": "ac2g"
  },"""
KERNEL = (
    '"External id": %d,"queued": 0, "device": 0, "context": 1, "stream": %d, "correlation": %d,'
    ' "registers per thread": 96, "shared memory": 87568, "blocks per SM": 0.074074, "grid": [8, 1, 1],'
    ' "block": [544, 1, 1], "est. achieved occupancy %%": 0'
)
SENT = (
    '"Collective name": "allreduce", "In msg nelems": 6637568, "Out msg nelems": 6637568, "Group size": 8,'
    ' "dtype": "Float", "Process Group Name": "0", "Process Group Description": "default_pg",'
    ' "Process Group Ranks": "[0, 1, 2, 3, 4, 5, 6, 7]"'
)
OPERATORS = (
    "aten::addmm",
    "aten::copy_",
    "aten::mul",
    "aten::as_strided",
    "autograd::engine::evaluate_function: MulBackward0",
)
PER_STEP, PER_CALL = 2000, 100


def step(number: int) -> Iterator[str]:
    """One step of 100 ms: operators, each with its launch and kernel; every `PER_CALL`-th is a collective."""
    zero = number * 100_000.0
    yield EVENT % ("user_annotation", f"ProfilerStep#{number}", 1, 1, zero, 99_990, '"Ev Idx": 0')
    for k in range(PER_STEP):
        at, key = zero + k * 49, number * 10_000 + k + 1
        yield EVENT % (
            "cpu_op",
            OPERATORS[k % 5],
            1,
            1,
            at,
            20,
            f'"External id": {key},"Record function id": 0, "Ev Idx": {k}',
        )
        yield EVENT % (
            "cuda_runtime",
            "cudaLaunchKernel",
            1,
            1,
            at + 5,
            3,
            f'"External id": {key}, "cbid": 211, "correlation": {key}',
        )
        yield FLOW % (key, at + 5)
        if k % PER_CALL:
            yield EVENT % (
                "kernel",
                "void at::native::vectorized_elementwise_kernel<4>",
                0,
                7,
                at + 30,
                45,
                KERNEL % (key, 7, key),
            )
        else:
            yield EVENT % ("cpu_op", "record_param_comms", 1, 1, at + 1, 15, f'"External id": {key}, {SENT}')
            yield EVENT % (
                "kernel",
                "ncclDevKernel_AllReduce_Sum_f32_RING_LL(x)",
                0,
                20,
                at + 40,
                900,
                KERNEL % (key, 20, key) + ", " + SENT,
            )


def make(path: Path, megabytes: int) -> int:
    """Write the trace; how many steps it holds."""
    number = 0
    with path.open("w") as file:
        file.write(HEAD)
        while file.tell() < megabytes * 10**6:
            file.write("".join(step(number)))
            number += 1
        file.write(TAIL)
    return number


def read_one(path: Path) -> None:
    """In a process of its own: read, and print what it took."""
    from commbench.readers.source import Source
    from commbench.readers.trace import READER

    began = time.perf_counter()
    (found,) = READER.read(Source(path))
    seconds = time.perf_counter() - began
    (rank,) = found.parts[0].ranks
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak_bytes": peak, "steps": len(rank.steps), "calls": len(rank.calls)}))


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--megabytes", type=int, default=200)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE as well")
    options.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.read:
        read_one(chosen.read)
        return 0
    figures: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "trace.json"
        steps = make(plain, chosen.megabytes)
        packed = Path(folder) / "trace.json.gz"
        with plain.open("rb") as source, gzip.open(packed, "wb", compresslevel=4) as target:
            shutil.copyfileobj(source, target, 2**20)
        expected = {"steps": steps, "calls": steps * (PER_STEP // PER_CALL)}
        for _ in range(chosen.repeats):
            for path in (plain, packed):
                command = [sys.executable, __file__, "--read", str(path)]
                row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                figures.append({"file": path.name, "file_bytes": path.stat().st_size, **row})
                wrong = {key: row[key] for key in expected if row[key] != expected[key]}
                print(
                    f"{path.name:<14} {row['seconds']:6.2f} s  {plain.stat().st_size / 1e6 / row['seconds']:6.1f} MB/s"
                    f"  peak {row['peak_bytes'] / 2**20:6.0f} MiB  {row['steps']} steps, {row['calls']} calls"
                    + (f"  WRONG: {wrong}, expected {expected}" if wrong else "")
                )
                if wrong:
                    return 1
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
