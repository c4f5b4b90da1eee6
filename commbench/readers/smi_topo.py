"""`nvidia-smi topo -m`: the matrix of what lies between GPUs and NICs, with or without its legend, tabs or blanks."""

import re
from collections.abc import Iterator

from commbench.readers.base import Found, Reader
from commbench.readers.source import Problem, Source
from commbench.records.topology import Device, DeviceKind, DeviceLink, GpuTopology

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_PREFIX = re.compile(
    r"^(?:\[[\d,]+\](?:<\w+>)?:|[A-Za-z0-9][\w.-]{0,255}:\s)(?=\s*(?:GPU|NIC|\w{1,40}_\d{1,4})\d{0,4}\s)"
)  # a launcher's
# Older versions: mlx5_0 in the place of NIC0. A longer word is no name, and would take its length cubed.
_NAME = re.compile(r"(?=\w{1,40}$)(?:(?:GPU|NIC)\d{1,4}|[a-z]\w*_\w*\d\w*|CPU\d)")
_CELL = re.compile(r"X|NV\d{1,3}|PIX|PXB|PHB|NODE|SYS|SOC|C2C|NVL|N/A|-+")
_LEGEND = re.compile(r"\s*(NIC\d{1,4}): (\S+)\s*$")
_MOST, _TOLD, _LONGEST = 1024, 100, 2**16
_SPAN = 256  # lines within which a matrix's rows and legend stand, whatever is written between them


class _Matrix:
    """A matrix while it is read."""

    def __init__(self, line: int, names: list[str], tail: list[str]) -> None:
        self.line, self.names, self.tail = line, names, tail
        self.rows: dict[str, list[str]] = {}
        self.rest: dict[str, list[str]] = {}  # affinities behind the cells
        self.legend: dict[str, str] = {}

    def row(self, name: str, words: list[str], tabbed: list[str]) -> str:
        """Take a row; answers with a reason where it cannot be read."""
        if name not in self.names:
            return f"a row of {name}, which is no column"
        if name in self.rows:
            return f"a second row of {name}"
        cells = words[: len(self.names)]
        wrong = [cell for cell in cells if not _CELL.fullmatch(cell)]
        if wrong or len(cells) < len(self.names):
            return (
                f"{name}: {wrong[0][:20]!r} is no relation"
                if wrong
                else f"{name}: {len(cells)} of {len(self.names)} cells"
            )
        self.rows[name] = cells
        rest = [word.strip() for word in tabbed if word.strip()][len(self.names) :] if tabbed else []
        self.rest[name] = rest or words[len(self.names) :]
        return ""

    def topology(self) -> GpuTopology:
        devices = []
        for name in self.names:
            rest = self.rest.get(name, [])
            cores = rest[0] if rest and "CPU" in self.tail and re.fullmatch(r"[\d,-]+", rest[0]) else ""
            numa = rest[1] if len(rest) > 1 and cores and "NUMA" in self.tail else ""
            kind: DeviceKind = "gpu" if name.startswith("GPU") else "cpu" if name.startswith("CPU") else "nic"
            devices.append(
                Device(
                    id=name,
                    kind=kind,
                    model=self.legend.get(name, ""),
                    dev=int(name[3:]) if name[3:].isdecimal() else None,
                    affinity=cores,
                    numa=int(numa) if numa.isdecimal() and len(numa) < 5 else None,
                )
            )
        links = []
        for at, name in enumerate(self.names):
            for other in self.names[at + 1 :]:
                cell = self._cell(name, other) or self._cell(other, name)
                if cell and cell not in ("X", "N/A") and not cell.startswith("-"):
                    count = int(cell[2:]) if re.fullmatch(r"NV\d+", cell) else None
                    links.append(DeviceLink(kind=cell, ends=(name, other), count=count))
        return GpuTopology(source="nvidia-smi", devices=tuple(devices), links=tuple(links), line=self.line)

    def _cell(self, row: str, column: str) -> str:
        return self.rows[row][self.names.index(column)] if row in self.rows else ""


def _head(words: list[str], line: int) -> _Matrix | None:
    """A line of device names, then the names of the columns behind them."""
    names: list[str] = []
    for word in words[:_MOST]:
        if not _NAME.fullmatch(word):
            break
        names.append(word)
    tail = words[len(names) :]
    fits = names and names[0].startswith("GPU") and len(set(names)) == len(names)
    return _Matrix(line, names, tail) if fits and (len(names) > 1 or tail[:1] == ["CPU"]) and _columns(tail) else None


def _columns(tail: list[str]) -> bool:
    return all(word in ("CPU", "NUMA", "GPU", "Affinity", "ID") for word in tail)


def read(source: Source) -> Iterator[Found | Problem]:
    """A Found with a GpuTopology for each matrix. Raises ReadError."""
    matrix: _Matrix | None = None
    unread = 0
    for number, line in source.raw_lines():
        far = matrix is None or number > matrix.line + len(matrix.names) + _SPAN
        if (far and b"GPU0" not in line) or len(line) > _LONGEST:
            continue
        text = _COLOUR.sub("", line.decode(errors="replace"))
        if (match := _LEGEND.match(text)) and matrix is not None:
            matrix.legend[match[1]] = match[2]
            continue
        text = _PREFIX.sub("", text)
        words = text.split()
        if len(words) < 2 or not _NAME.fullmatch(words[0]):
            continue
        if (head := _head(words, number)) is not None:
            if matrix is not None and matrix.rows:
                yield _found(matrix)
            matrix = head
        elif matrix is not None and (reason := matrix.row(words[0], words[1:], text.split("\t")[1:])):
            unread += 1
            if unread <= _TOLD:
                yield source.problem(number, reason)
    if matrix is not None and matrix.rows:
        yield _found(matrix)
    if unread > _TOLD:
        yield source.problem(0, f"{unread - _TOLD} more rows that could not be read")


def _found(matrix: _Matrix) -> Found:
    return Found(tool="nvidia-smi topo", line=matrix.line, parts=(matrix.topology(),))


READER = Reader(says="nvidia-smi topo -m", signatures=(b"GPU0",), read=read)
