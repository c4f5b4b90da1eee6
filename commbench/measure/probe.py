"""What this machine is: facts by allow-list, and which ranks share a host.

Nothing is recorded because it happens to be there: variables come from a list (see commbench.allowlist), and
names that could carry a secret are listed without their value.
"""

import os
import platform
import re
import socket
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import msgspec

from commbench.allowlist import environment
from commbench.errors import LaunchError
from commbench.lab import blueprint
from commbench.layouts import local_ranks
from commbench.records import Fabric, Host, Machine
from commbench.world import World
from commbench.world.discover import Place

_DRIVER = Path("/proc/driver/nvidia")
_DEVICES = Path("/dev")


class Identity(msgspec.Struct, frozen=True):
    """What one rank tells the others about itself."""

    host: str
    pid: int
    cores: tuple[int, ...]  # those it may run on
    facts: dict[str, str]


def facts() -> dict[str, str]:
    """Facts of this host that shape a measurement; what cannot be read is left out."""
    found = {
        "os": platform.platform(),
        "python": platform.python_version(),
        "cores": str(os.cpu_count()),
        "cpu": _first(r"model name\s*:\s*(.*)", "/proc/cpuinfo") or platform.processor(),
        "governor": _first(r"(.*)", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "clocksource": _first(r"(.*)", "/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        **_nvidia(),
    }
    found["usable_cores"] = str(len(_cores()))
    for name in ("numpy", "mpi4py", "torch"):
        if name in sys.modules:
            found[name] = metadata.version(name)
    return {name: value for name, value in found.items() if value}


def _cores() -> tuple[int, ...]:
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def _first(pattern: str, path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            match = re.search(pattern, file.read(65536))
    except OSError:
        return ""
    return match[1].strip() if match else ""


def meet(world: World, place: Place | None) -> tuple[tuple[Identity, ...], Machine]:
    """All ranks exchange who and where they are; the same answer on every rank."""
    own = Identity(host=socket.gethostname(), pid=os.getpid(), cores=_cores(), facts=facts())
    told = [msgspec.json.decode(part, type=Identity) for part in world.gather(msgspec.json.encode(own))]
    locals_ = world.gather(b"" if place is None or place.local_rank is None else str(place.local_rank).encode())
    if world.rank == 0:
        if len(world.ranks) == world.size:  # one process plays all ranks
            told, locals_ = told * world.size, [b""] * world.size
        answer = (tuple(told), _machine(told, locals_, place))
    data = world.share(msgspec.json.encode(answer) if world.rank == 0 else b"")
    return msgspec.json.decode(data, type=tuple[tuple[Identity, ...], Machine])


def _machine(told: list[Identity], locals_: list[bytes], place: Place | None) -> Machine:
    names = list(dict.fromkeys(identity.host for identity in told))
    host_of = tuple(names.index(identity.host) for identity in told)
    common = told[0].facts
    hosts = []
    for index, name in enumerate(names):
        found = told[host_of.index(index)].facts
        differs = {key: found.get(key, "") for key in {*found, *common} if found.get(key) != common.get(key)}
        hosts.append(Host(name=name, differs=differs))
    warnings = []
    real = local_ranks(host_of)
    said = [int(text) if text else real[rank] for rank, text in enumerate(locals_)]
    for index, name in enumerate(names):
        here = [rank for rank, host in enumerate(host_of) if host == index]
        if place and sorted(said[rank] for rank in here) != [real[rank] for rank in here]:  # any order is fine
            told_locals = ", ".join(str(said[rank]) for rank in here[:8])
            warnings.append(
                f"{place.launcher} gives the {len(here)} ranks on {name} the local ranks {told_locals}; "
                "commbench counts ranks with the same host name as one host"
            )
    for index, name in enumerate(names if place else ()):
        together = [identity for identity, host in zip(told, host_of, strict=True) if host == index]
        cores = {core for identity in together for core in identity.cores}
        if len(together) > len(cores):
            warnings.append(
                f"{len(together)} ranks on {name} share {len(cores)} cores: they wait for each other's time slices"
            )
    if place and "torch" in common and len(told[0].cores) == 1 < int(common.get("cores", "1")):
        warnings.append(
            "each rank is bound to one core, which the threads of Gloo share with it "
            "(mpirun --bind-to none, as commbench sweep -n does)"
        )
    if "NCCL_HOSTID" in os.environ and 0 < gpus() < len(told):
        warnings.append(
            f"{len(told)} ranks share {gpus()} GPU{'s' * (gpus() > 1)}, each host of the lab as if it had one"
        )
    listed, hidden = environment(os.environ)
    return Machine(
        hosts=tuple(hosts),
        host_of=host_of,
        launcher=place.launcher if place else "none",
        facts=common,
        environment=listed,
        hidden=hidden,
        warnings=tuple(warnings[:20]),
        fabric=fabric(os.environ),
    )


def traffic() -> dict[str, int]:
    """Bytes that each network device of this host has sent: `tcp eth0`, `loopback lo`, `ib mlx5_0:1`, `efa efa0:1`."""
    found = {}
    for line in _lines("/proc/net/dev")[2:]:
        name, _, counts = line.partition(":")
        kind = "loopback" if name.strip() == "lo" else "tcp"
        found[f"{kind} {name.strip()}"] = int(counts.split()[8])
    for port in Path("/sys/class/infiniband").glob("*/ports/*"):
        for words in _lines(str(port / "counters" / "port_xmit_data")):
            found[f"ib {port.parts[-3]}:{port.name}"] = int(words) * 4  # the counter counts words of 32 bits
        for nbytes in _lines(str(port / "hw_counters" / "tx_bytes")):  # Amazon's EFA has this one
            found[f"efa {port.parts[-3]}:{port.name}"] = int(nbytes)
    return found


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def fabric(env: Mapping[str, str]) -> Fabric | None:
    """The network between the hosts, where somebody knows it: in a lab of this machine."""
    if "COMMBENCH_LAB" not in env:
        return None
    try:
        return blueprint.read(Path(env["COMMBENCH_LAB"])).fabric
    except LaunchError:
        return None


def gpus() -> int:
    """NVIDIA GPUs that this machine shows, without asking CUDA."""
    return len(_devices())


def _devices() -> set[str]:
    """The numbers of NVIDIA's device files; in a container those that it was given."""
    shown = os.listdir(_DEVICES) if _DEVICES.is_dir() else []
    return {match[1] for name in shown if (match := re.fullmatch(r"nvidia(\d+)", name))}


def _nvidia() -> dict[str, str]:
    """Driver, number and model of NVIDIA's GPUs, as far as files tell them: no process is started. "": not known."""
    driver = _first(r"Kernel Module(?: for \S+)?\s+([\d.]+)", str(_DRIVER / "version"))  # the open one tells for what
    shown, models = _devices(), set()
    for path in _DRIVER.glob("gpus/*/information"):
        told = dict(line.partition(":")[::2] for line in _lines(str(path)))
        if told.get("Device Minor", "").strip() in shown:
            models.add(told.get("Model", "").strip())
    count = str(len(shown)) if driver or shown else ""
    return {"nvidia_driver": driver, "gpus": count, "gpu": ", ".join(sorted(models - {""}))}


def installed(distribution: str) -> str:
    """`torch 2.13.0`, or `torch is missing`, without importing it."""
    try:
        return f"{distribution} {metadata.version(distribution)}"
    except metadata.PackageNotFoundError:
        return f"{distribution} is missing"


def pretend(machine: Machine, size: int, per_host: int) -> Machine:
    """The machine of a simulated world: hosts sim0, sim1, ... with `per_host` ranks each."""
    host_of = tuple(rank // per_host for rank in range(size))
    hosts = tuple(Host(name=f"sim{index}") for index in range(host_of[-1] + 1))
    return msgspec.structs.replace(machine, hosts=hosts, host_of=host_of, launcher="simulated")
