"""Topology: NCCL's XML (devices, links, graphs) and nvidia-smi's matrix; bombs refused, garbage told."""

from pathlib import Path

import pytest
from real_data import real

from commbench.errors import ReadError
from commbench.readers import smi_topo, topology
from commbench.readers.base import Found, Reader
from commbench.readers.source import Problem, Source
from commbench.records.topology import DeviceLink, GpuTopology, Graph, Hop

SAMPLES = Path(__file__).parent / "samples" / "topology"


def read(path: Path, reader: Reader = topology.READER) -> tuple[list[Found], list[Problem]]:
    told = list(reader.read(Source(path)))
    return [one for one in told if isinstance(one, Found)], [one for one in told if isinstance(one, Problem)]


def one(path: Path, reader: Reader = topology.READER) -> tuple[GpuTopology, list[Problem]]:
    (found,), problems = read(path, reader)
    (part,) = found.parts
    assert isinstance(part, GpuTopology)
    return part, problems


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "given.xml"
    path.write_text(text)
    return path


def test_devices_of_a_dump() -> None:
    part, problems = one(SAMPLES / "small.xml")
    assert part.source == "nccl-xml"
    (cpu,) = part.of("cpu")
    assert (cpu.id, cpu.numa, cpu.affinity, cpu.model) == ("cpu 0", 0, "ff", "x86_64 GenuineIntel 6 143")
    assert [(gpu.id, gpu.dev, gpu.rank, gpu.model, gpu.gdr, gpu.parent) for gpu in part.of("gpu")] == [
        ("0000:02:00.0", 0, 3, "sm 90", True, "0000:01:00.0"),
        ("0000:03:00.0", 1, None, "sm 90", True, "0000:01:00.0"),
    ]
    named, bare = part.of("nic")
    assert (named.id, named.parent, named.port, named.guid, named.rate) == ("mlx5_0", "0000:04:00.0", 1, "0x1", 50e9)
    assert (bare.id, bare.rate) == ("0000:05:00.0", None)  # known by its class; no port is told
    # the blank line before <?xml counts: this is where the editor shows it
    assert [str(problem).split("small.xml")[1] for problem in problems] == [":14: rank='x' of <gpu> is no number"]


def test_pci_rates_are_those_of_the_encoding() -> None:
    part, _ = one(SAMPLES / "small.xml")
    rates = {device.id: device.pci_rate for device in part.devices}
    assert rates["0000:02:00.0"] == pytest.approx(32e9 * 16 * 128 / 130 / 8)
    assert rates["0000:04:00.0"] == pytest.approx(16e9 * 8 * 128 / 130 / 8)
    assert rates["0000:03:00.0"] is None  # Unknown, which is not 0


def test_a_link_that_stands_at_both_ends_is_one() -> None:
    part, _ = one(SAMPLES / "small.xml")
    assert part.links == (
        DeviceLink(kind="nvlink", ends=("0000:02:00.0", "0000:03:00.0"), count=4),
        DeviceLink(kind="nvlink", ends=("0000:02:00.0", "0000:0f:00.0"), count=5),  # an NVSwitch
        DeviceLink(kind="c2c", ends=("0000:02:00.0", "0000:01:00.0"), count=10, rate=500e9),
    )


def test_graphs() -> None:
    (found,), problems = read(SAMPLES / "graphs.xml")
    ring, nvls = found.parts
    assert isinstance(ring, Graph)
    assert isinstance(nvls, Graph)
    assert (ring.id, ring.pattern, ring.nchannels, ring.intra_gbps, ring.inter_gbps) == (0, 4, 2, 20.0, 0.24)
    assert (ring.intra, ring.inter, ring.same_channels, ring.line) == ("NVL", "PIX", True, 2)
    assert ring.channels[0] == (
        Hop(kind="net", dev=1),
        Hop(kind="gpu", dev=0, rank=4),
        Hop(kind="gpu", dev=1),
        Hop(kind="net", dev=0),
    )
    assert (nvls.id, nvls.nchannels, nvls.channels, nvls.same_channels) == (3, 0, (), False)
    assert [problem.line for problem in problems] == [11]


BOMB = '<!DOCTYPE a [<!ENTITY x "ha">' + "".join(
    f'<!ENTITY x{n} "{f"&x{n - 1 if n else str()};" * 10}">' for n in range(9)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOMB + "]><system>&x8;</system>", "entities are refused"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><system/>', "entities are refused"),
        ("<system>" + "<pci>" * 100 + "</pci>" * 100 + "</system>", "deeper than 64"),
        ("<system>" + "<pci/>" * 70_000 + "</system>", "more than 65536 elements"),
        ("\n\n<system>\n<pci>", ":4: not well-formed XML"),
        ("<system>" + " " * 2**24 + "</system>", "larger than 16 MiB"),
        ("<system>\x00</system>", "not well-formed"),
        ("<", "not well-formed"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ReadError, match=says):
        read(written(tmp_path, text))


def test_something_else_gives_nothing(tmp_path: Path) -> None:
    """Also a log that quotes a topology, however large it is."""
    assert read(written(tmp_path, "$ cat topo.xml\n<system>\n" + "step\n" * 2**22)) == ([], [])
    assert read(written(tmp_path, "<project><system/></project>")) == ([], [])


def test_an_empty_system_is_told(tmp_path: Path) -> None:
    found, problems = read(written(tmp_path, '<system version="1"><what/></system>'))
    assert found == []
    assert [problem.reason for problem in problems] == ["a <system> without a device"]


def test_hosts_that_share_nvlink_keep_their_devices_apart(tmp_path: Path) -> None:
    cpu = '<cpu numaid="0" host_hash="0x{}"><pci busid="0000:01:00.0"><gpu dev="{}" sm="100"/></pci></cpu>'
    part, _ = one(written(tmp_path, f"<system>{cpu.format('a', 0)}{cpu.format('b', 1)}</system>"))
    assert [device.id for device in part.devices] == ["cpu 0", "0000:01:00.0", "host 1 cpu 0", "host 1 0000:01:00.0"]


def test_a_matrix_with_tabs_colours_and_the_names_of_old_versions() -> None:
    part, problems = one(SAMPLES / "smi-old.txt", smi_topo.READER)
    assert [(device.id, device.kind, device.affinity, device.numa) for device in part.devices] == [
        ("GPU0", "gpu", "0-3,8", 1),
        ("GPU1", "gpu", "", None),  # its row could not be read
        ("mlx5_0", "nic", "", None),
    ]
    assert {link.ends: (link.kind, link.count) for link in part.links} == {
        ("GPU0", "GPU1"): ("NV4", 4),
        ("GPU0", "mlx5_0"): ("PIX", None),
        ("GPU1", "mlx5_0"): ("SYS", None),
    }
    assert [(problem.line, problem.reason) for problem in problems] == [(3, "GPU1: 'FOO' is no relation")]


def test_two_matrices_with_a_prefix_a_legend_and_one_gpu() -> None:
    (first, second), problems = read(SAMPLES / "smi-two.txt", smi_topo.READER)
    (part,), (single,) = first.parts, second.parts
    assert isinstance(part, GpuTopology)
    assert isinstance(single, GpuTopology)
    assert [(nic.id, nic.model) for nic in part.of("nic")] == [("NIC0", "rocep1")]
    assert [gpu.numa for gpu in part.of("gpu")] == [0, 1]
    assert {link.ends: link.kind for link in part.links} == {
        ("GPU0", "GPU1"): "SYS",
        ("GPU0", "NIC0"): "PHB",
        ("GPU1", "NIC0"): "SYS",
    }
    assert [gpu.affinity for gpu in single.of("gpu")] == ["0-7"]
    assert single.links == ()
    assert (first.line, second.line, problems) == (1, 9, [])


XML = {  # name: (gpus, nics, {(kind, count): links})
    "oci-h100-topology.xml": (8, 16, {("nvlink", 4): 16, ("nvlink", 5): 16}),
    "oci-bm-gpu4-8.xml": (8, 16, {("nvlink", 2): 48}),
    "azure-ndv4-topo.xml": (8, 8, {}),
    "azure-nc48v4-topo.xml": (2, 1, {("nvlink", 12): 1}),
    "aws-p4d-24xl-topo.xml": (8, 4, {}),
    "dgxa100-nic-affinity.xml": (8, 8, {}),
    "rccl-8p-940.xml": (8, 8, {("xgmi", 1): 28}),
    "rccl-16p1h.xml": (16, 8, {("xgmi", 1): 16, ("xgmi", 2): 4, ("xgmi", 4): 8}),
}


@pytest.mark.parametrize("name", XML)
def test_real_xml(name: str) -> None:
    """Expected by eye and by grep -c; an xGMI link stands at both of its ends."""
    part, problems = one(real(f"topology/{name}"))
    gpus, nics, links = XML[name]
    assert (len(part.of("gpu")), len(part.of("nic"))) == (gpus, nics)
    told: dict[tuple[str, int | None], int] = {}
    for link in part.links:
        told[link.kind, link.count] = told.get((link.kind, link.count), 0) + 1
    assert told == links
    assert problems == []


def test_every_real_xml_has_devices() -> None:
    for path in sorted(real("topology").glob("*.xml")):
        part, problems = one(path)
        assert part.devices, path.name
        assert problems == [], path.name


MATRICES = {  # name: (gpus, nics, links by kind)
    "smi-topo-2080ti-2gpu.txt": (2, 0, {"PIX": 1}),
    "smi-topo-2gpu-nv2.txt": (2, 0, {"NV2": 1}),
    "smi-topo-a100-8gpu.txt": (8, 0, {"NV12": 28}),
    "smi-topo-a800-8gpu-4nic.txt": (8, 4, {"NV8": 28, "SYS": 20, "NODE": 13, "PIX": 5}),
    "smi-topo-b200-8gpu-nics.txt": (8, 8, {"NV18": 28, "SYS": 48, "NODE": 24, "PIX": 20}),
    "smi-topo-v100-2gpu-4nic.txt": (2, 4, {"SYS": 9, "PHB": 4, "PIX": 2}),
}


@pytest.mark.parametrize("name", MATRICES)
def test_real_matrices(name: str) -> None:
    part, problems = one(real(f"topology/{name}"), smi_topo.READER)
    gpus, nics, links = MATRICES[name]
    assert (len(part.of("gpu")), len(part.of("nic"))) == (gpus, nics)
    told: dict[str, int] = {}
    for link in part.links:
        told[link.kind] = told.get(link.kind, 0) + 1
    assert told == links
    assert problems == []


def test_a_real_matrix_with_affinities_and_a_legend() -> None:
    part, _ = one(real("topology/smi-topo-a800-8gpu-4nic.txt"), smi_topo.READER)
    assert {gpu.id: (gpu.affinity, gpu.numa) for gpu in part.of("gpu")}["GPU7"] == ("32-63,96-127", 1)
    assert [nic.model for nic in part.of("nic")] == ["mlx5_0", "mlx5_1", "mlx5_2", "mlx5_3"]
    assert {link.ends: link.kind for link in part.links}["GPU1", "NIC0"] == "PIX"
