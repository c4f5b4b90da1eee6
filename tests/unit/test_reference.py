"""Published figures: every row can be traced, none is made better than its source."""

import csv
import re
from collections import Counter
from datetime import date
from pathlib import Path

import pytest
from real_data import ROOT

from commbench import reference
from commbench.collectives import COLLECTIVES
from commbench.errors import SpecError
from commbench.reference import ALIASES, LINKS, STATISTICS, Reference, find, load, nearest, systems

FILE = Path(reference.__file__).parent / "data/reference.csv"
ROWS = load()


def test_there_are_enough_and_no_row_is_there_twice() -> None:
    assert len(ROWS) >= 150
    questions = Counter(tuple(getattr(row, name) for name in row.__struct_fields__ if name != "value") for row in ROWS)
    assert [row for row, count in questions.items() if count > 1] == []


@pytest.mark.parametrize("system", systems())
def test_every_row_is_of_a_known_kind(system: str) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", system)
    for row in find(system):
        assert row.collective in COLLECTIVES or row.collective in LINKS, row
        allowed = {STATISTICS[row.statistic]}
        if row.collective.startswith("ib_write_bw"):
            allowed = {"Gbit/s"}
        assert row.unit in allowed, row
        assert row.value > 0, row
        assert row.source.strip() == row.source != "", row
        assert not row.date or date.fromisoformat(row.date), row
        assert row.ranks is None or row.ranks >= 2, row
        assert row.nodes is None or row.nodes >= 1, row
        assert row.nodes is None or row.ranks is None or row.ranks >= row.nodes, row


def test_sizes_are_those_of_the_sources() -> None:
    """All of them double a few bytes or are a whole number of MiB, as the programs step: none is 10**9."""
    for row in ROWS:
        if row.nbytes is not None:
            assert row.nbytes == 8 or row.nbytes % 2**15 == 0, row
            assert row.nbytes <= 2**34, row


def test_a_bandwidth_is_one_that_hardware_can_have() -> None:
    assert all(row.value < 1000 for row in ROWS if row.unit == "GB/s")
    # at 8 bytes nothing but the time is a figure
    assert {row.statistic for row in ROWS if row.nbytes == 8} == {"time"}


def test_no_row_claims_an_interval() -> None:
    """No source publishes one; a column for it would be filled by guessing."""
    header = FILE.read_text().splitlines()[0].split(",")
    assert header == list(Reference.__struct_fields__)
    assert not any(re.search(r"ci|interval|stdev|error|\+-|±", name) for name in header)
    assert not re.search(r"±|\+/-|confidence", FILE.read_text())


def test_the_file_is_plain() -> None:
    """It opens in a spreadsheet: no cell is a formula, and no path of this machine is in it."""
    for row in csv.reader(FILE.read_text().splitlines()):
        assert not any(cell.startswith(("=", "+", "-", "@", "\t")) for cell in row), row
        assert not any(cell.startswith("/") or "shared/" in cell for cell in row), row


@pytest.mark.parametrize(
    ("system", "op", "ranks", "nbytes", "value"),
    [  # as published, read by eye
        ("a100-sxm", "all_reduce", 8, 16 * 2**30, 234.9),
        ("azure-nd-h100-v5", "all_reduce", 8, 2**20, 43.7),
        ("voltage-park-h100", "all_gather", 32, 8 * 2**30, 323.5),
        ("h200-sxm", "all_reduce", 6, 8 * 2**30, 436),
        ("coreweave-gb200-nvl72", "all_reduce", 1440, 512 * 2**20, 151),
        ("b200-pairs", "all_reduce", 16, 16 * 2**30, 716),
        ("mi300x", "all_reduce", 2, 4 * 2**30, 47.7),
    ],
)
def test_published_figures(system: str, op: str, ranks: int, nbytes: int, value: float) -> None:
    found = nearest(system, op, nbytes, ranks)
    assert found.row is not None
    assert (found.row.value, found.row.ranks, found.row.nbytes) == (value, ranks, nbytes)


def test_gates_are_no_measurements() -> None:
    (gate,) = [row for row in find("azure-nd-h100-v5") if row.kind == "threshold"]
    assert (gate.value, gate.nbytes) == (460, 16 * 2**30)
    assert nearest("azure-nd-h100-v5", "all_reduce", 16 * 2**30, 8).row is None
    assert reference.gates(find("azure-nd-h100-v5")) == (gate,)


def test_only_the_same_size() -> None:
    found = nearest("a100-sxm", "all_reduce", 2 * 2**30, 8)
    assert found == (None, (2**30, 4 * 2**30, 16 * 2**30))
    assert nearest("a100-sxm", "broadcast", 2**30, 8) == (None, ())


def test_the_nearest_number_of_ranks_then_the_same_placement() -> None:
    sixteen = 2**34
    found = nearest("AWS-P5", "all_reduce", sixteen, 20, in_place=True).row
    assert found is not None
    assert (found.ranks, found.placement, found.value) == (16, "in-place", 487.26)
    found = nearest("p5.48xlarge", "all_reduce", sixteen, 16, in_place=False).row
    assert found is not None
    assert (found.ranks, found.placement, found.value) == (16, "out-of-place", 487.09)
    found = nearest("h200", "all_reduce", sixteen, 8).row  # 482.26, and 367.6 with the ring forced
    assert found is not None
    assert (found.value, found.algorithm) == (482.26, "")
    time = nearest("p5", "all_reduce", 8, 8, statistic="time").row
    assert time is not None
    assert (time.value, time.unit) == (12.9, "us")


def test_a_system_is_found_by_what_people_call_it() -> None:
    assert find("Polaris") == find("polaris-a100")
    assert find("ND_H100_v5") == find("azure-nd-h100-v5") == find("Standard_ND96isr_H100_v5")
    assert set(ALIASES.values()) <= set(systems())
    assert not set(ALIASES) & set(systems())
    with pytest.raises(SpecError, match="did you mean 'h200-sxm'"):
        find("h200-sxn")


def test_figures_are_in_the_files_they_come_from() -> None:
    """Where a copy of the source is at hand, the very digits are looked for in it."""
    if not (ROOT / "INDEX.tsv").exists():
        pytest.skip("no collected file INDEX.tsv: set COMMBENCH_REAL_DATA to the folder that holds them")
    texts: dict[str, str] = {}
    for entry in csv.DictReader((ROOT / "INDEX.tsv").read_text().splitlines(), delimiter="\t"):
        path = ROOT / entry["file"]
        if any(row.source == f"{entry['source']}@{entry['commit_or_thread']}" for row in ROWS) and path.exists():
            source = f"{entry['source']}@{entry['commit_or_thread']}"
            texts[source] = texts.get(source, "") + path.read_text(errors="replace")
    checked = 0
    for line in csv.DictReader(FILE.read_text().splitlines()):
        # from these pages only some figures are in the copy
        if line["source"] in texts and "coreweave" not in line["source"]:
            assert re.search(rf"(?<![\d.]){re.escape(line['value'])}(?!\d)", texts[line["source"]]), line
            checked += 1
    assert checked > 150
