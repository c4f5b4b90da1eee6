"""Hosts that are really apart, links with their rates, and a machine that does not notice."""

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
from machine import connect, gone, held, inhabitants, networks, reaches, said, surroundings
from ranks import COMMBENCH, run

from commbench.lab.client import Lab, lab

SHIPPED = sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "sweeps" / "lab").glob("*.yaml"))


@pytest.mark.parametrize("topology", SHIPPED)
def test_up_and_down_leaves_the_machine_as_it_was(topology: str, room: Path) -> None:
    before = surroundings()
    with lab(topology) as net:
        assert surroundings() == before
        spaces = networks(inhabitants(room))
        assert len(spaces) == len(net.fabric.links_of) + 1  # and that of process 1, which is empty
        last = net.hosts[-1]
        assert said(net, "hostname") == "h1"
        assert said(net, "hostname", last) == last
        assert said(net, f"getent hosts {last}").split() == [net.plan.names[last], last]
        for host in net.hosts[1:]:
            assert reaches(net, "h1", host)
    with pytest.raises(OSError, match=r"not known|resolution"):
        socket.gethostbyname(last)
    assert not gone(room)
    assert not held(spaces)
    assert not list(room.iterdir())
    assert surroundings() == before


def test_hosts_share_no_memory(net: Lab) -> None:
    said(net, "echo mine > /dev/shm/mark", "h1")
    assert said(net, "ls /dev/shm", "h1") == "mark"
    assert said(net, "ls /dev/shm", "h2") == ""
    assert not Path("/dev/shm/mark").exists()
    for kind in ("ipc", "uts", "mnt", "net"):
        spaces = {said(net, f"readlink /proc/self/ns/{kind}", host) for host in net.hosts}
        assert len(spaces | {os.readlink(f"/proc/self/ns/{kind}")}) == 5


def test_a_host_sees_its_own_interfaces_only(net: Lab) -> None:
    assert said(net, "ls /sys/class/net", "h3").split() == ["eth0", "lo"]
    assert [line.split()[0].partition("@")[0] for line in said(net, "ip -br link", "h3").splitlines()] == ["lo", "eth0"]


def test_traffic_never_leaves(net: Lab) -> None:
    """Not even the machine itself is within reach, and the answer comes at once."""
    assert said(net, "ip route show default; ip -6 route show default") == ""
    told = subprocess.run(["ip", "-br", "-4", "address"], capture_output=True, text=True, check=True).stdout
    own = [word.partition("/")[0] for line in told.splitlines() for word in line.split()[2:] if "." in word]
    with socket.create_server(("0.0.0.0", 0)) as server:
        for address in ["1.1.1.1", "8.8.8.8", *own]:
            found = connect(net, "h1", address, server.getsockname()[1])
            loopback = address.startswith("127.")  # the host's own
            assert found.split()[0] == ("ConnectionRefusedError" if loopback else "OSError"), f"{address}: {found}"
            assert found.endswith("True"), f"{address} is not refused at once: {found}"
    assert connect(net, "h1", "example.org").split()[0] == "gaierror"


def test_without_root(room: Path) -> None:
    """In a user namespace of its own, which is what a plain user has."""
    before = surroundings()
    with lab("two-racks", rootless=True) as net:
        assert surroundings() == before
        assert os.readlink(f"/proc/{max(inhabitants(room))}/ns/user") != os.readlink("/proc/self/ns/user")
        assert reaches(net, "h1", "h8")
        assert said(net, "hostname; ls /dev/shm", "h8") == "h8"
        assert said(net, "ls /sys/class/net", "h8").split() == ["eth0", "lo"]
        net.slow("h8", 0.5)
        net.down_link("h8")
        assert not reaches(net, "h1", "h8")
    assert not gone(room)
    assert surroundings() == before


def test_two_labs_of_one_topology(room: Path) -> None:
    with lab("star4") as one, lab("star4") as other:
        assert one.id != other.id
        one.down_link("h2")
        assert not reaches(one, "h1", "h2")
        assert reaches(other, "h1", "h2")
        spaces = networks(inhabitants(one.folder)) & networks(inhabitants(other.folder))
        assert not spaces
        one.down()
        assert reaches(other, "h1", "h2")
    assert not gone(room)


@pytest.mark.parametrize("topology", ["star4"])
def test_every_link_has_its_rate(topology: str) -> None:
    ended = run([*COMMBENCH, "lab", "check", topology, "--seconds", "0.25"])
    assert ended.code == 0, ended.out + ended.err
    lines = [line for line in ended.out.splitlines() if "declared" in line]
    assert len(lines) == {"star4": 8, "two-racks": 20}[topology]
    assert all(95 <= float(line.split()[-2]) <= 105 for line in lines), ended.out


def test_sixteen_hosts(tmp_path: Path, room: Path) -> None:
    path = tmp_path / "star16.yaml"
    path.write_text("hosts: h[1-16]\nswitches: [leaf]\nlinks: [{from: 'h[1-16]', to: leaf, rate: 100Mbit/s}]\n")
    best = [60.0, 60.0]
    for _ in range(3):
        began = time.monotonic()
        net = lab(path)
        between = time.monotonic()
        net.down()
        best = [min(best[0], between - began), min(best[1], time.monotonic() - between)]
        assert not gone(room)
    print(f"16 hosts: up in {best[0]:.2f} s, down in {best[1]:.2f} s")
    assert max(best) < 3


def test_what_the_kernel_forbids_is_said_in_a_sentence(room: Path) -> None:
    """In a user namespace that may have no networks, as on a machine where an administrator has forbidden them."""
    forbid = 'echo 0 > /proc/sys/user/max_net_namespaces; exec "$@"'
    ended = run(["unshare", "-Ur", "sh", "-c", forbid, "sh", *COMMBENCH, "lab", "run", "star4", "--", "true"])
    assert ended.code == 4
    assert len(ended.err.splitlines()) == 1
    assert "namespaces of its own" in ended.err
    assert "--privileged" in ended.err
    assert not list(room.iterdir())
