"""How a run was launched, from the lines around it: command lines, exported variables, placements, Flux' records."""

import re

import msgspec

from commbench.allowlist import environment
from commbench.readers.figures import utc, whole
from commbench.records import Host, Machine

_PLACED = re.compile(r"I am (\d{1,7}) of (\d{1,7}): \d{1,7} on (\S{1,255})$")
_LAUNCHERS = (
    "mpirun",
    "mpiexec",
    "mpiexec.hydra",
    "mpirun_rsh",
    "orterun",
    "prterun",
    "aprun",
    "srun",
    "jsrun",
    "flux",
)
_COUNTS = {"-n": "total", "--ntasks": "total", "-np": "np", "--np": "np", "-p": "np", "-a": "each set"}
_COUNTS |= {"-N": "nodes", "--nodes": "nodes", "--ntasks-per-node": "each node", "--tasks-per-node": "each node"}
_EXPORT = re.compile(r"[$+# ]{0,4}export ([A-Z][A-Z0-9_]{1,60})=(\S{0,200})$")


class Before:
    """What stands before a run's first line and belongs to it. Only variables outlive a run, as in a shell."""

    def __init__(self, variables: dict[str, str] | None = None) -> None:
        self.launcher = ""
        self.command = ""
        self.ranks = 0
        self.notes: dict[str, str] = {}
        self.host_of: dict[int, str] = {}
        self.variables = dict(variables or {})

    def take(self, text: str, program: str) -> None:
        """Takes a line; `program` is how the name of the program begins that a launcher must start."""
        if program in text:
            _launch(text, self, program)
        elif found := _EXPORT.match(text):
            self.variables[found[1]] = found[2].strip("\"'")
        elif found := _PLACED.match(text):
            self.host_of[int(found[1])], self.ranks = found[3], int(found[2])

    def machine(self) -> Machine:
        """The launcher, the variables that may be kept; hosts and ranks, if every rank said where it is."""
        kept, hidden = environment(self.variables)
        hosts: tuple[Host, ...] = ()
        places: tuple[int, ...] = ()
        if self.host_of and sorted(self.host_of) == list(range(self.ranks)):
            index = {name: k for k, name in enumerate(dict.fromkeys(self.host_of[r] for r in range(self.ranks)))}
            hosts = tuple(Host(name=name) for name in index)
            places = tuple(index[self.host_of[rank]] for rank in range(self.ranks))
        return Machine(hosts=hosts, host_of=places, launcher=self.launcher, environment=kept, hidden=hidden)


def _launch(text: str, before: Before, program: str) -> None:
    """A launcher's command line with the program: ranks, and the program's own words (others may hold secrets)."""
    words = text.lstrip("$#+ ").split()
    names = [word.rpartition("/")[2] for word in words]
    start = next((k for k, name in enumerate(names) if name in _LAUNCHERS), None)
    stop = next((k for k, name in enumerate(names) if name.startswith(program)), None)
    if start is not None and stop is not None and start < stop:
        before.launcher, before.command = names[start], " ".join([names[stop], *words[stop + 1 :]])[:200]
        before.ranks = _ranks(names[start], words[start + 1 : stop])


def _ranks(launcher: str, words: list[str]) -> int:
    """How many ranks a launcher starts with these options; 0: they do not tell."""
    told: dict[str, int] = {}
    for word, following in zip(words, [*words[1:], ""], strict=False):
        name, _, value = word.partition("=")
        if word in _COUNTS:
            value = following
        elif name not in _COUNTS:
            name, value = word[:2], word[2:]  # -n4
        if name in _COUNTS and (count := whole(value)):
            told[_COUNTS[name]] = count
    total = told.get("total", 0)
    if launcher == "jsrun":  # -n: resource sets
        return told.get("np", 0) or total * told.get("each set", 1)
    if launcher in ("srun", "flux"):
        return total or told.get("nodes", 0) * told.get("each node", 0)
    return told.get("np", 0) or total


def flux(line: str, program: str) -> tuple[int, str]:
    """(ranks, when) of a line of a Flux job's specification or event log; 0 and "" for what it does not tell."""
    try:
        document = msgspec.json.decode(line)
        if document.get("name") == "init":
            return 0, utc(document["timestamp"])
        if program not in " ".join(document["tasks"][0]["command"]):
            return 0, ""
        level, ranks = document["resources"][0], 1
        while True:
            ranks *= int(level["count"])
            if level["type"] == "slot":
                ranks *= int(document["tasks"][0]["count"]["per_slot"])
                return ranks if 0 < ranks < 2**31 else 0, ""
            level = level["with"][0]
    except (msgspec.DecodeError, RecursionError, ValueError, KeyError, IndexError):
        return 0, ""
    except (TypeError, AttributeError, OverflowError, OSError):  # other JSON
        return 0, ""
