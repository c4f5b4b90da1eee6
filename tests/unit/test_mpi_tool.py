"""Settings of MPI libraries: what is refused beforehand, what is written and put back, what counts as proof."""

import ctypes
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commbench import knobs
from commbench.backends.mpi_tool import Tool, about, evidence, implied, listed, pattern, serving, wanted
from commbench.errors import SpecError, Unsupported
from commbench.spec.sweep import load

INT, BOOL, TEXT = 11, 12, 13  # handles of data types in the library below
ALGORITHMS = {"ignore": 0, "recursive_doubling": 3, "ring": 4}
AR, RULES = "coll_tuned_allreduce_algorithm", "coll_tuned_use_dynamic_rules"
SEGMENT = f"{AR}_segmentsize"


class Library:
    """The part of an MPI library that MPI_T is: variables with their values, some of which cannot be had."""

    def __init__(self) -> None:
        self.names = [AR, SEGMENT, RULES, "coll_tuned_bcast_algorithm", "btl_tcp_sndbuf", "rules_filename"]
        self.kinds = [INT, INT, BOOL, INT, INT, TEXT]
        self.values = [0, 0, 0, 0, 131072, 0]
        self.deaf: set[str] = set()  # writes are taken and forgotten
        self.closed: set[str] = set()  # writes are refused
        self.written: list[tuple[str, int]] = []

    def MPI_T_init_thread(self, *_: Any) -> int:
        return 0

    def MPI_T_cvar_get_num(self, number: Any) -> int:
        number._obj.value = len(self.names)
        return 0

    def MPI_T_cvar_get_info(self, index: int, name: Any, *parts: Any) -> int:
        name.value = self.names[index].encode()
        parts[2]._obj.value = self.kinds[index]
        parts[3]._obj.value = 1 if self.names[index] == AR else None
        return 0

    def MPI_T_enum_get_info(self, names: Any, number: Any, *_: Any) -> int:
        number._obj.value = len(ALGORITHMS)
        return 0

    def MPI_T_enum_get_item(self, names: Any, item: int, value: Any, word: Any, *_: Any) -> int:
        word.value, value._obj.value = [(k.encode(), v) for k, v in ALGORITHMS.items()][item]
        return 0

    def MPI_T_cvar_handle_alloc(self, index: int, _: Any, handle: Any, count: Any) -> int:
        handle._obj.value = index + 1
        return 0

    def MPI_T_cvar_read(self, handle: Any, room: Any) -> int:
        ctypes.c_int.from_buffer(room).value = self.values[handle.value - 1]
        return 0

    def MPI_T_cvar_write(self, handle: Any, room: Any) -> int:
        index = handle.value - 1
        if self.names[index] in self.closed:
            return 64
        self.written.append((self.names[index], ctypes.c_int.from_buffer(room).value))
        if self.names[index] not in self.deaf:
            self.values[index] = ctypes.c_int.from_buffer(room).value
        return 0


@pytest.fixture
def library() -> Library:
    return Library()


@pytest.fixture
def tool(library: Library) -> Tool:
    return Tool(library, {INT: ctypes.c_int, BOOL: ctypes.c_bool})  # type: ignore[arg-type]


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(Unsupported) as caught:
        act()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 400
    return sentence


def test_a_library_without_the_tool_interface_is_a_sentence() -> None:
    assert "MPI_T" in refused(lambda: Tool(object(), {}))  # type: ignore[arg-type]


def test_values_by_name_and_by_number(tool: Tool) -> None:
    assert (tool.value(AR, "ring"), tool.value(AR, "4"), tool.value(RULES, "true"), tool.value(SEGMENT, "65536")) == (
        4, 4, 1, 65536,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (AR, "rign", "did you mean 'ring'"),
        (AR, "9", "known: 0 ignore, 3 recursive_doubling, 4 ring"),
        (SEGMENT, "64KiB", "write a number"),
        (SEGMENT, str(2**40), "does not fit"),
        ("coll_tuned_alreduce_algorithm", "ring", f"no such variable; did you mean {AR}?"),
        ("MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM", "ring", "no such variable"),
        ("rules_filename", "x", "is text"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_what_can(tool: Tool, name: str, text: str, says: str) -> None:
    assert says in refused(lambda: tool.value(name, text))


def test_values_hold_inside_and_are_put_back(tool: Tool, library: Library) -> None:
    before = list(library.values)
    with tool.turned({RULES: 1, AR: 4}):
        assert (tool.read(RULES), tool.read(AR)) == (1, 4)
    assert library.values == before
    with suppress(ZeroDivisionError), tool.turned({AR: 4}):
        raise ZeroDivisionError
    assert library.values == before


def test_a_write_that_does_nothing_is_noticed_and_the_others_are_put_back(tool: Tool, library: Library) -> None:
    before = list(library.values)
    library.deaf.add(AR)
    assert refused(lambda: tool.turned({RULES: 1, AR: 4}).__enter__()) == f"{AR}: 4 was written, but it reads 0"
    assert library.values == before
    library.closed.add(SEGMENT)
    with pytest.raises(Unsupported, match="does not let it be set"), tool.turned({RULES: 1, SEGMENT: 8}):
        pass
    assert library.values == before
    assert (RULES, 1) in library.written


def test_what_else_a_setting_needs_is_written_first(tool: Tool) -> None:
    assert list(wanted(tool, {AR: "ring"}, "all_reduce").items()) == [(RULES, 1), (AR, 4)]
    assert wanted(tool, {AR: "ring", RULES: "false"}, "all_reduce")[RULES] == 0
    assert implied("MPIR_CVAR_BCAST_INTRA_ALGORITHM") == {"MPIR_CVAR_BCAST_DEVICE_COLLECTIVE": "0"}
    assert implied("coll_han_priority") == {}


@pytest.mark.parametrize("component", ["tuned", "han", "hcoll"])
def test_a_components_priority_is_asked_for_when_a_communicator_is_made(component: str) -> None:
    found = knobs.find(f"OMPI_MCA_coll_{component}_priority")
    assert found is not None
    assert found.level == "communicator"


@pytest.mark.parametrize(
    ("settings", "op", "says"),
    [
        ({AR: "ring"}, "all_gather", "is a setting of allreduce, but all_gather calls MPI_Allgather"),
        ({AR: "ring"}, "send_recv", "calls no collective"),
        ({SEGMENT: "4096"}, "all_reduce", f"no effect without {AR}"),
        ({SEGMENT: "4096", AR: "ignore"}, "all_reduce", f"no effect without {AR}"),
        ({"btl_tcp_sndbuf": "0"}, "all_reduce", "read when the process starts"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_runs(
    tool: Tool, settings: dict[str, str], op: str, says: str
) -> None:
    assert says in refused(lambda: wanted(tool, settings, op))


def test_what_a_variable_is_about() -> None:
    assert about("coll_tuned_reduce_scatter_block_algorithm") == ("tuned", "reduce_scatter_block")
    assert about("coll_tuned_reduce_scatter_algorithm") == ("tuned", "reduce_scatter")
    assert about("coll_han_priority") == ("han", "")
    assert about("MPIR_CVAR_ALLGATHERV_INTRA_ALGORITHM") == ("", "allgatherv")
    assert about("MPIR_CVAR_DEVICE_COLLECTIVES") == ("", "")


def test_named_values_of_a_description() -> None:
    assert listed("Selects an algorithm\nauto - chosen inside\nnb   - Force nonblocking - really\nring - Ring") == {
        "auto": 0, "nb": 1, "ring": 2,
    }  # fmt: skip
    assert listed("the size in bytes - at most 2 GiB, or -1\n  x - y") == {}


def test_evidence_of_the_serving_function() -> None:
    served = "ompi_coll_tuned_allreduce_intra_dec_dynamic"
    assert served in evidence(served, {AR: "ring"}, "allreduce")
    masked = refused(lambda: evidence("mca_coll_han_allreduce_intra_dynamic", {AR: "ring"}, "allreduce"))
    assert "han serves allreduce" in masked
    assert "add coll_han_priority: 0" in masked
    assert "its own rules" in refused(
        lambda: evidence("ompi_coll_tuned_allreduce_intra_dec_fixed", {AR: "4"}, "allreduce")
    )
    assert "cannot be seen" in refused(lambda: evidence("", {AR: "ring"}, "allreduce"))
    assert evidence("", {"coll_han_priority": "0"}, "allreduce") == ""


def test_looking_at_what_is_no_communicator_finds_nothing() -> None:
    room = (ctypes.c_uint64 * 64)(*range(64))
    assert [serving(address, "allreduce") for address in (0, 1, 2**46 + 5, ctypes.addressof(room))] == [""] * 4


def _pieces(algorithm: str, ranks: int, rank: int, count: int) -> list[int]:
    """The partial reductions of a textbook's algorithm on one rank."""
    if algorithm == "ring":
        blocks = [count // ranks + (k < count % ranks) for k in range(ranks)]
        return [blocks[(rank - k) % ranks] for k in range(1, ranks)]
    if algorithm == "recursive_doubling":
        return [count] * (ranks.bit_length() - 1)
    if algorithm == "basic_linear":
        return [count] * (ranks - 1) if rank == 0 else []
    return [count // 2**k for k in range(1, ranks.bit_length())]


@given(st.integers(1, 4), st.integers(1, 500), st.data())
def test_the_footprint_of_an_algorithm_is_its_own(power: int, per_rank: int, data: st.DataObject) -> None:
    ranks, count = 2**power, 2**power * per_rank
    rank = data.draw(st.integers(0, ranks - 1))
    names = ["ring", "recursive_doubling", "basic_linear", "rabenseifner"]
    for mine in names:
        pieces = _pieces(mine, ranks, rank, count)
        assert pattern(mine, ranks, rank, count, pieces)
        alike = {other for other in names if pattern(other, ranks, rank, count, pieces)}
        same = {other for other in names if _pieces(other, ranks, rank, count) == pieces}
        assert alike == same  # two ranks: ring and Rabenseifner are the same thing


@given(st.integers(2, 9), st.integers(0, 400), st.data())
def test_a_ring_of_any_size_and_uneven_blocks(ranks: int, more: int, data: st.DataObject) -> None:
    rank, count = data.draw(st.integers(0, ranks - 1)), ranks + more
    assert pattern("ring", ranks, rank, count, _pieces("ring", ranks, rank, count))
    assert pattern("nonoverlapping", ranks, rank, count, [count]) is None


def test_fewer_elements_than_ranks_are_no_ring() -> None:
    assert pattern("ring", 4, 0, 2, [2, 2]) is False
    assert pattern("ring", 2, 0, 1, [1]) is False


def _spec(tmp_path: Path, backend: str, settings: str) -> str:
    path = tmp_path / "s.yaml"
    path.write_text(f"backend: {backend}\nop: all_reduce\nsizes: 8\nsettings: {settings}\n")
    return str(path)


def test_a_spec_may_name_the_librarys_own_variables(tmp_path: Path) -> None:
    text = f"{{{AR}: [ring, 5, 5], MPIR_CVAR_X: true}}"
    found = load(_spec(tmp_path, "mpi", text)).cases[0].settings
    assert found == (("MPIR_CVAR_X", ("true",)), (AR, ("ring", "5")))


@pytest.mark.parametrize(
    ("backend", "settings", "says"),
    [
        ("gloo", f"{{{AR}: ring}}", "is a setting of mpi, not of gloo"),
        ("mpi", "{UCX_TLS: x}", "unknown key 'UCX_TLS'"),
        ("mpi", "{coll_: x}", "unknown key 'coll_'"),
        ("mpi", f"{{{AR}: 'a b'}}", "is no value of a setting"),
        ("mpi", f"{{{AR}: {{a: 1}}}}", "is no value of a setting"),
        ("mpi", f"{{{AR}: []}}", "the list is empty"),
    ],
)
def test_settings_that_are_none_are_a_spec_error(tmp_path: Path, backend: str, settings: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(_spec(tmp_path, backend, settings))
    assert says in str(caught.value)
