"""Acceptance specs: what may be written, and the sentence where it may not."""

import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from commbench.errors import SpecError
from commbench.spec import cases
from commbench.spec.accept import STAGES, AcceptSpec, load
from commbench.spec.document import ACCEPTANCE, shipped

EXAMPLES = int(os.environ.get("COMMBENCH_EXAMPLES", "30"))
WHOLE = """
name: gpu-hall
backend: nccl
expect: {hosts: "node[01-04]", ranks_per_host: 8, gpus_per_host: 8, rails: 2, transport: ib, same: [nic_firmware]}
pairs: {bandwidth: 4MiB, latency: 8B}
full: {collectives: [all_reduce, all_gather], sizes: 1MiB..16MiB x4, dtype: bfloat16}
trial: {max_time: 300ms, min_samples: 5, max_samples: 50, warmup: 20ms}
slowdown: 5%
alpha: 0.1%
beta: 0.02
spread: 4
racks: {leaf1: "node[01-02]", leaf2: ["node03", "node04"]}
fabric: hall.yaml
rails: [eth0, eth1]
windows: 20
stages: [full, spread, confirm, preflight]
criteria:
  - {kind: wire, least: 80%, source: contract 7}
  - {kind: threshold, name: big, op: all_reduce, size: 16MiB, ranks: 32, busbw: 340GB/s, source: vendor 2026-01}
  - {kind: threshold, op: all_reduce, size: 8B, time: 50us}
  - {kind: baseline, path: accepted/baseline.json, slowdown: 3%}
  - {kind: fleet}
  - {kind: stability, p99: 2, windows: 5%}
budget: 10m
exclude: node04
unequal: true
seed: 7
deadline: 30s
"""


def test_a_whole_spec_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(WHOLE)
    spec = load(str(path), ["seed=9"])
    assert spec.name == spec.sweep.name == "gpu-hall"
    assert spec.expect.names == ("node01", "node02", "node03", "node04")
    assert (spec.expect.ranks_per_host, spec.expect.rails, spec.expect.transport) == (8, 2, "ib")
    assert spec.expect.gpus_per_host == 8
    assert (spec.pair_bytes, spec.latency_bytes, spec.slowdown, spec.alpha, spec.beta) == (2**22, 8, 0.05, 0.001, 0.02)
    assert spec.racks == {"leaf1": ("node01", "node02"), "leaf2": ("node03", "node04")}
    assert spec.stages == ("preflight", "spread", "confirm", "full")  # in the order in which they are done
    assert (spec.budget, spec.sweep.seed, spec.sweep.deadline, spec.unequal) == (600.0, 9, 30.0, True)
    assert [one.name for one in spec.criteria] == [
        "wire",
        "big",
        "all_reduce-8B-time",
        "baseline",
        "fleet",
        "stability",
    ]
    wire, big, small, base, _, steady = spec.criteria
    assert (wire.least, wire.source, wire.place) == (0.8, "contract 7", f"{path}:18")
    assert (big.op, big.nbytes, big.ranks, big.busbw) == ("all_reduce", 2**24, 32, 340e9)
    assert (small.nbytes, small.time) == (8, pytest.approx(50e-6))
    assert (base.path, base.slowdown) == (str(tmp_path / "accepted/baseline.json"), 0.03)
    assert (steady.p99, steady.windows) == (2.0, 0.05)
    grid = cases(spec.sweep, [0, 0, 1, 1])
    assert {(case.op, case.nbytes, case.groups) for case in grid} == {
        (op, n, "world") for op in ("all_reduce", "all_gather") for n in (2**20, 2**22, 2**24)
    }
    assert spec.sweep.stop.max_time == 0.3
    assert msgspec.json.decode(msgspec.json.encode(spec), type=AcceptSpec) == spec
    assert "budget" not in str(spec.also)  # a test may be gone on with


def test_a_backend_is_all_that_must_be_said(tmp_path: Path) -> None:
    path = tmp_path / "least.yaml"
    path.write_text("backend: gloo\n")
    spec = load(str(path))
    assert (spec.name, spec.stages, spec.criteria, spec.expect.hosts) == ("least", STAGES, (), None)
    assert cases(spec.sweep, [0, 1])


@pytest.mark.parametrize("name", shipped(ACCEPTANCE))
def test_shipped_specs_are_valid(name: str) -> None:
    assert load(name).name == name


def criterion(text: str) -> str:
    return f"backend: gloo\ncriteria:\n  - {{{text}}}\n"


REFUSED = [
    ("backend: gloo\nexpct: {hosts: 4}", "$.expct: unknown key 'expct'; did you mean 'expect'?"),
    ("expect: {hosts: 4}", "$.backend: is missing"),
    ("backend: simulated", "unknown backend 'simulated'"),
    ("backend: gloo\nexpect: {hosts: 0}", "$.expect.hosts: 0 is not a whole number from 1 to 65536"),
    ("backend: gloo\nexpect: {hosts: true}", "$.expect.hosts: true is not a name"),
    ("backend: gloo\nexpect: {hosts: [h1, h2, h1]}", "$.expect.hosts[2]: h1 is written twice"),
    ("backend: gloo\nexpect: {hosts: [h[1-4], h2]}", "h2 is written twice"),
    ("backend: gloo\nexpect: {hosts: ['h1;reboot']}", "'h1;reboot' is not the name of a host"),
    ("backend: gloo\nexpect: {hosts: ['$(id)']}", "is not the name of a host"),
    ("backend: gloo\nexpect: {hosts: ['h1 h2']}", "is not the name of a host"),
    ("backend: gloo\nexpect: {hosts: ['-rf']}", "is not the name of a host"),
    ('backend: gloo\nexpect: {hosts: ["h\\e[31m"]}', "is not the name of a host"),
    ("backend: gloo\nexclude: ['../x']", "is not the name of a host"),
    ("backend: gloo\nexpect: {hosts: h[1-4]}\nexclude: h9", "$.exclude: h9 is not among the expected hosts"),
    ("backend: gloo\nexpect: {hosts: h[1-3]}\nexclude: h[1-3]", "$.exclude: leaves none of the expected hosts"),
    ("backend: gloo\nexpect: {gpus_per_host: 0}", "$.expect.gpus_per_host: 0 is not a whole number from 1"),
    ("backend: gloo\nexpect: {hosts: h[1-4]}\nracks: {a: h[1-5]}", "$.racks.a: h5 is not among the expected hosts"),
    ("backend: gloo\nracks: {a: h[1-4], b: h[4-6]}", "$.racks.b: h4 is also in rack a"),
    ("backend: gloo\nracks: [h1]", "$.racks: write the hosts of each rack"),
    ("backend: gloo\nrails: [eth0, eth0]", "$.rails: eth0 is there twice"),
    ("backend: gloo\nrails: ['eth0;ls']", "is not a network interface"),
    ("backend: gloo\nexpect: {transport: 'i b'}", "is not a network interface"),
    ("backend: gloo\nalpha: 1.5", "$.alpha: '1.5' must lie between 0 and 100 %"),
    ("backend: gloo\nbeta: 40%", "$.beta: '40%' is out of range"),
    ("backend: gloo\nalpha: -0.1", "is not a share"),
    ("backend: gloo\nslowdown: .nan", "is not a share"),
    ("backend: gloo\nslowdown: .inf", "is not a share"),
    ("backend: gloo\nslowdown: 0", "must lie between 0 and 100 %"),
    ("backend: gloo\nbudget: 600", "is not a time with its unit"),
    ("backend: gloo\nbudget: -5m", "is not a time with its unit"),
    ("backend: gloo\nspread: 0", "$.spread: 0 is not a whole number from 1 to 64"),
    ("backend: gloo\nwindows: 1.5", "$.windows: 1.5 is not a whole number"),
    ("backend: gloo\nstages: [spread, burn]", "$.stages[1]: unknown stage 'burn'"),
    ("backend: gloo\nstages: [confirm]", "confirm needs spread"),
    ("backend: gloo\nstages: []", "the list is empty"),
    ("backend: gloo\npairs: {bandwidth: 8B}", "$.pairs.bandwidth: a message of less than 64KiB tells latency"),
    ("backend: gloo\npairs: {bandwith: 1MiB}", "did you mean 'bandwidth'?"),
    ("backend: gloo\nfull: {collectives: barrier}", "unknown collective 'barrier'"),
    ("backend: gloo\nfull: {sizes: 1MiB..4MiB}", "does not say how to step"),
    ("backend: gloo\nunequal: 1", "$.unequal: 1 is not true or false"),
    ("backend: gloo\ndeadline: .inf", "is not a time"),
    ("backend: gloo\ncriteria: {kind: wire}", "$.criteria: write a list of mappings"),
    ("backend: gloo\ncriteria: []", "$.criteria: write a list of mappings"),
    (criterion("least: 80%"), "$.criteria[0].kind: is missing; write one of wire, threshold"),
    (criterion("kind: wires, least: 80%"), "$.criteria[0].kind: unknown criterion 'wires'; did you mean 'wire'?"),
    (criterion("kind: wire"), "$.criteria[0].least: is missing"),
    (criterion("kind: wire, least: 80"), "must lie between 0 and 100 %"),
    (criterion("kind: wire, least: 80%, busbw: 1GB/s"), "$.criteria[0].busbw: does not go with wire"),
    (criterion("kind: wire, atleast: 80%"), "unknown key 'atleast'"),
    (criterion("kind: threshold, op: all_reduce, size: 16MiB"), "write either busbw (at least) or time (at most)"),
    (criterion("kind: threshold, op: all_reduce, size: 16MiB, busbw: 400Gb/s"), "(bytes, not bits)"),
    (criterion("kind: threshold, op: all_reduce, size: 16MiB, busbw: 400Gbit/s"), "(bytes, not bits)"),
    (criterion("kind: threshold, op: all_reduce, size: 16MiB, busbw: 340"), "is not a bandwidth with its unit"),
    (criterion("kind: threshold, op: all_reduce, size: 16MiB, busbw: -1GB/s"), "is not a bandwidth"),
    (criterion("kind: threshold, op: all_reduce, size: 16MiB, busbw: .nan"), "is not a bandwidth"),
    (criterion("kind: threshold, op: all_reduce, size: 16MiB, busbw: 0GB/s"), "is out of range; write more than 0"),
    (
        criterion("kind: threshold, op: all_reduce, size: 8B, busbw: 1GB/s"),
        "below 64KiB write a time, as in time",
    ),
    (criterion("kind: threshold, op: all_reduce, size: 8B, time: 50"), "is not a time with its unit"),
    (criterion("kind: threshold, op: all_reduce, size: 16M..64M x2, busbw: 1GB/s"), "a threshold holds for one size"),
    (criterion("kind: threshold, op: allreduce, size: 16M, busbw: 1GB/s"), "did you mean 'all_reduce'?"),
    (criterion("kind: threshold, size: 16M, busbw: 1GB/s"), "$.criteria[0].op: is missing"),
    (criterion("kind: threshold, op: all_reduce, size: 16M, ranks: 1, busbw: 1GB/s"), "1 is not a whole number from 2"),
    (criterion("kind: baseline"), "$.criteria[0].path: is missing"),
    (criterion("kind: stability"), "says nothing; write p99"),
    (criterion("kind: stability, p99: 0.5"), "is not how many times the median"),
    (criterion("kind: stability, p99: .inf"), "is not how many times the median"),
    (criterion("kind: stability, windows: 50%"), "at most half of all windows lie below"),
    (criterion("kind: baseline, path: 'https://u:p@h/b.json'"), "this is an address; fetch the file first"),
    ("backend: gloo\nfabric: http://h/hall.yaml", "$.fabric: this is an address"),
    ("backend: gloo\nexpect: {same: [a=b]}", "$.expect.same[0]: 'a=b' is not a name"),
    (criterion("kind: fleet, slowdown: 15"), "must lie between 0 and 100 %"),
    ("backend: gloo\ncriteria: [{kind: fleet, name: a}, {kind: wire, least: 80%, name: a}]", "'a' is also the name of"),
    ("backend: gloo\ncriteria: [{kind: fleet}, {kind: fleet}]", "'fleet' is also the name of"),
    ('backend: gloo\ncriteria: [{kind: fleet, source: "a\\nb"}]', "is not a source"),
    ("backend: gloo\nbackend: mpi", "written twice"),
]


@pytest.mark.parametrize(("text", "says"), REFUSED)
def test_mistakes_are_refused_with_their_place(text: str, says: str, tmp_path: Path) -> None:
    sentence = refused(load, tmp_path / "bad.yaml", text + "\n")
    assert says in sentence
    assert sentence.startswith("FILE:")


def test_a_time_threshold_of_a_large_message_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "time.yaml"
    path.write_text(criterion("kind: threshold, op: all_reduce, size: 1GiB, time: 10ms"))
    (one,) = load(str(path)).criteria
    assert (one.time, one.source) == (0.01, "")


def test_a_source_is_kept_without_its_password(tmp_path: Path) -> None:
    path = tmp_path / "secret.yaml"
    path.write_text(criterion("kind: fleet, source: 'https://joe:hunter2@wiki/limits, token=hunter3'"))
    for overrides in (), ["criteria=[{kind: fleet, source: 'see //me:hunter4@wiki'}]"]:
        kept = msgspec.json.encode(load(str(path), overrides)).decode()
        assert "wiki" in kept
        assert not [secret for secret in ("hunter2", "hunter3", "hunter4", "joe") if secret in kept]


@given(st.text(max_size=200), st.sampled_from(["expect", "criteria", "racks", "alpha", "stages", "pairs", "full"]))
@settings(max_examples=EXAMPLES, deadline=None)
def test_no_text_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, text: str, key: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(f"backend: gloo\n{key}: {text}\n", encoding="utf-8", errors="replace")
    said = ""
    try:
        load(str(path))
    except SpecError as error:
        said = str(error)
    assert said.isprintable()
