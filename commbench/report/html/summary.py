"""The report in words: what was measured, what stands out, what to do next.

Each phrase is a pure function of rows and gives a sentence or nothing. The thresholds are here and in standout.py,
and docs/report.md has them too.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from commbench.records.finding import Finding
from commbench.report.html import advised, verdict
from commbench.report.html.examined import Examined, counted, hosts, listed, meeting, members, tool
from commbench.report.html.phrases import Level, Said, about, duration, ended, group, named, percent, rate, sentence
from commbench.report.html.rowtable import of_pairs
from commbench.report.html.standout import jumps, late_ranks, slowest_group
from commbench.report.view import one_line, size, where
from commbench.stats.rows import Row, series

_WIDE = 0.10  # half of an interval, as a share of the median
_LITTLE = 0.8  # a share of the wire below this leaves something to win
_MOST = 6  # sentences of one kind


class Summary(NamedTuple):
    measured: Sequence[Said]
    stands_out: Sequence[Said]
    next_steps: Sequence[Said]


def summary(runs: Sequence[Examined], findings: Sequence[Finding] = (), *, compared: bool = False) -> Summary:
    """What a reader in a hurry needs. `compared`: a comparison says beside this how many launches it takes."""
    known = {finding.code for finding in findings}
    told, steps = (ours + theirs for ours, theirs in zip(verdict.brief(runs), advised.brief(runs), strict=True))
    outside = [*told, *_found(findings), *_broken(runs), *(_beyond(runs) if "CB-ABOVE-WIRE" not in known else ())]
    usual = [*_best(runs), *_slow_groups(runs), *_late(runs), *_jumps(runs), *_wide(runs)]
    if not any(row.median_us for one in runs for row in one.rows):
        outside.append(_nothing(runs))
    elif not outside and not usual:
        usual.append(Said("Nothing stands out."))
    return Summary([*measured(runs)], [*outside, *usual], [*steps, *_next_steps(runs, findings, compared, steps)])


def _nothing(runs: Sequence[Examined]) -> Said:
    if runs and all(one.parts and not one.rows for one in runs):
        return Said("No times are in these files: what they tell of machines and jobs is in the record.", "record")
    return Said("Nothing was measured: there is not one time in these runs.", "rows", "error")


# ---- what was measured -------------------------------------------------------------------------------------


def measured(runs: Sequence[Examined]) -> Iterator[Said]:
    """What, with which tool, where, when; several runs together."""
    if not runs:
        return
    rows = [row for one in runs for row in one.rows]
    ops = listed(dict.fromkeys(row.op for row in rows), 6) or "nothing"
    backends = listed(dict.fromkeys(row.backend for row in rows))
    tools = listed(dict.fromkeys(tool(one.run) for one in runs))
    over = f" over {one_line(backends)}" if backends else ""
    runs_told = f" in {len(runs)} runs" if len(runs) > 1 else ""
    yield Said(f"{tools} measured {one_line(ops)}{over}{runs_told}, {_sizes(rows)}.", "rows")
    yield Said(f"{_places(runs)}, {_dates(runs)}.", "record")
    yield Said(f"{_statuses(rows)}; {_launches(rows)}.", "rows")
    if told := sorted({row.kind for row in rows if row.samples} - {"samples"}):
        yield Said(f"Times of other tools are what these told: {listed(told)}. They carry no interval.", "rows")
    models = [one for one in runs if any(row.clock == "simulated" for row in one.rows)]
    if models:
        which = "these times" if len(models) == len(runs) else f"the times of {counted(len(models), 'run')}"
        yield Said(f"SIMULATED: {which} come from a model. No network was measured there.", "record", "warning")


def _sizes(rows: Iterable[Row]) -> str:
    every = sorted({row.nbytes for row in rows if row.nbytes})
    if not every:
        return "no message sizes"
    if len(every) == 1:
        return f"messages of {size(every[0])}"
    return f"{len(every)} sizes from {size(every[0])} to {size(every[-1])}"


def _places(runs: Sequence[Examined]) -> str:
    places = listed(dict.fromkeys(place(one) for one in runs))
    names = list(dict.fromkeys(one_line(host.name) for one in runs for host in one.run.machine.hosts))
    return f"On {places}" + (f" ({listed(names)})" if names else "")


def place(one: Examined) -> str:
    """`8 ranks on 2 hosts`; what rows tell where the machine is not known."""
    if one.run.machine.size:
        return where(one.run.machine)
    ranks = max((row.ranks or 0 for row in one.rows), default=0)
    return f"{counted(ranks, 'rank')}, hosts unknown" if ranks else "an unknown machine"


def _dates(runs: Sequence[Examined]) -> str:
    dates = sorted(date(one) for one in runs)
    if len(dates) == 1:
        by = runs[0].run.origin
        return dates[0] + (" (when the file was last changed)" if by and by.dated == "mtime" else "")
    return f"{dates[0]} to {dates[-1]}"


def date(one: Examined) -> str:
    """`2026-11-23 01:18`, as recorded."""
    return one_line(one.run.created[:16].replace("T", " "))


def _launches(rows: Sequence[Row]) -> str:
    sampled = [row for row in rows if row.samples and row.kind == "samples"]
    if not sampled:
        return "one figure a row" if any(row.samples for row in rows) else "no launch gave a sample"
    counts = sorted({row.launches for row in sampled})
    told = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    samples = counted(sum(row.samples for row in sampled), "sample")
    return f"{samples} from {told} launch{'es' * (counts[-1] != 1)} a row"


def _statuses(rows: Sequence[Row]) -> str:
    count = Counter[str](row.status for row in rows)
    each = [f"{count[status]:,} {status}" for status in ("ok", "failed", "hung", "skipped") if count[status]]
    return f"{counted(len(rows), 'row')}, {listed(each) or 'none'}"


# ---- what stands out ---------------------------------------------------------------------------------------


def _found(findings: Sequence[Finding]) -> Iterator[Said]:
    shown = [finding for finding in findings if finding.severity != "note"]
    for finding in shown[:_MOST]:
        level: Level = "error" if finding.severity == "error" else "warning"
        yield Said(f"{finding.severity.capitalize()}: {sentence(finding.sentence)}", "findings", level)
    if len(shown) > _MOST:
        yield Said(f"{counted(len(shown) - _MOST, 'more finding')} like these.", "findings", "warning")


def _broken(runs: Sequence[Examined]) -> Iterator[Said]:
    """Rows without a usable answer, the reasons that most rows share first."""
    reasons: Counter[tuple[str, str]] = Counter()
    for one in runs:
        reasons.update((row.status, row.why or "no reason was recorded") for row in one.rows if row.status != "ok")
    order = {"failed": 0, "hung": 1, "skipped": 2}
    ordered = sorted(reasons.items(), key=lambda pair: (order[pair[0][0]], -pair[1]))
    for (status, why), count in ordered[:_MOST]:
        yield Said(f"{counted(count, 'row')} {status}: {ended(why)}", "rows", "" if status == "skipped" else "error")
    if rest := ordered[_MOST:]:
        yield Said(
            f"{counted(sum(count for _, count in rest), 'more row')} without an answer, for other reasons.", "rows"
        )


def _beyond(runs: Sequence[Examined]) -> Iterator[Said]:
    return (Said(named(runs, one, sentence(one.note)), "rows", "warning")
            for one in runs if one.note)  # fmt: skip


def _best(runs: Sequence[Examined]) -> Iterator[Said]:
    """The highest bus bandwidth of each collective, latency where there is none; of a search that of the default."""
    rated = [
        (one, row)
        for one in runs
        for row in one.rows
        if row.status == "ok" and row.busbw_gbps and not meeting(row.groups) and not (one.searched and row.settings)
    ]
    real = {row.op for _, row in rated if row.clock != "simulated"}
    best: dict[str, tuple[Examined, Row]] = {}
    for one, row in rated:
        if row.clock == "simulated" and row.op in real:  # a model is no match for a measurement
            continue
        if row.op not in best or (row.busbw_gbps or 0) > (best[row.op][1].busbw_gbps or 0):
            best[row.op] = (one, row)
    for op, (one, row) in list(best.items())[:_MOST]:
        share = f", {percent(row.wire_share)} of what the links allow" if row.wire_share is not None else ""
        text = f"Best {one_line(op)}: {rate(row)} bus bandwidth at {size(row.nbytes)} ({about(row)}){share}."
        yield Said(named(runs, one, text), "curves")
    if len(best) > _MOST:
        yield Said(f"{len(best) - _MOST} more collectives are in the curves.", "curves")


def _slow_groups(runs: Sequence[Examined]) -> Iterator[Said]:
    """Of each run the group that is farthest behind the median of those that ran beside it. A verdict knows better."""
    for one in [one for one in runs if not one.accepts][:_MOST]:
        slow = slowest_group(one.rows)
        if slow is None:
            continue
        row, ratio = slow
        others = "the pairs of its round" if of_pairs(row) else f"the groups of {one_line(row.layout)}"
        text = (
            f"{group(one.run.machine, row)} took {ratio:.2g} times the median of {others}: "
            f"{duration(row)} for {one_line(row.op)} of {size(row.nbytes)} ({one_line(row.backend)})."
        )
        yield Said(named(runs, one, text), "pairs" if of_pairs(row) else "rows")


def _late(runs: Sequence[Examined]) -> Iterator[Said]:
    for one, rank in late_ranks(runs)[:_MOST]:
        at = hosts(one.run.machine, [rank.rank])
        text = (
            f"Rank {rank.rank}{f' ({at})' if at else ''} was the slowest of its group in {percent(rank.share)} of "
            f"{counted(rank.samples, 'sample')}; by chance it would be {percent(rank.by_chance)}."
        )
        yield Said(named(runs, one, text), "skew")


def _jumps(runs: Sequence[Examined]) -> Iterator[Said]:
    every = sorted(((*jump, one) for one in runs for jump in jumps(one.rows)), key=lambda found: -found[0])
    for _, before, after, one in every[:3]:
        times = (after.median_us or 0.0) / (before.median_us or 1.0)
        text = (
            f"Latency jumps: {one_line(after.op)} ({about(after)}) takes {times:.2g} times as long at "
            f"{size(after.nbytes)} as at {size(before.nbytes)}, for {after.nbytes / before.nbytes:.2g} times the bytes."
        )
        yield Said(named(runs, one, text), "curves")
    if len(every) > 3:
        yield Said(f"{counted(len(every) - 3, 'more jump')} like these.", "curves")


def _wide(runs: Sequence[Examined]) -> Iterator[Said]:
    sampled = [
        (one, row) for one in runs for row in one.rows if row.samples and row.status == "ok" and row.kind == "samples"
    ]
    known = [(row.half_width, one, row) for one, row in sampled if row.half_width is not None]
    if known:
        width, one, row = max(known, key=lambda found: found[0])
        wide = sum(width > _WIDE for width, _, _ in known)
        if wide:
            text = (
                f"{wide:,} of {counted(len(sampled), 'row')} {'is' if wide == 1 else 'are'} known to no better than "
                f"±{_WIDE:.0%}; the widest interval is ±{width:.0%} "
                f"({one_line(row.op)}, {about(row)}, {size(row.nbytes)})."
            )
            yield Said(named(runs, one, text) if wide == 1 else text, "rows")
    if without := len(sampled) - len(known):
        told = f"{without:,} of {counted(len(sampled), 'row')} {'has' if without == 1 else 'have'}"
        yield Said(f"{told} no interval: too few independent samples.", "rows")


# ---- what to do next ---------------------------------------------------------------------------------------


def _next_steps(
    runs: Sequence[Examined], findings: Sequence[Finding], compared: bool, before_these: Sequence[Said]
) -> Iterator[Said]:
    """A verdict has said what to do about its run: only the others are asked for more."""
    rows = [row for one in runs for row in one.rows]
    own = any(not one.run.origin and not one.accepts and not one.searched for one in runs)
    ok = [row for row in rows if row.status == "ok" and row.samples]
    before = len(rows)
    steps: list[Said] = [*_from_findings(findings)]
    if any(row.status == "failed" for row in rows):
        steps.append(Said("Look at the failed rows before any figure: wrong data makes its setting worthless.", "rows"))
    if any(row.status == "hung" for row in rows):
        steps.append(Said("Find out which host hung, then go on where the run stopped with --resume.", "rows"))
    for one in runs[:_MOST]:
        steps += _about_slow(one) if not one.accepts else ()
    unsure = sum(row.half_width is None or row.half_width > _WIDE for row in ok)
    if own and unsure:
        steps.append(Said("Measure longer before you trust small differences: --set stop.max_time=30s.", "rows"))
    if own and not compared and ok and max(row.launches for row in ok) == 1:
        text = "Measure several launches (--set launches=5): one launch does not tell how much the next one differs."
        steps.append(Said(text, "rows"))
    steps += _about_wire([one for one in runs if not one.accepts])
    if not steps and before and not before_these:
        steps.append(Said("Nothing here asks for action. Keep these runs: the next comparison needs them."))
    return iter(steps)


def _from_findings(findings: Sequence[Finding]) -> Iterator[Said]:
    asked = dict.fromkeys(f"{one.code}: {ended(one.next)}" for one in findings if one.next and one.severity != "note")
    return (Said(step, "findings") for step in list(asked)[:_MOST])


def _about_slow(one: Examined) -> Iterator[Said]:
    slow = slowest_group(one.rows)
    if slow is not None:
        row, _ = slow
        ranks = members(one.run.machine, row)
        at = hosts(one.run.machine, ranks)
        if at:
            link = f" The link that limits it is {one_line(row.wire_link)}." if row.wire_link else ""
            text = f"Check cables, NIC and load of {at}, and measure that group alone.{link}"
            yield Said(text, "pairs" if of_pairs(row) else "rows")
    for late in late_ranks([one]):
        if at := hosts(one.run.machine, [late.rank.rank]):
            yield Said(f"See what else runs on {at}, and where rank {late.rank.rank} is bound.", "skew")


def _about_wire(runs: Sequence[Examined]) -> Iterator[Said]:
    largest: dict[tuple[Any, ...], Row] = {}
    for one in runs:
        limited = [row for row in one.rows if row.status == "ok" and row.wire_share is not None]
        largest |= {(one.name, *series(row), row.group): row for row in sorted(limited, key=lambda row: row.nbytes)}
    low = [row for row in largest.values() if (row.wire_share or 0) < _LITTLE]
    if low:
        worst = min(low, key=lambda row: row.wire_share or 0)
        text = (
            f"The links allow more: at its largest size {one_line(worst.op)} ({about(worst)}) reaches "
            f"{percent(worst.wire_share)} of them. Try other algorithms, more channels, another order of the ranks."
        )
        yield Said(text, "curves")
    if not largest and any(row.busbw_gbps for one in runs for row in one.rows):
        text = "The rates of the links are not known here, so nobody can tell how much of the wire was used."
        yield Said(text, "fabric")
