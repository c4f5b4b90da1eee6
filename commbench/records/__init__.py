"""Immutable nouns: the question (Case), the answer (Measurement), the surroundings (Machine, Run)."""

from commbench.records.case import Case
from commbench.records.fabric import Fabric, FabricHost, Link
from commbench.records.machine import Host, Machine, Run
from commbench.records.measurement import Measurement

__all__ = ["Case", "Fabric", "FabricHost", "Host", "Link", "Machine", "Measurement", "Run"]
