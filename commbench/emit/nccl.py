"""Tuner files of NCCL, RCCL and NCCLX.

The grammar is that of the parsers: NVIDIA plugins/tuner/example/plugin.c (8 to 10 fields, fgets of 256 bytes, unknown
names silently taken as allreduce, ring, simple), torchcomms comms/ncclx/meta/tuner (7 to 10 fields, intervals, strict).
"""

from commbench.emit.target import Line, Place, number, only, rules_for, why
from commbench.errors import SpecError
from commbench.records.recommendation import Recommendation, Rule

COLLECTIVES = {
    "all_reduce": "allreduce",
    "all_gather": "allgather",
    "reduce_scatter": "reducescatter",
    "broadcast": "broadcast",
    "reduce": "reduce",
}
ALGORITHMS = {
    "tree": "tree",
    "ring": "ring",
    "collnetdirect": "collnet_direct",
    "collnetchain": "collnet_chain",
    "nvls": "nvls",
    "nvlstree": "nvls_tree",
    "pat": "pat",
}
PROTOCOLS = ("ll", "ll128", "simple")
CHANNELS = (("NCCL_MIN_CTAS", "NCCL_MAX_CTAS"), ("NCCL_MIN_NCHANNELS", "NCCL_MAX_NCHANNELS"))
_COLUMNS = "collective_type,min_bytes,max_bytes,algorithm,protocol,channels,nNodes,nRanks,numPipeOps,regBuff"


def choice(rule: Rule, form: str) -> tuple[str, str, str, int | None]:
    """(collective, algorithm, protocol, channels or None) of a rule. SpecError where the tuner cannot say it."""
    settings = only(rule, ("NCCL_ALGO", "NCCL_PROTO", *(name for pair in CHANNELS for name in pair)), form)
    if rule.op not in COLLECTIVES:
        raise SpecError(f"{form}: a tuner is not asked about {rule.op}; it knows {', '.join(COLLECTIVES)}")
    algorithm = ALGORITHMS.get(settings.get("NCCL_ALGO", "").lower().replace("_", ""))
    protocol = settings.get("NCCL_PROTO", "").lower()
    if algorithm is None or protocol not in PROTOCOLS:
        raise SpecError(
            f"{form}: a row needs one algorithm and one protocol; {rule.op} from {rule.min_bytes} bytes has "
            f"NCCL_ALGO={settings.get('NCCL_ALGO', '')!r} and NCCL_PROTO={settings.get('NCCL_PROTO', '')!r}"
        )
    for low, high in CHANNELS:
        if low in settings or high in settings:
            if settings.get(low) != settings.get(high):
                raise SpecError(f"{form}: a row has one number of channels; {low} and {high} differ or one is missing")
            return COLLECTIVES[rule.op], algorithm, protocol, number(low, settings[low])
    return COLLECTIVES[rule.op], algorithm, protocol, None


def csv(recommendation: Recommendation, _: Place) -> list[Line]:
    """Ten columns. Channels that were not measured are 0, unset for NCCL; -1 means one channel in NVIDIA's example."""
    lines = [Line(f"# {_COLUMNS}")]
    for rule in rules_for(recommendation, "nccl"):
        collective, algorithm, protocol, channels = choice(rule, "the tuner's CSV")
        row = f"{collective},{rule.min_bytes},{rule.max_bytes},{algorithm},{protocol},{channels or 0}"
        lines.append(Line(f"{row},{rule.nodes or -1},{rule.ranks},-1,-1", why(rule)))
    return lines


def ncclx(recommendation: Recommendation, _: Place) -> list[Line]:
    """Seven columns, those that every version of the tuner reads; sizes are bytes per rank, as intervals."""
    lines = [Line("# collective,bytesPerRank,algorithm,protocol,channels,nNodes,nLocalRanks")]
    for rule in rules_for(recommendation, "nccl"):
        collective, algorithm, protocol, channels = choice(rule, "NCCLX's CSV")
        nodes = rule.nodes or number("hosts", recommendation.machine.get("hosts", "0"))
        if not nodes or rule.ranks % nodes:
            hosts = f"{rule.ranks} ranks on {nodes or 'unknown'} hosts"
            raise SpecError(f"NCCLX's CSV counts ranks per host, and {hosts} have no such number")
        # The tuner divides by the number of ranks and drops the rest.
        low, high = -(-rule.min_bytes // rule.ranks), rule.max_bytes // rule.ranks
        if low > high:
            raise SpecError(f"NCCLX's CSV counts bytes per rank; {rule.min_bytes} to {rule.max_bytes} hold none")
        count = -1 if channels is None else channels
        row = f"{collective},[{low},{high}],{algorithm},{protocol},{count},{nodes},{rule.ranks // nodes}"
        lines.append(Line(row, why(rule)))
    return lines
