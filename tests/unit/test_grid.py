"""The grid: which cases a spec is on a world, in which order, and what is said about them beforehand."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commbench.collectives import COLLECTIVES
from commbench.errors import SpecError
from commbench.layouts import expand
from commbench.records import Case
from commbench.spec import SweepSpec, cases, estimate, load, order, rounded
from commbench.spec.document import shipped

TWO_HOSTS = [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spec.yaml"


def spec(path: Path, **changes: str) -> SweepSpec:
    fields = {"backend": "mpi", "op": "all_reduce", "sizes": "8B"} | changes
    path.write_text("".join(f"{key}: {value}\n" for key, value in fields.items()))
    return load(str(path))


def symbols(found: tuple[Case, ...]) -> list[str]:
    return list(dict.fromkeys(case.groups for case in found))


def test_product_in_the_order_of_the_spec(path: Path) -> None:
    found = cases(spec(path, op="[all_gather, all_reduce]", sizes="[16, 8]", dtype="[int8, float64]"), [0, 0])
    assert [(c.op, c.nbytes, c.dtype) for c in found] == [
        (op, nbytes, dtype)
        for op in ("all_gather", "all_reduce")
        for nbytes in (16, 8)
        for dtype in ("int8", "float64")
    ]
    assert len({case.key for case in found}) == len(found)


def test_axes_that_mean_nothing_do_not_multiply(path: Path) -> None:
    every = {"sizes": "[8, 16]", "dtype": "[int8, int32]", "redop": "[sum, max]", "root": "[0, 1]"}
    every["in_place"] = "[true, false]"
    count = Counter(case.op for case in cases(spec(path, op=f"[{', '.join(COLLECTIVES)}]", **every), [0, 0]))
    assert count == {
        "all_reduce": 16,
        "all_gather": 8,
        "reduce_scatter": 16,
        "broadcast": 8,  # one buffer, so always in place
        "reduce": 32,
        "all_to_all": 8,
        "gather": 16,
        "scatter": 16,
        "send_recv": 8,
        "barrier": 1,
    }


def test_barrier_has_neither_size_nor_dtype(path: Path) -> None:
    (barrier,) = cases(spec(path, op="barrier", dtype="int8", redop="max", in_place="true"), [0, 0])
    assert barrier == Case(op="barrier", backend="mpi", nbytes=0)
    path.write_text("backend: mpi\nop: barrier\n")
    assert cases(load(str(path)), [0, 0]) == (barrier,)


def test_in_place_is_what_op_and_backend_do_unless_it_is_said(path: Path) -> None:
    found = cases(spec(path, backend="[mpi, gloo]", op="[all_reduce, all_gather, broadcast]"), [0, 0])
    assert {(c.backend, c.op): c.in_place for c in found} == {
        ("mpi", "all_reduce"): False,
        ("mpi", "all_gather"): False,
        ("mpi", "broadcast"): True,
        ("gloo", "all_reduce"): True,
        ("gloo", "all_gather"): False,
        ("gloo", "broadcast"): True,
    }
    # What gloo lacks stays in the grid: it becomes a skipped row with its reason.
    asked = cases(spec(path, backend="gloo", op="[all_reduce, broadcast]", in_place="[false, true]"), [0, 0])
    assert [(c.op, c.in_place) for c in asked] == [
        ("all_reduce", False),
        ("all_reduce", True),
        ("broadcast", True),
    ]


def test_settings_go_to_the_backend_that_knows_them(path: Path) -> None:
    found = cases(spec(path, backend="[gloo, nccl]", settings="{cuda_graph: [true, false]}"), [0, 0])
    assert [(c.backend, c.settings) for c in found] == [
        ("gloo", ()),
        ("nccl", (("cuda_graph", "true"),)),
        ("nccl", (("cuda_graph", "false"),)),
    ]


def test_groups_become_symbols(path: Path) -> None:
    assert symbols(cases(spec(path, groups="[world, node, rail, {every: 2}]"), TWO_HOSTS)) == [
        "world",
        "node",
        "rail",
        "every:2",
    ]
    assert symbols(cases(spec(path, groups="pairs"), [0] * 5)) == [f"pairs/{k}" for k in range(5)]
    assert symbols(cases(spec(path, groups="pairs"), [0] * 6)) == [f"pairs/{k}" for k in range(5)]
    assert symbols(cases(spec(path, groups="pairs"), [0] * 2)) == ["pairs/0"]
    mesh = "{mesh: {dp: 4, tp: 2}"
    assert symbols(cases(spec(path, groups=mesh + "}"), TWO_HOSTS)) == [
        "mesh(dp=4,tp=2)/dp",
        "mesh(dp=4,tp=2)/tp",
    ]
    assert symbols(cases(spec(path, groups=mesh + ", alone: true}"), TWO_HOSTS)) == [
        *(f"mesh(dp=4,tp=2)/dp#{k}" for k in range(2)),
        *(f"mesh(dp=4,tp=2)/tp#{k}" for k in range(4)),
    ]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=24), st.data())
def test_every_symbol_expands(
    tmp_path_factory: pytest.TempPathFactory, host_of: list[int], data: st.DataObject
) -> None:
    size = len(host_of)
    a = data.draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))
    k = data.draw(st.integers(1, size))
    mesh = f"{{mesh: {{a: {a}, b: {size // a}}}, alone: {data.draw(st.sampled_from(['true', 'false']))}}}"
    path = tmp_path_factory.getbasetemp() / "grid.yaml"
    for case in cases(spec(path, groups=f"[world, node, rail, pairs, {{every: {k}}}, {mesh}]"), host_of):
        assert expand(case.groups, host_of)


def test_blocks_are_united(path: Path) -> None:
    found = cases(spec(path, cases="[{op: all_reduce}, {op: [all_gather, all_reduce]}, {op: barrier}]"), [0, 0])
    assert [case.op for case in found] == ["all_reduce", "all_gather", "barrier"]


@pytest.mark.parametrize(
    ("changes", "size", "sentence"),
    [
        (
            {"groups": "{mesh: {dp: 4, tp: 2}}"},
            6,
            "FILE:4: $.groups: the mesh dp 4 x tp 2 has 8 ranks, but the world has 6",
        ),
        (
            {"groups": "[world, {mesh: {a: 3}}]"},
            2,
            "FILE:4: $.groups[1]: the mesh a 3 has 3 ranks, but the world has 2",
        ),
        ({"groups": "{every: 4}"}, 3, "FILE:4: $.groups: every 4 needs at least 4 ranks, the world has 3"),
        ({"groups": "pairs"}, 1, "FILE:4: $.groups: pairs need at least 2 ranks, the world has 1"),
        (
            {"op": "broadcast", "root": "2"},
            2,
            "FILE:4: $.root: root 2 is outside the smallest group of world, which has 2",
        ),
        (
            {"op": "reduce", "root": "[0, 3]", "groups": "pairs"},
            8,
            "FILE:4: $.root: root 3 is outside the smallest",
        ),
        (
            {"op": "gather", "root": "3", "groups": "{every: 3}"},
            8,
            "FILE:4: $.root: root 3 is outside the smallest",
        ),
        (
            {"op": "gather", "root": "2", "groups": "{mesh: {a: 4, b: 2}}"},
            8,
            "FILE:4: $.root: root 2 is outside",
        ),
    ],
)
def test_what_only_the_world_can_show(path: Path, changes: dict[str, str], size: int, sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        cases(spec(path, **changes), [0] * size)
    assert str(caught.value).replace(str(path), "FILE").startswith(sentence)
    assert "\n" not in str(caught.value)


def test_a_mesh_from_an_override_names_it() -> None:
    with pytest.raises(SpecError, match=r"^--set groups=\{mesh: \{dp: 3\}\}: \$\.groups: the mesh dp 3 has 3 ranks"):
        cases(load("quick", ["groups={mesh: {dp: 3}}"]), [0, 0])


def test_a_root_that_no_op_uses_is_no_mistake(path: Path) -> None:
    (case,) = cases(spec(path, root="5"), [0, 0])
    assert case.root == 0


def test_too_many_cases_on_a_large_world(path: Path) -> None:
    with pytest.raises(SpecError, match=r"on 16000 ranks these are more than 100,000 cases"):
        cases(spec(path, groups="pairs", sizes="1..100 +1"), [rank // 8 for rank in range(16_000)])


def test_order_is_a_shuffle_by_seed_and_launch(path: Path) -> None:
    shuffled = spec(path, sizes="8B..8GiB x2")
    found = cases(shuffled, [0, 0])
    first, second = order(found, shuffled, 0), order(found, shuffled, 1)
    assert first == order(found, shuffled, 0)
    assert sorted(c.nbytes for c in first) == sorted(c.nbytes for c in second) == [c.nbytes for c in found]
    assert first != second
    assert first != order(found, spec(path, sizes="8B..8GiB x2", seed="1"), 0)
    assert found not in (first, second)
    assert order(found, spec(path, order="as_given"), 3) == found
    # Fixed, so that a resumed run has the order of the one it goes on with, whatever the Python.
    few = spec(path, sizes="[1, 2, 3, 4, 5, 6]", dtype="int8")
    assert [c.nbytes for c in order(cases(few, [0, 0]), few, 0)] == [1, 6, 2, 5, 4, 3]


def test_rounded_sizes_are_said(path: Path) -> None:
    found = cases(spec(path, op="[all_reduce, all_gather, barrier]", sizes="[10, 8, 1KiB]"), [0, 0])
    assert rounded(found, [0, 0]) == [
        "10B -> 8B for float32 all_reduce on 2 ranks",
        "10B -> 8B for float32 all_gather on 2 ranks",
    ]
    up = cases(spec(path, op="all_gather", sizes="8"), [0] * 4)
    assert rounded(up, [0] * 4) == ["8B -> 16B for float32 all_gather on 4 ranks"]
    assert rounded(cases(spec(path, sizes="1KiB"), [0, 0]), [0, 0]) == []
    many = cases(spec(path, sizes="[5, 6, 7, 9, 10, 11]", groups="pairs"), [0] * 6)
    assert rounded(many, [0] * 6) == [
        "5B -> 4B, 6B -> 4B, 7B -> 4B, 9B -> 8B and 2 more sizes for float32 all_reduce on 2 ranks"
    ]
    # Groups of two sizes round differently.
    nodes = cases(spec(path, op="all_gather", sizes="8", groups="node"), [0, 0, 0, 1, 1])
    assert rounded(nodes, [0, 0, 0, 1, 1]) == ["8B -> 12B for float32 all_gather on 3 ranks"]


def test_estimates(path: Path) -> None:
    quick = load("quick")
    found = cases(quick, [0, 0])
    expected, most = estimate(quick, found)
    assert len(found) == 21
    assert 0 < expected <= most < 30
    thrice = load("quick", ["launches=3"])
    assert estimate(thrice, found) == pytest.approx((3 * expected, 3 * most))
    assert estimate(quick, [])[0] < expected
    for name in shipped():
        loaded = load(name)
        expected, most = estimate(loaded, cases(loaded, [0] * 8))
        assert 0 < expected <= most < 3600
