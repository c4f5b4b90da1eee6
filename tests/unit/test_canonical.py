"""Specs as properties: one canonical form however they are written, and no input raises but a SpecError."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from commbench.collectives import COLLECTIVES, DTYPES
from commbench.errors import SpecError
from commbench.spec import SweepSpec, differing, load
from commbench.spec.document import shipped
from commbench.spec.sweep import AXES, REST


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spec.yaml"


def good(path: Path, **changes: str) -> SweepSpec:
    fields = {"backend": "gloo", "op": "all_reduce", "sizes": "8B"} | changes
    path.write_text("".join(f"{key}: {value}\n" for key, value in fields.items()))
    return load(str(path))


def complaint(path: Path, overrides: Sequence[str] = ()) -> str | None:
    try:
        load(str(path), overrides)
    except SpecError as error:
        return str(error)
    return None


def test_canonical_does_not_depend_on_how_it_is_written(path: Path) -> None:
    one = good(path, sizes="8B..32B x2", stop="{ci: 2%, max_time: 5000ms}", dtype="[float32]")
    path.write_text(
        "# the same\nsizes:\n- 8\n- 16B\n- 32\nop:   [all_reduce]\nbackend: 'gloo'\n"
        "stop:\n  max_time: 5s\n  ci: 0.02\nlaunches: 1\n"
    )
    other = load(str(path))
    third = good(path, sizes="64", cases="[{sizes: [8, 16, 32]}]")
    assert one.canonical() == other.canonical() == third.canonical()


def test_canonical_survives_json(path: Path) -> None:
    for spec in (*map(load, shipped()), good(path, cases="[{op: barrier}, {groups: {every: 2}}]")):
        assert json.loads(json.dumps(spec.canonical())) == spec.canonical()
        assert "source" not in spec.canonical()


def test_differing_names_key_paths(path: Path) -> None:
    a = good(path)
    assert differing(a.canonical(), a.canonical()) == []
    assert differing(a.canonical(), good(path, stop="{ci: 1%}", seed="3").canonical()) == ["seed", "stop.ci"]
    assert differing(a.canonical(), good(path, sizes="[8, 16]").canonical()) == ["sizes"]
    two = good(path, cases="[{op: barrier}, {op: gather}]").canonical()
    other = good(path, cases="[{op: barrier}, {op: scatter, root: 1}]").canonical()
    assert differing(two, other) == ["cases[1].op", "cases[1].root"]
    assert "cases" in differing(a.canonical(), two)
    simulated = good(path, backend="simulated").canonical()
    assert "simulated" in differing(a.canonical(), simulated)


axis_values: dict[str, Any] = {
    "op": st.lists(st.sampled_from(sorted(COLLECTIVES)), min_size=1, max_size=3),
    "dtype": st.lists(st.sampled_from(sorted(DTYPES)), min_size=1, max_size=3),
    "sizes": st.lists(st.integers(1, 2**33), min_size=1, max_size=5),
    "groups": st.sampled_from(["world", ["node", {"every": 2}], {"mesh": {"a": 2, "b": 3}, "alone": True}]),
    "in_place": st.sampled_from([True, [False, True]]),
    "launches": st.integers(1, 1000),
    "seed": st.integers(0, 2**63 - 1),
    "stop": st.fixed_dictionaries({}, optional={"ci": st.sampled_from(["2%", 0.1]), "max_time": st.just("3s")}),
}


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({"backend": st.just("mpi")}, optional=axis_values))
def test_round_trip_in_block_and_flow_style(tmp_path_factory: pytest.TempPathFactory, fields: dict[str, Any]) -> None:
    fields = {"op": "all_reduce", "sizes": 8} | fields
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    path.write_text(yaml.safe_dump(fields))
    block = load(str(path))
    path.write_text(yaml.safe_dump(dict(reversed(fields.items())), default_flow_style=True, sort_keys=False))
    assert load(str(path)).canonical() == block.canonical()
    # The same through --set, and a change is seen.
    path.write_text("backend: mpi\n")
    overrides = [f"{key}={json.dumps(value)}" for key, value in fields.items()]
    assert load(str(path), overrides).canonical() == block.canonical()
    assert differing(load(str(path), [*overrides, "warmup.max_time=7s"]).canonical(), block.canonical()) == [
        "warmup.max_time"
    ]


INNER = (
    "ci",
    "confidence",
    "max_time",
    "min_samples",
    "latency",
    "noise",
    "mesh",
    "every",
    "alone",
    "cuda_graph",
)
keys = st.sampled_from([*AXES, *REST, "cases", *INNER])
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["gloo", "nccl", "simulated", "all_reduce", "barrier", "8B..1KiB x2", "1..9 +1", "5s", "2%", "mesh"]
    ),
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(keys, values, max_size=8), st.tuples(keys, values))
def test_only_a_spec_error_comes_out(
    tmp_path_factory: pytest.TempPathFactory, fields: dict[str, Any], override: tuple[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump({"backend": "simulated", "op": "barrier", "sizes": 8} | fields), "utf-8")
    for overrides in ([], [f"{override[0]}={json.dumps(override[1])}"]):
        sentence = complaint(path, overrides)
        assert sentence is None or (sentence.isprintable() and sentence.startswith((str(path), "--set ")))


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_arbitrary_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "text.yaml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    assert (complaint(path) or "").isprintable()
