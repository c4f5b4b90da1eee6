"""What to measure: YAML -> validated spec -> cases. Every mistake is one line: file, line, key path."""

from commbench.spec.grid import cases, estimate, guess, order, rounded
from commbench.spec.sweep import Axes, Simulated, Stop, SweepSpec, Warmup, differing, load

__all__ = [
    "Axes",
    "Simulated",
    "Stop",
    "SweepSpec",
    "Warmup",
    "cases",
    "differing",
    "estimate",
    "guess",
    "load",
    "order",
    "rounded",
]
