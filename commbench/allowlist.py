"""Which variables of an environment may be kept, and which words of a command line or a sentence: never a secret."""

import re
from collections.abc import Mapping, Sequence

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


# ---- command lines and sentences: what looks like a secret becomes ***, the rest stays as it is

HIDDEN = "***"
_WORD = r"(?:TOKEN|SECRET|PASSW(?:OR)?D|PASSPHRASE|PWD|CREDENTIALS?|AUTH|AUTHORIZATION|COOKIE|JWT|API_?KEY|KEY_?ID)"
_NAME = rf"(?:[A-Z0-9]+[_.-])*(?:[A-Z0-9]*{_WORD}|(?:[A-Z0-9]+[_-])(?:KEY|PASS))(?:[_-][A-Z0-9]+)*"
_OPTION = re.compile(rf"--?{_NAME}", re.I)  # `--auth-token VALUE`
_VALUE = r"""(?:"[^"]*"|'[^']*'|(?:(?:Bearer|Basic)\s+)?[^\s,;&}\])"']+)"""
_HIDE = (
    (re.compile(r"//[^/\s@]*@"), f"//{HIDDEN}@"),
    (re.compile(r"//[^/\s:@]*:[^\s@]*@"), f"//{HIDDEN}@"),  # a password with a slash in it
    (re.compile(rf"(?<![A-Z0-9])({_NAME}[\"']?\s*=\s*){_VALUE}", re.I), rf"\1{HIDDEN}"),
    # Behind a dot it is the place of a mistake: `$.auth: unknown key`.
    (re.compile(rf"(?<![A-Z0-9.])({_NAME}[\"']?\s*:\s*){_VALUE}", re.I), rf"\1{HIDDEN}"),
    (re.compile(r"\b(bearer\s+)[^\s,;\"']+", re.I), rf"\1{HIDDEN}"),
)


def text(said: str) -> str:
    """A sentence as it may be kept: no user and password in an address, no value behind the name of a secret."""
    for pattern, instead in _HIDE:
        said = pattern.sub(instead, said)
    return said


def argv(words: Sequence[str]) -> tuple[str, ...]:
    """A command line as it may be kept, word by word as `text`, and without the word behind `--token` and the like."""
    found: list[str] = []
    for k, word in enumerate(words):
        behind = k > 0 and _OPTION.fullmatch(words[k - 1]) is not None and not word.startswith("-")
        found.append(HIDDEN if behind else text(word))
    return tuple(found)
