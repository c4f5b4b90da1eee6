"""The run folder: what was written is there and nothing else, after crashes, on full and read-only discs."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commbench import store
from commbench.errors import FolderError, StoreError
from commbench.records import Case, Host, Machine, Measurement, Run

MACHINE = Machine(hosts=(Host(name="here"),), host_of=(0, 0), launcher="none", facts={"os": "Linux"})
RUN = Run(
    format=store.FORMAT,
    name="quick",
    created="2026-01-02T03:04:05+00:00",
    commbench="0.1.0",
    seed=7,
    spec={"name": "quick", "op": ["all_reduce"]},
    machine=MACHINE,
    command=("commbench", "sweep", "quick"),
)


def case(nbytes: int, groups: str = "world") -> Case:
    return Case(op="all_reduce", backend="gloo", nbytes=nbytes, groups=groups)


def row(nbytes: int, group: int = 0, groups: str = "world", **fields: object) -> Measurement:
    values = {"ranks": 2, "seconds": (1e-6, 2e-6), "skew": (0.0, 1e-7), "slowest": (1, 0), "wrong": 0}
    return msgspec.convert({"case": case(nbytes, groups), "group": group, **values, **fields}, Measurement)


def groups_of(asked: Case) -> int:
    return 2 if asked.groups == "node" else 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def written(folder: Path, *batches: list[Measurement]) -> bytes:
    """A run folder with these rows, each list in one append; returns the journal."""
    journal = store.create(folder, RUN)
    for batch in batches:
        journal.append(batch)
    journal.close()
    return (folder / "journal.jsonl").read_bytes()


def python(script: str, *arguments: object, prefix: tuple[str, ...] = ()) -> list[str]:
    """The command of a second process that runs `script`."""
    return [*prefix, sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]


# ---- round trip ----------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
times = st.lists(st.floats(0, 1e4), max_size=5).map(tuple)
measurements = st.builds(
    Measurement,
    case=st.builds(
        Case,
        op=texts,
        backend=texts,
        nbytes=st.integers(0, 2**50),
        groups=texts,
        mode=st.sampled_from(["latency", "throughput"]),
        in_place=st.booleans(),
        settings=st.lists(st.tuples(texts, texts), max_size=2).map(tuple),
    ),
    status=st.sampled_from(["ok", "failed", "skipped", "hung"]),
    why=texts,
    group=st.integers(0, 9),
    seconds=times,
    skew=times,
    slowest=st.lists(st.integers(0, 65535), max_size=5).map(tuple),
    wrong=st.none() | st.integers(0, 2**40),
    control=st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(measurements, min_size=1, max_size=3), max_size=4))
def test_what_was_appended_is_loaded(batches: list[list[Measurement]]) -> None:
    with tempfile.TemporaryDirectory() as parent:
        data = written(Path(parent) / "run", *batches)
        run, loaded = store.load(Path(parent) / "run")
    assert run == RUN
    assert loaded == [m for batch in batches for m in batch]
    assert data.count(b"\n") == len(loaded)


@settings(max_examples=60, deadline=None)
@given(measurements)
def test_a_line_says_what_it_holds(measurement: Measurement) -> None:
    line = store.encode_line(measurement)
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    assert store.decode_line(line[:-1]) == measurement
    assert re.fullmatch("[0-9a-f]{8}", json.loads(line)["crc"])


def test_every_row_is_on_disc_before_append_returns(folder: Path) -> None:
    journal = store.create(folder, RUN)
    for k in range(1, 4):
        journal.append([row(k)])
        assert store.load(folder)[1] == journal.measurements == [row(i) for i in range(1, k + 1)]
    journal.close()


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"not a run folder: it has no run\.json") as stop:
        store.load(tmp_path / "nothing")
    assert stop.value.exit_code == 2
    assert str(tmp_path / "nothing") in str(stop.value)


def test_a_run_without_a_journal_is_a_run_without_rows(folder: Path) -> None:
    written(folder)
    (folder / "journal.jsonl").unlink()
    assert store.load(folder) == (RUN, [])


# ---- damage --------------------------------------------------------------------------------------------


def test_a_torn_last_line_is_dropped_wherever_it_was_torn(folder: Path) -> None:
    data = written(folder, [row(1)], [row(2)], [row(3, why="a sentence, \u00e4 \u2192 \u4e16")])
    kept = data[: data[:-1].rindex(b"\n") + 1]
    assert len(data) - len(kept) > 100
    path = folder / "journal.jsonl"
    for end in range(len(kept), len(data)):
        path.write_bytes(data[:end])
        assert store.load(folder)[1] == [row(1), row(2)], end
        journal = store.reopen(folder, groups_of)
        assert journal.measurements == [row(1), row(2)], end
        journal.append([row(4)])
        journal.close()
        assert store.load(folder)[1] == [row(1), row(2), row(4)], end
    path.write_bytes(data)
    assert len(store.load(folder)[1]) == 3


def test_a_last_line_of_zeros_is_dropped(folder: Path) -> None:
    """After a power cut a file may have its new length but not its new data."""
    data = written(folder, [row(1)], [row(2)])
    (folder / "journal.jsonl").write_bytes(data + bytes(200))
    assert store.load(folder)[1] == [row(1), row(2)]


def test_a_changed_byte_in_the_middle_is_an_error_that_names_the_line(folder: Path) -> None:
    data = written(folder, [row(1)], [row(2)], [row(3)], [row(4)])
    path = folder / "journal.jsonl"
    first = data.index(b"\n") + 1
    for at in range(first, data.index(b"\n", first) + 1):  # with its newline: then lines 2 and 3 are one
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(FolderError, match=r"journal\.jsonl:2: .*changed after it was written"):
                store.load(folder)
    with pytest.raises(FolderError, match=r"journal\.jsonl:2: ") as stop:
        store.reopen(folder, groups_of)
    assert stop.value.exit_code == 2
    assert path.read_bytes() == bytes(damaged)  # refused, and left as it was found


def test_a_changed_newline_does_not_take_the_last_two_lines_along(folder: Path) -> None:
    data = bytearray(written(folder, [row(1)], [row(2)], [row(3)]))
    end_of_second = bytes(data[:-1]).rindex(b"\n")
    data[end_of_second] ^= 1
    (folder / "journal.jsonl").write_bytes(data)
    with pytest.raises(FolderError, match=r"journal\.jsonl:2: "):
        store.load(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"run"', b"null", b"\xff\xfe", b'{"format":1}'])
def test_a_damaged_run_json_is_named(folder: Path, content: bytes) -> None:
    written(folder, [row(1)])
    (folder / "run.json").write_bytes(content)
    for action in (lambda: store.load(folder), lambda: store.reopen(folder, groups_of)):
        with pytest.raises(FolderError, match=r"run\.json is damaged"):
            action()


def test_a_newer_format_is_refused_with_a_sentence(folder: Path) -> None:
    written(folder, [row(1)])
    newer = {"format": store.FORMAT + 1, "machines": ["of a kind unknown today"]}
    (folder / "run.json").write_text(json.dumps(newer))
    for action in (lambda: store.load(folder), lambda: store.reopen(folder, groups_of)):
        with pytest.raises(FolderError) as stop:
            action()
        assert f"newer commbench (format {store.FORMAT + 1}" in str(stop.value)
        assert "upgrade" in str(stop.value)
        assert stop.value.exit_code == 2


# ---- one writer ----------------------------------------------------------------------------------------

HOLD = """
    import sys
    from pathlib import Path
    from commbench import store
    journal = store.reopen(Path(sys.argv[1]), lambda case: 1)
    print("holding", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that has the run folder open."""
    written(folder, [row(1)])
    process = subprocess.Popen(python(HOLD, folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "holding\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_a_folder_that_another_process_writes_is_refused(
    folder: Path, holder: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_LOCK_PATIENCE", 0.2)
    before = (folder / "journal.jsonl").read_bytes()
    with pytest.raises(FolderError, match="is being written by another process"):
        store.reopen(folder, groups_of)
    assert (folder / "journal.jsonl").read_bytes() == before
    assert store.load(folder)[1] == [row(1)]  # reading is always possible


def test_a_new_run_does_not_replace_the_run_json_of_a_writer(
    folder: Path, holder: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes that create the same folder at the same moment: neither sees a run.json yet."""
    monkeypatch.setattr(store, "_LOCK_PATIENCE", 0.2)
    (folder / "run.json").unlink()
    with pytest.raises(FolderError, match="is being written by another process"):
        store.create(folder, RUN)
    assert not (folder / "run.json").exists()


def test_a_killed_writer_is_waited_for(folder: Path, holder: "subprocess.Popen[str]") -> None:
    holder.send_signal(signal.SIGKILL)
    journal = store.reopen(folder, groups_of)
    journal.append([row(2)])
    journal.close()
    assert store.load(folder)[1] == [row(1), row(2)]


def test_a_second_run_in_the_same_folder_is_refused(folder: Path) -> None:
    data = written(folder, [row(1)])
    with pytest.raises(FolderError, match="already holds a run; --resume goes on with it"):
        store.create(folder, RUN)
    assert (folder / "journal.jsonl").read_bytes() == data


# ---- resume: whole cases only --------------------------------------------------------------------------


def node(nbytes: int, group: int, **fields: object) -> Measurement:
    return row(nbytes, group, "node", **fields)


WHOLE = [
    [row(1)],
    [node(1, 0), node(1, 1)],
    [node(2, 0, launch=1), node(2, 1, launch=1)],
]


@pytest.mark.parametrize(
    "before",
    [
        [[row(1)]],
        WHOLE,
        # The same case just before, and yet not part of the half that is to go:
        [[row(1)], [node(2, 0, launch=1), node(2, 1, launch=1)]],
        [[row(1)], [node(2, 0, control=True), node(2, 1, control=True)]],
        [[node(2, 0, status="hung", why="no answer"), node(2, 1, status="hung", why="no answer")]],
        [],
    ],
    ids=["other case", "whole cases", "other launch", "control", "hung", "nothing"],
)
def test_half_a_case_is_removed_and_nothing_else(folder: Path, before: list[list[Measurement]]) -> None:
    written(folder, *before, [node(2, 0)])
    kept = [m for batch in before for m in batch]
    assert len(store.load(folder)[1]) == len(kept) + 1
    journal = store.reopen(folder, groups_of)
    journal.close()
    assert journal.measurements == kept
    assert store.load(folder)[1] == kept


def test_whole_cases_stay(folder: Path) -> None:
    data = written(folder, *WHOLE)
    for _ in range(3):
        store.reopen(folder, groups_of).close()
    assert (folder / "journal.jsonl").read_bytes() == data


@pytest.mark.parametrize("seed", range(20))
def test_cut_anywhere_a_journal_reopens_with_its_whole_cases(folder: Path, seed: int) -> None:
    data = written(folder, *WHOLE)
    cut = random.Random(seed).randrange(len(data))
    (folder / "journal.jsonl").write_bytes(data[:cut])
    journal = store.reopen(folder, groups_of)
    journal.close()
    sizes = [sum(len(store.encode_line(m)) for batch in WHOLE[:k] for m in batch) for k in range(4)]
    whole = max(k for k, size in enumerate(sizes) if size <= cut)
    assert journal.measurements == [m for batch in WHOLE[:whole] for m in batch]
    assert (folder / "journal.jsonl").read_bytes() == data[: sizes[whole]]


@pytest.mark.parametrize(
    ("rows", "done"),
    [
        ([], []),
        ([row(1)], [(1, "world", 0)]),
        (
            [row(1, status="failed", wrong=3), row(2, status="skipped", why="no")],
            [(1, "world", 0), (2, "world", 0)],
        ),
        ([row(1, status="hung", why="no answer")], []),
        ([row(1, launch=0), row(1, launch=2)], [(1, "world", 0), (1, "world", 2)]),
        ([row(1, control=True)], []),
        ([node(1, 0)], []),
        ([node(1, 0), node(1, 1)], [(1, "node", 0)]),
        ([node(1, 0, status="hung"), node(1, 1, status="hung")], []),
        # measured again after a resume
        ([row(1, status="hung"), row(2), row(1)], [(1, "world", 0), (2, "world", 0)]),
        ([row(1), row(1, status="hung")], []),
        ([row(1, launch=0, status="hung"), row(1, launch=1)], [(1, "world", 1)]),
        ([node(1, 0, status="hung"), node(1, 1, status="hung"), node(1, 0), node(1, 1)], [(1, "node", 0)]),
    ],
)
def test_done_is_what_need_not_be_measured_again(
    folder: Path, rows: list[Measurement], done: list[tuple[int, str, int]]
) -> None:
    journal = store.create(folder, RUN)
    for one in rows:
        journal.append([one])
    journal.close()
    expected = {(case(nbytes, groups).key, launch) for nbytes, groups, launch in done}
    assert journal.done(groups_of) == expected


# ---- discs that are full or may not be written ---------------------------------------------------------

FILL = """
    import json, resource, sys
    from pathlib import Path
    from commbench import store
    from commbench.errors import StoreError
    from commbench.records import Case, Measurement, Run
    import msgspec

    folder, run, limit = Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=Run), int(sys.argv[3])
    ballast = folder.parent / "ballast"
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    else:
        ballast.write_bytes(bytes(16384))
    journal = store.create(folder, run)
    cases = [Case(op="all_reduce", backend="gloo", nbytes=n) for n in range(2000)]
    rows = [Measurement(case=case, seconds=(1e-6,) * 50) for case in cases]
    safe = 0
    try:
        for batch in zip(rows[::2], rows[1::2]):
            journal.append(batch)
            safe += 2
    except StoreError as error:
        stopped = {"code": error.exit_code, "why": str(error)}
    loaded = store.load(folder)[1]
    whole = loaded == rows[:safe] and journal.measurements == rows[:safe]
    raw = (folder / "journal.jsonl").read_bytes()
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    else:
        ballast.unlink()
    journal.append(rows[safe : safe + 2])
    again = store.load(folder)[1] == rows[: safe + 2]
    torn = not raw.endswith(b"\\n")
    print(json.dumps({**stopped, "safe": safe, "whole": whole, "again": again, "torn": torn}))
"""


def mounted(options: str, folder: Path) -> tuple[str, ...]:
    """The beginning of a command for which a tmpfs lies at `folder`; gone when that command ends."""
    rootless = () if os.geteuid() == 0 else ("--map-root-user",)
    mount = f'mount -t tmpfs -o {options} none "$0" && exec "$@"'
    return ("unshare", "--mount", *rootless, "sh", "-c", mount, str(folder))


@pytest.fixture
def disc(tmp_path: Path) -> Path:
    """Where a small disc may be mounted."""
    folder = tmp_path / "disc"
    folder.mkdir()
    tried = subprocess.run([*mounted("size=64k", folder), "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no file system may be mounted here: {tried.stderr.strip()}")
    return folder


def test_a_full_disc_keeps_whole_rows(disc: Path) -> None:
    folder = disc / "run"
    command = python(FILL, folder, msgspec.json.encode(RUN).decode(), 0, prefix=mounted("size=64k", disc))
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["why"].startswith(f"{folder}/journal.jsonl: No space left on device; make room")
    assert "rows written before are kept" in found["why"]
    assert (found["code"], found["whole"], found["torn"], found["again"]) == (4, True, False, True)
    assert found["safe"] > 10


@pytest.mark.parametrize("limit", [20_000, 20_001, 20_777])
def test_a_file_that_may_not_grow_keeps_whole_rows(tmp_path: Path, limit: int) -> None:
    """RLIMIT_FSIZE, which needs no mount: the write that crosses it is cut in the middle of a line."""
    folder = tmp_path / "run"
    command = python(FILL, folder, msgspec.json.encode(RUN).decode(), limit)
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert (found["code"], found["whole"], found["torn"], found["again"]) == (4, True, False, True)
    assert found["safe"] > 10
    assert len(store.load(folder)[1]) == found["safe"] + 2


TRY = """
    import os, sys
    from pathlib import Path
    from commbench import store
    from commbench.errors import CommbenchError
    from commbench.records import Run
    import msgspec

    if os.geteuid() == 0 and sys.argv[3] == "nobody":
        os.setuid(65534)
    folder, run = Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=Run)
    for action in (lambda: store.create(folder, run), lambda: store.reopen(folder, lambda case: 1)):
        try:
            action()
            print("done")
        except CommbenchError as error:
            print(error.exit_code, str(error).replace("\\n", "NEWLINE"))
"""


def attempts(folder: Path, user: str = "me", prefix: tuple[str, ...] = ()) -> list[str]:
    """What comes of creating and of resuming a run there."""
    command = python(TRY, folder, msgspec.json.encode(RUN).decode(), user, prefix=prefix)
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    create, resume = attempts(file / "run")
    assert create.startswith(f"4 {file}/run: Not a directory; choose another --out")
    assert resume.startswith("2 ")
    assert str(file) in resume


def test_a_read_only_disc_is_refused(disc: Path) -> None:
    create, resume = attempts(disc / "run", prefix=mounted("ro", disc))
    assert create.startswith(f"4 {disc}/run: Read-only file system; the file system is read-only; choose another --out")
    assert resume.startswith("2 ")  # there is nothing to resume


def test_a_run_on_a_read_only_disc_is_read_but_not_resumed(disc: Path) -> None:
    source = disc.parent / "run"
    written(source, [row(1)])
    copy = f'cp -r "{source}" "$0" && mount -o remount,ro "$0" && exec "$@"'
    prefix = (*mounted("size=1m", disc), "sh", "-c", copy, str(disc))
    create, resume = attempts(disc / "run", prefix=prefix)
    assert create.startswith("2 ")
    assert "already holds a run" in create
    assert resume.startswith(f"4 {disc}/run/journal.jsonl: Read-only file system")
    script = """
        import sys
        from pathlib import Path
        from commbench import store
        print(len(store.load(Path(sys.argv[1]))[1]))
    """
    read = subprocess.run(python(script, disc / "run", prefix=prefix), capture_output=True, text=True, check=False)
    assert (read.returncode, read.stdout) == (0, "1\n"), read.stderr


@pytest.mark.parametrize("mode", [0o555, 0o000], ids=["no writing", "no looking"])
def test_a_folder_of_somebody_else_is_refused(mode: int) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as parent:  # pytest's own folders are closed to others
        os.chmod(parent, 0o755)
        closed = Path(parent) / "closed"
        closed.mkdir(mode=mode)
        try:
            create, resume = attempts(closed / "run", user="nobody")
        finally:
            closed.chmod(0o755)
    assert create.startswith(f"4 {closed}/run")
    assert "Permission denied; choose a folder you may write with --out" in create
    assert resume.startswith("2 ")


# ---- run.json ------------------------------------------------------------------------------------------

REWRITE = """
    import msgspec
    import sys
    from pathlib import Path
    from commbench import store
    journal = store.reopen(Path(sys.argv[1]), lambda case: 1)
    print("begun", flush=True)
    while True:
        store.note_resume(journal, {"at": "x" * 20000})
        if len(journal.run.resumed) > 5:
            journal.run = msgspec.structs.replace(journal.run, resumed=())
"""


def test_run_json_is_whole_at_every_moment(folder: Path) -> None:
    written(folder, [row(1)])
    writer = subprocess.Popen(python(REWRITE, folder), stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "begun\n"
        seen: set[int] = set()
        while len(seen) < 4:  # several of its states, whichever these are
            assert writer.poll() is None
            seen.add(len(store.load_run(folder).resumed))
    finally:
        writer.kill()
        writer.wait()
        if writer.stdout:
            writer.stdout.close()
    run = store.load_run(folder)
    assert msgspec.structs.replace(run, resumed=()) == RUN


def test_resuming_is_noted_and_nothing_else_changes(folder: Path) -> None:
    written(folder, [row(1)])
    journal = store.reopen(folder, groups_of)
    store.note_resume(journal, {"at": "noon"})
    store.note_resume(journal, {"at": "night", "os": "Linux -> Hurd"})
    journal.close()
    run = store.load_run(folder)
    assert run.resumed == ({"at": "noon"}, {"at": "night", "os": "Linux -> Hurd"})
    assert msgspec.structs.replace(run, resumed=()) == RUN
    assert sorted(p.name for p in folder.iterdir()) == ["journal.jsonl", "run.json"]


def test_a_run_json_that_does_not_fit_leaves_the_old_one(folder: Path) -> None:
    written(folder, [row(1)])
    script = """
        import resource, sys
        from pathlib import Path
        from commbench import store
        from commbench.errors import StoreError
        journal = store.reopen(Path(sys.argv[1]), lambda case: 1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
        try:
            store.note_resume(journal, {"at": "x" * 5000})
        except StoreError as error:
            print(error.exit_code, len(journal.run.resumed))
    """
    ended = subprocess.run(python(script, folder), capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "4 0\n"), ended.stderr
    assert store.load(folder) == (RUN, [row(1)])
    assert sorted(p.name for p in folder.iterdir()) == ["journal.jsonl", "run.json"]


def test_writing_atomically_replaces_or_keeps(tmp_path: Path) -> None:
    path = tmp_path / "verdict.json"
    store.write_atomically(path, b"one")
    store.write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    with pytest.raises(StoreError):
        store.write_atomically(tmp_path / "nowhere" / "verdict.json", b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["verdict.json"]
