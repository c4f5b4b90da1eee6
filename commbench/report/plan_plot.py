"""The picture of a search for a bucket plan: each plan's step against the default's, and when gradients are sent."""

import math
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from commbench.errors import CommbenchError
from commbench.model.bucket_advice import DDP_CAPS
from commbench.model.buckets import ddp_buckets
from commbench.model.step import Backward
from commbench.report.findings import safe
from commbench.report.image import COLOURS, GREY, format_of, save
from commbench.tune.candidates import Settings
from commbench.tune.plans import Found, Plan, Planned, caps_of, found
from commbench.tune.verdicts import LOOKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST = 20  # plans


def plot(planned: Planned, path: Path) -> None:
    """CommbenchError: no plan but the default was raced. SpecError: no such format."""
    format_of(path)
    seen = found(planned)
    raced = [plan for plan in planned.plans if plan.settings in seen.judged and _known(seen, plan)]
    if not raced:
        raise CommbenchError("nothing to draw: no plan was raced against the default; commbench show says why")
    save(lambda: _draw(planned, seen, raced[:_MOST]), path)


def _known(seen: Found, plan: Plan) -> bool:
    return not math.isnan(seen.judged[plan.settings].ratio.log_ratio)


def _draw(planned: Planned, seen: Found, raced: list[Plan]) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    timed = planned.backward is not None and planned.spec.get("parallel") != "fsdp2"
    size = (11.0 if timed else 6.5, 1.9 + 0.3 * len(raced) if not timed else max(3.6, 1.9 + 0.3 * len(raced)))
    whole = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
    panels = whole.subplots(1, 2 if timed else 1, squeeze=False, width_ratios=(1.2, 1) if timed else None)[0]
    _race(panels[0], planned, seen, raced)
    if timed and planned.backward is not None:
        _sent(panels[1], planned.backward, seen)
    return whole


def _race(axes: "Axes", planned: Planned, seen: Found, raced: list[Plan]) -> None:
    """One line a plan: measured with its interval, and what was predicted before any trial."""
    base = next((plan.predicted for plan in planned.plans if not plan.settings), None)
    axes.axvline(0, color=GREY, linewidth=1)
    shown = [0.0]  # what must be seen; an interval from two trials may go beyond the picture
    for place, plan in enumerate(reversed(raced)):
        one = seen.judged[plan.settings]
        proved = one.verdict == "faster"
        if not math.isnan(one.ratio.half):
            low, high = (100 * math.expm1(value) for value in (one.ratio.low, one.ratio.high))
            few = one.ratio.trials < LOOKS[0]
            axes.plot([low, high], [place, place], color=COLOURS[0], linewidth=0.8 if few else 1.8)
            shown += [] if few else [low, high]
        shown.append(100 * math.expm1(one.ratio.log_ratio))
        axes.plot([shown[-1]], [place], "o", color=COLOURS[0], markersize=6,
                  markerfacecolor=COLOURS[0] if proved else "white", zorder=3)  # fmt: skip
        if plan.predicted and base:
            shown.append(100 * (plan.predicted / base - 1))
            axes.plot([shown[-1]], [place], "D", color=COLOURS[1], markersize=5,
                      markerfacecolor="none", zorder=4)  # fmt: skip
    pad = 0.08 * (max(shown) - min(shown)) + 0.5
    axes.set_xlim(min(shown) - pad, max(shown) + pad)
    axes.set_yticks(range(len(raced)), [safe(plan.name) for plan in reversed(raced)])
    axes.set_ylim(-0.6, len(raced) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(
        "step against the default's, %\n"
        "round: measured, filled where faster is proved;\nthin: fewer than 4 trials; diamond: predicted"
    )
    default = seen.choice.default_us if seen.choice else None
    head = f"{safe(planned.name)}: {planned.machine.size} ranks"
    axes.set_title(f"{head}, the default's step takes {default / 1e3:.0f} ms" if default else head)


def _sent(axes: "Axes", backward: Backward, seen: Found) -> None:
    """How much of the gradients is ready, and how much of it has been handed to the network, as time goes on."""
    ready = [0.0, *(1e3 * one.ready for one in backward.gradients), 1e3 * backward.seconds]
    mb = [0.0, *accumulate(one.nbytes / 1e6 for one in backward.gradients)]
    axes.step(ready, [*mb, mb[-1]], where="post", color=GREY, linewidth=1.2, label="ready")
    choice = seen.choice.settings if seen.choice else ()
    shown: list[tuple[str, Settings]] = [("sent by default", ())]
    if caps_of(choice):
        shown.append(("sent by the plan", choice))
    for k, (label, settings) in enumerate(shown):
        buckets = ddp_buckets(backward, caps_of(settings) or DDP_CAPS)
        at = [max(1e3 * backward.gradients[place].ready for place in bucket) for bucket in buckets]
        sent = accumulate(sum(backward.gradients[place].nbytes for place in bucket) / 1e6 for bucket in buckets)
        axes.step([0.0, *accumulate(at, max), ready[-1]], [0.0, *(done := list(sent)), done[-1]], where="post",
                  color=COLOURS[1 - k], linewidth=2, linestyle=("--", "-")[k], label=label)  # fmt: skip
    axes.set_xlabel("ms after the step began, nothing else in the way")
    axes.set_ylabel("MB of gradients")
    axes.set_title("when gradients are ready, and when they are sent")
    axes.legend(loc="upper left")
