"""Builds the NCCL tuner plugin: one call of a C compiler, no headers but the C library's, about a second."""

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from commbench.errors import CommbenchError, MissingLibrary, SpecError

SOURCES = Path(__file__).parent / "plugin"
NAME = "libnccl-tuner-commbench.so"  # NCCL_TUNER_PLUGIN=commbench finds it on the library path
FLAGS = ("-std=c11", "-D_POSIX_C_SOURCE=200809L", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra")
PATIENCE = 60.0  # seconds


def compiler() -> list[str]:
    """The C compiler as the beginning of an argument list: $CC where it is set, else cc, gcc or clang.

    MissingLibrary where there is none.
    """
    try:
        wanted = shlex.split(os.environ.get("CC", ""))
    except ValueError as error:
        raise SpecError(f"CC={os.environ['CC']!r}: {error}") from None
    for name in [wanted[0]] if wanted else ["cc", "gcc", "clang"]:
        if found := shutil.which(name):
            return [found, *wanted[1:]]
    raise MissingLibrary(
        f"CC={wanted[0]}: there is no such program"
        if wanted
        else "the plugin needs a C compiler: none of cc, gcc, clang is on the PATH; install one or name it in CC"
    )


def build(folder: Path, flags: Sequence[str] = ()) -> Path:
    """The plugin, built into `folder`, which is made where it is missing; one that is there is replaced in one step.

    `flags` are added behind FLAGS. SpecError: the folder cannot be written. MissingLibrary: no compiler.
    CommbenchError: the compiler failed.
    """
    command = [*compiler(), *FLAGS, *flags]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=folder) as scratch:
            made = Path(scratch) / NAME
            _compile([*command, "-o", str(made), *(str(source) for source in sorted(SOURCES.glob("*.c")))])
            return made.replace(folder / NAME)
    except OSError as error:
        raise SpecError(f"{folder}: {error.strerror}; name a folder that can be written") from None


def _compile(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise CommbenchError(f"{command[0]} did not end within {PATIENCE:g} s") from None
    if done.returncode:
        first = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()
        said = next((line for line in first if "error" in line), first[0])
        raise CommbenchError(f"{command[0]} cannot build the plugin: {said[:500]}")
