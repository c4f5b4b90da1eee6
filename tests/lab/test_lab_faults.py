"""Faults act where they are put, for as long as they are there, and are written down as they were."""

import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from machine import reaches, said
from ranks import wait_for

from commbench.errors import LaunchError, SpecError
from commbench.lab import agent, check
from commbench.lab.client import Lab, inject, lab
from commbench.spec.topology import ScriptedFault, parse_fault

BUSY = "import time\nend = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass\nprint(time.process_time())"
COUNT = "import time\nn = 0\nwhile True: n += 1; print(n, flush=True); time.sleep(0.01)"


def share(net: Lab, link: str, upward: bool = True) -> float:
    """Measured over declared rate of one direction; the better of two, since others use this machine."""
    found = next(one for one in net.fabric.links if one.name == link)
    source, target = found.ends if upward else found.ends[::-1]
    return max(check.measure(net, found, source, target, 0.2).share for _ in range(2))


def assert_a_quarter(starved: float, free: float) -> None:
    """Of the 1.5 s of BUSY. Where others fill this machine the free one has less too, so it bounds from below only."""
    assert 0.1 * free < starved < 0.45 * 1.5


def told(net: Lab, since: int = 0) -> list[tuple[str, str]]:
    return [(event["kind"], event["target"]) for event in net.events()[since:]]


def test_slow_a_link_both_ways_and_no_other(net: Lab) -> None:
    net.slow("h3-leaf1", 0.5)
    try:
        assert [share(net, "h3-leaf1", way) for way in (True, False)] == pytest.approx([0.5, 0.5], rel=0.1)
        assert share(net, "h2-leaf1") == pytest.approx(1, rel=0.1)
        net.slow("h3-leaf1", 0.1)
        assert share(net, "h3-leaf1") == pytest.approx(0.1, rel=0.15)
    finally:
        net.slow("h3-leaf1", 1.0)
    assert share(net, "h3-leaf1") == pytest.approx(1, rel=0.1)


def test_slow_a_host_is_all_of_its_links_and_only_those() -> None:
    with lab("rails") as net:
        net.slow("h3", 0.5)
        shares = {
            link.name: share(net, link.name) for link in net.fabric.links if "h3" in link.ends or "h4" in link.ends
        }
        assert len(shares) == 4
        for link, found in shares.items():
            assert found == pytest.approx(0.5 if "h3" in link else 1, rel=0.1), link


@pytest.mark.parametrize("target", ["h2", "h2-leaf1"])
def test_down_and_up(target: str, net: Lab) -> None:
    net.down_link(target)
    assert not reaches(net, "h1", "h2")
    assert reaches(net, "h1", "h3")
    net.up(target)
    wait_for(lambda: reaches(net, "h1", "h2"), 5)


def test_a_routed_link_that_comes_back_has_its_routes() -> None:
    with lab("ring") as net:
        before = {node: said(net, "ip route", node) for node in ("h1", "s1", "s2")}
        net.down_link("h1-s1")
        assert not reaches(net, "h2", "h1")
        net.up("h1-s1")
        net.down_link("s1-s2")
        net.up("s1-s2")
        wait_for(lambda: reaches(net, "h2", "h1"), 5)
        assert {node: said(net, "ip route", node) for node in before} == before


def test_flap_until_up(net: Lab) -> None:
    port = "cat /sys/class/net/eth0/operstate"
    net.flap("h2", 0.4)
    seen = set()
    until = time.monotonic() + 10
    while time.monotonic() < until and len(seen) < 2:
        seen.add(said(net, port, "h2"))
    assert len(seen) == 2
    net.up("h2-leaf1")  # of the link, where the flap was of the host: it is the same link
    time.sleep(0.3)
    assert {said(net, port, "h2") for _ in range(10)} == {"up"}
    net.up("h2")


def test_pause_and_resume(net: Lab, tmp_path: Path) -> None:
    counts = tmp_path / "counts"
    with counts.open("w") as file:
        process = net.launch([sys.executable, "-c", COUNT], "h3", stdout=file)
    try:
        wait_for(lambda: counts.stat().st_size)
        net.pause("h3")
        time.sleep(0.2)
        paused = counts.stat().st_size
        late = net.launch(["touch", str(tmp_path / "late")], "h3")  # who comes to a paused host waits too
        time.sleep(0.5)
        assert counts.stat().st_size == paused
        assert not (tmp_path / "late").exists()
        assert said(net, "echo alive", "h2") == "alive"
        net.resume("h3")
        wait_for(lambda: counts.stat().st_size > paused, 5)
        assert late.wait(10) == 0
        assert (tmp_path / "late").exists()
    finally:
        process.terminate()
        process.wait()


def test_starve(net: Lab) -> None:
    """Of two processes that do the same, the starved one gets its share of what the other one gets."""
    net.starve("h3", 0.25)
    try:
        both = [net.launch([sys.executable, "-c", BUSY], host, stdout=-1) for host in ("h2", "h3")]
        free, starved = (float(process.communicate(timeout=60)[0]) for process in both)
    finally:
        net.resume("h3")
    assert_a_quarter(starved, free)


def test_a_host_with_a_part_of_the_cores(tmp_path: Path) -> None:
    """Its processes have their part from the beginning, also after a pause, and that is no fault."""
    path = tmp_path / "weak.yaml"
    path.write_text("hosts: {h1: {}, h2: {cpu: 25%}}\nlinks: [{from: h1, to: h2, rate: 1Gbit/s}]\n")
    with lab(path) as net:
        assert net.events() == []
        net.pause("h2")
        net.resume("h2")
        both = [net.launch([sys.executable, "-c", BUSY], host, stdout=-1) for host in net.hosts]
        free, starved = (float(process.communicate(timeout=60)[0]) for process in both)
        assert_a_quarter(starved, free)


def test_loss(net: Lab) -> None:
    if not shutil.which("nft"):
        with pytest.raises(LaunchError, match="loss needs nftables: apt install nftables"):
            net.loss("h1-leaf1", 0.02)
        return
    again = "grep ^Tcp: /proc/net/snmp | tail -n 1 | cut -d ' ' -f 13"  # RetransSegs
    refused = ""
    try:
        net.loss("h1-leaf1", 0.02)
    except LaunchError as error:
        refused = str(error)
    if refused:
        assert "this kernel does not offer loss" in refused
        return
    before = int(said(net, again, "h1"))
    share(net, "h1-leaf1")
    assert int(said(net, again, "h1")) > before
    net.loss("h1-leaf1", 0.0)
    before = int(said(net, again, "h1"))
    assert share(net, "h1-leaf1") > 0.9
    assert int(said(net, again, "h1")) - before < 5


def script(folder: Path, *faults: str) -> Path:
    path = folder / "scripted.yaml"
    links = "hosts: h[1-4]\nswitches: [leaf1]\nlinks: [{from: 'h[1-4]', to: leaf1, rate: 100Mbit/s}]\n"
    path.write_text(links + "faults:\n" + "".join(f"  - {{{fault}}}\n" for fault in faults))
    return path


def test_scripted_faults_come_and_go_at_their_times(tmp_path: Path) -> None:
    topology = script(
        tmp_path,
        "at: 0.2s, slow: h2, to: 50%, for: 0.8s",
        "at: 0.5s, pause: h3, for: 0.2s",
        "at: 0.6s, down: h4-leaf1",
        "at: 1.3s, up: h4-leaf1",
    )
    with lab(topology) as net:
        time.sleep(0.3)
        assert net.events() == []  # their clock has not started
        began = time.time()
        net.script()
        wait_for(lambda: len(net.events()) == 6, 10)
        assert _status(net) == {}
        events = net.events()
    expected = [
        (0.2, "slow", "h2", 0.5, "h2-leaf1 at 50 % of the rate"),
        (0.5, "pause", "h3", None, "0 processes stopped"),
        (0.6, "down", "h4-leaf1", None, "h4-leaf1 down"),
        (0.7, "pause", "h3", None, "over"),
        (1.0, "slow", "h2", 0.5, "over"),
        (1.3, "up", "h4-leaf1", None, "h4-leaf1 up"),
    ]
    for event, (at, *said_of_it) in zip(events, expected, strict=True):
        assert event["time"] - began == pytest.approx(at, abs=0.3)
        assert [event[key] for key in ("kind", "target", "share", "how")] == said_of_it


def _status(net: Lab) -> dict[str, str]:
    found: dict[str, str] = agent.ask(net.folder, do="status")["faults"]
    return found


def test_a_fault_that_was_replaced_is_not_taken_back(net: Lab) -> None:
    since = len(net.events())
    inject(net.folder, parse_fault("slow", "h4", "50%", "0.3s"))
    net.slow("h4", 0.2)
    time.sleep(0.6)
    assert _status(net) == {"slow h4": "h4-leaf1 at 20 % of the rate"}
    net.slow("h4", 1.0)
    assert _status(net) == {}
    assert told(net, since) == [("slow", "h4")] * 3


def test_a_bad_fault_never_ends_the_lab(net: Lab) -> None:
    refused: Sequence[ScriptedFault] = [
        ScriptedFault(at=0, kind="slow", target="h3", share=0.0),
        ScriptedFault(at=0, kind="slow", target="h3", share=7.0),
        ScriptedFault(at=0, kind="starve", target="h3", share=-1.0),
        ScriptedFault(at=0, kind="flap", target="h3", period=0.0),
        ScriptedFault(at=0, kind="pause", target="h3-leaf1"),
        ScriptedFault(at=0, kind="slow", target="h9", share=0.5),
    ]
    since = len(net.events())
    for fault in refused:
        with pytest.raises(SpecError, match=r"h3|h9"):
            inject(net.folder, fault)
    for fields in ({"kind": "melt"}, {"kind": "flap", "target": "h3"}, {"kind": "pause", "target": "x"}, {"at": []}, 5):
        assert "error" in agent.ask(net.folder, do="fault", fault={"at": 0.0, **fields} if fields != 5 else 5)
    assert "error" in agent.ask(net.folder, do="nothing")
    with agent.knock(net.folder) as door:
        door.sendall(b"[1, 2]\n")
        assert "error" in json.loads(door.recv(4096))
    net.flap("h4", 1e-6)  # as fast as it can: the lab answers still
    assert said(net, "echo alive", "h2") == "alive"
    net.up("h4")
    wait_for(lambda: reaches(net, "h1", "h4"), 5)
    assert told(net, since) == [("flap", "h4"), ("up", "h4")]
