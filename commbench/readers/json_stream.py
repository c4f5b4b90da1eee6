"""The elements of one array in a JSON document of any size, in batches, without ever holding the document.

Two speeds. Where a block of text between two elements decodes as a list, it is one: a C decoder does the work. Where
it does not (a broken element, NaN, a seam that lies inside a string), brackets and strings are counted until the
element's end, and each element stands for itself: a broken one costs itself and not the file.
"""

import re
from collections.abc import Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from commbench.errors import ReadError

T = TypeVar("T")

LONGEST = 2**24  # bytes of an element; a longer one is left out and told
_MEMBER = 2**22  # bytes of another member that is kept
_MEMBERS = 64
_OUTLINE = 2**16
_BLOCK = 2**18
_NAME = 2**10
# A string ends at its quote, or at the end of the line, where none may be: what a lost quote spoils is one line.
_TOKEN = re.compile(rb'"[^"\\\n]*(?:\\.[^"\\\n]*)*(["\n])?|[{}\[\]]', re.DOTALL)
_REST = re.compile(rb'[^"\\\n]*(?:\\.[^"\\\n]*)*(["\n])?', re.DOTALL)
_SEAM = re.compile(rb"\}\s*,\s*(?=\{)")
_NOT_A_NUMBER = re.compile(rb"(?<=[:\[,\s])[+-]?(?:NaN|nan|Infinity|inf)(?=\s*[,}\]])")
_BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Trouble(NamedTuple):
    line: int
    reason: str


class Stream(Generic[T]):
    """Iterate it to the end: lists of `kind`, and Trouble for elements that cannot be read. Then ask it:

    members   the other members of the document: decoded values, those that could be read
    elements  how many were found, readable or not
    line      of the end
    cut       why the document ends too early; "" where it does not
    """

    def __init__(self, blocks: Iterator[bytes], array: str, kind: type[T]) -> None:
        self._blocks = blocks
        self._array = array
        self._many = msgspec.json.Decoder(list[kind]).decode  # type: ignore[valid-type]
        self._one = msgspec.json.Decoder(kind).decode
        self.members: dict[str, Any] = {}
        self.elements = 0
        self.line = 1  # of the buffer's first byte
        self.cut = ""
        self.smallest = _BLOCK  # smaller blocks are put together: work is done by the block
        self._buffer = b""
        self._at = 0  # all before is scanned
        self._in_string = False
        self._depth = 0
        self._inside = 0  # depth of the array's elements; 0: not in the array
        self._begin: int | None = None  # of the element or member being scanned
        self._began = 1  # its line
        self._too_long = False
        self._name = b""  # the last string at the top
        self._outline = bytearray()  # the document with null for every array and object
        self._outlined = 0
        self._ended = False
        self._may_batch = True

    def __iter__(self) -> Iterator[list[T] | Trouble]:
        if not self._opens():
            return
        more = True
        while not self._ended:
            batch = self._batch() if self._between and self._may_batch else None
            self._may_batch = self._may_batch and not self._between
            if batch:
                self.elements += len(batch)
                yield batch
            else:
                yield from self._scan()
                if self._may_batch and self._between:
                    continue
            if not more:
                break
            more = self._feed()
        bare = self._inside == 1 and self._between  # Chrome's format lets an array at the top stay open
        if not self._ended and not self.cut and not bare:
            self.cut = "the file ends in the middle of the document"
        self._close()

    @property
    def _between(self) -> bool:
        """In the array, between two elements."""
        return self._inside > 0 and self._depth == self._inside and self._begin is None and not self._in_string

    def _opens(self) -> bool:
        while not self._buffer.strip():
            self._buffer = b""
            if not self._feed():
                return False
        start = len(self._buffer) - len(self._buffer.lstrip())
        self._at = self._outlined = start + 1
        self._depth = 1
        self._inside = 1 if self._buffer[start] == ord("[") else 0
        self._outline += b"{"
        return self._buffer[start] in b"{["

    def _feed(self) -> bool:
        """Drop what is done with, and get the next block."""
        keep = self._at if self._begin is None else self._begin
        if self._begin is not None and len(self._buffer) - self._begin > LONGEST:
            if not self._too_long:
                self._began = self._line_at(self._begin)
            self._too_long, keep = True, self._at
        if self._depth == 1 and not self._inside:
            self._outlines(self._at)
        block = b""
        try:
            while len(block) < self.smallest and (part := next(self._blocks, b"")):
                block += part
        except ReadError as error:
            self.cut = str(error)
        self.line += self._buffer.count(b"\n", 0, keep)
        self._buffer = self._buffer[keep:] + block
        self._at -= keep
        self._outlined = self._at
        if self._begin is not None:
            self._begin = 0
        self._may_batch = True
        return bool(block)

    def _outlines(self, end: int, value: bytes = b"") -> None:
        if len(self._outline) < _OUTLINE:
            self._outline += self._buffer[self._outlined : end][:_OUTLINE] + value
        self._outlined = end

    def _batch(self) -> list[T] | None:
        """All elements up to the last seam. None: there is none, or what is before it is no list of elements."""
        tail = max(self._at, len(self._buffer) - 2**16)
        seams = list(_SEAM.finditer(self._buffer, tail))
        if not seams:
            return None
        for text in _attempts(self._buffer[self._at : seams[-1].start() + 1].lstrip(b", \t\r\n")):
            try:
                found = self._many(b"[" + text + b"]")
            except _BROKEN:
                continue
            self._at = seams[-1].end()
            return found
        return None

    def _scan(self) -> Iterator[list[T] | Trouble]:
        """Bracket by bracket, to the end of the buffer."""
        ready: list[T] = []
        if self._in_string:
            self._string(_REST.match(self._buffer, self._at))
        for match in _TOKEN.finditer(self._buffer, self._at) if not self._in_string else ():
            char = self._buffer[match.start()]
            if char == 0x22:
                self._string(match)
            elif char in b"{[":
                self._open(match.start(), char)
            else:
                found = self._shut(match.end())
                if isinstance(found, Trouble):
                    yield found
                elif found is not None:
                    ready.append(found)
            if self._ended or (self._may_batch and self._between):
                self._at = match.end()
                break
        else:
            if not self._in_string:
                self._at = len(self._buffer)
        if ready:
            yield ready

    def _string(self, match: re.Match[bytes] | None) -> None:
        assert match is not None  # `_REST` matches everywhere
        if self._depth == 1 and not self._inside:
            self._name = (self._name + match[0] if self._in_string else match[0])[:_NAME]
        self._in_string, self._at = match[1] is None, match.end()

    def _open(self, start: int, char: int) -> None:
        self._depth += 1
        if self._begin is not None:
            return
        if self._depth == 2 and not self._inside and char == ord("[") and self._called() == self._array:
            self._outlines(start, b"null")
            self._inside = 2
        elif self._depth == self._inside + 1 if self._inside else self._depth == 2:
            self._begin, self._too_long = start, False
            if not self._inside:
                self._outlines(start, b"null")

    def _shut(self, end: int) -> T | Trouble | None:
        self._depth -= 1
        if self._depth == 0:
            if not self._inside:
                self._outlines(end - 1)
            self._ended = True
        elif self._depth < self._inside:
            self._inside, self._outlined = 0, end
        elif self._begin is not None and self._depth == (self._inside or 1):
            begin, self._begin, self._outlined = self._begin, None, end
            if self._inside:
                return self._element(begin, end)
            self._member(begin, end)
        return None

    def _element(self, begin: int, end: int) -> T | Trouble:
        self.elements += 1
        if self._too_long or end - begin > LONGEST:
            line = self._began if self._too_long else self._line_at(begin)
            return Trouble(line, f"an element of more than {LONGEST} bytes")
        reason = ""
        for text in _attempts(self._buffer[begin:end]):
            try:
                return self._one(text)
            except _BROKEN as error:
                reason = reason or str(error)
        return Trouble(self._line_at(begin), f"an element that is no valid JSON: {reason}")

    def _line_at(self, at: int) -> int:
        return self.line + self._buffer.count(b"\n", 0, at)

    def _member(self, begin: int, end: int) -> None:
        if not self._too_long and end - begin <= _MEMBER and len(self.members) < _MEMBERS:
            for text in _attempts(self._buffer[begin:end]):
                try:
                    self.members[self._called()] = msgspec.json.decode(text)
                    return
                except _BROKEN:
                    continue

    def _called(self) -> str:
        try:
            return msgspec.json.decode(self._name, type=str)
        except _BROKEN:
            return self._name[1:-1].decode(errors="replace")

    def _close(self) -> None:
        """The plain members: numbers and words."""
        self.line += self._buffer.count(b"\n")
        whole = _NOT_A_NUMBER.sub(b"null", bytes(self._outline)).rstrip(b", \t\r\n")
        for text in (whole + b"}", whole[: whole.rfind(b",")] + b"}"):
            try:
                plain = msgspec.json.decode(text.decode(errors="replace"), type=dict[str, Any])
            except _BROKEN:
                continue
            self.members = {key: value for key, value in plain.items() if value is not None} | self.members
            return


def _attempts(text: bytes) -> Iterator[bytes]:
    """The text, and then without what keeps many writers' JSON from being JSON."""
    yield text
    text = _NOT_A_NUMBER.sub(b"null", text)
    yield text
    yield text.decode(errors="replace").encode()
