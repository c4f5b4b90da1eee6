"""A file that somebody else made: bytes and lines of it, whatever is in it, without ever holding it whole.

Plain or gzip; UTF-8 (a byte-order mark is dropped), or UTF-16 with its mark. Bytes that are no text become
U+FFFD. A line longer than `LONGEST` is not a line of any format read here: it is left out and told. A file that
grows is read up to the size that it had at first.
"""

import codecs
import hashlib
import stat
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import msgspec

from commbench.errors import ReadError

LONGEST = 2**20  # bytes of a line
_BLOCK = 2**20
_INFLATED = 2**37  # a gzip file that grows beyond this is a bomb
_SUSPECT, _RATIO = 2**27, 200  # ... or beyond this, by so many times: logs shrink to a 20th, at most to a 100th
_REASON = 400  # characters of a reason: it may quote the file
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Problem(msgspec.Struct, frozen=True):
    """A line (or a whole file: line 0) that looked like data and could not be read, and why."""

    path: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}" if self.line else f"{self.path}: {self.reason}"


class Source:
    """One file. `problem(line, reason)` makes the Problem that names it."""

    def __init__(self, path: Path, name: str = "") -> None:
        self.path = path
        self.name = (name or str(path)).encode(errors="replace").decode()  # a name may be no UTF-8
        self.left_out = 0  # the first line that was too long, of the last reading by lines
        self.damage = ""  # why that ended before the file

    def problem(self, line: int, reason: str) -> Problem:
        return Problem(self.name, line, reason if len(reason) <= _REASON else f"{reason[:_REASON]} ...")

    @cached_property
    def nbytes(self) -> int:
        """On the disc. Raises ReadError for what is no file: a pipe would be waited for, a device has no end."""
        try:
            found = self.path.stat()
        except OSError as error:
            raise self._cannot(error) from None
        if not stat.S_ISREG(found.st_mode):
            raise ReadError(f"{self.name}: not a plain file; write what it gives into one first")
        return found.st_size

    @cached_property
    def changed(self) -> float:
        """When the file was last written, seconds since the epoch."""
        try:
            return self.path.stat().st_mtime
        except OSError as error:
            raise self._cannot(error) from None

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for block in self._stored():
            digest.update(block)
        return digest.hexdigest()

    def blocks(self) -> Iterator[bytes]:
        """The content as UTF-8, unpacked, in blocks of about a megabyte. Raises ReadError."""
        stored = self._stored()
        first = next(stored, b"")
        blocks = self._unpacked(first, stored) if first[:2] == b"\x1f\x8b" else _chain(first, stored)
        first = next(blocks, b"")
        if first[:2] in _UTF16:
            yield from _transcoded(_chain(first, blocks))
        else:
            yield first.removeprefix(codecs.BOM_UTF8)
            yield from blocks

    def lines(self) -> Iterator[tuple[int, str]]:
        """(number from 1, line without its end); a line that is too long is an empty one. Raises ReadError."""
        for number, line in self.raw_lines():
            yield number, line.decode(errors="replace")

    def raw_lines(self) -> Iterator[tuple[int, bytes]]:
        """As `lines`, in bytes: half the time where most lines are not looked into."""
        number, rest, dropping = 0, b"", False
        self.left_out = 0
        for block in self.readable():
            *whole, rest = (rest + block).split(b"\n")
            for line in whole:
                number += 1
                yield number, b"" if dropping else line.rstrip(b"\r")
                dropping = False
            if len(rest) > LONGEST:
                rest, dropping, self.left_out = b"", True, self.left_out or number + 1
        if rest or dropping:
            yield number + 1, b"" if dropping else rest.rstrip(b"\r")

    def readable(self) -> Iterator[bytes]:
        """As `blocks`, up to where the file is damaged: then `damage` says so. Raises ReadError where all of it is."""
        self.damage, any_block = "", False
        try:
            for block in self.blocks():
                yield block
                any_block = True
        except ReadError as error:
            if not any_block:
                raise
            self.damage = str(error).removeprefix(f"{self.name}: ")

    def text(self, most: int) -> str:
        """The whole content, for formats that are one document. Raises ReadError above `most` bytes."""
        parts, total = [], 0
        for block in self.blocks():
            parts.append(block)
            total += len(block)
            if total > most:
                raise ReadError(f"{self.name}: larger than {most >> 20} MiB, which no file of this format is")
        return b"".join(parts).decode(errors="replace")

    def holds(self, wanted: "set[bytes]") -> "set[bytes]":
        """Those of the byte strings that are somewhere in the content. Raises ReadError."""
        found: set[bytes] = set()
        overlap = max(map(len, wanted), default=1) - 1
        tail = b""
        try:
            for block in self.blocks():
                window = tail + block
                found |= {text for text in wanted - found if text in window}
                if found == wanted:
                    break
                tail = window[-overlap:] if overlap else b""
        except ReadError:  # damaged further on: what is before may be read
            if not found:
                raise
        return found

    def _stored(self) -> Iterator[bytes]:
        left = self.nbytes
        try:
            with self.path.open("rb") as file:
                while block := file.read(min(_BLOCK, left)):
                    yield block
                    left -= len(block)
        except OSError as error:
            raise self._cannot(error) from None

    def _unpacked(self, first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
        inflate, total = zlib.decompressobj(wbits=31), 0
        try:
            for block in _chain(first, rest):
                while block:
                    if inflate.eof:  # several gzip files behind each other are one
                        inflate = zlib.decompressobj(wbits=31)
                    out = inflate.decompress(block, _BLOCK)
                    total += len(out)
                    if total > _INFLATED or (total > _SUSPECT and total > _RATIO * self.nbytes):
                        raise ReadError(
                            f"{self.name}: unpacks to {total // self.nbytes} times its size, which no log does; "
                            "unpack it yourself if you trust it"
                        )
                    if out:
                        yield out
                    block = inflate.unconsumed_tail or inflate.unused_data
        except zlib.error as error:
            raise ReadError(f"{self.name}: damaged gzip data: {error}") from None
        if not inflate.eof:
            raise ReadError(f"{self.name}: the gzip data ends in the middle")

    def _cannot(self, error: OSError) -> ReadError:
        return ReadError(f"{self.name}: {error.strerror or error}")


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _transcoded(blocks: Iterator[bytes]) -> Iterator[bytes]:
    decode = codecs.getincrementaldecoder("utf-16")(errors="replace").decode
    for block in blocks:
        yield decode(block).encode(errors="replace")
    yield decode(b"", True).encode(errors="replace")
