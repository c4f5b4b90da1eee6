"""`commbench apply`: asks the scheduler how its nodes stand, and runs what the plan says; argument lists, no shell."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from commbench.accept.actions import QUESTIONS, Action, Argv, Node, Scheduler
from commbench.errors import CommbenchError, MissingLibrary, SpecError

_PATIENCE = 60.0  # seconds that one command may take


def ask(scheduler: Scheduler) -> list[Node]:
    """All nodes of the scheduler. MissingLibrary: its program is not here. CommbenchError: it did not answer."""
    argv, read = QUESTIONS[scheduler]
    code, output, error = _run(argv)
    if code:
        raise CommbenchError(f"{' '.join(argv)} failed: {error or f'code {code}'}; nothing was changed")
    return read(output)


def carry_out(actions: tuple[Action, ...]) -> Iterator[tuple[Argv, str]]:
    """Runs the commands one after another: (command, "" or why it failed). The first that fails is the last."""
    for argv in (argv for action in actions for argv in action.commands):
        code, output, error = _run(argv)
        yield argv, (error or output or f"code {code}") if code else ""
        if code:
            return


def _run(argv: Argv) -> tuple[int, str, str]:
    if shutil.which(argv[0]) is None:
        raise MissingLibrary(f"{argv[0]} is not on PATH; run this where the scheduler's commands are")
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_PATIENCE
        )
    except subprocess.TimeoutExpired:
        return 124, "", f"no answer within {_PATIENCE:.0f} s"
    except OSError as error:
        return 126, "", str(error.strerror or error)
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return done.returncode, done.stdout, said[-1] if said else ""  # what led to it comes before


def names(path: Path) -> dict[str, str]:
    """Host -> node, from lines `HOST NODE`. SpecError says which line is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} cannot be read: {error}") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or found.get(words[0], words[1]) != words[1]:
            raise SpecError(f"{path}:{number}: write a host and its node, each host once: `HOST NODE`")
        found[words[0]] = words[1]
    return found
