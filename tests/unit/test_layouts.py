"""Layouts: groups are disjoint, pairs meet once, a mesh is numpy's reshape."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commbench.errors import SpecError
from commbench.layouts import expand, label, local_ranks, mesh, parse_mesh
from commbench.matchings import circle as pairs

host_lists = st.lists(st.integers(0, 5), min_size=1, max_size=40)
meshes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(
    lambda sizes: tuple(("abcd"[k], size) for k, size in enumerate(sizes))
)


@settings(deadline=None)
@given(host_lists, st.data())
def test_groups_are_disjoint_sorted_and_of_this_world(host_of: list[int], data: st.DataObject) -> None:
    size = len(host_of)
    symbols = ["world", "node", "rail", f"every:{data.draw(st.integers(1, size))}"]
    symbols.append(f"pairs/{data.draw(st.integers(0, max(0, size - 2)))}")
    for symbol in symbols:
        groups = expand(symbol, host_of)
        ranks = [rank for group in groups for rank in group]
        assert len(ranks) == len(set(ranks))
        assert all(group and list(group) == sorted(group) for group in groups)
        # Everybody takes part; in pairs of an odd world one rank has a rest in each round.
        assert set(ranks) <= set(range(size))
        assert len(ranks) == (size - size % 2 if symbol.startswith("pairs") else size)


@settings(deadline=None)
@given(host_lists)
def test_node_and_rail_cross_each_other_in_one_rank(host_of: list[int]) -> None:
    nodes, rails = expand("node", host_of), expand("rail", host_of)
    assert all(len({host_of[rank] for rank in node}) == 1 for node in nodes)
    assert all(len(set(node) & set(rail)) <= 1 for node in nodes for rail in rails)
    assert sorted(local_ranks(host_of)) == sorted(k for node in nodes for k in range(len(node)))


@pytest.mark.parametrize("size", range(2, 34))
def test_all_rounds_of_pairs_meet_every_pair_once(size: int) -> None:
    met = [pair for round_ in range(size + size % 2 - 1) for pair in pairs(size, round_)]
    assert sorted(met) == sorted(combinations(range(size), 2))


@settings(deadline=None)
@given(meshes)
def test_mesh_groups_partition_the_world_as_numpy_reshapes(axes: tuple[tuple[str, int], ...]) -> None:
    total = math.prod(size for _, size in axes)
    grid = np.arange(total).reshape([size for _, size in axes])
    spelt = ",".join(f"{name}={size}" for name, size in axes)
    for k, (name, size) in enumerate(axes):
        expected = sorted(map(tuple, np.moveaxis(grid, k, -1).reshape(-1, size).tolist()))
        assert sorted(mesh(axes, name)) == expected
        together = expand(f"mesh({spelt})/{name}", [0] * total)
        assert sorted(rank for group in together for rank in group) == list(range(total))
        alone = [expand(f"mesh({spelt})/{name}#{i}", [0] * total) for i in range(len(together))]
        assert alone == [(group,) for group in together]


def test_mesh_by_hand() -> None:
    assert expand("mesh(dp=4,tp=2)/tp", [0] * 8) == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert expand("mesh(dp=4,tp=2)/dp", [0] * 8) == ((0, 2, 4, 6), (1, 3, 5, 7))
    assert expand("mesh(dp=4,tp=2)/dp#1", [0] * 8) == ((1, 3, 5, 7),)
    assert parse_mesh("mesh(dp=4,tp=2)/dp#1") == ((("dp", 4), ("tp", 2)), "dp", 1)


@pytest.mark.parametrize(
    "symbol",
    [
        "",
        "worlds",
        "world/1",
        "every",
        "every:0",
        "every:x",
        "pairs",
        "pairs/x",
        "mesh",
        "mesh(dp)/dp",
        "mesh()/dp",
        "mesh(dp=8)/tp",
        "mesh(dp=4)/dp",
        "mesh(dp=0)/dp",
        "mesh(dp=8)/dp#1",
        "mesh(dp=4,tp=2)",
        "mesh(dp=8)/dp#x",
    ],
)
def test_what_is_not_a_layout_is_a_sentence(symbol: str) -> None:
    with pytest.raises(SpecError, match="is not a layout"):
        expand(symbol, [0] * 8)


def test_labels() -> None:
    assert label((3,)) == "3"
    assert label((0, 5)) == "0,5"
    assert label(range(8)) == "0-7"
    assert label((0, 2, 4, 6)) == "0-6:2"
    assert label((0, 1, 5)) == "0,1,..5"
