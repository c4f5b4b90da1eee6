"""Opening what a user names: the format is recognised by content, everything is bounded, nothing is run."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from commbench.knobs import PREFIXES
from commbench.lint import plain, shell, tree
from commbench.lint.setting import Document, Setting, is_name

HEAD = 65_536
LIMIT = 8 << 20  # bytes of a file that is read whole; a log is streamed and has no limit
LINE = 1 << 20  # a longer line is cut
FILES = 20_000  # in a folder
_SKIP = frozenset([".git", ".hg", ".svn", "node_modules", "__pycache__", ".venv", "venv", "site-packages"])
_CODE = frozenset(
    (
        ".py", ".c", ".cc", ".cpp", ".cu", ".h", ".hpp", ".rs", ".go", ".java", ".js", ".ts", ".md", ".rst",
        ".html", ".ipynb", ".patch", ".diff",
    )
)  # fmt: skip


class Unfit(Exception):
    """This file cannot be linted; the message says why."""


def environment(env: Mapping[str, str]) -> Document:
    """The variables of a process."""
    settings = [
        Setting(name=name, value=value, line=0, how="environment")
        for name, value in sorted(env.items())
        if is_name(name)
    ]
    return Document(path="environment", how="environment", settings=settings)


def conf_files(env: Mapping[str, str]) -> list[Path]:
    """The files that NCCL would read here, the one that wins first: NCCL_CONF_FILE replaces ~/.nccl.conf."""
    home = env.get("HOME", "")
    user = env.get("NCCL_CONF_FILE") or (os.path.join(home, ".nccl.conf") if home else "")
    return [path for path in (Path(user) if user else None, Path("/etc/nccl.conf")) if path and path.is_file()]


def found(folder: Path) -> Iterator[Path]:
    """The files below a folder that may set something; sorted, links not followed, the first 20,000."""
    count = 0
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _SKIP)
        for name in sorted(files):
            path = Path(place, name)
            if path.suffix in _CODE or path.is_symlink() or not path.is_file():
                continue
            count += 1
            if count > FILES:
                return
            yield path


def concerns(path: Path) -> bool:
    """Does the file name a setting within its first 8 MiB, as text?"""
    marks = [prefix.encode() for prefix in PREFIXES] + [b"--mca ", b"-mca ", b'"zero_optimization"']
    try:
        if path.stat().st_size > 8 * LIMIT:
            return False
        with path.open("rb") as file:
            data = file.read(LIMIT)
    except OSError:
        return False
    return b"\0" not in data[:HEAD] and any(mark in data for mark in marks)


def load(path: Path, conf: bool = False) -> tuple[Document, str]:
    """(what a file sets, its text where it was read whole). `conf`: NCCL reads it as its nccl.conf.

    Raises:
        Unfit: it cannot be opened, is binary, or is too large for its format.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise Unfit(f"cannot be read: {error.strerror or error}") from None
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    if encoding != "utf-16" and b"\0" in head:
        raise Unfit("is a binary file, not text")
    start = head.decode(encoding, errors="replace")
    document = Document(path=str(path), how="shell")
    if not conf and ("NCCL INFO" in start or "NCCL version" in start):
        document.how = "log"
        with path.open(encoding=encoding, errors="replace", newline="") as text:
            plain.log(document, _lines(text))
        return document, ""
    if size > LIMIT:
        raise Unfit(f"is {size >> 20} MiB; scripts and configuration are read up to {LIMIT >> 20} MiB")
    with path.open(encoding=encoding, errors="replace", newline="") as text:
        whole = text.read(LIMIT)
    _parse(document, path, whole, conf)
    return document, whole


def _lines(text: Iterator[str]) -> Iterator[str]:
    read = text.readline  # type: ignore[attr-defined]
    while line := read(LINE):
        yield line


def _parse(document: Document, path: Path, text: str, conf: bool) -> None:
    """The reader that fits, told by the name where the content alone cannot tell (nccl.conf) and by content else."""
    start = text.lstrip()[:1]
    lines = text.splitlines(keepends=True)
    if conf or path.name.endswith("nccl.conf"):
        document.how = "nccl.conf"
        plain.conf(document, lines)
    elif start in ("{", "[") and not text.startswith(("[[", "#")) and _json(document, path, text):
        return
    elif path.suffix in (".yaml", ".yml") or (not text.startswith("#!") and text.lstrip().startswith("---")):
        document.how = "yaml"
        _tree(document, text, lines)
    elif "environ[" in text or "environ.setdefault" in text:
        plain.loose(document, lines)
    else:
        plain_env = not text.startswith("#!") and all(_assignment(line) for line in lines)
        document.how = "env file" if plain_env else "shell"
        shell.read(document, lines)


def _assignment(line: str) -> bool:
    text = line.strip()
    name, equals, _ = text.partition("=")
    return not text or text.startswith("#") or (bool(equals) and name.isidentifier())


def _tree(document: Document, text: str, lines: list[str]) -> None:
    try:
        tree.read(document, text)
    except tree.Unreadable:
        document.settings.clear()
        plain.loose(document, lines)


def _json(document: Document, path: Path, text: str) -> bool:
    """Is it JSON, and read? A run folder's run.json is the environment that was recorded there."""
    try:
        root = json.loads(text)
    except (ValueError, RecursionError):
        return False
    document.how = "json"
    machine = root.get("machine") if isinstance(root, dict) else None
    if path.name == "run.json" and isinstance(machine, dict) and isinstance(machine.get("environment"), dict):
        for name, value in sorted(machine["environment"].items()):
            if is_name(name):
                line = text.count("\n", 0, max(text.find(f'"{name}"'), 0)) + 1
                document.settings.append(Setting(name=name, value=str(value), line=line, how="json"))
        return True
    _tree(document, text, text.splitlines(keepends=True))
    return True
