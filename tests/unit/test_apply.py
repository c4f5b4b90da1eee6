"""`commbench apply`: which hosts it takes out, and all that keeps it from doing so."""

import json
import os
import re
import shlex
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from judgements import EVIL, NAMES, SLOW, component, reason, run, verdict

from commbench.accept import actions
from commbench.accept.actions import QUESTIONS, Node, cap, plan
from commbench.accept.standing import plain
from commbench.cli import group
from commbench.errors import ReadError, SpecError
from commbench.jobs.apply import carry_out
from commbench.records import Run
from commbench.records import verdict as record
from commbench.records.verdict import Verdict

FREE = [Node(name) for name in NAMES]
ALL = cap("100%")


def done(found: actions.Plan) -> list[str]:
    return [action.host for action in found.actions]


def planned(one: Verdict, most: str = "100%", nodes: list[Node] | None = FREE, **more: object) -> actions.Plan:
    return plan(one, more.pop("made", run()), more.pop("scheduler", "slurm"), cap(most), "lab-1", nodes, **more)


# ---- whom -----------------------------------------------------------------------------------------------------


def test_a_host_that_a_fail_names_is_drained() -> None:
    (action,) = planned(verdict("FAIL", SLOW)).actions
    assert action.commands == (
        (
            *("scontrol", "update", "NodeName=h3", "State=DRAIN"),
            "Reason=commbench: slow host h3 0.61/1.17 GB/s lab-1",
        ),
    )


def test_kubernetes_has_the_reason_before_the_taint() -> None:
    (action,) = planned(verdict("FAIL", SLOW), scheduler="k8s").actions
    assert action.commands == (
        ("kubectl", "annotate", "node", "h3", "commbench/reason=commbench: slow host h3 0.61/1.17 GB/s lab-1"),
        ("kubectl", "taint", "nodes", "h3", "commbench/fault=slow:NoSchedule"),
    )


@pytest.mark.parametrize("word", ["PASS", "INCONCLUSIVE"])
def test_no_other_word_does_anything(word: record.Word) -> None:
    found = planned(verdict(word, SLOW))
    assert found == actions.Plan((), (f"the verdict is {word}: nothing is done",))


def test_a_reason_that_does_not_decide_for_fail_does_nothing() -> None:
    missing = reason(component("host", "h5"), "not measured")
    assert done(planned(verdict("FAIL", SLOW, missing))) == ["h3"]


@pytest.mark.parametrize(
    ("what", "ties", "certain", "tied"),
    [
        (component("nic", "h3 rail 1"), (), ["h3"], ["h3"]),
        (component("rank", "3"), (), ["h3"], ["h3"]),
        (component("rank", "3 on h3"), (), ["h3"], ["h3"]),
        (component("rank", "99"), (), [], []),
        (component("host", "h3"), (component("nic", "h3 rail 0"),), ["h3"], ["h3"]),
        (component("host", "h3"), (component("host", "h5"),), [], ["h3", "h5"]),
        (component("host", "h3"), (component("path", "h3 - h5"),), [], ["h3"]),
        (component("path", "h3 - h5"), (), [], []),
        (component("uplink", "leaf0"), (), [], []),
        (component("fabric"), (), [], []),
        (component("run"), (), [], []),
    ],
)
def test_only_what_lies_in_one_host_is_certain(
    what: record.Component, ties: tuple[record.Component, ...], certain: list[str], tied: list[str]
) -> None:
    one = verdict("FAIL", reason(what, ties=ties))
    assert done(planned(one)) == certain
    assert done(planned(one, ties=True)) == tied


def test_of_several_reasons_for_a_host_the_first_is_told() -> None:
    found = planned(verdict("FAIL", SLOW, reason(component("host", "h3"), "hang")))
    assert len(found.actions) == 1
    assert "commbench: slow" in found.actions[0].commands[0][-1]


# ---- how many -------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.integers(1, 60), st.integers(0, 60), st.one_of(st.integers(0, 100), st.none()), st.integers(0, 60))
def test_never_more_than_the_cap(hosts: int, bad: int, percent: int | None, number: int) -> None:
    names = [f"n{k}" for k in range(hosts)]
    bad = min(bad, hosts)
    reasons = [reason(component("host", name)) for name in names[:bad]]
    most = f"{percent}%" if percent is not None else str(number)
    found = planned(verdict("FAIL", *reasons, names=names), most, [*map(Node, names)], made=run(names))
    allowed = hosts * percent // 100 if percent is not None else number
    assert len(found.actions) == min(allowed, bad)
    assert done(found) == names[: len(found.actions)]
    assert len(found.actions) + len(found.held) == max(bad, 1)


def test_hosts_that_are_out_already_count() -> None:
    ours = Node("h0", reason="commbench: slow host h0 [root@2026]", out=True)
    one = verdict("FAIL", SLOW, reason(component("host", "h0")), reason(component("host", "h4")))
    nodes = [ours, *FREE[1:]]
    found = planned(one, "1", nodes)
    assert not found.actions
    assert [line.partition(":")[0] for line in found.held] == ["h3", "h0", "h4"]
    assert done(planned(one, "2", nodes)) == ["h3"]


@pytest.mark.parametrize("text", ["", "five", "-1", "5 %", "101%", "0.5", "5%%", "1e3", "٣", "nan%"])
def test_what_is_no_cap(text: str) -> None:
    with pytest.raises(SpecError, match="--cap"):
        cap(text)


def test_a_share_is_exact() -> None:
    assert (cap("29%").of(100), cap("5%").of(20), cap("5%").of(19), cap("0").of(9)) == (29, 1, 0, 0)


# ---- whose ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason_there", "out", "acts"),
    [
        ("", False, True),
        ("", True, True),
        ("commbench: slow host h3 [root@2026-01-01T00:00:00]", False, True),
        ("commbench: slow host h3", True, False),
        ("bad DIMM [admin@2026]", True, False),
        ("bad DIMM", False, False),
        ("Commbench: no", True, False),
        ("not commbench: x", True, False),
    ],
)
def test_never_over_another_reason(reason_there: str, out: bool, acts: bool) -> None:
    nodes = [Node("h3", reason=reason_there, out=out)]
    found = planned(verdict("FAIL", SLOW), nodes=nodes)
    assert bool(found.actions) == acts
    assert bool(found.held) != acts


def test_a_node_that_nobody_knows_is_left() -> None:
    assert not planned(verdict("FAIL", SLOW), nodes=[Node("h4")]).actions
    twins = [Node("a", ("h3",)), Node("b", ("h3",))]
    assert not planned(verdict("FAIL", SLOW), nodes=twins).actions


@pytest.mark.parametrize(
    ("node", "found"),
    [
        (Node("h3.site"), ["h3.site"]),
        (Node("node7", ("h3",)), ["node7"]),
        (Node("node7", ("10.0.0.3", "h3.site")), ["node7"]),
        (Node("h33"), []),
    ],
)
def test_other_names_of_a_node(node: Node, found: list[str]) -> None:
    assert done(planned(verdict("FAIL", SLOW), nodes=[node])) == found


def test_the_same_name_in_another_domain_is_another_host() -> None:
    names = ["h3.east"]
    one = verdict("FAIL", reason(component("host", "h3.east")), names=names)
    assert not planned(one, nodes=[Node("h3.west")], made=run(names)).actions
    assert done(planned(one, nodes=[Node("h3")], made=run(names))) == ["h3"]


def test_pods_are_taken_to_their_nodes() -> None:
    found = planned(verdict("FAIL", SLOW), nodes=[Node("worker-9")], names={"h3": "worker-9"}, scheduler="k8s")
    assert done(found) == ["worker-9"]


def test_a_host_that_was_not_in_the_run_is_left() -> None:
    forged = verdict("FAIL", reason(component("host", "login1")))
    for nodes in ([*FREE, Node("login1")], None):
        found = planned(forged, nodes=nodes)
        assert (found.actions, found.held) == ((), ("login1: it took no part in this run",))


# ---- names that are no names ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("scheduler", ["slurm", "k8s"])
def test_no_strange_name_enters_a_command(name: str, scheduler: actions.Scheduler) -> None:
    one = verdict("FAIL", reason(component("host", name)), names=[name])
    for nodes in ([Node(name)], None):
        found = planned(one, nodes=nodes, made=run([name]), scheduler=scheduler)
        assert not found.actions
        assert found.held


@settings(max_examples=50)
@given(st.text(max_size=12))
def test_a_plain_name_is_a_word_of_its_own(name: str) -> None:
    if plain(name):
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name)
        assert not name.startswith("-")
        assert shlex.quote(name) == name


@settings(max_examples=50)
@given(st.text(max_size=200), st.text(max_size=40))
def test_a_reason_is_one_plain_line(component_id: str, run_id: str) -> None:
    text = actions.reason_text(reason(component("host", component_id), measured=0.5), run_id)
    assert text.startswith("commbench: slow host")
    assert re.fullmatch(r"[A-Za-z0-9 ._:/%+()?-]{1,160}", text)


# ---- what schedulers say --------------------------------------------------------------------------------------

SCONTROL = """\
NodeName=h3 Arch=x86_64 NodeAddr=10.0.0.3 NodeHostName=h3.site State=IDLE ThreadsPerCore=1 Partitions=a
NodeName=h4 Arch=x86_64 NodeAddr=h4 NodeHostName=h4 State=IDLE+DRAIN Partitions=a Reason=bad DIMM [root@2026-01-01T00:00:00] ReservationName=x
NodeName=h5 NodeAddr=h5 NodeHostName=h5 State=DOWN* Partitions=a Reason=commbench: slow host h5 1/2 GB/s r1 [root@2026-01-01T00:00:00]
NodeName=h6 NodeAddr=h6 NodeHostName=h6 State=IDLE Comment=x Reason=commbench: spoof Reason=bad fan [root@2026]

"""  # noqa: E501


def test_what_scontrol_says() -> None:
    h3, h4, h5, h6 = QUESTIONS["slurm"][1](SCONTROL)
    assert h3 == Node("h3", ("10.0.0.3", "h3.site"))
    assert (h4.out, h4.foreign) == (True, True)
    assert h4.reason.startswith("bad DIMM")
    assert (h5.done, h5.foreign) == (True, False)
    assert h6.foreign, "free text of another field does not make a node ours"
    with pytest.raises(ReadError, match="told no node"):
        QUESTIONS["slurm"][1]("slurm_load_node error\n")


def kube(name: str, **spec: object) -> dict[str, object]:
    annotations = {"commbench/reason": spec.pop("reason")} if "reason" in spec else {}
    addresses = [{"type": "Hostname", "address": f"{name}.site"}]
    return {"metadata": {"name": name, "annotations": annotations}, "spec": spec, "status": {"addresses": addresses}}


def test_what_kubectl_says() -> None:
    gpu, ours = {"key": "nvidia.com/gpu", "effect": "NoSchedule"}, {"key": "commbench/fault", "effect": "NoSchedule"}
    items = [
        kube("a", taints=[gpu]),
        kube("b", unschedulable=True),
        kube("c", taints=[ours], reason="commbench: slow"),
        kube("d", reason="under repair"),
        kube("e", unschedulable=True, reason="commbench: slow"),
        kube("f", taints=[ours]),
    ]
    found = {node.name: node for node in QUESTIONS["k8s"][1](json.dumps({"items": items}))}
    assert found["a"] == Node("a", ("a.site",))
    assert {name for name, node in found.items() if node.foreign} == {"b", "d", "e"}
    assert {name for name, node in found.items() if node.done} == {"c", "f"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"items": 3}', '{"items": [1]}', '{"items": [{"metadata": {}}]}'])
def test_what_is_no_list_of_nodes(text: str) -> None:
    with pytest.raises(ReadError, match="no list of nodes"):
        QUESTIONS["k8s"][1](text)


# ---- with programs on PATH ------------------------------------------------------------------------------------

FAKE = """#!/bin/sh
for word in "$@"; do printf '%s\\0' "$word" >> {log}; done
printf '\\n' >> {log}
case "$1 $2" in "show node" | "get node") cat {answer}; exit {asked};; esac
echo "no permission" >&2
exit {code}
"""


class Cluster:
    """A run folder beside a fake scontrol and kubectl that write down how they were called."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run, self.log, self.answer = folder / "lab-1", folder / "log", folder / "answer"
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.run.mkdir()
        self.programs()
        self.holds(verdict("FAIL", SLOW), run())
        self.answer.write_text(SCONTROL)
        monkeypatch.setenv("PATH", f"{self.bin}:{os.environ['PATH']}")

    def programs(self, code: int = 0, asked: int = 0) -> None:
        for name in ("scontrol", "kubectl"):
            path = self.bin / name
            path.write_text(FAKE.format(log=self.log, answer=self.answer, code=code, asked=asked))
            path.chmod(0o755)

    def holds(self, one: Verdict, made: Run) -> None:
        (self.run / "run.json").write_bytes(msgspec.json.encode(made))
        (self.run / record.NAME).write_bytes(record.encode(one))

    def apply(self, *words: str) -> Result:
        return CliRunner().invoke(group, ["apply", str(self.run), *words])

    @property
    def calls(self) -> list[list[str]]:
        """Each call's arguments."""
        text = self.log.read_text() if self.log.exists() else ""
        return [line.split("\0")[:-1] for line in text.splitlines()]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(tmp_path, monkeypatch)


DRAIN = ["update", "NodeName=h3", "State=DRAIN", "Reason=commbench: slow host h3 0.61/1.17 GB/s lab-1"]


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_by_default_it_only_prints(cluster: Cluster, words: tuple[str, ...]) -> None:
    ended = cluster.apply("--cap", "2", *words)
    assert ended.exit_code == 0
    assert cluster.calls == [["show", "node", "-o"]]
    lines = [line for line in ended.output.splitlines() if not line.startswith("#")]
    assert [shlex.split(line) for line in lines] == [["scontrol", *DRAIN]]


def test_with_yes_it_drains(cluster: Cluster) -> None:
    ended = cluster.apply("--yes", "--cap", "2")  # h5 is out by us already
    assert ended.exit_code == 0
    assert cluster.calls == [["show", "node", "-o"], DRAIN]


def test_the_usual_cap_of_a_small_fleet_is_no_host(cluster: Cluster) -> None:
    ended = cluster.apply("--yes")
    assert "the cap of 5% of 8 hosts is reached" in ended.output
    assert cluster.calls == []  # whatever the scheduler says, it is no more than nothing


@pytest.mark.parametrize("word", ["PASS", "INCONCLUSIVE"])
def test_another_word_does_not_even_ask(cluster: Cluster, word: record.Word) -> None:
    cluster.holds(verdict(word, SLOW), run())
    ended = cluster.apply("--yes", "--cap", "100%")
    assert (ended.exit_code, ended.output) == (0, f"# the verdict is {word}: nothing is done\n")
    assert cluster.calls == []


def test_a_foreign_reason_stands(cluster: Cluster) -> None:
    cluster.holds(verdict("FAIL", reason(component("host", "h4"))), run())
    ended = cluster.apply("--yes", "--cap", "8")
    assert "somebody else's reason stands: bad DIMM" in ended.output
    assert cluster.calls == [["show", "node", "-o"]]


def test_kubernetes_with_pods(cluster: Cluster, tmp_path: Path) -> None:
    cluster.answer.write_text(json.dumps({"items": [kube("worker-9"), kube("worker-8")]}))
    (tmp_path / "pods").write_text("# pods\nh3 worker-9\nh4 worker-8\n")
    ended = cluster.apply("--scheduler", "k8s", "--nodes", str(tmp_path / "pods"), "--cap", "1", "--yes")
    assert ended.exit_code == 0, ended.output
    assert cluster.calls == [
        ["get", "node", "-o", "json"],
        ["annotate", "node", "worker-9", "commbench/reason=commbench: slow host h3 0.61/1.17 GB/s lab-1"],
        ["taint", "nodes", "worker-9", "commbench/fault=slow:NoSchedule"],
    ]


@pytest.mark.parametrize("text", ["h3\n", "h3 a b\n", "h3 a\nh3 b\n"])
def test_a_list_of_pods_that_is_none(cluster: Cluster, tmp_path: Path, text: str) -> None:
    (tmp_path / "pods").write_text(text)
    ended = cluster.apply("--nodes", str(tmp_path / "pods"))
    assert isinstance(ended.exception, SpecError)
    assert "HOST NODE" in str(ended.exception)


def test_the_first_command_that_fails_is_the_last(cluster: Cluster) -> None:
    cluster.programs(code=1)
    cluster.holds(verdict("FAIL", SLOW, reason(component("host", "h5"), "crash")), run())
    cluster.answer.write_text("".join(f"NodeName={name} State=IDLE\n" for name in NAMES))
    ended = cluster.apply("--yes", "--cap", "100%")
    assert ended.exit_code == 1
    assert "no permission" in ended.output
    assert cluster.calls == [["show", "node", "-o"], DRAIN]
    twice = actions.Action("h3", (("scontrol", "update", "a"), ("scontrol", "update", "b")))
    assert list(carry_out((twice,))) == [(("scontrol", "update", "a"), "no permission")]


@pytest.mark.parametrize("broken", ["fails", "says nothing that can be read"])
def test_without_an_answer_nothing_is_done(cluster: Cluster, broken: str) -> None:
    if broken == "fails":
        cluster.programs(asked=1)
    else:
        cluster.answer.write_text("hello\n")
    ended = cluster.apply("--yes", "--cap", "8")
    assert ended.exit_code
    assert cluster.calls == [["show", "node", "-o"]]
    dry = cluster.apply("--cap", "8")
    assert dry.exit_code == 0
    assert "whose reasons stand there was not looked at" in dry.output
    assert "NodeName=h3" in dry.output


def test_yes_and_dry_run_contradict(cluster: Cluster) -> None:
    assert isinstance(cluster.apply("--yes", "--dry-run").exception, SpecError)
    assert cluster.calls == []


@pytest.mark.parametrize("name", [name for name in EVIL if name != "\ud800"])  # a file of JSON cannot hold it
def test_nothing_strange_is_printed_or_run(cluster: Cluster, name: str) -> None:
    cluster.holds(verdict("FAIL", reason(component("host", name)), names=[name]), run([name]))
    cluster.answer.write_text("NodeName=h3 State=IDLE\n")
    ended = cluster.apply("--yes", "--cap", "100%")
    assert cluster.calls == []  # there is nothing to do, so nothing to ask
    assert all(line.startswith("#") and line.isprintable() for line in ended.output.splitlines())


def test_no_verdict_no_action(cluster: Cluster) -> None:
    (cluster.run / record.NAME).unlink()
    assert cluster.apply("--yes").exit_code
    assert cluster.calls == []
