"""`commbench lint`: every rule finds its mistake and lets the healthy setting beside it pass; bad input is told."""

import json
import os
import shlex
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import real_data
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from commbench import lint
from commbench.cli.lint import command
from commbench.errors import CommbenchError
from commbench.knobs import version
from commbench.lint import files, words
from commbench.lint.codes import CODES
from commbench.records.finding import Finding
from commbench.report import findings as report

DOCS = Path(__file__).resolve().parents[2] / "docs" / "lint.md"
FUZZ = int(os.environ.get("COMMBENCH_FUZZ", "40"))


def check(tmp_path: Path, text: str, name: str = "job.sh", nccl: str = "") -> list[Finding]:
    path = tmp_path / name
    path.write_bytes(text.encode())
    return list(lint.paths([path], version(nccl)).findings)


def codes(found: list[Finding]) -> set[str]:
    return {finding.code for finding in found}


SH = "#!/bin/bash\n"
# code -> (file, name, NCCL, a text that has the fault, the same without it)
CASES: dict[str, list[tuple[str, str, str, str]]] = {
    "CB-ENV-MISSPELT": [
        ("job.sh", "", "export NCCL_DEBG=WARN", "export NCCL_DEBUG=WARN"),
        ("job.sh", "", "export NCLL_DEBUG=WARN", "export HCCL_DEBUG=WARN"),
        ("a.yaml", "", "env: {NCCL_IB_HAC: mlx5}", "env: {NCCL_IB_HCA: mlx5}"),
        ("job.sh", "", "mpirun --mca coll_tuned_allreduce_algoritm 3 x", "mpirun --mca btl tcp,self x"),
    ],
    "CB-ENV-UNKNOWN": [
        ("job.sh", "", "export NCCL_TIMEOUT=7200", "NCCL_MINE=1; echo $NCCL_MINE"),
        ("job.sh", "", "export MPIR_CVAR_NOT_THERE=1", "export NCCL_FASTRAK_NUM_FLOWS=2"),
    ],
    "CB-ENV-DEPRECATED": [
        ("job.sh", "", "export NCCL_MAX_NCHANNELS=8", "export NCCL_MAX_CTAS=8"),
        ("job.sh", "2.27.5", "export NCCL_MIN_NCHANNELS=8", "export NCCL_MIN_CTAS=8"),
        ("job.sh", "", "export NCCL_ASYNC_ERROR_HANDLING=1", "export TORCH_NCCL_ASYNC_ERROR_HANDLING=1"),
    ],
    "CB-ENV-REMOVED": [
        ("job.sh", "", "export NCCL_IB_CUDA_SUPPORT=1", "export NCCL_NET_GDR_LEVEL=PHB"),
        ("job.sh", "2.27.5", "export NCCL_TREE_THRESHOLD=0", "export NCCL_CROSS_NIC=0"),
        ("job.sh", "", "export OFI_NCCL_RDMA_MIN_POSTED_BOUNCE_BUFFERS=1", "export OFI_NCCL_PROTOCOL=RDMA"),
    ],
    "CB-ENV-TOO-NEW": [
        ("job.sh", "2.18.5", "export NCCL_NETDEVS_POLICY=AUTO", "export NCCL_IB_QPS_PER_CONNECTION=1"),
        ("job.sh", "", "export NCCL_CTA_POLICY=ZERO", "export NCCL_IB_TC=106"),
    ],
    "CB-ENV-EMPTY": [("job.sh", "", "export NCCL_IB_HCA=", "export NCCL_DEBUG_TIMESTAMP_FORMAT=")],
    "CB-ENV-TYPE": [
        ("job.sh", "", "export NCCL_IB_DISABLE=true", "export NCCL_IB_DISABLE=0"),
        ("job.sh", "", "export NCCL_NTHREADS=many", "export NCCL_NTHREADS=512"),
        ("job.sh", "", "export TORCH_NCCL_BLOCKING_WAIT=maybe", "export TORCH_NCCL_BLOCKING_WAIT=false"),
        ("job.sh", "", "export OMPI_MCA_coll_han_priority=high", "export OMPI_MCA_coll_han_priority=0"),
    ],
    "CB-ENV-SUFFIX": [
        ("job.sh", "", "export NCCL_BUFFSIZE=8M", "export NCCL_BUFFSIZE=$((8 * 1024 * 1024))"),
        ("nccl.conf", "", "NCCL_P2P_NET_CHUNKSIZE=512KiB", "NCCL_P2P_NET_CHUNKSIZE=524288"),
    ],
    "CB-ENV-OCTAL": [("job.sh", "", "export NCCL_IB_TIMEOUT=022", "export NCCL_IB_TIMEOUT=22")],
    "CB-ENV-RANGE": [
        ("job.sh", "", "export NCCL_IB_TIMEOUT=32", "export NCCL_IB_TIMEOUT=31"),
        ("job.sh", "", "export NCCL_NTHREADS=384", "export NCCL_NTHREADS=256"),
        ("job.sh", "", "export NCCL_MAX_CTAS=0", "export NCCL_MAX_CTAS=1"),
        ("job.sh", "", "export NCCL_IB_HCA==" + ",".join(f"m{i}" for i in range(33)), "export NCCL_IB_HCA==m0,m1"),
    ],
    "CB-ENV-CHOICE": [
        ("job.sh", "", "export NCCL_DEBUG=VERBOSE", "export NCCL_DEBUG=warn"),
        ("job.sh", "", "export NCCL_ALGO=Rings", "export NCCL_ALGO=ring,tree"),
        ("job.sh", "", "export NCCL_ALGO='ring;everything:tree'", "export NCCL_ALGO='ring;allreduce:tree'"),
        ("job.sh", "", "export NCCL_P2P_LEVEL=NVLINK", "export NCCL_P2P_LEVEL=NVL"),
        ("job.sh", "", "export NCCL_NETDEVS_POLICY=MAX", "export NCCL_NETDEVS_POLICY=max:1"),
        ("job.sh", "", "mpirun --mca coll_tuned_bcast_algorithm 99 x", "mpirun --mca coll_han_priority 0 x"),
        (
            "job.sh",
            "",
            "export MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM=rings",
            "export MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM=ring",
        ),
        ("job.sh", "", "export UCX_RNDV_SCHEME=put", "export UCX_RNDV_SCHEME=put_zcopy"),
    ],
    "CB-ENV-CASE": [("job.sh", "", "export NCCL_NET_GDR_LEVEL=sys", "export NCCL_NET_GDR_LEVEL=SYS")],
    "CB-ENV-LEGACY": [("job.sh", "", "export NCCL_NET_GDR_LEVEL=5", "export NCCL_NET_GDR_LEVEL=PIX")],
    "CB-ENV-VALUE-VERSION": [
        ("job.sh", "2.21.5", "export NCCL_ALGO=ring,PAT", "export NCCL_ALGO=ring,NVLS"),
        ("job.sh", "2.21.5", "export NCCL_ALGO='allreduce:tree'", "export NCCL_ALGO=tree,ring"),
        ("job.sh", "2.27.5", "export NCCL_ALGO=ring,collnet", "export NCCL_ALGO=ring,CollnetDirect"),
        ("job.sh", "2.24.3", "export NCCL_MAX_CTAS=64", "export NCCL_MAX_CTAS=32"),
        ("job.sh", "2.28.3", "export NCCL_CTA_POLICY=ZERO", "export NCCL_CTA_POLICY=2"),
    ],
    "CB-ENV-WHITESPACE": [
        ("job.sh", "", 'export NCCL_IB_HCA="mlx5_0, mlx5_4"', "export NCCL_IB_HCA=mlx5_0,mlx5_4"),
        ("job.sh", "", 'export NCCL_DEBUG="WARN "', 'export NCCL_DEBUG="WARN"'),
        ("nccl.conf", "", "NCCL_DEBUG=WARN  ", "NCCL_DEBUG=WARN"),
        ("job.sh", "", "export NCCL_ALGO='ring, tree'", "export NCCL_ALGO='ring,tree'"),
        ("job.sh", "", "export GLOO_SOCKET_IFNAME='eth0, eth1'", "export GLOO_SOCKET_IFNAME=eth0,eth1"),
    ],
    "CB-ENV-QUOTES": [
        ("nccl.conf", "", 'NCCL_DEBUG="WARN"', "NCCL_DEBUG=WARN"),
        ("a.yaml", "", "env:\n- name: NCCL_DEBUG\n  value: '\"WARN\"'", 'env:\n- name: NCCL_DEBUG\n  value: "WARN"'),
    ],
    "CB-ENV-TILDE": [
        ("nccl.conf", "", "NCCL_DEBUG_FILE=~/log.%h.%p", "NCCL_DEBUG_FILE=/tmp/log.%h.%p"),
        ("job.sh", "", 'export NCCL_TOPO_FILE="~/topo.xml"', "export NCCL_TOPO_FILE=~/topo.xml"),
    ],
    "CB-ENV-CRLF": [("job.sh", "", "export NCCL_DEBUG=WARN\r", "export NCCL_DEBUG=WARN")],
    "CB-ENV-CONF-SYNTAX": [
        ("nccl.conf", "", "export NCCL_DEBUG=WARN", "NCCL_DEBUG=WARN"),
        ("nccl.conf", "", "NCCL_DEBUG = WARN", "NCCL_DEBUG=WARN"),
        ("nccl.conf", "", " NCCL_DEBUG=WARN", "# NCCL_DEBUG=WARN"),
        ("nccl.conf", "", "NCCL_DEBUG=WARN # quiet", "# quiet\nNCCL_DEBUG=WARN"),
    ],
    "CB-ENV-PREFIX": [
        ("job.sh", "", "export NCCL_IB_HCA=mlx5_1", "export NCCL_IB_HCA==mlx5_1"),
        ("job.sh", "", "export NCCL_SOCKET_IFNAME=^eth1", "export NCCL_SOCKET_IFNAME=eth0"),
    ],
    "CB-ENV-PREFIX-ORDER": [
        ("job.sh", "", "export NCCL_IB_HCA==^mlx5_1", "export NCCL_IB_HCA=^=mlx5_1"),
        ("job.sh", "", "export NCCL_SOCKET_IFNAME=^lo,^docker0", "export NCCL_SOCKET_IFNAME=^lo,docker0"),
        ("job.sh", "", "export NCCL_IB_HCA==mlx5_0,=mlx5_3", "export NCCL_IB_HCA==mlx5_0,mlx5_3"),
    ],
    "CB-ENV-GLOB": [("job.sh", "", "export NCCL_SOCKET_IFNAME='eth*'", "export NCCL_SOCKET_IFNAME=eth")],
    "CB-ENV-MIXED-FORM": [("job.sh", "", "export GLOO_SOCKET_IFNAME=^lo", "export GLOO_SOCKET_IFNAME=eth0")],
    "CB-K8S-STRING": [
        ("a.yaml", "", "env:\n- name: NCCL_CROSS_NIC\n  value: 1", 'env:\n- name: NCCL_CROSS_NIC\n  value: "1"')
    ],
    "CB-ENV-DANGER": [
        ("job.sh", "", "export NCCL_DEBUG=INFO", "export NCCL_DEBUG=VERSION"),
        ("job.sh", "", "export NCCL_P2P_DISABLE=1", "export NCCL_P2P_DISABLE=0"),
        ("job.sh", "", "export NCCL_IB_DISABLE=1", "export NCCL_IB_DISABLE=0"),
        ("job.sh", "", "export NCCL_NET_GDR_LEVEL=LOC", "export NCCL_NET_GDR_LEVEL=PXB"),
        ("job.sh", "", "export TORCH_DISTRIBUTED_DEBUG=DETAIL", "export TORCH_DISTRIBUTED_DEBUG=OFF"),
        ("job.sh", "", "export TORCH_NCCL_ENABLE_MONITORING=0", "export TORCH_NCCL_ENABLE_MONITORING=1"),
        ("job.sh", "", "export NCCL_SOCKET_IFNAME=lo", "export NCCL_SOCKET_IFNAME=ib0"),
        ("job.sh", "", "export UCX_LOG_LEVEL=debug", "export UCX_LOG_LEVEL=warn"),
    ],
    "CB-ENV-LL128": [
        ("job.sh", "", "export NCCL_PROTO=LL128", "export NCCL_PROTO=^LL128"),
        ("job.sh", "", "export NCCL_PROTO='simple;allreduce:ll128'", "export NCCL_PROTO=Simple"),
    ],
    "CB-ENV-DEBUGGING": [("job.sh", "", "export NCCL_BUFFSIZE=8388608", "export NCCL_CROSS_NIC=0")],
    "CB-ENV-NUMERICS": [("job.sh", "", "export NCCL_ALGO=ring", "export NCCL_IB_TC=106")],
    "CB-ENV-STALE": [("job.sh", "2.27.5", "export NCCL_NET_GDR_C2C=1", "export NCCL_NET_GDR_C2C=0")],
    "CB-ENV-TWICE": [
        (
            "job.sh",
            "",
            "export NCCL_IB_TC=1\nexport NCCL_IB_TC=2",
            "export NCCL_IB_TC=1\n./a_perf\nexport NCCL_IB_TC=2",
        ),
        ("job.sh", "", "docker run -e NCCL_IB_TC=1 -e NCCL_IB_TC=2 x", "NCCL_IB_TC=1 ./x; NCCL_IB_TC=2 ./x"),
        (
            "job.sh",
            "",
            "export NCCL_IB_TC=1\nexport NCCL_IB_TC=2",
            "if a; then\nexport NCCL_IB_TC=1\nelse\nexport NCCL_IB_TC=2\nfi",
        ),
        ("nccl.conf", "", "NCCL_IB_TC=1\nNCCL_IB_TC=2", "NCCL_IB_TC=1\nNCCL_IB_SL=2"),
        (
            "a.yaml",
            "",
            "env:\n- {name: NCCL_IB_TC, value: '1'}\n- {name: NCCL_IB_TC, value: '2'}",
            "a: {NCCL_IB_TC: '1'}\nb: {NCCL_IB_TC: '2'}",
        ),
    ],
    "CB-ENV-CONTRADICTION": [
        ("job.sh", "", "export NCCL_P2P_DISABLE=1 NCCL_P2P_LEVEL=NVL", "export NCCL_P2P_LEVEL=NVL"),
        ("job.sh", "", "export NCCL_IB_DISABLE=1 NCCL_IB_HCA=mlx5", "export NCCL_IB_DISABLE=0 NCCL_IB_HCA=mlx5"),
        ("job.sh", "", "export NCCL_MIN_CTAS=16 NCCL_MAX_CTAS=8", "export NCCL_MIN_CTAS=8 NCCL_MAX_CTAS=8"),
        (
            "job.sh",
            "",
            "export NCCL_SOCKET_NTHREADS=16 NCCL_NSOCKS_PERTHREAD=8",
            "export NCCL_SOCKET_NTHREADS=4 NCCL_NSOCKS_PERTHREAD=4",
        ),
        ("job.sh", "", "export NCCL_ALGO=NVLS,ring NCCL_NVLS_ENABLE=0", "export NCCL_ALGO=^NVLS NCCL_NVLS_ENABLE=0"),
        (
            "job.sh",
            "",
            "export NCCL_MNNVL_ENABLE=1 NCCL_CUMEM_ENABLE=0",
            "export NCCL_MNNVL_ENABLE=2 NCCL_CUMEM_ENABLE=0",
        ),
        (
            "job.sh",
            "",
            "export NCCL_GRAPH_STREAM_ORDERING=0 NCCL_GRAPH_MIXING_SUPPORT=1",
            "export NCCL_GRAPH_STREAM_ORDERING=0 NCCL_GRAPH_MIXING_SUPPORT=0",
        ),
        ("job.sh", "", "NCCL_NET=Socket NCCL_IB_HCA=mlx5 ./x", "NCCL_NET=Socket ./x; NCCL_IB_HCA=mlx5 ./x"),
    ],
    "CB-ENV-NO-EFFECT": [
        ("job.sh", "", "export NCCL_DEBUG=WARN NCCL_DEBUG_SUBSYS=NET", "export NCCL_DEBUG=INFO NCCL_DEBUG_SUBSYS=NET"),
        ("job.sh", "", "export NCCL_DEBUG_FILE=/tmp/%h.%p", "export NCCL_DEBUG=WARN NCCL_DEBUG_FILE=/tmp/%h.%p"),
        (
            "job.sh",
            "",
            "export NCCL_TUNER_CONFIG_FILE=a.csv",
            "export NCCL_TUNER_CONFIG_FILE=a.csv NCCL_TUNER_PLUGIN=x",
        ),
        ("job.sh", "", "export NCCL_IB_AR_THRESHOLD=9000000", "export NCCL_IB_AR_THRESHOLD=8192"),
        ("job.sh", "", "export NCCL_IB_GID_INDEX=3 NCCL_IB_ROCE_VERSION_NUM=2", "export NCCL_IB_GID_INDEX=3"),
        (
            "job.sh",
            "",
            "export NCCL_IB_QPS_PER_CONNECTION=1 NCCL_IB_SPLIT_DATA_ON_QPS=1",
            "export NCCL_IB_QPS_PER_CONNECTION=4 NCCL_IB_SPLIT_DATA_ON_QPS=1",
        ),
        (
            "job.sh",
            "",
            "export TORCH_NCCL_DUMP_ON_TIMEOUT=1 TORCH_NCCL_TRACE_BUFFER_SIZE=0",
            "export TORCH_NCCL_DUMP_ON_TIMEOUT=1",
        ),
        (
            "job.sh",
            "",
            "export TORCH_NCCL_ENABLE_MONITORING=0 TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC=900",
            "export TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC=900",
        ),
        (
            "ds.json",
            "",
            '{"zero_optimization": {"stage": 3, "allgather_bucket_size": 5e8}}',
            '{"zero_optimization": {"stage": 2, "allgather_bucket_size": 5e8}}',
        ),
    ],
    "CB-NCCL-ALGO-FALLBACK": [
        ("job.sh", "", "export NCCL_ALGO=Tree", "export NCCL_ALGO=Tree,Ring"),
        ("job.sh", "2.27.5", "export NCCL_ALGO=NVLS", "export NCCL_ALGO='allreduce:nvls'"),
        ("job.sh", "2.21.5", "export NCCL_ALGO=Tree", "export NCCL_ALGO=^Tree"),
    ],
    "CB-NCCL-QPS": [
        (
            "job.sh",
            "",
            "export NCCL_IB_QPS_PER_CONNECTION=4",
            "export NCCL_IB_QPS_PER_CONNECTION=4 NCCL_IB_SPLIT_DATA_ON_QPS=0",
        )
    ],
    "CB-NCCL-DEBUG-FILE": [
        (
            "job.sh",
            "",
            "export NCCL_DEBUG=WARN NCCL_DEBUG_FILE=/tmp/log",
            "export NCCL_DEBUG=WARN NCCL_DEBUG_FILE=/dev/stderr",
        )
    ],
    "CB-AWS-TUNER": [
        (
            "job.sh",
            "",
            "export FI_PROVIDER=efa NCCL_TUNER_PLUGIN=mine.so",
            "export FI_PROVIDER=efa NCCL_TUNER_PLUGIN=libnccl-ofi-tuner.so",
        )
    ],
    "CB-RCCL-CHANNELS": [
        ("job.sh", "", "export RCCL_X=1 NCCL_MIN_NCHANNELS=112", "export RCCL_X=1 NCCL_MIN_NCHANNELS=8")
    ],
    "CB-OMPI-DYNAMIC-RULES": [
        (
            "job.sh",
            "",
            "mpirun --mca coll_tuned_allreduce_algorithm 4 x",
            "mpirun --mca coll_tuned_allreduce_algorithm 4 --mca coll_tuned_use_dynamic_rules 1 x",
        ),
        (
            "job.sh",
            "",
            "export OMPI_MCA_coll_tuned_allreduce_algorithm=ring",
            "export OMPI_MCA_coll_tuned_allreduce_algorithm=ring OMPI_MCA_coll_tuned_use_dynamic_rules=true",
        ),
    ],
    "CB-OMPI-HAN": [
        (
            "job.sh",
            "",
            "mpirun --mca coll_tuned_allreduce_algorithm 4 x",
            "mpirun --mca coll_tuned_allreduce_algorithm 4 --mca coll_han_priority 0 x",
        ),
        (
            "job.sh",
            "",
            "mpirun --mca coll_tuned_allreduce_algorithm 4 x",
            "mpirun --mca coll_tuned_allreduce_algorithm 4 --mca coll ^han x",
        ),
    ],
    "CB-MPICH-DEVICE": [
        (
            "job.sh",
            "",
            "export MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM=ring",
            "export MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM=ring MPIR_CVAR_DEVICE_COLLECTIVES=none",
        )
    ],
    "CB-ENV-NOT-EXPORTED": [
        ("job.sh", "", "NCCL_DEBUG=WARN\ntorchrun x.py", "NCCL_DEBUG=WARN\nexport NCCL_DEBUG\ntorchrun x.py"),
        ("job.sh", "", "NCCL_IB_HCA=mlx5\nmpirun x", "set -a\nNCCL_IB_HCA=mlx5\nmpirun x"),
        ("job.sh", "", "NCCL_IB_HCA=mlx5\nmpirun x", "NCCL_IB_HCA=mlx5\nmpirun -x NCCL_IB_HCA=$NCCL_IB_HCA x"),
    ],
    "CB-ENV-NOT-FORWARDED": [
        (
            "job.sh",
            "",
            "export NCCL_IB_HCA=mlx5\nmpirun --hostfile h --bind-to none x",
            "export NCCL_IB_HCA=mlx5\nmpirun --hostfile h -x NCCL_IB_HCA x",
        ),
        (
            "job.sh",
            "",
            "export NCCL_IB_HCA=mlx5\nmpirun -H a,b --mca btl tcp,self x",
            "export NCCL_IB_HCA=mlx5\nmpirun --mca btl tcp,self x",
        ),
    ],
    "CB-SRUN-COMMA": [
        (
            "job.sh",
            "",
            "srun --export=ALL,NCCL_IB_HCA=mlx5_0,mlx5_3 x",
            "srun --export=ALL,NCCL_IB_HCA=mlx5,NCCL_P2P_LEVEL x",
        ),
        ("job.sh", "", "#SBATCH --export=ALL,NCCL_ALGO=RING,TREE", "#SBATCH --export=ALL,NCCL_ALGO=RING,PATH"),
    ],
    "CB-SRUN-EXPORT": [
        (
            "job.sh",
            "",
            "export NCCL_IB_HCA=mlx5\nsrun --export=NCCL_DEBUG=WARN x",
            "export NCCL_IB_HCA=mlx5\nsrun --export=ALL,NCCL_DEBUG=WARN x",
        )
    ],
    "CB-TUNER-NAME": [
        ("t.csv", "", "AllReduce,0,4294967296,ring,simple,8,-1,-1", "allreduce,0,4294967296,ring,simple,8,-1,-1"),
        (
            "t.csv",
            "",
            "allreduce,0,4294967296,nvlstree,simple,8,-1,-1",
            "allreduce,0,4294967296,nvls_tree,simple,8,-1,-1",
        ),
    ],
    "CB-TUNER-CHANNELS": [
        ("t.csv", "", "allreduce,0,4294967296,ring,ll,-1,-1,-1,-1,-1", "allreduce,0,4294967296,ring,ll,16,-1,-1,-1,-1")
    ],
    "CB-TUNER-HOLE": [
        ("t.csv", "", "allreduce,0,1048576,ring,ll,8,-1,-1", "allreduce,0,9223372036854775807,ring,ll,8,-1,-1")
    ],
    "CB-TUNER-LINE": [
        (
            "t.csv",
            "",
            "allreduce,0,4294967296,ring,ll,8,-1,-1\nreduce,0,1",
            "allreduce,0,4294967296,ring,ll,8,-1,-1\n# reduce",
        )
    ],
    "CB-DS-ELEMENTS": [
        (
            "ds.json",
            "",
            '{"zero_optimization": {"reduce_bucket_size": 50}}',
            '{"zero_optimization": {"reduce_bucket_size": 5e8}}',
        ),
        (
            "ds.json",
            "",
            '{"zero_optimization": {"reduce_bucket_size": 524288000}}',
            '{"zero_optimization": {"reduce_bucket_size": 200000000}}',
        ),
    ],
    "CB-FILE-NOTHING": [("a.txt", "", "hello", "NCCL_DEBUG=WARN")],
}
# These need more than one file or a process: tests of their own below.
APART = {"CB-CONF-SHADOWED", "CB-OMPI-RULES-FILE", "CB-MPICH-JSON", "CB-FILE-UNREADABLE"}


def test_every_code_has_a_case_and_a_line_in_the_docs() -> None:
    assert set(CASES) | APART == set(CODES)
    text = DOCS.read_text()
    assert [code for code in CODES if f"| `{code}` |" not in text] == []


@pytest.mark.parametrize(("code", "number"), [(code, n) for code, cases in CASES.items() for n in range(len(cases))])
def test_a_rule_finds_its_mistake_and_nothing_else(code: str, number: int, tmp_path: Path) -> None:
    name, nccl, bad, good = CASES[code][number]
    start = SH if name.endswith(".sh") else ""
    found = check(tmp_path, f"{start}{bad}\n", name, nccl)
    hit = [finding for finding in found if finding.code == code]
    assert hit, codes(found)
    assert all(finding.sentence and finding.next and finding.where for finding in hit)
    assert code not in codes(check(tmp_path, f"{start}{good}\n", name, nccl))


@pytest.mark.parametrize("text", [c[3] for cases in CASES.values() for c in cases if c[0] == "job.sh"])
def test_the_healthy_side_of_every_case_has_no_error(text: str, tmp_path: Path) -> None:
    found = check(tmp_path, f"{SH}{text}\n", nccl="2.30.7")
    allowed = {"CB-OMPI-DYNAMIC-RULES"}  # the healthy side of another rule
    assert [f for f in found if f.severity == "error" and f.code not in allowed] == []


HEALTHY = {
    "Azure NDv5": """export CUDA_DEVICE_ORDER=PCI_BUS_ID \\
       NCCL_SOCKET_IFNAME=eth0 \\
       UCX_TLS=rc UCX_NET_DEVICES=mlx5_ib0:1 \\
       NCCL_DEBUG=WARN \\
       NCCL_TOPO_FILE=/opt/microsoft/ndv5-topo.xml \\
       NCCL_IB_PCI_RELAXED_ORDERING=1 NCCL_IB_QPS_PER_CONNECTION=4 NCCL_IGNORE_CPU_AFFINITY=1 \\
       NCCL_P2P_NET_CHUNKSIZE=$((512 * 1024)) NCCL_PXN_DISABLE=1 NCCL_MIN_NCHANNELS=32 \\
       OMPI_MCA_coll_hcoll_enable=0 SHARP_COLL_ENABLE_SAT=1
srun ./all_reduce_perf -b 1K -e 16G -f 2 -g 1
""",
    "AWS EFA": """export FI_PROVIDER=efa
export FI_EFA_USE_DEVICE_RDMA=1 # p4d
export FI_EFA_FORK_SAFE=1
export FI_EFA_SET_CUDA_SYNC_MEMOPS=0
export NCCL_SOCKET_IFNAME=^docker,lo,veth
export LD_LIBRARY_PATH=/opt/amazon/openmpi/lib:$LD_LIBRARY_PATH
mpirun -x FI_PROVIDER -x NCCL_DEBUG=WARN --mca pml ^cm --mca btl tcp,self --mca btl_tcp_if_exclude lo,docker0 x
""",
    "Google A3 Mega": """NCCL_LIB_DIR="/var/lib/tcpxo/lib64" source /var/lib/tcpxo/lib64/nccl-env-profile.sh
export NCCL_FASTRAK_CTRL_DEV=enp0s12
export NCCL_FASTRAK_IFNAME=enp6s0,enp7s0,enp13s0,enp14s0,enp134s0,enp135s0,enp141s0,enp142s0
export NCCL_SOCKET_IFNAME=enp0s12
export NCCL_FASTRAK_LLCM_DEVICE_DIRECTORY=/dev/aperture_devices
export NCCL_DYNAMIC_CHUNK_SIZE=524288 NCCL_P2P_NET_CHUNKSIZE=524288 NCCL_P2P_PCI_CHUNKSIZE=524288
export NCCL_P2P_NVL_CHUNKSIZE=1048576 NCCL_BUFFSIZE=8388608 NCCL_CROSS_NIC=0 NCCL_NET_GDR_LEVEL=PIX
export NCCL_ALGO=Ring,Tree NCCL_PROTO=Simple NCCL_NVLS_ENABLE=0 NCCL_P2P_PXN_LEVEL=0
export NCCL_TUNER_PLUGIN=libnccl-tuner.so
export NCCL_TUNER_CONFIG_PATH=/var/lib/tcpxo/lib64/a3plus_tuner_config.textproto
export NCCL_SHIMNET_GUEST_CONFIG_CHECKER_CONFIG_FILE=/var/lib/tcpxo/lib64/a3plus_guest_config.textproto
torchrun train.py
""",
    "Google A3 High": """export NCCL_GPUDIRECTTCPX_SOCKET_IFNAME=eth1,eth2,eth3,eth4
export NCCL_GPUDIRECTTCPX_TX_BINDINGS="eth1:8-21,112-125;eth2:8-21,112-125"
export NCCL_NSOCKS_PERTHREAD=4 NCCL_SOCKET_NTHREADS=1 NCCL_MAX_NCHANNELS=12 NCCL_MIN_NCHANNELS=12
export NCCL_SOCKET_IFNAME=eth0 NCCL_ALGO=Ring NCCL_PROTO=Simple
srun python train.py
""",
    "RoCE": "export NCCL_IB_HCA==mlx5_0,mlx5_1 NCCL_IB_GID_INDEX=3 NCCL_IB_TC=106 NCCL_IB_TIMEOUT=22 NCCL_IB_SL=0\n",
}


@pytest.mark.parametrize("name", HEALTHY)
def test_settings_that_large_sites_run_with_have_no_error(name: str, tmp_path: Path) -> None:
    found = check(tmp_path, f"{SH}{HEALTHY[name]}")
    assert [f for f in found if f.severity == "error"] == []
    assert not codes([f for f in found if f.severity != "note"]) & {
        "CB-ENV-UNKNOWN",
        "CB-ENV-MISSPELT",
        "CB-ENV-NOT-EXPORTED",
        "CB-ENV-CONTRADICTION",
    }


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.sh", f"{SH}\nexport A=1 \\\n  NCCL_DEBG=1\n", 4),
        ("a.sh", f"{SH}env NCCL_DEBG=1 ./x\n", 2),
        ("a.sh", f"{SH}NCCL_DEBG=1 ./x\n", 2),
        ("a.sh", f"{SH}mpirun -n 2 \\\n -x A \\\n -x NCCL_DEBG=1 ./x\n", 4),
        ("a.sh", f"{SH}mpiexec -genv NCCL_DEBG 1 ./x\n", 2),
        ("a.sh", f"{SH}srun --export=ALL,NCCL_DEBG=1 ./x\n", 2),
        ("a.sh", f"{SH}docker run -eNCCL_DEBG=1 --env=A=2 x\n", 2),
        ("a.sh", f'{SH}ssh h "cd /x && export NCCL_DEBG=1 && ./x"\n', 2),
        ("a.csh", "#!/bin/csh\nsetenv NCCL_DEBG 1\n", 2),
        ("Dockerfile", "FROM x\nENV A=1 NCCL_DEBG=1\n", 2),
        ("Dockerfile", "FROM x\nENV NCCL_DEBG 1\n", 2),
        ("job.env", "A=1\nNCCL_DEBG=1\n", 2),
        ("etc.nccl.conf", "# x\nNCCL_DEBG=1\n", 2),
        ("a.yaml", "a:\n  env:\n    NCCL_DEBG: '1'\n", 3),
        ("a.yaml", "env:\n- name: A\n  value: b\n- name: NCCL_DEBG\n  value: '1'\n", 4),
        ("a.yaml", "environment:\n- A=1\n- NCCL_DEBG=1\n", 3),
        ("a.yaml", "command:\n- bash\n- -c\n- |\n  cd /x\n  export NCCL_DEBG=1\n  ./x\n", 6),
        ("a.yaml", 'args: ["-x",\n  "NCCL_DEBG=1"]\n', 2),
        ("chart.yaml", '{{- if .x }}\nenv:\n  NCCL_DEBG: "1"\n{{- end }}\n', 3),
        ("a.json", '{\n "env": {\n  "NCCL_DEBG": "1"\n }\n}\n', 3),
        ("run.json", '{"machine": {\n"environment": {\n"NCCL_DEBG": "1"}}}', 3),
        ("a.log", "h:1:2 [0] NCCL INFO x\nh:1:2 [0] NCCL INFO NCCL_DEBG set by environment to 1.\n", 2),
        ("launch.py", "import os\nos.environ['NCCL_DEBG'] = '1'\n", 2),
    ],
)
def test_where_a_setting_is_found(name: str, text: str, line: int, tmp_path: Path) -> None:
    found = [f for f in check(tmp_path, text, name) if f.code == "CB-ENV-MISSPELT"]
    assert [f.where for f in found] == [f"{tmp_path / name}:{line}"]


@pytest.mark.parametrize(
    "text",
    [
        "# export NCCL_DEBG=1\n",
        "echo 'set NCCL_DEBG to see more'\n",
        "export MY_NCCL_DEBG=1\n",
        "export NCCL_DEBUG=$LEVEL NCCL_BUFFSIZE=${SIZE} NCCL_P2P_LEVEL=$(level)\n",
        "export NCCL_DEBUG=${NCCL_DEBUG:-WARN}\n",
        'if [ "$NCCL_DEBUG" = "nonsense" ]; then echo; fi\n',
    ],
)
def test_what_is_no_setting_and_what_is_not_written_out(text: str, tmp_path: Path) -> None:
    assert [f for f in check(tmp_path, SH + text) if f.severity != "note"] == []


def test_a_log_brings_its_version(tmp_path: Path) -> None:
    line = "h:1:2 [0] NCCL INFO NCCL_CTA_POLICY set by environment to ZERO\n"
    found = check(tmp_path, "h:1:2 [0] NCCL INFO x\nNCCL version 2.18.5+cuda12.1\n" + line * 50, "job.out")
    assert [f.where.rpartition(":")[2] for f in found if f.code == "CB-ENV-TOO-NEW"] == ["3"]
    assert "2.18.5 does not read it" in found[0].sentence


def test_an_old_enough_nccl_is_left_alone(tmp_path: Path) -> None:
    for text in ("export NCCL_TREE_THRESHOLD=0", "export NCCL_MAX_NCHANNELS=4"):
        assert not codes(check(tmp_path, f"{SH}{text}\n", nccl="2.4.8")) & {"CB-ENV-REMOVED", "CB-ENV-DEPRECATED"}


def test_the_environment_and_the_conf_files(tmp_path: Path) -> None:
    (tmp_path / ".nccl.conf").write_text('NCCL_DEBUG="INFO"\nNCCL_IB_TC=1\n')
    env = {"HOME": str(tmp_path), "NCCL_IB_TC": "2", "NCCL_DEBG": "hunter2", "PATH": "/bin", "NCCL_X_TOKEN": "hunter2"}
    found = lint.environment(env)
    where = {f.code: f.where for f in found.findings}
    assert where["CB-ENV-MISSPELT"] == "environment: NCCL_DEBG"
    assert where["CB-ENV-QUOTES"] == f"{tmp_path}/.nccl.conf:1"
    assert where["CB-CONF-SHADOWED"] == f"{tmp_path}/.nccl.conf:2"
    assert "hunter2" not in report.as_json(found.findings)
    other = tmp_path / "other.conf"
    other.write_text("NCCL_IB_TC=2\nexport NCCL_DEBUG=WARN\n")
    moved = lint.environment({**env, "NCCL_CONF_FILE": str(other)}).findings
    assert [f.where for f in moved if f.code == "CB-ENV-CONF-SYNTAX"] == [f"{other}:2"]
    assert "CB-ENV-QUOTES" not in codes(list(moved))


def test_files_that_settings_name(tmp_path: Path) -> None:
    (tmp_path / "good").write_text("1\n2\n1\n0\n2\n0 4 0 0\n1024 3 0 0\n")
    (tmp_path / "torn").write_text("1\n2\n1\n0\n2\n0 4 0 0\n")
    (tmp_path / "bad.json").write_text('{"collective=allreduce": ')
    (tmp_path / "t.csv").write_text("allreduce,0,4294967296,Ring,simple,8,-1,-1\n")
    rules = "export OMPI_MCA_coll_tuned_use_dynamic_rules=1 OMPI_MCA_coll_tuned_dynamic_rules_filename="
    assert "CB-OMPI-RULES-FILE" not in codes(check(tmp_path, f"{SH}{rules}good\n"))
    assert "CB-OMPI-RULES-FILE" in codes(check(tmp_path, f"{SH}{rules}torn\n"))
    json_file = "export MPIR_CVAR_COLL_SELECTION_TUNING_JSON_FILE=bad.json\n"
    assert "CB-MPICH-JSON" in codes(check(tmp_path, SH + json_file))
    assert "CB-TUNER-NAME" in codes(check(tmp_path, f"{SH}export NCCL_TUNER_CONFIG_FILE=t.csv NCCL_TUNER_PLUGIN=x\n"))
    gone = {"OMPI_MCA_coll_tuned_dynamic_rules_filename": "/not/there", "OMPI_MCA_coll_tuned_use_dynamic_rules": "1"}
    assert "CB-OMPI-RULES-FILE" in codes(list(lint.environment(gone).findings))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1\n2\n1\n0\n1\n0 4 0 0\n", None),
        ("# comment\n1\n2 # allreduce\n1\n64\n2\n0 4 0 0\n1024 3 0 0\n", None),
        ("rule-file-version-2\n1\n2\n1\n0\n1\n0 4 0 0 0\n", None),
        ("", "too early"),
        ("1\n2\n1\n0\n1\n512 4 0 0\n", "begin at 0"),
        ("1\n2\n1\n0\n2\n0 4 0 0\n0 3 0 0\n", "ascend"),
        ("1\n99\n1\n0\n1\n0 4 0 0\n", "unknown number"),
        ("1\n2\n1\n0\n1\n0 4 0 0\n7\n", "more in it"),
        ("1\n2\n1\n0\n1\n0 ring 0 0\n", "not a number"),
        ("{}", "JSON"),
    ],
)
def test_rules_files_of_open_mpi(text: str, problem: str | None) -> None:
    said = files.rules_problem(text)
    assert said is None if problem is None else said is not None and problem in said


def run(*arguments: str) -> tuple[int, str]:
    ended = CliRunner().invoke(command, list(arguments))
    if isinstance(ended.exception, CommbenchError):
        return ended.exception.exit_code, str(ended.exception)
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    return ended.exit_code, ended.output


def test_exit_codes(tmp_path: Path) -> None:
    good, warn, bad, binary = (tmp_path / name for name in ("good.sh", "warn.sh", "bad.sh", "x.bin"))
    good.write_text(f"{SH}export NCCL_IB_TC=106\n")
    warn.write_text(f"{SH}export NCCL_DEBUG=INFO\n")
    bad.write_text(f"{SH}export NCCL_DEBG=INFO\n")
    binary.write_bytes(b"\x7fELF\0\0NCCL_DEBUG=INFO")
    assert run(str(good)) == (0, "nothing found; 1 setting in 1 file\n")
    assert run(str(warn))[0] == 0
    assert run(str(warn), "--strict")[0] == 1
    assert run(str(bad))[0] == 1
    code, text = run(str(binary))
    assert code == 2
    assert "is a binary file" in text
    assert run(str(tmp_path / "none"))[0] == 2
    assert run(str(good), "--nccl", "newest")[0] == 2
    code, text = run(str(tmp_path))  # in a folder a binary file is passed over
    assert code == 1
    assert "3 settings in 3 files" in text


def test_json_has_the_same_findings_in_a_stable_order(tmp_path: Path) -> None:
    path = tmp_path / "a.sh"
    path.write_text(f"{SH}export NCCL_P2P_LEVEL=sys NCCL_DEBG=1\nexport NCCL_IB_TIMEOUT=99\n")
    code, text = run(str(path), "--json")
    found = json.loads(text)
    assert code == 1
    assert found["schema"] == 1
    assert {tuple(row) for row in found["findings"]} == {("code", "severity", "where", "sentence", "next", "evidence")}
    assert [row["where"].rpartition(":")[2] for row in found["findings"]] == ["2", "2", "2", "3"]
    assert run(str(path), "--json") == (code, text)


def test_quiet_leaves_notes_out(tmp_path: Path) -> None:
    path = tmp_path / "a.sh"
    path.write_text(f"{SH}export NCCL_IB_HCA=mlx5_1\n")
    assert "note" in run(str(path))[1]
    assert run(str(path), "--quiet")[1] == "nothing found; 1 setting in 1 file\n"


def test_what_a_terminal_would_obey_is_not_printed(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[31m.sh"
    path.write_text(f"{SH}export NCCL_DEBUG='\x1b]0;x\x07' NCCL_SOCKET_IFNAME='eth\x1b[2J*'\n")
    code, text = run(str(path))
    assert code == 1
    assert "\x1b" not in text
    assert "\x07" not in text


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\n" * 1000, b"\xff\xfeN\0C\0C\0L\0", b"\xff" * 4096, b"{" * 100_000, b"[" * 100_000, b"- " * 50_000,
        b"a: &a [x]\n" + b"".join(b"b%d: &b%d [*a,*a]\n" % (i, i) for i in range(2000)),
        b"export NCCL_DEBUG=" + b"A" * 3_000_000, b"'\"`$(${" * 5000, b"export NCCL_IB_HCA=$((" * 3000,
        b"\\\n" * 100_000 + b"export NCCL_DEBG=1", b'{"NCCL_DEBUG": NaN, "NCCL_IB_TC": {"a": [1]}}',
        b'{"zero_optimization": {"reduce_bucket_size": NaN}}', b'{"machine": 3}', b"mpirun --mca", b"srun --export",
        b"export NCCL_BUFFSIZE=" + b"9" * 5000,
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.sh", "a.yaml", "a.json", "nccl.conf", "a.log"])
def test_bad_input_is_read_or_told(data: bytes, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    found = lint.paths([path])
    assert all(finding.code in CODES for finding in found.findings)


TOKENS = st.sampled_from(
    ["export ", "NCCL_DEBUG",
     "NCCL_IB_HCA", "NCCL_ALGO", "OMPI_MCA_", "=", "^", ",", ";", ":", "'", '"', "\\", "\n", "$",
     "${", "}",
     "$((", "))", "`", " ", "\t", "mpirun ", "srun --export=", "--mca ", "-x ", "#SBATCH ", "if ", "fi", "|", "8M",
     "- name: ", "value: ", "{", "[", "]", "NCCL INFO ", " set by environment to ", "allreduce,0,1,", "\r\n", "é", "\0"]
)  # fmt: skip


@settings(max_examples=FUZZ, deadline=None)
@given(st.lists(TOKENS, max_size=60).map("".join), st.sampled_from(["a.sh", "a.yaml", "a.json", "nccl.conf", "a.csv"]))
def test_any_text_is_read(tmp_path_factory: pytest.TempPathFactory, text: str, name: str) -> None:
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_text(text)
    for finding in lint.paths([path]).findings:
        assert finding.code in CODES
        assert all(line.isprintable() for line in report.lines([finding]))


@settings(max_examples=FUZZ, deadline=None)
@given(st.text(max_size=40).filter(lambda s: "\n" not in s and "\r" not in s))
def test_a_quoted_value_is_read_back(value: str) -> None:
    found = words.words(f"export NCCL_IB_HCA={shlex.quote(value)}", 1)
    assert [word.text for word in found] == ["export", f"NCCL_IB_HCA={value}"]
    assert found[1].literal


def test_a_large_log_is_streamed(tmp_path: Path) -> None:
    path = tmp_path / "job.log"
    line = b"host01:1234:5678 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM/read\n"
    with path.open("wb") as file:
        file.write(b"h [0] NCCL INFO NCCL_DEBG set by environment to INFO\n")
        for _ in range(300):
            file.write(line * 500)
    tracemalloc.start()
    found = lint.paths([path])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert codes(list(found.findings)) >= {"CB-ENV-MISSPELT"}
    assert peak < path.stat().st_size / 3


def test_real_logs_have_only_the_faults_that_are_in_them() -> None:
    found = lint.paths([real_data.real("nccl-log"), real_data.real("nccl-tests")])
    assert found.files > 10
    assert {f.code for f in found.findings if f.severity == "error"} <= {"CB-ENV-CHOICE"}


def test_no_heavy_library_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "a.sh"
    path.write_text(f"{SH}export NCCL_IB_TC=106\n")
    program = (
        "import sys\nfrom commbench.cli.lint import command\ntry: command([sys.argv[1]], standalone_mode=False)\n"
        "except SystemExit: print(sorted({'numpy', 'torch', 'mpi4py', 'yaml', 'scipy'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["nothing found; 1 setting in 1 file", "[]"]
