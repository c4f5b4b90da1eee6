"""Rules about files that settings name or that are given: tuner CSV, Open MPI rules, MPICH JSON, DeepSpeed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from commbench.lint.context import Context, Said
from commbench.lint.lists import FUNCTIONS
from commbench.lint.setting import Setting

_LIMIT = 4 << 20
_ALGORITHMS = frozenset(["tree", "ring", "collnet_direct", "collnet_chain", "nvls", "nvls_tree", "pat"])
_PROTOCOLS = frozenset(["ll", "ll128", "simple"])
_LAST = 4_294_967_295  # what NVIDIA's example writes for `all sizes`; more is possible
_BUCKETS = ("reduce_bucket_size", "allgather_bucket_size", "stage3_prefetch_bucket_size")
_NAMES = {
    "OMPI_MCA_coll_tuned_dynamic_rules_filename": "rules",
    "MPIR_CVAR_COLL_SELECTION_TUNING_JSON_FILE": "json",
    "MPIR_CVAR_CH4_COLL_SELECTION_TUNING_JSON_FILE": "json",
    "MPIR_CVAR_CH4_POSIX_COLL_SELECTION_TUNING_JSON_FILE": "json",
    "NCCL_TUNER_CONFIG_FILE": "tuner",
}


def named(context: Context) -> Iterator[Said]:
    """Files that settings name, where they are on this machine (beside the file that names them, or absolute)."""
    for setting in context.document.settings:
        kind = _NAMES.get(setting.name)
        if kind is None or not setting.value:
            continue
        path = Path(context.document.path).parent / setting.value
        try:
            text = path.read_bytes()[:_LIMIT].decode(errors="replace") if path.is_file() else None
        except OSError:
            text = None
        if text is None:
            if context.document.how == "environment" and kind != "tuner":
                code = "CB-OMPI-RULES-FILE" if kind == "rules" else "CB-MPICH-JSON"
                yield context.say(code, setting, f"the file that {setting.name} names is not there", "correct the path")
        elif kind == "rules":
            yield from _rules(context, setting, text)
        elif kind == "json":
            yield from _mpich(context, setting, text)
        else:
            inner = Context(document=type(context.document)(path=str(path), how="shell"), nccl=context.nccl)
            yield from tuner(inner, text)


def given(context: Context, text: str) -> Iterator[Said]:
    """The file itself, where it is one of these."""
    first = next((line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")), "")
    fields = first.split(",")
    if len(fields) > 7 and (fields[0].strip().lower() in FUNCTIONS or fields[0].strip() == "collective_type"):
        yield from tuner(context, text)
    elif text.lstrip().startswith("{") and '"zero_optimization"' in text:
        try:
            root = json.loads(text)
        except (ValueError, RecursionError):
            return
        yield from _deepspeed(context, root.get("zero_optimization") if isinstance(root, dict) else None, text)


def tuner(context: Context, text: str) -> Iterator[Said]:
    """NCCL's example tuner plugin: plugins/tuner/example/plugin.c."""
    top: dict[str, tuple[int, int]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        fields = [field.strip() for field in line.split(",")]
        if not line.strip() or line.lstrip().startswith("#") or fields[0] == "collective_type":
            continue
        if len(line) > 255 or len(fields) not in (8, 9, 10):
            sentence = f"{len(fields)} fields in {len(line)} letters; the plugin reads 8 to 10 fields in 255 letters"
            yield context.say("CB-TUNER-LINE", number, sentence, "correct the line")
            continue
        for field, known, default in (
            (fields[0], FUNCTIONS, "allreduce"), (fields[3], _ALGORITHMS, "ring"), (fields[4], _PROTOCOLS, "simple"),
        ):  # fmt: skip
            if field not in known:
                sentence = f"{field[:40]!r} is not known, and silently taken for {default}"
                yield context.say("CB-TUNER-NAME", number, sentence, f"choose from {', '.join(sorted(known))}")
        if fields[5] == "-1":
            sentence = (
                "channels=-1 runs on one channel: the plugin begins by setting 1, and NCCL takes only 0 for unset"
            )
            yield context.say("CB-TUNER-CHANNELS", number, sentence, "write the number of channels")
        if fields[2].isdigit() and int(fields[2]) > top.get(fields[0], (-1, 0))[0]:
            top[fields[0]] = int(fields[2]), number
    for name, (largest, number) in sorted(top.items()):
        if largest < _LAST:
            sentence = f"no row for {name} above {largest} bytes: those sizes run on one channel"
            yield context.say("CB-TUNER-HOLE", number, sentence, "add a row up to 9223372036854775807")


def _rules(context: Context, setting: Setting, text: str) -> Iterator[Said]:
    problem = rules_problem(text)
    if problem:
        sentence = f"{setting.value}: {problem}; Open MPI uses its fixed rules without a message"
        yield context.say("CB-OMPI-RULES-FILE", setting, sentence, "correct the file")


def rules_problem(text: str) -> str | None:
    """What is wrong with a classic rules file (docs/tuning-apps/collectives/tuned.rst); None where nothing is."""
    if text.lstrip().startswith("{"):
        return "JSON rules are read by Open MPI 6 alone"
    lines = [line.partition("#")[0] for line in text.splitlines()]
    version = next((line.strip() for line in lines if line.strip()), "")
    wide = 5 if version.startswith("rule-file-version-2") else 4
    numbers = " ".join(line for line in lines if not line.strip().startswith("rule-file-version")).split()
    if not all(word.lstrip("-").isdigit() for word in numbers):
        return "something in it is not a number"
    tokens = iter(map(int, numbers))
    try:
        for _ in range(next(tokens)):
            if not 0 <= next(tokens) <= 21:
                return "a collective has an unknown number"
            for _ in range(next(tokens)):
                next(tokens)
                previous = -1
                for rule in range(next(tokens)):
                    size, *_ = [next(tokens) for _ in range(wide)]
                    if (not rule and size) or size <= previous:
                        return "the rules of a communicator size do not begin at 0 bytes and ascend"
                    previous = size
    except StopIteration:
        return "it ends too early"
    return "there is more in it than its counts say" if next(tokens, None) is not None else None


def _mpich(context: Context, setting: Setting, text: str) -> Iterator[Said]:
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        yield context.say("CB-MPICH-JSON", setting, f"{setting.value} is not JSON: {error}", "correct the file")


def _deepspeed(context: Context, zero: Any, text: str) -> Iterator[Said]:
    if not isinstance(zero, dict):
        return
    for name in _BUCKETS:
        size = zero.get(name)
        if isinstance(size, bool) or not isinstance(size, int | float) or not size > 0:
            continue
        line = text.count("\n", 0, max(text.find(f'"{name}"'), 0)) + 1
        if size < 10_000:
            sentence = f"{name} is {size:g} elements, a few kB: it is counted in elements, not in MB"
            yield context.say("CB-DS-ELEMENTS", line, sentence, "write elements, as in 500000000")
        elif size >= 1 << 20 and size % (1 << 20) == 0:
            sentence = (
                f"{name} is {size:g} elements, {2 * size / (1 << 20):g} MiB in 16 bits: it looks like a number of bytes"
            )
            yield context.say("CB-DS-ELEMENTS", line, sentence, "divide by the bytes of an element", "note")
    if zero.get("stage") == 3 and "allgather_bucket_size" in zero:
        line = text.count("\n", 0, max(text.find('"allgather_bucket_size"'), 0)) + 1
        sentence = "allgather_bucket_size does nothing in stage 3"
        yield context.say("CB-ENV-NO-EFFECT", line, sentence, "use stage3_prefetch_bucket_size")
