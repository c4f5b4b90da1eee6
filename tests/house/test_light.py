"""What a command does not need it does not load: `--help` is quick, `show` needs neither torch nor MPI."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from commbench.cli import COMMANDS, group

HEAVY = {"numpy", "torch", "mpi4py", "scipy", "matplotlib", "rich", "yaml"}
# The tests may themselves run inside a job.
LAUNCHERS = ("OMPI_", "PMI", "SLURM_", "TORCHELASTIC_", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_")
ENV = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}


def loaded(*arguments: str) -> tuple[set[str], str]:
    """The packages that `commbench ARGUMENTS` imports in a process of its own, and what it prints."""
    command = [sys.executable, "-X", "importtime", "-m", "commbench", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=ENV)
    assert ended.returncode == 0, "\n".join(x for x in ended.stderr.splitlines() if not x.startswith("import time:"))
    lines = [line.rpartition("|")[2].strip() for line in ended.stderr.splitlines() if line.startswith("import time:")]
    assert "commbench.cli" in lines
    return {line.partition(".")[0] for line in lines}, ended.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small simulated run."""
    parent = tmp_path_factory.mktemp("light")
    spec = parent / "spec.yaml"
    spec.write_text("backend: simulated\nop: [all_reduce, barrier]\nsizes: [1KiB, 1MiB]\nlaunches: 2\n")
    out = parent / "run"
    loaded("sweep", str(spec), "-n", "4", "--out", str(out), "--quiet")
    return out


def test_help_loads_no_library() -> None:
    packages, text = loaded("--help")
    assert packages & HEAVY == set()
    assert all(name in text for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_loads_no_library(name: str) -> None:
    packages, text = loaded(name, "--help")
    assert packages & HEAVY == set()
    assert "Usage:" in text


def test_the_version_loads_no_library() -> None:
    packages, text = loaded("--version")
    assert packages & HEAVY == set()
    assert text.startswith("commbench, version ")


@pytest.mark.parametrize("form", [(), ("--json",), ("--csv",)], ids=["table", "json", "csv"])
def test_a_run_is_shown_without_torch_mpi_and_matplotlib(folder: Path, form: tuple[str, ...]) -> None:
    packages, text = loaded("show", str(folder), *form)
    assert packages & {"torch", "mpi4py", "matplotlib"} == set()
    assert "all_reduce" in text
    if form == ("--json",):
        assert len(json.loads(text)["rows"]) == 3


def test_specs_are_listed_without_torch_and_mpi() -> None:
    packages, text = loaded("specs")
    assert packages & {"torch", "mpi4py", "matplotlib", "scipy"} == set()
    assert "quick" in text


def test_a_simulated_sweep_needs_neither_torch_nor_mpi(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("backend: simulated\nop: all_reduce\nsizes: 1KiB\n")
    packages, _ = loaded("sweep", str(spec), "-n", "2", "--out", str(tmp_path / "run"), "--quiet")
    assert packages & {"torch", "mpi4py", "matplotlib"} == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    ended = CliRunner().invoke(group, [name, "--help"])
    assert ended.exit_code == 0
    with click.Context(group) as context:
        command = group.get_command(context, name)
    assert command is not None
    assert command.help
    assert command.name == name
    assert COMMANDS[name][1].endswith(".")
    options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    assert [option.name for option in options if not option.help] == []
    assert all(max(option.opts, key=len) in ended.output for option in options)


def test_the_exit_codes_are_in_the_help() -> None:
    text = " ".join(CliRunner().invoke(group, ["--help"]).output.split())
    assert "Exit codes: 0 ok, 1 wrong data" in text
    assert all(f" {code} " in text for code in range(5))


def test_an_unknown_command_names_the_nearest() -> None:
    ended = CliRunner().invoke(group, ["swep"])
    assert ended.exit_code == 2
    assert "did you mean 'sweep'" in ended.stderr
