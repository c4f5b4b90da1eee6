"""From what the launcher said to a working control channel."""

import os
from collections.abc import Callable, Sequence

from commbench.errors import LaunchError, MissingLibrary
from commbench.world.discover import Place
from commbench.world.protocol import World
from commbench.world.rollcall import RollCall
from commbench.world.single import SingleWorld

_MPI = ("openmpi", "mpich", "intel-mpi")


def join(place: Place | None, backends: Sequence[str], say: Callable[[str], None]) -> tuple[World, RollCall | None]:
    """The world of this process and its roll call (None for one process).

    Raises LaunchError where ranks and launcher disagree, MissingLibrary where the channel's library is missing.
    """
    if place is None or place.size == 1:
        return SingleWorld(), None
    world = _mpi(place) if _wants_mpi(place, backends) else _torch(place)
    rollcall = RollCall(world.rank, world.size, world.share, say)
    # The address by which most ranks reached rank 0 is the one that other rendezvous can use.
    reached = [part.decode() for part in world.gather(rollcall.reached.encode())][1:]
    world.address = world.share(max(reached, key=reached.count).encode() if reached else b"").decode()
    return world, rollcall


def _wants_mpi(place: Place, backends: Sequence[str]) -> bool:
    if "SLURM_STEP_ID" in os.environ and place.launcher in ("srun", *_MPI):
        # srun offers PMI to everybody; only where MPI is measured must the ranks really be one MPI world.
        started_by_srun = os.environ.get("SLURM_PROCID") == str(place.rank)
        if started_by_srun and "OMPI_COMM_WORLD_RANK" not in os.environ:
            return "mpi" in backends
    return place.launcher in _MPI


def _mpi(place: Place) -> World:
    try:
        from commbench.world.mpi import MpiWorld
    except ImportError as error:
        raise MissingLibrary(
            f"{place.launcher} started this job, which needs mpi4py: pip install mpi4py ({error})"
        ) from None
    except RuntimeError as error:  # mpi4py found no MPI library to load
        raise MissingLibrary(
            f"mpi4py found no MPI library ({str(error).splitlines()[0]}): pip install 'commbench[mpi]' brings one"
        ) from None
    return MpiWorld(place)


def _torch(place: Place) -> World:
    try:
        from commbench.world.torch import TorchWorld
    except ImportError as error:
        raise MissingLibrary(
            f"{place.launcher} started this job, which needs PyTorch: pip install torch ({error})"
        ) from None
    try:
        return TorchWorld(place)
    except OSError as error:
        raise LaunchError(f"rank {place.rank} of {place.size} ({place.source}): {error}") from None
