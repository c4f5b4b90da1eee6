"""Real training steps: a recorder for any job, a recommendation's arguments for DDP, and a reference job of our own."""

from commbench.training.apply import ddp_kwargs
from commbench.training.recorder import StepRecorder, read_steps

__all__ = ["StepRecorder", "ddp_kwargs", "read_steps"]
