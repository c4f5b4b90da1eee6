"""The report: its words are tested as sentences about rows, its page as HTML that is well formed, escaped and alone."""

import html.parser
import json
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from commbench import store
from commbench.cli import group
from commbench.collectives import moved
from commbench.layouts import expand
from commbench.records import Case, Fabric, FabricHost, Host, Link, Machine, Measurement, Origin, Run
from commbench.records.finding import Finding
from commbench.records.topology import Device, DeviceLink, GpuTopology
from commbench.report.html import page as pages
from commbench.report.html import pairs, plots_svg, rowtable
from commbench.report.html.compared import compared
from commbench.report.html.examined import Examined, examine
from commbench.report.html.lateness import lateness
from commbench.report.html.page import page
from commbench.report.html.phrases import duration, sentence
from commbench.report.html.record import repeat
from commbench.report.html.standout import jumps, slowest_group
from commbench.report.html.summary import Summary, summary
from commbench.report.image import COLOURS
from commbench.stats.compare import compare

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "results").glob("example-*"))
SIZES = tuple(8 << 2 * k for k in range(8))
EVIL = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>]]>&amp;\x00\x1b[31m\u202e=cmd|' /C calc'!A0"


def run_of(ranks: int = 4, hosts: int = 4, **fields: Any) -> Run:
    host_of = tuple(rank * hosts // ranks for rank in range(ranks))
    fabric = fields.pop("fabric", None)
    names = fields.pop("host_names", [f"n{k}" for k in range(hosts)])
    told = {"launcher": "openmpi", "facts": {"cpu": "EPYC"}, "environment": {"NCCL_ALGO": "Ring"}}
    told |= fields.pop("machine", {})
    machine = Machine(hosts=tuple(Host(name=name) for name in names), host_of=host_of, fabric=fabric, **told)
    known: dict[str, Any] = {"format": 2, "name": "quick", "created": "2026-10-04T12:30:00+00:00", "seed": 1}
    known |= {"commbench": "0.1.0", "spec": {}, "command": ("commbench", "sweep", "quick", "--launch", "0")}
    return Run(machine=machine, **(known | fields))


def answers(
    run: Run, sizes: Sequence[int] = SIZES, count: int = 30, slow: float = 1.0, **fields: Any
) -> list[Measurement]:
    """Every group answers every size, the last group `slow` times as slowly; rank 1 is the slowest in half of it."""
    out = []
    clock, scale = fields.pop("clock", "host"), fields.pop("scale", 1.0)
    for nbytes in sizes:
        case = Case(**{"op": "all_reduce", "backend": "gloo", "nbytes": nbytes, **fields})
        groups = expand(case.groups, run.machine.host_of)
        for k, ranks in enumerate(groups):
            wire = moved(case.op, nbytes, case.dtype, len(ranks))
            factor = scale * (slow if k == len(groups) - 1 else 1)
            seconds = tuple(factor * (5e-6 + wire / 1e9) * (1 + n * 17 % 30 / 1000) for n in range(count))
            late = tuple(1 if n % 2 and 1 in ranks else ranks[n % len(ranks)] for n in range(count))
            out.append(
                Measurement(
                    case=case, group=k, ranks=len(ranks), nbytes=wire, seconds=seconds, clock=clock, wrong=0,
                    skew=tuple(s / 10 for s in seconds), slowest=late,
                )
            )  # fmt: skip
    return out


def star(hosts: int, rate: float = 125e6) -> Fabric:
    names = [f"n{k}" for k in range(hosts)]
    links = tuple(Link(name=f"{name}-s", ends=(name, "s"), rate=rate) for name in names)
    return Fabric(name="star", hosts=tuple(FabricHost(name=name) for name in names), switches=("s",), links=links)


def one(run: Run | None = None, measurements: Sequence[Measurement] | None = None, name: str = "quick") -> Examined:
    run = run or run_of()
    return examine(name, run, answers(run) if measurements is None else measurements)


def texts(found: Summary) -> str:
    return "\n".join(said.text for part in found for said in part)


VOID = {"meta", "link", "input", "br", "img", "hr"}


class Page(html.parser.HTMLParser):
    """Tags in order, with attributes; text by the tag it stands in. Fails where elements are not nested."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.told: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.told.append((self.open[-1] if self.open else "", data))

    def of(self, *names: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag in names]

    def text(self, *names: str) -> str:
        return "".join(data for tag, data in self.told if not names or tag in names)


# ---- words -------------------------------------------------------------------------------------------------


def test_what_was_measured() -> None:
    run = run_of(8, 2)
    told = [said.text for said in summary([one(run)]).measured]
    assert told[0] == "commbench 0.1.0 measured all_reduce over gloo, 8 sizes from 8B to 128KiB."
    assert told[1] == "On 8 ranks on 2 hosts (n0, n1), 2026-10-04 12:30."
    assert told[2] == "8 rows, 8 ok; 240 samples from 1 launch a row."


def test_a_model_is_called_a_model() -> None:
    run = run_of()
    assert "SIMULATED" in texts(summary([one(run, answers(run, clock="simulated"))]))
    assert "SIMULATED" not in texts(summary([one(run)]))


def test_a_model_is_no_match_for_a_measurement() -> None:
    run = run_of()
    model, real = answers(run, clock="simulated", scale=0.01), answers(run)
    told = texts(summary([one(run, model, "model"), one(run, real, "real")]))
    assert "real: Best all_reduce" in told
    assert "model: Best" not in told
    assert "SIMULATED: the times of 1 run come from a model" in told


def test_files_without_times_are_not_called_a_failure() -> None:
    part = GpuTopology(source="nvidia-smi", devices=(Device(id="GPU0", kind="gpu"),))
    told = texts(summary([examine("topo", run_of(), [], [part])]))
    assert "No times are in these files" in told
    assert "Nothing was measured" not in told


def test_an_import_is_told_by_its_tool_and_by_what_its_file_does_not_tell() -> None:
    origin = Origin(path="a.txt", nbytes=9, sha256="0" * 64, tool="nccl-tests 2.17.4")
    nowhere = Machine(hosts=(), host_of=(), launcher="")
    run = Run(format=2, name="a.txt", created="2026-10-04T12:30:00Z", commbench="0.1.0", seed=0, spec={},
              machine=nowhere, origin=origin)  # fmt: skip
    case = Case(op="all_reduce", backend="nccl", nbytes=1024)
    told = texts(summary([one(run, [Measurement(case=case, ranks=8, seconds=(1e-3,), kind="mean", clock="imported")])]))
    assert "nccl-tests 2.17.4 measured all_reduce" in told
    assert "8 ranks, hosts unknown" in told
    assert "when the file was last changed" in told
    assert "what these told: mean. They carry no interval." in told
    assert "one figure a row" in told
    assert "too few independent samples" not in told
    assert "--set" not in told  # nobody can measure longer with another tool's file


def test_the_best_bandwidth_and_its_share_of_the_wire() -> None:
    told = texts(summary([one(run_of(fabric=star(4, rate=3e9)))]))
    assert re.search(r"Best all_reduce: 1\.\d+ GB/s bus bandwidth at 128KiB \(gloo, world\), \d+ % of what", told)
    told = texts(summary([one()]))
    assert "of what the links allow" not in told
    assert "rates of the links are not known" in told


def test_the_slow_pair_is_named_with_its_hosts_and_the_median_of_its_round() -> None:
    run = run_of(8, 8)
    measured = [m for k in range(7) for m in answers(run, [1 << 20], op="send_recv", groups=f"pairs/{k}")]
    assert slowest_group(one(run, measured).rows) is None
    for k in range(7):
        if k == 3:
            measured += answers(run, [1 << 20], op="send_recv", groups="pairs/3", slow=3.0)
    a, b = expand("pairs/3", run.machine.host_of)[-1]
    found = summary([one(run, measured)])
    assert f"Ranks {a} and {b} (n{a}, n{b}) took 3 times the median of the pairs of its round" in texts(found)
    assert any(f"n{a}, n{b}" in step.text and "cables" in step.text for step in found.next_steps)


def test_two_groups_are_not_held_against_their_own_median() -> None:
    run = run_of(4, 2)
    assert slowest_group(one(run, answers(run, groups="node", slow=5.0)).rows) is None
    run = run_of(8, 4)
    found = slowest_group(one(run, answers(run, groups="node", slow=5.0)).rows)
    assert found is not None
    assert (found[0].group, round(found[1], 1)) == ("node[3]", 5.0)


def test_the_late_rank_is_named_against_chance() -> None:
    told = texts(summary([one()]))
    assert "Rank 1 (n1) was the slowest of its group in 50 % of 240 samples; by chance it would be 25 %." in told
    assert "See what else runs on n1" in told
    run = run_of(2, 2)  # of two ranks one is always the slower one
    assert "was the slowest" not in texts(summary([one(run)]))


def test_wrong_hung_and_skipped_rows_come_first_with_their_reason() -> None:
    run = run_of()
    case = Case(op="broadcast", backend="gloo", nbytes=8)
    bad = [
        Measurement(case=case, ranks=4, status="hung", why="rank 3 on n3 did not answer"),
        Measurement(case=Case(op="reduce", backend="gloo", nbytes=8), ranks=4, status="failed", why="wrong data"),
    ]
    found = summary([one(run, answers(run) + bad)])
    first, second = found.stands_out[:2]
    assert first.text == "1 row failed: wrong data."
    assert second.text == "1 row hung: rank 3 on n3 did not answer."
    assert first.level == "error"
    assert "failed rows before any figure" in found.next_steps[0].text
    assert any("--resume" in step.text for step in found.next_steps)


def test_nothing_measured_is_never_fine() -> None:
    for runs in ([], [one(measurements=[])]):
        found = summary(runs)
        assert "Nothing was measured" in texts(found)
        assert "asks for no action" not in texts(found)
        assert "Nothing stands out" not in texts(found)
        assert "Nothing was measured" in page(runs)


def test_a_jump_of_latency_is_sure_and_named() -> None:
    run = run_of()
    measured = [m for m in answers(run, [1024, 4096]) if m.case.nbytes == 1024]
    measured += answers(run, [4096], scale=9.0)
    ((factor, before, after),) = jumps(one(run, measured).rows)
    assert (before.nbytes, after.nbytes) == (1024, 4096)
    assert factor > 2
    assert "at 4KiB as at 1KiB, for 4 times the bytes" in texts(summary([one(run, measured)]))
    assert jumps(one().rows) == []


def test_wide_intervals_are_counted() -> None:
    run = run_of()
    noisy = answers(run, [1024])
    wide = tuple(1e-3 * (1 + n * 7919 % 97 / 97) for n in range(30))
    noisy = [Measurement(case=m.case, ranks=4, nbytes=1024, seconds=wide) for m in noisy]
    told = texts(summary([one(run, noisy)]))
    assert "1 of 1 row is known to no better than ±10%" in told
    assert "Measure longer" in told


def test_findings_lead_and_give_the_next_step() -> None:
    findings = [
        Finding(code="CB-X", severity="note", sentence="a note", next="read it"),
        Finding(code="CB-Y", severity="warning", sentence="busbw is above the wire", next="look at the links"),
    ]
    found = summary([one()], findings)
    assert found.stands_out[0].text == "Warning: Busbw is above the wire."
    assert found.next_steps[0].text == "CB-Y: look at the links."
    assert "a note" not in texts(found).lower()


def test_the_same_finding_in_several_runs_is_told_once_with_all_places() -> None:
    same = [
        Finding(code="CB-Y", severity="warning", sentence="s", where=f"run{k}", evidence=("e", f"{k}"))
        for k in range(3)
    ]
    (merged,) = pages.together(same)
    assert merged.where == "run0, run1, run2"
    assert merged.evidence == ("e", "0", "1", "2")
    worst = Finding(code="CB-Z", severity="error", sentence="t")
    assert [one.code for one in pages.together([*same, worst])] == ["CB-Z", "CB-Y"]


@given(st.text(max_size=400))
@settings(max_examples=50)
def test_a_sentence_from_outside_is_one_printable_line(text: str) -> None:
    told = sentence(text)
    assert told.isprintable()
    assert told.endswith((".", "!", "?"))
    assert len(told) <= 310


def test_times_are_told_to_the_digits_they_have() -> None:
    rows = one(measurements=answers(run_of(), [8, 1 << 26])).rows
    assert [duration(row).split()[1] for row in rows] == ["us", "ms"]


# ---- who was late, pairs, rows ------------------------------------------------------------------------------


def test_lateness_counts_only_groups_that_have_somebody_to_wait_for() -> None:
    run = run_of(4, 4)
    assert lateness(run.machine, answers(run, groups="node")).ranks == []
    found = lateness(run.machine, answers(run, [8]) + answers(run, [8], groups="every:2"))
    assert [(rank.rank, rank.samples) for rank in found.ranks] == [(k, 60) for k in range(4)]
    assert found.ranks[0].by_chance == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert sum(rank.slowest for rank in found.ranks) == 90
    (line,) = found.lines
    assert line.label == "all_reduce · gloo"
    assert line.points[0].samples == 90
    assert line.points[0].p25_us <= line.points[0].p50_us <= line.points[0].p75_us <= (line.points[0].p95_us or 0)


def test_a_journal_that_names_ranks_which_do_not_exist_does_no_harm() -> None:
    run = run_of()
    strange = [Measurement(case=Case(op="all_reduce", backend="gloo", nbytes=8), ranks=4, seconds=(1.0,) * 8,
                           skew=(0.1,) * 8, slowest=(10**12, -5, 3, 3, 3, 3, 3, 3))]  # fmt: skip
    assert [(rank.rank, rank.slowest) for rank in lateness(run.machine, strange).ranks] == [
        (0, 0),
        (1, 0),
        (2, 0),
        (3, 6),
    ]


def heat_of(ranks: int, hosts: int, sizes: Sequence[int]) -> list[pairs.Heat]:
    run = run_of(ranks, hosts)
    rounds = ranks - 1 + ranks % 2
    measured = [m for k in range(rounds) for m in answers(run, sizes, 8, op="send_recv", groups=f"pairs/{k}", slow=2.0)]
    return pairs.heats(one(run, measured))


def test_every_pair_is_in_the_map_once_and_the_slowest_first() -> None:
    bandwidth, latency = heat_of(6, 3, [8, 1024, 1 << 20])
    assert (bandwidth.rate, latency.rate) == (True, False)
    for heat in (bandwidth, latency):
        assert sorted((pair.a, pair.b) for pair in heat.pairs) == [(a, b) for a in range(6) for b in range(a + 1, 6)]
        assert len(heat.pairs) == 15
        colours = [heat.colour(pair.value) for pair in heat.pairs]
        assert colours == sorted(colours)
        assert colours[0] < colours[-1]
    values = [pair.value for pair in bandwidth.pairs]
    assert values == sorted(values)
    assert bandwidth.nodes == list("012345")
    assert bandwidth.places == ["n0", "n0", "n1", "n1", "n2", "n2"]


def test_colours_do_not_make_small_differences_large() -> None:
    run = run_of(4, 4)
    measured = [m for k in range(3) for m in answers(run, [1 << 20], op="send_recv", groups=f"pairs/{k}", slow=1.02)]
    (heat,) = pairs.heats(one(run, measured))
    assert {heat.colour(pair.value) for pair in heat.pairs} <= {7, 8}


def test_many_ranks_are_shown_host_by_host_and_many_hosts_by_their_slowest_pairs() -> None:
    (heat,) = heat_of(40, 10, [1 << 20])
    assert heat.by_host
    assert len(heat.nodes) == 10
    assert len(heat.pairs) == 45
    assert sum(pair.pairs for pair in heat.pairs) == 40 * 39 // 2 - 10 * 6
    (heat,) = heat_of(40, 40, [1 << 20])
    assert (len(heat.nodes), heat.left_out) == (pairs.MOST_NODES, 8)


def test_rows_of_what_went_wrong_come_first_and_what_has_no_room_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of()
    bad = Measurement(case=Case(op="reduce", backend="gloo", nbytes=8), ranks=4, status="failed", why="wrong data")
    monkeypatch.setattr(rowtable, "MOST_ROWS", 5)
    table = rowtable.row_table([one(run, [bad, *answers(run)])])
    assert table.left_out == 4
    assert [status for status, _ in table.lines] == ["ok"] * 5 or table.lines[0][0] == "failed"
    monkeypatch.setattr(rowtable, "MOST_ROWS", 50)
    table = rowtable.row_table([one(run, [*answers(run), bad])])
    assert table.lines[0][0] == "failed"
    assert table.lines[0][1][-1] == "failed [1]"
    assert table.reasons == ["1 row failed: wrong data"]
    assert all(len(cells) == len(table.columns) for _, cells in table.lines)


# ---- the command to repeat it -------------------------------------------------------------------------------


def test_the_command_is_that_which_was_typed() -> None:
    own = ("commbench", "sweep", "quick", "--set=name=a b", "--out", "/tmp/x", "--launch", "2")
    assert repeat(run_of(command=own))[0] == "commbench sweep quick -n 4 '--set=name=a b'"
    lab = run_of(command=own, fabric=star(4), machine={"environment": {"COMMBENCH_LAB": "/tmp/lab"}})
    assert repeat(lab)[0] == "commbench sweep quick -n 4 --lab star '--set=name=a b'"
    inside = run_of(command=("commbench", "sweep", "quick"))
    assert repeat(inside)[0] == "mpirun -n 4 commbench sweep quick"
    assert "4 hosts" in repeat(inside)[1]
    slurm = run_of(command=("commbench", "sweep", "quick"), machine={"launcher": "srun"})
    assert repeat(slurm)[0] == "srun -n 4 commbench sweep quick"
    torchrun = run_of(8, 2, command=("commbench", "sweep", "quick"), machine={"launcher": "torchrun"})
    assert repeat(torchrun)[0] == "torchrun --nnodes 2 --nproc-per-node 4 --no-python commbench sweep quick"
    model = run_of(command=("commbench", "sweep", "m.yaml", "-n", "8", "--out=x"), machine={"launcher": "simulated"})
    assert repeat(model) == ("commbench sweep m.yaml -n 8", "")
    assert repeat(run_of(command=()))[0] == ""


# ---- the page ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full() -> str:
    """A page with everything on it."""
    run = run_of(
        8,
        8,
        fabric=star(8),
        spec={"name": "quick"},
        resumed=({"at": "2026-10-05", "cpu": "EPYC -> Xeon"},),
        machine={"hidden": ("NCCL_KEY",), "warnings": ("the clock is coarse",), "environment": {"A": "1"}},
    )
    measured = answers(run) + answers(run, [1 << 20], op="broadcast")
    measured += [m for k in range(7) for m in answers(run, [8, 1 << 20], 8, op="send_recv", groups=f"pairs/{k}")]
    measured += [Measurement(case=Case(op="barrier", backend="gloo", nbytes=0), ranks=8, seconds=(1e-5,) * 9)]
    slower = answers(run, scale=1.5)
    both = compare([(run, answers(run))], [(run, slower)])
    topology = GpuTopology(
        source="nvidia-smi",
        devices=(Device(id="GPU0", kind="gpu", rate=25e9), Device(id="mlx5_0", kind="nic", numa=1)),
        links=(DeviceLink(kind="NV18", ends=("GPU0", "mlx5_0"), count=18),),
    )
    runs = [examine("quick 1", run, measured, [topology]), examine("quick 2", run, slower)]
    findings = [Finding(code="CB-ONE-NIC", severity="error", sentence="all ranks use one NIC", next="spread them")]
    return page(runs, findings, compared(both, [run], [run], "comparison-"), "commbench report a b -o c.html")


def test_every_section_is_there(full: str) -> None:
    seen = Page(full)
    sections = [attrs["id"] for attrs in seen.of("section")]
    order = ["summary", "findings", "curves", "pairs", "skew", "comparison", "fabric", "rows", "record", "repeat"]
    assert sections == order
    links = {attrs.get("href") for attrs in seen.of("a")}
    assert {f"#{name}" for name in order} <= links
    text = seen.text()
    for words in (
        "CB-ONE-NIC",
        "All ranks use one NIC.",
        "CB-ONE-NIC: spread them.",
        "NCCL_KEY",
        "the clock is coarse",
        "GPU0",
        "NV18",
        "EPYC -> Xeon",
        "commbench report a b -o c.html",
        "8 hosts, 1 rank each",
        "NEW is slower",
    ):
        assert words in text, words


def test_the_page_asks_for_nothing_from_outside(full: str) -> None:
    seen = Page(full)
    (policy,) = [attrs["content"] for attrs in seen.of("meta") if "http-equiv" in attrs]
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
    for _, attrs in seen.tags:
        for name in ("src", "srcset", "action", "data", "poster", "background", "xlink:href"):
            assert name not in attrs
        href = attrs.get("href") or "#"
        assert href.startswith("#") or href == "data:,"
        assert not [name for name in attrs if name.startswith("on")]
    style = seen.text("style")
    assert "@import" not in style
    assert "url(" not in style
    assert not re.search(r"https?://", full)


def test_every_plot_has_a_text_alternative_that_says_something(full: str) -> None:
    images = re.findall(r'<svg [^>]*role="img"[^>]*>.*?</svg>', full, re.S)
    assert len(images) == 9
    for image in images:
        found = re.search(r'aria-labelledby="([^"]+)" aria-describedby="([^"]+)"', image)
        assert found is not None
        title, told = (re.search(rf'id="{name}">([^<]+)<', image) for name in found.groups())
        assert title is not None
        assert told is not None
        assert re.search(r"\d", told[1])  # a value, not "a plot"
    hidden = re.findall(r"<svg (?![^>]*role=)[^>]*>", full)
    assert hidden
    assert all('aria-hidden="true"' in tag for tag in hidden)


def test_ids_are_unique_and_what_points_at_them_finds_them(full: str) -> None:
    seen = Page(full)
    ids = [attrs["id"] for _, attrs in seen.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in seen.tags:
        for name in ("aria-labelledby", "aria-describedby", "for", "data-values"):
            assert set((attrs.get(name) or "").split()) <= set(ids)
        href = attrs.get("href") or ""
        assert not href.startswith("#") or href[1:] in ids
        assert set(re.findall(r"url\(#([^)]+)\)", attrs.get("clip-path") or "")) <= set(ids)


def test_headings_tables_and_buttons_are_what_they_seem(full: str) -> None:
    seen = Page(full)
    levels = [int(tag[1]) for tag, _ in seen.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert full.count("<caption>") == full.count("<table")
    assert all(attrs.get("scope") in ("col", "row", "rowgroup") for attrs in seen.of("th"))
    assert [attrs.get("type") for attrs in seen.of("button")] == ["button"]
    assert {tag for tag, _ in seen.tags} >= {"header", "nav", "main", "footer"}


def test_colours_are_those_of_the_page_so_that_dark_is_readable(full: str) -> None:
    plots = "".join(re.findall(r"<svg .*?</svg>", full, re.S))
    for colour in (*COLOURS, "#ffffff", "#000000", "#555555", "#333333", "#e3e3e3"):
        assert colour.lower() not in plots.lower(), colour
    assert "var(--c0)" in plots
    assert "font-family" not in plots
    assert "<image" not in plots


def test_the_same_runs_give_the_same_bytes() -> None:
    runs = [one(run_of(fabric=star(4)))]
    assert page(runs) == page(runs)


def test_values_of_hover_are_those_of_the_table_and_markers_find_their_row() -> None:
    run = run_of(8, 4)
    text = page([one(run, answers(run) + answers(run, groups="node", slow=2.0) + answers(run, [8], groups="rail"))])
    seen = Page(text)
    for plot in (attrs for attrs in seen.of("svg") if attrs.get("data-values")):
        table = re.search(rf'<table class="figures" id="{plot["data-values"]}">(.*?)</table>', text, re.S)
        assert table is not None
        bodies = re.findall(r"<tbody.*?</tbody>", table[1], re.S)
        inside = text[text.index(f'data-values="{plot["data-values"]}"') :].partition("</svg>")[0]
        groups = re.findall(
            r'<g data-line="line-(\d+)((?:-\d+)*)">(.*?)</g></g>|<g data-line="line-(\d+)"', inside, re.S
        )
        assert groups
        for line, points, drawn, _ in groups:
            if line:
                rows = bodies[int(line)].count("<tr") - 1
                assert drawn.count("<use") == (points.count("-") or rows)


def test_without_the_script_nothing_is_dead(full: str) -> None:
    """What only the script can do is hidden until it runs."""
    seen = Page(full)
    assert all("hidden" in attrs for attrs in seen.of("button"))
    assert '<p class="filter" hidden>' in full
    assert "hidden" in next(attrs for _, attrs in seen.tags if attrs.get("id") == "tip")


def evil_run() -> Run:
    fabric = star(4)
    hosts = tuple(FabricHost(name=EVIL + str(k)) for k in range(4))
    links = tuple(Link(name=EVIL + str(k), ends=(host.name, EVIL), rate=1e8) for k, host in enumerate(hosts))
    fabric = Fabric(name=EVIL, hosts=hosts, switches=(EVIL,), links=links)
    machine = {
        "facts": {EVIL: EVIL},
        "environment": {EVIL: EVIL},
        "hidden": (EVIL,),
        "warnings": (EVIL,),
        "launcher": EVIL,
    }
    return run_of(
        fabric=fabric, host_names=[host.name for host in hosts], name=EVIL, created=EVIL, commbench=EVIL,
        command=("commbench", EVIL), spec={EVIL: EVIL}, resumed=({EVIL: EVIL},), machine=machine,
        origin=Origin(path=EVIL, nbytes=1, sha256=EVIL, tool=EVIL, options={EVIL: EVIL}, unread=3),
    )  # fmt: skip


def test_text_of_runs_is_text_and_nothing_else() -> None:
    run = evil_run()
    measured = answers(run, settings=((EVIL, EVIL),), backend=EVIL) + answers(run, settings=(("$x^2$", "<b>"),))
    measured += [
        m for k in range(3) for m in answers(run, [1 << 20], op="send_recv", groups=f"pairs/{k}", backend=EVIL)
    ]
    measured += [Measurement(case=Case(op="reduce", backend=EVIL, nbytes=8), ranks=4, status="failed", why=EVIL)]
    finding = Finding(code=EVIL, severity="error", sentence=EVIL, where=EVIL, next=EVIL, evidence=(EVIL,))
    part = GpuTopology(source=EVIL, devices=(Device(id=EVIL, kind="gpu", model=EVIL),))
    both = compare([(run, measured)], [(run, measured)])
    runs = [examine(EVIL, run, measured, [part]), examine("b", run, measured)]
    text = page(runs, [finding], compared(both, [run], [run], "comparison-"), EVIL)
    seen = Page(text)
    assert len(seen.of("script")) == 1
    assert len(seen.of("img")) == 0
    assert not [name for _, attrs in seen.tags for name in attrs if name.startswith("on")]
    assert "alert(1)" not in seen.text("script", "style")
    assert "alert(1)" in seen.text("text", "td", "th", "li", "dd")
    assert not [c for c in text if not c.isprintable() and c != "\n"]


@given(st.text(min_size=1, max_size=60))
@settings(max_examples=4, deadline=None)
def test_any_text_as_a_host_and_as_a_reason(text: str) -> None:
    run = run_of(2, 2, host_names=[text, "b"], name=text)
    bad = Measurement(case=Case(op="reduce", backend="gloo", nbytes=8), ranks=2, status="failed", why=text)
    seen = Page(page([one(run, [bad, *answers(run, [8])], name="a")]))
    assert len(seen.of("script")) == 1
    assert len(seen.of("section")) == 9


def test_what_has_no_room_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MOST_PANELS", 2)
    monkeypatch.setattr(plots_svg, "MOST_POINTS", 4)
    run = run_of()
    text = page([one(run, answers(run) + answers(run, op="broadcast"))])
    assert "Not drawn, to keep this file small: broadcast (1 lines)" in text
    assert "at most 4 points of a line are drawn" in text


# ---- the command -------------------------------------------------------------------------------------------


def report(*arguments: str) -> Any:
    return CliRunner().invoke(group, ["report", *arguments])


def sections(path: Path) -> Iterator[str]:
    return (attrs["id"] or "" for attrs in Page(path.read_text(encoding="utf-8")).of("section"))


@pytest.fixture(scope="module")
def of_examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "all.html"
    ended = report(*map(str, EXAMPLES), "-o", str(out))
    assert ended.exit_code == 0, ended.output
    assert ended.output.strip() == str(out)
    return out


def test_all_examples_in_one_page(of_examples: Path) -> None:
    text = of_examples.read_text(encoding="utf-8")
    assert len(text.encode()) < 1_000_000
    seen = Page(text)
    assert f"The {len(EXAMPLES)} runs of this report" in seen.text("caption")
    assert "send_recv" in seen.text("h3")
    assert "comparison" not in list(sections(of_examples))


def test_two_folders_are_compared_and_any_number_with_a_base(tmp_path: Path) -> None:
    out = tmp_path / "two.html"
    ring, default = (
        str(path) for path in EXAMPLES if path.name in ("example-lab-star8-ring", "example-lab-star8-default")
    )
    assert report(ring, default, "-o", str(out), "--quiet").output == ""
    assert "comparison" in list(sections(out))
    assert report(default, "--base", ring, "-o", str(out)).exit_code == 0
    assert "comparison" in list(sections(out))
    assert f"--base {ring}" in Page(out.read_text(encoding="utf-8")).text("code")
    assert report(ring, "-o", str(out)).exit_code == 0
    assert "comparison" not in list(sections(out))


def test_mistakes_are_told_in_a_sentence(tmp_path: Path) -> None:
    for arguments, words, code in (
        ((str(EXAMPLES[0]), "-o", str(tmp_path / "a.pdf")), "browser prints it to PDF", 2),
        ((str(tmp_path / "none"), "-o", str(tmp_path / "a.html")), "there is no such file or folder", 2),
        ((str(EXAMPLES[0]), "-o", str(tmp_path / "no" / "a.html")), "a.html", 4),
    ):
        ended = report(*arguments)
        error = ended.exception
        assert getattr(error, "exit_code", None) == code
        assert words in str(error)


def test_a_run_folder_of_ones_own_and_its_traps(tmp_path: Path) -> None:
    run = run_of(2, 1)
    journal = store.create(tmp_path / "run", run)
    journal.append(answers(run))
    journal.close()
    out = tmp_path / "r.html"
    assert report(str(tmp_path / "run"), "-o", str(out)).exit_code == 0
    assert json.loads((tmp_path / "run/run.json").read_text())["name"] in Page(out.read_text(encoding="utf-8")).text(
        "h1"
    )
