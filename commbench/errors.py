"""Every error a user can meet. The library raises, the command line prints one sentence and exits.

CommbenchError            exit 4: something broke that is neither the spec's nor the data's fault
+-- SpecError             exit 2: the spec, an option or an argument is wrong
+-- LaunchError           exit 4: the ranks did not start, disagree about who they are, or died
+-- StoreError            exit 4: a run folder cannot be written
|   +-- FolderError       exit 2: a run folder is not what the command needs (other spec, damaged, newer)
+-- ReadError             exit 2: a file of another tool cannot be read
+-- MissingLibrary        exit 2: torch, mpi4py or an MPI library is needed and not there
+-- Unsupported           never leaves a sweep: becomes a `skipped` row with this sentence
"""

import difflib
from collections.abc import Iterable


class CommbenchError(Exception):
    """Base of all; the message says what was wrong, where, and what to do."""

    exit_code = 4


class SpecError(CommbenchError):
    exit_code = 2


class LaunchError(CommbenchError):
    pass


class StoreError(CommbenchError):
    pass


class FolderError(StoreError):
    exit_code = 2


class ReadError(CommbenchError):
    exit_code = 2


class MissingLibrary(CommbenchError):
    exit_code = 2


class Unsupported(CommbenchError):
    """The backend lacks this (op, dtype, redop); the sentence goes into the skipped row."""


def nearest(name: object, known: Iterable[str]) -> str:
    """The tail of an "unknown name" sentence: a guess where one is near, and what is known."""
    known = sorted(known)
    guess = difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.5)
    hint = f"did you mean {guess[0]!r}? " if guess else ""
    return f"{hint}known: {', '.join(known)}"
