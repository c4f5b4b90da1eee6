"""Which variables of an environment may be kept: by name or prefix, and never one that looks like a secret."""

import re
from collections.abc import Mapping

_PREFIXES = (
    "NCCL_", "RCCL_", "TORCH_NCCL_", "TORCH_FR_", "TORCH_DIST", "GLOO_", "UCX_", "FI_", "OMPI_MCA_", "PRTE_MCA_",
    "PMIX_MCA_", "MPICH_", "MPIR_CVAR_", "I_MPI_", "OMP_", "KMP_", "MKL_", "COMMBENCH_",
)  # fmt: skip
_NAMES = frozenset(
    (
        "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE",
        "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_NTASKS", "SLURM_NNODES", "SLURM_STEP_NODELIST", "SLURM_CPUS_PER_TASK",
        "SLURM_TOPOLOGY_ADDR", "SLURM_CPU_BIND",
    )
)  # fmt: skip
# Inside the list still hidden: words that name a secret, the working folder, launchers' own addresses and
# argument lists.
_SECRET = re.compile(
    r"KEY|TOKEN|SECRET|PASS|PWD|CRED|AUTH|COOKIE|PROXY|JWT|WDIR|(?:^|_)(?:URI|URL|ARGS?)(?:_|$)|PMIX_SERVER|_FD$"
)
_USERINFO = re.compile(
    r"//[^/\s]*@|^[^/\s:@]+:[^/\s@]+@|(?i:\b(?:bearer|basic) \S|(?:key|token|secret|passw(?:or)?d|pwd)[=: ]\S)"
)


def environment(env: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """(variables that may be recorded, names of those that may not)."""
    listed = {name: value for name, value in env.items() if name in _NAMES or name.startswith(_PREFIXES)}
    hidden = [name for name, value in listed.items() if _SECRET.search(name.upper()) or _USERINFO.search(value)]
    return {name: value for name, value in sorted(listed.items()) if name not in hidden}, tuple(sorted(hidden))
