"""Which part of an acceptance test a case belongs to."""

from commbench.records import Case
from commbench.records.verdict import Stage


def stage(case: Case) -> Stage:
    """Told by the case alone, so that a journal needs no other mark. Stability is a full-scale case in many rounds."""
    head = case.groups.partition("(")[0]
    if head in ("racks", "meet"):
        return "spread" if head == "racks" else "confirm"
    return "intra" if head == "each" else "full"
