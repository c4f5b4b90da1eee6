"""Settings of an MPI library turned in this process: its control variables, by MPI's tool interface (MPI_T).

mpi4py does not bind MPI_T, so the functions are called by ctypes on the library that mpi4py loaded. Nothing here is
believed: a value is read back, and `evidence` says which function of the library serves a collective. What must be
true of a case's settings before they are tried is in `wanted`; what else they need in order to be obeyed, in `implied`.
"""

import ctypes
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil, log2
from typing import Any, NamedTuple

from commbench import knobs
from commbench.errors import Unsupported, nearest

# What the collectives are called inside the libraries. Ours of reduce_scatter is MPI_Reduce_scatter_block.
THEIRS = {
    "all_reduce": "allreduce",
    "reduce": "reduce",
    "reduce_scatter": "reduce_scatter_block",
    "broadcast": "bcast",
    "all_gather": "allgather",
    "all_to_all": "alltoall",
    "gather": "gather",
    "scatter": "scatter",
    "barrier": "barrier",
}
_COLLECTIVE = (
    "reduce_scatter_block|reduce_scatter|reduce|allreduce|allgatherv|allgather|alltoallv|alltoallw|alltoall|barrier|"
    "bcast|exscan|scan|gatherv|gather|scatterv|scatter"
)
_OPENMPI = re.compile(rf"coll_([a-z]+)_(?:({_COLLECTIVE})(_.*)|.*)")
_MPICH = re.compile(rf"MPIR_CVAR_({_COLLECTIVE.upper()})_(\w+)")
FALLBACK = "MPIR_CVAR_COLLECTIVE_FALLBACK"  # MPICH: what happens where a chosen algorithm cannot serve a call
_TEXT = 8192  # bytes of the longest name or description
_TABLE = 64  # words of a communicator, and of its table of functions, that are looked at


class Variable(NamedTuple):
    """A control variable. `kind` is its C type, None where it is text; `values` its named values, none for a number."""

    number: int
    name: str
    kind: Any
    values: dict[str, int]


class Tool:
    """The control variables of the loaded MPI library.

    `kinds` maps the handles of the library's data types to ctypes. Raises Unsupported where there is no MPI_T.
    """

    def __init__(self, library: ctypes.CDLL, kinds: Mapping[int, Any]) -> None:
        self._library, self._kinds = library, kinds
        self._handles: dict[str, ctypes.c_void_p] = {}
        try:
            self._call("MPI_T_init_thread", 0, ctypes.byref(ctypes.c_int()))
            number = ctypes.c_int()
            self._call("MPI_T_cvar_get_num", ctypes.byref(number))
        except AttributeError:
            raise Unsupported(
                "this MPI library has no tool interface (MPI_T), so its settings cannot be turned"
            ) from None
        self.variables = {v.name: v for i in range(number.value) if (v := self._variable(i))}

    def _call(self, name: str, *arguments: Any) -> None:
        if code := getattr(self._library, name)(*arguments):
            raise Unsupported(f"{name} failed with error {code}")

    def _variable(self, index: int) -> Variable | None:
        name, text = ctypes.create_string_buffer(_TEXT), ctypes.create_string_buffer(_TEXT)
        lengths = ctypes.c_int(_TEXT), ctypes.c_int(_TEXT)
        kind, names = ctypes.c_void_p(), ctypes.c_void_p()
        verbosity, bind, scope = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        parts = (name, lengths[0], verbosity, kind, names, text, lengths[1], bind, scope)
        by_reference = [p if isinstance(p, ctypes.Array) else ctypes.byref(p) for p in parts]
        if self._library.MPI_T_cvar_get_info(index, *by_reference):
            return None  # a variable whose component was unloaded keeps its number
        values = self._enumerated(names) if names.value else listed(text.value.decode(errors="replace"))
        return Variable(index, name.value.decode(errors="replace"), self._kinds.get(kind.value or 0), values)

    def _enumerated(self, names: ctypes.c_void_p) -> dict[str, int]:
        number, length, word = ctypes.c_int(), ctypes.c_int(_TEXT), ctypes.create_string_buffer(_TEXT)
        self._call("MPI_T_enum_get_info", names, ctypes.byref(number), word, ctypes.byref(length))
        found = {}
        for item in range(number.value):
            value, length = ctypes.c_int(), ctypes.c_int(_TEXT)
            self._call("MPI_T_enum_get_item", names, item, ctypes.byref(value), word, ctypes.byref(length))
            found[word.value.decode(errors="replace")] = value.value
        return found

    def _handle(self, name: str) -> ctypes.c_void_p:
        if name not in self._handles:
            handle, count = ctypes.c_void_p(), ctypes.c_int()
            number = self.variables[name].number
            self._call("MPI_T_cvar_handle_alloc", number, None, ctypes.byref(handle), ctypes.byref(count))
            self._handles[name] = handle
        return self._handles[name]

    def read(self, name: str) -> int | float:
        room = (ctypes.c_uint64 * 2)()  # zeroed, and larger than any number
        self._call("MPI_T_cvar_read", self._handle(name), room)
        value: int | float = self.variables[name].kind.from_buffer(room).value
        return value

    def text(self, name: str) -> str:
        """The value of a variable that is text."""
        room = ctypes.create_string_buffer(_TEXT)
        self._call("MPI_T_cvar_read", self._handle(name), room)
        return room.value.decode(errors="replace")

    def write(self, name: str, value: int | float) -> None:
        room = (ctypes.c_uint64 * 2)()
        self.variables[name].kind.from_buffer(room).value = value
        if code := self._library.MPI_T_cvar_write(self._handle(name), room):
            raise Unsupported(f"{name}: the MPI library does not let it be set in a running process (error {code})")

    def value(self, name: str, text: str) -> int | float:
        """The number that stands for a setting. Raises Unsupported with what is accepted."""
        variable = self.variables.get(name)
        if variable is None:
            raise Unsupported(f"{name}: this MPI library has no such variable{self.near(name)}")
        if variable.kind is None:
            raise Unsupported(f"{name} is text and cannot be set in a running process; give it to the launch")
        if text in variable.values:
            return variable.values[text]
        if variable.kind is ctypes.c_bool and text in ("true", "false"):
            return int(text == "true")
        try:
            number = float(text) if variable.kind is ctypes.c_double else int(text)
        except ValueError:
            known = nearest(text, variable.values) if variable.values else "write a number"
            raise Unsupported(f"{name}: {text!r} is no value of it; {known}") from None
        if variable.values and number not in variable.values.values():
            known = ", ".join(f"{value} {name}" for name, value in variable.values.items())
            raise Unsupported(f"{name}: {text} is not among its values; known: {known}")
        if variable.kind(number).value != number:
            raise Unsupported(f"{name}: {text} does not fit into the variable")
        return number

    def near(self, name: str) -> str:
        """One name: the library has hundreds."""
        hint = nearest(name.lower(), [v.lower() for v in self.variables])
        guess = re.match(r"did you mean '(\w+)'", hint)
        own = {v.lower(): v for v in self.variables}
        return f"; did you mean {own[guess[1].lower()]}?" if guess else ""

    @contextmanager
    def turned(self, values: Mapping[str, int | float]) -> Iterator[None]:
        """The variables have these values inside, each read back, and their old ones afterwards.

        Raises Unsupported where one cannot be set, or does not hold what was written.
        """
        before: dict[str, int | float] = {}
        try:
            for name, value in values.items():
                before[name] = self.read(name)
                self.write(name, value)
                if (found := self.read(name)) != value:
                    raise Unsupported(f"{name}: {value} was written, but it reads {found}")
            yield
        finally:
            for name, value in before.items():
                self.write(name, value)


def listed(description: str) -> dict[str, int]:
    """MPICH's named values: its source numbers the lines `name - meaning` of a description, from 0."""
    names = re.findall(r"^\s*(\w+)\s+- ", description, re.M)
    return {name: value for value, name in enumerate(names)} if len(names) > 1 else {}


# ---- what settings mean -----------------------------------------------------------------------------------


def about(name: str) -> tuple[str, str]:
    """(Open MPI's component or "", the collective as the library calls it or "") that a variable is about."""
    if match := _OPENMPI.fullmatch(name):
        return match[1], match[2] or ""
    match = _MPICH.fullmatch(name)
    return "", match[1].lower() if match else ""


def implied(name: str) -> dict[str, str]:
    """What else must be set for a variable to be obeyed; whoever writes it into a file or environment needs it too.

    Open MPI's tuned component looks at its variables under its dynamic rules alone. MPICH's device chooses on its own
    (shared memory, one leader a host) before its algorithms are asked.
    """
    component, collective = about(name)
    if component == "tuned" and collective:
        return {"coll_tuned_use_dynamic_rules": "true"}
    if not component and collective and name.endswith("_INTRA_ALGORITHM"):
        return {f"MPIR_CVAR_{collective.upper()}_DEVICE_COLLECTIVE": "0"}
    return {}


def at_start(name: str) -> bool:
    """Whether a setting is a variable of the environment that the library reads when the process starts."""
    knob = knobs.find(name) if name.startswith("MPIR_CVAR_") else None
    return name.startswith("OMPI_MCA_") or (name.startswith("MPIR_CVAR_") and (knob is None or knob.level == "process"))


def in_force(tool: Tool, settings: Mapping[str, str], carrier: str) -> Iterator[str]:
    """For each setting that a process starts with the sentence that it holds here. `carrier`: see `carrier` below.

    Raises Unsupported where the library does not know it, holds another value, or has nobody who would look at it.
    """
    for name, text in settings.items():
        variable = name.removeprefix("OMPI_MCA_")
        if variable not in tool.variables:
            near = tool.near(variable)
            raise Unsupported(f"{name}: this process's MPI library has no such variable, or not its component{near}")
        number = tool.variables[variable].kind is not None
        found: int | float | str = tool.read(variable) if number else tool.text(variable)
        if found != (tool.value(variable, text) if number else text):
            was = "not set" if found == "" else found
            raise Unsupported(
                f"{name} is read when the process starts, and here it is {was}: start the ranks with {name}={text} in "
                "their environment (commbench tune does)"
            )
        if variable.startswith("btl_") and carrier and carrier != "ob1":
            raise Unsupported(f"{name} does nothing here: {carrier} carries the messages, which uses no btl")
        yield f"{name}={text} in force since start"


def carrier(library: ctypes.CDLL) -> str:
    """Open MPI: the component that carries point-to-point messages (ob1, ucx, cm); "" where that cannot be seen.

    Its table of functions is a public symbol, whose first function is named after the component.
    """
    try:
        address = ctypes.addressof(ctypes.c_char.in_dll(library, "mca_pml"))
    except ValueError:
        return ""
    found = re.match(r"mca_pml_([a-z0-9]+)_", _function(next(iter(_words(address)), 0)))
    return found[1] if found else ""


def wanted(tool: Tool, settings: Mapping[str, str], op: str) -> dict[str, int | float]:
    """The values to write for a case's settings, with those implied. Raises Unsupported where they cannot work."""
    values = {name: tool.value(name, text) for name, text in settings.items()}
    for name in settings:
        component, collective = about(name)
        if collective and collective != THEIRS.get(op):
            mine = THEIRS.get(op)
            called = f"MPI_{mine.capitalize()}" if mine else "no collective"
            raise Unsupported(f"{name} is a setting of {collective}, but {op} calls {called}")
        knob = knobs.find(name if name.startswith("MPIR_") else f"OMPI_MCA_{name}")
        if knob is None or knob.level == "process":
            raise Unsupported(f"{name} is read when the process starts: write it as OMPI_MCA_{name}, for a new launch")
        main = re.sub(r"_(segmentsize|tree_fanout|chain_fanout|max_requests|knomial_radix)$", "", name)
        if component == "tuned" and collective and main != name and not values.get(main):
            raise Unsupported(f"{name} has no effect without {main}: choose an algorithm too")
    more = {key: text for name in settings for key, text in implied(name).items() if key not in settings}
    return {name: tool.value(name, text) for name, text in more.items()} | values


# Open MPI takes another algorithm in silence where these numbers of ranks do not suit (coll_base_allgather.c).
_QUIET: dict[tuple[str, str], tuple[Callable[[int], bool], str]] = {
    ("coll_tuned_allgather_algorithm", "neighbor"): (lambda ranks: ranks % 2 == 0, "an even number of ranks"),
    ("coll_tuned_allgather_algorithm", "recursive_doubling"): (lambda ranks: not ranks & (ranks - 1), "a power of two"),
}


def suits(tool: Tool, settings: Mapping[str, str], ranks: int) -> None:
    """Raises Unsupported where an algorithm is known to be replaced in silence on so many ranks."""
    for (variable, algorithm), (able, need) in _QUIET.items():
        chosen = settings.get(variable)
        if chosen and tool.value(variable, chosen) == tool.value(variable, algorithm) and not able(ranks):
            raise Unsupported(f"{variable}={algorithm} needs {need}; on {ranks} Open MPI takes another in silence")


# ---- what really happens ----------------------------------------------------------------------------------


class _Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class _Symbol(ctypes.Structure):
    _fields_ = [("file", ctypes.c_char_p), ("at", ctypes.c_void_p), ("name", ctypes.c_char_p), ("is", ctypes.c_void_p)]


def _words(address: int) -> Sequence[int]:
    """What lies at an address of this process; nothing where it is none (asked of the kernel, so nothing crashes)."""
    room = ctypes.create_string_buffer(_TABLE * 8)
    here, there = _Vector(ctypes.addressof(room), len(room)), _Vector(address, len(room))
    look = getattr(ctypes.CDLL(None), "process_vm_readv", None)  # Linux
    got = look(os.getpid(), ctypes.byref(here), 1, ctypes.byref(there), 1, 0) if look else 0
    words: list[int] = memoryview(room.raw[: max(0, got) // 8 * 8]).cast("Q").tolist()
    return words


def _function(address: int) -> str:
    """The exported function that begins at an address, "" where none does."""
    symbol, program = _Symbol(), ctypes.CDLL(None)
    program.dladdr.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    if not address or not program.dladdr(address, ctypes.byref(symbol)) or getattr(symbol, "is") != address:
        return ""
    return (symbol.name or b"").decode(errors="replace")


def serving(communicator: int, collective: str) -> str:
    """Which function of Open MPI serves a collective on a communicator (its handle); "" where that cannot be seen.

    A communicator points at its table of functions, which begins with those of allgather and allgatherv, a module
    behind each or not. Names are those that the library exports.
    """
    for pointer in _words(communicator):
        names = [_function(word) for word in _words(pointer)] if pointer > _TEXT else []
        if names and "_allgather_" in names[0] and any("_allgatherv_" in name for name in names[1:3]):
            return next((name for name in names if f"_{collective}_int" in name), "")
    return ""


def evidence(served: str, settings: Mapping[str, str], collective: str) -> str:
    """What the serving function says of Open MPI's settings. Raises Unsupported where it shows that they do nothing."""
    for name in settings:
        component, chosen = about(name)
        if not component or not chosen:
            continue
        if not served:
            raise Unsupported(f"{name}: which component serves {collective} cannot be seen here, so it may do nothing")
        if f"_{component}_" not in served:
            other = (re.match(r"(?:mca|ompi)_coll_([a-z]+)_", served) or [served, served])[1]
            advice = f"; add coll_{other}_priority: 0 to the settings" if other == "han" else ""
            raise Unsupported(f"{name} does nothing here: {other} serves {collective} on these ranks{advice}")
        if component == "tuned" and not served.endswith("_dec_dynamic"):
            raise Unsupported(f"{name} does nothing here: {served} serves {collective}, which has its own rules")
    return f"served by {served}" if served else ""


def pattern(algorithm: str, ranks: int, rank: int, count: int, pieces: Sequence[int]) -> bool | None:
    """Whether one all-reduce with these partial reductions (elements of each, on this rank) was of an algorithm.

    None where the algorithm has no pattern here. Ring: n - 1 blocks of an n-th; recursive doubling: the whole buffer
    log2(n) times; Rabenseifner: halves, quarters, ...; linear: rank 0 reduces everything (Thakur, Rabenseifner and
    Gropp 2005, Optimization of collective communication operations in MPICH, section 5).
    """
    whole, largest, block = sum(pieces), max(pieces, default=0), ceil(count / ranks)
    # With fewer elements than ranks there is nothing to scatter, and Open MPI quietly takes another algorithm.
    scattered = count >= ranks and count - block <= whole <= count - count // ranks
    if algorithm in ("ring", "segmented_ring"):
        return scattered and largest <= block
    if algorithm == "basic_linear":
        return whole == (count * (ranks - 1) if rank == 0 else 0)
    if ranks & (ranks - 1):
        return None
    if algorithm == "recursive_doubling":
        return largest == count and whole == count * round(log2(ranks))
    return scattered and largest in (count // 2, ceil(count / 2)) if algorithm == "rabenseifner" else None
