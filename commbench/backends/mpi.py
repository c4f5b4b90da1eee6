"""MPI through mpi4py's buffers; the inner loop in C where it was compiled, in Python otherwise.

The C loop calls the MPI function by its address, so that neither mpi4py nor Python is inside the timed
region. Both loops are given the same buffers, counts and communicator.
"""

import ctypes
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from commbench.backends import mpi_tool
from commbench.backends.base import python_timer
from commbench.collectives import COLLECTIVES, DTYPES, POISON, Check, Data, at_page, elements, encode, spans
from commbench.errors import Unsupported
from commbench.layouts import Groups
from commbench.records import Case

if TYPE_CHECKING:
    from commbench.backends.base import Times
    from commbench.world import World

try:
    from commbench.backends import _cloop
except ImportError:
    _cloop = None  # type: ignore[assignment]

_REDOPS = {"sum": MPI.SUM, "prod": MPI.PROD, "min": MPI.MIN, "max": MPI.MAX}
_TYPES = {"float32": MPI.FLOAT, "float64": MPI.DOUBLE, "int8": MPI.INT8_T, "int32": MPI.INT32_T, "int64": MPI.INT64_T}
_MAX_COUNT = 2**31 - 1  # the int counts of MPI-3; larger ones need the _c calls of MPI-4
_TAG = 77
_KINDS = (
    (MPI.INT, ctypes.c_int), (MPI.UNSIGNED, ctypes.c_uint), (MPI.LONG, ctypes.c_long), (MPI.DOUBLE, ctypes.c_double),
    (MPI.UNSIGNED_LONG, ctypes.c_ulong), (MPI.LONG_LONG, ctypes.c_longlong), (MPI.COUNT, ctypes.c_longlong),
    (MPI.UNSIGNED_LONG_LONG, ctypes.c_ulonglong), (MPI.C_BOOL, ctypes.c_bool),
)  # fmt: skip
_SENTENCE = 400  # bytes of a reason that ranks tell each other


def _address(name: str) -> int:
    """Where the process's MPI function is: a preloaded tool's (a profiler's) first, as for any C program."""
    for library in (None, MPI.__file__):
        try:
            address = ctypes.cast(getattr(ctypes.CDLL(library), name), ctypes.c_void_p).value
        except (OSError, AttributeError):
            continue
        if address:
            return address
    raise Unsupported(f"{name} is not in this MPI library")


class Mpi:
    """One process of an MPI world."""

    def __init__(self, world: "World") -> None:
        self._comm = MPI.COMM_WORLD.Dup()  # never the control channel's communicator
        self._groups: dict[tuple[int, ...], tuple[MPI.Comm, MPI.Comm]] = {}
        self._tool: mpi_tool.Tool | None = None
        self._rank = world.rank
        self.timer = _cloop.timer() if _cloop else python_timer()
        self.facts = {
            "mpi": MPI.Get_library_version().split("\0")[0].splitlines()[0].strip(),
            "mpi_standard": ".".join(map(str, MPI.Get_version())),
            "mpi_loop": "C" if _cloop else "Python (no compiled loop: the call cost of Python is in the figures)",
            "mpi_thread_level": str(MPI.Query_thread()),
        }

    def prepare(self, case: Case, groups: Groups) -> "MpiOp | None":
        mine = next((group for group in groups if self._rank in group), None)
        if mine is None:
            return None
        if mine not in self._groups:
            everybody = self._comm.Get_group()
            group = everybody.Incl(list(mine))
            everybody.Free()
            # Only the members take part: a dead rank elsewhere cannot block this group.
            self._groups[mine] = (self._comm.Create_group(group), self._comm.Create_group(group, tag=1))
            group.Free()
        comm, sync = self._groups[mine]
        return self._tuned(case, comm, sync) if case.settings else MpiOp(case, comm, sync)

    def _tuned(self, case: Case, comm: MPI.Comm, sync: MPI.Comm) -> "MpiOp":
        """The case on a duplicate made under its settings. Open MPI looks at them there and then, MPICH at each call.
        What a process starts with is not set here, but must hold.

        Raises Unsupported, on all members alike, where they cannot be set or are shown to have no effect.
        """
        library = ctypes.CDLL(MPI.__file__)
        if self._tool is None:
            kinds = {MPI._handleof(kind): c for kind, c in _KINDS}
            self._tool = mpi_tool.Tool(library, kinds)
        tool, settings = self._tool, {n: text for n, text in case.settings if not mpi_tool.at_start(n)}
        started = {n: text for n, text in case.settings if mpi_tool.at_start(n)}
        values = mpi_tool.wanted(tool, settings, case.op)
        settings |= {name.removeprefix("OMPI_MCA_"): text for name, text in started.items()}
        mpi_tool.suits(tool, settings, comm.size)
        held = reason = ""
        try:
            held = "; ".join(mpi_tool.in_force(tool, started, mpi_tool.carrier(library)))
        except Unsupported as error:
            reason = str(error)
        _agree(sync, reason)
        with tool.turned(values):
            own = comm.Dup()
        try:
            op = MpiOp(case, own, sync, lambda: tool.turned(values))
            op.prove(tool, settings, held)
        except BaseException:
            own.Free()
            raise
        return op

    def close(self) -> None:
        self._groups.clear()  # MPI_Finalize frees the communicators


class MpiOp:
    """A prepared collective. `turned`, where given, holds the case's settings, and `comm` is its own to free."""

    clock = "host"
    proof = ""  # what was seen of the settings' effect

    def __init__(
        self,
        case: Case,
        comm: MPI.Comm,
        sync: MPI.Comm,
        turned: Callable[[], AbstractContextManager[None]] | None = None,
    ) -> None:
        n, rank = comm.size, comm.rank
        kind = DTYPES[case.dtype]
        collective = COLLECTIVES[case.op]
        self._datatype = _TYPES.get(case.dtype, MPI.UINT16_T)
        self._redop = MPI.OP_NULL
        if collective.reduces:
            if case.dtype not in _TYPES:
                raise Unsupported(f"MPI has no reduction of {case.dtype}")
            if case.redop not in _REDOPS:
                raise Unsupported(f"MPI has no {case.redop} reduction")
            self._redop = _REDOPS[case.redop]
        if case.in_place and case.op == "send_recv":
            raise Unsupported("send_recv in place: MPI_Sendrecv needs two buffers")
        count = elements(case.op, case.nbytes, case.dtype, n)
        if count * collective.chunks(n) > _MAX_COUNT:
            raise Unsupported(f"more than {_MAX_COUNT} elements: beyond MPI's int counts")
        self._dtype, self._data = case.dtype, Data(case.op, case.dtype, case.redop, n, rank, count, case.root)
        send, recv = self._data.send_count, self._data.recv_count
        try:
            self._recv = at_page(max(send, recv) if case.in_place else recv, kind)
            self._send = self._recv if case.in_place else at_page(send, kind)
        except MemoryError:
            raise Unsupported(f"{(send + recv) * kind.itemsize} bytes of buffers do not fit into memory") from None
        self._given_at, self._result_at = _offsets(case, rank, count, send, recv)
        self._in_place, self._root = case.in_place, case.root
        self._comm, self._sync, self._turned = comm, sync, turned
        name, self._args = self._call(case, count)
        self._function = name
        self._fill()
        if _cloop:
            self._call_at, self._sync_at = _address(name), _address("MPI_Barrier")
            self._sync_args = (MPI._handleof(sync),)

    def _call(self, case: Case, count: int) -> tuple[str, tuple[int, ...]]:
        """The C call and its arguments, in the order of the MPI standard."""
        n, rank = self._comm.size, self._comm.rank
        comm, kind = MPI._handleof(self._comm), MPI._handleof(self._datatype)
        redop, root = MPI._handleof(self._redop), case.root
        send, recv = self._send.ctypes.data, self._recv.ctypes.data
        if case.in_place and case.op != "broadcast" and (rank == root or not COLLECTIVES[case.op].rooted):
            # scatter in place is asked for on the receiving side, everything else on the sending side
            in_place = int(MPI.IN_PLACE)
            send, recv = (send, in_place) if case.op == "scatter" else (in_place, recv)
        elif case.in_place:
            send += self._given_at * self._send.itemsize
            recv += self._result_at * self._recv.itemsize
        to, source = (rank + 1) % n, (rank - 1) % n
        self._status = np.zeros(64, np.uint8)  # larger than any MPI_Status; its content is not read
        status = self._status.ctypes.data
        both = (send, count, kind, recv, count, kind)
        return {
            "all_reduce": ("MPI_Allreduce", (send, recv, count, kind, redop, comm)),
            "reduce": ("MPI_Reduce", (send, recv, count, kind, redop, root, comm)),
            "reduce_scatter": ("MPI_Reduce_scatter_block", (send, recv, count, kind, redop, comm)),
            "broadcast": ("MPI_Bcast", (recv, count, kind, root, comm)),
            "all_gather": ("MPI_Allgather", (*both, comm)),
            "all_to_all": ("MPI_Alltoall", (*both, comm)),
            "gather": ("MPI_Gather", (*both, root, comm)),
            "scatter": ("MPI_Scatter", (*both, root, comm)),
            "send_recv": (
                "MPI_Sendrecv",
                (send, count, kind, to, _TAG, recv, count, kind, source, _TAG, comm, status),
            ),
            "barrier": ("MPI_Barrier", (comm,)),
        }[case.op]

    def run(self, samples: int, calls: int) -> "Times":
        with self._turned() if self._turned else nullcontext():
            return self._timed(samples, calls)

    def _timed(self, samples: int, calls: int) -> "Times":
        out = np.zeros((1, samples))
        if _cloop:
            _cloop.run(self._call_at, self._args, self._sync_at, self._sync_args, out, calls)
            return out
        call = self._python_call()
        for i in range(samples):
            self._sync.Barrier()
            start = time.perf_counter()
            for _ in range(calls):
                call()
            out[0, i] = (time.perf_counter() - start) / calls
        return out

    def _python_call(self) -> Callable[[], Any]:
        """The same call through mpi4py, for machines where the C loop was not compiled."""
        comm, kind, root = self._comm, self._datatype, self._root
        n = self._comm.size
        rooted_here = not COLLECTIVES[self._data.op].rooted or comm.rank == root
        # Without counts: mpi4py divides the length of a buffer by the ranks where the collective does.
        give: Any = [self._send[self._given_at : self._given_at + self._data.send_count], kind]
        take: Any = [self._recv[self._result_at : self._result_at + self._data.recv_count], kind]
        if self._in_place and rooted_here:
            give, take = (give, MPI.IN_PLACE) if self._data.op == "scatter" else (MPI.IN_PLACE, [self._recv, kind])
            if self._data.op == "reduce_scatter":
                return lambda: comm.Reduce_scatter_block(MPI.IN_PLACE, [self._recv, kind], self._redop)
        to, source = (comm.rank + 1) % n, (comm.rank - 1) % n
        return {
            "all_reduce": lambda: comm.Allreduce(give, take, self._redop),
            "reduce": lambda: comm.Reduce(give, take if rooted_here else None, self._redop, root),
            "reduce_scatter": lambda: comm.Reduce_scatter_block(give, take, self._redop),
            "broadcast": lambda: comm.Bcast([self._recv, kind], root),
            "all_gather": lambda: comm.Allgather(give, take),
            "all_to_all": lambda: comm.Alltoall(give, take),
            "gather": lambda: comm.Gather(give, take if rooted_here else None, root),
            "scatter": lambda: comm.Scatter(give if rooted_here else None, take, root),
            "send_recv": lambda: comm.Sendrecv(give, to, _TAG, take, source, _TAG),
            "barrier": comm.Barrier,
        }[self._data.op]

    def _fill(self) -> None:
        """Poison where results will be, then the known data where it is given."""
        self._recv.fill(encode(np.array([float(POISON)]), self._dtype)[0])
        gives = self._data.op not in ("broadcast", "scatter") or self._data.rank == self._root
        for start, stop in spans(self._data.send_count if gives else 0):
            at = self._given_at
            self._send[at + start : at + stop] = encode(self._data.given(start, stop), self._dtype)

    def check(self) -> Sequence[Check]:
        self._fill()
        self.run(1, 1)
        at = self._result_at
        return [self._data.verify(lambda start, stop: self._recv[at + start : at + stop])]

    def prove(self, tool: mpi_tool.Tool, settings: Mapping[str, str], held: str = "") -> None:
        """Sees to it that the settings do what they say, as far as this library lets it be seen; `proof` says how far.
        `held`: what is known already of those that the process started with.

        Raises Unsupported on all members alike: a step that fails on one of them is the last for all.
        """
        collective = mpi_tool.THEIRS.get(self._data.op, "")
        steps = (self._served, self._accepted, self._reduced_as)
        found = [held] if held else []
        found += [f"{one} read back" for one in map("=".join, settings.items()) if f"{one} in force" not in held]
        for step in steps:
            reason = told = ""
            try:
                told = step(tool, settings, collective)
            except Unsupported as error:
                reason = str(error)
            _agree(self._sync, reason)
            found += [told] if told else []
        self.proof = "; ".join(found)

    def _served(self, tool: mpi_tool.Tool, settings: Mapping[str, str], collective: str) -> str:
        """Open MPI: the function that serves the collective on this communicator."""
        if not any(mpi_tool.about(name)[0] for name in settings):
            return ""
        return mpi_tool.evidence(mpi_tool.serving(MPI._handleof(self._comm), collective), settings, collective)

    def _accepted(self, tool: mpi_tool.Tool, settings: Mapping[str, str], collective: str) -> str:
        """Whether the library takes the call. MPICH would fall back in silence; it is asked to fail instead.

        Not for `smp`: the calls inside it see the same variable, and have to fall back.
        """
        strict = mpi_tool.FALLBACK in tool.variables and "smp" not in settings.values()
        more = {mpi_tool.FALLBACK: tool.value(mpi_tool.FALLBACK, "error")} if strict else {}
        try:
            with self._turned() if self._turned else nullcontext(), tool.turned(more):
                self._python_call()()
        except MPI.Exception:
            chosen = ", ".join(f"{name}={text}" for name, text in settings.items())
            raise Unsupported(f"{chosen}: the MPI library says that this cannot serve the call") from None
        return "MPICH does not fall back" if strict else ""

    def _reduced_as(self, tool: mpi_tool.Tool, settings: Mapping[str, str], collective: str) -> str:
        """The partial reductions of one all-reduce, against those of the chosen algorithm.

        The call is made once with an operation of our own that notes its lengths: they are an algorithm's footprint.
        """
        chosen = [name for name in settings if re.search(r"(?i)_allreduce(_intra)?_algorithm$", name)]
        if collective != "allreduce" or not chosen or not self._turned:
            return ""
        numbers = {value: name for name, value in tool.variables[chosen[0]].values.items()}
        algorithm = numbers.get(int(tool.value(chosen[0], settings[chosen[0]])), "")
        pieces: list[int] = []
        size, real = self._recv.itemsize, self._redop

        def note(given: Any, result: Any, kind: Any) -> None:
            pieces.append(len(result) // size)

        spy = MPI.Op.Create(note, commute=True)
        try:
            self._redop = spy
            with self._turned():
                self._python_call()()
        finally:
            self._redop = real
            spy.Free()
        comm, count = self._comm, self._data.send_count
        ran = mpi_tool.pattern(algorithm, comm.size, comm.rank, count, pieces)
        if ran is False:
            raise Unsupported(f"{chosen[0]}={algorithm} was set, but another algorithm ran: {count} elements on "
                              f"{comm.size} ranks were not reduced as by {algorithm}")  # fmt: skip
        return f"{len(pieces)} partial reductions, those of {algorithm}" if ran else ""

    def close(self) -> None:
        self._send = self._recv = np.zeros(0)
        if self._turned:
            self._comm.Free()


def _agree(comm: MPI.Comm, reason: str) -> None:
    """Raises Unsupported on every rank with the first rank's reason, if any has one."""
    mine = np.frombuffer(reason.encode()[:_SENTENCE].ljust(_SENTENCE, b"\0"), np.uint8).copy()
    everyone = np.zeros((comm.size, _SENTENCE), np.uint8)
    comm.Allgather(mine, everyone)
    for told in everyone:
        if told[0]:
            raise Unsupported(told.tobytes().rstrip(b"\0").decode(errors="replace"))


def _offsets(case: Case, rank: int, count: int, send: int, recv: int) -> tuple[int, int]:
    """Where in the shared buffer the rank's own part is, in elements: (what it gives, its result).

    Out of place both are 0. In place the smaller part sits at the rank's chunk of the larger one, but
    MPI_Reduce_scatter_block leaves its result at the front.
    """
    if not case.in_place:
        return 0, 0
    own = rank * count
    return (own if send < recv else 0), (own if recv < send and case.op != "reduce_scatter" else 0)
