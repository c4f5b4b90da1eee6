"""What to do next, by code: one sentence each; docs/codes.md has a section for each."""

from typing import Any

from commbench.records.verdict import CODES, Component, Fault, Reason, Stage

NEXT: dict[str, str] = {
    "CB-SLOW-HOST": "Take the host out of the job's host list; look at CPU load, clocks and thermals, then at its NIC.",
    "CB-SLOW-RAIL": "Read the port's error and pause counters; reseat or swap the cable, then the NIC, and test again.",
    "CB-SLOW-UPLINK": "Compare the error counters of the leaf's uplink ports; look for a port that is down or slower.",
    "CB-SLOW-PATH": "Both hosts are fine with others: look at the route between them (ECMP, a spine port, a link).",
    "CB-SLOW-FABRIC": "Hosts are fine in pairs: look at spine links, routing, congestion control and other jobs.",
    "CB-HANG": "Look at the host's kernel log and its process; take it out, and go on with --resume --exclude HOST.",
    "CB-CRASH": "Look at the host's kernel log (memory, Xid, machine check); go on with --resume --exclude HOST.",
    "CB-WRONG": "Take the host out of service now: data were changed. Test its memory, its NIC and its GPUs.",
    "CB-UNSTABLE": "Test again without other jobs; if it stays, watch link error counters for a flapping link.",
    "CB-TRANSPORT": "Look why the library fell back: its debug log (NCCL_DEBUG=INFO), drivers, and interface settings.",
    "CB-THRESHOLD": "Compare with the fabric's limit and earlier runs: is the threshold right for this size and scale?",
    "CB-COVERAGE": "Start the test on all expected hosts and ranks; go on with --resume where it was stopped.",
    "CB-LAUNCH": "Look at the launcher's output; check the host list, ssh or srun, and the firewall.",
    "CB-BASELINE": "Make a baseline of this machine from a run that passed: commbench baseline create DIR.",
    "CB-BUDGET": "Give it more time: --resume --budget.",
    "CB-UNDECIDED": "Test the suspects again with cleared partners, in more rounds (--resume with more time).",
    "CB-CRITERION": "Correct the criterion in the spec, then judge again: commbench verdict DIR --criteria SPEC.",
}
assert NEXT.keys() == CODES.keys()


def reason(code: str, component: Component, fault: Fault, stage: Stage, sentence: str, **more: Any) -> Reason:
    """A reason that decides as its code says, with the next step of its code."""
    for name in ("measured", "expected", "odds"):
        if more.get(name) is not None:
            more[name] = significant(more[name])
    return Reason(
        code=code,
        component=component,
        fault=fault,
        stage=stage,
        sentence=sentence,
        decides=CODES[code],
        next=NEXT[code],
        **more,
    )


def significant(value: float) -> float:
    """Six digits: the last bits of a float differ between machines, and a verdict must not."""
    return float(f"{value:.6g}")
