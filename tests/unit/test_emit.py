"""Every target's file, read back by a parser as strict as its library's is lax, and every refusal."""

import json
import os
import re
import shlex
from collections.abc import Mapping
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from real_data import real

from commbench import emit
from commbench.cli.emit import command
from commbench.emit import mpich, refuse
from commbench.errors import FolderError, MissingLibrary, SpecError
from commbench.jobs.tune import read as read_search
from commbench.jobs.verify import Request, verify
from commbench.records import Host, Machine
from commbench.records.recommendation import (
    NAME,
    BucketPlan,
    Recommendation,
    Rule,
    decode,
    differences,
    encode,
    facts_of,
    read,
    versions_of,
)
from commbench.spec.tune import load

HERE = Path("/somewhere")
RING = (("coll_tuned_allreduce_algorithm", "4"),)
NCCL = (("NCCL_ALGO", "Ring"), ("NCCL_PROTO", "Simple"))
MPICH_RING = (("MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM", "ring"),)


def rule(settings: tuple[tuple[str, str], ...] = RING, low: int = 65536, high: int = 2**20, **more: Any) -> Rule:
    fields: dict[str, Any] = {"op": "all_reduce", "ranks": 4, "baseline_us": 1000.0, "time_us": 640.0, "gain_low": 0.33}
    fields |= {"gain": 0.36, "gain_high": 0.39, "evidence": ("0123456789abcdef",)}
    return Rule(settings=settings, min_bytes=low, max_bytes=high, **(fields | more))


def plan(*sizes: int, **more: Any) -> BucketPlan:
    fields: dict[str, Any] = {"model": "gpt", "ranks": 4, "baseline_us": 5e5, "step_us": 4e5, "gain_low": 0.15}
    return BucketPlan(bucket_bytes=sizes, **(fields | {"gain": 0.2, "gain_high": 0.25} | more))


def made(*parts: Rule | BucketPlan, **more: Any) -> Recommendation:
    fields: dict[str, Any] = {
        "name": "star4",
        "created": "2026-11-23T00:00:00+00:00",
        "expires": "2999-01-01T00:00:00+00:00",
        "machine": {"hosts": "4", "ranks": "4"},
        "versions": {"torch": "2.13.0"},
        "data_sha256": "ab" * 32,
        "rules": tuple(part for part in parts if isinstance(part, Rule)),
        "buckets": tuple(part for part in parts if isinstance(part, BucketPlan)),
    }
    return Recommendation(**(fields | more))


def text(recommendation: Recommendation, target: str, folder: Path = HERE, library: Path | None = None) -> str:
    name = emit.target(target).file
    return emit.emit(recommendation, target, emit.Place(folder, name, library))[name]


# Parsers: what they do not know is an error.


def tuner_rows(content: str) -> list[dict[str, Any]]:
    """NVIDIA's grammar, without its silent defaults."""
    found = []
    for line in content.splitlines():
        assert len(line) < 255
        if not line or line.startswith("#"):
            continue
        fields = line.split(",")
        assert len(fields) == 10, line
        assert fields[0] in {"allreduce", "allgather", "reducescatter", "broadcast", "reduce"}
        assert fields[3] in {"tree", "ring", "collnet_direct", "collnet_chain", "nvls", "nvls_tree", "pat"}
        assert fields[4] in {"ll", "ll128", "simple"}
        numbers = [int(fields[at]) for at in (1, 2, 5, 6, 7, 8, 9)]
        assert 0 <= numbers[0] <= numbers[1]
        names = ("low", "high", "channels", "nodes", "ranks", "pipe", "registered")
        found.append(
            {"op": fields[0], "algorithm": fields[3], "protocol": fields[4], **dict(zip(names, numbers, strict=True))}
        )
    return found


def classic_rules(content: str) -> dict[int, dict[int, list[tuple[int, int, int, int]]]]:
    """Open MPI's classic file: collective -> communicator size -> (bytes, algorithm, fan, segment)."""
    numbers = [int(word) for line in content.splitlines() for word in line.split("#")[0].split()]
    take = iter(numbers)
    found: dict[int, dict[int, list[tuple[int, int, int, int]]]] = {}
    for _ in range(next(take)):
        collective = next(take)
        assert collective in set(range(22)) - set(found)
        found[collective] = {}
        for _ in range(next(take)):
            size, count = next(take), next(take)
            assert size not in found[collective]
            rows = [(next(take), next(take), next(take), next(take)) for _ in range(count)]
            assert rows[0][0] == 0
            assert [row[0] for row in rows] == sorted({row[0] for row in rows})
            found[collective][size] = rows
        assert list(found[collective]) == sorted(found[collective])
    assert next(take, None) is None, "numbers that nobody reads"
    return found


def classic_choice(rules: dict[int, list[tuple[int, int, int, int]]], ranks: int, nbytes: int) -> int:
    """The algorithm that Open MPI takes: nearest lower key, twice."""
    key = max((size for size in rules if size <= ranks), default=min(rules))
    return max(row for row in rules[key] if row[0] <= nbytes)[1]


def walk(tree: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The algorithm that MPICH takes: the first condition of a level that holds (csel.c)."""
    for key, below in tree.items():
        name, sign, value = re.fullmatch(r"(\w+?)(<=|<|=)(.+)", key).groups()  # type: ignore[union-attr]
        if name == "algorithm":
            return str(value)
        if value == "any":
            return walk(below, facts)
        if value == "pow2":
            size = facts["comm_size"]
            held = size & (size - 1) == 0 if name == "comm_size" else facts["count"] < 2 ** (size.bit_length() - 1)
        elif sign == "=":
            held = facts[name] == value
        else:
            held = facts[name] <= int(value) if sign == "<=" else facts[name] < int(value)
        if held:
            return walk(below, facts)
    raise AssertionError(f"no condition holds among {list(tree)}")


def facts(nbytes: int, ranks: int = 4, **more: Any) -> dict[str, Any]:
    total = {"avg_msg_size": nbytes, "total_msg_size": nbytes, "count": nbytes // 4, "comm_size": ranks}
    return {
        **total,
        "is_commutative": "yes",
        "is_op_built_in": "yes",
        "comm_hierarchy": "node",
        "comm_type": "intra",
        **more,
    }


LIBRARY_TREE: dict[str, dict[str, Any]] = {
    "collective=allreduce": {
        "comm_type=intra": {
            "comm_size<8": {"algorithm=small": {}},
            "comm_size=any": {"avg_msg_size<=8": {"algorithm=tiny": {}}, "avg_msg_size=any": {"algorithm=own": {}}},
        },
        "comm_type=inter": {"algorithm=inter": {}},
    },
    **{f"collective=other{index}": {"comm_type=intra": {"algorithm=x": {}}} for index in range(40)},
}


WORDS = b"\0algorithm=MPIR_Allreduce_intra_ring\0algorithm=MPIR_Allgather_intra_ring\0tail"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """What is in MPICH's library: three trees among other bytes, of which one is whole."""
    part = {key: LIBRARY_TREE[key] for key in list(LIBRARY_TREE)[:4]}
    trees = [json.dumps(tree, separators=(",", ":")).encode() for tree in (part, LIBRARY_TREE)]
    path = tmp_path / "libmpi.so.12"
    path.write_bytes(b"\x7fELF\0" + b"\0".join(trees) + WORDS)
    return path


# Round trips.


def test_every_target_has_a_header_and_reasons(library: Path) -> None:
    sharded = plan(2**20, modules=("layers.0",))
    parts = {
        "nccl": made(rule(NCCL), notes=("evil \x1b[31m\nname",)),
        "mpich": made(rule(MPICH_RING)),
        "openmpi": made(rule()),
    }
    for name, one in emit.TARGETS.items():
        which = (
            made(sharded, busbw_gbps={"inter_node": 0.1})
            if one.kind != "rules"
            else parts.get(one.library, made(rule()))
        )
        files = emit.emit(which, name, emit.Place(HERE, one.file, library))
        words = files[one.file] if one.mark else files[f"{one.file}.provenance.txt"]
        for expected in ("sha256 " + "ab" * 32, "expires 2999", which.fingerprint, "torch 2.13.0", "bitwise-changing"):
            assert expected in words, (name, expected)
        assert re.search(r"(36\.0|20\.0) % \(\d+\.\d to \d+\.\d\)", words), name
        assert "\x1b" not in words


def test_tuner_rows_keep_the_default_number_of_channels() -> None:
    wide = rule((*NCCL, ("NCCL_MIN_CTAS", "8"), ("NCCL_MAX_CTAS", "8")), low=2**20 + 1, high=2**33, nodes=2)
    rows = tuner_rows(text(made(rule(NCCL), wide), "nccl-csv"))
    assert [(row["low"], row["high"], row["channels"], row["nodes"], row["ranks"]) for row in rows] == [
        (65536, 2**20, 0, -1, 4),
        (2**20 + 1, 2**33, 8, 2, 4),
    ]
    assert {(row["op"], row["algorithm"], row["protocol"]) for row in rows} == {("allreduce", "ring", "simple")}
    assert tuner_rows(text(made(rule(NCCL)), "rccl")) == rows[:1]


def test_the_parser_of_this_test_reads_the_real_tuner_files() -> None:
    assert len(tuner_rows(real("tuner/rccl-tuner-gfx950.conf").read_text())) > 100
    pico = classic_rules(real("tuner/ompi-dynamic-rules-pico.txt").read_text())
    assert classic_choice(pico[6], 2, 100) == 3


def test_ncclx_counts_bytes_per_rank() -> None:
    content = text(made(rule(NCCL, op="all_gather", nodes=2)), "ncclx")
    line = next(line for line in content.splitlines() if not line.startswith("#"))
    assert line == "allgather,[16384,262144],ring,simple,-1,2,2"
    with pytest.raises(SpecError, match="3 hosts"):
        text(made(rule(NCCL, nodes=3)), "ncclx")


def test_classic_rules_end_where_the_measurement_ends() -> None:
    rules = classic_rules(text(made(rule(), rule(RING[:0], 2**20 + 1, 2**22)), "openmpi"))[2]
    chosen = {
        (ranks, size): classic_choice(rules, ranks, size) for ranks in (1, 2, 4, 5, 64) for size in (0, 65536, 2**21)
    }
    assert {key for key, algorithm in chosen.items() if algorithm} == {(4, 65536)}
    assert chosen[4, 65536] == 4


@settings(max_examples=int(os.environ.get("COMMBENCH_EXAMPLES", "60")), deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 2**31 - 1), st.integers(1, 6)), max_size=6, unique_by=lambda pair: pair[0]),
    st.data(),
)
def test_files_say_what_the_rules_say(cuts: list[tuple[int, int]], data: st.DataObject) -> None:
    """Any rules, any size: the files of Open MPI choose the rule's algorithm inside it, and none outside."""
    bounds = sorted(cuts)
    rules = [
        rule((("coll_tuned_allreduce_algorithm", str(algorithm)),), low, high[0] - 1)
        for (low, algorithm), high in pairwise(bounds)
        if data.draw(st.booleans())
    ]
    if not rules:
        return
    read_back = classic_rules(text(made(*rules), "openmpi"))[2]
    sets = json.loads(text(made(*rules), "openmpi-json"))["collectives"]["allreduce"]
    for nbytes in [
        data.draw(st.integers(0, 2**31)),
        *(rule.min_bytes for rule in rules),
        *(rule.max_bytes for rule in rules),
    ]:
        expected = next((int(one.settings[0][1]) for one in rules if one.min_bytes <= nbytes <= one.max_bytes), 0)
        assert classic_choice(read_back, 4, nbytes) == expected
        rows = [row for some in sets if some["comm_size_min"] <= 4 <= some["comm_size_max"] for row in some["rules"]]
        assert next((row["alg"] for row in rows if row["msg_size_min"] <= nbytes <= row["msg_size_max"]), 0) == expected


def test_mpich_keeps_its_own_decisions_elsewhere(library: Path) -> None:
    tree = json.loads(text(made(rule(MPICH_RING)), "mpich", library=library))
    assert set(tree) == set(LIBRARY_TREE)
    assert tree["collective=other7"] == LIBRARY_TREE["collective=other7"]
    own = tree["collective=allreduce"]
    assert own["comm_type=inter"] == {"algorithm=inter": {}}
    assert walk(own, facts(65536)) == walk(own, facts(2**20)) == "MPIR_Allreduce_intra_ring"
    assert walk(own, facts(65536, is_commutative="no")) == "small"
    assert {walk(own, facts(size)) for size in (0, 65535, 2**20 + 1)} == {"small"}
    for ranks in (1, 2, 3, 5, 8, 100):
        before = LIBRARY_TREE["collective=allreduce"]
        assert walk(own, facts(2**17, ranks)) == walk(before, facts(2**17, ranks))


def test_mpich_file_never_fills_its_last_page(library: Path) -> None:
    """The library maps the file and looks for the end of the text."""

    def length(padding: int) -> int:
        padded = {**LIBRARY_TREE, "collective=pad": {"a" * padding: {}}}
        library.write_bytes(b"\0" + json.dumps(padded).encode() + WORDS)
        document = text(made(rule(MPICH_RING)), "mpich", library=library)
        json.loads(document)
        return len(document)

    whole = 100 + -length(100) % 4096
    assert [length(whole + more) % 4096 for more in (-1, 0, 1)] == [4095, 1, 1]


def test_mpich_algorithm_that_this_library_does_not_know_is_refused(library: Path) -> None:
    """MPICH 5.0 has circ_graph as a variable and aborts where its file names it."""
    one = rule((("MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM", "recexch"),))
    with pytest.raises(SpecError, match="does not know 'algorithm=MPIR_Allreduce_intra_recexch'"):
        text(made(one), "mpich", library=library)


def test_mpich_without_its_library_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingLibrary, match="--library"):
        text(made(rule(MPICH_RING)), "mpich")
    (tmp_path / "libmpi.so.12").write_bytes(b"\x7fELF nothing")
    with pytest.raises(MissingLibrary, match="no decisions"):
        text(made(rule(MPICH_RING)), "mpich", library=tmp_path / "libmpi.so.12")


def test_variables_switch_the_rules_file_on(library: Path) -> None:
    both = made(rule(), rule(NCCL), rule(MPICH_RING))
    folder = Path("/a b/'c")
    files = emit.emit(both, "env", emit.Place(folder, "env.sh", library))
    assert set(files) >= {"env.sh", "openmpi-rules.conf", "mpich-tuning.json", "nccl-tuner.csv"}
    exports = [shlex.split(line) for line in files["env.sh"].splitlines() if line and not line.startswith("#")]
    found = dict(words[1].split("=", 1) for words in exports)
    assert all(words[0] == "export" and len(words) == 2 for words in exports)
    assert found["OMPI_MCA_coll_tuned_dynamic_rules_filename"] == "/a b/'c/openmpi-rules.conf"
    assert found["OMPI_MCA_coll_han_priority"] == "0"  # four hosts
    assert found["MPIR_CVAR_ALLREDUCE_DEVICE_COLLECTIVE"] == "0"
    assert found["NCCL_TUNER_CONFIG_FILE"].endswith("nccl-tuner.csv")
    alone = made(rule(), machine={"hosts": "1"})
    assert "coll_han_priority" not in text(alone, "env")
    asked = made(rule((*RING, ("coll_han_priority", "0"))), machine={})
    assert "export OMPI_MCA_coll_han_priority=0" in text(asked, "env")


WITHOUT_HAN = rule((("coll_han_priority", "0"),))
LARGE_RING = rule((*RING, ("coll_han_priority", "0")), 2**20 + 1, 2**24)


def test_a_rule_that_only_takes_han_away_is_a_part_of_the_rules_file() -> None:
    """It is raced over several hosts always. Inside it tuned decides, as outside the rules, and a ring needs it too."""
    both = made(WITHOUT_HAN, LARGE_RING)
    rules = classic_rules(text(both, "openmpi"))[2]
    assert [classic_choice(rules, 4, nbytes) for nbytes in (1, 65536, 2**20, 2**20 + 1, 2**24, 2**25)] == [
        *(0, 0, 0),
        *(4, 4, 0),
    ]
    assert "tuned's own decision, without han. all_reduce on 4 ranks: 1000 us by default" in text(both, "openmpi")
    (sets,) = json.loads(text(both, "openmpi-json"))["collectives"]["allreduce"]
    assert sets["rules"] == [{"msg_size_min": 2**20 + 1, "msg_size_max": 2**24, "alg": 4}]
    other = made(msgspec.structs.replace(WITHOUT_HAN, op="broadcast"), LARGE_RING)
    assert list(json.loads(text(other, "openmpi-json"))["collectives"]) == ["allreduce"]
    assert "export OMPI_MCA_coll_han_priority=0" in text(both, "env").splitlines()


def test_what_goes_with_han_is_said_in_every_file_that_takes_it_away(library: Path) -> None:
    """Sizes and collectives without a rule lose it too, and were never measured as their default."""
    for name in ("openmpi", "env", "slurm", "k8s", "openmpi-json"):
        for one in (made(rule()), made(WITHOUT_HAN, LARGE_RING, machine={})):
            content = "".join(emit.emit(one, name, emit.Place(HERE, emit.target(name).file)).values())
            assert "without a rule lose han too" in re.sub(r"\s+# |\s+", " ", content), name
            assert any("lose han too" in line for line in emit.header(one, name))
    near = made(rule(), machine={"hosts": "1"})
    assert not [line for line in emit.header(near, "env") if line.startswith("reach")]
    assert not [line for line in emit.header(made(rule(), rule(MPICH_RING)), "mpich") if "han too" in line]
    assert [line for line in emit.header(made(rule(MPICH_RING)), "env") if "lose its choice too" in line]
    assert not [line for line in emit.header(made(rule(NCCL)), "env") if line.startswith("reach")]


def test_han_alone_is_no_file_and_a_variable_only_where_whole_processes_were_raced() -> None:
    for name in ("openmpi", "openmpi-json", "env", "slurm", "k8s"):
        with pytest.raises(SpecError, match=r"candidates: \[\{OMPI_MCA_coll_han_priority: 0\}\]"):
            text(made(WITHOUT_HAN), name)
    whole = text(made(rule((("OMPI_MCA_coll_han_priority", "0"),))), "env")
    assert "export OMPI_MCA_coll_han_priority=0" in whole.splitlines()
    assert "slower at no measured size" in whole
    with pytest.raises(SpecError, match="coll_han_priority is 90 in one rule and 0 in another"):
        text(made(rule((*RING, ("coll_han_priority", "90"))), LARGE_RING), "env")


@pytest.mark.parametrize(
    ("settings", "target", "named"),
    [
        ((*RING, ("coll_tuned_allreduce_algorithm_segmentsize", "16KiB")), "openmpi", "segmentsize=16KiB"),
        ((*RING, ("coll_tuned_allreduce_algorithm_tree_fanout", "-1")), "env", "tree_fanout=-1"),
        ((("coll_tuned_allreduce_algorithm", "²"),), "openmpi-json", "algorithm=²"),
        ((("coll_tuned_allreduce_algorithm_segmentsize", "9"),), "openmpi", "algorithm is not set"),
        ((*NCCL, ("NCCL_MIN_CTAS", "x"), ("NCCL_MAX_CTAS", "x")), "nccl-csv", "NCCL_MIN_CTAS=x"),
        ((*NCCL, ("NCCL_MIN_CTAS", "9" * 5000), ("NCCL_MAX_CTAS", "9" * 5000)), "rccl", "NCCL_MIN_CTAS=9"),
        ((("MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM", "recexch"), ("MPIR_CVAR_ALLREDUCE_RECEXCH_KVAL", "two")), "mpich",
         "KVAL=two"),
    ],
)  # fmt: skip
def test_a_setting_that_is_no_number_is_named(
    settings: tuple[tuple[str, str], ...], target: str, named: str, library: Path
) -> None:
    with pytest.raises(SpecError, match=named):
        text(made(rule(settings)), target, library=library)


def test_hosts_that_are_no_number_are_named() -> None:
    with pytest.raises(SpecError, match="hosts=many"):
        text(made(rule(NCCL), machine={"hosts": "many"}), "ncclx")


def test_what_a_setting_needs_in_order_to_be_obeyed_is_set_too(library: Path) -> None:
    """In every target that is an environment."""
    for name in ("env", "slurm", "k8s"):
        content = text(made(rule(), rule(MPICH_RING)), name, library=library)
        for needed in ("OMPI_MCA_coll_tuned_use_dynamic_rules", "MPIR_CVAR_ALLREDUCE_DEVICE_COLLECTIVE"):
            assert needed in content, (name, needed)
    # A setting may be called as the environment calls it.
    full = tuple((f"OMPI_MCA_{name}", value) for name, value in RING)
    assert text(made(rule(full)), "openmpi") == text(made(rule()), "openmpi")
    assert text(made(rule(full)), "env") == text(made(rule()), "env")


def test_a_setting_of_no_size_is_a_variable() -> None:
    """Raced by launches, one value for a whole process; what was chosen by size in a process is none."""
    lone = text(made(rule((("OMPI_MCA_coll_tuned_priority", "90"),))), "env")
    assert [line for line in lone.splitlines() if line.startswith("export")] == [
        "export OMPI_MCA_coll_tuned_priority=90"
    ]
    for name in ("env", "slurm", "k8s"):
        with pytest.raises(SpecError, match=r"may be slower; .*candidates: \[\{OMPI_MCA_coll_tuned_priority: 90\}\]"):
            text(made(rule((("coll_tuned_priority", "90"),))), name)
    with pytest.raises(SpecError, match=r"holds for all sizes and collectives, where it may be slower$"):
        text(made(rule((("MPIR_CVAR_ALLREDUCE_INTER_ALGORITHM", "nb"),))), "env")


def test_a_variable_never_reaches_further_than_its_rules() -> None:
    small, large = (rule((("NCCL_BUFFSIZE", size),), low, low) for low, size in ((8, "1048576"), (16, "8388608")))
    assert "export NCCL_BUFFSIZE=1048576" in text(made(small), "env")
    with pytest.raises(SpecError, match="NCCL_BUFFSIZE differs between sizes"):
        text(made(small, large), "env")
    with pytest.raises(SpecError, match="no place for NCCL_BUFFSIZE"):
        text(made(rule((*NCCL, ("NCCL_BUFFSIZE", "1")))), "nccl-csv")


def test_kubernetes_carries_the_file() -> None:
    first, second = yaml.safe_load_all(text(made(rule()), "k8s"))
    assert first["kind"] == second["kind"] == "ConfigMap"
    assert all(isinstance(value, str) for value in first["data"].values())
    assert classic_rules(second["data"]["openmpi-rules.conf"]) == classic_rules(text(made(rule()), "openmpi"))


def run(content: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(content, "emitted", "exec"), names)
    return names


def test_ddp_says_what_happens_to_the_first_bucket() -> None:
    content = text(made(plan(4 * 2**20, gradient_as_bucket_view=True)), "ddp")
    names = run(content)
    assert names["ddp_kwargs"](4) == {"bucket_cap_mb": 4.0, "gradient_as_bucket_view": True}
    assert "first bucket of 1 MiB" in content
    with pytest.raises(ValueError, match="for 4 ranks, not 8"):
        names["ddp_kwargs"](8)


def test_ddp_list_is_exact_and_needs_a_torch_that_has_it() -> None:
    sizes = (2**20, 5_000_000, 7_777_777)
    caps = run(text(made(plan(*sizes)), "ddp"))["DDP_KWARGS"]["bucket_cap_mb_list"]
    assert [int(cap * 1024 * 1024) for cap in caps] == list(sizes)
    for version in ("2.11.0", "unknown"):
        with pytest.raises(SpecError, match="or newer; here is"):
            text(made(plan(*sizes), versions={"torch": version}), "ddp")


def test_deepspeed_counts_elements_and_megatron_parameters() -> None:
    half = made(plan(80_000_000, dtype="bfloat16"))
    assert json.loads(text(half, "deepspeed")) == {"zero_optimization": {"reduce_bucket_size": 40_000_000}}
    lines = [line.strip() for line in text(half, "megatron").splitlines() if not line.strip().startswith("#")]
    assert lines == [
        "MEGATRON_ARGS=(",
        "--overlap-grad-reduce",
        "--ddp-bucket-size 40000000",
        "--grad-reduce-in-bf16",
        ")",
    ]
    assert "--ddp-bucket-size 20000000" in text(made(plan(80_000_000)), "megatron")
    for target in ("deepspeed", "megatron"):
        with pytest.raises(SpecError, match="one size for all buckets"):
            text(made(plan(1000, 2000)), target)


def test_a_gain_that_needs_more_than_a_size_is_not_claimed_for_the_size() -> None:
    """A hook, a flag: of such a plan a framework with a size alone gets the best single size that is proved."""
    alone = plan(2**22, gain=0.12, gain_low=0.1, gain_high=0.14)
    for more in ({"hook": "powersgd"}, {"static_graph": True}, {"gradient_as_bucket_view": False}):
        whole = plan(5 * 2**20, **more)
        for target in ("deepspeed", "megatron", "inductor"):
            with pytest.raises(SpecError, match=r"no single size is proved alone|no uniform plan"):
                text(made(whole), target)
            kept = made(msgspec.structs.replace(whole, uniform=alone, numerics="changes-convergence"))
            said = "".join(emit.emit(kept, target, emit.Place(HERE, "file")).values())
            assert "12.0 % (10.0 to 14.0) less time" in said
            assert "20.0 %" not in said
            assert "changes-convergence" not in said
        assert "20.0 % (15.0 to 25.0) less time" in text(made(whole), "ddp")
    assert json.loads(text(kept, "deepspeed")) == {"zero_optimization": {"reduce_bucket_size": 2**20}}
    assert "4.0" in text(kept, "inductor")


def test_the_bandwidths_of_torch_compile_claim_no_gain_of_rules() -> None:
    content = text(made(rule(), busbw_gbps={"inter_node": 0.1}), "inductor")
    assert "no gain of its own" in content
    assert "36.0 %" not in content


def test_a_hook_alone_is_written_for_ddp() -> None:
    names = run(content := text(made(plan(hook="bf16")), "ddp"))
    assert (names["ddp_kwargs"](4), names["COMM_HOOK"]) == ({}, "bf16")
    assert "20.0 % (15.0 to 25.0) less" in content
    with pytest.raises(SpecError, match="changes nothing that DDP has an argument for"):
        text(made(plan()), "ddp")


def test_fsdp2_needs_modules() -> None:
    names = run(text(made(plan(modules=("h.0", "h.1"), prefetch=1)), "fsdp2"))
    assert names["MODULES"] == ["h.0", "h.1"]
    assert names["PREFETCH"] == 1
    assert callable(names["shard"])
    with pytest.raises(SpecError, match="no bucket size"):
        text(made(plan(2**20)), "fsdp2")


# Refusals.


def test_the_library_of_mpich_is_found_beside_its_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("bin", "own/bin", "lib", "own/lib64", "none/bin"):
        (tmp_path / folder).mkdir(parents=True)
    for program in ("bin/mpichversion", "own/bin/mpiexec", "none/bin/srun"):
        (tmp_path / program).write_text("")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr("sys.prefix", str(tmp_path / "none"))
    assert mpich.installed() is None
    for library in ("lib/libmpi.so.12.3.0", "own/lib64/libmpi.so.12"):
        (tmp_path / library).write_text("")
    assert mpich.installed() == tmp_path / "lib/libmpi.so.12.3.0"
    assert mpich.installed(str(tmp_path / "own/bin/mpiexec")) == tmp_path / "own/lib64/libmpi.so.12"
    assert mpich.installed(str(tmp_path / "none/bin/srun")) == tmp_path / "lib/libmpi.so.12.3.0"


def test_unknown_target_names_the_nearest() -> None:
    with pytest.raises(SpecError, match="did you mean 'openmpi'"):
        emit.target("openmpii")


def test_what_is_not_proven_is_left_out() -> None:
    unsure = rule(low=2**21, high=2**22, gain_low=-0.01)
    assert "2097152 4" not in text(made(rule(), unsure), "openmpi")
    with pytest.raises(SpecError, match="no gain is proven"):
        text(made(unsure), "openmpi")
    with pytest.raises(SpecError, match="no gain of a bucket plan is proven"):
        text(made(plan(2**20, gain_low=-0.1)), "ddp")


def test_the_wrong_target_is_told_what_there_is() -> None:
    with pytest.raises(SpecError, match="holds rules for openmpi"):
        text(made(rule()), "nccl-csv")
    with pytest.raises(SpecError, match="keep the default: ties everywhere"):
        text(made(keep_default="ties everywhere"), "ddp")


def test_rules_that_overlap_are_refused() -> None:
    with pytest.raises(SpecError, match="overlap at 1048576"):
        text(made(rule(), rule(low=2**20, high=2**21)), "openmpi")


def test_ll128_needs_the_table() -> None:
    forced = made(rule((("NCCL_PROTO", "LL128"),)))
    tuned = made(rule((("NCCL_ALGO", "Ring"), ("NCCL_PROTO", "LL128"))))
    refuse.ll128(tuned)  # the tuner looks into the table itself
    with pytest.raises(SpecError, match="is not in the run"):
        refuse.ll128(forced)
    for one in (forced, tuned):
        with pytest.raises(SpecError, match="forbids it on this machine"):
            refuse.ll128(msgspec.structs.replace(one, machine={"nccl_ll128": "forbidden"}))
        refuse.ll128(msgspec.structs.replace(one, machine={"nccl_ll128": "allowed"}))


@pytest.mark.parametrize(
    ("protocols", "wanted"),
    [
        ("LL,Simple", False),
        ("^LL128", False),  # all but that one
        ("^LL,LL128", False),
        ("^LL", True),  # all others, which NCCL then forces too
        ("ll, ll128", True),
        ("LL;allreduce:LL128", True),
        ("^LL128;allreduce:Simple", False),
        ("", False),
    ],
)
def test_a_list_of_protocols_wants_ll128_where_nccl_reads_it_so(protocols: str, wanted: bool) -> None:
    one = made(rule((("NCCL_ALGO", "Ring"), ("NCCL_PROTO", protocols))))
    forbidden = msgspec.structs.replace(one, machine={"nccl_ll128": "forbidden"})
    with pytest.raises(SpecError, match="LL128") if wanted else nullcontext():
        refuse.ll128(forbidden)


def test_the_tuner_of_aws_is_not_replaced_in_silence(tmp_path: Path) -> None:
    efa = {"OFI_NCCL_PROTOCOL": "RDMA"}
    for name in ("nccl-csv", "nccl-plugin", "ncclx", "env"):
        with pytest.raises(SpecError, match="AWS's tuner is in use"):
            refuse.aws(name, made(rule(NCCL)), efa, ())
    with pytest.raises(SpecError, match=str(tmp_path)):
        refuse.aws("nccl-csv", made(rule(NCCL)), {}, (str(tmp_path),))
    refuse.aws("nccl-csv", made(rule(NCCL)), {}, ())
    refuse.aws("openmpi", made(rule()), efa, ())
    refuse.aws("env", made(rule()), efa, ())


def test_a_verification_replaces_no_tuner_of_aws_in_silence(tmp_path: Path) -> None:
    one = made(rule(NCCL), machine={}, versions={})
    (tmp_path / NAME).write_bytes(encode(one))
    wanted = Request(tmp_path, ("true",), "2026-11-23T00:00:00+00:00")
    with pytest.raises(SpecError, match="AWS's tuner is in use"):
        verify(wanted, lambda _: None, {"OFI_NCCL_PROTOCOL": "RDMA"})
    assert [path.name for path in tmp_path.iterdir()] == [NAME]  # nothing was built or started


def test_every_fact_that_differs_is_named() -> None:
    one = made(
        rule(), machine={"cpu": "A", "ranks": "4", "gone": "x"}, versions={"openmpi": "5.0.11", "torch": "2.13.0"}
    )
    found = refuse.elsewhere(
        one, emit.target("openmpi"), {"cpu": "B", "ranks": "8"}, {"openmpi": "5.0.12", "torch": "1"}
    )
    assert [(item.fact, item.then, item.now) for item in found] == [
        ("cpu", "A", "B"),
        ("ranks", "4", "8"),
        ("openmpi", "5.0.11", "5.0.12"),
    ]
    with pytest.raises(SpecError, match=r"cpu: measured with A, here B; ranks.*--force"):
        refuse.other_place(found)
    refuse.other_place(())


def test_expiry() -> None:
    for good in ("2026-11-23", "2026-11-24T00:00:00+00:00"):
        refuse.expired(made(rule(), expires=good), "2026-11-23")
    for past in ("2026-11-22T23:00:00+00:00", "2026-11-22"):
        with pytest.raises(SpecError, match="expired on"):
            refuse.expired(made(rule(), expires=past), "2026-11-23")
    with pytest.raises(SpecError, match="is no date"):
        refuse.expired(made(rule(), expires="soon"), "2026-11-23")


# The record.


def test_the_record_survives_its_file_and_refuses_a_damaged_one(tmp_path: Path) -> None:
    one = made(rule(), plan(2**20), keep_default="", notes=("n",))
    (tmp_path / NAME).write_bytes(encode(one))
    assert read(tmp_path) == one
    for data, says in (
        (b"{", "not a recommendation"),
        (encode(one).replace(b'"format": 1', b'"format": 9'), "newer")
        if b'"format"' in encode(one)
        else (b"[]", "not"),
        (b'{"name": "\xff"}', "not a recommendation"),
        (b'{"format": 1, "name": ' + b"[" * 100_000, "not a recommendation"),
        (encode(made(rule(low=9, high=8))), r"rules\[0\]"),
        (encode(made(plan(0))), r"buckets\[0\]"),
    ):
        with pytest.raises(FolderError, match=says):
            decode(data, tmp_path / NAME)
    with pytest.raises(FolderError, match="commbench tune"):
        read(tmp_path / "nowhere")


def test_a_damaged_search_is_a_mistake_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("{backend: mpi, collectives: all_reduce, sizes: 8}")
    (tmp_path / "search.json").write_bytes(b'{"format": "\xff"}')
    with pytest.raises(FolderError, match=r"search\.json is damaged"):
        read_search(tmp_path, load(str(tmp_path / "spec.yaml")))


def test_a_newer_format_is_named() -> None:
    with pytest.raises(FolderError, match="format 9 is newer"):
        decode(b'{"format": 9, "surprise": 1}', Path("x"))


def test_facts_and_versions_of_a_machine() -> None:
    told = {"cpu": "EPYC", "cores": "2", "os": "Linux", "torch": "2.13.0", "mpi": "Open MPI v5.0.11, package: x"}
    machine = Machine(hosts=(Host(name="a"), Host(name="b")), host_of=(0, 0, 1, 1), launcher="openmpi", facts=told)
    assert facts_of(machine) == {"cpu": "EPYC", "cores": "2", "ranks": "4", "hosts": "2", "ranks_per_host": "2"}
    assert versions_of(machine) == {"torch": "2.13.0", "openmpi": "5.0.11"}
    other = msgspec.structs.replace(machine, facts=told | {"mpi": "MPICH Version:      5.0.2"})
    assert versions_of(other)["mpich"] == "5.0.2"
    assert differences({"a": "1"}, {"b": "2"}) == ()


# The command.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / NAME).write_bytes(encode(made(rule(), machine={"ranks": "4"}, versions={})))
    return tmp_path


def call(*arguments: str | Path) -> Any:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_the_command_writes_and_says_so(folder: Path) -> None:
    done = call(folder, "--for", "openmpi", "-o", folder / "my.conf", "--ranks", "4")
    assert done.exit_code == 0
    assert str(folder / "my.conf") in done.output
    assert "36.0 %" in done.output
    assert classic_rules((folder / "my.conf").read_text())[2]


def test_the_command_refuses_other_ranks_unless_forced(folder: Path) -> None:
    arguments = (folder, "--for", "openmpi", "-o", folder / "x", "--ranks", "8")
    assert isinstance(error := call(*arguments).exception, SpecError)
    assert "ranks: measured with 4, here 8" in str(error)
    assert not (folder / "x").exists()
    forced = call(*arguments, "--force")
    assert forced.exit_code == 0
    assert "forced: " in forced.stderr
    assert "nothing was measured here, so it may be slower" in forced.stderr


def test_the_command_refuses_a_folder_that_is_not_there_or_cannot_be_written(folder: Path) -> None:
    for path, says in ((folder / "no" / "x", "is no folder"), (Path("/proc/x"), "cannot be written")):
        error = call(folder, "--for", "openmpi", "-o", path).exception
        assert isinstance(error, SpecError)
        assert says in str(error)


def test_measured_bandwidths_are_written_whatever_was_chosen(folder: Path) -> None:
    """Also where the default stays: they take the place of torch.compile's own table."""
    kept = made(keep_default="ties", busbw_gbps={"inter_node": 1.5}, machine={}, versions={})
    (folder / NAME).write_bytes(encode(kept))
    done = call(folder, "--for", "inductor", "-o", folder / "x.py")
    assert done.exit_code == 0
    assert "config.inter_node_bw = 1.5" in (folder / "x.py").read_text()
    assert "no gain of its own" in done.output
    assert "nothing is written" in call(folder, "--for", "ddp", "-o", folder / "y.py").output
    assert not (folder / "y.py").exists()


@pytest.mark.parametrize(
    ("name", "program", "says"),
    [
        ("mpich", "mpichversion", "MPICH Version:      9.9.1\nMPICH Release date: x"),
        ("openmpi", "mpirun", "mpirun (Open MPI) 9.9.1\n\nReport bugs to"),
    ],
)
@pytest.mark.parametrize("lib", ["lib/libmpi.so", "lib/x86_64-linux-gnu/libmpi.so"])
def test_the_version_is_that_of_the_library_that_is_named(
    tmp_path: Path, library: Path, name: str, program: str, says: str, lib: str
) -> None:
    """Not that of a package which this Python has besides."""
    path = tmp_path / "opt" / lib
    path.parent.mkdir(parents=True)
    path.write_bytes(library.read_bytes())
    settings = MPICH_RING if name == "mpich" else RING
    arguments = (tmp_path, "--for", name, "-o", tmp_path / "x", "--library", path)
    (tmp_path / NAME).write_bytes(encode(made(rule(settings), machine={}, versions={name: "5.0.2"})))
    assert call(*arguments).exit_code == 0  # nothing tells: not compared
    (tmp_path / "opt/bin").mkdir()
    (tmp_path / "opt/bin" / program).write_text(f"#!/bin/sh\necho '{says}'\n")
    (tmp_path / "opt/bin" / program).chmod(0o755)
    assert f"{name}: measured with 5.0.2, here 9.9.1" in str(call(*arguments).exception)
    (tmp_path / NAME).write_bytes(encode(made(rule(settings), machine={}, versions={name: "9.9.1"})))
    assert call(*arguments).exit_code == 0


def test_keeping_the_default_is_an_answer(folder: Path) -> None:
    (folder / NAME).write_bytes(encode(made(keep_default="no gain beyond noise")))
    (folder / "x").write_text("old")
    done = call(folder, "--for", "ddp", "-o", folder / "x")
    assert done.exit_code == 0
    assert "keep the default: no gain beyond noise" in done.output
    assert "delete" in done.output
