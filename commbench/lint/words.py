"""Words of a shell command line: enough of the grammar to see what is set, and nothing is ever run."""

import re
from collections.abc import Iterator
from typing import NamedTuple

_DEFAULT = re.compile(r"\$\{\w+:?[-=]([^${}`]*)\}")
_ARITHMETIC = re.compile(r"\$\(\(([\d\s*+()]{1,40})\)\)")
_PLAIN = re.compile(r"[\w^=.,:/+@%-]+")
_OPERATORS = frozenset(";|&()<>")
BREAK = "\n"  # stands for ; | & and the like in the list of words


class Word(NamedTuple):
    text: str  # without quotes; expansions as they were written
    line: int
    quoted: bool  # some of it was in quotes
    literal: bool  # nothing in it is expanded

    @property
    def value(self) -> str | None:
        """The text; the default of `${X:-default}`; the product of `$((512 * 1024))`; None where it is not known."""
        if self.literal:
            return self.text
        if match := _DEFAULT.fullmatch(self.text):
            return match[1]
        return None

    def after(self, count: int) -> "Word":
        """The word without its first characters."""
        return self._replace(text=self.text[count:], literal=self.literal or not re.search(r"[$`]", self.text[count:]))


def logical(lines: Iterator[str]) -> Iterator[tuple[int, str]]:
    """(number of its first line, line) with lines that end in a backslash joined; 4,000 at most."""
    start, parts = 0, list[str]()
    for number, line in enumerate(lines, 1):
        start = start or number
        text = line.rstrip("\r\n")
        if text.endswith("\\") and not text.lstrip().startswith("#") and len(parts) < 4000:
            parts.append(text[:-1])
            continue
        yield start, "\n".join([*parts, text]) if parts else text
        start, parts = 0, []
    if parts:
        yield start, "\n".join(parts)


def words(text: str, line: int) -> list[Word]:
    """The words of a line; `BREAK` where a command ends. A line end inside is a joined one, and only counts."""
    found: list[Word] = []
    out: list[str] = []
    quoted = literal = began = False
    literal = True
    at, start, end = 0, line, len(text)

    def close() -> None:
        nonlocal out, quoted, literal, began
        if began:
            found.append(Word("".join(out), start, quoted, literal))
        out, quoted, literal, began = [], False, True, False

    while at < end:
        char = text[at]
        if char in " \t\n":
            close()
            line += char == "\n"
            at += 1
            continue
        if char == "#" and not began:
            break
        if char in _OPERATORS and not (char in "<>" and began and out and out[-1].isdigit()):
            close()
            found.append(Word(BREAK, line, False, True))
            at += 1
            continue
        if not began:
            start, began = line, True
        if char in "\"'" and (stop := _closing(text, at)) > 0:
            inside = text[at + 1 : stop]
            literal &= char == "'" or not re.search(r"[$`]", inside)
            out.append(inside if char == "'" else re.sub(r'\\(["\\$`])', r"\1", inside))
            quoted, line, at = True, line + inside.count("\n"), stop + 1
        elif char in "$`" and (stop := _expansion(text, at)) > at:
            piece = text[at:stop]
            if (sum_ := _product(piece)) is not None:
                out.append(sum_)
            else:
                out.append(piece)
                literal = False
            at = stop
        elif char == "\\" and at + 1 < end:
            out.append(text[at + 1])
            at += 2
        else:
            run = _PLAIN.match(text, at)
            out.append(run[0] if run else char)
            at = run.end() if run else at + 1
    close()
    return found


def _closing(text: str, at: int) -> int:
    """Where the quote at `at` closes; -1 where it does not on this line, and then it is no quote."""
    if text[at] == "'":
        return text.find("'", at + 1)
    at += 1
    while at < len(text) and text[at] != '"':
        at += 2 if text[at] == "\\" else 1
    return at if at < len(text) else -1


def _expansion(text: str, at: int) -> int:
    """The end of `$NAME`, `${...}`, `$(...)`, `$((...))` or a command in back quotes."""
    if text[at] == "`":
        stop = text.find("`", at + 1)
        return stop + 1 if stop > 0 else at + 1
    follow = text[at + 1 : at + 2]
    if follow and follow in "({":
        depth = 0
        for stop in range(at + 1, min(len(text), at + 5000)):
            depth += (text[stop] in "({") - (text[stop] in ")}")
            if not depth:
                return stop + 1
        return len(text)
    match = re.compile(r"\$(\w+|.)?").match(text, at)
    return match.end() if match else at + 1


def _product(piece: str) -> str | None:
    """What `$((512 * 1024))` is worth: numbers joined by one kind of operator."""
    match = _ARITHMETIC.fullmatch(piece)
    if not match or "(" in match[1]:
        return None
    result = 0
    for term in match[1].split("+"):
        factors = term.split("*")
        if not all(f.strip().isdigit() and len(f.strip()) < 12 for f in factors):
            return None
        value = 1
        for factor in factors:
            value *= int(factor)
        result += value
    return str(result)
