"""The search on shaped links, where the answer is known: a reduction to one root is far from the best on a star."""

import json
from pathlib import Path

import pytest
from ranks import COMMBENCH, run

from commbench import store
from commbench.records import recommendation as records

RING, LINEAR = "ring", "basic_linear"
# The library's default is made a bad one, so that there is something to find: all bytes cross the root's link.
BAD = {
    "OMPI_MCA_coll_han_priority": "0",
    "OMPI_MCA_coll_tuned_use_dynamic_rules": "1",
    "OMPI_MCA_coll_tuned_allreduce_algorithm": LINEAR,
}
SPEC = """
backend: mpi
collectives: all_reduce
sizes: [128KiB, 512KiB]
trial: {max_time: 20ms, max_samples: 10, warmup: 10ms}
catalogue: false
candidates: [{coll_tuned_allreduce_algorithm: ring}, {coll_tuned_allreduce_algorithm: nonsense}]
budget: 60s
"""


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search on star4."""
    folder = tmp_path_factory.mktemp("tune")
    (folder / "spec.yaml").write_text(SPEC)
    out = folder / "run"
    ended = run([*COMMBENCH, "tune", str(folder / "spec.yaml"), "-n", "4", "--lab", "star4", "--out", str(out)], **BAD)
    assert ended.code == 0, ended.err
    (folder / "said").write_text(ended.out)
    return out


def test_it_finds_what_is_faster_proves_it_and_says_so(tuned: Path) -> None:
    (rule,) = records.read(tuned).rules
    assert dict(rule.settings)["coll_tuned_allreduce_algorithm"] == RING
    assert (rule.ranks, rule.nodes, rule.min_bytes, rule.max_bytes) == (4, 4, 2**17, 2**19)
    assert rule.gain_low > 0.3  # 24 units cross the root's link, 6 each link of a ring
    trials = [m for m in store.load(tuned)[1] if m.case.settings == rule.settings]
    assert all(m.wrong == 0 for m in trials)
    assert all("tuned" in m.proof and "partial reductions, those of ring" in m.proof for m in trials)
    said = (tuned.parent / "said").read_text()
    assert RING in said
    assert "nonsense" in said  # void, with its reason
    assert f"commbench emit {tuned}" in said


def test_what_it_found_is_emitted_and_can_be_looked_at(tuned: Path, tmp_path: Path) -> None:
    path = tmp_path / "rules.conf"
    ended = run([*COMMBENCH, "emit", str(tuned), "--for", "openmpi", "-o", str(path), "--ranks", "4", "--hosts", "4"])
    assert ended.code == 0, ended.err
    assert "expected" in path.read_text()
    table = json.loads(run([*COMMBENCH, "show", str(tuned), "--json"]).out)
    assert any(dict(row["settings"]).get("coll_tuned_allreduce_algorithm") == RING for row in table["rows"])
    refused = run([*COMMBENCH, "emit", str(tuned), "--for", "openmpi", "-o", str(path), "--ranks", "8"])
    assert refused.code == 2
    assert "ranks: measured with 4, here 8" in refused.err


def test_recheck_says_what_holds_and_what_is_gone(tuned: Path, tmp_path: Path) -> None:
    command = [*COMMBENCH, "tune", "--recheck", str(tuned), "-n", "4", "--lab", "star4", "--budget", "40s"]
    still = run([*command, "--out", str(tmp_path / "same")], **BAD)
    assert still.code == 0, still.out + still.err
    assert "holds" in still.out
    # A library without the component: what was recommended can no longer be set.
    upgraded = run([*command, "--out", str(tmp_path / "new"), "--json"], **BAD, OMPI_MCA_coll="^tuned")
    assert upgraded.code == 1, upgraded.out + upgraded.err
    assert json.loads(upgraded.out)["rechecked"][0]["word"] == "gone"


def test_too_small_a_budget_and_another_number_of_ranks_are_refused(tuned: Path, tmp_path: Path) -> None:
    spec = str(tuned.parent / "spec.yaml")
    little = run(
        [*COMMBENCH, "tune", spec, "-n", "4", "--lab", "star4", "--budget", "10ms", "--out", str(tmp_path / "a")]
    )
    assert little.code == 2
    assert "the smallest that would do is" in little.err
    assert not (tmp_path / "a" / "recommendation.json").exists()
