"""What a verdict has a scheduler do: take out of service the hosts that a FAIL names. Pure: states in, commands out.

Never over somebody else's reason, never more hosts than the cap, and nothing that is not certain unless asked.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal, NamedTuple

from commbench.accept.standing import accusations, plain
from commbench.errors import ReadError, SpecError
from commbench.records import Run
from commbench.records.verdict import Reason, Verdict

Argv = tuple[str, ...]
Scheduler = Literal["slurm", "k8s"]
OURS = "commbench:"  # so begins every reason that is ours
_ANNOTATION = "commbench/reason"
_TAINT = "commbench/fault"
_LONGEST = 160  # characters of a reason


class Node(NamedTuple):
    """A host as its scheduler knows it.

    also     other names of it
    reason   why it is out of service, or was; "" nobody said
    out      it takes no work now
    """

    name: str
    also: tuple[str, ...] = ()
    reason: str = ""
    out: bool = False

    @property
    def foreign(self) -> bool:
        """Somebody else holds it."""
        return bool(self.reason) and not self.reason.startswith(OURS)

    @property
    def done(self) -> bool:
        """It is out already, by us."""
        return self.out and self.reason.startswith(OURS)


class Cap(NamedTuple):
    """The most hosts that may be out by this tool: a share of the fleet, or a number."""

    text: str
    share: Fraction | None
    number: int = 0

    def of(self, hosts: int) -> int:
        return self.number if self.share is None else int(self.share * hosts)


class Action(NamedTuple):
    """What is done about one host."""

    host: str
    commands: tuple[Argv, ...]


class Plan(NamedTuple):
    """What is done, and sentences about what is not."""

    actions: tuple[Action, ...]
    held: tuple[str, ...]


def cap(text: str) -> Cap:
    """From `5%` or `3`. SpecError: neither."""
    if (match := re.fullmatch(r"(\d{1,3}(?:\.\d{1,6})?)%", text, re.ASCII)) and Fraction(match[1]) <= 100:
        return Cap(text, Fraction(match[1]) / 100)
    if re.fullmatch(r"\d{1,6}", text, re.ASCII):
        return Cap(text, None, int(text))
    raise SpecError(f"--cap {text!r} is neither a share of the hosts (5%) nor a number of them (3)")


def plan(
    verdict: Verdict,
    run: Run,
    scheduler: Scheduler,
    most: Cap,
    run_id: str,
    nodes: Sequence[Node] | None,
    names: Mapping[str, str] | None = None,
    ties: bool = False,
) -> Plan:
    """The commands, surest reasons of the verdict first.

    nodes   as the scheduler tells them; None: it could not be asked, and its reasons are not known
    names   host -> node, where they differ (the pods of a job have names of their own)
    ties    also hosts that are only among those that may be at fault
    """
    if verdict.word != "FAIL":
        return Plan((), (f"the verdict is {verdict.word}: nothing is done",))
    fleet = {host.name: (names or {}).get(host.name, host.name) for host in run.machine.hosts}
    find = None if nodes is None else _finder(nodes)
    known = {host: find(name) if find else Node(name) for host, name in fleet.items()}
    left = most.of(len(set(fleet.values()))) - len({n.name for n in known.values() if n and n.done})
    actions: dict[str, Action] = {}
    held: list[str] = []
    for host, reason in accusations(verdict, run, ties):
        node = known.get(host)
        why = _kept(node) if host in fleet else "it took no part in this run"
        if not why and node and node.name not in actions and len(actions) >= left:
            why = f"the cap of {most.text} of {len(fleet)} hosts is reached; --cap sets it"
        if why:
            held.append(f"{host}: {why}")
        elif node and node.name not in actions:
            commands = _COMMANDS[scheduler](node, reason, reason_text(reason, run_id))
            actions[node.name] = Action(node.name, commands)
    if not actions and not held:
        held.append("no reason names a host alone: nothing is done" + ("" if ties else " (--ties takes sets of them)"))
    return Plan(tuple(actions.values()), tuple(held))


def _kept(node: Node | None) -> str:
    """Why a host is left as it is; "" where nothing speaks against it."""
    if node is None:
        return "the scheduler knows no such node, or several"
    if not plain(node.name):
        return "this is no name of a host: nothing is done"
    if node.foreign:
        return f"somebody else's reason stands: {node.reason}"
    return f"it is out already: {node.reason}" if node.done else ""


def _finder(nodes: Sequence[Node]) -> Callable[[str], Node | None]:
    """Name -> the node of this name, else the only one that has it as another name, else the same without a domain."""
    exact = {node.name: node for node in nodes}
    also: dict[str, dict[str, Node]] = {}
    short: dict[str, dict[str, Node]] = {}
    for node in nodes:
        for name in (node.name, *node.also):
            also.setdefault(name, {})[node.name] = node
            short.setdefault(name.partition(".")[0], {})[node.name] = node

    def find(name: str) -> Node | None:
        bare = name.partition(".")[0]
        if name in exact:
            return exact[name]
        # `h3.east` is `h3`, and `h3` is `h3.east`; but `h3.west` is another host.
        found = also.get(name) or (short.get(name) if name == bare else also.get(bare)) or {}
        return next(iter(found.values())) if len(found) == 1 else None

    return find


def reason_text(reason: Reason, run_id: str) -> str:
    """`commbench: slow host h3 0.61/1.17 GB/s lab-20260102`, of plain characters alone."""
    is_, should = ("-" if value is None else f"{value:.3g}" for value in (reason.measured, reason.expected))
    unit = f" {reason.unit}" if reason.unit and (is_, should) != ("-", "-") else ""
    told = f"{OURS} {reason.fault} {reason.component} {is_}/{should}{unit} {run_id}"
    return re.sub(r"[^A-Za-z0-9 ._:/%+()-]", "?", told)[:_LONGEST].rstrip()


# ---- Slurm ----------------------------------------------------------------------------------------------------


def _drain(node: Node, _: Reason, text: str) -> tuple[Argv, ...]:
    return (("scontrol", "update", f"NodeName={node.name}", "State=DRAIN", f"Reason={text}"),)


def _slurm(output: str) -> list[Node]:
    """Of `scontrol show node -o`: a line a node. A reason may be followed by `[user@time]` and further fields."""
    found = []
    for line in output.splitlines():
        if (name := re.match(r"NodeName=(\S+)", line)) is None:
            if line.strip():
                raise ReadError(f"scontrol show node -o told no node: {line[:80]!r}")
            continue
        also = re.findall(r" (?:NodeHostName|NodeAddr)=(\S+)", line)
        state = re.search(r" State=(\S+)", line)
        # Free text of another field could hold ` Reason=` too: a node is ours only if all of them are.
        reasons = [text.strip() for text in re.split(r" Reason=", line)[1:]]
        reason = next((text for text in reasons if not text.startswith(OURS)), reasons[0] if reasons else "")
        out = state is None or re.search(r"DRAIN|DOWN|FAIL", state[1]) is not None
        found.append(Node(name[1], tuple(also), reason, out))
    return found


# ---- Kubernetes -----------------------------------------------------------------------------------------------


def _taint(node: Node, reason: Reason, text: str) -> tuple[Argv, ...]:
    """The annotation first: without --overwrite it fails where somebody was quicker."""
    again = ("--overwrite",) if node.reason else ()
    return (
        ("kubectl", "annotate", "node", node.name, f"{_ANNOTATION}={text}", *again),
        ("kubectl", "taint", "nodes", node.name, f"{_TAINT}={reason.fault.replace(' ', '-')}:NoSchedule"),
    )


def _kubernetes(output: str) -> list[Node]:
    """Of `kubectl get node -o json`. A cordon without our taint is somebody else's."""
    try:
        return [_node(item) for item in json.loads(output)["items"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReadError(f"kubectl get node -o json told no list of nodes: {error!r}") from None


def _node(item: Mapping[str, Any]) -> Node:
    about, spec = item["metadata"], item.get("spec") or {}
    also = [str(each["address"]) for each in (item.get("status") or {}).get("addresses") or ()]
    reason = str((about.get("annotations") or {}).get(_ANNOTATION) or "")
    tainted = any(taint.get("key") == _TAINT for taint in spec.get("taints") or ())
    if spec.get("unschedulable") and not tainted:
        reason = reason if reason and not reason.startswith(OURS) else "cordoned"
    if tainted and not reason:
        reason = f"{OURS} tainted"
    return Node(str(about["name"]), tuple(also), reason, tainted or bool(spec.get("unschedulable")))


_COMMANDS: dict[Scheduler, Callable[[Node, Reason, str], tuple[Argv, ...]]] = {"slurm": _drain, "k8s": _taint}
# How a scheduler is asked, and what its answer says. ReadError: it says nothing that can be understood.
QUESTIONS: dict[Scheduler, tuple[Argv, Callable[[str], list[Node]]]] = {
    "slurm": (("scontrol", "show", "node", "-o"), _slurm),
    "k8s": (("kubectl", "get", "node", "-o", "json"), _kubernetes),
}
