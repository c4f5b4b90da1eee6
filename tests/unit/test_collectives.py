"""The catalogue and its known data: exact in every dtype and every order, and blind to no error."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commbench.collectives import (
    COLLECTIVES,
    DTYPES,
    POISON,
    REDOPS,
    Check,
    Data,
    bandwidths,
    decode,
    elements,
    encode,
    moved,
    spans,
)
from commbench.errors import Unsupported

Array = np.ndarray[Any, np.dtype[Any]]
REDUCING = sorted(op for op, collective in COLLECTIVES.items() if collective.reduces)
MOVING = sorted(set(COLLECTIVES) - set(REDUCING) - {"barrier"})
FLOATING = sorted(name for name, dtype in DTYPES.items() if dtype.floating)
EXACT = [(dtype, redop) for dtype in sorted(DTYPES) for redop in REDOPS if redop != "avg"]
LONG = 300  # elements in which every pattern of up to 40 ranks comes round at least once
ORDERS = ("ascending", "descending", "tree", "random")


# ---- a reduction by hand: every step is rounded to the dtype, as a library's is ------------------------


def bfloat16(values: Array) -> Array:
    """Rounds float32 to the nearest bfloat16 (ties to even), kept in float32."""
    bits = values.astype(np.float32).view(np.uint32)
    return np.asarray(((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32))


def in_dtype(values: Array, dtype: str) -> Array:
    return bfloat16(values) if dtype == "bfloat16" else values.astype(DTYPES[dtype].numpy)


def combined(a: Array, b: Array, dtype: str, redop: str) -> Array:
    operation = {"prod": np.multiply, "min": np.minimum, "max": np.maximum}.get(redop, np.add)
    return in_dtype(operation(a, b), dtype)


def reduced(parts: list[Array], dtype: str, redop: str, order: str) -> Array:
    """All parts combined two at a time in the dtype; float64 of the result (sum, for avg)."""
    left = [in_dtype(part, dtype) for part in parts]
    if order == "descending":
        left.reverse()
    elif order == "random":
        left = [left[k] for k in np.random.default_rng(len(left)).permutation(len(left))]
    while len(left) > 1:
        if order == "tree":
            pairs = [combined(a, b, dtype, redop) for a, b in zip(left[::2], left[1::2], strict=False)]
            left = pairs + left[len(left) // 2 * 2 :]
        else:
            left[:2] = [combined(left[0], left[1], dtype, redop)]
    return left[0].astype(np.float64)


def ranks(op: str, dtype: str, redop: str, n: int, count: int, root: int = 0) -> list[Data]:
    return [Data(op, dtype, redop, n, rank, count, root) for rank in range(n)]


def sent(data: Data) -> Array:
    """What the rank gives, after its way through the dtype."""
    return decode(encode(data.given(0, data.send_count), data.dtype), data.dtype)


def wanted(data: Data) -> Array:
    return data.expected(0, data.recv_count)


def carried_out(world: list[Data], order: str = "ascending") -> list[Array]:
    """What every rank holds afterwards, by the definition of the collective."""
    gives = [sent(data) for data in world]
    first, n, count = world[0], len(world), world[0].count
    own = [slice(rank * count, rank * count + count) for rank in range(n)]
    match first.op:
        case "all_reduce" | "reduce":
            return [reduced(gives, first.dtype, first.redop, order)] * n
        case "reduce_scatter":
            total = reduced(gives, first.dtype, first.redop, order)
            return [total[part] for part in own]
        case "all_gather" | "gather":
            return [np.concatenate(gives)] * n
        case "broadcast":
            return [gives[first.root]] * n
        case "scatter":
            return [gives[first.root][part] for part in own]
        case "all_to_all":
            return [np.concatenate([give[part] for give in gives]) for part in own]
    assert first.op == "send_recv"
    return [gives[rank - 1] for rank in range(n)]


# ---- the known result is the result --------------------------------------------------------------------


@pytest.mark.parametrize("op", REDUCING)
@pytest.mark.parametrize(("dtype", "redop"), EXACT)
@settings(max_examples=10, deadline=None)
@given(n=st.integers(1, 40), count=st.integers(1, 60), data=st.data())
def test_a_reduction_is_exact_in_every_order(
    op: str, dtype: str, redop: str, n: int, count: int, data: st.DataObject
) -> None:
    world = ranks(op, dtype, redop, n, count, data.draw(st.integers(0, n - 1)))
    rank = data.draw(st.integers(0, n - 1))
    want = wanted(world[rank])
    for order in ORDERS:
        result = carried_out(world, order)[rank]
        assert np.array_equal(want, result)
    assert world[rank].compare(0, result) == Check(0, -1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
@pytest.mark.parametrize("n", [300, 5000])
def test_a_sum_over_many_ranks_is_exact_in_a_narrow_dtype(dtype: str, n: int) -> None:
    world = ranks("all_reduce", dtype, "sum", n, 128)
    gives = [sent(data) for data in world]
    want = wanted(world[0])
    for order in ORDERS:
        assert np.array_equal(want, reduced(gives, dtype, "sum", order))
    assert np.any(want != 0)


@pytest.mark.parametrize("op", MOVING)
@settings(max_examples=25, deadline=None)
@given(dtype=st.sampled_from(sorted(DTYPES)), n=st.integers(1, 40), count=st.integers(1, 120), data=st.data())
def test_data_that_is_only_moved_arrives_where_it_belongs(
    op: str, dtype: str, n: int, count: int, data: st.DataObject
) -> None:
    world = ranks(op, dtype, "sum", n, count, data.draw(st.integers(0, n - 1)))
    for one, result in zip(world, carried_out(world), strict=True):
        assert len(result) == one.recv_count
        assert np.array_equal(wanted(one), result)
        assert one.compare(0, result) == Check(0, -1)


def averages(n: int, dtype: str, count: int, way: str) -> Array:
    """The average as libraries make it: divided at the end, or every part scaled first (NCCL's PreMulSum)."""
    gives = [in_dtype(sent(data), dtype) for data in ranks("all_reduce", dtype, "avg", n, count)]
    if way == "divided last":
        return in_dtype(in_dtype(reduced(gives, dtype, "sum", "tree"), dtype) / n, dtype).astype(np.float64)
    share = in_dtype(np.array([1 / n]), dtype)
    return reduced([in_dtype(give * share, dtype) for give in gives], dtype, "sum", "tree")


@pytest.mark.parametrize("way", ["divided last", "scaled first"])
@pytest.mark.parametrize("dtype", FLOATING)
def test_an_average_is_accepted_however_a_library_rounds_it(dtype: str, way: str) -> None:
    refused = {}
    for n in range(1, 41):
        check = Data("all_reduce", dtype, "avg", n, 0, LONG).compare(0, averages(n, dtype, LONG, way))
        if check.wrong:
            refused[n] = check
    assert not refused


@pytest.mark.parametrize("dtype", FLOATING)
@pytest.mark.parametrize("n", [2, 3, 7, 8, 16, 40])
def test_an_average_without_one_rank_is_noticed(dtype: str, n: int) -> None:
    gives = [sent(data) for data in ranks("all_reduce", dtype, "avg", n, LONG)]
    for missing in range(n):
        rest = sum((give for rank, give in enumerate(gives) if rank != missing), np.zeros(LONG))
        got = decode(encode(np.asarray(rest / n), dtype), dtype)
        assert Data("all_reduce", dtype, "avg", n, 0, LONG).compare(0, got).wrong


def test_an_average_of_integers_is_refused_with_a_sentence() -> None:
    for dtype in sorted(set(DTYPES) - set(FLOATING)):
        with pytest.raises(Unsupported, match=f"avg of {dtype}"):
            Data("all_reduce", dtype, "avg", 2, 0, 1)
        assert Data("all_gather", dtype, "avg", 2, 0, 1).given(0, 1) is not None  # the redop means nothing to it


# ---- a buffer that was not written can be told ---------------------------------------------------------


@pytest.mark.parametrize("op", sorted(set(COLLECTIVES) - {"barrier"}))
@settings(max_examples=40, deadline=None)
@given(
    dtype_redop=st.sampled_from([*EXACT, *((dtype, "avg") for dtype in FLOATING)]),
    n=st.integers(1, 40),
    start=st.integers(0, 10**6),
    data=st.data(),
)
def test_the_known_result_is_never_poison(
    op: str, dtype_redop: tuple[str, str], n: int, start: int, data: st.DataObject
) -> None:
    one = Data(op, *dtype_redop, n, data.draw(st.integers(0, n - 1)), 2**20, data.draw(st.integers(0, n - 1)))
    assert not np.any(one.expected(start, start + LONG) == POISON)
    assert not np.any(one.given(start, start + LONG) == POISON)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("n", [240, 252, 277, 540, 3000])
def test_the_sum_of_many_ranks_is_never_poison(dtype: str, n: int) -> None:
    count = 20_000  # longer than any pattern of so many ranks
    assert not np.any(wanted(Data("all_reduce", dtype, "sum", n, 0, count)) == POISON)


# ---- every corruption is seen --------------------------------------------------------------------------

exact_data = st.builds(
    lambda op, kind, n, count, rank, root: Data(op, kind[0], kind[1], n, rank % n, count, root % n),
    op=st.sampled_from(sorted(set(COLLECTIVES) - {"barrier"})),
    kind=st.sampled_from(EXACT),
    n=st.integers(1, 40),
    count=st.integers(1, 60),
    rank=st.integers(0, 39),
    root=st.integers(0, 39),
)


@settings(max_examples=400, deadline=None)
@given(exact_data, st.data())
def test_any_flipped_bit_is_found_where_it_is(one: Data, data: st.DataObject) -> None:
    stored = encode(wanted(one), one.dtype)
    index = data.draw(st.integers(0, one.recv_count - 1))
    bit = data.draw(st.integers(0, 8 * DTYPES[one.dtype].itemsize - 1))
    raw = stored.view(f"u{DTYPES[one.dtype].itemsize}")
    raw[index] ^= raw.dtype.type(1 << bit)
    assert one.compare(0, decode(stored, one.dtype)) == Check(1, index)


@pytest.mark.parametrize("dtype", FLOATING)
def test_the_sign_of_a_zero_is_data_too(dtype: str) -> None:
    one = Data("all_reduce", dtype, "sum", 4, 0, LONG)
    zero = int(np.flatnonzero(wanted(one) == 0)[0])
    got = wanted(one)
    got[zero] = -0.0
    assert one.compare(0, got) == Check(1, zero)


@settings(max_examples=100, deadline=None)
@given(exact_data, st.integers(0, 10**6), st.integers(1, 60), st.data())
def test_a_piece_is_compared_at_its_place(one: Data, start: int, length: int, data: st.DataObject) -> None:
    got = one.expected(start, start + length)
    assert one.compare(start, got) == Check(0, -1)
    index = data.draw(st.integers(0, length - 1))
    got[index] = POISON
    assert one.compare(start, got) == Check(1, start + index)
    got[:] = math.nan
    assert one.compare(start, got) == Check(length, start)


@settings(max_examples=100, deadline=None)
@given(
    op=st.sampled_from(["all_gather", "gather", "all_to_all"]),
    n=st.integers(2, 40),
    count=st.integers(1, 60),
    data=st.data(),
)
def test_two_ranks_in_each_others_place_are_seen(op: str, n: int, count: int, data: st.DataObject) -> None:
    a, b = data.draw(st.lists(st.integers(0, n - 1), min_size=2, max_size=2, unique=True))
    one = Data(op, "int8", "sum", n, 0, count)
    chunks = wanted(one).reshape(n, count)
    chunks[[a, b]] = chunks[[b, a]]
    assert one.compare(0, chunks.ravel()) == Check(2 * count, min(a, b) * count)


@settings(max_examples=100, deadline=None)
@given(n=st.integers(2, 40), count=st.integers(97, LONG), data=st.data())
def test_the_chunk_of_another_rank_is_seen(n: int, count: int, data: st.DataObject) -> None:
    mine, other = data.draw(st.lists(st.integers(0, n - 1), min_size=2, max_size=2, unique=True))
    for op in ("scatter", "send_recv", "all_to_all"):
        world = ranks(op, "float32", "sum", n, count)
        assert world[mine].compare(0, wanted(world[other])).wrong


@pytest.mark.parametrize("n", [98, 300])
def test_ranks_of_a_large_world_are_told_apart(n: int) -> None:
    chunks = wanted(Data("all_gather", "int8", "sum", n, 0, 64)).reshape(n, 64)
    assert len({chunk.tobytes() for chunk in chunks}) == n


@pytest.mark.parametrize("op", MOVING)
@settings(max_examples=25, deadline=None)
@given(dtype=st.sampled_from(sorted(DTYPES)), n=st.integers(1, 40), count=st.integers(2, 120), data=st.data())
def test_moved_data_one_element_off_is_seen(op: str, dtype: str, n: int, count: int, data: st.DataObject) -> None:
    one = Data(op, dtype, "sum", n, data.draw(st.integers(0, n - 1)), count)
    got = wanted(one)
    got[1:] = got[:-1].copy()
    assert one.compare(0, got).wrong


@pytest.mark.parametrize(("dtype", "redop"), EXACT)
def test_a_reduction_one_element_off_is_seen(dtype: str, redop: str) -> None:
    unseen = []
    for n in range(1, 41):
        one = Data("all_reduce", dtype, redop, n, 0, LONG)
        got = wanted(one)
        got[1:] = got[:-1].copy()
        if not one.compare(0, got).wrong:
            unseen.append(n)
    assert not unseen


@pytest.mark.parametrize(("dtype", "redop"), EXACT)
@settings(max_examples=15, deadline=None)
@given(n=st.integers(2, 40), data=st.data())
def test_a_reduction_without_one_rank_is_seen(dtype: str, redop: str, n: int, data: st.DataObject) -> None:
    world = ranks("all_reduce", dtype, redop, n, LONG)
    missing = data.draw(st.integers(0, n - 1))
    rest = [sent(one) for one in world if one.rank != missing]
    assert world[0].compare(0, reduced(rest, dtype, redop, "ascending")).wrong


@pytest.mark.parametrize("n", [240, 252, 277])
def test_every_rank_of_a_large_sum_counts(n: int) -> None:
    """int8 has room for 39 contributions an element, so ranks take turns; no turn may be all zeros."""
    silent = [one.rank for one in ranks("all_reduce", "int8", "sum", n, 2000) if not sent(one).any()]
    assert not silent


@pytest.mark.parametrize("redop", ["sum", "prod", "min", "max"])
@pytest.mark.parametrize("missing", [0, 96, 97, 150, 299])
def test_a_reduction_over_many_ranks_without_one_is_seen(redop: str, missing: int) -> None:
    world = ranks("all_reduce", "float32", redop, 300, 2000)
    rest = [sent(one) for one in world if one.rank != missing]
    assert world[0].compare(0, reduced(rest, "float32", redop, "ascending")).wrong


@pytest.mark.parametrize(("dtype", "redop"), EXACT)
@settings(max_examples=8, deadline=None)
@given(n=st.integers(1, 40), data=st.data())
def test_a_rank_counted_twice_is_seen_in_a_sum_or_product(dtype: str, redop: str, n: int, data: st.DataObject) -> None:
    world = ranks("all_reduce", dtype, redop, n, LONG)
    gives = [sent(one) for one in world]
    twice = data.draw(st.integers(0, n - 1))
    got = reduced([*gives, gives[twice]], dtype, redop, "ascending")
    assert bool(world[0].compare(0, got).wrong) == (redop in ("sum", "prod"))  # min and max do not care


# ---- who receives, and how much ------------------------------------------------------------------------


@pytest.mark.parametrize("op", sorted(COLLECTIVES))
def test_who_receives(op: str) -> None:
    receivers = [data.rank for data in ranks(op, "float32", "sum", 4, 2, root=2) if data.receives()]
    assert receivers == {"reduce": [2], "gather": [2], "barrier": [2]}.get(op, [0, 1, 2, 3])
    if op == "barrier":
        assert Data(op, "float32", "sum", 4, 2, 0).recv_count == 0


@pytest.mark.parametrize(
    ("op", "send", "recv"),
    [
        ("all_reduce", 3, 3),
        ("all_gather", 3, 12),
        ("reduce_scatter", 12, 3),
        ("broadcast", 3, 3),
        ("reduce", 3, 3),
        ("all_to_all", 12, 12),
        ("gather", 3, 12),
        ("scatter", 12, 3),
        ("send_recv", 3, 3),
        ("barrier", 0, 0),
    ],
)
def test_buffers_of_four_ranks_with_chunks_of_three(op: str, send: int, recv: int) -> None:
    one = Data(op, "float32", "sum", 4, 1, 3)
    assert (one.send_count, one.recv_count) == (send, recv)


# ---- bytes, elements, bandwidths -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "nbytes", "dtype", "n", "count", "real"),
    [
        ("all_reduce", 1024, "float32", 3, 256, 1024),  # one chunk, whatever the number of ranks
        ("all_reduce", 1023, "float32", 3, 255, 1020),
        ("all_reduce", 1, "float64", 2, 1, 8),  # never less than one element
        ("all_gather", 1024, "float32", 4, 64, 1024),
        ("all_gather", 1024, "float32", 3, 85, 1020),
        ("all_gather", 8, "float32", 3, 1, 12),  # one element of every rank is more than was asked for
        ("reduce_scatter", 1000, "bfloat16", 8, 62, 992),
        ("all_to_all", 1000, "int8", 7, 142, 994),
        ("gather", 64, "int64", 2, 4, 64),
        ("scatter", 65, "int64", 2, 4, 64),
        ("broadcast", 7, "float16", 5, 3, 6),
        ("send_recv", 7, "int8", 5, 7, 7),
        ("barrier", 0, "float32", 8, 0, 0),
        ("barrier", 4096, "float32", 8, 0, 0),
    ],
)
def test_sizes_are_rounded_to_whole_elements(op: str, nbytes: int, dtype: str, n: int, count: int, real: int) -> None:
    assert elements(op, nbytes, dtype, n) == count
    assert moved(op, nbytes, dtype, n) == real


@settings(deadline=None)
@given(
    op=st.sampled_from(sorted(set(COLLECTIVES) - {"barrier"})),
    nbytes=st.integers(1, 2**50),
    dtype=st.sampled_from(sorted(DTYPES)),
    n=st.integers(1, 65535),
)
def test_what_is_moved_is_what_the_ranks_hold(op: str, nbytes: int, dtype: str, n: int) -> None:
    one = Data(op, dtype, "sum", n, 0, elements(op, nbytes, dtype, n))
    real = moved(op, nbytes, dtype, n)
    whole = COLLECTIVES[op].chunks(n) * DTYPES[dtype].itemsize
    assert real == max(one.send_count, one.recv_count) * DTYPES[dtype].itemsize
    assert real <= nbytes or real == whole
    assert nbytes - real < whole
    assert moved(op, real, dtype, n) == real  # rounding once is enough


# bytes on a ring's link per byte of algbw, worked out by hand for 2, 4 and 8 ranks
FACTORS = {
    "all_reduce": (1.0, 1.5, 1.75),
    "all_gather": (0.5, 0.75, 0.875),
    "reduce_scatter": (0.5, 0.75, 0.875),
    "all_to_all": (0.5, 0.75, 0.875),
    "gather": (0.5, 0.75, 0.875),
    "scatter": (0.5, 0.75, 0.875),
    "broadcast": (1.0, 1.0, 1.0),
    "reduce": (1.0, 1.0, 1.0),
    "send_recv": (1.0, 1.0, 1.0),
}


@pytest.mark.parametrize("op", sorted(FACTORS))
@pytest.mark.parametrize(("column", "n"), [(0, 2), (1, 4), (2, 8)])
def test_bandwidths(op: str, column: int, n: int) -> None:
    algbw, busbw = bandwidths(op, 3 * 10**9, n, 1.5)
    assert algbw == 2.0
    assert busbw == pytest.approx(2.0 * FACTORS[op][column], rel=1e-15)


def test_bandwidths_that_do_not_exist_are_none() -> None:
    assert set(FACTORS) | {"barrier"} == set(COLLECTIVES)
    assert bandwidths("barrier", 0, 4, 1e-3) == (None, None)
    assert bandwidths("all_reduce", 8, 4, 0.0) == (None, None)
    assert bandwidths("all_reduce", 10**9, 1, 1.0) == (1.0, None)


# ---- storage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@settings(deadline=None)
@given(data=st.data())
def test_values_survive_storage(dtype: str, data: st.DataObject) -> None:
    most = DTYPES[dtype].exact
    values = np.array(data.draw(st.lists(st.integers(-most, most), min_size=1, max_size=50)), np.float64)
    stored = encode(values, dtype)
    assert stored.dtype == np.dtype(DTYPES[dtype].numpy)
    assert stored.itemsize == DTYPES[dtype].itemsize
    assert np.array_equal(decode(stored, dtype), values)
    assert np.array_equal(in_dtype(values, dtype).astype(np.float64), values)  # and need no rounding


@pytest.mark.parametrize(("value", "bits"), [(1.0, 0x3F80), (-2.0, 0xC000), (256.0, 0x4380), (113.0, 0x42E2)])
def test_bfloat16_is_the_upper_half_of_float32(value: float, bits: int) -> None:
    assert encode(np.array([value]), "bfloat16")[0] == bits
    assert decode(np.array([bits], np.uint16), "bfloat16")[0] == value


@settings(deadline=None)
@given(st.integers(0, 10**7), st.integers(1, 2**20))
def test_pieces_cover_a_buffer_once(count: int, length: int) -> None:
    length = max(length, count // 1000 + 1)
    pieces = spans(count, length)
    assert all(0 < stop - start <= length for start, stop in pieces)
    assert [start for start, _ in pieces] == [0, *(stop for _, stop in pieces)][: len(pieces)]
    assert (pieces[-1][1] if pieces else 0) == count


def piecewise(make: Callable[[int, int], Array], count: int, step: int) -> Array:
    return np.concatenate([make(start, min(start + step, count)) for start in range(0, count, step)])


@settings(max_examples=60, deadline=None)
@given(exact_data, st.integers(1, 50))
def test_data_made_in_pieces_is_the_same_data(one: Data, step: int) -> None:
    assert np.array_equal(piecewise(one.given, one.send_count, step), one.given(0, one.send_count))
    assert np.array_equal(piecewise(one.expected, one.recv_count, step), wanted(one))
