"""The page of an acceptance test: its verdict first; who is at fault in words, on the map and on the network."""

import random
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import test_report
from click.testing import CliRunner
from test_report import EVIL, Page

from commbench import matchings, store
from commbench.cli import group
from commbench.jobs.runs import load_runs
from commbench.layouts import expand
from commbench.records import Case, Fabric, FabricHost, Host, Link, Machine, Measurement, Run, verdict
from commbench.records.recommendation import BucketPlan, Recommendation, Rule
from commbench.records.verdict import CODES, Component, Coverage, Judged, Power, Reason, Verdict
from commbench.report.html import pairs
from commbench.report.html import verdict as told
from commbench.report.html.culprits import culprits, marks, part
from commbench.report.html.examined import Examined, examine
from commbench.report.html.meetings import met
from commbench.report.html.page import page
from commbench.report.html.phrases import short
from commbench.report.html.record import repeat
from commbench.report.html.rowtable import row_table
from commbench.report.html.summary import summary

ROOT = Path(__file__).resolve().parents[2]
RATE = 1.25e9
Speed = Callable[[int, int, int], float]  # (host, host, rail) -> share of the healthy rate


def fabric(racks: int, size: int, rails: int = 1, up: float = 4 * RATE) -> Fabric:
    """Racks of hosts h1.. with one leaf for each rail, under one spine for each rail."""
    names = [f"h{k + 1}" for k in range(racks * size)]
    leaf = [[f"leaf{k + 1}{'ab'[rail] * (rails > 1)}" for rail in range(rails)] for k in range(racks)]
    spine = [f"spine{'ab'[rail] * (rails > 1)}" for rail in range(rails)]
    down = [(name, leaf[k // size][rail]) for k, name in enumerate(names) for rail in range(rails)]
    links = [Link(name=f"{a}-{b}", ends=(a, b), rate=RATE) for a, b in down]
    links += [Link(name=f"{one[r]}-up", ends=(one[r], spine[r]), rate=up) for one in leaf for r in range(rails)]
    hosts = tuple(FabricHost(name=name, ranks=rails) for name in names)
    switches = (*(name for one in leaf for name in one), *spine)
    return Fabric(name=f"{racks}-racks", hosts=hosts, switches=switches, links=tuple(links))


def run_of(hosts: int, rails: int = 1, network: Fabric | None = None, names: Sequence[str] = (), **fields: Any) -> Run:
    names = names or [f"h{k + 1}" for k in range(hosts)]
    machine = Machine(
        hosts=tuple(Host(name=name) for name in names),
        host_of=tuple(k for k in range(hosts) for _ in range(rails)),
        launcher="openmpi",
        fabric=network,
    )
    known: dict[str, Any] = {"format": store.FORMAT, "name": "accept", "created": "2026-11-23T09:00:00+00:00"}
    known |= {"commbench": "0.1.0", "seed": 1, "spec": {"accept": {"racks": {}}}, "command": ("commbench", "accept")}
    return Run(machine=machine, **(known | fields))


def symbols(racks: Sequence[Sequence[int]], suspects: Sequence[int], rails: int) -> list[str]:
    """Three rounds inside racks and three across, on all rails and on each alone; then suspects with new partners."""
    out = []
    alone: list[int | None] = [None, *(range(rails) if rails > 1 else ())]
    for kind in ("in", "across") if len(racks) > 1 else ("in",):
        for k in range(3):
            out += [matchings.symbol(racks, kind, k, rail) for rail in alone]
    good = [host for rack in racks for host in rack if host not in suspects]
    for k in range(4 if suspects else 0):
        partners = good[k:] + good[:k]
        meeting = list(zip(suspects, partners, strict=False))
        rest = partners[len(meeting) :][:6]
        out.append(matchings.meet([*meeting, *zip(rest[::2], rest[1::2], strict=False)]))
    return out


def measured(
    run: Run, racks: Sequence[Sequence[int]], speed: Speed, suspects: Sequence[int] = (), silent: Iterable[int] = ()
) -> list[Measurement]:
    """The rows of an acceptance test, round after round; pairs with a silent host hang."""
    out: list[Measurement] = []
    noise, silent = random.Random(1), set(silent)
    rails = run.machine.host_of.count(0)
    for number, symbol in enumerate(symbols(racks, suspects, rails)):
        for mode, nbytes in (("throughput", 1 << 20), ("latency", 8)):
            case = Case(op="send_recv", backend="gloo", nbytes=nbytes, groups=symbol, mode=mode)  # type: ignore[arg-type]
            for k, ranks in enumerate(expand(symbol, run.machine.host_of)):
                a, b = (run.machine.host_of[rank] for rank in ranks)
                share = speed(a, b, ranks[0] % rails) if mode == "throughput" else 1.0
                seconds = (2e-5 + nbytes / (RATE * share)) * noise.lognormvariate(0, 0.01)
                answer = Measurement(
                    case=case, group=k, ranks=2, launch=2 * number + (mode == "latency"), nbytes=nbytes
                )
                if silent & {a, b}:
                    out.append(msgspec.structs.replace(answer, status="hung", why=f"h{a + 1} did not answer"))
                else:
                    samples = tuple(seconds * (1 + j / 1000) for j in range(8))
                    out.append(msgspec.structs.replace(answer, seconds=samples, wrong=0))
    full = Case(op="all_reduce", backend="gloo", nbytes=1 << 22)
    for window in range(5):
        samples = tuple(1e-2 * noise.lognormvariate(0, 0.01) for _ in range(8))
        out.append(
            Measurement(case=full, ranks=run.machine.size, launch=1000 + window, nbytes=1 << 22, seconds=samples)
        )
    return out


def reason(code: str, component: Component, **more: Any) -> Reason:
    known: dict[str, Any] = {
        "fault": "slow",
        "stage": "confirm",
        "sentence": f"{component} has half the rate of its peers",
        "decides": CODES[code],
        "measured": 0.62,
        "expected": 1.25,
        "unit": "GB/s",
        "criterion": "no host slower than the fleet by 10 %",
        "source": "accept.yaml:7",
        "odds": 41.3,
        "evidence": ("0123456789abcdef[3] round 12",),
        "next": f"Do what {code} asks for.",
    }
    return Reason(code=code, component=component, **(known | more))


def verdict_of(word: verdict.Word, *reasons: Reason, hosts: Sequence[str] = (), **more: Any) -> Verdict:
    known: dict[str, Any] = {
        "criteria": (
            Judged(criterion="correct data", word="PASS", sentence="no element was wrong", measured=0, unit="elements"),
            Judged(
                criterion="wire",
                word=word,
                sentence="the slowest pair reaches 48 %",
                measured=0.48,
                limit=0.8,
                unit="share",
                source="accept.yaml:9",
            ),
        ),
        "coverage": Coverage(
            expected_hosts=len(hosts), hosts=tuple(hosts), ranks=len(hosts), rails=1, measured_hosts=tuple(hosts),
            transport=dict.fromkeys(hosts, "eth0 99 %"), stages={"spread": "done", "confirm": "done"},
        ),
        "power": Power(alpha=0.01, beta=0.01, slowdown=0.1, detectable=0.06, noise=0.012, congestion=0.01,
                       rounds={"spread": 6, "confirm": 4}),
        "cleared": tuple(hosts),
        "journal_sha256": "ab" * 32,
        "commbench": "0.1.0",
    }  # fmt: skip
    return Verdict(
        name="accept",
        created="2026-11-23T09:10:00+00:00",
        word=word,
        exit_code=verdict.EXIT[word],
        reasons=reasons,
        **(known | more),
    )


RACKS = ((0, 1, 2, 3), (4, 5, 6, 7))
EIGHT = [f"h{k + 1}" for k in range(8)]


def slow_host(*hosts: int) -> Speed:
    return lambda a, b, rail: 0.5 if {a, b} & set(hosts) else 1.0


def slow_uplink(racks: Sequence[Sequence[int]]) -> Speed:
    rack_of = {host: k for k, rack in enumerate(racks) for host in rack}
    return lambda a, b, rail: 0.5 if rack_of[a] != rack_of[b] and 0 in (rack_of[a], rack_of[b]) else 1.0


def failed_host() -> Examined:
    run = run_of(8, network=fabric(2, 4))
    rows = measured(run, RACKS, slow_host(5), [5])
    host = Component(kind="host", id="h6")
    return examine("accept", run, rows, (), verdict_of("FAIL", reason("CB-SLOW-HOST", host), hosts=EIGHT))


def failed_uplink() -> Examined:
    run = run_of(8, network=fabric(2, 4))
    rows = measured(run, RACKS, slow_uplink(RACKS))
    one, other = (Component(kind="uplink", id=f"leaf{k}") for k in (1, 2))
    found = reason("CB-SLOW-UPLINK", one, ties=(other,), sentence="uplink leaf1 is slow: 50% of its bandwidth is lost")
    return examine("accept", run, rows, (), verdict_of("FAIL", found, hosts=EIGHT))


def passed() -> Examined:
    run = run_of(8, network=fabric(2, 4))
    return examine("accept", run, measured(run, RACKS, slow_host()), (), verdict_of("PASS", hosts=EIGHT))


def inconclusive() -> Examined:
    run = run_of(8)
    rows = measured(run, RACKS, slow_host(), silent=[2])
    gap = reason("CB-COVERAGE", Component(kind="host", id="h9"), fault="not measured", stage="preflight",
                 measured=None, expected=None, unit="", odds=None, evidence=(),
                 sentence="h9 is expected and takes no part")  # fmt: skip
    open_ = reason("CB-UNDECIDED", Component(kind="host", id="h3"), fault="hang", sentence="h3 or its partners hang")
    cover = Coverage(expected_hosts=9, hosts=tuple(EIGHT), ranks=8, measured_hosts=(*EIGHT[:2], *EIGHT[3:]),
                     missing=("h9 was never there", "stage full was not reached"),
                     stages={"spread": "done", "full": "the budget was spent"})  # fmt: skip
    power = Power(alpha=0.01, beta=0.01, slowdown=0.1, detectable=0.31, rounds={"spread": 6})
    return examine("accept", run, rows, (), verdict_of("INCONCLUSIVE", gap, open_, coverage=cover, power=power))


def large(hosts: int = 512, size: int = 32) -> Examined:
    """Many hosts with one slow one and one slow path."""
    racks = [tuple(range(k, k + size)) for k in range(0, hosts, size)]
    names = [f"gpu-node-{k:04d}.rack{k // size:02d}.cluster.example.com" for k in range(hosts)]
    network = fabric(hosts // size, size, up=size * RATE / 2)
    renamed = dict(zip((host.name for host in network.hosts), names, strict=True))
    links = [
        Link(name=one.name, ends=(renamed.get(one.ends[0], one.ends[0]), one.ends[1]), rate=one.rate)
        for one in network.links
    ]
    network = msgspec.structs.replace(network, hosts=tuple(FabricHost(name=name) for name in names), links=tuple(links))
    run = run_of(hosts, network=network, names=names)
    rows = measured(run, racks, slow_host(137), [137])
    found = reason("CB-SLOW-HOST", Component(kind="host", id=names[137]))
    many = [
        reason(
            "CB-COVERAGE", Component(kind="host", id=name), fault="not measured", sentence=f"{name} was not measured"
        )
        for name in names[300:400]
    ]
    return examine("accept", run, rows, (), verdict_of("FAIL", found, *many, hosts=names))


# ---- the page ----------------------------------------------------------------------------------------------

MADE = {one.__name__: one for one in (failed_host, failed_uplink, passed, inconclusive, large)}


@pytest.fixture(scope="module")
def made() -> dict[str, Examined]:
    return {name: make() for name, make in MADE.items()}


@pytest.fixture(scope="module")
def pages(made: dict[str, Examined]) -> dict[str, str]:
    return {name: page([one]) for name, one in made.items()}


def section(text: str) -> str:
    """The verdict, without the rest of the page."""
    return text[text.index('<section id="verdict"') : text.index('<section id="summary"')]


def words(text: str) -> str:
    return re.sub(r"\s+", " ", " ".join(data for _, data in Page(section(text)).told))


def test_the_verdict_comes_first_and_its_word_has_a_sign(pages: dict[str, str]) -> None:
    for name, sign, word in (
        ("failed_host", "✗", "FAIL"),
        ("passed", "✓", "PASS"),
        ("inconclusive", "?", "INCONCLUSIVE"),
    ):
        seen = Page(pages[name])
        assert [attrs["id"] for attrs in seen.of("section")][:2] == ["verdict", "summary"]
        assert f"{sign} {word}" in words(pages[name])
        assert f"<title>{word}: accept" in pages[name]
        assert seen.of("a")[0]["href"] == "#verdict"


def test_a_reason_says_all_that_it_rests_on_and_its_code_leads_to_what_to_do(pages: dict[str, str]) -> None:
    told = words(pages["failed_host"])
    for text in (
        "At fault: host h6 (slow).",
        "host h6 · slow · stage confirm",
        "0.620 GB/s (49.6 % of what was expected)",
        "1.25 GB/s",
        "no host slower than the fleet by 10 %",
        "accept.yaml:7",
        "10^41 times as likely with this fault",
        "0123456789abcdef[3] round 12",
        "Do what CB-SLOW-HOST asks for.",
        "The smallest slowdown that this run could have found is 6 %. It would miss one in 100",
        "innocent component is 1 % over the whole run",
        "8 measured of 8 that were there; 8 were expected",
        "48 %",
        "accept.yaml:9",
    ):
        assert text in told, text
    (target,) = re.findall(r'<a href="#([^"]+)"><code>CB-SLOW-HOST</code>', pages["failed_host"])
    assert f'<dt id="{target}" tabindex="-1"><code>CB-SLOW-HOST</code>' in pages["failed_host"]


def test_ties_are_named_as_such_and_none_of_them_is_accused(pages: dict[str, str]) -> None:
    told = words(pages["failed_uplink"])
    assert "At fault: one of these, and the evidence cannot tell which: uplink leaf1, uplink leaf2 (slow)." in told
    assert "uplink leaf2: they explain the evidence as well" in told
    rims = re.findall(r'class="(rim[^"]*)"', section(pages["failed_uplink"]))
    assert rims
    assert set(rims) == {"rim tie"}
    assert set(re.findall(r'class="(rim[^"]*)"', section(pages["failed_host"]))) == {"rim"}


def test_what_is_missing_is_said_and_is_no_pass(pages: dict[str, str]) -> None:
    told = words(pages["inconclusive"])
    for text in (
        "This is not a pass.",
        "A slowdown of 10 % matters, and this run could not be relied on to find it.",
        "h9 was never there.",
        "stage full the budget was spent",
        "7 measured of 8 that were there; 9 were expected",
        "Suspected: host h3 (hang).",
        "h2 - h3 hung",
        "not on record, so there is no picture",
    ):
        assert text in told, text
    assert "At fault" not in told
    assert "Suspected: host h9" not in told  # it was not there: it is no culprit


def test_a_run_that_could_find_nothing_says_so() -> None:
    (said,) = told.power(Power(alpha=0.01, beta=0.01, slowdown=0.1))
    assert "could not have found a slow component" in said.text
    assert said.level == "warning"


def test_a_pass_accuses_nobody_and_asks_for_nothing(made: dict[str, Examined], pages: dict[str, str]) -> None:
    found = summary([made["passed"]])
    said = " ".join(one.text for part in found for one in part)
    assert "Verdict PASS" in said
    for text in ("cables", "See what else runs", "launches=5", "links allow more"):
        assert text not in said
    assert "At fault" not in words(pages["passed"])


def test_without_a_verdict_an_acceptance_run_is_no_pass(made: dict[str, Examined]) -> None:
    text = page([made["passed"]._replace(verdict=None)])
    assert "NO VERDICT" in words(text)
    assert "no pass" in words(text)
    assert "svg" in section(text)  # what was measured is there all the same
    other = page([examine("quick", run_of(2, spec={}), [])])
    assert 'id="verdict"' not in other


@pytest.mark.parametrize("name", ["failed_uplink", "inconclusive"])
@pytest.mark.parametrize(
    "check",
    [
        test_report.test_the_page_asks_for_nothing_from_outside,
        test_report.test_ids_are_unique_and_what_points_at_them_finds_them,
        test_report.test_headings_tables_and_buttons_are_what_they_seem,
        test_report.test_without_the_script_nothing_is_dead,
    ],
    ids=lambda check: check.__name__[5:30],
)
def test_it_is_as_good_a_page_as_any(pages: dict[str, str], name: str, check: Callable[[str], None]) -> None:
    check(pages[name])


def test_dark_is_readable(pages: dict[str, str]) -> None:
    test_report.test_colours_are_those_of_the_page_so_that_dark_is_readable(pages["failed_uplink"])


def test_the_same_folder_gives_the_same_bytes(pages: dict[str, str]) -> None:
    assert page([failed_host()]) == pages["failed_host"]


def test_several_runs_have_a_verdict_each_and_pictures_are_bounded(made: dict[str, Examined]) -> None:
    runs = [made["passed"]._replace(name=f"run{k}") for k in range(6)]
    text = page([*runs, examine("quick", run_of(2, spec={}), [])])
    assert words(text).count("✓ PASS") >= 6
    assert text.count("Maps and pictures are drawn for 4 verdicts") == 2
    test_report.test_ids_are_unique_and_what_points_at_them_finds_them(text)


def test_names_and_texts_of_a_verdict_are_text_and_nothing_else() -> None:
    names = [f"{EVIL}{k}" for k in range(4)]
    run = run_of(4, names=names, spec={"accept": {"racks": {EVIL: names[:2]}}})
    found = reason("CB-SLOW-UPLINK", Component(kind="uplink", id=EVIL), ties=(Component(kind="host", id=names[1]),),
                   sentence=EVIL, criterion=EVIL, source=EVIL, evidence=(EVIL,), next=EVIL, unit=EVIL)  # fmt: skip
    cover = Coverage(hosts=tuple(names), transport={EVIL: EVIL}, stages={EVIL: EVIL}, missing=(EVIL,))
    criteria = (Judged(criterion=EVIL, word="FAIL", sentence=EVIL, source=EVIL, unit=EVIL, measured=1.0),)
    bad = verdict_of("FAIL", *[found] * 20, coverage=cover, criteria=criteria, notes=(EVIL,), suspects=(EVIL,),
                     commbench=EVIL, journal_sha256=EVIL)  # fmt: skip
    text = page([examine(EVIL, run, measured(run, [(0, 1), (2, 3)], slow_host(1), [1]), (), bad)], (), None, EVIL)
    seen = Page(text)
    assert len(seen.of("script")) == 1
    assert len(seen.of("img")) == 0
    assert "alert(1)" in seen.text("td", "dd", "li", "text")
    assert not [name for _, attrs in seen.tags for name in attrs if name.startswith("on")]
    assert not [c for c in text if not c.isprintable() and c != "\n"]


# ---- a search ----------------------------------------------------------------------------------------------


def searched(advice: Recommendation | None) -> Examined:
    """A search whose fastest candidate was lucky, with intervals that say so."""
    run = run_of(2, spec={"tune": {}}, name="allreduce")
    rows = [
        Measurement(
            case=Case(op="all_reduce", backend="mpi", nbytes=nbytes, settings=settings),
            ranks=2, launch=launch, nbytes=nbytes, wrong=0, seconds=(scale * nbytes * 1e-9 * (1 + 9 * launch),) * 6,
        )
        for settings, scale in (((), 1.0), ((("algorithm", "6"),), 0.5))
        for nbytes in (1 << 16, 1 << 20)
        for launch in range(2)
    ]  # fmt: skip
    return examine("allreduce", run, rows, (), advice)


def recommended(**fields: Any) -> Recommendation:
    return Recommendation(
        created="2026-01-01T00:00:00+00:00", expires="2026-04-01", machine={}, versions={}, data_sha256="", **fields
    )


def test_a_search_is_told_by_what_it_proved_and_not_by_what_looks_fastest() -> None:
    one = searched(recommended(keep_default="nothing is proved faster", notes=("1MiB is uncertain",)))
    found = summary([one])
    assert found.stands_out[0].text == "Keep the default: nothing is proved faster."
    said = " ".join(one.text for part in found for one in part)
    assert "Best all_reduce" in said
    assert "algorithm=6" not in said.partition("Best all_reduce")[2].partition(".")[0]
    assert "stop.max_time" not in said
    text = page([one])
    order = [attrs["id"] for attrs in Page(text).of("section")]
    assert order[:2] == ["summary", "advice"]
    assert "1MiB is uncertain." in Page(text).text("p")


def test_proved_rules_and_plans_are_tables_with_the_commands_that_apply_them() -> None:
    rule = Rule(op="all_reduce", ranks=2, min_bytes=1024, max_bytes=65536,
                settings=(("coll_tuned_allreduce_algorithm", "6"),), baseline_us=36.4, time_us=4.77,
                gain_low=0.7, gain=0.87, gain_high=0.94)  # fmt: skip
    plan = BucketPlan(model=EVIL, ranks=2, bucket_bytes=(1 << 20, 1 << 22), baseline_us=5e5, step_us=4.6e5,
                      gain_low=0.01, gain=0.09, gain_high=0.17)  # fmt: skip
    text = page([searched(recommended(rules=(rule,), buckets=(plan,)))])
    seen = Page(text)
    for words in ("Proved: 1 rule and 1 bucket plan; up to 87 % less time (all_reduce).", "1KiB to 64KiB",
                  "87 % (70 to 94 %)", "1MiB, 4MiB", "commbench emit DIR --for openmpi",
                  "commbench emit DIR --for ddp"):  # fmt: skip
        assert words in seen.text(), words
    assert len(seen.of("script")) == 1
    test_report.test_ids_are_unique_and_what_points_at_them_finds_them(text)
    assert "has not come to its end" in page([searched(None)])


def test_a_band_that_is_far_wider_than_the_lines_are_apart_does_not_squeeze_them() -> None:
    text = page([searched(None)])
    assert "bands that are very wide leave the panel" in text
    assert "bands that are very wide" not in page([passed()])


def test_a_search_is_repeated_by_what_was_typed() -> None:
    own = ("commbench", "tune", "allreduce", "--out", "/tmp/x", "--started", "--budget", "50s")
    assert repeat(run_of(2, command=own))[0] == "commbench tune allreduce -n 2 --budget 50s"


# ---- the map -----------------------------------------------------------------------------------------------


def value(heat: pairs.Heat, a: int, b: int) -> float:
    return next(pair.value for pair in heat.pairs if (pair.a, pair.b) == (a, b))


def test_every_two_hosts_that_met_are_on_the_map_once(made: dict[str, Examined]) -> None:
    one = made["failed_host"]
    beside, by_links, latency = met(one, culprits(one.run, one.verdict or verdict_of("PASS")))
    every = {pair for symbol in symbols(RACKS, [5], 1) for pair in (matchings.parse(symbol) or None).pairs}  # type: ignore[union-attr]
    for heat in (beside, by_links, latency):
        assert sorted((pair.a, pair.b) for pair in heat.pairs) == sorted(every)
    for pair in beside.pairs:
        assert pair.value == pytest.approx(50 if 5 in (pair.a, pair.b) else 100, rel=0.06)
    assert all(pair.value == pytest.approx(100, rel=0.1) for pair in latency.pairs)
    assert beside.rims == [pairs.Rim("1", True, (5, 5), (0, 7))]
    assert [heat.rate for heat in (beside, by_links, latency)] == [True] * 3


def test_an_uplink_that_slows_a_whole_round_is_seen_beside_the_links(made: dict[str, Examined]) -> None:
    one = made["failed_uplink"]
    beside, by_links, _ = met(one, culprits(one.run, one.verdict or verdict_of("PASS")))
    assert min(pair.value for pair in beside.pairs) > 90  # all of a round are slow alike
    for pair in by_links.pairs:
        assert (pair.value < 60) == ((pair.a < 4) != (pair.b < 4))
    assert {(rim.rows, rim.columns) for rim in by_links.rims} == {((0, 3), (4, 7)), ((4, 7), (0, 3))}


def test_a_slow_nic_is_not_hidden_by_the_other_rails() -> None:
    run = run_of(8, rails=2, network=fabric(1, 8, rails=2))
    rows = measured(run, [tuple(range(8))], lambda a, b, rail: 0.5 if 2 in (a, b) and rail == 1 else 1.0)
    nic = reason("CB-SLOW-RAIL", Component(kind="nic", id="h3 rail 1"))
    one = examine("accept", run, rows, (), verdict_of("FAIL", nic, hosts=EIGHT))
    found = culprits(run, one.verdict or verdict_of("PASS"))
    heat = met(one, found)[0]
    assert heat.columns[0] == "rail"
    for pair in heat.pairs:
        assert pair.value == pytest.approx(50 if 2 in (pair.a, pair.b) else 100, rel=0.06)
        assert 2 not in (pair.a, pair.b) or pair.told[0] == "1"
    assert [mark.links for mark in marks(run, found)] == [{"h3-leaf1b"}]


def test_a_pair_alone_in_its_round_is_held_against_all_of_its_kind() -> None:
    run = run_of(8, spec={})
    rows = measured(run, [tuple(range(8))], slow_host(7))
    alone = Case(op="send_recv", backend="gloo", nbytes=1 << 20, groups=matchings.meet([(4, 7)]))
    rows.append(Measurement(case=alone, ranks=2, launch=99, nbytes=1 << 20, seconds=(1.7e-3,) * 8))
    heat = met(examine("accept", run, rows))[0]
    assert value(heat, 4, 7) == pytest.approx(50, rel=0.1)


def test_without_a_verdict_pairs_of_hosts_are_among_the_pairs() -> None:
    run = run_of(4, spec={})
    text = page([examine("a", run, measured(run, [(0, 1, 2, 3)], slow_host(3)))])
    assert 'id="verdict"' not in text
    assert "Speed beside others of every two hosts" in text


def test_many_hosts_have_a_bounded_page_that_says_what_it_leaves_out(
    made: dict[str, Examined], pages: dict[str, str]
) -> None:
    one, text = made["large"], pages["large"]
    assert len(text.encode()) < 1_500_000
    told = words(text)
    assert "480 more hosts have no room" in told
    assert "480 more hosts are left out" in told
    assert "89 more reasons" in told
    assert "At fault: host gpu-node-0137.rack04.cluster.example.com (slow)." in told
    heat = met(one, culprits(one.run, one.verdict or verdict_of("PASS")))[0]
    assert len(heat.nodes) == pairs.MOST_NODES
    (rim,) = heat.rims
    assert heat.nodes[rim.rows[0]].startswith("gpu-node-0137")
    table = row_table([one])
    assert table.left_out > 0
    assert max(len(cell) for _, line in table.lines for cell in line) < 100


def test_a_layout_of_many_pairs_is_told_shortly_with_its_group() -> None:
    assert short("world") == "world"
    long = matchings.meet([(2 * k, 2 * k + 1) for k in range(256)])
    assert len(short(f"{long}[17]")) < 100
    assert short(f"{long}[17]").endswith("…[17]")
    assert short(f"{long}[17]").startswith("meet(0-1,2-3")


# ---- culprits on the machine -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "id_", "hosts", "nodes", "links"),
    [
        ("host", "h6", (5,), {"h6"}, set()),
        ("nic", "h6 rail 1", (5,), set(), {"h6-leaf2b"}),
        ("rank", "3", (1,), {"h2"}, set()),
        ("uplink", "leaf1a", (0, 1, 2, 3), set(), {"leaf1a-up", "leaf1b-up"}),
        ("uplink", "leaf1a rail 1", (0, 1, 2, 3), set(), {"leaf1b-up"}),
        ("path", "h1 - h2", (0, 1), {"h1", "h2"}, {"h1-leaf1a", "h2-leaf1a", "h1-leaf1b", "h2-leaf1b"}),
    ],
)
def test_a_component_is_found_on_the_machine_and_its_network(
    kind: verdict.Kind, id_: str, hosts: tuple[int, ...], nodes: set[str], links: set[str]
) -> None:
    run = run_of(8, rails=2, network=fabric(2, 4, rails=2))
    found = culprits(run, verdict_of("FAIL", reason("CB-SLOW-HOST", Component(kind=kind, id=id_))))
    assert [one.hosts for one in found] == [hosts]
    (mark,) = marks(run, found)
    assert (mark.nodes, mark.links) == (nodes, links)


def test_names_that_look_like_components_are_read_by_what_exists() -> None:
    run = run_of(3, names=["a - b", "c rail 1", "d"])
    for kind, id_, hosts in (
        ("host", "c rail 1", (1,)),
        ("nic", "c rail 1 rail 0", (1,)),
        ("path", "a - b - d", (0, 2)),
        ("path", "a - b", None),
        ("host", "nobody", None),
        ("rank", "99", None),
        ("rank", "²", None),
        ("run", "", None),
    ):
        made = verdict_of("FAIL", reason("CB-SLOW-HOST", Component(kind=kind, id=id_)))  # type: ignore[arg-type]
        assert [one.hosts for one in culprits(run, made)] == ([hosts] if hosts is not None else [])


def test_racks_of_the_spec_count_before_switches() -> None:
    run = run_of(4, network=fabric(2, 2), spec={"accept": {"racks": {"row 7": ["h2", "h3", "gone"]}}})
    found = culprits(run, verdict_of("FAIL", reason("CB-SLOW-UPLINK", Component(kind="uplink", id="row 7"))))
    assert [one.hosts for one in found] == [(1, 2)]


def test_a_large_network_is_cut_to_what_is_marked() -> None:
    whole = fabric(16, 32)
    run = run_of(512, network=whole)
    path = reason("CB-SLOW-PATH", Component(kind="path", id="h1 - h500"))
    marked = marks(run, culprits(run, verdict_of("FAIL", path)))
    near = part(whole, marked, 128, 48)
    assert near is not None
    assert len(near.hosts) == 48
    assert {"h1", "h500"} <= {host.name for host in near.hosts}
    assert set(near.switches) == {"leaf1", "leaf16", "spine"}
    assert part(whole, [], 128, 48) is None
    assert part(whole, [], 512, 48) is whole


# ---- rows and commands -------------------------------------------------------------------------------------


def test_hung_rows_are_told(made: dict[str, Examined]) -> None:
    one = made["passed"]
    first = msgspec.structs.replace(one.rows[0], status="hung", why="rank 3 stood still", median_us=None, samples=0)
    hung = one._replace(rows=[first, *one.rows[1:]])
    assert row_table([hung]).lines[0][0] == "hung"
    said = [said.text for part in summary([hung]) for said in part]
    assert "1 row hung: rank 3 stood still." in said
    assert any("1 hung" in text for text in said)


def folder(path: Path, one: Examined, rows: Sequence[Measurement]) -> Path:
    journal = store.create(path, one.run)
    journal.append(rows)
    journal.close()
    assert one.verdict is not None
    store.write_atomically(path / verdict.NAME, verdict.encode(one.verdict))
    return path


def test_commands_read_the_folder_of_an_acceptance_test(tmp_path: Path) -> None:
    one = inconclusive()
    rows = measured(one.run, RACKS, slow_host(5), [5], silent=[2])
    where = folder(tmp_path / "run", one, rows)
    (loaded,) = load_runs(where)
    assert loaded.concluded == one.verdict
    out = tmp_path / "out"
    for arguments in (
        ("show", str(where)),
        ("show", str(where), "--json"),
        ("show", str(where), "--csv"),
        ("plot", str(where), "-o", f"{out}.svg"),
        ("report", str(where), "-o", f"{out}.html"),
    ):
        ended = CliRunner().invoke(group, arguments)
        assert ended.exit_code == 0, (arguments, ended.exception)
    assert "meet(" in CliRunner().invoke(group, ("show", str(where))).output
    assert 'id="verdict"' in Path(f"{out}.html").read_text(encoding="utf-8")


def test_a_damaged_verdict_is_an_error_and_none_is_none(tmp_path: Path) -> None:
    one = passed()
    where = folder(tmp_path / "run", one, measured(one.run, RACKS, slow_host()))
    (where / verdict.NAME).write_text('{"word": "PASS"')
    with pytest.raises(Exception, match="is no verdict"):
        load_runs(where)
    (where / verdict.NAME).unlink()
    assert load_runs(where)[0].concluded is None


def test_every_code_has_its_section_with_something_to_do() -> None:
    text = (ROOT / "docs/codes.md").read_text(encoding="utf-8")
    found = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    sections = {one.partition("\n")[0]: one.partition("\n")[2] for one in found}
    assert len(sections) == len(found)
    assert CODES.keys() <= sections.keys()
    for code in CODES:
        assert len(sections[code].split()) > 30, code
    table = sections["Codes of a verdict"]
    for word in ("FAIL", "INCONCLUSIVE"):
        (line,) = re.findall(rf"^\| {word} \|(.*)\|$", table, flags=re.MULTILINE)
        named = re.findall(r"`(CB-[A-Z-]+)`", line)
        meant = {
            code for code in CODES if code in named or any(one[-1] == "-" and code.startswith(one) for one in named)
        }
        assert meant == {code for code in CODES if CODES[code] == word}
