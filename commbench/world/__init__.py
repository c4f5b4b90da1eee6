"""Who am I among the ranks, how do we agree (the control channel), and who is missing (the roll call)."""

from commbench.world.protocol import GroupTimes, World, slowest

__all__ = ["GroupTimes", "World", "slowest"]
