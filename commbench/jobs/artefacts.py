"""What lies beside verdict.json for schedulers and monitors: junit.xml, commbench.prom, and lists of hosts."""

from collections.abc import Sequence
from pathlib import Path

from commbench.accept.stages import stage
from commbench.records import Measurement, Run
from commbench.records.verdict import Verdict
from commbench.report import hostfiles, junit, prometheus
from commbench.stats.rows import rows
from commbench.store import write_atomically


def write(folder: Path, verdict: Verdict, run: Run, measurements: Sequence[Measurement]) -> tuple[Path, ...]:
    """Writes them all, and says which: functions of their arguments, so the same journal gives the same bytes.

    StoreError: the folder cannot be written; each file is then the old one or the new one, never a half.
    """
    full = rows([one for one in measurements if stage(one.case) == "full"], run.confidence)
    found = {
        junit.NAME: junit.document(verdict, run),
        prometheus.NAME: prometheus.text(verdict, run, full).encode(),
        **{name: text.encode() for name, text in hostfiles.files(verdict, run).items()},
    }
    for name, data in found.items():
        write_atomically(folder / name, data)
    return tuple(folder / name for name in found)
