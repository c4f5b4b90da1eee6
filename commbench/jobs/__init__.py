"""The story of each command. Only here are spec, measuring and store known together.

request   what was asked for, and all that can be refused before a rank is started
inside    a sweep inside a launch: one rank's part, or all ranks of a simulated world
outside   a sweep that starts its ranks itself, once for each launch
"""

from commbench.jobs.inside import simulate, work
from commbench.jobs.outside import start
from commbench.jobs.request import Request, Watcher, check, check_libraries

__all__ = ["Request", "Watcher", "check", "check_libraries", "simulate", "start", "work"]
