"""Sanity traps: reasons why a figure is not what it seems. Each is a Finding with a code that docs/codes.md explains.

A trap speaks only where there is evidence for it. That a trap is silent does not mean that all is well: most need
NCCL's log beside the table.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from commbench import knobs
from commbench.records import GpuTopology, Measurement, NcclLog, Part, Run
from commbench.records.finding import SEVERITIES, Finding, Severity
from commbench.stats.rows import Row
from commbench.units import format_bytes

_ABOVE = 1.02  # of the wire: rates are declared without the framing
_LOW = 0.5  # of the best busbw: below it a threshold lets half the speed through
_TAIL = 100  # calls from which on the 99th percentile is another one than the largest
_MOST = 5  # pieces of evidence


class Evidence(NamedTuple):
    """What traps look at."""

    run: Run
    measurements: Sequence[Measurement]
    rows: Sequence[Row]
    log: NcclLog | None
    topology: GpuTopology | None


def find(run: Run, measurements: Sequence[Measurement], rows: Sequence[Row], parts: Iterable[Part]) -> list[Finding]:
    """All findings of one run, the worst first."""
    logs = [part for part in parts if isinstance(part, NcclLog)]
    topologies = [part for part in parts if isinstance(part, GpuTopology)]
    seen = Evidence(run, measurements, rows, logs[0] if logs else None, topologies[0] if topologies else None)
    found = [finding for trap in TRAPS for finding in trap(seen)]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def _say(
    code: str, severity: Severity, sentence: str, advice: str, where: str = "", evidence: Iterable[str] = ()
) -> Finding:
    return Finding(
        code=code,
        severity=severity,
        sentence=sentence,
        where=where,
        next=advice,
        evidence=tuple(evidence)[:_MOST],
    )


def _about(row: Row) -> str:
    return f"{row.op} {format_bytes(row.nbytes)} {row.backend} {row.group}"


def _wrong(seen: Evidence) -> Iterator[Finding]:
    bad = [row for row in seen.rows if row.wrong]
    if bad:
        yield _say(
            "CB-WRONG",
            "error",
            f"wrong data in {len(bad)} row{'s' * (len(bad) != 1)}: a figure of wrong data is no figure",
            "run it again with one host less at a time; try the library's last version and NCCL_PROTO=Simple",
            evidence=(f"{_about(row)}: {row.wrong} elements" for row in bad),
        )


def _one_rank(seen: Evidence) -> Iterator[Finding]:
    alone = [row for row in seen.rows if row.ranks == 1 and row.group == "world" and row.nbytes]
    if alone:
        several = max(row.launches for row in alone)
        runs = f", {several} times" if several > 1 else ""
        yield _say(
            "CB-ONE-RANK",
            "error",
            f"the world has one rank{runs}: nothing crosses a link, and bus bandwidth means nothing",
            "several such runs are mpirun with a program built without MPI, or with the mpirun of another MPI: build "
            "nccl-tests with MPI=1, and start it with that MPI's own mpirun",
            evidence=map(_about, alone),
        )


def _above_wire(seen: Evidence) -> Iterator[Finding]:
    above = [row for row in seen.rows if row.wire_us and (row.wire_share or 0.0) > _ABOVE]
    limit = _nics_gbps(seen)
    if limit and len(seen.run.machine.hosts) > 1:
        above += [row for row in seen.rows if row.group == "world" and (row.busbw_gbps or 0) > limit * _ABOVE]
    if not above:
        return
    reduces = sorted(_in_network(seen.log))
    if reduces:
        yield _say(
            "CB-ABOVE-WIRE",
            "note",
            f"bus bandwidth above the links' rate, with {' and '.join(reduces)} in use: the network or the switch adds "
            "up, and busbw counts what a ring would have carried",
            "compare algbw or time with other runs, and busbw only with runs that reduce in the network too",
            evidence=map(_about, above),
        )
    else:
        yield _say(
            "CB-ABOVE-WIRE",
            "warning",
            "bus bandwidth above the links' rate, and nothing here explains it",
            "see whether ranks of different hosts share a host (shared memory), whether the declared rate is right, "
            "and whether NVLS or SHARP is on (NCCL_DEBUG=INFO says so)",
            evidence=map(_about, above),
        )


def _nics_gbps(seen: Evidence) -> float | None:
    """What all NICs of a host carry in one direction, in GB/s, where a topology declares it."""
    rates = [nic.rate for nic in seen.topology.of("nic") if nic.rate] if seen.topology else []
    return sum(rates) / 1e9 if rates else None


def _in_network(log: NcclLog | None) -> set[str]:
    """NVLS, SHARP: reductions that a ring's formula does not describe."""
    if log is None:
        return set()
    names = {choice.algorithm for choice in log.choices}
    found = {"NVLS" for name in names if name.startswith("NVLS")}
    return found | {"SHARP (CollNet)" for name in names if name.startswith("COLLNET")}


def _mixed_average(seen: Evidence) -> Iterator[Finding]:
    average = seen.run.origin.results.get("Avg bus bandwidth") if seen.run.origin else None
    sizes = {row.nbytes for row in seen.rows}
    if average and len(sizes) > 1:
        yield _say(
            "CB-MIXED-AVERAGE",
            "note",
            f"the file's average bus bandwidth ({average} GB/s) is over {len(sizes)} sizes from "
            f"{format_bytes(min(sizes))} to {format_bytes(max(sizes))}: another range of sizes gives another average",
            "compare sizes one by one: commbench compare",
        )


def _low_threshold(seen: Evidence) -> Iterator[Finding]:
    told = seen.run.machine.environment.get("NCCL_TESTS_MIN_BW") or (
        seen.run.origin.options.get("min_bw") if seen.run.origin else None
    )
    best = max((row.busbw_gbps or 0.0 for row in seen.rows), default=0.0)
    try:
        threshold = float(told or 0)
    except ValueError:
        return
    if 0 < threshold < _LOW * best:
        yield _say(
            "CB-LOW-THRESHOLD",
            "warning",
            f"the threshold of {threshold:g} GB/s is {100 * threshold / best:.0f} % of the best row here "
            f"({best:.4g} GB/s), and nccl-tests passes from 0.9 of it on: a broken link would pass",
            "set a threshold for each size, from runs of machines that are known to be healthy",
            "NCCL_TESTS_MIN_BW",
        )


def _clamped(seen: Evidence) -> Iterator[Finding]:
    origin = seen.run.origin
    sizes = [row.nbytes for row in seen.rows if row.nbytes]
    told = origin.options.get("maxBytes", "") if origin else ""
    asked = [int(text) for text in told.split(" | ") if text.isdigit()]
    if sizes and asked and max(sizes) < max(asked) // 2:
        yield _say(
            "CB-CLAMPED",
            "warning",
            f"asked for sizes up to {format_bytes(max(asked))}, measured up to {format_bytes(max(sizes))}: the size "
            "was cut to what fits into memory, or the run ended early",
            "look for `Reducing maxBytes` and for errors at the end of the file; the largest rows are missing",
        )


def _fell_back(seen: Evidence) -> Iterator[Finding]:
    if seen.log is None:
        return
    sockets = [t for t in seen.log.transports if t.network == "Socket" and t.inter + t.unplaced]
    if sockets or (not seen.log.transports and any(one.name == "Socket" for one in seen.log.network)):
        missing = [fact for fact in seen.log.facts if "device" in fact.name.lower() and "no" in fact.name.lower()]
        yield _say(
            "CB-TRANSPORT-TCP",
            "warning",
            "NCCL talks over TCP sockets between hosts: no RDMA network was found or it was switched off",
            "see NCCL_IB_DISABLE, NCCL_NET and NCCL_IB_HCA, whether the RDMA devices are visible in the container, and "
            "whether the network's plugin (OFI, gIB) was loaded",
            evidence=[f"{t.kind}: {t.inter + t.unplaced} connections, line {t.line}" for t in sockets]
            + [f"{fact.name}, line {fact.line}" for fact in missing],
        )
    shared = [t for t in seen.log.transports if t.kind.startswith("SHM") and t.intra + t.unplaced]
    if shared:
        yield _say(
            "CB-TRANSPORT-SHM",
            "warning",
            "ranks of one host talk through host memory (SHM), not from GPU to GPU",
            "where the GPUs have NVLink or share a PCIe switch: see NCCL_P2P_DISABLE, NCCL_P2P_LEVEL, ACS and the "
            "IOMMU, and whether the container sees all GPUs (CUDA_VISIBLE_DEVICES)",
            evidence=[f"{t.kind}: {t.intra + t.unplaced} connections, line {t.line}" for t in shared],
        )


def _p2p_off(seen: Evidence) -> Iterator[Finding]:
    told = {name: seen.run.machine.environment.get(name) for name in ("NCCL_P2P_DISABLE", "NCCL_P2P_LEVEL")}
    refused = [fact for fact in (seen.log.facts if seen.log else ()) if fact.name.startswith("P2P ")]
    if told["NCCL_P2P_DISABLE"] == "1" or told["NCCL_P2P_LEVEL"] in ("LOC", "0") or refused:
        yield _say(
            "CB-P2P-OFF",
            "warning",
            "direct traffic between the GPUs of a host is switched off, or was refused",
            "unset the variable unless it works round a known fault of this machine; see ACS and the IOMMU",
            evidence=[f"{name}={value}" for name, value in told.items() if value]
            + [f"{fact.name}: {fact.count} times, line {fact.line}" for fact in refused],
        )


def _gdr_off(seen: Evidence) -> Iterator[Finding]:
    if seen.log is None:
        return
    bounced = [t for t in seen.log.transports if t.gdrdma is False and t.network != "Socket" and t.inter + t.unplaced]
    off = [one for one in seen.log.gdr if not one.enabled]
    if bounced or (off and not any(one.enabled for one in seen.log.gdr)):
        yield _say(
            "CB-GDR-OFF",
            "warning",
            "GPUDirect RDMA is off: every message between hosts is copied through host memory",
            "load nvidia-peermem (or use DMA-BUF), and see NCCL_NET_GDR_LEVEL and whether GPU and NIC share a PCIe "
            "switch (nvidia-smi topo -m)",
            evidence=[f"{t.kind}: {t.inter + t.unplaced} connections, line {t.line}" for t in bounced]
            + [f"{one.network} {one.nic}: {one.why or 'disabled'}, line {one.line}" for one in off],
        )


def _one_nic(seen: Evidence) -> Iterator[Finding]:
    log = seen.log
    if log is None or len(log.hosts) < 2:
        return
    used = {t.nic for t in log.transports if t.nic is not None and t.network != "Socket"}
    offered = max((len(host.nics) for host in log.hosts), default=0)
    a_host = max((sum(rank.host == k for rank in log.ranks) for k in range(len(log.hosts))), default=0)
    if len(used) == 1 and offered > 1 and a_host > 1:
        yield _say(
            "CB-ONE-NIC",
            "warning",
            f"all {a_host} ranks of a host use one network device of {offered}",
            "see NCCL_IB_HCA (without `=` it is a prefix), NCCL_CROSS_NIC, and the topology that the container shows "
            "(NCCL_TOPO_FILE)",
            evidence=[f"{t.kind}: {t.count} connections, line {t.line}" for t in log.transports if t.nic in used],
        )


def _debug_left(seen: Evidence) -> Iterator[Finding]:
    table = knobs.table()
    names = [name for name in seen.run.machine.environment if name in table and table[name].kept == "debug"]
    if names:
        yield _say(
            "CB-DEBUG-LEFT",
            "note",
            f"settings that are meant for experiments are in force: {', '.join(names[:_MOST])}"
            f"{' and more' if len(names) > _MOST else ''}",
            "a value that helps one size of one library version harms others: unset them, or keep the reason beside "
            "them; commbench lint says more",
            evidence=(f"{name}={seen.run.machine.environment[name]}" for name in names),
        )


def _no_tail(seen: Evidence) -> Iterator[Finding]:
    few = [m for m in seen.measurements if 0 < m.calls < _TAIL and m.told.get("p99", -1) == m.told.get("max")]
    if few:
        most = max(m.calls for m in few)
        yield _say(
            "CB-NO-TAIL",
            "note",
            f"the 99th percentile is the maximum in {len(few)} measurements: {most} calls are too few to know it",
            f"measure at least {_TAIL} calls where the tail matters",
        )


def _no_noise(seen: Evidence) -> Iterator[Finding]:
    rows = [row for row in seen.rows if row.median_us is not None]
    if rows and all(row.kind != "samples" for row in rows) and max(row.launches for row in rows) == 1:
        yield _say(
            "CB-NO-NOISE",
            "note",
            "one figure a row and no samples: how much it varies from run to run is not known",
            "import several runs of the same, or measure with samples and launches: commbench sweep",
        )


def _unchecked(seen: Evidence) -> Iterator[Finding]:
    moved = [row for row in seen.rows if row.median_us is not None and row.nbytes]
    if moved and all(row.wrong is None for row in moved):
        yield _say(
            "CB-UNCHECKED",
            "note",
            "no row says whether the data was right",
            "check it at least once on every machine (nccl-tests: -c 1; OSU: -c); fast and wrong looks like fast",
        )


def _versions(seen: Evidence) -> Iterator[Finding]:
    versions = seen.log.versions if seen.log else ()
    if len(versions) > 1:
        yield _say(
            "CB-VERSIONS",
            "warning",
            f"ranks run different versions of {seen.log.library if seen.log else 'the library'}: "
            f"{', '.join(one.name for one in versions[:_MOST])}",
            "give all hosts the same image, see LD_LIBRARY_PATH and LD_PRELOAD; several logs in one file look so too",
            evidence=(f"{one.name}: {one.count} times, line {one.line}" for one in versions),
        )


def _messages(seen: Evidence) -> Iterator[Finding]:
    messages = seen.log.messages if seen.log else ()
    if messages:
        worst: Severity = "error" if any(one.level == "error" for one in messages) else "warning"
        yield _say(
            "CB-NCCL-SAYS",
            worst,
            f"NCCL itself reports {'errors' if worst == 'error' else 'warnings'}",
            "read them first: a run that goes on after one is often on a slower way",
            evidence=(f"{one.text} ({one.count} times, line {one.line})" for one in messages),
        )


def _unread(seen: Evidence) -> Iterator[Finding]:
    origin = seen.run.origin
    if origin and origin.unread:
        yield _say(
            "CB-UNREAD",
            "warning",
            f"{origin.unread} line{'s' * (origin.unread != 1)} of the file looked like data and could not be read",
            "see unread.txt beside the run, or import it again: each line is told with the reason",
            origin.path,
        )


TRAPS: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    _wrong, _one_rank, _above_wire, _mixed_average, _low_threshold, _clamped, _fell_back, _p2p_off, _gdr_off,
    _one_nic, _debug_left, _no_tail, _no_noise, _unchecked, _versions, _messages, _unread,
)  # fmt: skip
