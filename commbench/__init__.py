"""commbench: measure collective communication, and know what the numbers are worth.

In a training job: `from commbench import StepRecorder, ddp_kwargs`.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["StepRecorder", "__version__", "ddp_kwargs"]


def __getattr__(name: str) -> Any:
    """Loads commbench.training when it is asked for: the command line must stay light."""
    if name in ("StepRecorder", "ddp_kwargs"):
        return getattr(import_module("commbench.training"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
