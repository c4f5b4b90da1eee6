"""The NCCL tuner plugin, built as users build it and driven through its C function tables with NCCL's own layouts."""

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    byref,
    c_char_p,
    c_double,
    c_float,
    c_int,
    c_size_t,
    c_uint64,
    c_void_p,
)
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commbench.emit import Place, emit
from commbench.emit import build as building
from commbench.emit.build import build
from commbench.errors import CommbenchError, MissingLibrary, SpecError
from commbench.records.recommendation import Recommendation, Rule

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = (4, 5, 6)
ALGORITHMS = ("tree", "ring", "collnet_direct", "collnet_chain", "nvls", "nvls_tree", "pat")
PROTOCOLS = ("ll", "ll128", "simple")
COLLECTIVES = ("broadcast", "reduce", "allgather", "reducescatter", "allreduce")
ALLREDUCE = 4
EVERYTHING = 2**64 - 1
INVALID_USAGE = 5
IGNORE = -1.0

# NCCL's logger takes a variable number of arguments, which Python cannot receive: this formats them.
LISTENER = """
#include <stdarg.h>
#include <stdio.h>
void (*said)(int level, const char *text);
void logger(int level, unsigned long flags, const char *file, int line, const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (flags == 64 && file && line > 0) said(level, text);
}
"""
SAID = CFUNCTYPE(None, c_int, c_char_p)
CHOOSE = CFUNCTYPE(
    c_int, c_void_p, c_int, c_size_t, c_int, POINTER(POINTER(c_float)), c_int, c_int, c_int, POINTER(c_int)
)
END = CFUNCTYPE(c_int, c_void_p)
CHUNK = CFUNCTYPE(c_int, c_void_p, c_int, c_size_t, c_int, c_int, c_int, POINTER(c_size_t))


class Domains(Structure):
    _fields_ = [("count", c_int), ("fewest", c_int), ("most", c_int)]


class Constants(Structure):
    """Of v5 and v6: 144 doubles."""

    _fields_ = [
        ("base_latencies", c_double * 3 * 7),
        ("hw_latencies", c_double * 3 * 7 * 3),
        ("bandwidths", c_double * 3 * 4 * 5),
    ]


INIT_V4 = CFUNCTYPE(c_int, c_size_t, c_size_t, c_void_p, POINTER(c_void_p))
INIT_V5 = CFUNCTYPE(
    c_int, POINTER(c_void_p), c_uint64, c_size_t, c_size_t, c_void_p, POINTER(Domains), POINTER(Constants)
)


class TunerV4(Structure):
    _fields_ = [("name", c_char_p), ("init", INIT_V4), ("choose", CHOOSE), ("end", END)]


class TunerV5(Structure):
    _fields_ = [("name", c_char_p), ("init", INIT_V5), ("choose", CHOOSE), ("end", END)]


class TunerV6(Structure):
    _fields_ = [
        ("name", c_char_p), ("init", INIT_V5), ("choose", CHOOSE), ("end", END), ("chunk", CHUNK),
    ]  # fmt: skip


class Communicator:
    """What NCCL does with the plugin for one communicator."""

    def __init__(self, tuner: Structure, version: int, context: c_void_p) -> None:
        self.tuner, self.version, self.context = tuner, version, context

    def costs(
        self, nbytes: int, collective: int = ALLREDUCE, *, pipe_ops: int = 1, registered: int = 0,
        ignored: tuple[str, ...] = (), algorithms: int = 7, protocols: int = 3,
    ) -> tuple[list[float], list[float], int]:  # fmt: skip
        """The flat table before and after the call, and the channels, 0 before."""
        flat = (c_float * 21)(*(10.0 + k for k in range(21)))
        for name in ignored:
            flat[entry(name)] = IGNORE
        before, channels = list(flat), c_int(0)
        table = ctypes.cast(flat, POINTER(POINTER(c_float)))
        assert not self.tuner.choose(
            self.context, collective, nbytes, pipe_ops, table, algorithms, protocols, registered, byref(channels)
        )
        return before, list(flat), channels.value

    def choice(self, nbytes: int, collective: int = ALLREDUCE, **more: object) -> tuple[str, int]:
        """("ring/simple", channels); ("", 0) where NCCL's own choice stays."""
        before, after, channels = self.costs(nbytes, collective, **more)  # type: ignore[arg-type]
        changed = [k for k in range(21) if before[k] != after[k]]
        assert len(changed) <= 1
        assert all(after[k] == 0.0 for k in changed)
        assert changed or channels == 0
        return "/".join((ALGORITHMS[changed[0] // 3], PROTOCOLS[changed[0] % 3])) if changed else "", channels


def entry(name: str) -> int:
    algorithm, protocol = name.split("/")
    return ALGORITHMS.index(algorithm) * 3 + PROTOCOLS.index(protocol)


class Plugin:
    """The tables of the built library, and what it said."""

    def __init__(self, path: Path, listener: Path, file: Path) -> None:
        self.lib, self.file = ctypes.CDLL(str(path)), file
        self.tables = {
            4: TunerV4.in_dll(self.lib, "ncclTunerPlugin_v4"),
            5: TunerV5.in_dll(self.lib, "ncclTunerPlugin_v5"),
            6: TunerV6.in_dll(self.lib, "ncclTunerPlugin_v6"),
        }
        self.messages: list[tuple[int, str]] = []
        ear = ctypes.CDLL(str(listener))
        self._said = SAID(lambda level, text: self.messages.append((level, text.decode())))
        c_void_p.in_dll(ear, "said").value = ctypes.cast(self._said, c_void_p).value
        self.logger = ctypes.cast(ear.logger, c_void_p)

    @property
    def warnings(self) -> list[str]:
        return [text for level, text in self.messages if level == 2]

    def init(self, version: int, ranks: int = 16, nodes: int = 2, *, silent: bool = False) -> tuple[int, c_void_p]:
        self.messages.clear()
        context, logger = c_void_p(1), None if silent else self.logger
        if version == 4:
            return self.tables[4].init(ranks, nodes, logger, byref(context)), context
        constants = Constants()
        ctypes.memset(byref(constants), 0x5A, ctypes.sizeof(constants))
        before = bytes(constants)
        result = self.tables[version].init(
            byref(context), 7, ranks, nodes, logger, byref(Domains(1, 8, 8)), byref(constants)
        )
        assert bytes(constants) == before, "a constant of NCCL's model was overwritten"
        return result, context

    @contextmanager
    def communicator(
        self, rows: str | bytes, version: int = 6, ranks: int = 16, nodes: int = 2, *, silent: bool = False
    ) -> Iterator[Communicator]:
        self.file.write_bytes(rows if isinstance(rows, bytes) else rows.encode())
        os.environ["NCCL_TUNER_CONFIG_FILE"] = str(self.file)
        result, context = self.init(version, ranks, nodes, silent=silent)
        assert result == 0
        try:
            yield Communicator(self.tables[version], version, context)
        finally:
            assert self.tables[version].end(context) == 0


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plugin]:
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "listener.c").write_text(LISTENER)
    listener = folder / "listener.so"
    command = [*building.compiler(), "-shared", "-fPIC", "-o", str(listener), str(folder / "listener.c")]
    subprocess.run(command, check=True, timeout=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NCCL_TUNER_CONFIG_FILE", "")
        yield Plugin(build(folder, ("-Werror", "-Wconversion", "-Wshadow")), listener, folder / "tuning.csv")


# ---- the tables


def test_exactly_three_tables_are_exported_in_nccls_layout(plugin: Plugin) -> None:
    assert ctypes.sizeof(Constants) == 1152
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", plugin.lib._name], capture_output=True, text=True, check=True, timeout=30
    )
    names = {line.split()[-1] for line in symbols.stdout.splitlines()}
    assert names == {f"ncclTunerPlugin_v{version}" for version in VERSIONS}
    assert {table.name for table in plugin.tables.values()} == {b"commbench"}
    assert not plugin.tables[6].chunk, "NULL: NCCL keeps its own chunk size"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_first_row_that_fits_is_taken(plugin: Plugin, version: int) -> None:
    rows = (
        "allreduce,1024,4095,tree,ll,2,2,16\n"
        "allreduce,0,8191,ring,ll128,-1,-1,-1\n"
        "allgather,0,99,pat,simple,3,2,16,1,0\n"
    )
    with plugin.communicator(rows, version) as one:
        assert one.choice(1024) == one.choice(4095) == ("tree/ll", 2)
        assert one.choice(1023) == one.choice(4096) == one.choice(0) == ("ring/ll128", 0)
        assert one.choice(8192) == one.choice(EVERYTHING) == ("", 0)
        assert one.choice(99, COLLECTIVES.index("allgather")) == ("pat/simple", 3)
        assert one.choice(50, COLLECTIVES.index("broadcast")) == ("", 0)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("rows", ["", "# nothing\n\n", "allreduce,0,10,ring,simple,4,-1,-1\n"])
def test_without_a_row_everything_stays_nccls_own(plugin: Plugin, version: int, rows: str) -> None:
    with plugin.communicator(rows, version) as one:
        for nbytes in (11, 2**30, EVERYTHING):
            before, after, channels = one.costs(nbytes, ignored=("ring/ll128",))
            assert (before, 0) == (after, channels)
        assert plugin.warnings == []


@pytest.mark.parametrize("collective", range(5))
def test_names_are_nccls_numbers(plugin: Plugin, collective: int) -> None:
    names = [f"{algorithm}/{protocol}" for algorithm in ALGORITHMS for protocol in PROTOCOLS]
    lines = (f"{k},{k},{name.replace('/', ',')},{k + 1},-1,-1" for k, name in enumerate(names))
    rows = "".join(f"{COLLECTIVES[collective]},{line}\n" for line in lines)
    with plugin.communicator(rows) as one:
        assert [one.choice(k, collective) for k in range(21)] == [(name, k + 1) for k, name in enumerate(names)]
        for other in {-1, 0, 1, 2, 3, 4, 5, 6, 7, 2**31 - 1} - {collective}:
            assert one.choice(3, other) == ("", 0)


@pytest.mark.parametrize("text", ["-1", "0"])
def test_channels_that_are_not_set_are_left_to_nccl(plugin: Plugin, text: str) -> None:
    with plugin.communicator(f"allreduce,0,99,ring,simple,{text},-1,-1\n") as one:
        assert one.choice(5) == ("ring/simple", 0)


@pytest.mark.parametrize(
    ("fields", "fitting"),
    [
        ("-1,-1", True), ("2,16", True), ("2,-1", True), ("-1,16", True), ("1-2,16-32", True), ("2-2,0-16", True),
        ("1,16", False), ("2,8", False), ("3-4,-1", False), ("-1,17-99", False), ("1-1,1-15", False),
    ],
)  # fmt: skip
def test_nodes_and_ranks(plugin: Plugin, fields: str, fitting: bool) -> None:
    with plugin.communicator(f"allreduce,0,99,ring,simple,1,{fields}\n", ranks=16, nodes=2) as one:
        assert one.choice(5) == (("ring/simple", 1) if fitting else ("", 0))


@pytest.mark.parametrize(
    ("fields", "fitting"),
    [
        ("-1,-1", True), ("4", True), ("4,1", True), ("2-8,1", True), ("-1,1", True), ("4,-1", True),
        ("3,1", False), ("5-8,-1", False), ("-1,0", False), ("4,0", False), ("1", False),
    ],
)  # fmt: skip
def test_pipe_ops_and_registered_buffers(plugin: Plugin, fields: str, fitting: bool) -> None:
    with plugin.communicator(f"allreduce,0,99,ring,simple,1,-1,-1,{fields}\nallreduce,0,99,tree,ll,2,-1,-1\n") as one:
        chosen = one.choice(5, pipe_ops=4, registered=1)
        assert chosen == (("ring/simple", 1) if fitting else ("tree/ll", 2))


@pytest.mark.parametrize("version", VERSIONS)
def test_what_nccl_ignores_is_never_enabled(plugin: Plugin, version: int) -> None:
    rows = "allreduce,0,99,ring,ll128,8,-1,-1\nallreduce,0,99,nvls,simple,8,-1,-1\nallreduce,0,50,tree,simple,2,-1,-1\n"
    with plugin.communicator(rows, version) as one:
        assert one.choice(9) == ("ring/ll128", 8)
        assert one.choice(9, ignored=("ring/ll128",)) == ("nvls/simple", 8)
        for _ in range(3):
            assert one.choice(9, ignored=("ring/ll128", "nvls/simple")) == ("tree/simple", 2)
            assert one.choice(60, ignored=("ring/ll128", "nvls/simple")) == ("", 0)
        told = [text for _, text in plugin.messages if "does not allow" in text]
        assert [text.split(": ", 1)[1] for text in told] == [
            f"{plugin.file}:{line}: NCCL does not allow {name} here; the row is passed over"
            for line, name in ((1, "ring/ll128"), (2, "nvls/simple"))
        ], "once a row, and not at every call"


def test_a_smaller_table_of_another_nccl_is_not_overrun(plugin: Plugin) -> None:
    with plugin.communicator("allreduce,0,99,pat,simple,1,-1,-1\nallreduce,0,99,nvls,ll,2,-1,-1\n") as one:
        before, after, channels = one.costs(5, algorithms=4)
        assert (before, 0) == (after, channels)
        assert one.choice(5, algorithms=6) == ("nvls/ll", 2)


# ---- the file


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("AllReduce,0,9,ring,simple,1,-1,-1", "unknown collective; known: broadcast reduce allgather reducescatter"),
        ("all_reduce,0,9,ring,simple,1,-1,-1", "unknown collective"),
        ("allreduce,0,9,Ring,simple,1,-1,-1", "unknown algorithm; known: tree ring collnet_direct collnet_chain"),
        ("allreduce,0,9,nvlstree,simple,1,-1,-1", "unknown algorithm"),
        ("allreduce,0,9,ring,LL,1,-1,-1", "unknown protocol; known: ll ll128 simple: 'LL'"),
        ("allreduce,0,9,ring,,1,-1,-1", "unknown protocol"),
        ("allreduce,-1,9,ring,simple,1,-1,-1", "min_bytes must be a whole number: '-1'"),
        ("allreduce,0,1M,ring,simple,1,-1,-1", "max_bytes must be a whole number: '1M'"),
        ("allreduce,0,18446744073709551616,ring,simple,1,-1,-1", "max_bytes must be a whole number"),
        ("allreduce,9,8,ring,simple,1,-1,-1", "max_bytes is below min_bytes"),
        ("allreduce,0,9,ring,simple,65,-1,-1", "channels must be 1 to 64, or 0 or -1 for NCCL's own choice: '65'"),
        ("allreduce,0,9,ring,simple,-2,-1,-1", "channels must be"),
        ("allreduce,0,9,ring,simple,1,two,-1", "nNodes must be a number, a range such as 2-8, or -1: 'two'"),
        ("allreduce,0,9,ring,simple,1,-1,8-2", "nRanks must be a number, a range such as 2-8, or -1: '8-2'"),
        ("allreduce,0,9,ring,simple,1,-1,2147483648", "nRanks must be"),
        ("allreduce,0,9,ring,simple,1,-1,-1,", "numPipeOps must be"),
        ("allreduce,0,9,ring,simple,1,-1,-1,-1,2", "regBuff must be 0, 1 or -1: '2'"),
        ("allreduce,0,9,ring,simple,1,-1,-1,-1,1,1", "a row has 8 to 10 fields"),
        ("allreduce,0,9,ring,simple,1,-1", "a row has 8 to 10 fields"),
        ("collective_type,min_bytes,max_bytes,algorithm,protocol,channels,nNodes,nRanks", "unknown collective"),
    ],
)  # fmt: skip
def test_a_row_that_is_not_understood_is_told_and_refused(plugin: Plugin, row: str, sentence: str) -> None:
    with plugin.communicator(f"# comment\n\n{row}\nallreduce,10,19,tree,ll,1,-1,-1\n") as one:
        assert [one.choice(nbytes)[0] for nbytes in (0, 5, 9, 10, 19)] == ["", "", "", "tree/ll", "tree/ll"]
        refusal, summary = plugin.warnings
        assert refusal.startswith(f"TUNER/commbench: {plugin.file}:3: row refused: {sentence}")
        assert ": 2 rows, 1 refused, 1 for 16 ranks on 2 nodes" in summary


def test_blanks_comments_and_the_marks_of_spreadsheets(plugin: Plugin) -> None:
    rows = (
        b"\xef\xbb\xbf# all\r\n \t\r\n  # more\r\n\t allreduce , 0 ,\t99 , ring,simple , 4 , -1 , 2-64 , -1 , 1\t\r\n"
        + b"#" * 9999
    )
    with plugin.communicator(rows) as one:
        assert one.choice(99, registered=1) == ("ring/simple", 4)
        assert plugin.warnings == []


def test_a_file_of_the_example_that_nccl_ships_is_taken_whole(plugin: Plugin) -> None:
    """8, 9 and 10 fields; 4294967295 is a size here and not "everything"."""
    rows = (
        "# Format: collective_type,min_bytes,max_bytes,algorithm,protocol,channels,nNodes,nRanks,numPipeOps,regBuff\n"
        "allreduce,0,65536,tree,simple,2,1,-1,-1,1\n"
        "allreduce,65537,4294967295,ring,simple,4,2,16,1,0\n"
        "allgather,0,4294967295,ring,simple,4,2,-1\n"
        "reduce,0,4294967295,tree,simple,-1,-1,-1,4\n"
    )
    with plugin.communicator(rows) as one:
        assert one.choice(65536) == ("", 0), "that row is for one node"
        assert one.choice(2**32 - 1) == ("ring/simple", 4)
        assert one.choice(2**32) == ("", 0)
        assert one.choice(1, COLLECTIVES.index("reduce"), pipe_ops=4) == ("tree/simple", 0)
        assert plugin.warnings == []


def test_what_commbench_emits_is_obeyed(plugin: Plugin) -> None:
    def rule(low: int, high: int, *settings: tuple[str, str]) -> Rule:
        return Rule(
            op="all_reduce", ranks=16, nodes=2, min_bytes=low, max_bytes=high, settings=settings, baseline_us=2.0,
            time_us=1.0, gain_low=0.4, gain=0.5, gain_high=0.6, evidence=("0123456789abcdef",),
        )  # fmt: skip

    one_channel = ("NCCL_MIN_NCHANNELS", "1"), ("NCCL_MAX_NCHANNELS", "1")
    found = Recommendation(
        name="run", created="2026-11-23T00:00:00+00:00", expires="2999-01-01T00:00:00+00:00",
        machine={"hosts": "2", "ranks": "16"}, versions={"nccl": "2.27.5"}, data_sha256="ab" * 32,
        rules=(
            rule(8, 4096, ("NCCL_ALGO", "NVLSTree"), ("NCCL_PROTO", "Simple"), *one_channel),
            rule(4097, 2**33, ("NCCL_ALGO", "Ring"), ("NCCL_PROTO", "LL128")),
        ),
    )  # fmt: skip
    (text,) = emit(found, "nccl-plugin", Place(Path("/somewhere"), "nccl-tuner.csv", None)).values()
    with plugin.communicator(text) as one:
        assert plugin.warnings == []
        assert [one.choice(nbytes)[0] for nbytes in (7, 8, 4096, 4097, 2**33, 2**33 + 1)] == [
            "", "nvls_tree/simple", "nvls_tree/simple", "ring/ll128", "ring/ll128", "",
        ]  # fmt: skip
        assert [one.choice(nbytes)[1] for nbytes in (8, 2**20)] == [1, 0]
    with plugin.communicator(text, ranks=8) as other:
        assert other.choice(8) == ("", 0), "measured with 16 ranks"


def test_a_binary_file_is_refused_row_by_row_in_few_words(plugin: Plugin) -> None:
    with plugin.communicator(bytes(range(256)) * 400 + b"\x1b]0;title\x07\n" * 400) as one:
        assert one.choice(5) == ("", 0)
        assert 2 < len(plugin.warnings) < 12, "not a flood"
        assert all(text.isprintable() and text.isascii() for text in plugin.warnings)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "huge"])
def test_a_file_that_cannot_be_read_ends_the_start_with_a_sentence(
    plugin: Plugin, version: int, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else this rank would choose differently from those that could read it, and all would wait for ever."""
    path = tmp_path / "tuning.csv"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "huge":
        path.touch()
        os.truncate(path, 2**40)
    monkeypatch.setenv("NCCL_TUNER_CONFIG_FILE", str(path))
    result, context = plugin.init(version)
    assert (result, context.value) == (INVALID_USAGE, None)
    why = {"missing": "no such file", "folder": "not a plain file", "pipe": "not a plain file", "huge": "larger than"}
    (told,) = plugin.warnings
    assert f"NCCL_TUNER_CONFIG_FILE={path}" in told
    assert why[kind] in told


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_file_nccl_chooses_and_that_is_said(
    plugin: Plugin, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NCCL_TUNER_CONFIG_FILE", raising=False)
    if value is not None:
        monkeypatch.setenv("NCCL_TUNER_CONFIG_FILE", value)
    result, context = plugin.init(6)
    assert result == 0
    assert Communicator(plugin.tables[6], 6, context).choice(5) == ("", 0)
    assert "is not set" in plugin.warnings[0]
    assert plugin.tables[6].end(context) == 0


# ---- several at a time


def test_communicators_have_nothing_in_common(plugin: Plugin) -> None:
    rows = "allreduce,0,99,ring,simple,1,1,8\nallreduce,0,99,tree,ll,2,2,16\n"
    with plugin.communicator(rows, 4, 8, 1) as small:
        with plugin.communicator(rows, 6, 16, 2, silent=True) as large:
            with plugin.communicator("allreduce,0,99,nvls,simple,3,-1,-1\n", 5) as other:
                assert [one.choice(5) for one in (small, large, other)] == [
                    ("ring/simple", 1), ("tree/ll", 2), ("nvls/simple", 3),
                ]  # fmt: skip
            assert large.choice(5) == ("tree/ll", 2)
        assert small.choice(5) == ("ring/simple", 1)


def test_threads_may_share_one(plugin: Plugin) -> None:
    rows = "".join(f"allreduce,{k},{k},{ALGORITHMS[k % 7]},{PROTOCOLS[k % 3]},{k + 1},-1,-1\n" for k in range(60))
    wrong: list[object] = []
    with plugin.communicator(rows, silent=True) as one:

        def ask(first: int) -> None:
            for k in range(2_000):
                n = (first + k) % 61
                want = (f"{ALGORITHMS[n % 7]}/{PROTOCOLS[n % 3]}", n + 1) if n < 60 else ("", 0)
                if one.choice(n) != want:
                    wrong.append(n)

        threads = [threading.Thread(target=ask, args=(17 * k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


# ---- any file

_rows = st.lists(
    st.tuples(
        st.integers(0, 40), st.integers(0, 40), st.sampled_from(ALGORITHMS), st.sampled_from(PROTOCOLS),
        st.integers(0, 64), st.sampled_from(["-1", "1", "2", "2-3"]), st.sampled_from(["-1", "0", "1"]),
    ),
    max_size=12,
)  # fmt: skip


@given(rows=_rows, banned=st.sets(st.integers(0, 20)), pipe_ops=st.integers(1, 3), registered=st.integers(0, 1))
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_table_is_searched_like_a_list(
    plugin: Plugin,
    rows: list[tuple[int, int, str, str, int, str, str]],
    banned: set[int],
    pipe_ops: int,
    registered: int,
) -> None:
    text = "".join(
        f"allreduce,{min(a, b)},{max(a, b)},{algorithm},{protocol},{channels},-1,-1,{ops},{reg}\n"
        for a, b, algorithm, protocol, channels, ops, reg in rows
    )
    allowed_ops = {"-1": {1, 2, 3}, "1": {1}, "2": {2}, "2-3": {2, 3}}

    def first(nbytes: int) -> tuple[str, int]:
        for a, b, algorithm, protocol, channels, ops, reg in rows:
            name = f"{algorithm}/{protocol}"
            fits = min(a, b) <= nbytes <= max(a, b) and pipe_ops in allowed_ops[ops] and reg in ("-1", str(registered))
            if fits and entry(name) not in banned:
                return name, channels
        return "", 0

    ignored = tuple(f"{ALGORITHMS[k // 3]}/{PROTOCOLS[k % 3]}" for k in banned)
    with plugin.communicator(text, silent=True) as one:
        for nbytes in (*range(42), EVERYTHING):
            assert one.choice(nbytes, pipe_ops=pipe_ops, registered=registered, ignored=ignored) == first(nbytes)


@given(data=st.binary(max_size=300) | st.text("alreduc,0123456789-ngsimp\n# ", max_size=300).map(str.encode))
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_file_breaks_it(plugin: Plugin, data: bytes) -> None:
    with plugin.communicator(data) as one:
        one.choice(5)
        assert all(text.isprintable() and text.isascii() for _, text in plugin.messages)


def test_the_fuzz_under_sanitizers_runs_and_would_fail(tmp_path: Path) -> None:
    """300 files here; `python benchmarks/plugin.py --only fuzz` reads 100,000."""
    command = [sys.executable, str(ROOT / "benchmarks/plugin.py"), "--only", "fuzz", "--files", "300"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--keep", str(tmp_path)], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "300 files" in done.stdout


# ---- building


def test_building_again_replaces_it_and_leaves_nothing_else(tmp_path: Path) -> None:
    (tmp_path / building.NAME).write_text("old")
    made = build(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [made.name] == ["libnccl-tuner-commbench.so"]
    assert made.read_bytes()[:4] == b"\x7fELF"
    assert os.access(made, os.R_OK)


@pytest.mark.parametrize(
    ("compiler", "error", "sentence"),
    [
        ("no-such-compiler -m64", MissingLibrary, "CC=no-such-compiler: there is no such program"),
        ("'", SpecError, "CC="),
        ("false", CommbenchError, "cannot build the plugin: exit code 1"),
    ],
)
def test_a_compiler_that_is_none(
    compiler: str, error: type[CommbenchError], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(error, match=sentence):
        build(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_compiler_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingLibrary, match="none of cc, gcc, clang"):
        build(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpecError, match=r"Not a directory|File exists"):
        build(tmp_path / "file")


def test_nothing_but_the_c_library_is_needed(plugin: Plugin) -> None:
    """No NCCL, no CUDA: it loads where the job runs."""
    done = subprocess.run(["readelf", "-d", plugin.lib._name], capture_output=True, text=True, check=True, timeout=30)
    needed = [line for line in done.stdout.splitlines() if "NEEDED" in line]
    assert all("libc.so" in line for line in needed), needed
