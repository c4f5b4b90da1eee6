"""Immutable nouns: the question (Case), the answer (Measurement), the surroundings (Machine, Run)."""

from commbench.records.case import Case
from commbench.records.machine import Host, Machine, Run
from commbench.records.measurement import Measurement

__all__ = ["Case", "Host", "Machine", "Measurement", "Run"]
