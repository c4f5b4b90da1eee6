"""The protocols of a backend, and the table of backends."""

import time
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from commbench.collectives import Check
from commbench.errors import MissingLibrary, SpecError, nearest
from commbench.layouts import Groups
from commbench.records import Case
from commbench.records.measurement import Clock

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Times = NDArray[np.float64]


class Op(Protocol):
    """A prepared collective: buffers allocated and filled, communicator ready.

    A process plays one rank with a real backend and all ranks with the simulated one, so times are a matrix.
    """

    clock: Clock
    proof: str  # what was seen of the effect of the case's settings; "" where it has none

    def run(self, samples: int, calls: int) -> "Times":
        """`samples` times: synchronise the group, then `calls` calls back to back.

        Returns seconds per call, shape (ranks played here, samples).
        """

    def check(self) -> Sequence[Check]:
        """Runs once on known data and poisoned receive buffers; one outcome for each rank played here."""

    def close(self) -> None:
        """Frees the buffers (communicators stay for the next case)."""


class Backend(Protocol):
    """A library in one process, ready for many cases."""

    facts: dict[str, str]
    timer: float  # seconds that reading its clock costs

    def prepare(self, case: Case, groups: Groups) -> Op | None:
        """Called by every process of the world. None: this process has no rank in the groups.

        Raises Unsupported with a sentence where the library lacks what the case asks for.
        """

    def close(self) -> None:
        """Ends what it started, its threads above all: one of Gloo's that meets a dying interpreter aborts."""


# name -> "module:class", loaded when used: torch and mpi4py are heavy. Each is built as Class(world).
BACKENDS: dict[str, str] = {
    "gloo": "commbench.backends.torchdist:Gloo",
    "nccl": "commbench.backends.torchdist:Nccl",
    "mpi": "commbench.backends.mpi:Mpi",
    "simulated": "commbench.backends.simulated:Simulated",
}

# torch.distributed reduces into the buffer it is given; there is no second one to ask for.
IN_PLACE_ONLY: dict[str, frozenset[str]] = {
    "gloo": frozenset({"all_reduce", "reduce"}),
    "nccl": frozenset({"all_reduce", "reduce"}),
}


def python_timer() -> float:
    """Seconds that one reading of Python's clock costs (smallest of many)."""
    costs = []
    for _ in range(200):
        start = time.perf_counter()
        for _ in range(50):
            time.perf_counter()
        costs.append((time.perf_counter() - start) / 50)
    return min(costs)


def load(name: str) -> Any:
    """The class behind a backend's name. Raises MissingLibrary where what it stands on cannot be loaded."""
    if name not in BACKENDS:
        raise SpecError(f"unknown backend {name!r}; {nearest(name, BACKENDS)}")
    module, _, attribute = BACKENDS[name].partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ImportError as error:
        raise MissingLibrary(f"backend {name} needs a library that is not installed here: {error}") from None
    except RuntimeError as error:  # mpi4py is there, but no MPI library
        raise MissingLibrary(
            f"backend {name}: {str(error).splitlines()[0]}; pip install 'commbench[mpi]' brings one"
        ) from None
