"""A run folder judged, with the criteria that it was made with or with others; no hardware, no clock."""

import hashlib
from pathlib import Path

import msgspec

from commbench import store
from commbench.accept import baseline as baselines
from commbench.accept.baseline import Baseline
from commbench.accept.judge import judge
from commbench.errors import FolderError, SpecError
from commbench.jobs import artefacts
from commbench.records import Machine, acceptance
from commbench.records import verdict as records
from commbench.records.verdict import Verdict
from commbench.spec.accept import AcceptSpec

SPEC = "spec.json"  # in the run folder: the whole acceptance spec
KEPT = "baselines.json"  # in the run folder: the baselines that its criteria name, so that it can always be judged


def spec_of(folder: Path) -> AcceptSpec:
    """The spec that a run was made with. FolderError: this folder holds none, or it is damaged."""
    path = folder / SPEC
    try:
        return msgspec.json.decode(path.read_bytes(), type=AcceptSpec)
    except OSError as error:
        raise FolderError(f"{path}: {error.strerror}; this is no folder of commbench accept") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FolderError(f"{path} is damaged: {error}; judge by a spec of yours with --criteria SPEC.yaml") from None


def judged(folder: Path, spec: AcceptSpec | None = None) -> Verdict:
    """The verdict of a run folder by its own criteria; with a spec, by what that one expects and asks for.

    What was measured is told by the run: sizes of pairs, full scale and stages are always those of its own spec.
    FolderError: no acceptance run, or damaged.
    """
    own = spec_of(folder)
    asked = own if spec is None else _mixed(own, spec)
    run, rows = store.load(folder)
    happened = acceptance.read(folder)
    return judge(run, rows, happened, asked, _baselines(folder, asked), digest(folder))


def conclude(folder: Path, spec: AcceptSpec | None = None) -> Verdict:
    """Judges, and writes verdict.json and what schedulers and monitors read beside it, each whole or not at all.

    StoreError where they cannot be written. The artefacts come first: where there is a verdict, they tell the same.
    """
    found = judged(folder, spec)
    run, rows = store.load(folder)
    artefacts.write(folder, found, run, rows)
    store.write_atomically(folder / records.NAME, records.encode(found))
    return found


def digest(folder: Path) -> str:
    """SHA-256 of the whole lines of the journal: a torn last line is no evidence."""
    try:
        data = (folder / "journal.jsonl").read_bytes()
    except FileNotFoundError:
        data = b""
    except OSError as error:
        raise FolderError(f"{folder / 'journal.jsonl'}: {error.strerror}") from None
    return hashlib.sha256(data[: data.rfind(b"\n") + 1]).hexdigest()


def _mixed(own: AcceptSpec, other: AcceptSpec) -> AcceptSpec:
    """What `other` expects and demands, of what was measured as `own` says."""
    return msgspec.structs.replace(
        own,
        source=other.source,
        expect=other.expect,
        criteria=other.criteria,
        slowdown=other.slowdown,
        alpha=other.alpha,
        beta=other.beta,
        unequal=other.unequal,
    )


def named(spec: AcceptSpec, machine: Machine | None = None) -> dict[str, Baseline]:
    """Path -> baseline, for each that a criterion names.

    FolderError: one cannot be read. SpecError: it is of another machine than this one, where one is told.
    """
    found: dict[str, Baseline] = {}
    for one in spec.criteria:
        if one.kind == "baseline":
            found[one.path] = baselines.read(Path(one.path))
            if machine and (differs := baselines.elsewhere(found[one.path], machine)):
                facts = "; ".join(f"{each.fact}: {each.then} there, {each.now} here" for each in differs)
                raise SpecError(f"{one.place}: the baseline {one.path} is of another machine: {facts}")
    return found


def keep(folder: Path, spec: AcceptSpec, kept: dict[str, Baseline]) -> None:
    """Puts the spec and the baselines that it names beside a run that begins."""
    store.write_atomically(folder / SPEC, msgspec.json.format(msgspec.json.encode(spec)) + b"\n")
    if kept:
        store.write_atomically(folder / KEPT, msgspec.json.encode(kept) + b"\n")


def _baselines(folder: Path, spec: AcceptSpec) -> dict[str, Baseline | str]:
    """Each baseline that a criterion names, as it was kept with the run; or the sentence why there is none."""
    found: dict[str, Baseline | str] = {}
    wanted = [one.path for one in spec.criteria if one.kind == "baseline"]
    try:
        found |= msgspec.json.decode((folder / KEPT).read_bytes(), type=dict[str, Baseline])
    except FileNotFoundError:
        pass
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FolderError(f"{folder / KEPT} is damaged: {error}") from None
    for path in wanted:
        if path not in found:
            try:
                found[path] = baselines.read(Path(path))
            except FolderError as error:
                found[path] = str(error)
    return {path: found[path] for path in wanted}
