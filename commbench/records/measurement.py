"""The answer: raw samples, the data check, and why sampling ended. Medians and bandwidths are functions of it."""

from typing import Literal

import msgspec

from commbench.records.case import Case

Status = Literal["ok", "failed", "skipped", "hung"]
Clock = Literal["host", "device", "graph", "simulated", "imported"]
# What the numbers in `seconds` are. Another tool often tells one statistic of its samples and not the samples.
Kind = Literal["samples", "mean", "min", "max", "p50"]


class Measurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What one group of ranks answered to one Case in one launch.

    case      the question
    group     which group of the layout (0-based)
    ranks     how many ranks the group has
    launch    which process start (0-based): variation between starts is a factor of its own. In a search the round of
              the trial: trials of one round were made right after one another
    nbytes    bytes really moved, after rounding the case's size to whole elements on every rank
    seconds   per sample: seconds per call on the slowest rank of the group; where `kind` is not `samples`, one
              number: that statistic as another tool told it (its documentation says over which ranks)
    kind      what `seconds` holds
    told      other statistics that the other tool told itself, in seconds: min, max, mean, p50, p95, p99, stdev
    skew      per sample: seconds per call between the slowest and the fastest rank
    slowest   per sample: the slowest rank (of the world, not of the group)
    calls     calls timed together in one sample
    warmup    calls made before the first sample
    clock     what told the time
    wrong     elements that differ from the known result, over all ranks; None: not checked
    status    ok, failed (wrong data or an error), skipped (cannot be measured here), hung (deadline passed)
    why       a sentence for every status but ok
    stopped   why sampling ended: ci, max_time, max_samples
    at        when rank 0 began to measure the case, seconds since the epoch; 0: not known
    control   measured again on resume, to tell drift; not a row of the table
    proof     what was seen of the effect of the case's settings
    """

    case: Case
    status: Status = "ok"
    why: str = ""
    group: int = 0
    ranks: int = 0
    launch: int = 0
    nbytes: int = 0
    seconds: tuple[float, ...] = ()
    kind: Kind = "samples"
    told: dict[str, float] = {}
    skew: tuple[float, ...] = ()
    slowest: tuple[int, ...] = ()
    calls: int = 0
    warmup: int = 0
    clock: Clock = "host"
    wrong: int | None = None
    stopped: str = ""
    at: float = 0.0
    control: bool = False
    proof: str = ""
