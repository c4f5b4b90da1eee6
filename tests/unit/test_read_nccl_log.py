"""NCCL logs: what they tell, under every prefix, torn or whole; nothing invented, nothing raised."""

import gzip
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from real_data import ROOT, real

from commbench.errors import ReadError
from commbench.readers import nccl_log, smi_topo, topology
from commbench.readers.base import Found
from commbench.readers.nccl_log import READER
from commbench.readers.source import Problem, Source
from commbench.records.nccl import NcclLog

SAMPLES = Path(__file__).parent / "samples"
EXAMPLES = int(os.environ.get("COMMBENCH_FUZZ", "200"))


def read(path: Path) -> tuple[Found, NcclLog, list[Problem]]:
    told = list(READER.read(Source(path)))
    problems = [one for one in told if isinstance(one, Problem)]
    (found,) = [one for one in told if isinstance(one, Found)]
    (log,) = found.parts
    assert isinstance(log, NcclLog)
    return found, log, problems


def sample(name: str) -> tuple[Found, NcclLog, list[Problem]]:
    return read(SAMPLES / "nccl_log" / name)


def written(tmp_path: Path, *lines: str) -> tuple[Found, NcclLog, list[Problem]]:
    path = tmp_path / "nccl.log"
    path.write_text("\n".join(lines) + "\n")
    return read(path)


def kinds(log: NcclLog) -> dict[str, tuple[int, int, int]]:
    return {one.kind: (one.intra, one.inter, one.unplaced) for one in log.transports}


def test_an_old_log_of_two_hosts() -> None:
    found, log, problems = sample("two-hosts-old.log")
    assert found.tool == "NCCL 2.7.8+cuda11.0"
    assert [host.name for host in found.machine.hosts] == ["hare", "tort"]
    assert found.machine.host_of == (0, 0, 1, 1)
    assert found.machine.facts == {"nccl": "2.7.8+cuda11.0"}
    assert found.machine.environment == {"NCCL_IB_HCA": "mlx5_0"}
    assert [(one.rank, one.host, one.pid, one.device, one.bus) for one in log.ranks] == [
        (0, 0, 100, 0, "1a000"),
        (1, 0, 101, 1, "1b000"),
        (2, 1, 100, 0, "1a000"),
        (3, 1, 101, 1, "1b000"),
    ]
    assert log.hosts[0].nics == ("mlx5_0:1/RoCE", "mlx5_1:1/IB/SHARP")
    assert log.hosts[0].bootstrap == "ib0:10.0.0.1"
    assert [(one.name, one.count, one.line) for one in log.network] == [("IB", 3, 6)]
    assert [(one.kind, one.name, one.state) for one in log.plugins] == [("net", "libnccl-net.so", "missing")]
    assert [(one.nic, one.enabled, one.why) for one in log.gdr] == [("mlx5_0", False, "no module")]
    # the torn last line is told, and what is whole of it is read
    assert [(one.line, "connection" in one.reason) for one in problems] == [(28, True)]
    assert [comm.state for comm in log.comms] == ["destroyed"]


def test_what_came_before_the_communicator_was_named_is_its_own() -> None:
    """NCCL before 2.17 names it in the last line of the setup."""
    _, log, _ = sample("two-hosts-old.log")
    assert kinds(log) == {
        "P2P/IPC/read": (2, 0, 0),
        "NET/IB/0/GDRDMA": (0, 1, 0),
        "NET/IB/0": (0, 1, 0),
        "direct shared memory": (1, 0, 0),
    }
    assert {(one.source, one.target): one.kinds for one in log.pairs}[1, 2] == {"NET/IB/0/GDRDMA": 1, "NET/IB/0": 1}
    comm = log.comms[0]
    assert (comm.nranks, comm.ranks, comm.channels, comm.p2p_channels) == (4, 4, 2, 4)
    assert [(ring.channel, ring.order, ring.whole) for ring in comm.rings] == [
        (0, (0, 1, 2, 3), True),
        (1, (0, 2, 1, 3), True),
    ]
    assert comm.trees == ("1/-1/-1->0->-1",)


def test_algorithm_numbers_have_names_and_a_line_behind_a_row_has_its_host() -> None:
    found, log, _ = sample("two-hosts-old.log")
    assert [(one.nbytes, one.algorithm, one.protocol, one.time_us, one.count, one.line) for one in log.choices] == [
        (1024, "TREE", "LL", 12.5, 2, 25),
        (1048576, "RING", "SIMPLE", 80.0, 1, 27),
    ]
    assert len(found.machine.hosts) == 2  # not `1hare`


def test_choices_costs_and_channels_of_a_new_log() -> None:
    found, log, problems = sample("choices.log")
    assert found.machine.host_of == (0, 0)
    comm = log.comms[0]
    assert (comm.id, comm.nnodes, comm.mnnvl, comm.state, comm.seconds) == ("0xbeef", 1, False, "complete", 0.37)
    assert (comm.channels, comm.collnet_channels, comm.nvls_channels, comm.p2p_channels) == (24, 24, 16, 32)
    assert [(one.op, one.nbytes, one.algorithm, one.protocol, one.channels, one.count) for one in log.choices] == [
        ("AllReduce", 4096, "RING", "LL", (0, 1), 2),
        ("AllGather", 8192, "SYMMETRIC", "AllGather_LL", (0, 3), 1),
    ]
    (table,) = log.costs
    assert table.comm == "0xbeef"
    assert [(one.algorithm, one.protocol, one.latency_us, one.bandwidth_gbps) for one in table.costs] == [
        ("TREE", "LL", 8.0, 61.1),
        ("TREE", "LL128", 16.5, 180.6),
        ("TREE", "SIMPLE", 16.4, 232.2),
        ("RING", "LL128", 17.8, 331.2),
        ("RING", "SIMPLE", 15.2, 360.0),
    ]
    assert [one.max_threads for one in table.costs] == [512, 640, 512, 640, 512]
    assert [one.line for one in problems] == [19]


def test_every_launcher_prefix_and_what_is_no_info() -> None:
    found, log, problems = sample("launchers.log")
    assert [host.name for host in found.machine.hosts] == ["node-a", "node-b"]
    assert found.machine.host_of == ()  # no rank is told
    assert found.machine.facts == {"nccl": "2.29.2+cuda13.1", "cuda_driver": "13010"}
    assert found.machine.environment == {"NCCL_DEBUG": "INFO", "NCCL_NVLS_ENABLE": "0"}
    assert found.machine.hidden == ("NCCL_COMM_TOKEN",)
    assert "hidden-value" not in msgspec.json.encode(log).decode()
    assert [(one.level, one.count, one.line, one.where) for one in log.messages] == [
        ("warn", 2, 7, "plugin/net.cc:334"),
        ("torch", 1, 9, ""),
        ("error", 1, 10, ""),
    ]
    assert [one.name for one in log.versions] == ["2.29.2+cuda13.1"]  # not the one in an error's text
    assert problems == []


def test_rccl() -> None:
    found, log, problems = sample("rccl.log")
    assert (found.tool, log.library) == ("RCCL 2.20.5-HEAD:d9ae37d", "RCCL")
    assert found.machine.facts["hip"] == "6.2.41133-dd7f95766"
    assert kinds(log) == {"P2P/IPC": (1, 0, 0)}
    assert log.comms[0].state == "complete"
    assert problems == []


def started(rank: int, nranks: int, comm: str = "1") -> str:
    """A rank begins to set a communicator up, each on a host of its own."""
    who = f"h{rank}:{100 + rank}:{100 + rank} [0] NCCL INFO ncclCommInitRank comm 0x{100 + rank}"
    return f"{who} rank {rank} nranks {nranks} cudaDev 0 busId 1000 commId 0x{comm} - Init START"


@pytest.mark.parametrize(
    ("via", "kind", "network", "nic", "gdrdma", "pxn"),
    [
        ("NET/AWS Libfabric/3/GDRDMA", "NET/AWS Libfabric/3/GDRDMA", "AWS Libfabric", 3, True, 0),
        ("NET/IBext_v11/0(4)/GDRDMA/Shared", "NET/IBext_v11/0/GDRDMA/Shared", "IBext_v11", 0, True, 1),
        ("NET/Socket/1", "NET/Socket/1", "Socket", 1, False, 0),
        ("P2P/CUMEM/read", "P2P/CUMEM/read", "", None, None, 0),
        ("P2P/MNNVL", "P2P/MNNVL", "", None, None, 0),
        ("SHM/direct/direct", "SHM/direct/direct", "", None, None, 0),
        ("P2P/indirect/3[3]", "P2P/indirect", "", None, None, 0),
    ],
)
def test_kinds_of_transport(
    tmp_path: Path, via: str, kind: str, network: str, nic: int | None, gdrdma: bool | None, pxn: int
) -> None:
    ends = "0[0] -> 1[0]"
    _, log, problems = written(
        tmp_path, started(0, 2), started(1, 2), f"h0:100:100 [0] NCCL INFO Channel 03/1 : {ends} via {via}"
    )
    (one,) = log.transports
    assert (one.kind, one.network, one.nic, one.gdrdma, one.pxn) == (kind, network, nic, gdrdma, pxn)
    assert (one.inter, one.line) == (1, 3)  # the ranks are on different hosts
    assert problems == []


def test_collnet_and_nvls_are_told(tmp_path: Path) -> None:
    head = "h0:1:1 [0] NCCL INFO "
    _, log, _ = written(
        tmp_path,
        head + "CollNet 00/0 : 3 [send] via COLLNET/SHARP/2/GDRDMA",
        head + "Connected NVLS tree",
        head + "NVLS multicast support is not available on dev 0",
        head + "Could not enable P2P between dev 0(=1a000) and dev 1(=1b000)",
    )
    assert kinds(log) == {"COLLNET/SHARP/2/GDRDMA": (0, 1, 0)}
    assert [one.name for one in log.facts] == ["NVLS connected", "NVLS not available", "P2P could not be enabled"]


def test_two_communicators_of_one_process_keep_their_connections(tmp_path: Path) -> None:
    """The same line means other hosts in another communicator."""
    line = "h0:100:100 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[0] [send] via NET/IB/0"
    other = (
        "h0:101:101 [0] NCCL INFO ncclCommSplit comm 0x9 rank 1 nranks 2 cudaDev 0 busId 2000 commId 0x2 - Init START"
    )
    _, log, _ = written(
        tmp_path, started(0, 3), started(1, 3), started(2, 3), line, started(0, 2, "2"), other, line, line
    )
    assert kinds(log) == {"NET/IB/0": (2, 1, 0)}
    assert [(comm.id, comm.nranks, comm.ranks) for comm in log.comms] == [("0x1", 3, 3), ("0x2", 2, 2)]


def test_a_rank_that_is_not_told_leaves_the_line_unplaced_and_the_machine_without_places(tmp_path: Path) -> None:
    found, log, _ = written(
        tmp_path, started(0, 2), "h0:100:100 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[0] [send] via NET/IB/0/GDRDMA"
    )
    assert kinds(log) == {"NET/IB/0/GDRDMA": (0, 0, 1)}
    assert found.machine.host_of == ()
    assert (log.comms[0].nranks, log.comms[0].ranks) == (2, 1)


def test_settings_that_differ_between_ranks_are_all_told(tmp_path: Path) -> None:
    _, log, _ = written(
        tmp_path,
        "h0:1:1 [0] NCCL INFO NCCL_MIN_NCHANNELS set by environment to 8.",
        "h1:1:1 [0] NCCL INFO NCCL_MIN_NCHANNELS set by environment to 16.",
        "h1:1:1 [0] NCCL INFO NET/OFI Setting NCCL_NET_FORCE_FLUSH=0 for Hopper GPUs",
    )
    assert [(one.name, one.values, one.source) for one in log.settings] == [
        ("NCCL_MIN_NCHANNELS", ("8", "16"), "environment"),
        ("NCCL_NET_FORCE_FLUSH", ("0",), "plugin"),
    ]


def test_a_ring_that_nccl_cut_is_not_whole(tmp_path: Path) -> None:
    _, log, problems = written(
        tmp_path, started(0, 64), "h0:100:100 [0] NCCL INFO Channel 00/04 :  0  1  2  3  4  5  1..."
    )
    (ring,) = log.comms[0].rings
    assert (ring.order, ring.whole) == ((0, 1, 2, 3, 4, 5), False)  # the last number may be cut too
    assert problems == []


def test_problems_are_capped_and_counted(tmp_path: Path) -> None:
    _, _, problems = written(
        tmp_path,
        "h0:1:1 [0] NCCL INFO cudaDriverVersion 12080",
        *(f"h0:1:1 [0] NCCL INFO Channel {n} x" for n in range(150)),
    )
    assert len(problems) == 101
    assert problems[-1].reason == "50 more lines that could not be read"


def test_nothing_of_nccl_gives_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("epoch 1\nusing distributed PyTorch with nccl backend\n")
    assert list(READER.read(Source(tmp_path / "a.log"))) == []


def test_line_numbers_hold_over_blocks_long_lines_and_gzip(tmp_path: Path) -> None:
    """A line of 3 MB is left out; a line behind a megabyte of others is still at its number."""
    many = [f"h0:1:1 [0] NCCL INFO Channel 00/0 : {n}[0] -> {n + 1}[0] via P2P/CUMEM" for n in range(20_000)]
    text = "\n".join(["x" * 3_000_000, *many, "h0:1:1 [0] NCCL INFO Using network IB", ""])
    with gzip.open(tmp_path / "a.log.gz", "wt", compresslevel=1) as file:
        file.write(text)
    _, log, problems = read(tmp_path / "a.log.gz")
    assert [(one.name, one.line) for one in log.network] == [("IB", 20_002)]
    assert kinds(log) == {"P2P/CUMEM": (20_000, 0, 0)}
    assert log.lines == 20_001
    assert problems == []


def test_pairs_beyond_the_room_for_them_still_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of 16,000 ranks that all talk to each other is bounded; benchmarks/read_log.py measures it."""
    monkeypatch.setattr(nccl_log, "_KEPT_PAIRS", 1000)
    monkeypatch.setattr(nccl_log, "_KEPT_ROUTES", 100)
    _, log, _ = written(
        tmp_path,
        *(f"h0:1:1 [0] NCCL INFO Channel 00/0 : {n}[0] -> {n + 1}[0] [send] via NET/IB/{n % 8}" for n in range(4000)),
        *(f"h0:1:1 [0] NCCL INFO Channel 00/0 : {n}[0] -> {n + 1}[0] via P2P/CUMEM" for n in range(4000)),
    )
    assert sum(one.count for one in log.transports if one.network == "IB") == 4000
    assert kinds(log)["P2P/CUMEM"] == (4000, 0, 0)


REAL = {  # name: (tool, hosts, ranks placed, rank count, transports, problems)
    "a100-1n4-allreduce-debug.log": ("NCCL 2.20.5+cuda12.4", 1, 4, {"P2P/direct pointer/read": 168}, 0),
    "a100-dell-mlperf-2n-ibext.log": (
        "NCCL 2.12.10+cuda11.6", 2, 8, {"P2P/IPC/read": 56, "NET/IBext/0": 16, "NET/IBext/1": 16}, 0),
    "a100-polaris-resnet-ddp-ofi.log": (
        "NCCL 2.20.5+cuda12.4", 2, 8, {"P2P/CUMEM/read": 56, "NET/AWS Libfabric/3": 12, "NET/AWS Libfabric/1": 12}, 0),
    "a100-polaris-resnet-ddp-socket.log": (
        "NCCL 2.20.5+cuda12.4", 2, 8, {"P2P/CUMEM/read": 53, "NET/Socket/2": 12, "NET/Socket/1": 11}, 5),
    "a100pcie-2n2-alltoall-gdr-on.log": (
        "NCCL 2.16.5+cuda11.8", 2, 2, {"NET/IB/0/GDRDMA": 8, "NET/IB/0/GDRDMA/Shared": 8}, 0),
    "a100pcie-dell-mlperf-bert.log": ("NCCL 2.11.4+cuda11.4", 1, 8, {"P2P/IPC": 48, "direct shared memory": 42}, 0),
    "h100-g2-auto-tuning.log": ("NCCL 2.29.2+cuda13.1", 1, 2, {"P2P/direct pointer": 48}, 0),
    "h100-g4-nvls-tuning.log": ("NCCL 2.29.2+cuda13.1", 1, 4, {}, 0),
    "rtx-32gpu-algo-per-call-head.log": ("NCCL 2.12.12+cuda11.7", 4, 0, {}, 0),
    "gke-gib-kuberay-excerpt.log": ("NCCL", 1, 0, {"NET/gIB/2/GDRDMA": 2}, 0),
    "v100-aks-mnist-ddp-2n-ib.log": ("NCCL 2.10.3+cuda10.2", 1, 0, {"NET/IB/0": 4}, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_logs(name: str) -> None:
    """Expected by eye and by grep -c."""
    found, log, problems = read(real(f"nccl-log/{name}"))
    tool, hosts, ranks, transports, unread = REAL[name]
    assert found.tool == tool
    assert (len(found.machine.hosts), len(found.machine.host_of)) == (hosts, ranks)
    assert {one.kind: one.count for one in log.transports} == transports
    assert len([one for one in problems if "connection" in one.reason or "channel" in one.reason]) == unread


def test_a_real_log_of_two_hosts_in_detail() -> None:
    found, log, _ = read(real("nccl-log/h100-nebius-mlperf-2n16-ibext.log"))
    assert found.machine.host_of == (0,) * 8 + (1,) * 8
    assert log.hosts[1].nics == tuple(f"mlx5_{n}:1/IB/SHARP" for n in range(8))
    assert {one.network for one in log.transports} == {"", "IBext"}
    assert all(one.gdrdma for one in log.transports if one.network)
    assert sum(one.pxn for one in log.transports) == 32
    assert kinds(log)["P2P/CUMEM"] == (479, 0, 0)
    (comm,) = log.comms
    assert (comm.channels, comm.nvls_channels) == (16, 16)
    assert comm.rings[0].order == (0, 7, 6, 5, 4, 3, 2, 1, 8, 15, 14, 13, 12, 11, 10, 9)
    assert {"NVLS available", "NVLS connected"} <= {one.name for one in log.facts}


def test_real_choices_and_costs() -> None:
    _, log, _ = read(real("nccl-log/h100-g2-auto-tuning.log"))
    assert {(one.algorithm, one.protocol, one.count) for one in log.choices} == {("RING", "SIMPLE", 109)}
    assert [one.nbytes for one in log.choices] == [2**n for n in range(28, 34)]
    (table,) = log.costs
    ring = next(one for one in table.costs if (one.op, one.algorithm, one.protocol) == ("AllReduce", "RING", "SIMPLE"))
    assert (ring.latency_us, ring.bandwidth_gbps, ring.max_threads) == (15.2, 360.0, 512)
    nvls = next(one for one in table.costs if (one.op, one.algorithm, one.protocol) == ("AllReduce", "NVLS", "SIMPLE"))
    assert (nvls.latency_us, nvls.bandwidth_gbps) == (25.0, 102.0)


def test_real_watchdog() -> None:
    _, log, _ = read(real("nccl-log/a100-polaris-vae-ddp-ofi.log"))
    first = log.messages[0]
    assert (first.level, first.count) == ("torch", 5)
    assert "Watchdog caught collective operation timeout" in first.text


READERS = (READER, topology.READER, smi_topo.READER)
BASES = [
    *sorted((SAMPLES / "nccl_log").iterdir()),
    *sorted((SAMPLES / "topology").iterdir()),
    *(path for folder in ("nccl-log", "topology") for path in sorted((ROOT / folder).glob("*")) if ROOT.exists()),
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A file with a few bytes changed, parts cut out, doubled, or put in from another file."""
    data = bytearray(draw(st.sampled_from(BASES)).read_bytes()[: 1 << 14])
    other = draw(st.sampled_from(BASES)).read_bytes()[: 1 << 14]
    for _ in range(draw(st.integers(1, 8))):
        at, long = draw(st.integers(0, len(data))), draw(st.integers(0, 200))
        part = draw(
            st.sampled_from(
                (b"", bytes(data[at : at + long]) * 2, other[at : at + long], b"NCCL INFO ", b"\n", b"\x00\xff")
            )
            | st.binary(max_size=8)
            | st.integers(-(10**30), 10**30).map(lambda number: str(number).encode())
        )
        data[at : at + long] = part
    return bytes(data)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(damaged())
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(data)
    for reader in READERS:
        try:
            told = list(reader.read(Source(path)))
        except ReadError:
            continue
        for one in told:
            if isinstance(one, Problem):
                assert 0 <= one.line <= data.count(b"\n") + 1
                continue
            for part in one.parts:
                again = msgspec.json.decode(msgspec.json.encode(part), type=type(part))
                assert again == part
