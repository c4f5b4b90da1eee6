"""YAML -> plain data and the place of every key path, so that every complaint can point at its line.

Only PyYAML's scanner and composer are used: scalars become None, bool, int, float or str here, and nothing
else can come out of a file. Whole numbers are decimal only (`010` and `1:30` stay text: YAML 1.1 would read
them as 8 and 90). Beyond YAML a range of names, `h[1-4]`, is one word inside `[...]` and `{...}` too.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from commbench.errors import SpecError, nearest

MAX_FILE = 2**18
MAX_DEPTH = 20
_LONGEST = 1000  # characters of a complaint: a value of a megabyte is not repeated in full
_CORE = "tag:yaml.org,2002:"
_At = Callable[[int | None], str]  # line -> the place that a complaint names
_FLOAT = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?\.(inf|nan)", re.I)
_RANGES = re.compile(r"[A-Za-z0-9][\w.-]*(\[[0-9]+-[0-9]+\][\w.#-]*)+", re.A)
_TAG = "is not accepted; write plain text, numbers, lists and mappings"


class Kind(NamedTuple):
    """A kind of file: its name and its least content for complaints, and where in sweeps/ the shipped ones lie."""

    word: str
    least: str
    key: str
    override: str
    folder: str


SPEC = Kind("spec", "backend, op and sizes", "op: all_reduce", "stop.ci=5% or --set cases[0].op=reduce", "")
TOPOLOGY = Kind("topology", "hosts and links", "hosts: h[1-4]", "routing=shortest or --set links[0].mtu=1500", "lab")
ACCEPTANCE = Kind("acceptance spec", "backend", "backend: gloo", "budget=5m or --set expect.hosts=8", "acceptance")
TUNING = Kind("tuning spec", "backend, collectives and sizes", "collectives: all_reduce", "budget=5m", "tuning")


def one_line(text: str) -> str:
    """Text without line breaks or other characters that a terminal would act on."""
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:_LONGEST])
    return safe if len(text) <= _LONGEST else f"{safe} ..."


def show(value: object) -> str:
    """A value as its writer knows it: `true`, not `True`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, str) and len(value) > 60:
        return f"{value[:60]!r}..."
    return "a list" if isinstance(value, list) else repr(value)


@dataclass(frozen=True)
class Field:
    """A value, its key path, and where everything was written."""

    value: Any
    path: str
    places: Mapping[str, str]  # key path -> "FILE:LINE", or the override that gave it

    @property
    def place(self) -> str:
        """`FILE:LINE: $.path`; what was not written has the line of what encloses it."""
        path = self.path
        while path not in self.places and path != "$":
            path = path[: max(path.rfind("."), path.rfind("["), 1)]
        return f"{self.places.get(path, '')}: {self.path}"

    def error(self, sentence: str) -> SpecError:
        return SpecError(one_line(f"{self.place}: {sentence}"))

    def child(self, key: str) -> "Field":
        value = self.value.get(key) if isinstance(self.value, dict) else None
        return Field(value, f"{self.path}.{key}", self.places)

    def entries(self) -> list["Field"]:
        """The elements of a list, or the value itself: axes may be written either way."""
        if not isinstance(self.value, list):
            return [self]
        return [Field(value, f"{self.path}[{k}]", self.places) for k, value in enumerate(self.value)]

    def mapping(self, known: Sequence[str]) -> dict[str, "Field"]:
        """The children of a mapping whose keys must be known."""
        if not isinstance(self.value, dict):
            raise self.error(f"{show(self.value)} is not a mapping; known keys: {', '.join(sorted(known))}")
        for key in self.value:
            if key not in known:
                raise self.child(key).error(f"unknown key {show(key)}; {nearest(key, known)}")
        return {key: self.child(key) for key in self.value}


class _Refused(yaml.MarkedYAMLError):
    """Well-formed YAML that no spec needs and that could make a small file large."""


class _Loader(yaml.SafeLoader):
    """Composes nodes, a bounded number of levels deep and without aliases."""

    depth = 0

    def scan_plain(self) -> yaml.ScalarToken:
        """Takes `leaf[1-2]` as it stands, where YAML would open a list; nothing else in YAML can begin like that."""
        ranges = _RANGES.match(self.buffer, self.pointer) if self.flow_level else None
        if ranges is None:
            return super().scan_plain()
        start = self.get_mark()
        self.forward(len(ranges[0]))
        self.allow_simple_key = False
        return yaml.ScalarToken(ranges[0], True, start, self.get_mark())

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        mark: Any = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise _Refused(problem="aliases are not accepted; write it out", problem_mark=mark)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Refused(problem=f"nested more than {MAX_DEPTH} deep", problem_mark=mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _scalar(node: yaml.ScalarNode, refuse: Callable[[str], SpecError]) -> Any:
    text, kind = node.value, node.tag.removeprefix(_CORE)
    match kind:
        case "null":
            return None
        case "bool":
            return text.lower() in ("yes", "true", "on")
        case "int" if re.fullmatch(r"[-+]?(0|[1-9][0-9_]{0,400})", text):
            return int(text.replace("_", "").rstrip("_"))
        case "float" if _FLOAT.fullmatch(text):
            return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
        case "str" | "int" | "float" | "timestamp" | "value" | "merge":
            return text
    raise refuse(f"the tag {node.tag!r} {_TAG}")


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1 if node.start_mark else 1


def _plain(node: yaml.Node, path: str, at: _At, places: dict[str, str]) -> Any:
    """Plain data of a composed node; notes the place of every path below it."""

    def refuse(sentence: str, path: str = path) -> SpecError:
        return SpecError(one_line(f"{places[path]}: {path}: {sentence}"))

    places.setdefault(path, at(_line(node)))
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, refuse)
    if node.tag not in (f"{_CORE}seq", f"{_CORE}map"):
        raise refuse(f"the tag {node.tag!r} {_TAG}")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, f"{path}[{k}]", at, places) for k, item in enumerate(node.value)]
    data: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            places[path] = at(_line(key_node))
            raise refuse("a key must be a word, not a list or a mapping")
        # The text as written: `on:` is the key "on", whatever YAML 1.1 thinks of it.
        key, below = key_node.value, f"{path}.{key_node.value}"
        places[below] = at(_line(key_node))
        if key in data:
            raise refuse(f"written twice, first in line {lines[key]}; keep one of them", below)
        lines[key] = _line(key_node)
        data[key] = _plain(value_node, below, at, places)
    return data


def _compose(text: str, path: str, at: _At, places: dict[str, str]) -> Any:
    """Plain data of a YAML text; None where there is nothing in it."""
    line: int | None = None
    loader: Any = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        reason = f"not YAML: character {text[error.position : error.position + 1]!r} is not accepted"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        reason = "" if isinstance(error, _Refused) else "not YAML: "
        reason += ": ".join(part for part in (error.context, error.problem) if part)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML lets chr() and int() complain about `"\\UFFFFFFFF"` and endless version numbers.
        line, reason = loader.line + 1 if loader else None, f"not YAML: {error}"
    else:
        return None if node is None else _plain(node, path, at, places)
    raise SpecError(one_line(f"{at(line)}: {reason}"))


def shipped(kind: Kind = SPEC) -> dict[str, Path]:
    """Shipped files of a kind by name: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    folders = (package / "sweeps" / kind.folder, package.parent / "sweeps" / kind.folder)
    return next(({p.stem: p for p in sorted(f.glob("*.yaml"))} for f in folders if f.is_dir()), {})


def find(source: str, kind: Kind = SPEC) -> str:
    """The file behind SPEC: a path, or the name of a shipped spec. A folder does not hide a shipped spec."""
    if "/" in source or source.endswith((".yaml", ".yml")) or os.path.isfile(source):
        return source
    known = shipped(kind)
    if source in known:
        return str(known[source])
    if source and os.path.exists(source):
        return source
    hint = nearest(source, known) + "; a path ends in .yaml or contains a /"
    raise SpecError(one_line(f"unknown {kind.word} {show(source)}; {hint}"))


def _read_text(path: str, kind: Kind) -> str:
    def refuse(sentence: str) -> SpecError:
        return SpecError(one_line(f"{path}: {sentence}"))

    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_FILE + 1)
    except IsADirectoryError:
        raise refuse(f"is a folder; a {kind.word} is a YAML file") from None
    except FileNotFoundError:
        raise refuse(f"no such file; shipped, by name: {', '.join(shipped(kind))}") from None
    except (OSError, ValueError) as error:
        raise refuse(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(raw) > MAX_FILE:
        raise refuse(f"is larger than {MAX_FILE // 2**10} KiB; a {kind.word} is a short text")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SpecError(one_line(f"{path}:{line}: is not UTF-8 text (byte {error.start})")) from None


def _override(data: dict[str, Any], places: dict[str, str], text: str, kind: Kind) -> None:
    """Puts one `key=value` into the data; null takes the key out."""
    flag = f"--set {text}"
    key, equals, value_text = text.partition("=")
    key = key.strip()
    if not equals or not re.fullmatch(r"\w+(\[\d{1,6}\])*(\.\w+(\[\d{1,6}\])*)*", key):
        raise SpecError(one_line(f"{flag}: write --set key=value, as in --set {kind.override}"))
    steps: list[Any] = [int(i) if i else k for i, k in re.findall(r"\[(\d+)\]|(\w+)", key)]
    paths = ["$"]
    for step in steps:
        paths.append(paths[-1] + (f"[{step}]" if isinstance(step, int) else f".{step}"))
    path, fresh = paths[-1], dict[str, str]()
    value = _compose(value_text, path, lambda _: flag, fresh)
    holder: Any = data
    for step, here, below in zip(steps, paths, paths[1:], strict=False):
        if isinstance(step, int) and not (isinstance(holder, list) and step < len(holder)):
            found = f"has {len(holder)} entries" if isinstance(holder, list) and holder else "is no list"
            raise SpecError(one_line(f"{flag}: {path}: {here} {found}, so there is no [{step}] to set"))
        if isinstance(step, str) and not isinstance(holder, dict):
            raise SpecError(one_line(f"{flag}: {path}: {here} is {show(holder)}, not a mapping"))
        if below == path:
            break
        if isinstance(step, str) and holder.get(step) is None:
            holder[step], places[below] = {}, flag
        holder = holder[step]
    if value is None and isinstance(holder, dict):
        holder.pop(steps[-1], None)
    else:
        holder[steps[-1]] = value
    for old in [p for p in places if p.startswith((f"{path}.", f"{path}["))]:
        del places[old]
    places.update({path: flag, **fresh})


def read(path: str, overrides: Sequence[str] = (), kind: Kind = SPEC) -> Field:
    """The top-level mapping of a YAML file, with the overrides in it."""
    places = {"$": f"{path}:1"}
    data = _compose(_read_text(path, kind), "$", lambda line: f"{path}:{line}" if line else path, places)
    if data is None:
        raise SpecError(one_line(f"{path}:1: is empty; a {kind.word} needs at least {kind.least}"))
    if not isinstance(data, dict):
        raise SpecError(one_line(f"{path}:1: $: {show(data)} is not a {kind.word}; write keys: `{kind.key}`"))
    for text in overrides:
        _override(data, places, text, kind)
    return Field(data, "$", places)
