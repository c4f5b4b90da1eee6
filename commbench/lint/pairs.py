"""Rules about two settings, or one that needs another. Only what holds for the same programs is compared."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from msgspec.structs import replace

from commbench.lint.context import Context, Said
from commbench.lint.lists import parse
from commbench.lint.setting import Setting
from commbench.records.finding import Severity

Together = dict[str, Setting]  # what one program sees: the last of each name


Hit = tuple[Setting, str] | None  # the setting to blame, and a sentence


class Rule(NamedTuple):
    """`when` is given what one program sees."""

    when: Callable[[Together], Hit]
    next: str
    code: str = "CB-ENV-CONTRADICTION"
    severity: Severity | None = None


def _int(seen: Together, name: str) -> int | None:
    value = seen[name].value if name in seen else None
    try:
        return int(value, 0) if value else None
    except ValueError:
        return None


def _is(seen: Together, name: str, *values: str) -> bool:
    return name in seen and (seen[name].value or "").lower() in values


def _both(a: str, values: tuple[str, ...], others: tuple[str, ...], sentence: str) -> Callable[[Together], Hit]:
    """a is one of `values` and one of the others is there at all."""

    def when(seen: Together) -> Hit:
        other = next((name for name in others if name in seen and seen[name].value != ""), None)
        return (seen[other], sentence.format(a=a, b=other)) if other and _is(seen, a, *values) else None

    return when


def _order(low: str, high: str) -> Callable[[Together], Hit]:
    def when(seen: Together) -> Hit:
        least, most = _int(seen, low), _int(seen, high)
        if least is None or most is None or least <= most:
            return None
        return seen[low], f"{low} is {least} and {high} is {most}: the minimum is above the maximum"

    return when


def _with(a: str, a_is: str, b: str, b_is: str, sentence: str) -> Callable[[Together], Hit]:
    """Two values that do not go together; b is to blame."""

    def when(seen: Together) -> Hit:
        return (seen[b], sentence) if _is(seen, a, a_is) and _is(seen, b, b_is) else None

    return when


def _needs(name: str, other: str, values: tuple[str, ...] | None, sentence: str) -> Callable[[Together], Hit]:
    """`name` works only where `other` is one of `values` (None: is set); an unknown value is let pass."""

    def when(seen: Together) -> Hit:
        there = other in seen and (values is None or seen[other].value is None or _is(seen, other, *values))
        return (seen[name], sentence) if name in seen and not there else None

    return when


def _sockets(seen: Together) -> Hit:
    threads, sockets = _int(seen, "NCCL_SOCKET_NTHREADS"), _int(seen, "NCCL_NSOCKS_PERTHREAD")
    if threads is None or sockets is None or threads * sockets <= 64:
        return None
    sentence = f"{threads} threads with {sockets} sockets each are more than 64: NCCL uses {64 // threads} per thread"
    return seen["NCCL_NSOCKS_PERTHREAD"], sentence


def _routing(seen: Together) -> Hit:
    threshold, buffer = _int(seen, "NCCL_IB_AR_THRESHOLD"), _int(seen, "NCCL_BUFFSIZE") or 4 << 20
    if threshold is None or threshold <= buffer:
        return None
    return seen["NCCL_IB_AR_THRESHOLD"], "a threshold above NCCL_BUFFSIZE switches adaptive routing off altogether"


def _queues(seen: Together) -> Hit:
    pairs = _int(seen, "NCCL_IB_QPS_PER_CONNECTION")
    if pairs is None or pairs < 2 or "NCCL_IB_SPLIT_DATA_ON_QPS" in seen:
        return None
    sentence = f"{pairs} queue pairs are used in turn, one a message, since NCCL 2.20 (2.18 and 2.19 split messages)"
    return seen["NCCL_IB_QPS_PER_CONNECTION"], sentence


def _asked(algorithm: tuple[str, ...], switch: str) -> Callable[[Together], Hit]:
    def when(seen: Together) -> Hit:
        setting = seen.get("NCCL_ALGO")
        if setting is None or not setting.value or not _is(seen, switch, "0"):
            return None
        names = {n for _, inverted, names in parse(setting.value) if not inverted for n in names}
        both = names & set(algorithm)
        return (setting, f"NCCL_ALGO asks for {min(both)}, which {switch}=0 switches off") if both else None

    return when


def _log_file(seen: Together) -> Hit:
    setting = seen.get("NCCL_DEBUG_FILE")
    if setting is None or not setting.value or "%p" in setting.value or setting.value.startswith("/dev/"):
        return None
    return setting, "NCCL_DEBUG_FILE has no %p: processes overwrite each other's log"


def _aws(seen: Together) -> Hit:
    ours = any(name.startswith("OFI_NCCL_") for name in seen) or _is(seen, "FI_PROVIDER", "efa")
    setting = seen.get("NCCL_TUNER_PLUGIN")
    if not ours or setting is None or not setting.value or "ofi" in setting.value:
        return None
    return setting, "NCCL_TUNER_PLUGIN replaces the tuner inside libnccl-net-ofi"


def _rccl(seen: Together) -> Hit:
    least = _int(seen, "NCCL_MIN_NCHANNELS")
    if least is None or least <= 32 or not any(name.startswith("RCCL_") for name in seen):
        return None
    return seen["NCCL_MIN_NCHANNELS"], f"RCCL takes a minimum of {least} channels that it cannot have for 2 channels"


def _tuned(seen: Together) -> Setting | None:
    names = [n for n in seen if n.startswith("OMPI_MCA_coll_tuned_") and n.endswith(("_algorithm", "_rules_filename"))]
    return seen[names[0]] if names else None


def _dynamic(seen: Together) -> Hit:
    setting, switch = _tuned(seen), seen.get("OMPI_MCA_coll_tuned_use_dynamic_rules")
    if setting is None or (
        switch is not None and (switch.value or "1").lower() in ("1", "true", "yes", "on", "y", "t")
    ):
        return None
    return setting, f"Open MPI ignores {setting.name} unless coll_tuned_use_dynamic_rules is 1"


def _han(seen: Together) -> Hit:
    setting = _tuned(seen)
    coll = (seen["OMPI_MCA_coll"].value or "") if "OMPI_MCA_coll" in seen else ""
    without = (coll.startswith("^") and "han" in coll) or (coll and not coll.startswith("^") and "han" not in coll)
    if setting is None or without or "OMPI_MCA_coll_han_priority" in seen or "OMPI_MCA_coll_tuned_priority" in seen:
        return None
    return (
        setting,
        "from Open MPI 5.0 on, han (priority 35) is chosen before tuned (30) where ranks are on several hosts",
    )


def _mpich(seen: Together) -> Hit:
    chosen = [n for n in seen if n.startswith("MPIR_CVAR_") and n.endswith("_INTRA_ALGORITHM") and n.count("_") == 4]
    if not chosen:
        return None
    device = chosen[0].replace("_INTRA_ALGORITHM", "_DEVICE_COLLECTIVE")
    if "MPIR_CVAR_DEVICE_COLLECTIVES" in seen or device in seen:
        return None
    return seen[chosen[0]], f"the device layer of MPICH may choose its own algorithm before {chosen[0]} is asked"


_IB = (
    "NCCL_IB_HCA", "NCCL_IB_GID_INDEX", "NCCL_IB_TC", "NCCL_IB_SL", "NCCL_IB_QPS_PER_CONNECTION", "NCCL_IB_TIMEOUT",
    "NCCL_IB_SPLIT_DATA_ON_QPS", "NCCL_NET_GDR_LEVEL",
)  # fmt: skip
_OFF = ("0", "false", "no")
_SMALLER = "make the minimum the smaller one"
_NOT_BOTH = "{b} has no say while {a} is set like this"

RULES = (
    Rule(_both("NCCL_P2P_DISABLE", ("1",), ("NCCL_P2P_LEVEL",), _NOT_BOTH), "keep one"),
    Rule(_both("NCCL_IB_DISABLE", ("1",), _IB, _NOT_BOTH), "keep one"),
    Rule(_both("NCCL_NET", ("socket",), _IB[:7], _NOT_BOTH), "keep one"),
    Rule(_both("NCCL_NET_GDR_LEVEL", ("loc", "0"), ("NCCL_NET_GDR_READ",), _NOT_BOTH), "keep one"),
    Rule(_order("NCCL_MIN_CTAS", "NCCL_MAX_CTAS"), _SMALLER),
    Rule(_order("NCCL_MIN_NCHANNELS", "NCCL_MAX_NCHANNELS"), _SMALLER),
    Rule(_order("NCCL_MIN_P2P_NCHANNELS", "NCCL_MAX_P2P_NCHANNELS"), _SMALLER),
    Rule(_order("NCCL_MIN_NCHANNELS", "NCCL_MAX_CTAS"), _SMALLER),
    Rule(_order("NCCL_MIN_CTAS", "NCCL_MAX_NCHANNELS"), _SMALLER),
    Rule(_sockets, "keep the product at 64 or less"),
    Rule(_asked(("nvls", "nvlstree"), "NCCL_NVLS_ENABLE"), "change one of them"),
    Rule(_asked(("collnetdirect", "collnetchain", "collnet"), "NCCL_COLLNET_ENABLE"), "change one of them"),
    Rule(
        _with("NCCL_MNNVL_ENABLE", "1", "NCCL_CUMEM_ENABLE", "0", "NCCL_MNNVL_ENABLE=1 needs cuMem, which is off"),
        "leave NCCL_CUMEM_ENABLE out",
    ),
    Rule(
        _with(
            "NCCL_GRAPH_MIXING_SUPPORT", "1", "NCCL_GRAPH_STREAM_ORDERING", "0",
            "stream ordering may only be off where graph mixing is off",
        ),
        "set NCCL_GRAPH_MIXING_SUPPORT=0",
    ),
    Rule(_routing, "choose a threshold below NCCL_BUFFSIZE", "CB-ENV-NO-EFFECT"),
    Rule(
        _needs(
            "NCCL_DEBUG_SUBSYS", "NCCL_DEBUG", ("info", "trace", "abort"),
            "NCCL_DEBUG_SUBSYS filters what NCCL_DEBUG=INFO prints, and that is not set here",
        ),
        "leave it out, or set NCCL_DEBUG=INFO", "CB-ENV-NO-EFFECT", "note",
    ),
    Rule(
        _needs(
            "NCCL_DEBUG_FILE", "NCCL_DEBUG", ("version", "warn", "info", "trace", "abort"),
            "NCCL_DEBUG_FILE is set, but NCCL_DEBUG is not set here",
        ),
        "set NCCL_DEBUG", "CB-ENV-NO-EFFECT", "note",
    ),
    Rule(
        _needs(
            "NCCL_TUNER_CONFIG_FILE", "NCCL_TUNER_PLUGIN", None,
            "NCCL_TUNER_CONFIG_FILE is read by a tuner plugin alone, and none is named here",
        ),
        "set NCCL_TUNER_PLUGIN", "CB-ENV-NO-EFFECT",
    ),
    Rule(
        _needs(
            "NCCL_OOB_NET_IFNAME", "NCCL_OOB_NET_ENABLE", ("1",),
            "NCCL_OOB_NET_IFNAME is used with NCCL_OOB_NET_ENABLE=1 alone",
        ),
        "set NCCL_OOB_NET_ENABLE=1", "CB-ENV-NO-EFFECT",
    ),
    Rule(
        _both(
            "NCCL_IB_GID_INDEX", tuple(map(str, range(64))),
            ("NCCL_IB_ADDR_RANGE", "NCCL_IB_ADDR_FAMILY", "NCCL_IB_ROCE_VERSION_NUM"),
            "{b} chooses a GID only where {a} is not set",
        ),
        "leave one of them out", "CB-ENV-NO-EFFECT",
    ),
    Rule(
        _with(
            "NCCL_IB_QPS_PER_CONNECTION", "1", "NCCL_IB_SPLIT_DATA_ON_QPS", "1",
            "there is nothing to split over: NCCL_IB_QPS_PER_CONNECTION is 1",
        ),
        "leave one of them out", "CB-ENV-NO-EFFECT",
    ),
    Rule(
        _both(
            "TORCH_NCCL_TRACE_BUFFER_SIZE", ("0",), ("TORCH_NCCL_DUMP_ON_TIMEOUT",),
            "{b} needs a trace buffer, and {a} is 0",
        ),
        "set TORCH_NCCL_TRACE_BUFFER_SIZE above 0", "CB-ENV-NO-EFFECT",
    ),
    Rule(
        _both(
            "TORCH_NCCL_ENABLE_MONITORING", _OFF, ("TORCH_NCCL_DUMP_ON_TIMEOUT", "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC"),
            "{b} needs the monitoring thread, which {a} switches off",
        ),
        "leave TORCH_NCCL_ENABLE_MONITORING out", "CB-ENV-NO-EFFECT",
    ),
    Rule(
        _both(
            "TORCH_NCCL_ASYNC_ERROR_HANDLING", _OFF, ("TORCH_NCCL_DESYNC_DEBUG",),
            "{b} needs asynchronous error handling, which {a} switches off",
        ),
        "leave TORCH_NCCL_ASYNC_ERROR_HANDLING out", "CB-ENV-NO-EFFECT",
    ),
    Rule(_queues, "for large messages try NCCL_IB_SPLIT_DATA_ON_QPS=1, and measure", "CB-NCCL-QPS"),
    Rule(_log_file, "add %h and %p to the name", "CB-NCCL-DEBUG-FILE"),
    Rule(_aws, "leave it out, or measure against the tuner of AWS", "CB-AWS-TUNER"),
    Rule(_rccl, "leave NCCL_MIN_NCHANNELS out", "CB-RCCL-CHANNELS"),
    Rule(_dynamic, "set OMPI_MCA_coll_tuned_use_dynamic_rules=1", "CB-OMPI-DYNAMIC-RULES"),
    Rule(_han, "set OMPI_MCA_coll_han_priority=0 where the tuned choice is wanted", "CB-OMPI-HAN"),
    Rule(_mpich, "set MPIR_CVAR_DEVICE_COLLECTIVES=none where the choice must hold", "CB-MPICH-DEVICE"),
)  # fmt: skip


def scopes(settings: list[Setting]) -> Iterator[Together]:
    """What one program sees: all that holds for the file, and with it what one command or list sets."""
    wide = [s for s in settings if s.scope == 0]
    own: dict[int, list[Setting]] = {}
    for setting in settings:
        if setting.scope:
            own.setdefault(setting.scope, []).append(setting)
    yield {s.name: s for s in wide}
    for scope in own.values():
        yield {s.name: s for s in [*wide, *scope]}


def rules(context: Context) -> Iterator[Said]:
    """Every rule for every scope; the same thing is said once."""
    settings = context.document.settings
    if context.document.how == "log":  # every line is one setting of the one job
        settings = [replace(setting, scope=0) for setting in settings]
    said = set()
    for seen in list(scopes(settings))[:200]:
        for number, rule in enumerate(RULES):
            hit = rule.when(seen)
            if hit is not None and (number, hit[0].name, hit[0].line) not in said:
                said.add((number, hit[0].name, hit[0].line))
                yield context.say(rule.code, hit[0], hit[1], rule.next, rule.severity)
