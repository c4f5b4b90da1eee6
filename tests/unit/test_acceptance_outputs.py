"""What a verdict becomes: text, Nagios, JUnit, Prometheus, lists of hosts. Strict little readers check each form."""

import math
import os
import re
import shlex
import subprocess
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from judgements import EVIL, NAMES, SLOW, component, covering, reason, rows, run, verdict

from commbench.accept.standing import standings
from commbench.errors import SpecError, StoreError
from commbench.jobs import artefacts
from commbench.records import Measurement, Run
from commbench.records.verdict import Judged, Reason, Verdict, Word
from commbench.report import acceptance, hostfiles, junit, prometheus
from commbench.spec.accept import load
from commbench.stats.rows import rows as summarised

names = st.one_of(st.sampled_from(EVIL), st.text(max_size=10))
HANG = reason(component("host", "h5"), "hang", stage="spread")
MISSING = reason(component("host", "h6"), "not measured", stage="preflight")
TIED = reason(component("host", "h3"), ties=(component("host", "h5"), component("path", "h3 - h5")))


def said(one: Verdict) -> list[str]:
    return list(acceptance.text(one))


# ---- text -----------------------------------------------------------------------------------------------------


def test_the_answer_is_the_first_line() -> None:
    assert said(verdict("FAIL", SLOW))[0] == ("FAIL  host h3 is slow: 52 % of the rate it should have  [CB-SLOW-HOST]")
    assert said(verdict("PASS"))[0] == "PASS  8 hosts, 8 ranks: all measured, nothing found"
    assert said(verdict("INCONCLUSIVE", MISSING))[0] == "INCONCLUSIVE  host h6 is not measured  [CB-COVERAGE]"


def test_a_reason_is_told_with_all_that_is_known() -> None:
    text = "\n".join(said(verdict("FAIL", msgspec.structs.replace(SLOW, evidence=("a[0] round 1", "b[1] round 2")))))
    for part in (
        "measured  0.61 GB/s, expected 1.17 GB/s (slow, in confirm)",
        "criterion no component is slower than the fleet; from fleet of this run",
        "evidence  10^21 times likelier with this fault than without; a[0] round 1; b[1] round 2",
        "next      Take it out.",
        "PASS  correctness  not known  no wrong element  always",
        "the smallest slowdown this run could have found: 8 % (asked: 10 %",
        "covered   8 of 8 hosts, 8 ranks",
        "suspect: h3",
        "cleared: 7",
    ):
        assert part in text
    assert text.splitlines()[-1] == "exit 1"


def test_ties_are_an_honest_set() -> None:
    first, second, *_ = said(verdict("FAIL", TIED))
    assert "(or host h5, path h3 - h5)" in first
    assert "one of    host h3, host h5 or path h3 - h5: this run cannot tell which" in second


def test_what_makes_the_word_comes_first() -> None:
    lines = said(verdict("FAIL", MISSING, SLOW))
    assert [line.split()[0] for line in lines if re.match(r"[A-Z]{4}", line)] == ["FAIL", "INCONCLUSIVE"]


def test_a_thousand_reasons_are_still_short() -> None:
    many = [reason(component("host", f"n{k}")) for k in range(1000)]
    lines = said(verdict("FAIL", *many, names=[f"n{k}" for k in range(1000)]))
    assert len(lines) < 60
    assert "... and 975 more reasons; verdict.json has them all" in lines
    assert max(map(len, lines)) < 300


def test_what_is_missing_is_told() -> None:
    stages = {"spread": "done", "intra": "done: nothing to measure inside", "full": "the budget was used up"}
    one = covering(verdict("INCONCLUSIVE", MISSING), stages=stages, measured_hosts=NAMES[:-1], missing=("h7 is away",))
    text = "\n".join(said(one))
    for part in ("7 of 8 hosts", "not measured: h7", "done: spread, intra", "not done: full: the budget", "h7 is away"):
        assert part in text


def test_power_that_is_none_is_said() -> None:
    one = verdict("INCONCLUSIVE", MISSING)
    one = msgspec.structs.replace(one, power=msgspec.structs.replace(one.power, detectable=None))
    assert "this run could not have found a slow component, however slow" in "\n".join(said(one))


def test_criteria_are_a_table() -> None:
    found = (
        Judged(criterion="wire", word="FAIL", sentence="slow", measured=0.52, limit=0.8, unit="share", source="s.yaml"),
        Judged(criterion="big", word="INCONCLUSIVE", sentence="no baseline"),
    )
    lines = said(verdict("FAIL", SLOW, criteria=found))
    at = lines.index("criteria")
    assert lines[at + 1] == "  FAIL          wire  52 % (limit 80 %)  slow         s.yaml"
    assert lines[at + 2] == "  INCONCLUSIVE  big   not known          no baseline"


def test_a_verdict_without_a_reason_is_no_praise() -> None:
    assert said(verdict("FAIL"))[0].startswith("FAIL  no reason was told")


# ---- Nagios ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "code", "word"),
    [
        (verdict("PASS"), 0, "OK"),
        (verdict("FAIL", reason(component("fabric"), "unstable")), 1, "WARNING"),
        (verdict("FAIL", reason(component("fabric"), "unstable"), MISSING), 1, "WARNING"),
        (verdict("FAIL", reason(component("fabric"), "unstable"), SLOW), 2, "CRITICAL"),
        (verdict("FAIL", SLOW), 2, "CRITICAL"),
        (verdict("FAIL"), 2, "CRITICAL"),
        (verdict("INCONCLUSIVE", MISSING), 3, "UNKNOWN"),
        (verdict("INCONCLUSIVE"), 3, "UNKNOWN"),
    ],
)
def test_nagios(one: Verdict, code: int, word: str) -> None:
    line, is_ = acceptance.nagios(one)
    assert is_ == code
    assert re.fullmatch(rf"COMMBENCH {word} - [^|]+ \| suspects=\d+ measured=8", line)


def test_a_bar_would_begin_the_figures() -> None:
    line, _ = acceptance.nagios(verdict("FAIL", reason(component("host", "h3"), sentence="host h3 | suspects=0")))
    assert line.count("|") == 1


# ---- one host -------------------------------------------------------------------------------------------------


def test_every_test_of_a_host() -> None:
    made = run()
    tests = rows(made)
    evidence = tuple(f"{row.case.key}[{row.group}] round {row.launch}" for row in tests if row.launch == 2)
    one = verdict("FAIL", msgspec.structs.replace(SLOW, evidence=evidence))
    first, why, _, head, *table = acceptance.host(one, made, tests, "h3")
    assert first == "h3  accused"
    assert why.startswith("FAIL  host h3 is slow")
    assert head.split()[:4] == ["round", "stage", "test", "with"]
    assert [line.split()[:2] for line in table] == [["0", "spread"], ["1", "spread"], ["2", "confirm"], ["3", "full"]]
    assert "slower by 50 %" in table[0]
    assert "1.05 GB/s" in table[0]
    assert table[2].endswith("nothing to compare it with  <- CB-SLOW-HOST")
    assert " all " in table[3]


def test_a_window_is_compared_with_the_other_windows() -> None:
    made = run()
    tests, full = rows(made), rows(made)[-1]
    tests += [msgspec.structs.replace(full, launch=4), msgspec.structs.replace(full, launch=5, seconds=(2e-3,) * 3)]
    *_, first, second, third = acceptance.host(verdict("PASS"), made, tests, "h0")
    assert [line.split("  ")[-1].strip() for line in (first, second, third)] == [
        *("as the others", "as the others", "slower by 50 %")
    ]


def test_a_partner_rail_by_rail() -> None:
    made = run(ranks=2)
    table = list(acceptance.host(verdict("PASS"), made, rows(made), "h0"))
    first = [line.split() for line in table if line.startswith("0 ")]
    assert [(words[5], words[6]) for words in first] == [("h3", "0"), ("h3", "1")]


@pytest.mark.parametrize(
    ("status", "words"),
    [({"status": "hung", "why": "no answer"}, "hung: no answer"), ({"wrong": 3, "status": "failed"}, "wrong data: 3")],
)
def test_what_went_wrong_in_a_test(status: dict[str, object], words: str) -> None:
    made = run()
    first, *rest = rows(made)
    table = list(acceptance.host(verdict("FAIL", SLOW), made, [msgspec.structs.replace(first, **status), *rest], "h0"))
    assert sum(words in line for line in table) == 1


@pytest.mark.parametrize(
    ("one", "standing"),
    [
        (verdict("PASS"), "cleared"),
        (verdict("INCONCLUSIVE", cleared=()), "neither accused nor cleared"),
        (verdict("FAIL", TIED), "neither accused nor cleared"),
        (verdict("FAIL", reason(component("path", "h0 - h3"))), "cleared"),
        (covering(verdict("INCONCLUSIVE"), excluded=("h3",)), "excluded"),
    ],
)
def test_where_a_host_stands(one: Verdict, standing: str) -> None:
    first, *_ = acceptance.host(one, run(), [], "h3")
    assert first.startswith(f"h3  {standing}")


def test_a_path_is_told_of_both_its_ends() -> None:
    one = verdict("FAIL", reason(component("path", "h0 - h3")))
    for name, times in (("h0", 1), ("h3", 1), ("h4", 0)):
        assert sum(line.startswith("FAIL") for line in acceptance.host(one, run(), [], name)) == times


def test_a_host_that_is_not_there() -> None:
    with pytest.raises(SpecError, match=r"no host 'h33'; did you mean 'h3'"):
        list(acceptance.host(verdict("PASS"), run(), [], "h33"))


@settings(max_examples=30)
@given(names, names)
def test_a_terminal_gets_no_control_characters(name: str, other: str) -> None:
    fleet = list(dict.fromkeys([name, other]))
    made = run(fleet)
    why = reason(component("host", name), sentence=f"{other} {name}", next=name, evidence=(name,), source=other)
    one = covering(verdict("FAIL", why, names=fleet), missing=(name,), transport={name: other}, stages={name: other})
    lines = [*acceptance.text(one), acceptance.nagios(one)[0], *acceptance.host(one, made, rows_of(made), name)]
    assert all(line.isprintable() for line in lines)


def rows_of(made: Run) -> list[Measurement]:
    return rows(made, 0) if len(made.machine.hosts) > 2 else []


# ---- JUnit ----------------------------------------------------------------------------------------------------


def parsed(one: Verdict, made: Run | None = None) -> dict[tuple[str, str], ET.Element]:
    """(stage, component) -> its testcase; the counts are right, nothing is skipped, no testcase is there twice."""
    root = ET.fromstring(junit.document(one, made or run()))
    assert root.tag == "testsuites"
    found: dict[tuple[str, str], ET.Element] = {}
    totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in root:
        assert suite.tag == "testsuite"
        assert suite[0].tag == "properties"
        cases = suite.findall("testcase")
        is_ = {
            "tests": len(cases),
            "failures": len(suite.findall("testcase/failure")),
            "errors": len(suite.findall("testcase/error")),
            "skipped": 0,
        }
        for key, count in is_.items():
            assert suite.attrib[key] == str(count)
            totals[key] += count
        stage = suite.attrib["name"].rpartition(".")[2]
        for case in cases:
            assert len(case) <= 1, "the schema has room for one"
            assert case.attrib["classname"]
            assert (stage, case.attrib["name"]) not in found
            found[stage, case.attrib["name"]] = case
    assert {key: root.attrib[key] for key in totals} == {key: str(count) for key, count in totals.items()}
    assert not root.findall(".//skipped")
    return found


def colours(one: Verdict, made: Run | None = None) -> dict[tuple[str, str], str]:
    """(stage, component) -> failure, error or ok."""
    return {key: case[0].tag if len(case) else "ok" for key, case in parsed(one, made).items()}


def test_a_run_that_passed_is_green() -> None:
    found = colours(verdict("PASS"))
    assert set(found.values()) == {"ok"}
    assert {("preflight", "host h0"), ("intra", "host h7"), ("spread", "host h3"), ("full", "the fabric")} <= set(found)
    assert ("criteria", "criterion correctness") in found


def test_a_proved_fault_is_a_failure_with_its_figures() -> None:
    case = parsed(verdict("FAIL", SLOW))["confirm", "host h3"]
    (failure,) = case
    assert (failure.tag, failure.attrib["type"]) == ("failure", "CB-SLOW-HOST")
    assert failure.text is not None
    assert "measured: 0.61 GB/s, expected 1.17 GB/s" in failure.text
    found = colours(verdict("FAIL", SLOW))
    assert ("spread", "host h3") not in found, "what another stage blames is not shown as fine"
    assert found["spread", "host h4"] == "ok"


@pytest.mark.parametrize("fault", ["hang", "crash"])
def test_what_hung_or_died_is_an_error(fault: str) -> None:
    found = colours(verdict("FAIL", reason(component("host", "h5"), fault, stage="spread")))
    assert found["spread", "host h5"] == "error"
    assert "failure" not in found.values()


def test_what_was_not_measured_is_an_error_and_never_skipped() -> None:
    one = covering(verdict("INCONCLUSIVE", MISSING), measured_hosts=[n for n in NAMES if n != "h6"], excluded=("h7",))
    found = colours(one)
    assert found["preflight", "host h6"] == found["preflight", "host h7"] == "error"
    assert found["preflight", "host h5"] == "ok"


def test_a_host_of_which_nothing_is_known_is_red() -> None:
    found = colours(verdict("INCONCLUSIVE", MISSING, cleared=("h0",)))
    assert (found["spread", "host h0"], found["spread", "host h1"]) == ("ok", "error")
    made = run(racks={"left": NAMES[:4], "right": NAMES[4:]})
    found = colours(verdict("INCONCLUSIVE", MISSING, cleared=("h0",)), made)
    assert (found["spread", "uplink left"], found["spread", "uplink right"]) == ("ok", "error")


def test_a_stage_that_was_not_done_is_red() -> None:
    stages = {"spread": "done", "intra": "done: nothing to measure inside", "full": "the budget was used up"}
    found = colours(covering(verdict("INCONCLUSIVE", MISSING), stages=stages))
    assert found["full", "the fabric"] == "error"
    assert found["intra", "host h0"] == "ok"
    assert not [key for key in found if key[0] == "stability"]


def test_of_ties_one_is_a_failure_and_none_is_fine() -> None:
    found = colours(verdict("FAIL", TIED))
    assert found["confirm", "host h3"] == "failure"
    assert found["confirm", "host h5"] == found["confirm", "path h3 - h5"] == "error"
    assert "ok" not in {found.get(("spread", f"host {name}")) for name in ("h3", "h5")}


def test_rails_and_uplinks_are_components() -> None:
    made = run(ranks=2, racks={"left": NAMES[:4], "right": NAMES[4:]})
    bad = reason(component("uplink", "right"), code="CB-SLOW-UPLINK")
    found = colours(covering(verdict("FAIL", bad), rails=2), made)
    assert found["spread", "nic h3 rail 1"] == "ok"
    assert found["spread", "uplink left"] == "ok"
    assert found["confirm", "uplink right"] == "failure"
    assert ("spread", "uplink right") not in found


def test_criteria_that_could_not_be_evaluated_are_errors() -> None:
    criteria = (
        Judged(criterion="a", word="FAIL", sentence="s"),
        Judged(criterion="b", word="INCONCLUSIVE", sentence="s"),
    )
    found = colours(verdict("FAIL", SLOW, criteria=criteria))
    assert (found["criteria", "criterion a"], found["criteria", "criterion b"]) == ("failure", "error")


def test_properties_tell_what_it_rests_on() -> None:
    root = ET.fromstring(junit.document(verdict("FAIL", SLOW, journal_sha256="ab", seed=7), run()))
    told = {p.attrib["name"]: p.attrib["value"] for p in root[0][0]}
    assert told["power.smallest_slowdown_found"] == "8 %"
    assert told["criterion.correctness"] == "PASS: no wrong element"
    assert (told["run"], told["verdict"], told["journal_sha256"], told["seed"]) == ("lab", "FAIL", "ab", "7")


faults = st.builds(
    reason,
    st.builds(component, st.sampled_from(["host", "nic", "path", "fabric", "run", "uplink"]), names),
    st.sampled_from(["slow", "hang", "crash", "wrong", "unstable", "not measured"]),
    stage=st.sampled_from(["preflight", "intra", "spread", "confirm", "full", "stability", "run"]),
    ties=st.lists(st.builds(component, st.just("host"), names), max_size=2).map(tuple),
    next=names,
)


@settings(max_examples=30)
@given(
    st.sampled_from(["FAIL", "INCONCLUSIVE"]), st.lists(faults, max_size=3), st.lists(names, max_size=4, unique=True)
)
def test_whatever_a_host_is_called_it_is_red_xml(word: Word, reasons: list[Reason], fleet: list[str]) -> None:
    one, made = verdict(word, *reasons, names=fleet), run(fleet)
    assert set(colours(one, made).values()) & {"failure", "error"}
    assert junit.document(one, made) == junit.document(one, made)


# ---- Prometheus -----------------------------------------------------------------------------------------------

_LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"'
_LINE = re.compile(rf"([a-zA-Z_:][a-zA-Z0-9_:]*)\{{({_LABEL}(?:,{_LABEL})*)\}} (NaN|[-+0-9.eE]+)")


def scraped(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Metric -> (labels, value), of text in which every line is what the format allows."""
    assert text.endswith("\n")
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    told: dict[str, list[str]] = {}
    for line in text[:-1].split("\n"):
        if comment := re.fullmatch(r"# (HELP|TYPE) ([a-z_]+) (.+)", line):
            told.setdefault(comment[2], []).append(comment[1])
            assert comment[2] not in found, "before the samples"
            assert comment[1] != "TYPE" or comment[3] == "gauge"
            continue
        match = _LINE.fullmatch(line)
        assert match, f"{line!r} is no sample (and has no timestamp)"
        pairs = re.findall(_LABEL, match[2])
        labels = {name: re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), value) for name, value in pairs}
        assert len(labels) == len(pairs)
        assert list(found)[-1:] == [match[1]] or match[1] not in found, "samples of a name stand together"
        assert labels not in [other for other, _ in found.get(match[1], [])], "twice the same"
        found.setdefault(match[1], []).append((labels, float(match[match.lastindex or 0])))
    assert told == {name: ["HELP", "TYPE"] for name in found}
    return found


def scrape(one: Verdict, made: Run, measurements: list[Measurement]) -> dict[str, list[tuple[dict[str, str], float]]]:
    full = [row for row in measurements if row.case.groups == "world"]
    return scraped(prometheus.text(one, made, summarised(full)))


def test_figures_have_the_names_of_inspector() -> None:
    found = scrape(verdict("FAIL", SLOW), run(), rows(run()))
    ((labels, busbw),) = found["nccl_bus_bandwidth_gbs"]
    inspector = ["version", "slurm_job_id", "node", "gpu", "comm_name", "n_nodes", "nranks", "collective"]
    assert list(labels)[:10] == [*inspector, "message_size", "algo_proto"]
    assert busbw == pytest.approx(2**20 / 1e-3 / 1e9 * 2 * 7 / 8)
    assert (labels["collective"], labels["message_size"]) == ("AllReduce", "1-2MB")
    assert (labels["n_nodes"], labels["nranks"], labels["slurm_job_id"]) == ("8", "8", "unknown")
    ((labels_of_time, time),) = found["nccl_collective_exec_time_microseconds"]
    assert (labels_of_time, time) == (labels, pytest.approx(1000))


def test_questions_that_differ_have_labels_that_differ() -> None:
    base = rows(run())[-1]
    cases = [
        msgspec.structs.replace(base.case, **more)
        for more in (
            {},
            {"nbytes": 2**20 + 2**19},
            {"dtype": "float64"},
            {"mode": "latency"},
            {"in_place": True},
            {"redop": "max"},
            {"settings": (("NCCL_ALGO", "Ring"),)},
        )
    ]
    both = [msgspec.structs.replace(base, case=case, nbytes=case.nbytes) for case in cases]
    found = scrape(verdict("PASS"), run(), both)
    assert len(found["nccl_bus_bandwidth_gbs"]) == len(cases)


def test_wrong_data_have_no_bandwidth() -> None:
    bad = msgspec.structs.replace(rows(run())[-1], status="failed", why="wrong data", wrong=4)
    assert "nccl_bus_bandwidth_gbs" not in scrape(verdict("FAIL", SLOW), run(), [bad])


@pytest.mark.parametrize(
    ("nbytes", "label"),
    [(0, "0B"), (1, "1-2B"), (1023, "1023-1024B"), (1024, "1-2KB"), (3 * 2**20, "3-4MB"), (2**50, "1024-1025TB")],
)
def test_sizes_are_named_as_inspector_does(nbytes: int, label: str) -> None:
    assert prometheus.size_range(nbytes) == label


def test_what_is_not_known_is_neither_fine_nor_at_fault() -> None:
    one = covering(verdict("FAIL", SLOW, TIED, cleared=("h0",)), excluded=("h7",))
    ok = {tuple(labels.values())[1:]: value for labels, value in scrape(one, run(), [])["commbench_component_ok"]}
    assert (ok["host", "h0"], ok["host", "h3"]) == (1, 0)
    assert math.isnan(ok["host", "h1"])
    assert math.isnan(ok["host", "h5"])
    assert math.isnan(ok["path", "h3 - h5"])
    assert ("host", "h7") not in ok


@pytest.mark.parametrize("word", ["PASS", "FAIL", "INCONCLUSIVE"])
def test_one_word_is_one(word: Word) -> None:
    found = scrape(verdict(word), run(), [])["commbench_verdict"]
    assert {labels["word"]: value for labels, value in found} == {
        each: float(each == word) for each in ("PASS", "FAIL", "INCONCLUSIVE")
    }


@pytest.mark.parametrize(
    ("created", "seconds"),
    [
        ("1970-01-01T00:00:01Z", 1),
        ("2026-01-02T03:04:05+00:00", 1767323045),
        ("2026-01-02T05:04:05.5+02:00", 1767323045),
        ("2026-01-01T22:04:05-05:00", 1767323045),
        ("2026-13-02T03:04:05Z", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_when_it_was(created: str, seconds: float | None) -> None:
    found = scrape(verdict("PASS", created=created), run(), []).get("commbench_last_run_timestamp_seconds", [])
    assert [value for _, value in found] == ([] if seconds is None else [seconds])


@settings(max_examples=30)
@given(st.lists(names, max_size=4, unique=True), names, names)
def test_whatever_a_host_is_called_a_scrape_reads_it(fleet: list[str], name: str, setting: str) -> None:
    made = msgspec.structs.replace(run(fleet), name=name)
    case = msgspec.structs.replace(rows(run())[-1].case, settings=(("X", setting),))
    row = msgspec.structs.replace(rows(run())[-1], case=case)
    found = scrape(verdict("FAIL", SLOW, names=fleet, name=name), made, [row])
    hosts = [labels for labels, _ in found.get("commbench_component_ok", []) if labels["kind"] == "host"]
    assert len(hosts) == len(fleet)


# ---- lists of hosts -------------------------------------------------------------------------------------------


def test_good_and_suspect_hosts_in_three_forms() -> None:
    found = hostfiles.files(verdict("FAIL", SLOW, names=NAMES[2:5]), run(NAMES[2:5], ranks=2))
    assert found == {
        "good.openmpi.hosts": "h2 slots=2\nh4 slots=2\n",
        "good.mpich.hosts": "h2:2\nh4:2\n",
        "good.slurm.hosts": "h2\nh2\nh4\nh4\n",
        "suspect.openmpi.hosts": "h3 slots=2\n",
        "suspect.mpich.hosts": "h3:2\n",
        "suspect.slurm.hosts": "h3\nh3\n",
    }


def test_what_was_not_shown_to_be_fine_is_not_good() -> None:
    good = "good.slurm.hosts"
    assert hostfiles.files(verdict("PASS"), run())[good].split() == [*NAMES]
    assert hostfiles.files(verdict("PASS", cleared=()), run())[good].split() == [*NAMES]
    assert hostfiles.files(verdict("INCONCLUSIVE", cleared=()), run())[good] == ""
    assert hostfiles.files(verdict("FAIL", TIED, suspects=(), cleared=NAMES), run())[good].split() == [
        name for name in NAMES if name not in ("h3", "h5")
    ]
    some = covering(verdict("PASS", cleared=()), measured_hosts=("h1",), excluded=("h0",))
    assert hostfiles.files(some, run())[good] == "h1\n"


@settings(max_examples=30)
@given(st.lists(names, max_size=4, unique=True))
def test_a_line_is_one_host_of_the_run(fleet: list[str]) -> None:
    for word in ("PASS", "FAIL"):
        for name, text in hostfiles.files(verdict(word, names=fleet, cleared=()), run(fleet)).items():
            end = {"openmpi": " slots=1", "mpich": ":1", "slurm": ""}[name.split(".")[1]]
            for line in text.split("\n")[:-1]:
                assert line.removesuffix(end) in fleet
                assert re.fullmatch(r"[A-Za-z0-9._-]+", line.removesuffix(end))


@settings(max_examples=30)
@given(st.lists(faults, max_size=4), st.sampled_from(["PASS", "FAIL", "INCONCLUSIVE"]))
def test_a_host_that_a_reason_blames_is_never_fine(reasons: list[Reason], word: Word) -> None:
    fleet = [*dict.fromkeys(c.id for one in reasons for c in (one.component, *one.ties))] or ["h0"]
    where = standings(verdict(word, *reasons, names=fleet, suspects=(), cleared=tuple(fleet)), run(fleet))
    blamed = {c.id for one in reasons for c in (one.component, *one.ties) if c.kind == "host"}
    assert all(where[name] != "fine" for name in blamed)


def test_only_a_fail_accuses() -> None:
    for word in ("PASS", "INCONCLUSIVE"):
        assert "accused" not in standings(verdict(word, SLOW), run()).values()


# ---- files ----------------------------------------------------------------------------------------------------


def test_the_files_beside_the_verdict(tmp_path: Path) -> None:
    made = run()
    one, tests = verdict("FAIL", SLOW), rows(made)
    written = artefacts.write(tmp_path, one, made, tests)
    assert sorted(path.name for path in written) == sorted(path.name for path in tmp_path.iterdir())
    assert {"junit.xml", "commbench.prom", "good.openmpi.hosts", "suspect.slurm.hosts"} <= {p.name for p in written}
    before = {path: path.read_bytes() for path in written}
    artefacts.write(tmp_path, one, made, tests)
    assert {path: path.read_bytes() for path in written} == before
    assert len(scraped((tmp_path / "commbench.prom").read_text())["nccl_bus_bandwidth_gbs"]) == 1


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        artefacts.write(tmp_path / "away", verdict("PASS"), run(), [])


# ---- the page -------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).resolve().parents[2] / "docs/schedulers.md").read_text(encoding="utf-8")


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.S | re.M)


def test_the_scripts_of_the_page_are_scripts(tmp_path: Path) -> None:
    scripts = fenced("bash")
    assert len(scripts) > 6
    for text in scripts:
        (tmp_path / "script").write_text(text)
        ended = subprocess.run(["bash", "-n", tmp_path / "script"], capture_output=True, text=True)
        assert (ended.returncode, ended.stderr) == (0, ""), text


def test_the_commands_of_the_page_are_accepted() -> None:
    found: list[list[str]] = []
    for text in fenced("bash"):
        for line in text.replace("\\\n", " ").replace('"${resume[@]}"', "--resume").splitlines():
            if match := re.match(r"(?:.*[ ;])?commbench ((?:accept|apply|verdict) [^|;]*)", line):
                found.append(shlex.split(match[1]))
    assert {verb for verb, *_ in found} == {"accept", "apply", "verdict"}
    for verb, *words in found:
        assert import_module(f"commbench.cli.{verb}").command.make_context(verb, words)


def test_the_script_for_slurm_ends_with_codes_that_slurm_can_tell_apart(tmp_path: Path) -> None:
    """With programs of its own for srun and commbench: PASS 0, FAIL 1, INCONCLUSIVE 3, and 1 when it was the third."""
    script = next(text for text in fenced("bash") if "#SBATCH" in text)
    ours = f'if [[ $1 == verdict ]]; then exit $CODE; fi; echo "$@" >> {tmp_path}/log'
    for name, text in (("srun", "exit 137"), ("commbench", ours)):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    ends = {}
    for code, restarts in ((0, 0), (1, 0), (3, 0), (3, 1), (3, 2)):
        env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CODE": str(code), "SLURM_JOB_ID": "7"}
        env["SLURM_RESTART_COUNT"] = str(restarts)
        ends[code, restarts] = subprocess.run(["bash", "-c", script], env=env, capture_output=True).returncode
    assert ends == {(0, 0): 0, (1, 0): 1, (3, 0): 3, (3, 1): 3, (3, 2): 1}
    assert (tmp_path / "log").read_text() == "apply /shared/accept/7\n" * 2


def test_the_manifest_starts_right(tmp_path: Path) -> None:
    """Both names of the list of hosts, and a spec that expects what the manifest starts."""
    (text,) = fenced("yaml")
    config, job = yaml.safe_load_all(text)
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v2beta1", "MPIJob")
    launcher, worker = (job["spec"]["mpiReplicaSpecs"][name] for name in ("Launcher", "Worker"))
    (one,) = launcher["template"]["spec"]["containers"]
    env = {each["name"]: each["value"] for each in one["env"]}
    assert env["OMPI_MCA_orte_default_hostfile"] == env["PRTE_MCA_prte_default_hostfile"] == "/etc/mpi/hostfile"
    (tmp_path / "accept.yaml").write_text(config["data"]["accept.yaml"])
    expect = load(str(tmp_path / "accept.yaml")).expect
    assert expect.hosts == worker["replicas"]
    assert expect.ranks_per_host == job["spec"]["slotsPerWorker"]
    assert one["args"][one["args"].index("-n") + 1] == str(expect.hosts * expect.ranks_per_host)
    (mounted,) = (v for v in worker["template"]["spec"]["volumes"] if "configMap" in v)
    assert mounted["configMap"]["name"] == config["metadata"]["name"]
    mounts = {each["name"]: each["mountPath"] for each in worker["template"]["spec"]["containers"][0]["volumeMounts"]}
    assert f"{mounts[mounted['name']]}/accept.yaml" in one["args"]


def test_every_file_and_metric_is_in_the_page() -> None:
    written = {*hostfiles.files(verdict("PASS"), run()), junit.NAME, prometheus.NAME}
    assert {name for name in written if name not in PAGE and not name.startswith("suspect.")} == set()
    assert [name for name in prometheus._HELP if f"`{name}`" not in PAGE] == []
