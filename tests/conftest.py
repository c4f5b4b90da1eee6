"""In CI nothing may be skipped silently: what a developer's machine lacks, CI must have. And small real sweeps."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from ranks import ranks_of

settings.register_profile("untimed", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("untimed")

os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT", "1")
os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=8, help="How often a running sweep is killed and resumed.")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kill_seed" in metafunc.fixturenames:
        kills = metafunc.config.getoption("--kills")  # in the lab there are eight ways to end it
        lab = "lab" in metafunc.definition.path.parts
        metafunc.parametrize("kill_seed", range(kills if lab else max(kills // 2, 2)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    elsewhere = "no collected file" in str(report.longrepr)  # files of other people, which a clone does not have
    if os.environ.get("CI") == "true" and report.skipped and not item.get_closest_marker("gpu") and not elsewhere:
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def _own_session_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Open MPI's session folder is named after mpirun's process number, and those come round again in a long run."""
    monkeypatch.setenv("PRTE_MCA_prte_local_tmpdir_base", str(tmp_path))


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., str]:
    """Writes a small spec that takes little time; keyword arguments are its fields, as YAML text."""

    def write(**fields: str) -> str:
        values = {
            "backend": "mpi",
            "op": "all_reduce",
            "sizes": "[8, 64KiB]",
            "stop": "{max_time: 0.2s, max_samples: 50}",
            "warmup": "{max_time: 0.1s}",
            **fields,
        }
        path = tmp_path / "spec.yaml"
        path.write_text("".join(f"{key}: {value}\n" for key, value in values.items()))
        return str(path)

    return write


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """A run folder that is not there yet; no rank that writes to it outlives the test."""
    folder = tmp_path / "run"
    yield folder
    for pid in ranks_of(folder).values():
        os.kill(pid, signal.SIGKILL)
