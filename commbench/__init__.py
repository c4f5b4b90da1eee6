"""commbench: measure collective communication, and know what the numbers are worth."""

__version__ = "0.1.0"
