"""Traces of the PyTorch profiler: what a step sent, to whom, and how much of it computing hid."""

import gzip
import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_data import real

from commbench.errors import ReadError
from commbench.model.workload import merge, rounds, traffic
from commbench.readers import json_stream, trace_calls
from commbench.readers.base import Found
from commbench.readers.json_stream import Stream, Trouble
from commbench.readers.source import Problem, Source
from commbench.readers.trace import READER
from commbench.records.workload import Call, Group, Rank, Step, Workload

SAMPLES = Path(__file__).parent / "samples/trace"
FUZZ = int(os.environ.get("COMMBENCH_FUZZ", "100"))


def read(path: Path) -> tuple[list[Found], list[Problem]]:
    parts = list(READER.read(Source(path)))
    return [one for one in parts if isinstance(one, Found)], [one for one in parts if isinstance(one, Problem)]


def job(path: Path) -> Workload:
    """The workload of a file that reads without a problem."""
    (found,), problems = read(path)
    assert problems == []
    (workload,) = found.parts
    assert isinstance(workload, Workload)
    return workload


def made(tmp_path: Path, text: bytes | str | dict[str, Any] | list[Any], name: str = "trace.json") -> Path:
    path = tmp_path / name
    if isinstance(text, dict | list):
        text = json.dumps(text)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def event(name: str, ts: float, dur: float, cat: str = "cpu_op", tid: object = 1, **args: Any) -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "pid": 1, "tid": tid, "args": args}


# ---- what a trace tells -----------------------------------------------------------------------------------


def test_a_job_on_gpus() -> None:
    workload = job(SAMPLES / "nccl-two-steps.json")
    (rank,) = workload.ranks
    assert (workload.world_size, workload.backend, workload.library) == (4, "nccl", "NCCL 2.21.5")
    assert (rank.rank, rank.device, rank.began) == (1, "Example GPU 80GB", 1700000000.001)
    default, tensor_parallel = workload.groups
    assert default == Group(name="0", description="default_pg", size=4, ranks=(0, 1, 2, 3))
    assert tensor_parallel == Group(name="7", description="mesh_tp", size=2, ranks=(0, 1))
    # computing from 100 to 300 and from 400 to 500, communication from 250 to 450: 300 to 400 is exposed
    assert rank.steps == (
        Step(number=5, start_us=0, end_us=1000, compute_us=300, copy_us=0, comm_us=250, exposed_us=150),
        Step(number=6, start_us=1000.5, end_us=2000, compute_us=0, copy_us=10, comm_us=0, exposed_us=0),
    )
    reduce, gather = rank.calls
    assert reduce == Call(
        op="all_reduce",
        said="allreduce",
        nbytes=2 * 2**20,
        dtype="bfloat16",
        group=0,
        step=0,
        clock="device",
        stream=20,
        kernels=1,
        launch_us=190,
        start_us=250,
        end_us=450,
        exposed_us=100,
    )
    # The kernel ran in step 6 and is called SendRecv; the call that launched it says what it is.
    assert (gather.op, gather.said, gather.nbytes, gather.group, gather.step) == (
        "all_gather",
        "_allgather_base",
        8000,
        1,
        0,
    )
    assert (gather.launch_us, gather.start_us, gather.time_us, gather.exposed_us) == (900, 1100, 50, 50)


def test_an_old_trace_tells_less_and_nothing_is_made_up() -> None:
    workload = job(SAMPLES / "nccl-2022-array.json")  # an array at the top, left open as Chrome's format allows
    assert (workload.world_size, workload.backend, workload.library, workload.groups) == (None, "", "", ())
    (rank,) = workload.ranks
    before, reduce = rank.calls
    # NCCL of that time ran any collective in a kernel of that name
    assert (before.op, before.nbytes, before.dtype, before.launch_us, before.time_us) == (None, None, "", None, 40)
    assert before.said.startswith("ncclKernel_SendRecv")
    assert (reduce.op, reduce.nbytes, reduce.dtype, reduce.group) == ("all_reduce", 1024, "float32", None)
    assert (reduce.launch_us, reduce.start_us, reduce.end_us, reduce.exposed_us) == (20, 100, 180, 80)
    assert [(step.number, step.start_us, step.end_us, step.comm_us) for step in rank.steps] == [(None, 0, 180, 120)]


def test_gloo_runs_on_the_host() -> None:
    (found,), problems = read(SAMPLES / "gloo-one-step.json")
    assert problems == []
    assert (found.tool, found.created) == ("PyTorch profiler", "2026-10-01T12:17:06+00:00")
    assert found.options == {"backend": "gloo", "rank": "0", "world_size": "2"}
    (workload,) = found.parts
    assert isinstance(workload, Workload)
    (rank,) = workload.ranks
    scatter, gather = rank.calls
    assert (rank.host, rank.device, {call.clock for call in rank.calls}) == ("node-a", "", {"host"})
    # Gloo makes an all_reduce of it; the job asked for a reduce_scatter
    assert (scatter.op, scatter.said, scatter.nbytes, scatter.group) == (
        "reduce_scatter",
        "_reduce_scatter_base_",
        8000,
        0,
    )
    assert (scatter.launch_us, scatter.start_us, scatter.end_us) == (10, 20, 120)
    # the group has two ranks: what is gathered is twice what is sent
    assert (gather.op, gather.nbytes, gather.dtype) == ("all_gather", 1000, "bfloat16")
    # the copy on the library's own thread is communication; only addmm computes
    assert rank.steps == (
        Step(number=3, start_us=0, end_us=400, compute_us=30, copy_us=None, comm_us=120, exposed_us=90),
    )


def test_calls_without_kernels_have_no_time(tmp_path: Path) -> None:
    """A trace of the host alone: when the program called is known, when the GPU worked is not."""
    events = [
        event("ProfilerStep#1", 0, 100, "user_annotation"),
        event("aten::mm", 1, 2),
        event("nccl:all_to_all", 10, 5, "user_annotation", **{"Input Dims": [[8, 4]], "Input type": ["long"]}),
    ]
    (rank,) = job(made(tmp_path, {"traceEvents": events})).ranks
    (call,) = rank.calls
    assert (call.op, call.nbytes, call.launch_us, call.start_us, call.exposed_us) == ("all_to_all", 256, 10, None, None)
    assert rank.steps == (Step(number=1, start_us=0, end_us=100),)


def test_kernels_of_one_call_are_one_call(tmp_path: Path) -> None:
    events = [
        event(
            "record_param_comms",
            10,
            20,
            **{"Collective name": "all_to_allv", "In msg nelems": 10, "Out msg nelems": 30, "dtype": "Half"},
        ),
        event("cudaLaunchKernelExC", 12, 1, "cuda_runtime", correlation=1),
        event("cudaLaunchKernelExC", 14, 1, "cuda_runtime", correlation=2),
        event("ncclDevKernel_SendRecv(x)", 40, 10, "kernel", correlation=2, stream=3),
        event("ncclDevKernel_SendRecv(x)", 20, 10, "kernel", correlation=1, stream=3),
    ]
    (call,) = job(made(tmp_path, {"traceEvents": events})).ranks[0].calls
    assert (call.op, call.nbytes, call.kernels) == ("all_to_all", 60, 2)
    assert (call.start_us, call.end_us, call.stream) == (10, 40, 3)


def test_a_record_of_work_on_the_host_is_one_call(tmp_path: Path) -> None:
    sizes = {"Collective name": "allreduce", "In msg nelems": 5, "Out msg nelems": 5, "dtype": "Int", "Group size": 2}
    events = [
        event("c10d::allreduce_", 0, 30),
        event("record_param_comms", 1, 20, **sizes),
        event("gloo:all_reduce", 10, 50, "user_annotation", tid=2),
    ]
    workload = job(made(tmp_path, {"traceEvents": events}))
    (call,) = workload.ranks[0].calls
    assert (call.op, call.nbytes, call.clock, call.start_us, call.end_us) == ("all_reduce", 20, "host", 10, 60)
    assert workload.groups == (Group(size=2),)


def test_a_kernel_finds_its_call_by_its_number_too(tmp_path: Path) -> None:
    """Without the launch. In traces that write the correlation as `External id` the two must not be confused."""
    record = {
        "Collective name": "broadcast",
        "In msg nelems": 4,
        "Out msg nelems": 4,
        "dtype": "Double",
        "External id": 9,
    }
    kernel = {"External id": 9, "correlation": 3}
    name = "ncclDevKernel_Broadcast_RING_LL(x)"
    events = [event("record_param_comms", 0, 5, **record), event(name, 10, 5, "kernel", **kernel)]
    (call,) = job(made(tmp_path, {"traceEvents": events})).ranks[0].calls
    assert (call.op, call.nbytes, call.kernels) == ("broadcast", 32, 1)
    events[1]["args"]["correlation"] = 9
    apart = job(made(tmp_path, {"traceEvents": events})).ranks[0].calls
    assert sorted((call.kernels, call.nbytes) for call in apart) == [(0, 32), (1, None)]


def test_a_barrier_carries_nothing(tmp_path: Path) -> None:
    """NCCL makes an all_reduce of it, and torch notes both."""
    events = [
        event("record_param_comms", 0, 50, **{"Collective name": "barrier", "In msg nelems": 0, "dtype": "Byte"}),
        event("record_param_comms", 5, 40, **{"Collective name": "allreduce", "In msg nelems": 1, "dtype": "Byte"}),
        event("nccl:all_reduce_barrier", 10, 30, "user_annotation"),
    ]
    (call,) = job(made(tmp_path, {"traceEvents": events})).ranks[0].calls
    assert (call.op, call.nbytes) == ("barrier", 0)


@pytest.mark.parametrize(
    ("said", "op"),
    [
        ("allreduce_coalesced", "all_reduce"),
        ("_allgather_base", "all_gather"),
        ("allgather_into_tensor_coalesced", "all_gather"),
        ("_reduce_scatter_base", "reduce_scatter"),
        ("c10d::alltoall_base_", "all_to_all"),
        ("_broadcast_oop", "broadcast"),
        ("_reduce_oop", "reduce"),
        ("nccl:recv 1<-0", "send_recv"),
        ("gloo:scatter", "scatter"),
        ("coalesced", None),
    ],
)
def test_torch_names_are_translated(said: str, op: str | None) -> None:
    assert trace_calls.op_of(said) == op


@pytest.mark.parametrize(
    ("kernel", "op"),
    [
        ("ncclKernel_AllReduce_RING_LL_Sum_float(ncclWorkElem)", "all_reduce"),
        ("ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL(ncclDevComm*, unsigned long, ncclWork*)", "reduce_scatter"),
        ("ncclSymkDevKernel_AllGather_LLMC(x)", "all_gather"),
        ("ncclDevKernel_Reduce_Sum_f32_RING_LL(x)", "reduce"),
        ("ncclDevKernel_SendRecv(x)", None),
        ("void ncclDevKernel_Generic_4(ncclDevKernelArgsStorage<4096ul>)", None),  # RCCL
    ],
)
def test_kernels_of_nccl_and_rccl_are_known(kernel: str, op: str | None) -> None:
    assert trace_calls.is_communication(kernel)
    assert trace_calls.kernel_op(kernel) == op
    assert not trace_calls.is_communication("void at::native::reduce_kernel<512, 1>")


def test_a_long_list_of_ranks_is_completed() -> None:
    """Kineto cuts it after 30; the first rank and the distance tell the rest, if they agree with what is listed."""
    args = trace_calls.Args(group_name="tp", group_size=40, group_ranks="[0, 2, 4, ...]", rank_start=0, rank_stride=2)
    group = trace_calls.group_of(args, {})
    assert group is not None
    assert group.ranks == tuple(range(0, 80, 2))
    args.rank_stride = 3
    assert trace_calls.group_of(args, {}) == Group(name="tp", size=40)


# ---- ranks of one job -------------------------------------------------------------------------------------


def one_rank(
    rank: int | None, times: list[float], world: int | None = 2, size: int = 64, numbers: tuple[int, ...] = (1,)
) -> Workload:
    calls = [
        Call(
            op="all_reduce",
            nbytes=size,
            dtype="float32",
            group=0,
            step=0,
            launch_us=10 * k,
            start_us=10 * k,
            end_us=10 * k + time,
            exposed_us=1,
        )
        for k, time in enumerate(times)
    ]
    steps = tuple(Step(number=number, start_us=0, end_us=1) for number in numbers)
    group = Group(name="0", size=2, ranks=(0, 1))
    return Workload(
        world_size=world, backend="nccl", groups=(group,), ranks=(Rank(rank=rank, steps=steps, calls=tuple(calls)),)
    )


def test_ranks_join_to_a_job() -> None:
    whole = merge([one_rank(1, [5, 5]), one_rank(0, [7, 4], world=None)])
    assert [rank.rank for rank in whole.ranks] == [0, 1]
    assert (whole.world_size, len(whole.groups)) == (2, 1)
    first, second = rounds(whole)
    assert (first.time_us, first.waits_us) == (5, {0: 2, 1: 0})  # rank 1 came last, rank 0 waited
    assert (second.time_us, second.waits_us) == (4, {0: 0, 1: 1})
    (row,) = traffic(whole)
    assert (row.op, row.nbytes, row.ranks, row.calls, row.timed) == ("all_reduce", 64, 2, 4, 4)
    assert (row.time_us, row.exposed_us) == (21, 4)
    assert merge([whole]) == whole


def test_groups_keep_their_calls_when_ranks_join() -> None:
    first = one_rank(0, [5])
    other = msgspec.structs.replace(one_rank(1, [6]), groups=(Group(name="pp"),))
    whole = merge([first, other])
    assert [whole.groups[call.group or 0].name for rank in whole.ranks for call in rank.calls] == ["0", "pp"]
    assert rounds(whole) == ()  # of neither group all ranks are there


def test_rounds_need_the_same_calls_on_every_rank() -> None:
    assert rounds(merge([one_rank(0, [5, 5]), one_rank(1, [5])])) == ()
    assert rounds(merge([one_rank(0, [5], size=8), one_rank(1, [5])])) == ()


@pytest.mark.parametrize(
    ("others", "why"),
    [
        ([one_rank(1, [], world=3)], "world sizes 2, 3"),
        ([one_rank(0, [])], "two traces are of rank 0"),
        ([one_rank(None, [])], "does not tell its rank"),
        ([one_rank(1, [], numbers=(1, 2))], "1, 2 steps"),
    ],
)
def test_what_is_not_one_job_is_refused(others: list[Workload], why: str) -> None:
    with pytest.raises(ReadError, match=why):
        merge([one_rank(0, []), *others])


# ---- files that are not well ------------------------------------------------------------------------------


def test_events_before_a_cut_are_kept(tmp_path: Path) -> None:
    text = (SAMPLES / "nccl-two-steps.json").read_bytes()
    cut = text.index(b'"ts": 2100')
    (found,), (problem,) = read(made(tmp_path, text[:cut]))
    assert "ends in the middle" in str(problem)
    assert problem.line == text[:cut].count(b"\n") + 1
    (workload,) = found.parts
    assert isinstance(workload, Workload)
    assert [call.op for call in workload.ranks[0].calls] == ["all_reduce", "all_gather"]
    assert [call.time_us for call in workload.ranks[0].calls] == [200, None]
    packed = gzip.compress(text)
    (found,), (problem,) = read(made(tmp_path, packed[:-40]))
    assert "gzip" in str(problem)
    with pytest.raises(ReadError, match="no event can be read"):
        read(made(tmp_path, packed[:30]))


def test_one_broken_event_costs_itself(tmp_path: Path) -> None:
    text = (SAMPLES / "nccl-two-steps.json").read_text()
    whole = job(SAMPLES / "nccl-two-steps.json")
    at = text.index('{\n    "ph": "s"')
    broken = text[:at] + '{"ph": "X", "cat": "kernel" oops, "name": "lost"},\n  ' + text[at:]
    (found,), (problem,) = read(made(tmp_path, broken))
    assert found.parts == (whole,)
    assert problem.line == text[:at].count("\n") + 1
    assert "no valid JSON" in problem.reason


def test_a_lost_quote_costs_a_line(tmp_path: Path) -> None:
    text = (SAMPLES / "nccl-two-steps.json").read_text()
    (found,), problems = read(made(tmp_path, text.replace('"name": "ac2g"', '"name": "ac2g')))
    assert len(problems) == 1
    assert isinstance(found.parts[0], Workload)
    assert len(found.parts[0].ranks[0].calls) == 2


def test_numbers_that_are_none(tmp_path: Path) -> None:
    text = (SAMPLES / "nccl-two-steps.json").read_text()
    (found,), problems = read(
        made(tmp_path, text.replace('"Ev Idx": 0', '"Ev Idx": NaN').replace('"id": 101', '"id": -Infinity'))
    )
    assert problems == []
    assert found.parts == (job(SAMPLES / "nccl-two-steps.json"),)
    (found,), (problem,) = read(
        made(tmp_path, text.replace('"ts": 1250,', '"ts": NaN,').replace('"dur": 50,', '"dur": -50,'))
    )
    assert "2 events left out" in problem.reason
    assert isinstance(found.parts[0], Workload)
    assert [call.time_us for call in found.parts[0].ranks[0].calls] == [None, None]


def test_order_does_not_matter(tmp_path: Path) -> None:
    """Neither that of the events nor that of the members."""
    document = json.loads((SAMPLES / "nccl-two-steps.json").read_text())
    events = document.pop("traceEvents")
    random.Random(4).shuffle(events)
    whole = job(SAMPLES / "nccl-two-steps.json")
    assert job(made(tmp_path, {"traceEvents": events, **document})) == whole
    assert job(made(tmp_path, {**document, "traceEvents": events})) == whole


@pytest.mark.parametrize(
    "text", ["", " \n", "[]", "{}", '{"traceEvents": 3}', "traceEvents, in a log [0] {1}", "\x00\x01"]
)
def test_what_is_no_trace_gives_nothing(tmp_path: Path, text: str) -> None:
    found, _ = read(made(tmp_path, text))
    assert found == []


def test_another_tools_trace_is_told(tmp_path: Path) -> None:
    found, (problem,) = read(made(tmp_path, {"traceEvents": [{"ph": "B", "name": "x", "ts": 1}]}))
    assert found == []
    assert "no event of the PyTorch profiler" in problem.reason


def test_deep_and_huge_values_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "LONGEST", 2**19)
    good = json.dumps(event("nccl:all_reduce", 1, 2))
    deep = '{"args":' * 20_000 + "1" + "}" * 20_000
    huge = '{"name": "' + "\\\\x" * 2**18 + '"}'
    path = made(tmp_path, f'{{"traceEvents": [{good},\n{deep},\n{huge},\n{good.replace("1", "9")}]}}')
    (found,), problems = read(path)
    assert isinstance(found.parts[0], Workload)
    assert len(found.parts[0].ranks[0].calls) == 2
    assert [problem.line for problem in problems] == [2, 3]


# ---- the stream -------------------------------------------------------------------------------------------


class Anything(msgspec.Struct):
    name: Any = None
    ts: Any = None
    args: Any = None


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(max_size=12)
    | st.sampled_from(['"},{"', "\\", "[", "}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
elements = st.lists(
    st.fixed_dictionaries({"name": st.text(max_size=8), "ts": st.integers(0, 99), "args": values}), max_size=8
)


def pieces(text: bytes, size: int) -> Iterator[bytes]:
    return (text[at : at + size] for at in range(0, len(text), size))


@settings(max_examples=FUZZ, deadline=None)
@given(
    before=st.dictionaries(st.text(max_size=6), values, max_size=3),
    listed=elements,
    after=st.dictionaries(st.text(max_size=6), values, max_size=3),
    size=st.integers(1, 400),
    indent=st.sampled_from([None, 1]),
)
def test_the_stream_is_the_document(
    before: dict[str, Any], listed: list[Any], after: dict[str, Any], size: int, indent: int | None
) -> None:
    """Any document, cut into blocks anywhere, gives what a parser of the whole gives."""
    others = {key: value for key, value in {**before, **after}.items() if key != "traceEvents"}
    first = {key: value for key, value in before.items() if key in others}
    last = {key: value for key, value in others.items() if key not in first}
    text = json.dumps({**first, "traceEvents": listed, **last}, indent=indent).encode()
    stream = Stream(pieces(text, size), "traceEvents", Anything)
    stream.smallest = 1
    parts = list(stream)
    assert [(one.name, one.ts, one.args) for part in parts if isinstance(part, list) for one in part] == [
        (one["name"], one["ts"], one["args"]) for one in listed
    ]
    assert not any(isinstance(part, Trouble) for part in parts)
    assert (stream.cut, stream.elements) == ("", len(listed))
    assert {key: value for key, value in stream.members.items() if value is not None} == {
        key: value for key, value in {**others, **before}.items() if value is not None and key != "traceEvents"
    }


# ---- files of other people --------------------------------------------------------------------------------

# file -> (rank, world size, steps, kernels of communication): the last counted with `zcat FILE | grep -c`
SEEN = {
    "ddp-a100-rank0of2-collargs.json.gz": (0, 2, [4, 5, 6], {"all_reduce": 15, "broadcast": 6}),
    "dlrm-128ranks/rank0.json.gz": (0, 128, [551, 552], {"all_to_all": 4, "all_reduce": 4, "all_gather": 2}),
    "dlrm-a100-rank3of8.json.gz": (3, 8, list(range(1009, 1015)), {"all_to_all": 42, "all_reduce": 18}),
    "dlrm-v100-8ranks/rank5.json.gz": (5, 8, [10], {"all_to_all": 5, "all_reduce": 3}),
    "dmp-v100-4ranks-a/rank2.json.gz": (2, 4, [4, 5, 6], {"all_to_all": 15, None: 1, "all_reduce": 15}),
    "dmp-v100-4ranks-b/rank0.json.gz": (0, 4, [4, 5, 6], {"all_to_all": 12, None: 1}),
    "mi250-no-collectives.json.gz": (None, None, [1, 2], {}),
    "mi300x-resnet18-ddp-rccl.json.gz": (None, None, [None], {}),
    "no-distributedinfo-a100.json.gz": (None, None, [1009], {"all_to_all": 0}),
}


@pytest.mark.parametrize("name", SEEN)
def test_real_traces(name: str) -> None:
    workload = job(real(f"trace/{name}"))
    (rank,) = workload.ranks
    kernels: Counter[str | None] = Counter()
    for call in rank.calls:
        kernels[call.op] += call.kernels
    steps = [step.number for step in rank.steps]
    assert (rank.rank, workload.world_size, steps, dict(kernels)) == SEEN[name]
    for step in rank.steps:
        if step.comm_us is not None and step.exposed_us is not None:
            assert 0 <= step.exposed_us <= step.comm_us + 1e-6


def test_sizes_of_a_real_ddp_job() -> None:
    workload = job(real("trace/ddp-a100-rank0of2-collargs.json.gz"))
    sizes = {(row.op, row.nbytes, row.dtype, row.ranks): row.calls for row in traffic(workload)}
    assert sizes == {  # elements in the file: 2049000, 7875584, 6563840, 6637568, 2431040; 53120 and 53
        **{("all_reduce", 4 * n, "float32", 2): 3 for n in (2049000, 7875584, 6563840, 6637568, 2431040)},
        ("broadcast", 4 * 53120, "float32", 2): 3,
        ("broadcast", 8 * 53, "int64", 2): 3,
    }
    (first,) = [call for call in workload.ranks[0].calls if call.nbytes == 4 * 6637568 and call.step == 2]
    assert first.time_us == pytest.approx(2636.669, abs=1e-2)


def test_sizes_of_older_jobs_come_from_shapes() -> None:
    calls = job(real("trace/dlrm-128ranks/rank0.json.gz")).ranks[0].calls
    gathered = next(call for call in calls if call.op == "all_gather")
    assert gathered.nbytes == 1073741824  # the output; a rank sends 16777216 to the 64 of its group
    received = next(call for call in calls if call.op == "all_to_all" and call.dtype == "uint8")
    assert received.nbytes == 419430400  # sends more than it gets: 382132224


def test_eight_ranks_of_a_real_job_join() -> None:
    whole = merge([job(real(f"trace/dlrm-v100-8ranks/rank{k}.json.gz")) for k in (3, 0, 7, 1, 2, 5, 4, 6)])
    assert [rank.rank for rank in whole.ranks] == list(range(8))
    assert whole.world_size == 8
    rows = {(row.op, row.nbytes): row.calls for row in traffic(whole)}
    assert rows["all_reduce", 1576964] == 8
    assert sum(rows.values()) == 64


def mutated(text: bytes, dice: random.Random) -> bytes:
    data = bytearray(text)
    for _ in range(dice.randint(1, 6)):
        at = dice.randrange(len(data) or 1)
        kind = dice.randrange(5)
        if kind == 0:
            data[at : at + 1] = bytes([dice.randrange(256)])
        elif kind == 1:
            del data[at : at + dice.randint(1, 400)]
        elif kind == 2:
            other = dice.randrange(len(data) or 1)
            data[at:at] = data[other : other + dice.randint(1, 2000)]
        elif kind == 3:
            data[at:at] = dice.choice(
                [b'"', b"{", b"}", b"[", b"]", b"\\", b"NaN", b"\n", b"1e999", b"-1", b'"ts": "x",', b"\xff\xfe"]
            )
        else:
            number = dice.choice([b"-5", b"1e30", b"null", b"[]", b'"x"', b"99999999999999999999", b"{}", b"true"])
            found = data.find(b": ", at)
            end = min((k for k in (data.find(b",", found), data.find(b"}", found)) if k > 0), default=-1)
            if 0 < found < end:
                data[found + 2 : end] = number
    return bytes(data)


def bases() -> list[bytes]:
    texts = [path.read_bytes() for path in sorted(SAMPLES.iterdir())]
    for name in ("mi250-no-collectives", "no-distributedinfo-a100", "dmp-v100-4ranks-b/rank0"):
        try:
            whole = gzip.decompress(real(f"trace/{name}.json.gz").read_bytes())
        except pytest.skip.Exception:
            continue
        texts += [whole[:60_000], whole[-60_000:], b'{"traceEvents": [' + whole[whole.find(b"nccl") - 200 :][:60_000]]
    return texts


def test_damaged_traces_raise_nothing_else(tmp_path: Path) -> None:
    texts, dice = bases(), random.Random(11)
    readable = 0
    for k in range(FUZZ):
        text = mutated(dice.choice(texts), dice)
        path = made(tmp_path, text if k % 10 else gzip.compress(text)[: dice.randint(20, 2000)])
        try:
            found, problems = read(path)
        except ReadError:
            continue
        readable += bool(found)
        for one in found:
            msgspec.json.decode(msgspec.json.encode(one.parts[0]), type=Workload)
        assert all(str(problem) for problem in problems)
    assert readable > FUZZ / 3
