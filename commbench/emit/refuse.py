"""When a recommendation must not be written down: other machine, other versions, expired, dangerous."""

import re
from collections.abc import Mapping
from pathlib import Path

from commbench.emit import variables
from commbench.emit.target import Target, proven
from commbench.errors import SpecError
from commbench.records.recommendation import Difference, Recommendation, differences

_AWS_PLACES = ("/opt/amazon/ofi-nccl", "/opt/aws-ofi-nccl")
_REPLACES = ("nccl-csv", "nccl-plugin", "ncclx", "rccl")
_VARIABLES = ("env", "slurm", "k8s")
_RISK = (
    "--force writes it all the same: nothing was measured here, so it may be slower, be ignored without a word, or "
    "keep the job from starting"
)


def elsewhere(
    recommendation: Recommendation, target: Target, facts: Mapping[str, str], versions: Mapping[str, str]
) -> tuple[Difference, ...]:
    """Facts that differ from those of the recommendation. Only the version of the target's library counts."""
    wanted = {
        name: text for name, text in recommendation.versions.items() if not target.library or name == target.library
    }
    return (*differences(recommendation.machine, facts), *differences(wanted, versions))


def other_place(found: tuple[Difference, ...]) -> None:
    """SpecError that names every fact that differs."""
    if found:
        raise SpecError(f"the recommendation is of another place ({'; '.join(map(str, found))}); {_RISK}")


def expired(recommendation: Recommendation, today: str) -> None:
    """SpecError after the day (YYYY-MM-DD, UTC) on which it was to be measured again."""
    if not re.match(r"\d{4}-\d\d-\d\d(T|$)", recommendation.expires):
        raise SpecError(f"expires {recommendation.expires!r} is no date; make the recommendation again")
    if recommendation.expires[:10] < today:
        raise SpecError(f"the recommendation expired on {recommendation.expires}; commbench tune --recheck. {_RISK}")


def aws(
    name: str, recommendation: Recommendation, environment: Mapping[str, str], places: tuple[str, ...] = _AWS_PLACES
) -> None:
    """SpecError where a tuner file would take the place of the one that AWS's network plugin brings."""
    if name not in _REPLACES and not (name in _VARIABLES and "nccl-csv" in variables.files(recommendation)):
        return
    signs = [key for key in sorted(environment) if key.startswith("OFI_NCCL_")]
    signs += [key for key in ("NCCL_NET_PLUGIN", "NCCL_TUNER_PLUGIN") if "ofi" in environment.get(key, "").lower()]
    signs += [place for place in places if Path(place).exists()]
    if signs and environment.get("OFI_NCCL_TUNER_TYPE", "").lower() != "none":
        raise SpecError(
            f"AWS's tuner is in use ({signs[0]}), and another NCCL_TUNER_PLUGIN replaces it; measure against it first "
            "(commbench tune with it loaded). With --force all sizes without a rule lose AWS's choice"
        )


def ll128(recommendation: Recommendation) -> None:
    """SpecError where a rule wants LL128 and NCCL's own table forbids it here: forced, it can corrupt data.

    The machine's fact `nccl_ll128` is `allowed` or `forbidden`, as in the table of NCCL's log (SUBSYS=TUNING); a search
    does not record it yet. A tuner is shown the table and leaves alone what it forbids; a variable is not, so there the
    fact must be known.
    """
    table = recommendation.machine.get("nccl_ll128", "unknown")
    for rule in filter(proven, recommendation.rules):
        settings = dict(rule.settings)
        if not _wants_ll128(settings.get("NCCL_PROTO", "")) or table == "allowed":
            continue
        if table == "forbidden" or "NCCL_ALGO" not in settings:
            reason = (
                "forbids it on this machine" if table == "forbidden" else "is not in the run: nobody knows if it may"
            )
            raise SpecError(
                f"{rule.op} from {rule.min_bytes} bytes: LL128, and NCCL's table {reason}; unsupported, it "
                "corrupts data. Tune again without LL128"
            )


def _wants_ll128(protocols: str) -> bool:
    """NCCL_PROTO as NCCL reads it: `LL,Simple`, `^LL` for all others, which then are forced too, and in newer ones
    such lists for each collective, as in `^LL128;allreduce:LL128`."""
    lists = [part.rpartition(":")[2].strip() for part in protocols.upper().split(";")]
    named = [("LL128" in map(str.strip, one.lstrip("^").split(",")), one.startswith("^")) for one in lists if one]
    return any(listed != others for listed, others in named)
