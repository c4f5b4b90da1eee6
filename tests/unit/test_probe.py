"""What is recorded of a machine: allow-listed facts, never a secret, and where hosts really differ."""

import os
import socket
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commbench import allowlist
from commbench.allowlist import environment
from commbench.measure import probe
from commbench.measure.probe import Identity, facts, meet
from commbench.records import Machine
from commbench.world.discover import Place
from commbench.world.single import SingleWorld

RECORDED = {
    "NCCL_DEBUG": "INFO",
    "NCCL_SOCKET_IFNAME": "=eth0,eth1",
    "NCCL_NET_PLUGIN": "none",
    "RCCL_MSCCL_ENABLE": "1",
    "TORCH_NCCL_BLOCKING_WAIT": "1",
    "TORCH_FR_BUFFER_SIZE": "2000",
    "TORCH_DISTRIBUTED_DEBUG": "DETAIL",
    "GLOO_SOCKET_IFNAME": "lo",
    "UCX_TLS": "rc,sm,self",
    "UCX_NET_DEVICES": "mlx5_0:1",
    "FI_PROVIDER": "efa",
    "OMPI_MCA_pml": "ob1",
    "OMPI_MCA_btl_tcp_if_include": "10.0.0.0/8",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "MPICH_GPU_SUPPORT_ENABLED": "1",
    "MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM": "ring",
    "I_MPI_FABRICS": "shm:ofi",
    "OMP_NUM_THREADS": "1",
    "KMP_AFFINITY": "granularity=fine,compact,1,0",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "0,1",
    "RANK": "0",
    "WORLD_SIZE": "8",
    "SLURM_JOB_ID": "17",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NODELIST": "n[1-2]",
}

# Never listed, not even by name: nothing about them is ours.
UNLISTED = {
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI-K7MDENG",
    "AWS_SESSION_TOKEN": "FwoGZXIvYXdzEXAMPLE",
    "GITHUB_TOKEN": "ghp_0123456789abcdefghij",
    "HF_TOKEN": "hf_qwertyuiopasdfgh",
    "WANDB_API_KEY": "0a1b2c3d4e5f60718293",
    "DATABASE_URL": "postgres://bench:hunter2@db/prod",
    "SLURM_JWT": "eyJhbGciOiJIUzI1NiJ9.e30.slurm",
    "PMIX_SERVER_URI4": "pmix-server.1;tcp4://10.9.8.7:45123",
    "PMIX_SERVER_URI41": "pmix-server.1;tcp4://10.9.8.7:45124",
    "PMIX_SECURITY_MODE": "munge-native-9000",
    "PMI_FD": "fd-31337",
    "PMI_PORT": "10.9.8.6:40999",
    "HTTPS_PROXY": "http://proxyuser:proxypw@proxy:3128",
    "http_proxy": "http://10.3.2.1:8080",
    "SSH_AUTH_SOCK": "/run/agent-socket-55",
    "KUBECONFIG": "/secret/kube-config-77",
    "PYTHONPATH": "/home/alice/private-project",
    "PS1": "prompt-of-alice",
}

# Listed by name, because their prefix is ours; the value stays here.
HIDDEN = {
    "NCCL_CLOUD_API_KEY": "sk-live-abcdef0123",
    "NCCL_PROFILER_TOKEN": "tok-55aa77bb",
    "NCCL_NET_PASSWORD": "correct-horse",
    "UCX_PASSPHRASE": "battery-staple",
    "FI_OPX_CREDENTIALS": "cred-0001",
    "OMPI_MCA_oob_tcp_secret": "s3cr3t-mca",
    "OMPI_MCA_AUTHENTICATION": "basic Zm9vOmJhcg",
    "GLOO_COOKIE": "choc-chip-99",
    "COMMBENCH_PROXY": "10.1.1.1:3128",
    "COMMBENCH_JWT": "eyJraWQiOiJ4In0.e30.x",
    "COMMBENCH_PWD": "open-sesame-12",
    "I_MPI_HYDRA_BOOTSTRAP_EXEC_EXTRA_ARGS": "-i /home/alice/.ssh/id_rsa",
    "OMPI_MCA_plm_ssh_args": "-p 2222 -l alice",
    "PRTE_MCA_plm_ssh_ARG": "-oProxyJump=bastion-7",
    "OMPI_MCA_orte_hnp_uri": "123456.0;tcp://10.9.8.5:3333",
    "PRTE_MCA_prte_hnp_uri": "prterun-9.0;tcp://10.9.8.4:4444",
    "MPICH_STATUS_FD": "fd-27182",
    "NCCL_TOPO_URL": "https://inside.example.org/topo.xml",
    "NCCL_DEBUG_FILE": "https://alice:swordfish@logs.example.org/nccl",
    "UCX_LOG_FILE": "ftp://anonymous@files.example.org/x",
    "TORCH_DIST_STORE": "bob:trustno1@rendezvous",
    "NCCL_NOTE": "password=letmein-4711",
    "TORCH_NCCL_NOTE": "Authorization: Bearer abcdef.ghijkl",
    "OMPI_MCA_NOTE": "--token 0123456789 --verbose",
}
SECRETS = {**UNLISTED, **HIDDEN}


def test_what_may_be_recorded_is_recorded_as_it_is() -> None:
    assert environment({**RECORDED, "HOME": "/root", "PATH": "/bin"}) == (dict(sorted(RECORDED.items())), ())


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_a_secret_is_never_in_the_output(name: str) -> None:
    value = SECRETS[name]
    recorded, hidden = environment({**RECORDED, name: value})
    everything = repr((recorded, hidden))
    assert value not in everything
    assert not [
        part for part in value.replace("@", ":").replace("/", ":").split(":") if len(part) > 5 and part in everything
    ]
    assert recorded == RECORDED
    assert hidden == ((name,) if name in HIDDEN else ())


def test_many_secrets_at_once() -> None:
    assert len(SECRETS) >= 30
    recorded, hidden = environment({**SECRETS, **RECORDED})
    assert recorded == RECORDED
    assert hidden == tuple(sorted(HIDDEN))


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(st.characters(min_codepoint=32), max_size=20), st.text(max_size=20)))
def test_other_variables_leave_no_trace(env: dict[str, str]) -> None:
    ours = tuple(allowlist._PREFIXES)
    others = {
        k: v for k, v in env.items() if not k.startswith(ours) and k not in RECORDED and k not in allowlist._NAMES
    }
    assert environment(others) == ({}, ())


# ---- the machine ---------------------------------------------------------------------------------------


class Heard(SingleWorld):
    """Rank 0 of a world whose other ranks have said what they say."""

    def __init__(self, others: list[Identity], local_ranks: list[str]) -> None:
        super().__init__(1)
        self.size = 1 + len(others)
        self._heard = [
            [msgspec.json.encode(other) for other in others],
            [rank.encode() for rank in local_ranks],
        ]

    def gather(self, data: bytes) -> list[bytes]:
        return [data, *self._heard.pop(0)]


HERE = socket.gethostname()


def met(*others: Identity, local_ranks: tuple[str, ...] = (), place: Place | None = None) -> Machine:
    said = [*local_ranks, *[""] * (len(others) - len(local_ranks))]
    identities, machine = meet(Heard(list(others), said), place)
    assert [identity.host for identity in identities] == [HERE, *(other.host for other in others)]
    assert identities[0].pid == os.getpid()
    return machine


def other(host: str, cores: tuple[int, ...] = (0, 1), **changed: str) -> Identity:
    return Identity(host=host, pid=1, cores=cores, facts={**facts(), **changed})


def test_facts_are_words_about_this_host() -> None:
    found = facts()
    assert {"os", "python", "cores", "usable_cores"} <= set(found)
    assert all(isinstance(value, str) and value for value in found.values())
    assert int(found["usable_cores"]) <= int(found["cores"])
    assert not [name for name, value in found.items() if "\n" in value]


def test_hosts_are_found_by_exchange_in_the_order_of_the_ranks() -> None:
    machine = met(other("b"), other(HERE), other("a"), other("b"))
    assert [host.name for host in machine.hosts] == [HERE, "b", "a"]
    assert machine.host_of == (0, 1, 0, 2, 1)
    assert machine.size == 5


def test_a_host_holds_the_facts_in_which_it_differs() -> None:
    new = other("b", cpu="Another CPU", gpu="H200")
    old = other("c")
    old.facts.pop("python")
    machine = met(new, old, other("d"))
    assert machine.facts == facts()
    assert [host.differs for host in machine.hosts] == [
        {},
        {"cpu": "Another CPU", "gpu": "H200"},
        {"python": ""},
        {},
    ]


def test_a_local_rank_that_is_not_true_becomes_a_warning() -> None:
    place = Place("torchrun", 0, 3, 0, "RANK=0 WORLD_SIZE=3")
    machine = met(other("b"), other("b"), local_ranks=("1", "1"), place=place)
    (warning,) = machine.warnings
    assert "torchrun gives the 2 ranks on b the local ranks 1, 1" in warning
    assert machine.host_of == (0, 1, 1)  # host names decide


def test_local_ranks_that_are_true_or_unknown_are_no_warning() -> None:
    place = Place("srun", 0, 3, 0, "SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=3")
    assert met(other("b"), other("b"), local_ranks=("0", "1"), place=place).warnings == ()
    assert met(other("b"), other("b"), local_ranks=("", ""), place=place).warnings == ()
    assert met(other("b"), other("b"), local_ranks=("7", "7")).warnings == ()  # no launcher that could be wrong


def test_more_ranks_than_cores_is_a_warning() -> None:
    place = Place("openmpi", 0, 4, 0, "OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=4")
    crowded = [other("b", cores=(0, 1)) for _ in range(3)]
    (warning,) = met(*crowded, local_ranks=("0", "1", "2"), place=place).warnings
    assert "3 ranks on b share 2 cores" in warning
    spread_out = [other("b", cores=(core,)) for core in range(3)]
    assert met(*spread_out, local_ranks=("0", "1", "2"), place=place).warnings == ()


def test_a_run_does_not_record_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(tuple(allowlist._PREFIXES))]:
        monkeypatch.delenv(name)
    for name, value in {**SECRETS, "NCCL_DEBUG": "WARN"}.items():
        monkeypatch.setenv(name, value)
    machine = met(other("b"))
    record = msgspec.json.encode(machine).decode()
    assert not [name for name, value in SECRETS.items() if value in record]
    assert machine.environment["NCCL_DEBUG"] == "WARN"
    assert set(HIDDEN) <= set(machine.hidden)
    assert not set(UNLISTED) & set(machine.hidden)


def test_a_simulated_machine_has_pretended_hosts_and_real_facts() -> None:
    machine = probe.pretend(met(), 10, 4)
    assert [host.name for host in machine.hosts] == ["sim0", "sim1", "sim2"]
    assert machine.host_of == (0, 0, 0, 0, 1, 1, 1, 1, 2, 2)
    assert machine.launcher == "simulated"
    assert machine.facts == facts()


def test_one_process_that_plays_all_ranks_is_one_host() -> None:
    identities, machine = meet(SingleWorld(6), None)
    assert len(identities) == machine.size == 6
    assert machine.host_of == (0,) * 6
    assert [host.name for host in machine.hosts] == [HERE]
    assert machine.warnings == ()


def test_a_library_that_is_missing_is_named_without_importing_it() -> None:
    assert probe.installed("no-such-distribution") == "no-such-distribution is missing"
    assert probe.installed("numpy").startswith("numpy 1") or probe.installed("numpy").startswith("numpy 2")


VERSION = "NVRM version: NVIDIA UNIX {}  570.86.15  Release Build  (dvs-builder@x)  Thu Jan 23 2025\nGCC version: 12\n"
INFORMATION = (
    "Model: \t\t {}\nIRQ:   \t\t 41\nGPU UUID: \t GPU-5e\nBus Location: \t 0000:0{}:00.0\nDevice Minor: \t {}\n"
)


@pytest.mark.parametrize("module", ["x86_64 Kernel Module", "Open Kernel Module for x86_64"])
def test_a_host_tells_its_gpus(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_DRIVER", tmp_path / "driver")
    monkeypatch.setattr(probe, "_DEVICES", tmp_path / "dev")
    assert not {"gpus", "gpu", "nvidia_driver"} & facts().keys()  # nobody knows; that is not 0
    (tmp_path / "dev").mkdir()
    (tmp_path / "driver").mkdir()
    (tmp_path / "driver/version").write_text(VERSION.format(module))
    assert (facts()["nvidia_driver"], facts()["gpus"]) == ("570.86.15", "0")  # a driver, and no GPU
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-caps"):
        (tmp_path / "dev" / name).touch()
    for minor in range(3):  # of the third one this container was given no device
        about = tmp_path / f"driver/gpus/0000:0{minor}:00.0/information"
        about.parent.mkdir(parents=True)
        about.write_text(INFORMATION.format("NVIDIA A100" if minor == 2 else "NVIDIA H200", minor, minor))
    assert (facts()["gpus"], facts()["gpu"], probe.gpus()) == ("2", "NVIDIA H200", 2)
