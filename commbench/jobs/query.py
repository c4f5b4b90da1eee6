"""SQL over any number of runs: they become tables in memory, and one SELECT may look at them.

rows      what `show --json` has, a line a row, with the run's folder
samples   every sample: seconds, skew and slowest rank, with the case it belongs to
runs      a line a run: when, what, where, from which file
facts     run, name, value: every fact and variable of every run, to ask what was different

Nothing else can be reached: the connection loses the right to open files before the user's words are read.
"""

import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_type_hints

import msgspec
import numpy as np

from commbench.errors import FolderError, SpecError
from commbench.jobs.runs import Loaded, load_runs, tabulate
from commbench.stats.rows import Row

if TYPE_CHECKING:
    import duckdb

_SQL = {str: "VARCHAR", int: "BIGINT", float: "DOUBLE", bool: "BOOLEAN"}
_Columns = dict[str, tuple[type, list[Any]]]  # name -> (type, values; None: not known)


class Answer(NamedTuple):
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def _everything(places: Sequence[str]) -> list[tuple[str, Loaded]]:
    """(name, run) of each run there. A place with `://` is read by duckdb (s3, gcs, file)."""
    found: list[tuple[str, Loaded]] = []
    for place in places:
        if "://" in place:
            with tempfile.TemporaryDirectory(prefix="commbench-") as folder:
                _fetch(place, Path(folder))
                found += _named(Path(folder), place)
        else:
            found += _named(Path(place), place)
    return found


def _named(path: Path, place: str) -> list[tuple[str, Loaded]]:
    loaded = load_runs(path)
    if len(loaded) == 1:
        return [(place, loaded[0])]
    names = [one.where or one.run.name for one in loaded]
    numbered = (f"{name}#{k}" if names.count(name) > 1 else name for k, name in enumerate(names))
    return [(f"{place}/{name}", one) for name, one in zip(numbered, loaded, strict=True)]


def _fetch(place: str, folder: Path) -> None:
    """The run folders below an address, copied. Raises FolderError."""
    import duckdb

    base = place.rstrip("/").removeprefix("file://")  # duckdb names local files without it
    try:
        with duckdb.connect() as con:
            for name in ("run.json", "journal.jsonl", "parts.json"):
                found = con.execute("SELECT filename, content FROM read_blob(?)", [f"{base}/**/{name}"]).fetchall()
                for filename, content in found:
                    inside = Path(filename.removeprefix(base).lstrip("/"))
                    if inside.is_absolute() or ".." in inside.parts:
                        raise FolderError(f"{place}: {filename} lies outside")
                    (folder / inside).parent.mkdir(parents=True, exist_ok=True)
                    (folder / inside).write_bytes(content)
    except duckdb.Error as error:
        raise FolderError(f"{place}: {_first_line(error)}") from None
    if not any(folder.rglob("run.json")):
        raise FolderError(f"{place}: there is no run folder")


def query(places: Sequence[str], sql: str) -> Answer:
    """The answer to one SELECT. Raises SpecError where the words are none, FolderError where a place holds no run."""
    import duckdb

    with duckdb.connect() as con:
        _only_reads(con, sql)
        fill(con, places, sql)
        con.execute("SET enable_external_access=false; SET lock_configuration=true")
        try:
            done = con.execute(sql)
            return Answer(tuple(str(column[0]) for column in done.description or ()), done.fetchall())
        except duckdb.Error as error:
            raise SpecError(f"query: {_first_line(error)}; tables: {', '.join(_TABLES)}") from None


def all_rows(places: Sequence[str]) -> Answer:
    """The table `rows`, without SQL."""
    columns = _rows(_everything(places))
    return Answer(tuple(columns), list(zip(*(values for _, values in columns.values()), strict=True)))


def parquet(places: Sequence[str]) -> bytes:
    """The table `rows` as a Parquet file."""
    import duckdb

    with duckdb.connect() as con, tempfile.TemporaryDirectory(prefix="commbench-") as folder:
        _create(con, "rows", _rows(_everything(places)))
        made = Path(folder) / "rows.parquet"
        con.sql("SELECT * FROM rows").write_parquet(str(made))
        return made.read_bytes()


def fill(con: "duckdb.DuckDBPyConnection", places: Sequence[str], sql: str) -> None:
    """Makes the tables that the words name."""
    found = _everything(places)
    for name, make in _TABLES.items():
        if re.search(rf"\b{name}\b", sql, re.IGNORECASE):
            _create(con, name, make(found))


def _only_reads(con: "duckdb.DuckDBPyConnection", sql: str) -> None:
    import duckdb

    try:
        kinds = [statement.type for statement in con.extract_statements(sql)]
    except duckdb.Error as error:
        raise SpecError(f"query: {_first_line(error)}") from None
    if len(kinds) != 1 or kinds[0] not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        raise SpecError("query: one SELECT, please; runs are never changed")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _create(con: "duckdb.DuckDBPyConnection", name: str, columns: _Columns) -> None:
    raw, selected = {}, []
    for column, (kind, values) in columns.items():
        numeric = kind in (int, float)
        raw[column] = np.array(values, float) if numeric else np.array([*values, None], object)[:-1]
        told = f'CASE WHEN isnan("{column}") THEN NULL ELSE "{column}" END' if numeric else f'"{column}"'
        selected.append(f'CAST({told} AS {_SQL[kind]}) AS "{column}"')
    con.register("raw", raw)
    con.execute(f"CREATE TABLE {name} AS SELECT {', '.join(selected)} FROM raw")
    con.unregister("raw")


def _rows(found: Iterable[tuple[str, Loaded]]) -> _Columns:
    told = [
        (name, loaded.run.created, row) for name, loaded in found for row in tabulate(loaded.run, loaded.measurements)
    ]
    columns: _Columns = {"run": (str, [name for name, _, _ in told]), "created": (str, [when for _, when, _ in told])}
    for field, hint in get_type_hints(Row).items():
        kind = next((one for one in (*get_args(hint), hint) if one in _SQL), str)
        columns[field] = (kind, [_flat(getattr(row, field)) for _, _, row in told])
    return columns


def _flat(value: Any) -> Any:
    return msgspec.json.encode(value).decode() if isinstance(value, dict) else value


def _samples(found: Iterable[tuple[str, Loaded]]) -> _Columns:
    columns: _Columns = {
        name: (kind, [])
        for name, kind in {
            "run": str, "op": str, "backend": str, "nbytes": int, "dtype": str, "redop": str, "mode": str,
            "groups": str, "group_index": int, "ranks": int, "in_place": bool, "settings": str, "launch": int,
            "kind": str, "sample": int, "seconds": float, "skew_seconds": float, "slowest": int,
        }.items()
    }  # fmt: skip
    lists = [values for _, values in columns.values()]
    for name, loaded in found:
        for m in loaded.measurements:
            n, case = len(m.seconds), m.case
            settings = _flat(dict(case.settings))
            about = (
                name, case.op, case.backend, m.nbytes, case.dtype, case.redop, case.mode, case.groups, m.group,
                m.ranks or None, case.in_place, settings, m.launch, m.kind,
            )  # fmt: skip
            for values, value in zip(lists, about, strict=False):
                values.extend([value] * n)
            unknown = [None] * n
            for values, own in zip(lists[-4:], (range(n), m.seconds, m.skew, m.slowest), strict=True):
                values.extend(own if len(own) == n else unknown)
    return columns


def _runs(found: Iterable[tuple[str, Loaded]]) -> _Columns:
    told = list(_run_lines(found))
    names = ("run", "created", "name", "commbench", "tool", "file", "launcher", "hosts", "ranks", "measurements")
    kinds = (*[str] * 7, *[int] * 3)
    return {name: (kind, [line[k] for line in told]) for k, (name, kind) in enumerate(zip(names, kinds, strict=True))}


def _run_lines(found: Iterable[tuple[str, Loaded]]) -> Iterator[tuple[Any, ...]]:
    for name, loaded in found:
        run, machine = loaded.run, loaded.run.machine
        tool, path = (run.origin.tool, run.origin.path) if run.origin else ("commbench", None)
        hosts, ranks = len(machine.hosts) or None, machine.size or None
        count = len(loaded.measurements)
        yield name, run.created, run.name, run.commbench, tool, path, machine.launcher or None, hosts, ranks, count


def _facts(found: Iterable[tuple[str, Loaded]]) -> _Columns:
    told = [
        (name, fact, value)
        for name, loaded in found
        for facts in (loaded.run.machine.facts, loaded.run.machine.environment)
        for fact, value in facts.items()
    ]
    return {column: (str, [line[k] for line in told]) for k, column in enumerate(("run", "name", "value"))}


_TABLES = {"rows": _rows, "samples": _samples, "runs": _runs, "facts": _facts}
