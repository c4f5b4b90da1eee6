"""The inside of one host as NCCL or nvidia-smi tells it: devices, the links between them, and NCCL's graphs."""

from typing import Literal

import msgspec

DeviceKind = Literal["cpu", "pci", "gpu", "nic", "nvswitch"]


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A device.

    id         its name in this topology: a PCI bus id, `cpu 0`, `mlx5_0`, `GPU0`
    kind       pci: a bridge or switch
    parent     id of the device that it hangs from; "" at the top, and where the source tells no tree
    model      what the source says it is: `x86_64 AuthenticAMD 23/49`, `sm 90`, `gfx942`
    dev, rank  NCCL's number of the device, and the rank that uses it
    numa       NUMA node
    affinity   cores, as the source writes them
    gdr        GPUDirect RDMA is possible
    rate       bytes per second of a NIC's port, as declared
    pci_rate   bytes per second of the PCI link, as declared: GT/s x lanes x encoding
    """

    id: str
    kind: DeviceKind
    parent: str = ""
    model: str = ""
    dev: int | None = None
    rank: int | None = None
    numa: int | None = None
    affinity: str = ""
    port: int | None = None
    guid: str = ""
    gdr: bool | None = None
    rate: float | None = None
    pci_rate: float | None = None


class DeviceLink(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What lies between two devices.

    kind   nvlink, xgmi, c2c, pcilink (NCCL's XML); NV18, PIX, PXB, PHB, NODE, SYS ... (nvidia-smi)
    count  links side by side; None where the source does not count them
    rate   bytes per second of all of them, where declared
    ends   ids of devices; the second may be one that the source does not list, such as an NVSwitch
    """

    kind: str
    ends: tuple[str, str]
    count: int | None = None
    rate: float | None = None


class GpuTopology(msgspec.Struct, tag=True, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Devices and links of one host; `source` is `nccl-xml` or `nvidia-smi`.

    Hosts that share NVLink are one topology: `host 1 ` stands before the ids of the second.
    """

    source: str
    devices: tuple[Device, ...]
    links: tuple[DeviceLink, ...] = ()
    line: int = 1

    def of(self, kind: DeviceKind) -> tuple[Device, ...]:
        """The devices of one kind, in the order of the source."""
        return tuple(device for device in self.devices if device.kind == kind)


class Hop(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A device on a channel's way: `net` or `gpu`, NCCL's number of it, and the rank of a GPU where told."""

    kind: Literal["net", "gpu"]
    dev: int
    rank: int | None = None


class Graph(msgspec.Struct, tag=True, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One graph that NCCL's search found (NCCL_GRAPH_DUMP_FILE).

    id            0 ring, 1 tree, 2 CollNet, 3 NVLS (and 4 CollNetDirect from 2.18 on)
    pattern       NCCL's number: 1 balanced tree, 2 split tree, 3 tree, 4 ring, 5 NVLS, 6 CollNetDirect
    intra_gbps, inter_gbps   GB/s of one channel inside a host and between hosts
    intra, inter  longest path: LOC, NVL, PIX, PXB, PHB, SYS ...
    channels      the way of each channel
    """

    id: int
    pattern: int | None = None
    crossnic: int | None = None
    nchannels: int | None = None
    intra_gbps: float | None = None
    inter_gbps: float | None = None
    inter_latency_us: float | None = None
    intra: str = ""
    inter: str = ""
    same_channels: bool | None = None
    channels: tuple[tuple[Hop, ...], ...] = ()
    line: int = 1
