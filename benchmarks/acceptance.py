"""Acceptance tests of labs with one fault put in, on real traffic: is the culprit named, is its class right?

Each run is `commbench accept lab` as a user would start it. Faults: a host at half and at four fifths of its rate, one
NIC of two, an uplink, a rank stopped and a rank killed in the midst of the test, a host that gets a fifth of the
processor, a bit flipped in what one host receives; and healthy labs, which must pass. A run is right where the verdict
is FAIL with the right code and the right component is named, alone or in a set of ties that nothing could part.

    python benchmarks/acceptance.py --repeats 5 --healthy 20 --json /tmp/acceptance.json
    python benchmarks/acceptance.py --only uplink --repeats 2
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

THREE = ["--set", "expect.hosts=6"]

# Around what a process receives from another: as a broken NIC or memory of one host would change it.
FLIP = """
    import importlib.abc, importlib.util, socket, sys
    if socket.gethostname() == "{host}":
        class Finder(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path, target=None):
                if name != "commbench.backends.torchdist":
                    return None
                sys.meta_path.remove(self)
                from commbench.collectives import Data
                real = Data.verify
                def verify(self, read):
                    def flipped(start, stop):
                        part = read(start, stop).copy()
                        if start == 0 and len(part) > 100:
                            part.view("u4")[100] ^= 1 << 20
                        return part
                    return real(self, flipped)
                Data.verify = verify
                return importlib.util.find_spec(name)
        sys.meta_path.insert(0, Finder())
"""


class Scenario(NamedTuple):
    """spec, topology, options, and what must be found: codes and a part of the component's id."""

    spec: str
    topology: str
    options: list[str]
    codes: tuple[str, ...]
    culprit: str
    act: "Callable[[Path], None] | None" = None
    flip: str = ""


def host(dice: random.Random, hosts: int) -> str:
    return f"h{dice.randint(1, hosts)}"


def scenario(kind: str, dice: random.Random) -> Scenario:
    """One fault of a kind, somewhere."""
    slow = ("CB-SLOW-HOST", "CB-SLOW-RAIL")
    who = host(dice, 8)
    if kind in ("host50", "host80"):
        return Scenario("lab", "star8", ["--fault", f"slow {who} {kind[4:]}%"], slow, who)
    if kind == "starved":
        return Scenario("lab", "star8", ["--fault", f"starve {who} 20%"], ("CB-SLOW-HOST", "CB-UNSTABLE"), who)
    if kind == "nic":
        who, rail = host(dice, 4), dice.randint(1, 2)
        found = Scenario(
            "rails", "rails", ["--fault", f"slow {who}-rail{rail} 50%"], ("CB-SLOW-RAIL",), f"{who} rail {rail - 1}"
        )
        return found
    if kind == "uplink":
        which = dice.randint(1, 3)
        return Scenario(
            "lab", "three-racks", [*THREE, "--fault", f"slow uplink{which} 40%"], ("CB-SLOW-UPLINK",), f"leaf{which}"
        )
    if kind == "paused":
        return Scenario("lab", "star8", [], ("CB-HANG",), who, lambda out: strike(out, who, signal.SIGSTOP, dice))
    if kind == "killed":
        return Scenario("lab", "star8", [], ("CB-CRASH",), who, lambda out: strike(out, who, signal.SIGKILL, dice))
    if kind == "flipped":
        return Scenario("lab", "star8", [], ("CB-WRONG",), who, flip=who)
    spec, place, options = dice.choice(
        [("lab", "star8", []), ("lab", "two-racks", []), ("lab", "three-racks", THREE), ("rails", "rails", [])]
    )
    return Scenario(spec, place, list(options), (), "")


KINDS = ("host50", "host80", "nic", "uplink", "paused", "starved", "flipped", "killed")


def strike(out: Path, where: str, number: signal.Signals, dice: random.Random) -> None:
    """Sends a signal to the rank of a host, some rows after the test began."""
    rows = dice.randint(4, 40)
    until = time.monotonic() + 120
    while time.monotonic() < until:
        journal = out / "journal.jsonl"
        if journal.exists() and journal.read_bytes().count(b"\n") >= rows:
            for pid in ranks(where):
                os.kill(pid, number)
            return
        time.sleep(0.05)


def ranks(where: str) -> list[int]:
    """Process numbers of the ranks on a host of a lab of this machine."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            own = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        agent = b"torch.distributed.run" in words
        if b"python" in words[0] and b"--started" in words and not agent and f"NCCL_HOSTID={where}".encode() in own:
            found.append(int(entry.name))
    return found


def run(one: Scenario, out: Path, more: list[str]) -> tuple[int, dict[str, Any], float, str]:
    """(exit code, the verdict, seconds, what was printed)."""
    env = dict(os.environ)
    if one.flip:
        tricks = out.with_name("tricks")
        tricks.mkdir()
        (tricks / "sitecustomize.py").write_text(textwrap.dedent(FLIP.format(host=one.flip)))
        env["PYTHONPATH"] = f"{tricks}:{env.get('PYTHONPATH', '')}"
    command = [sys.executable, "-m", "commbench", "accept", one.spec, "--lab", one.topology]
    clock = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [*command, "--out", str(out), *one.options, *more], stdout=said, stderr=said, env=env
        )
        if one.act:
            one.act(out)
        try:
            code = process.wait(400)
        except subprocess.TimeoutExpired:
            process.kill()
            code = -9
        said.seek(0)
        text = said.read()
    path = out / "verdict.json"
    return code, json.loads(path.read_text()) if path.exists() else {"word": "none"}, time.monotonic() - clock, text


def named(verdict: dict[str, Any]) -> list[tuple[str, str, list[str]]]:
    """(code, component, ties) of each reason that makes a FAIL."""
    return [
        (reason["code"], reason["component"].get("id", ""), [tie.get("id", "") for tie in reason.get("ties", ())])
        for reason in verdict.get("reasons", ())
        if reason["decides"] == "FAIL"
    ]


def right(one: Scenario, code: int, verdict: dict[str, Any]) -> bool:
    """Healthy: PASS. Else FAIL, the first reason has a right code, and the culprit is it or among its ties."""
    if not one.codes:
        return code == 0 and verdict["word"] == "PASS"
    found = named(verdict)
    if code != 1 or not found:
        return False
    which, component, ties = found[0]
    whole = [component, *ties]
    exact = any(one.culprit == name or name.startswith(f"{one.culprit} ") for name in whole)
    return which in one.codes and exact


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each kind of fault")
    parser.add_argument("--healthy", type=int, default=20)
    parser.add_argument("--only", action="append", choices=(*KINDS, "healthy"), default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="of the spec")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="folder for the healthy runs, and for those that went wrong")
    given = parser.parse_args()
    dice = random.Random(given.seed)
    jobs = [kind for kind in KINDS for _ in range(given.repeats)] + ["healthy"] * given.healthy
    jobs = [kind for kind in jobs if not given.only or kind in given.only]
    dice.shuffle(jobs)
    counts: dict[str, list[bool]] = collections.defaultdict(list)
    passes = 0
    told = []
    for number, kind in enumerate(jobs):
        one = scenario(kind, dice)
        with tempfile.TemporaryDirectory(prefix="accept-") as folder:
            out = Path(folder) / "run"
            code, verdict, seconds, text = run(one, out, [f"--set={item}" for item in given.set])
            good = right(one, code, verdict)
            if given.keep and not (good and one.codes) and out.exists():
                shutil.copytree(out, given.keep / f"{number + 1}-{kind}")
        counts[kind].append(good)
        passes += bool(one.codes) and verdict["word"] == "PASS"
        found = "; ".join(f"{c} {w}{' or ' + ' or '.join(t) if t else ''}" for c, w, t in named(verdict)[:3])
        print(f"{number + 1:3} of {len(jobs)} {kind:8} {one.topology:12} {one.culprit:12} {seconds:4.0f} s  "
              f"{verdict['word']:12} {found}{'' if good else '   <- wrong'}", flush=True)  # fmt: skip
        if not good:
            print(textwrap.indent(text[-1500:], "        | "), flush=True)
        told.append({"kind": kind, "topology": one.topology, "culprit": one.culprit, "code": code, "right": good,
                     "seconds": round(seconds, 1), "word": verdict["word"], "named": named(verdict),
                     "power": verdict.get("power")})  # fmt: skip
        if given.json:
            given.json.write_text(json.dumps(told, indent=1))
    for kind, each in counts.items():
        print(f"{kind:8} right in {sum(each)} of {len(each)}")
    quiet = [one["power"] for one in told if one["kind"] == "healthy" and one["power"] and one["power"].get("noise")]
    if quiet:
        for name in ("noise", "congestion", "detectable"):
            found = sorted(one.get(name) or 0.0 for one in quiet)
            print(f"{name} of healthy labs: median {statistics.median(found):.1%}, {found[0]:.1%} to {found[-1]:.1%}")
    faulty = [good for kind, each in counts.items() if kind != "healthy" for good in each]
    print(f"faults: {sum(faulty)} of {len(faulty)} right, {passes} of them PASS; "
          f"healthy: {sum(counts['healthy'])} of {len(counts['healthy'])} PASS")  # fmt: skip


if __name__ == "__main__":
    main()
