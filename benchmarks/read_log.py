"""How fast commbench reads a NCCL log, and in how much memory: a large log, made of lines as NCCL writes them.

job       8 ranks a host; every rank starts, finds its NICs, and connects to its neighbours on 24 channels; rank 0
          tells rings, the cost table and every call's algorithm
training  the same, and four lines of a training script behind each line of NCCL
calls     NCCL_DEBUG_SUBSYS=COLL,TUNING: mostly lines of calls

Promised: 50 MB/s. Seconds are the processor's, so that a busy machine tells the same.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from commbench.readers.nccl_log import READER
from commbench.readers.source import Problem, Source

PROMISED = 50.0  # MB/s
CHANNELS, GPUS = 24, 8
NICS = " ".join(f"[{n}]mlx5_{n}:1/IB" for n in range(GPUS))


def job(ranks: int) -> Iterator[str]:
    """The lines of one job, without their ends."""
    for rank in range(ranks):
        who = f"node{rank // GPUS:05d}:{4000 + rank % GPUS}:{4100 + rank % GPUS} [{rank % GPUS}] NCCL INFO "
        comm = f"0x55{rank:08x} rank {rank} nranks {ranks} cudaDev {rank % GPUS} nvmlDev {rank % GPUS}"
        comm = f"ncclCommInitRank comm {comm} busId {rank % GPUS}b000 commId 0xabcdef0123456789"
        yield f"{who}cudaDriverVersion 12080"
        yield f"{who}NCCL_IB_HCA set by environment to mlx5"
        yield f"{who}NET/IB : Using {NICS} [RO]; OOB eth0:10.0.{rank // 2048}.{rank // GPUS % 256}<0>"
        yield from (f"{who}NET/IB : GPU Direct RDMA Enabled for HCA {n} 'mlx5_{n}'" for n in range(GPUS))
        yield f"{who}Using network IB"
        yield f"{who}{comm} - Init START"
        if rank == 0:
            yield from (
                f"{who}Channel {c:02d}/{CHANNELS} : " + " ".join(map(str, range(30))) + "..." for c in range(CHANNELS)
            )
        yield f"{who}Trees " + " ".join(f"[{c}] {rank + 1}/-1/-1->{rank}->{rank - 1}" for c in range(CHANNELS))
        for peer in ((rank + 1) % ranks, (rank - 1) % ranks, (rank + ranks // 2) % ranks, (rank ^ 8) % ranks):
            for c in range(CHANNELS):
                if peer // GPUS == rank // GPUS:
                    yield f"{who}Channel {c:02d}/0 : {rank}[{rank % GPUS}] -> {peer}[{peer % GPUS}] via P2P/CUMEM"
                else:
                    ends = f"{rank}[{rank % GPUS}] -> {peer}[{peer % GPUS}] [send]"
                    yield f"{who}Channel {c:02d}/0 : {ends} via NET/IB/{rank % GPUS}/GDRDMA"
                    ends = f"{peer}[{peer % GPUS}] -> {rank}[{rank % GPUS}] [receive]"
                    yield f"{who}Channel {c:02d}/0 : {ends} via NET/IB/{rank % GPUS}/GDRDMA"
        yield f"{who}{comm} - Init COMPLETE"


def training(ranks: int) -> Iterator[str]:
    for line in job(ranks):
        yield line
        for step in range(4):
            yield f"[rank0]: 2026-01-01 00:00:00 | step {step} | loss 2.3456 | lr 1.0e-04 | tokens/s 123456.7"


def calls(ranks: int) -> Iterator[str]:
    yield from job(64)
    for call in range(ranks * 100):
        who = "node00000:4000:4100 [0] NCCL INFO AllReduce: "
        yield f"{who}opCount {call:x} sendbuff 0x7f{call:010x} recvbuff 0x7f{call:010x} count 1048576 datatype 7 op 0"
        yield f"{who}{2 ** (10 + call % 20)} Bytes -> Algo RING proto SIMPLE channel{{Lo..Hi}}={{0..15}}"


def make(path: Path, kind: str, ranks: int, nbytes: int) -> None:
    """Write jobs until the file has the size."""
    with path.open("w") as file:
        while file.tell() < nbytes:
            for line in KINDS[kind](ranks):
                file.write(line + "\n")
    os.truncate(path, nbytes)


def peak() -> float:
    """MB of memory that this process has had at most."""
    told = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(told[1]) / 1024 if told else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def read(path: Path) -> dict[str, float]:
    """In this process: MB/s of processor time, and MB of memory above what the imports took."""
    before, began = peak(), time.process_time()
    told = list(READER.read(Source(path)))
    seconds = time.process_time() - began
    lines = sum(1 for _ in Source(path).raw_lines())
    return {
        "mb_per_s": path.stat().st_size / 1e6 / seconds,
        "us_per_line": 1e6 * seconds / lines,
        "memory_mb": peak() - before,
        "problems": sum(isinstance(one, Problem) for one in told),
    }


KINDS: dict[str, Callable[[int], Iterator[str]]] = {"job": job, "training": training, "calls": calls}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=1000, help="size of each log in MB (default 1000)")
    parser.add_argument("--ranks", type=int, default=16_000, help="ranks of a job (default 16000)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="which logs")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)  # one log, in a process of its own
    options = parser.parse_args()
    if options.read:
        print(json.dumps(read(options.read)))
        return
    slow = []
    with tempfile.TemporaryDirectory(prefix="commbench-log-") as folder:
        for kind in options.kinds.split(","):
            path = Path(folder) / f"{kind}.log"
            make(path, kind, options.ranks, options.mb * 1_000_000)
            command = [sys.executable, __file__, "--read", str(path)]
            told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            speed, line, memory = told["mb_per_s"], told["us_per_line"], told["memory_mb"]
            print(f"{kind:10} {options.mb:6d} MB {speed:6.0f} MB/s {line:6.2f} us/line {memory:6.0f} MB of memory")
            slow += [kind] if told["mb_per_s"] < PROMISED else []
            path.unlink()
    if slow:
        sys.exit(f"slower than {PROMISED:g} MB/s: {', '.join(slow)}")


if __name__ == "__main__":
    main()
