"""Acceptance with real ranks: never PASS without evidence, whatever is killed, full, missing or secret."""

import json
import os
import random
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner
from ranks import COMMBENCH, MPIRUN, TORCHRUN, Ended, fill, load, ranks_of, rows, run, small_disc, start, wait_for

from commbench.cli import group
from commbench.cli.accept import command
from commbench.jobs.verdict import judged
from commbench.records import acceptance
from commbench.records import verdict as records

pytestmark = pytest.mark.real
SPEC = """
backend: mpi
expect: {hosts: 1, ranks_per_host: 2}
stages: [preflight, intra, full, stability]
pairs: {bandwidth: 64KiB, latency: 8B}
full: {collectives: [all_reduce], sizes: [4KiB, 64KiB]}
trial: {max_time: 30ms, min_samples: 3, max_samples: 100, warmup: 5ms}
windows: 8
budget: 60s
deadline: 3s
"""
# Of seven windows at most three are below their median: what else this machine does decides nothing.
QUICK = [
    f"--set={item}"
    for item in ("backend=mpi", "trial.max_time=30ms", "trial.warmup=5ms", "windows=7", "full.sizes=[4KiB]",
                 "criteria=[{kind: stability, windows: 49%}]")
]  # fmt: skip
LONG = ["--set", "windows=10000"]


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(SPEC)
    return str(path)


def accept(spec: str, out: Path, *more: str) -> list[str]:
    return [*COMMBENCH, "accept", spec, "--out", str(out), *more]


def word(out: Path) -> str:
    return records.read(out).word if (out / records.NAME).exists() else ""


def codes(out: Path) -> set[str]:
    return {reason.code for reason in records.read(out).reasons}


def refused(ended: Ended, code: int = 2) -> str:
    """The one sentence of a command that ended with this code."""
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.out + ended.err
    return ended.said[-1]


def mistake(*words: str) -> str:
    """What `commbench accept` says where it refuses before anything starts."""
    ended = CliRunner().invoke(command, words)
    assert ended.exit_code == 2, ended.output
    return ended.output


def whole(out: Path) -> None:
    """No file is half written, and the journal is what was measured."""
    for path in out.glob("*"):
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.suffix == ".xml":
            ET.fromstring(path.read_bytes())
        elif path.suffix == ".prom":
            assert path.read_bytes().endswith(b"\n")
    if (out / "run.json").exists():
        load(out)
    if word(out) == "PASS":
        assert acceptance.read(out).ended == "done"
        assert judged(out).word == "PASS"


def processes(out: Path) -> list[int]:
    """Everything that runs with this folder in its command."""
    found, folder = [], os.fsencode(out)
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if folder in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


# ---- a healthy machine, and what a run keeps ------------------------------------------------------------------

# name -> value of variables that nobody may ever read again; each value is found in no file and nothing printed
NAMES = """
GITHUB_TOKEN HF_TOKEN SLURM_JWT AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN DB_PASSWORD PGPASSWORD API_KEY
NCCL_NET_PASSWORD NCCL_PLUGIN_AUTH UCX_TLS_KEY_FILE OMPI_MCA_sec_token OMPI_MCA_btl_secret PRTE_MCA_plm_credential
GLOO_COOKIE FI_PROVIDER_PASSPHRASE COMMBENCH_TOKEN MPICH_ARGS TORCH_NCCL_API_KEY I_MPI_HYDRA_PWD
"""
SECRETS = {name: f"planted{k:02}secret" for k, name in enumerate(NAMES.split())}
ADDRESSES = {
    "HTTP_PROXY": "http://me:planted20secret@proxy:3128",
    "https_proxy": "http://planted21secret@proxy:3128",
    "NCCL_DEBUG_FILE": "https://log:planted22secret@host/x",
    "UCX_LOG_FILE": "ftp://u:planted23secret@host/x",
    "GLOO_STORE_URL": "redis://:planted24secret@host:6379",
    "OMPI_MCA_opal_base_help": "Bearer planted25secret",
}
SOURCES = (
    "https://joe:planted26secret@wiki/x",
    "token=planted27secret",
    "contract password: planted28secret",
    "AWS_SECRET_ACCESS_KEY=planted29secret",
)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run by commbench's own launcher with thirty secrets around it: its folder, and all that was printed."""
    folder = tmp_path_factory.mktemp("once")
    (folder / "small.yaml").write_text(SPEC)
    out = folder / "run"
    asked = "{{kind: stability, name: c{}, windows: 49%, source: '{}'}}".format
    criteria = ", ".join(asked(k, source) for k, source in enumerate(SOURCES))
    ended = run(accept(str(folder / "small.yaml"), out, f"--set=criteria=[{criteria}]"), **SECRETS, **ADDRESSES)
    assert ended.code == 0, ended.out + ended.err
    printed = ended.out + ended.err
    for more in ("report -o {0}/report.html", "show", "verdict --json", "accept --explain nobody", "baseline create"):
        printed += CliRunner(env=SECRETS | ADDRESSES).invoke(group, [*more.format(out).split(), str(out)]).output
    return out, printed


def test_no_secret_is_in_any_file_or_in_what_is_printed(once: tuple[Path, str]) -> None:
    out, printed = once
    assert len(SECRETS) + len(ADDRESSES) + len(SOURCES) == 30
    files = {path.name: path.read_bytes() for path in out.rglob("*")}
    wanted = {f"{name}.json" for name in ("run", "spec", "verdict", "accept", "baseline")} | {
        "junit.xml",
        "report.html",
    }
    assert wanted <= files.keys()
    assert not [name for name, data in files.items() if b"planted" in data]
    assert "planted" not in printed
    kept = load(out)[0]
    assert set(kept.machine.hidden) > {"NCCL_NET_PASSWORD", "OMPI_MCA_sec_token", "NCCL_DEBUG_FILE"}  # names are told
    assert any("https://***@wiki/x" in item for item in kept.command)


def test_a_mistake_does_not_print_the_secret_beside_it(tmp_path: Path) -> None:
    wrong = "[{kind: fleet, sauce: 'https://u:planted@wiki'}]"
    for item in (f"criteria={wrong}", "budget=token=planted", "tokn=password=planted", "expect.same=[x_token=planted]"):
        assert "planted" not in mistake("quick", "--out", str(tmp_path / "run"), "--set", item)


def test_quick_passes_and_is_judged_again_byte_for_byte(out: Path) -> None:
    ended = run(accept("quick", out, *QUICK))
    assert (ended.code, word(out)) == (0, "PASS"), ended.out + ended.err
    whole(out)
    assert not processes(out)
    files = {path: path.read_bytes() for path in out.iterdir()}
    for path in files:
        if path.name not in ("run.json", "spec.json", "accept.json", "journal.jsonl"):
            path.unlink()
    assert run([*COMMBENCH, "verdict", str(out)]).code == 0
    assert {path: path.read_bytes() for path in out.iterdir()} == files
    _nothing_can_be_taken_away(out, files)


def _nothing_can_be_taken_away(out: Path, files: dict[Path, bytes]) -> None:
    """Rows that are missing, and criteria that other tools pass over, in the journal of a run that passed."""
    journal = out / "journal.jsonl"
    lines = files[journal].splitlines(keepends=True)
    for kept in (lines[:-1], lines[1:], []):
        journal.write_bytes(b"".join(kept))
        assert judged(out).word != "PASS"
    journal.write_bytes(files[journal])
    stricter = [*COMMBENCH, "verdict", str(out), "--criteria", "quick", "--exit-style", "nagios"]
    weak = "criteria=[{kind: threshold, op: all_reduce, size: 4KiB, time: 1h}]"
    assert run([*stricter, "--set", weak]).code == 3
    assert "CB-CRITERION" in codes(out)
    nothing = run([*stricter, "--set", "criteria=[{kind: threshold, op: all_reduce, size: 64KiB, busbw: 0GB/s}]"])
    assert (nothing.code, "write more than 0" in nothing.said[-1]) == (3, True)
    missed = run([*stricter, "--set", "criteria=[{kind: threshold, op: all_reduce, size: 4KiB, time: 1ns}]"])
    assert (missed.code, word(out)) == (2, "FAIL")


@pytest.mark.parametrize("launcher", ["mpirun", "torchrun"])
def test_inside_a_ready_made_launch(small: str, out: Path, launcher: str) -> None:
    prefix = [*MPIRUN, sys.executable] if launcher == "mpirun" else TORCHRUN
    more = [] if launcher == "mpirun" else ["--set", "backend=gloo"]
    ended = run([*prefix, *accept(small, out, *more)[1:]])
    assert (ended.code, word(out)) == (0, "PASS"), ended.out + ended.err
    assert ended.out.count("PASS") >= 1
    assert load(out)[0].machine.launcher == ("openmpi" if launcher == "mpirun" else launcher)
    whole(out)


# ---- what others take for healthy ------------------------------------------------------------------------------


def test_worlds_of_one_rank_are_no_world(small: str, out: Path) -> None:
    """The mpiexec of another MPI: each process thinks that it is alone, and the launcher's variables know better."""
    ended = run([*COMMBENCH, *accept(small, out)[3:]], PMI_RANK="0", PMI_SIZE="2")
    assert "2" in refused(ended, 4)
    assert not word(out)
    alone = run([str(Path(sys.executable).with_name("mpirun")), "-n", "1", *accept(small, out)])
    assert alone.code != 0
    assert word(out) != "PASS"


def test_one_host_and_tcp_where_two_and_infiniband_are_expected(small: str, out: Path) -> None:
    ended = run(accept(small, out, "-n", "2", "--set", "expect={hosts: 2, transport: ib}"))
    assert (ended.code, word(out)) in ((1, "FAIL"), (3, "INCONCLUSIVE")), ended.err
    said = [reason.sentence for reason in records.read(out).reasons]
    assert "1 of 2 expected hosts take part" in said
    # Within a host MPI may leave no trace on any network.
    assert "CB-TRANSPORT" in codes(out) or any("goes through was not seen" in sentence for sentence in said)
    assert len(said) == 2


@pytest.mark.parametrize("code", [0, 1])
def test_a_launcher_that_starts_nothing(small: str, out: Path, tmp_path: Path, code: int) -> None:
    """Whatever its exit code says; and the test can be gone on with when it works."""
    fake = tmp_path / "bin" / "srun"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\necho 'srun: error: Invalid account'\nexit {code}\n")
    fake.chmod(0o755)
    line = accept(small, out, "--launcher", "srun")
    ended = run(line, PATH=f"{fake.parent}:{os.environ['PATH']}")
    assert (ended.code, word(out)) == (3, "INCONCLUSIVE"), ended.err
    assert "Invalid account" in ended.out
    assert [reason.code for reason in records.read(out).reasons] == ["CB-LAUNCH"]  # it explains all that is missing
    if code:
        assert run(accept(small, out, "--resume")).code == 0
        assert "a later one measured" in " ".join(records.read(out).notes)


def test_a_library_that_is_not_there(small: str, out: Path) -> None:
    assert "NCCL" in refused(run(accept(small, out, "--set", "backend=nccl")))
    inside = run([*MPIRUN, *accept(small, out, "--set", "backend=nccl")])
    assert inside.code != 0
    assert word(out) != "PASS"


def test_too_little_time_is_one_reason(small: str, out: Path) -> None:
    ended = run(accept(small, out, "--budget", "1ms"))
    assert (ended.code, word(out)) == (3, "INCONCLUSIVE"), ended.err
    (reason,) = records.read(out).reasons
    assert reason.code == "CB-BUDGET"
    assert all(name in reason.sentence for name in ("intra", "full", "stability"))


# ---- killed, stopped, told to stop -----------------------------------------------------------------------------


def test_killed_at_any_moment(small: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """`pytest -k killed --kills 200` does it 100 times: outside, launcher or rank, of our launch or of a ready one."""
    for seed in range(pytestconfig.getoption("--kills") // 2):
        _killed(small, tmp_path / f"run{seed}", seed)


def _killed(small: str, out: Path, seed: int) -> None:
    dice = random.Random(seed)
    line = accept(small, out) if seed % 2 == 0 else [*MPIRUN, *accept(small, out)]
    process = start(line)
    wanted = dice.randrange(12)
    wait_for(lambda: process.poll() is not None or rows(out) >= wanted)
    ranks = list(ranks_of(out).values())
    others = [pid for pid in processes(out) if pid not in (process.pid, *ranks)]
    victims = {"outside": [process.pid], "rank": ranks, "launcher": others}
    who, pids = dice.choice([(who, pids) for who, pids in victims.items() if pids])
    with suppress(ProcessLookupError):  # it has ended just now
        os.kill(pids[0], signal.SIGKILL)
    printed, err = process.communicate(timeout=60)
    wait_for(lambda: not processes(out), 15)
    assert "Traceback" not in printed + err
    whole(out)
    before = word(out)
    assert (process.returncode == 0) == (before == "PASS"), (seed, who, err)
    again = run([*line, "--resume"])
    whole(out)
    assert (again.code == 0) == (word(out) == "PASS")
    if before == "FAIL":  # a rank that died is a fault of its host, and stays one
        assert (who, word(out)) == ("rank", "FAIL"), (seed, again.out)
    elif who != "rank":
        assert word(out) == "PASS", (seed, who, err, again.out, again.err)


def test_a_stopped_rank_names_its_host(small: str, out: Path) -> None:
    """A killed one is in tests/lab."""
    process = start(accept(small, out, *LONG))
    wait_for(lambda: rows(out) >= 6)
    os.kill(ranks_of(out)[1], signal.SIGSTOP)
    printed, err = process.communicate(timeout=90)
    assert (process.returncode, word(out)) == (1, "FAIL"), printed + err
    (reason,) = [one for one in records.read(out).reasons if one.decides == "FAIL"]
    (host,) = load(out)[0].machine.hosts
    assert (reason.code, reason.component.kind, reason.component.id) == ("CB-HANG", "host", host.name)
    wait_for(lambda: not processes(out), 15)


def test_asked_to_stop_it_says_what_it_does_not_know(small: str, out: Path) -> None:
    process = start(accept(small, out, *LONG))
    wait_for(lambda: rows(out) >= 6)
    process.send_signal(signal.SIGTERM)
    printed, err = process.communicate(timeout=60)
    assert (process.returncode, word(out)) == (3, "INCONCLUSIVE"), printed + err
    (reason,) = records.read(out).reasons
    assert "told to stop" in reason.sentence
    assert "stability" in reason.sentence
    whole(out)
    wait_for(lambda: not processes(out), 15)


# ---- no room, no right -----------------------------------------------------------------------------------------


@pytest.fixture
def disc(tmp_path: Path) -> Iterator[Path]:
    with small_disc(tmp_path / "disc", "256k") as folder:
        yield folder


def test_a_full_disc_is_no_pass_and_is_gone_on_with(small: str, disc: Path) -> None:
    out = disc / "run"
    process = start(accept(small, out))
    wait_for(lambda: rows(out) >= 3)
    filler = fill(disc)
    printed, err = process.communicate(timeout=60)
    assert process.returncode not in (0, 1), printed + err
    assert "No space left on device" in err
    assert "Traceback" not in printed + err
    assert word(out) != "PASS"
    whole(out)
    full = run(accept(small, out, "--resume"))
    assert full.code not in (0, 1), full.out + full.err
    assert "Traceback" not in full.out + full.err
    filler.unlink()
    again = run(accept(small, out, "--resume"))
    assert (again.code, word(out)) == (0, "PASS"), again.out + again.err


def test_a_folder_that_cannot_be_written(small: str) -> None:
    for prefix in ([], MPIRUN):
        ended = run([*prefix, *accept(small, Path("/proc/commbench"))])
        assert ended.code not in (0, 1), ended.err
        assert "/proc/commbench" in ended.said[-1]
        assert "--out" in ended.err
        assert "Traceback" not in ended.out + ended.err


# ---- hosts that there are not, or too few ----------------------------------------------------------------------

PAIRS = """
backend: mpi
expect: {hosts: 2}
pairs: {bandwidth: 64KiB, latency: 8B}
full: {collectives: [all_reduce], sizes: [4KiB]}
trial: {max_time: 20ms, min_samples: 3, max_samples: 50, warmup: 5ms}
windows: 2
"""


@pytest.fixture
def hosts(tmp_path: Path) -> Callable[..., Ended]:
    """Runs PAIRS with ranks that take themselves for ranks of these hosts."""
    (tmp_path / "pairs.yaml").write_text(PAIRS)
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent("""
            import os, socket
            if "OMPI_COMM_WORLD_RANK" in os.environ:
                name = os.environ["HOSTS"].split(",")[int(os.environ["OMPI_COMM_WORLD_RANK"])]
                socket.gethostname = lambda: name
        """)
    )

    def go(names: str, *more: str) -> Ended:
        count = str(names.count(",") + 1)
        line = accept(str(tmp_path / "pairs.yaml"), tmp_path / "run", "-n", count, *more)
        return run(line, HOSTS=names, PYTHONPATH=str(tmp_path))

    return go


def test_of_two_hosts_nobody_can_tell_and_that_is_said(hosts: Callable[..., Ended]) -> None:
    ended = hosts("h1,h2")
    assert ended.code != 0
    assert "a third host would decide it" in ended.out


def test_unequal_hosts_are_refused(hosts: Callable[..., Ended]) -> None:
    assert "unequal" in refused(hosts("h1,h1,h2"))


def test_what_cannot_be_meant_is_refused(small: str, out: Path, once: tuple[Path, str], tmp_path: Path) -> None:
    before, _ = once
    other = json.loads((before / "baseline.json").read_bytes())
    other["machine"] = {**other["machine"], "cpu": "another"}
    (tmp_path / "other.json").write_text(json.dumps(other))
    asked = {
        ("-n", "4"): "start 2, or change expect",
        ("--fault", "slow h3 50%"): "goes with --lab",
        ("--lab", "star8", "--fault", ""): "write what and where",
        ("--lab", "star8", "--fault", "slow"): "write what and where",
        ("--lab", "star8", "--fault", "eat h3"): "unknown fault 'eat'",
        ("--lab", "nowhere"): "unknown topology 'nowhere'",
        ("--launcher", "ssh"): "unknown launcher 'ssh'",
        ("--exclude", "h1;reboot"): "is not the name of a host",
        ("--budget", "600"): "is not a time with its unit",
    }
    for more, says in asked.items():
        assert says in mistake(small, "--out", str(out), *more)
    assert "--resume needs --out" in mistake(small, "--resume")
    assert "accept.windows" in mistake(small, "--resume", "--out", str(before), "--set", "windows=9")
    assert "no host 'h99'" in mistake("--explain", "h99", str(before))
    assert "is not a run folder" in mistake("--explain", "h99", str(tmp_path))
    # What only the ranks can tell.
    assert "h99" in refused(run(accept(small, out, "--exclude", "h99")))
    wrong = f"criteria=[{{kind: baseline, path: {tmp_path / 'other.json'}}}]"
    assert "is of another machine" in refused(run(accept(small, out, "--set", wrong)))
    assert not word(out)
