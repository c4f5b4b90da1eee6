"""Specs: what may be written, what it means, and the one line that a mistake gets."""

import re
from functools import partial
from pathlib import Path

import pytest
from refusals import refused

from commbench.collectives import COLLECTIVES, DTYPES
from commbench.spec import SweepSpec, load
from commbench.spec.document import shipped

OPS = ", ".join(sorted(COLLECTIVES))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spec.yaml"


def accepted(path: Path, text: str, *overrides: str) -> SweepSpec:
    path.write_text(text)
    return load(str(path), overrides)


def good(path: Path, **changes: str) -> SweepSpec:
    return accepted(path, written(**changes))


def written(**changes: str) -> str:
    """A good spec, a key a line: backend 1, op 2, sizes 3, the others behind it."""
    fields = {"backend": "gloo", "op": "all_reduce", "sizes": "8B"} | changes
    return "".join(f"{key}: {value}\n" for key, value in fields.items())


refusal = partial(refused, load)


# ---- what is meant ----------------------------------------------------------------------------------------


def test_defaults(path: Path) -> None:
    spec = good(path)
    (axes,) = spec.cases
    assert (spec.name, spec.backends, spec.launches, spec.seed, spec.order) == (
        "spec",
        ("gloo",),
        1,
        0,
        "shuffled",
    )
    assert (axes.dtype, axes.redop, axes.groups, axes.mode) == (
        ("float32",),
        ("sum",),
        ("world",),
        ("throughput",),
    )
    assert (axes.in_place, axes.root, axes.settings) == ((), (0,), ())
    assert (spec.stop.ci, spec.stop.confidence, spec.stop.max_time) == (0.02, 0.95, 5.0)
    assert (spec.stop.min_samples, spec.stop.max_samples) == (20, 1000)
    assert (spec.warmup.max_time, spec.deadline, spec.check) == (1.0, 60.0, True)


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("8", (8,)),
        ("1GiB", (2**30,)),
        ("1G", (10**9,)),  # not the same as 1GiB
        ("8B..64B x2", (8, 16, 32, 64)),
        ("8B..100B x2", (8, 16, 32, 64)),
        ("8B .. 64B  x 2", (8, 16, 32, 64)),
        ("8..8 x2", (8,)),
        ("1KiB..3KiB +1KiB", (1024, 2048, 3072)),
        ("[8, 1KiB..4KiB x2, 8, 2KiB]", (8, 1024, 2048, 4096)),
        ("010", (10,)),  # YAML 1.1 would make it 8
    ],
)
def test_sizes(path: Path, text: str, sizes: tuple[int, ...]) -> None:
    assert good(path, sizes=text).cases[0].sizes == sizes


def test_the_usual_sweep_has_31_sizes(path: Path) -> None:
    sizes = good(path, sizes="8B..8GiB x2").cases[0].sizes
    assert (len(sizes), sizes[0], sizes[-1]) == (31, 8, 2**33)


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("node", ("node",)),
        ("[world, rail, pairs]", ("world", "rail", "pairs")),
        ("{every: 4}", ("every:4",)),
        ("{mesh: {dp: 4, tp: 2}}", ("mesh(dp=4,tp=2)",)),
        ("[{mesh: {tp: 2, dp: 4}, alone: true}, world]", ("mesh(tp=2,dp=4) alone", "world")),
        ("{mesh: {dp: 4}, alone: false}", ("mesh(dp=4)",)),
    ],
)
def test_groups(path: Path, text: str, groups: tuple[str, ...]) -> None:
    assert good(path, groups=text).cases[0].groups == groups


def test_cases_override_the_axes_above_them(path: Path) -> None:
    spec = good(path, dtype="[float32, float64]", cases="[{op: broadcast, root: 1}, {op: barrier}, {dtype: int8}]")
    assert [axes.op for axes in spec.cases] == [("broadcast",), ("barrier",), ("all_reduce",)]
    assert [axes.dtype for axes in spec.cases] == [("float32", "float64")] * 2 + [("int8",)]
    assert [axes.root for axes in spec.cases] == [(1,), (0,), (0,)]


def test_sections(path: Path) -> None:
    spec = good(
        path,
        backend="simulated",
        stop="{ci: 5%, confidence: 0.9, max_time: 200ms, min_samples: 5, max_samples: 50}",
        warmup="{max_time: 10ms}",
        simulated="{latency: 0s, bandwidth: 1GB/s, noise: 0, ranks_per_host: 2}",
        deadline="2m",
    )
    assert (spec.stop.ci, spec.stop.confidence, spec.stop.max_time) == (0.05, 0.9, 0.2)
    assert (spec.simulated.latency, spec.simulated.bandwidth, spec.simulated.noise) == (0.0, 1e9, 0.0)
    assert (spec.simulated.ranks_per_host, spec.deadline, spec.warmup.max_time) == (2, 120.0, 0.01)


def test_settings_of_nccl(path: Path) -> None:
    spec = good(path, backend="[nccl, gloo]", settings="{cuda_graph: [true, false]}")
    assert spec.cases[0].settings == (("cuda_graph", ("true", "false")),)


def test_overrides_are_checked_like_the_file(path: Path) -> None:
    spec = accepted(path, written(), "stop.ci=5%", "op=[broadcast, reduce]", "sizes=8B..32B x2", "seed=7")
    assert (spec.stop.ci, spec.cases[0].op, spec.cases[0].sizes, spec.seed) == (
        0.05,
        ("broadcast", "reduce"),
        (8, 16, 32),
        7,
    )


@pytest.mark.parametrize("name", ["quick", "nccl-standard", "latency", "mesh", "pairs"])
def test_shipped_specs(name: str) -> None:
    spec = load(name)
    assert spec.name == name
    text = Path(shipped()[name]).read_text()
    assert "--set" in text.split("name:")[0]  # says how to change it
    # Each `--set` that its comments show must work.
    shown = re.findall(r"--set (\"[^\"]+\"|\S+)", text)
    for override in shown:
        load(name, [override.strip('"')])


def test_quick_is_seven_sizes_of_three_collectives() -> None:
    (axes,) = load("quick").cases
    assert (len(axes.sizes), axes.sizes[0], axes.sizes[-1]) == (7, 1024, 2**22)
    assert axes.op == ("all_reduce", "all_gather", "reduce_scatter")


# ---- bad input: one line with file, line, key path and the nearest name -----------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"op": "allreduce"},
            f"FILE:2: $.op: unknown collective 'allreduce'; did you mean 'all_reduce'? known: {OPS}",
        ),
        (
            {"op": "[barrier, brodcast]"},
            "FILE:2: $.op[1]: unknown collective 'brodcast'; did you mean 'broadcast'?",
        ),
        ({"op": "xyz"}, f"FILE:2: $.op: unknown collective 'xyz'; known: {OPS}"),
        ({"op": "5"}, "FILE:2: $.op: 5 is not a collective; known: "),
        ({"op": ""}, "FILE:2: $.op: null is not a collective; known: "),
        ({"op": "[]"}, "FILE:2: $.op: the list is empty"),
        ({"op": "[[barrier]]"}, "FILE:2: $.op[0]: a list is not a collective"),
        ({"dtype": "float"}, "FILE:4: $.dtype: unknown dtype 'float'; did you mean 'float"),
        ({"dtype": "Float32"}, "FILE:4: $.dtype: unknown dtype 'Float32'; did you mean 'float32'?"),
        (
            {"backend": "nccll"},
            "FILE:1: $.backend: unknown backend 'nccll'; did you mean 'nccl'? known: gloo, mpi",
        ),
        ({"redop": "summ"}, "FILE:4: $.redop: unknown redop 'summ'; did you mean 'sum'?"),
        ({"mode": "fast"}, "FILE:4: $.mode: unknown mode 'fast'; "),
        ({"order": "random"}, "FILE:4: $.order: unknown order 'random'; "),
        ({"opp": "barrier"}, "FILE:4: $.opp: unknown key 'opp'; did you mean 'op'? known: backend, cases, "),
        (
            {"stop": "{c1: 2%}"},
            "FILE:4: $.stop.c1: unknown key 'c1'; did you mean 'ci'? known: ci, confidence",
        ),
        ({"stop": "2%"}, "FILE:4: $.stop: '2%' is not a mapping; known keys: ci"),
        (
            {"groups": "nodes"},
            "FILE:4: $.groups: unknown group 'nodes'; did you mean 'node'? known: every, mesh",
        ),
        ({"groups": "mesh"}, "FILE:4: $.groups: 'mesh' needs its numbers; write one of world, "),
        ({"groups": "4"}, "FILE:4: $.groups: 4 is not a group; write one of world, node, "),
        ({"groups": "{evry: 4}"}, "FILE:4: $.groups.evry: unknown key 'evry'; did you mean 'every'?"),
        ({"groups": "{every: 0}"}, "FILE:4: $.groups.every: 0 is not a whole number from 1"),
        ({"groups": "{every: 4, alone: true}"}, "FILE:4: $.groups.alone: alone goes with mesh"),
        ({"groups": "{alone: true}"}, "FILE:4: $.groups: write either every or mesh here"),
        ({"groups": "{mesh: {}}"}, "FILE:4: $.groups.mesh: a mapping is not a mesh; write its axes"),
        ({"groups": "{mesh: [4, 2]}"}, "FILE:4: $.groups.mesh: a list is not a mesh; write its axes"),
        ({"groups": "{mesh: {dp: two}}"}, "FILE:4: $.groups.mesh.dp: 'two' is not a whole number from 1"),
        ({"groups": "{mesh: {'a,b': 2}}"}, "FILE:4: $.groups.mesh.a,b: 'a,b' is not the name of an axis"),
        (
            {"groups": "[world, {mesh: {dp: true}}]"},
            "FILE:4: $.groups[1].mesh.dp: true is not a whole number",
        ),
        ({"cases": "[]"}, "FILE:4: $.cases: write a list of mappings"),
        ({"cases": "{op: barrier}"}, "FILE:4: $.cases: write a list of mappings"),
        ({"cases": "[barrier]"}, "FILE:4: $.cases[0]: 'barrier' is not a mapping; known keys: backend, "),
        ({"cases": "[{launches: 2}]"}, "FILE:4: $.cases[0].launches: unknown key 'launches'; "),
        ({"launches": "0"}, "FILE:4: $.launches: 0 is not a whole number from 1 to 1000"),
        ({"launches": "true"}, "FILE:4: $.launches: true is not a whole number"),
        ({"launches": "2.0"}, "FILE:4: $.launches: 2.0 is not a whole number"),
        ({"seed": "-1"}, "FILE:4: $.seed: -1 is not a whole number from 0"),
        ({"root": "-1"}, "FILE:4: $.root: -1 is not a whole number from 0"),
        ({"check": "1"}, "FILE:4: $.check: 1 is not true or false"),
        ({"in_place": "both"}, "FILE:4: $.in_place: 'both' is not true or false"),
        ({"deadline": "60"}, "FILE:4: $.deadline: '60' is not a time with its unit; write 5s"),
        ({"deadline": "0s"}, "FILE:4: $.deadline: '0s' is out of range; write more than 0"),
        (
            {"deadline": "9999h"},
            "FILE:4: $.deadline: '9999h' is out of range; write more than 0 and at most 30 days",
        ),
        ({"name": "../x"}, "FILE:4: $.name: '../x' is not a name; "),
        ({"name": '"a\\nb"'}, "FILE:4: $.name: 'a\\nb' is not a name; "),
        (
            {"settings": "{cuda_grph: true}"},
            "FILE:4: $.settings.cuda_grph: unknown key 'cuda_grph'; did you mean ",
        ),
        (
            {"settings": "{cuda_graph: true}"},
            "FILE:4: $.settings.cuda_graph: is a setting of nccl, not of gloo",
        ),
        (
            {"simulated": "{noise: 1%}"},
            "FILE:4: $.simulated: goes with backend simulated only, not with gloo",
        ),
        (
            {"backend": "simulated", "simulated": "{bandwidth: 10Gb/s}"},
            "FILE:4: $.simulated.bandwidth: '10Gb/s' is",
        ),
        (
            {"backend": "simulated", "simulated": "{noise: false}"},
            "FILE:4: $.simulated.noise: 'false' is not a share",
        ),
    ],
)
def test_bad_fields(path: Path, changes: dict[str, str], sentence: str) -> None:
    assert refusal(path, written(**changes)).startswith(sentence)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("-5", "'-5' is not a size"),
        ("1e400", "'1e400' is not a size"),
        ("8B..4B", "'8B..4B' runs downwards"),
        ("8B..4B x2", "'8B..4B x2' runs downwards"),
        ("8B..4GiB", "'8B..4GiB' does not say how to step"),
        ("8B..4GiB x1", "'8B..4GiB x1': the factor behind x must be a whole number of 2 or more"),
        ("8B..4GiB x1.5", "'8B..4GiB x1.5': the factor"),
        ("8B..4GiB x", "'4GiB x' is not a size"),
        ("8B..4GiB +0", "'0' is outside 1 B"),
        ("..", "'..' is not a range"),
        ("0", "'0' is outside 1 B to 1024 TiB"),
        ("1.5", "'1.5' is 1.5 bytes, which is not a whole number"),
        (".nan", "'nan' is not a size"),
        (".inf", "'inf' is not a size"),
        ("true", "'true' is not a size"),
        ("", "'null' is not a size"),
        ("{a: 1}", "'a mapping' is not a size"),
        ("[]", "the list is empty"),
        ("1B..1TiB +1", "1,099,511,627,77"),
        ("x" * 5000, "is too long for a size"),
    ],
)
def test_bad_sizes(path: Path, value: str, sentence: str) -> None:
    assert refusal(path, written(sizes=value)).startswith(f"FILE:3: $.sizes: {sentence}")
    if not value.startswith("["):
        assert refusal(path, written(sizes=f"\n  - 8\n  - {value}")).startswith(f"FILE:5: $.sizes[1]: {sentence}")


@pytest.mark.parametrize("value", ["0", "0%", "100%", "-1%", "2", "true", ".nan", "''", "two", "[2%]"])
def test_bad_interval(path: Path, value: str) -> None:
    sentence = refusal(path, written(stop=f"\n  max_time: 1s\n  ci: {value}"))
    assert sentence.startswith("FILE:6: $.stop.ci: ")
    assert re.search(r"write 2% or 0.02|between 0 and 100 %", sentence)
    assert refusal(path, written(), f"stop.ci={value}").startswith(f"--set stop.ci={value}: $.stop.ci: ")


def test_samples_must_fit(path: Path) -> None:
    sentence = refusal(path, written(stop="{max_samples: 5, min_samples: 7}"))
    assert sentence == "FILE:4: $.stop.min_samples: min_samples (7) is more than max_samples (5)"
    path.write_text(written(stop="{max_samples: 5}"))
    assert load(str(path)).stop.min_samples == 5
    assert refusal(path, written(stop="{min_samples: 0}")).startswith("FILE:4: $.stop.min_samples: 0 is not")


@pytest.mark.parametrize("key", ["backend", "op", "sizes"])
def test_what_is_missing(path: Path, key: str) -> None:
    fields = {"backend": "gloo", "op": "all_reduce", "sizes": "8"}
    del fields[key]
    text = "".join(f"{k}: {v}\n" for k, v in fields.items())
    assert refusal(path, text).startswith(f"FILE:1: $.{key}: is missing; say ")


def test_a_case_says_what_it_misses_in_its_own_line(path: Path) -> None:
    text = "backend: gloo\ncases:\n  - {op: barrier}\n  - op: all_reduce\n"
    assert refusal(path, text).startswith("FILE:4: $.cases[1].sizes: is missing")


def test_unknown_name_inside_cases_has_its_line(path: Path) -> None:
    text = written(cases="\n  - op: barrier\n  - dtype: int8\n    op: allgather")
    assert refusal(path, text).startswith("FILE:7: $.cases[1].op: unknown collective 'allgather'; did you mean ")


def test_axes_above_cases_are_checked_even_if_no_case_uses_them(path: Path) -> None:
    assert refusal(path, written(op="bogus", cases="[{op: barrier}]")).startswith("FILE:2: $.op: unknown")


def test_too_many_cases(path: Path) -> None:
    text = written(sizes="1..10000 +1", dtype=f"[{', '.join(DTYPES)}]", redop="[sum, prod]")
    assert refusal(path, text) == "FILE:1: $: 140,000 cases are more than the 100,000 a sweep may have"


def test_overrides_are_named(path: Path) -> None:
    assert refusal(path, written(), "op=foo").startswith("--set op=foo: $.op: unknown collective 'foo'; known: ")
    assert refusal(path, written(), "opp=foo").startswith("--set opp=foo: $.opp: unknown key 'opp'; did you mean 'op'?")
    assert refusal(path, written(), "stopp.ci=1%").startswith("--set stopp.ci=1%: $.stopp: unknown key 'stopp'; did")
    assert refusal(path, written(), "stop={ci: 0}").startswith("--set stop={ci: 0}: $.stop.ci: '0' must lie between")
    assert refusal(path, written(), "launches=0", "seed=1").startswith("--set launches=0: $.launches: 0 is not")
