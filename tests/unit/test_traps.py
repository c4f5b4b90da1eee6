"""Each trap speaks where there is evidence for it, says what to do, and is silent otherwise."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from commbench import traps
from commbench.records import Case, Finding, GpuTopology, Host, Machine, Measurement, NcclLog, Origin, Part, Run
from commbench.records.nccl import NcclChoice, NcclFact, NcclGdr, NcclHost, NcclMessage, NcclRank, NcclTransport
from commbench.records.topology import Device
from commbench.stats.rows import rows

ROOT = Path(__file__).resolve().parents[2]
HOSTS = (Host(name="a"), Host(name="b"))
SAMPLES = (1.0e-3, 1.1e-3, 1.2e-3)


def measured(nbytes: int = 2**20, **fields: Any) -> Measurement:
    case = Case(op="all_reduce", backend="nccl", nbytes=nbytes)
    known = {"case": case, "ranks": 16, "nbytes": nbytes, "seconds": SAMPLES, "calls": 20, "wrong": 0}
    return Measurement(**{**known, **fields})


def imported(nbytes: int = 2**20, **fields: Any) -> Measurement:
    return measured(nbytes, **{"seconds": (1.0e-3,), "kind": "mean", "clock": "imported", **fields})


def run(environment: dict[str, str] | None = None, **told: Any) -> Run:
    machine = Machine(hosts=HOSTS, host_of=(0,) * 8 + (1,) * 8, launcher="", environment=environment or {})
    origin = Origin(path="log.txt", nbytes=1, sha256="", tool="nccl-tests", **told)
    return Run(format=2, name="log", created="", commbench="0", seed=0, spec={}, machine=machine, origin=origin)


def found(
    measurements: Iterable[Measurement] = (measured(),), parts: Iterable[Part] = (), **about: Any
) -> dict[str, Finding]:
    some = list(measurements)
    return {finding.code: finding for finding in traps.find(run(**about), some, rows(some), parts)}


def link(kind: str, **fields: Any) -> NcclTransport:
    return NcclTransport(kind=kind, line=7, **fields)


IB = link("NET/IB/0/GDRDMA", network="IB", nic=0, gdrdma=True, inter=8)
ENABLED = NcclGdr(network="IB", nic="0", enabled=True, why="", count=1, line=1)
IB2 = link("NET/IB/1/GDRDMA", network="IB", nic=1, gdrdma=True, inter=8)
TWO_NICS = {
    "hosts": (NcclHost(name="a", nics=("mlx5_0:1/IB", "mlx5_1:1/IB")), NcclHost(name="b")),
    "ranks": tuple(NcclRank(rank=k, host=k // 8, pid=k, device=k % 8) for k in range(16)),
}
SLOW_NIC = GpuTopology(source="nccl-xml", devices=(Device(id="mlx5_0", kind="nic", rate=1e9),))

# code -> what springs it, and the same where all is well
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "CB-WRONG": ({"measurements": [measured(wrong=3, status="failed", why="3 wrong")]}, {}),
    "CB-ONE-RANK": ({"measurements": [measured(ranks=1)]}, {}),
    "CB-ABOVE-WIRE": (
        {"parts": [SLOW_NIC]},
        {"parts": [SLOW_NIC], "measurements": [measured(seconds=(3.0e-3, 3.1e-3))]},
    ),
    "CB-MIXED-AVERAGE": (
        {"results": {"Avg bus bandwidth": "21.5"}, "measurements": [imported(), imported(2**21)]},
        {"results": {"Avg bus bandwidth": "21.5"}, "measurements": [imported()]},
    ),
    "CB-LOW-THRESHOLD": (
        {"environment": {"NCCL_TESTS_MIN_BW": "0.5"}},
        {"environment": {"NCCL_TESTS_MIN_BW": "1.5"}},
    ),
    "CB-CLAMPED": ({"options": {"maxBytes": str(2**30)}}, {"options": {"maxBytes": str(2**20)}}),
    "CB-TRANSPORT-TCP": (
        {"parts": [NcclLog(transports=(link("NET/Socket/0", network="Socket", nic=0, inter=4),))]},
        {"parts": [NcclLog(transports=(IB,))]},
    ),
    "CB-TRANSPORT-SHM": (
        {"parts": [NcclLog(transports=(link("SHM/direct/direct", intra=4),))]},
        {"parts": [NcclLog(transports=(link("P2P/CUMEM", intra=4),))]},
    ),
    "CB-P2P-OFF": ({"environment": {"NCCL_P2P_DISABLE": "1"}}, {"environment": {"NCCL_P2P_DISABLE": "0"}}),
    "CB-GDR-OFF": (
        {"parts": [NcclLog(transports=(link("NET/IB/0", network="IB", nic=0, gdrdma=False, inter=8),))]},
        {"parts": [NcclLog(transports=(IB,), gdr=(ENABLED,))]},
    ),
    "CB-ONE-NIC": (
        {"parts": [NcclLog(transports=(IB,), **TWO_NICS)]},
        {"parts": [NcclLog(transports=(IB, IB2), **TWO_NICS)]},
    ),
    "CB-DEBUG-LEFT": ({"environment": {"NCCL_ALGO": "Ring"}}, {"environment": {"NCCL_SOCKET_IFNAME": "eth0"}}),
    "CB-NO-TAIL": (
        {"measurements": [imported(told={"p99": 2e-3, "max": 2e-3})]},
        {"measurements": [imported(told={"p99": 1.5e-3, "max": 2e-3})]},
    ),
    "CB-NO-NOISE": ({"measurements": [imported()]}, {"measurements": [imported(), imported(launch=1)]}),
    "CB-UNCHECKED": (
        {"measurements": [measured(wrong=None)]},
        {"measurements": [measured(), measured(2**21, wrong=None)]},
    ),
    "CB-VERSIONS": (
        {"parts": [NcclLog(versions=tuple(NcclFact(name=f"2.2{k}.1", count=1, line=k) for k in (1, 2)))]},
        {"parts": [NcclLog(versions=(NcclFact(name="2.21.1", count=9, line=1),))]},
    ),
    "CB-NCCL-SAYS": (
        {"parts": [NcclLog(messages=(NcclMessage(level="warn", text="Missing", count=2, line=3),))]},
        {"parts": [NcclLog()]},
    ),
    "CB-UNREAD": ({"unread": 2}, {}),
}  # fmt: skip


@pytest.mark.parametrize("code", CASES)
def test_a_trap_springs_on_its_evidence_and_only_on_it(code: str) -> None:
    sprung, well = CASES[code]
    finding = found(**sprung)[code]
    assert finding.sentence
    assert finding.next
    assert code not in found(**well)


def test_a_clean_run_has_no_finding() -> None:
    assert found() == {}


def test_every_trap_is_tried_and_explained() -> None:
    source = (ROOT / "commbench/traps.py").read_text()
    codes = set(re.findall(r'"(CB-[A-Z0-9-]+)"', source))
    assert codes == set(CASES)
    explained = re.findall(r"^## (CB-[A-Z0-9-]+)", (ROOT / "docs/codes.md").read_text(), re.MULTILINE)
    assert codes <= set(explained)


def test_reduction_in_the_network_explains_what_is_above_the_wire() -> None:
    choice = NcclChoice(op="AllReduce", nbytes=2**20, algorithm="NVLS", protocol="SIMPLE", count=1, line=1)
    assert found() == {}
    plain = found(parts=[SLOW_NIC])["CB-ABOVE-WIRE"]
    explained = found(parts=[SLOW_NIC, NcclLog(choices=(choice,))])["CB-ABOVE-WIRE"]
    assert (plain.severity, explained.severity) == ("warning", "note")
    assert "NVLS" in explained.sentence


def test_the_worst_comes_first() -> None:
    some = [measured(wrong=1, status="failed", why="wrong"), imported(2**21)]
    order = [finding.severity for finding in traps.find(run(unread=1), some, rows(some), ())]
    assert order == sorted(order, key=["error", "warning", "note"].index)
    assert order[0] == "error"


def test_a_finding_can_be_written() -> None:
    finding = found(unread=1)["CB-UNREAD"]
    assert msgspec.json.decode(msgspec.json.encode(finding), type=Finding) == finding
