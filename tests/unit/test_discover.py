"""Who started this process: what each launcher really sets, alone and inside one another."""

from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commbench.errors import LaunchError
from commbench.world.discover import discover

Env = dict[str, str]


def openmpi(rank: int, size: int, local: int = 0) -> Env:
    return {
        "OMPI_COMM_WORLD_RANK": str(rank),
        "OMPI_COMM_WORLD_SIZE": str(size),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(local),
        "OMPI_COMM_WORLD_LOCAL_SIZE": str(size),
        "OMPI_COMM_WORLD_NODE_RANK": str(local),
        "PMIX_RANK": str(rank),
        "PMIX_NAMESPACE": "prterun-here-1@1",
    }


def mpich(rank: int, size: int, local: int = 0) -> Env:
    return {
        "PMI_RANK": str(rank),
        "PMI_SIZE": str(size),
        "PMI_FD": "7",
        "MPI_LOCALRANKID": str(local),
        "MPI_LOCALNRANKS": str(size),
    }


def intel(rank: int, size: int, local: int = 0) -> Env:
    return {**mpich(rank, size, local), "I_MPI_MPIRUN": "mpirun", "I_MPI_HYDRA_UUID": "1"}


def torchrun(rank: int, size: int, local: int = 0) -> Env:
    return {
        **plain_torch(rank, size),
        "LOCAL_RANK": str(local),
        "LOCAL_WORLD_SIZE": str(size),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }


def plain_torch(rank: int, size: int) -> Env:
    """Set by hand, or by a job script for torch's env:// rendezvous."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
    }


def srun(rank: int, size: int, local: int = 0) -> Env:
    return {
        **allocation(size),
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": str(size),
        "SLURM_STEP_NODELIST": "n[1-2]",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(local),
    }


def sbatch(size: int) -> Env:
    """The batch script itself: Slurm counts it as task 0, but it is not a rank."""
    return {
        **allocation(size),
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_TASK_PID": "4711",
    }


def allocation(size: int) -> Env:
    return {
        "SLURM_JOB_ID": "4",
        "SLURM_NTASKS": str(size),
        "SLURM_NPROCS": str(size),
        "SLURM_NNODES": "2",
    }


class Found(NamedTuple):
    launcher: str
    rank: int
    size: int
    local: int | None


TABLE: dict[str, tuple[Env, Found | None]] = {
    "nothing": ({}, None),
    "Open MPI": (openmpi(3, 8, 1), Found("openmpi", 3, 8, 1)),
    "MPICH": (mpich(3, 8, 1), Found("mpich", 3, 8, 1)),
    "Intel MPI": (intel(3, 8, 1), Found("intel-mpi", 3, 8, 1)),
    "torchrun": (torchrun(3, 8, 1), Found("torchrun", 3, 8, 1)),
    "torch's variables by hand": (plain_torch(3, 8), Found("torchrun", 3, 8, None)),
    "srun": (srun(3, 8, 1), Found("srun", 3, 8, 1)),
    "an old Slurm without SLURM_STEP_NUM_TASKS": (
        {key: value for key, value in srun(3, 8, 1).items() if key != "SLURM_STEP_NUM_TASKS"},
        Found("srun", 3, 8, 1),
    ),
    "a step smaller than its allocation": ({**srun(1, 2), "SLURM_NTASKS": "64"}, Found("srun", 1, 2, 0)),
    "a batch script": (sbatch(8), None),
    "a salloc shell": (allocation(8), None),
    "RANK and WORLD_SIZE left over from something": ({"RANK": "0", "WORLD_SIZE": "1"}, None),
    "a rank without a size": ({"OMPI_COMM_WORLD_RANK": "0", "PMI_RANK": "0"}, None),
    # one inside the other
    "Open MPI's mpirun inside sbatch": ({**sbatch(8), **openmpi(3, 4, 3)}, Found("openmpi", 3, 4, 3)),
    "MPICH's mpiexec inside sbatch": ({**sbatch(8), **mpich(3, 4, 3)}, Found("mpich", 3, 4, 3)),
    # Hydra starts its daemons by srun, so that all ranks of a node inherit the daemon's SLURM_PROCID.
    "Hydra through srun's daemons": ({**srun(1, 2), **mpich(6, 8, 2)}, Found("mpich", 6, 8, 2)),
    "Open MPI through srun's daemons": ({**srun(1, 2), **openmpi(6, 8, 2)}, Found("openmpi", 6, 8, 2)),
    "srun --mpi=pmi2": (
        {**srun(3, 8, 1), "PMI_RANK": "3", "PMI_SIZE": "8", "PMI_FD": "9"},
        Found("mpich", 3, 8, None),
    ),
    "torchrun inside sbatch": ({**sbatch(2), **torchrun(3, 8, 1)}, Found("torchrun", 3, 8, 1)),
    "torchrun agents started by srun": ({**srun(1, 2), **torchrun(5, 8, 1)}, Found("torchrun", 5, 8, 1)),
    "torchrun agents started by mpirun": (
        {**openmpi(1, 2), **torchrun(5, 8, 1)},
        Found("torchrun", 5, 8, 1),
    ),
    "torchrun agents started by mpiexec": ({**mpich(1, 2), **torchrun(5, 8, 1)}, Found("torchrun", 5, 8, 1)),
    # torchrun numbers its agents in the order of their arrival: with one worker an agent, the numbers of
    # mpirun and torchrun are the same on some ranks and different on others. All must take torchrun's.
    "one torchrun worker an agent, same number": (
        {**openmpi(0, 3), **torchrun(0, 3)},
        Found("torchrun", 0, 3, 0),
    ),
    "one torchrun worker an agent, other number": (
        {**openmpi(1, 3), **torchrun(2, 3)},
        Found("torchrun", 2, 3, 0),
    ),
    # A job script that exports torch's rendezvous from MPI's variables: mpirun is the launcher.
    "mpirun with torch's variables set to the same": (
        {**openmpi(3, 8, 1), **plain_torch(3, 8)},
        Found("openmpi", 3, 8, 1),
    ),
    "Open MPI and PMI of one launcher": ({**openmpi(3, 8, 1), **mpich(3, 8, 1)}, Found("openmpi", 3, 8, 1)),
}


@pytest.mark.parametrize("name", TABLE)
def test_what_a_launcher_sets(name: str) -> None:
    env, found = TABLE[name]
    place = discover({"PATH": "/bin", "HOME": "/root", **env})
    assert (Found(*place[:4]) if place else None) == found
    if place:  # what was read, for messages
        assert str(place.rank) in place.source
        assert str(place.size) in place.source
        assert all(part.split("=")[0] in env for part in place.source.split())


@pytest.mark.parametrize(
    ("env", "named"),
    [
        (
            {**openmpi(1, 4), **mpich(0, 1)},
            [
                "openmpi",
                "OMPI_COMM_WORLD_RANK=1",
                "OMPI_COMM_WORLD_SIZE=4",
                "mpich",
                "PMI_RANK=0",
                "PMI_SIZE=1",
            ],
        ),
        ({**openmpi(1, 4), **intel(1, 8)}, ["openmpi", "intel-mpi", "OMPI_COMM_WORLD_SIZE=4", "PMI_SIZE=8"]),
        (
            {**openmpi(1, 4), **plain_torch(0, 1)},
            ["openmpi", "OMPI_COMM_WORLD_RANK=1", "torchrun", "RANK=0 WORLD_SIZE=1"],
        ),
        ({**mpich(1, 4), **plain_torch(1, 8)}, ["mpich", "PMI_SIZE=4", "torchrun", "WORLD_SIZE=8"]),
    ],
)
def test_a_contradiction_is_one_line_with_both_sources(env: Env, named: list[str]) -> None:
    with pytest.raises(LaunchError) as stop:
        discover(env)
    sentence = str(stop.value)
    assert stop.value.exit_code == 4
    assert "\n" not in sentence
    assert [name for name in named if name not in sentence] == []


GARBAGE = ("", "x", "1.5", "0x1", "1 2", "9" * 5000)
SOURCES = {
    "openmpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "hydra": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
}
MADE_BY = {"openmpi": openmpi, "hydra": mpich, "torchrun": torchrun, "srun": srun}


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda text: repr(text)[:8])
@pytest.mark.parametrize(("launcher", "which"), [(name, k) for name in SOURCES for k in range(3)])
def test_garbage_is_refused_by_the_name_of_its_variable(launcher: str, which: int, garbage: str) -> None:
    variable = SOURCES[launcher][which]
    with pytest.raises(LaunchError) as stop:
        discover({**MADE_BY[launcher](0, 2), variable: garbage})
    assert f"{variable}={garbage}" in str(stop.value)
    assert "whole number" in str(stop.value)
    assert "\n" not in str(stop.value)


@pytest.mark.parametrize("launcher", SOURCES)
@pytest.mark.parametrize(("rank", "size"), [(2, 2), (-1, 2), (7, 2), (0, 0), (0, -1)])
def test_a_rank_outside_the_world_is_refused(launcher: str, rank: int, size: int) -> None:
    with pytest.raises(LaunchError, match="outside the world") as stop:
        discover(MADE_BY[launcher](rank, size))
    assert f"{SOURCES[launcher][0]}={rank}" in str(stop.value)
    assert f"{SOURCES[launcher][1]}={size}" in str(stop.value)


variables = sorted({key for make in MADE_BY.values() for key in make(0, 2)})
values = st.one_of(st.integers(-2, 5).map(str), st.sampled_from(["", "x", "1e3", "0 ", "\u0663"]))


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(variables), values))
def test_any_mixture_gives_a_place_in_its_world_or_one_line(env: Env) -> None:
    place, sentence = None, ""
    try:
        place = discover(env)
    except LaunchError as error:
        sentence = str(error)
    if sentence:
        assert "\n" not in sentence
        assert any(f"{key}={value}" in sentence for key, value in env.items())
    else:
        assert place is None or 0 <= place.rank < place.size
        assert discover(dict(reversed(env.items()))) == place
