"""What no file may do to `import` and `show`: no traceback, no hang, no lie, no escape sequence in the terminal.

The commands run as a user runs them, by `commbench.cli.main` in a process of its own, with a cap on its memory where
the memory is the question. What damaged tables give is in the tests of the readers; `benchmarks/fuzz_readers.py` is
the large search.
"""

import csv
import errno
import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner, Result

from commbench import store
from commbench.cli import export, imports, query, show
from commbench.errors import CommbenchError, FolderError, ReadError, StoreError
from commbench.jobs import imports as job
from commbench.jobs.runs import Loaded, load_runs
from commbench.readers import UNKNOWN, nccl_log, smi_topo, topology
from commbench.readers import read as read_source
from commbench.readers.base import Reader
from commbench.readers.source import LONGEST, Source

MEMORY = 2**30
EVIL = "<img/src=x>;\x1b]0;owned\x07=1"
HEAD = """# nThread 1 nGpus 1 minBytes 1024 maxBytes 4096 step: 2(factor) warmup iters: 5 iters: 20 validation: 1
#
# Using devices
#  Rank  0 Group  0 Pid 11 on {0} device  0 [0000:01:00] NVIDIA H100
#  Rank  1 Group  0 Pid 12 on {1} device  1 [0000:02:00] NVIDIA H100
#
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
"""
ROW = "        1024           256     float     sum      -1    10.00  0.10   0.10     0    11.00  0.09   0.09     0\n"
END = "# Out of bounds values : 0 OK\n# Avg bus bandwidth    : 0.1\n#\n# Collective test concluded: all_reduce_perf\n"
NAMED = "# Collective test starting: all_reduce_perf\n"


class Done(NamedTuple):
    code: int
    out: str
    err: str


def table(rows: str = ROW, hosts: tuple[str, str] = ("a", "a")) -> str:
    return NAMED + HEAD.format(*hosts) + rows + END


def commbench(*words: str | Path, patience: float = 90.0) -> Done:
    """The command in a process of its own, with a cap on its memory; what hangs fails."""
    done = subprocess.run(
        [sys.executable, "-m", "commbench", *map(str, words)],
        capture_output=True,
        timeout=patience,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        check=False,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def imported(*words: str | Path) -> Result:
    """As `commbench import`, here: quick."""
    return CliRunner().invoke(imports.command, [str(word) for word in words])


def why(path: Path) -> str:
    """The reason for which the file is refused."""
    with pytest.raises(ReadError) as caught:
        read_source(Source(path, path.name))
    return str(caught.value)


# ---- files that are nothing


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"\x7fELF\x02\x01" + bytes(range(256)) * 40, UNKNOWN),
        (b"\x1f\x8b\x08\x00 and no more", "damaged gzip data"),
        (gzip.compress(b"# OSU MPI Bcast")[:-9], "the gzip data ends in the middle"),
        (b'{"busbw": ' + b"[" * 100_000, "looks like"),
        (b'{"traceEvents": ' + b'[{"a":' * 50_000, "no"),
        (b'{"results":[' + b"[" * 100_000 + b'"out_of_place"', "nested"),
    ],
    ids=["empty", "program", "broken gzip", "cut gzip", "deep", "deep trace", "deep report"],
)
def test_no_data_is_one_sentence_and_exit_1(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert reason in why(path)
    done = imported(path, "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) <= 2
    assert all(len(line) < 600 for line in done.stderr.splitlines())
    assert not (tmp_path / "out").exists()


def test_a_command_line_says_it_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\x00\x01\x02")
    for code, *words in ((1, "import", tmp_path / "x", "--out", tmp_path / "out"), (2, "show", tmp_path / "x")):
        done = commbench(*words)
        assert (done.code, done.out) == (code, "")
        assert done.err.startswith(f"commbench: {tmp_path / 'x'}: {UNKNOWN}\n")
        assert "Traceback" not in done.err


def test_files_of_no_known_format_share_a_line(tmp_path: Path) -> None:
    for k in range(12):
        (tmp_path / f"letter{k:02d}.txt").write_text("Dear all")
    (tmp_path / "table.txt").write_text(table())
    done = imported(tmp_path, "--out", tmp_path / "out")
    assert done.exit_code == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"commbench: 12 files are of {UNKNOWN}: ")
    assert line.endswith(f"letter00.txt, {tmp_path}/letter01.txt, {tmp_path}/letter02.txt and 9 more")


def test_pipes_devices_and_loops_of_links_are_not_waited_for(tmp_path: Path) -> None:
    here = tmp_path / "in"
    here.mkdir()
    os.mkfifo(here / "pipe.txt")
    (here / "loop").symlink_to(here)
    (here / "self").symlink_to("self")
    (here / "gone").symlink_to("nowhere")
    (here / "zero").symlink_to("/dev/zero")
    (here / "table.txt").write_text(table())
    done = commbench("import", here, "--out", tmp_path / "out")
    assert (done.code, done.err) == (0, "")
    assert len(load_runs(tmp_path / "out")) == 1
    for path in (here / "pipe.txt", Path("/dev/zero")):
        done = commbench("import", path, "--out", tmp_path / "other")
        assert done.code == 1
        assert "not a plain file" in done.err


# ---- floods


def test_a_line_without_end_is_left_out_and_told(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    with path.open("wb") as file:
        file.write((NAMED + HEAD.format("a", "a") + ROW).encode())
        for _ in range(50):
            file.write(b"9" * 2**20)
        file.write(b"\n" + END.encode())
    done = commbench("import", path, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    line = len((NAMED + HEAD + ROW).splitlines()) + 1
    assert done.err == f"commbench: {path}:{line}: longer than {LONGEST >> 20} MiB: left out\n"
    assert [m.nbytes for m in load_runs(tmp_path / "out")[0].measurements] == [1024, 1024]


def test_gzip_that_grows_a_thousandfold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    block = gzip.compress(bytes(2**26), 9)  # files behind each other are one
    path.write_bytes(gzip.compress(table().encode()) + block * 3)
    done = commbench("import", path, "--out", tmp_path / "out")
    assert (done.code, "times its size" in done.err) == (0, True)
    assert [m.nbytes for m in load_runs(tmp_path / "out")[0].measurements] == [1024, 1024]
    path.write_bytes(block * 16)
    done = commbench("show", path)
    assert (done.code, "times its size" in done.err) == (2, True)


QUADRATIC: tuple[tuple[Reader, bytes], ...] = (
    (nccl_log.READER, b"a" * 2**19 + b" NCCL WARN x\nnode1:1:1 [0] NCCL INFO comm 0x1 rank 0 nranks 1 cudaDev 0\n"),
    (nccl_log.READER, b"[E" * 2**18 + b" nccl\nh:1:1 [0] NCCL INFO " + b"a" * 2**19 + b"\n"),
    (nccl_log.READER, b"a:1" * 2**18 + b":x NCCL INFO Trees\n"),
    (smi_topo.READER, b"\tGPU0\tGPU1\nGPU0\tX\tNV4\n" + (b"a" + b"_" * 60_000 + b" GPU0\n") * 3),
    (topology.READER, b"<system>%s</system>" % b"".join(b'<cpu host_hash="%d"/>' % k for k in range(60_000))),
    (topology.READER, b"<system><cpu>%s</cpu></system>" % b"".join(
        b'<pci busid="%d" class="0x03"><gpu><c2c count="1"/></gpu></pci>' % k for k in range(20_000))),
)  # fmt: skip


@pytest.mark.parametrize(("reader", "content"), QUADRATIC)
def test_time_grows_with_the_file_and_not_with_its_square(reader: Reader, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    began = time.process_time()
    list(reader.read(Source(path)))
    assert time.process_time() - began < 20  # a hundred times what it takes; the square of the size takes minutes


@pytest.mark.parametrize(
    "document",
    [
        '<!DOCTYPE s [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;">]><system><cpu numaid="&b;"/></system>',
        '<!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]><system><cpu>&x;</cpu></system>',
        '<!DOCTYPE system SYSTEM "http://127.0.0.1:9/x.dtd"><system><cpu/></system>',
        '<!DOCTYPE s [<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]><system><cpu/></system>',
    ],
    ids=["bomb", "file", "address", "parameter"],
)
def test_entities_are_refused(document: str, tmp_path: Path) -> None:
    path = tmp_path / "topo.xml"
    path.write_text(document)
    assert "document types and entities are refused" in why(path)
    assert imported(path, "--out", tmp_path / "out").exit_code == 1


# ---- figures that are none


def rows_of(path: Path) -> tuple[list[tuple[int, bool, float]], list[str]]:
    reading = read_source(Source(path, path.name))
    rows = [(m.nbytes, m.case.in_place, m.seconds[0]) for found in reading.found for m in found.measurements]
    return rows, [str(problem) for problem in reading.problems]


def test_utf_16_is_the_same_table(tmp_path: Path) -> None:
    plain, wide = tmp_path / "plain.txt", tmp_path / "wide.txt"
    plain.write_text(table())
    for encoding in ("utf-16", "utf-16-be"):
        mark = "\ufeff" if encoding == "utf-16-be" else ""
        wide.write_bytes((mark + table().replace("\n", "\r\n")).encode(encoding))
        assert rows_of(wide) == rows_of(plain)
    assert len(rows_of(plain)[0]) == 2


def test_negative_times_empty_and_repeated_rows_are_told_and_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "table.txt"
    rows = (ROW, ROW, ROW.replace("10.00", "-9.00"), ROW.replace("1024 ", "0 ").replace("256", "0"),
            ROW.replace("10.00", "nan"), ROW.replace("10.00", "1e400"), ROW.replace("1024", "9" * 19))  # fmt: skip
    path.write_text(table("".join(rows)))
    found, problems = rows_of(path)
    assert found[:2] == [(1024, False, 10e-6), (1024, True, 11e-6)]
    assert all(seconds == 11e-6 for _, _, seconds in found[2:])  # what is right in a damaged row stays
    first = len((NAMED + HEAD).splitlines())
    said = {int(problem.split(":")[1]) for problem in problems}
    assert said >= {first + k for k in range(2, 8)}, problems


@pytest.mark.parametrize("number", ['"nan"', "NaN", "Infinity", "-1.0", '"1e5000"', "1e400", "null", "9" * 400])
def test_json_figures_that_are_none_are_told_and_no_rows(number: str, tmp_path: Path) -> None:
    good = '{"time":10.0,"alg_bw":0.1024,"bus_bw":0.1024,"nwrong":0}'
    bad = good.replace("10.0", number)
    row = '{"size":1024,"count":256,"type":"float","redop":"sum","root":"-1","out_of_place":%s,"in_place":%s}'
    path = tmp_path / "report.json"
    config = '{"nthreads":1,"ngpus":2,"iterations":20,"devices":[]}'
    path.write_text(f'{{"config":{config},"args":["all_reduce_perf"],"results":[{row % (good, bad)}],"end_time":""}}')
    found, problems = rows_of(path)
    assert found == [(1024, False, 10e-6)]
    assert any("result 0" in problem for problem in problems)


def test_half_a_character_and_a_name_of_no_utf_8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.json"))
    row = '{"name":"All\\ud800Reduce","nodes":1,"ranks":2,"size":1024,"type":"float","redop":"sum","inPlace":0,'
    path.write_text(row + '"time":10.0,"algBw":0.1024,"busBw":0.1024,"wrong":"0"}\n')
    reading = read_source(Source(path))
    assert [m.nbytes for m in reading.found[0].measurements] == [1024]
    json.dumps(reading.source.name).encode()
    reading.source.name.encode()


# ---- words that bite


@pytest.fixture(scope="module")
def bitten(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run folder of a file whose name and hosts are no plain words, and what importing it printed."""
    here = tmp_path_factory.mktemp("bitten")
    path = here / "=cmd|'\x1b[31m\nx<script>.txt"
    path.write_text(table(ROW + ROW.replace("10.00", "-9.00"), (EVIL, "@SUM(1)")))
    done = imported(path, "--out", here / "out")
    assert done.exit_code == 0, done.output
    return here / "out", done.output


def plain(text: str) -> bool:
    return all(character.isprintable() for line in text.split("\n") for character in line)


def test_no_escape_sequence_reaches_the_terminal(bitten: tuple[Path, str]) -> None:
    folder, printed = bitten
    assert plain(printed)
    assert plain((folder / "unread.txt").read_text())
    for words in ([], ["--csv"], ["--json"]):
        assert plain(CliRunner().invoke(show.command, [str(folder), *words]).output)
    for words in ([], ["--csv"], ["--json"]):
        for sql in ("SELECT * FROM runs", "SELECT * FROM facts", "SELECT * FROM rows"):
            done = CliRunner().invoke(query.command, [str(folder), sql, *words])
            assert done.exit_code == 0, done.output
            assert plain(done.output)


def test_no_cell_is_a_formula(bitten: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = bitten
    asked = CliRunner().invoke(query.command, [str(folder), "SELECT name, file, hosts FROM runs", "--csv"]).output
    assert CliRunner().invoke(export.command, [str(folder), "-o", str(tmp_path / "rows.csv")]).exit_code == 0
    shown = CliRunner().invoke(show.command, [str(folder), "--csv"]).output
    for text in (asked, shown, (tmp_path / "rows.csv").read_text()):
        lines = list(csv.reader(text.splitlines()))
        assert len(lines) > 1
        assert not [cell for line in lines for cell in line if cell[:1] in "=+@" and cell]
        assert not [cell for line in lines for cell in line if cell[:1] == "-" and not cell[1:2].isdigit()]


# ---- folders


def test_names_of_folders(tmp_path: Path) -> None:
    names = job._names(["a.txt", "a.log", "a-2.txt", "..", "...txt", ".txt", "/etc/x", "x" * 300, "a.txt", "\x1b\n"])
    assert len(set(names)) == len(names)
    assert names[:4] == ["a", "a-2", "a-2-2", "run"]
    assert all(name and name[0] not in ".-" and "/" not in name and len(name) < 110 for name in names)
    for k, name in enumerate(("a.txt", "-- ..", "b.txt")):
        (tmp_path / "in" / str(k)).mkdir(parents=True)
        (tmp_path / "in" / str(k) / name).write_text(table())
        (tmp_path / "in" / str(k) / "a-2.txt").write_text(table())
    assert imported(tmp_path / "in", "--out", tmp_path / "out").exit_code == 0
    assert len(load_runs(tmp_path / "out")) == 6


def test_out_that_is_taken_or_cannot_be_made(tmp_path: Path) -> None:
    path = tmp_path / "table.txt"
    path.write_text(table())
    (tmp_path / "file").write_text("mine")
    assert imported(path, "--out", tmp_path / "out").exit_code == 0
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    for out, kind in (
        ("out", FolderError),
        ("file", StoreError),
        ("file/below", StoreError),
        ("/proc/new", StoreError),
    ):
        done = imported(path, "--out", tmp_path / out)
        assert isinstance(done.exception, kind), done.output
        assert "--out" in str(done.exception)
    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    assert (tmp_path / "file").read_text() == "mine"


def test_several_runs_into_a_taken_folder_change_nothing(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(table())
    assert imported(tmp_path / "b.txt", "--out", tmp_path / "out/b").exit_code == 0
    done = imported(tmp_path / "a.txt", tmp_path / "b.txt", "--out", tmp_path / "out")
    assert isinstance(done.exception, CommbenchError)
    assert not (tmp_path / "out/a").exists()


@pytest.mark.parametrize("after", [1, 2])
def test_a_killed_import_leaves_no_run(after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL before the file number `after` is written: what is there is no run, and the next import is whole."""
    (tmp_path / "table.txt").write_text(table("h:1:1 [0] NCCL INFO comm 0x1 rank 0 nranks 2 cudaDev 0\n" + ROW))
    loaded: list[Loaded] = load_runs(tmp_path / "table.txt")
    assert loaded[0].parts
    assert loaded[0].measurements
    if (child := os.fork()) == 0:
        written = 0

        def write(path: Path, data: bytes, real: object = store.write_atomically) -> None:
            nonlocal written
            if written == after:
                os.kill(os.getpid(), signal.SIGKILL)
            written += 1
            real(path, data)  # type: ignore[operator]

        monkeypatch.setattr(store, "write_atomically", write)
        job.write(loaded, tmp_path / "out")
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert list((tmp_path / "out").iterdir())
    with pytest.raises(FolderError):
        store.load(tmp_path / "out")
    other = loaded[0]._replace(parts=())
    job.write([other], tmp_path / "out")
    assert load_runs(tmp_path / "out") == [other._replace(where=".")]


# ---- files that change while they are read


def test_a_file_that_may_not_be_read_costs_itself_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run as root, who may read everything: the system's answer is put in its place."""
    (tmp_path / "in").mkdir()
    for name in ("mine.txt", "theirs.txt"):
        (tmp_path / "in" / name).write_text(table())
    real = Path.open

    def refused(path: Path, *how: Any, **more: Any) -> Any:
        if path.name == "theirs.txt":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *how, **more)

    monkeypatch.setattr(Path, "open", refused)
    done = imported(tmp_path / "in", "--out", tmp_path / "out")
    assert done.exit_code == 0
    assert done.stderr == f"commbench: {tmp_path}/in/theirs.txt: Permission denied\n"
    assert len(load_runs(tmp_path / "out")) == 1


def test_a_file_that_grows_is_read_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "grows.txt"
    path.write_text(table())
    source = Source(path)
    size = source.nbytes
    with path.open("a") as file:
        file.write(table() * 3)
    assert sum(map(len, source.blocks())) == size
    assert len(read_source(source).found) == 1


def test_what_is_before_the_damage_of_a_gzip_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress((table() + "\n" + "h:1:1 [0] NCCL INFO Using network IB\n" * 9).encode())[:-4])
    reading = read_source(Source(path, path.name))
    assert [len(found.measurements) for found in reading.found] == [2, 0]
    assert [str(problem).split(";")[0] for problem in reading.problems] == [
        "cut.gz: the gzip data ends in the middle"
    ] * 2


def test_a_file_that_vanishes_is_told(tmp_path: Path) -> None:
    path = tmp_path / "gone.txt"
    path.write_text(table())
    source = Source(path)
    assert source.nbytes
    path.unlink()
    with pytest.raises(ReadError, match="No such file"):
        read_source(source)
