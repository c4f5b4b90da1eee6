"""Who started this process: read from the environment alone, so that it can be asked before any MPI_Init.

The innermost launcher wins: mpirun inside sbatch inherits the batch step's SLURM_PROCID, torchrun agents
started by mpirun inherit its rank. Where two sources disagree and neither is known to be the inner one, the
job stops and both are printed. The environment only proposes; hosts and local ranks are found by exchange.
"""

from collections.abc import Mapping
from typing import NamedTuple

from commbench.errors import LaunchError


class Place(NamedTuple):
    """What one launcher says about this process."""

    launcher: str
    rank: int
    size: int
    local_rank: int | None
    source: str  # the variables it was read from, for messages


class _Variables(NamedTuple):
    rank: str
    sizes: tuple[str, ...]  # the first that is set
    local: str
    needs: str = ""  # another variable that must be set for the source to count


_SOURCES: dict[str, _Variables] = {
    "torchrun": _Variables("RANK", ("WORLD_SIZE",), "LOCAL_RANK", "MASTER_ADDR"),
    "openmpi": _Variables("OMPI_COMM_WORLD_RANK", ("OMPI_COMM_WORLD_SIZE",), "OMPI_COMM_WORLD_LOCAL_RANK"),
    "hydra": _Variables("PMI_RANK", ("PMI_SIZE",), "MPI_LOCALRANKID"),
    # Without a step this is the batch script itself (or a salloc shell), which is not a rank.
    "srun": _Variables("SLURM_PROCID", ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"), "SLURM_LOCALID", "SLURM_STEP_ID"),
}


def discover(env: Mapping[str, str]) -> Place | None:
    """The place that the innermost launcher gave this process, or None where there was no launcher.

    Raises LaunchError where the sources contradict each other or one of them makes no sense.
    """
    places = {name: place for name in _SOURCES if (place := _read(name, env))}
    mpi = [places[name] for name in ("openmpi", "hydra") if name in places]
    if len(mpi) == 2 and mpi[0][1:3] != mpi[1][1:3]:
        raise _contradiction(*mpi)
    torchrun = places.get("torchrun")
    # Only the torchrun agent sets this one; plain RANK and WORLD_SIZE may be left over from anything. Its
    # numbers win on every rank, also where they happen to be the same as mpirun's.
    if torchrun and "TORCHELASTIC_RUN_ID" in env:
        return torchrun
    if torchrun and mpi and torchrun[1:3] != mpi[0][1:3]:
        raise _contradiction(torchrun, mpi[0])
    return mpi[0] if mpi else torchrun or places.get("srun")


def _read(name: str, env: Mapping[str, str]) -> Place | None:
    variables = _SOURCES[name]
    size_name = next((size for size in variables.sizes if size in env), None)
    if variables.rank not in env or size_name is None or (variables.needs and variables.needs not in env):
        return None
    source = f"{variables.rank}={env[variables.rank]} {size_name}={env[size_name]}"
    try:
        rank, size = int(env[variables.rank]), int(env[size_name])
        local = int(env[variables.local]) if variables.local in env else None
    except ValueError:
        if variables.local in env:
            source += f" {variables.local}={env[variables.local]}"
        raise LaunchError(f"{source}: these are not whole numbers; unset them or start through {name}") from None
    if not 0 <= rank < size:
        raise LaunchError(f"{source}: the rank is outside the world; unset them or start through {name}")
    if name == "hydra":
        name = "intel-mpi" if any(key.startswith("I_MPI_") for key in env) else "mpich"
    return Place(name, rank, size, local, source)


def _contradiction(one: Place, other: Place) -> LaunchError:
    return LaunchError(
        f"two launchers disagree about this process: {one.launcher} says {one.source}, "
        f"{other.launcher} says {other.source}; unset the variables of the one that did not start this job"
    )
