"""When is it enough? Rank 0 asks after every batch of samples and tells all ranks the answer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from commbench.stats.summary import median_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Limits(NamedTuple):
    """ci: half-width of the interval as a share of the median; max_time in seconds of sampling."""

    ci: float = 0.02
    confidence: float = 0.95
    max_time: float = 5.0
    min_samples: int = 20
    max_samples: int = 1000


class Decision(NamedTuple):
    """`more` samples to take next, or 0 and why sampling ended."""

    more: int
    reason: str


def decide(groups: "Sequence[NDArray[np.float64]]", limits: Limits, elapsed: float) -> Decision:
    """All groups of the layout must be tight enough, because they are sampled together.

    groups: seconds per sample of each group, all of the same length; elapsed: seconds spent sampling.
    The next batch grows with what there is, so that the number of agreements is logarithmic, and never asks
    for more than the time or the count that is left.
    """
    taken = len(groups[0]) if groups else 0
    if taken == 0:
        return Decision(limits.min_samples, "")
    if taken >= limits.min_samples:
        middle, low, high = median_interval(np.stack(list(groups)), limits.confidence)
        if bool(np.all((high - low) / 2 <= limits.ci * middle)):  # NaN (too few samples) is never tight
            return Decision(0, "ci")
    if taken >= limits.max_samples:
        return Decision(0, "max_samples")
    if elapsed >= limits.max_time:
        return Decision(0, "max_time")
    affordable = int((limits.max_time - elapsed) / (elapsed / taken)) + 1 if elapsed > 0 else taken
    more = min(max(limits.min_samples // 2, taken // 2), limits.max_samples - taken, affordable)
    return Decision(max(1, more), "")
