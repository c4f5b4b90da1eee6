"""What is known about the surroundings of a run: the machine, the environment, where figures came from, the command."""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from commbench.records import Origin, Run
from commbench.records.topology import GpuTopology
from commbench.report.html.examined import Examined, counted, listed, tool
from commbench.report.view import one_line
from commbench.units import format_rate

_MOST_HOSTS = 64
_MOST_ITEMS = 100  # of a list that another tool's file told
_LONGEST = 2000  # characters of one value
# How a launch is made that commbench finds itself in (see world.discover).
_LAUNCHES = {"openmpi": "mpirun -n {}", "hydra": "mpiexec -n {}", "srun": "srun -n {}"}

Pairs = Sequence[tuple[str, str]]


class Block(NamedTuple):
    """A titled list of names and values."""

    title: str
    items: Pairs


class Grid(NamedTuple):
    """A titled table."""

    title: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    left_out: int = 0


class Record(NamedTuple):
    name: str
    warnings: Sequence[str]
    blocks: Sequence[Block]
    grids: Sequence[Grid]
    spec: str
    command: str
    remark: str


def record(one: Examined) -> Record:
    """Everything that is on record about one run."""
    run = one.run
    blocks = [Block("Run", [*_run(run)]), *_origin(run.origin), Block("Facts", _items(run.machine.facts))]
    blocks += [Block("Environment", _items(run.machine.environment))]
    if run.machine.hidden:
        text = listed(map(one_line, run.machine.hidden), _MOST_ITEMS)
        blocks.append(Block("Hidden: the values may be secret", [("names", text)]))
    blocks += [Block(f"Resumed {one_line(entry.get('at', ''))}".strip(), _items(entry)) for entry in run.resumed]
    grids = [*_hosts(run), *(grid for part in one.parts for grid in _part(part))]
    warnings = [one_line(text) for text in (*run.machine.warnings, *([one.note] if one.note else []))]
    spec = msgspec.json.format(msgspec.json.encode(run.spec)).decode() if run.spec else ""
    command, remark = repeat(run)
    return Record(one.name, warnings, [block for block in blocks if block.items], grids, spec, command, remark)


def _run(run: Run) -> Iterator[tuple[str, str]]:
    machine = run.machine
    yield "name", one_line(run.name)
    yield "made", one_line(run.created)
    yield "by", tool(run)
    if run.origin is None:
        yield "seed", str(run.seed)
        yield "launched by", one_line(machine.launcher)
    if machine.size:
        yield "ranks", str(machine.size)
    if machine.hosts:
        yield "hosts", listed((one_line(host.name) for host in machine.hosts), _MOST_HOSTS)


def _origin(origin: Origin | None) -> Iterator[Block]:
    if origin is not None:
        dated = {"file": "told by the file", "mtime": "when the file was last changed"}.get(origin.dated, origin.dated)
        known = {
            "file": origin.path,
            "bytes": f"{origin.nbytes:,}",
            "SHA-256": origin.sha256,
            "tool": origin.tool,
            "date": dated,
            "lines that could not be read": f"{origin.unread:,}",
        }
        yield Block("Where the figures come from", _items(known))
        yield Block("What the file tells about how it was made", _items(origin.options))


def _items(values: Mapping[str, Any]) -> Pairs:
    return [(_text(name), _text(value)) for name, value in values.items()]


def _text(value: Any) -> str:
    text = one_line(value if isinstance(value, str) else str(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _hosts(run: Run) -> Iterator[Grid]:
    """Hosts that differ from that of rank 0."""
    differ = [host for host in run.machine.hosts if host.differs]
    if differ:
        lines = [(_text(h.name), _text(name), _text(value)) for h in differ for name, value in h.differs.items()]
        title = f"{counted(len(differ), 'host')} of {len(run.machine.hosts)} not like that of rank 0"
        yield Grid(title, ("host", "fact", "value"), lines[:_MOST_ITEMS], len(lines[_MOST_ITEMS:]))


def _part(part: Any) -> Iterator[Grid]:
    """What another tool's file told beside measurements: devices as a table, all else as it is on record."""
    if isinstance(part, GpuTopology):
        yield from _topology(part)
        return
    lines = [*_leaves(msgspec.to_builtins(part))]
    yield Grid(type(part).__name__, ("what", "value"), lines[:_MOST_ITEMS], len(lines[_MOST_ITEMS:]))


def _topology(part: GpuTopology) -> Iterator[Grid]:
    devices = [
        (one.id, one.kind, one.model, one.parent, "" if one.numa is None else str(one.numa),
         "" if one.rate is None else format_rate(one.rate))
        for one in part.devices
    ]  # fmt: skip
    head = ("device", "kind", "model", "hangs from", "NUMA node", "rate")
    yield Grid(f"Devices of one host ({part.source})", head, *_room(devices))
    links = [
        (*link.ends, link.kind, str(link.count or ""), "" if link.rate is None else format_rate(link.rate))
        for link in part.links
    ]
    if links:
        yield Grid("What lies between them", ("device", "device", "kind", "links", "rate"), *_room(links))


def _room(lines: Iterable[Sequence[str]]) -> tuple[Sequence[Sequence[str]], int]:
    every = [[_text(cell) for cell in line] for line in lines]
    return every[:_MOST_ITEMS], len(every[_MOST_ITEMS:])


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """`comms[0].nranks`: every value with its way to it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        for k, inner in enumerate(value):
            yield from _leaves(inner, f"{name}[{k}]")
    elif isinstance(value, list):
        yield _text(name), _text(listed(map(str, value), _MOST_ITEMS))
    elif value not in (None, ""):
        yield _text(name), _text(value)


# ---- to do it again -----------------------------------------------------------------------------------------


def repeat(run: Run) -> tuple[str, str]:
    """(the command that measures this again, what the reader must add)."""
    if run.origin is not None:
        return "", "The file does not say which command made it; the options that it tells are in the record."
    if not run.command:
        return "", "The command is not on record; the spec is."
    words, ours = _outside(run.command)
    machine = run.machine
    if machine.launcher in ("simulated", "none") or "-n" in words:
        return shlex.join(words), ""
    remark = "Variables that were set by hand must be set again: see the environment in the record."
    if ours:
        words[3:3] = ["-n", str(machine.size)]
        if machine.fabric is not None and "COMMBENCH_LAB" in machine.environment:
            words[5:5] = ["--lab", machine.fabric.name]
        elif machine.launcher == "torchrun":
            words[5:5] = ["--launcher", "torchrun"]
        return shlex.join(words), remark
    hosts = counted(len(machine.hosts), "host")
    if machine.launcher == "torchrun":
        each = machine.size // max(len(machine.hosts), 1)
        launch = f"torchrun --nnodes {len(machine.hosts)} --nproc-per-node {each} --no-python"
    else:
        launch = _LAUNCHES.get(machine.launcher, "mpirun -n {}").format(machine.size)
    return f"{launch} {shlex.join(words)}", f"Start the ranks on {hosts}, as before. {remark}"


def _outside(command: Sequence[str]) -> tuple[list[str], bool]:
    """(the command without where it wrote, whether commbench started the ranks itself).

    Ranks that commbench starts carry `--launch K` or `--started`; what was typed had `-n` in its place.
    """
    words: list[str] = []
    ours = skip = False
    for word in command:
        if skip:
            skip = False
        elif word in ("--launch", "--out"):
            skip, ours = True, ours or word == "--launch"
        elif word == "--started":
            ours = True
        elif not word.startswith("--out=") and word != "--resume":
            words.append(one_line(word))
    return words, ours
