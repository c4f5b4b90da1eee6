"""The verdicts of a page with their pictures: maps of the pairs and the network, with the culprits marked."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from commbench.report import fabric as fabrics
from commbench.report.html import plots_svg, verdict
from commbench.report.html.culprits import culprits, marks, part
from commbench.report.html.examined import Examined, counted, meeting
from commbench.report.html.maps import Map, heat_map
from commbench.report.html.meetings import met
from commbench.report.html.pairs import MOST_HEATS
from commbench.report.html.plots_svg import Plot
from commbench.report.view import one_line

MOST_DRAWN = 4  # verdicts with maps and a picture
MOST_HOSTS = 128  # of a network that is drawn
_MOST_NEAR = 48  # hosts around what a verdict names, where not all of them are drawn


class Judged(NamedTuple):
    """One run's part of the section. `remarks` say what is not drawn, and why."""

    said: verdict.VerdictShown
    maps: Sequence[Map]
    plot: Plot | None
    hosts_left_out: int
    remarks: Sequence[str]


def verdicts(runs: Sequence[Examined]) -> list[Judged]:
    """What the acceptance tests among the runs came to, with maps and pictures of the first ones."""
    tests = [one for one in runs if one.accepts]
    return [_judged(k, one, drawn=k < MOST_DRAWN) for k, one in enumerate(tests)]


def _judged(k: int, one: Examined, drawn: bool) -> Judged:
    said = verdict.shown(k, one)
    if not drawn:
        remark = f"Maps and pictures are drawn for {MOST_DRAWN} verdicts; a report about this run alone has its own."
        return Judged(said, (), None, 0, [remark])
    found = culprits(one.run, one.verdict) if one.verdict is not None else []
    maps = met(one, found)[:MOST_HEATS]
    network, plot, left_out = one.run.machine.fabric, None, 0
    marked = marks(one.run, found)
    near = part(network, marked, MOST_HOSTS, _MOST_NEAR) if network is not None else None
    if network is not None and near is not None:
        left_out = len(network.hosts) - len(near.hosts)
        drawing = plots_svg.fabric(near, f"v{k}fabric-", marked, network if left_out else None)
        told = " ".join(said.at_fault) or "No component is marked."
        title = f"Network {one_line(network.name)}, with what the verdict names"
        plot = Plot(f"v{k}fabric", title, f"{fabrics.summary(network)}. {told}", drawing)
    drawings = [heat_map(f"v{k}pairs{j}", heat) for j, heat in enumerate(maps)]
    return Judged(said, drawings, plot, left_out, [*_missing(one, bool(maps), plot is not None)])


def _missing(one: Examined, maps: bool, plot: bool) -> Iterator[str]:
    if not maps:
        asked = any(meeting(row.groups) for row in one.rows)
        yield "No pair of hosts gave an answer." if asked else "No two hosts were measured together."
    if not plot and one.run.machine.fabric is None:
        yield "The network between the hosts is not on record, so there is no picture of it."
    elif not plot:
        yield f"{counted(len(one.run.machine.hosts), 'host')} are too many for a picture, and no component is named."
