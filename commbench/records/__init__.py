"""Immutable nouns: question (Case), answer (Measurement), surroundings (Machine, Run), and what else a file tells."""

from typing import TypeAlias

from commbench.records.case import Case
from commbench.records.fabric import Fabric, FabricHost, Link
from commbench.records.finding import Finding
from commbench.records.machine import Host, Machine, Origin, Run
from commbench.records.measurement import Measurement
from commbench.records.nccl import NcclLog
from commbench.records.topology import GpuTopology, Graph
from commbench.records.workload import Workload

# What a run folder may hold beside measurements, in parts.json.
Part: TypeAlias = NcclLog | GpuTopology | Graph | Workload

__all__ = [
    "Case",
    "Fabric",
    "FabricHost",
    "Finding",
    "GpuTopology",
    "Graph",
    "Host",
    "Link",
    "Machine",
    "Measurement",
    "NcclLog",
    "Origin",
    "Part",
    "Run",
    "Workload",
]
