"""Other people's files: bytes and lines of anything, bounded."""

import gzip
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commbench.errors import ReadError
from commbench.readers import read
from commbench.readers.source import LONGEST, Source

Put = Callable[[bytes], Source]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    def write(data: bytes) -> Source:
        (tmp_path / "file").write_bytes(data)
        return Source(tmp_path / "file", "file")

    return write


LINES = [(1, "first"), (2, ""), (3, "thïrd")]
TEXT = "first\n\nthïrd\n"


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        TEXT.encode().rstrip(),
        TEXT.replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + TEXT.encode(),
        TEXT.encode("utf-16"),
        b"\xfe\xff" + TEXT.encode("utf-16-be"),
        gzip.compress(TEXT.encode()),
        gzip.compress(TEXT[:7].encode()) + gzip.compress(TEXT[7:].encode()),
        gzip.compress(TEXT.encode("utf-16")),
    ],
    ids=["plain", "no end", "crlf", "mark", "utf-16", "utf-16 be", "gzip", "two gzips", "gzip of utf-16"],
)
def test_the_same_lines_from_every_encoding(put: Put, data: bytes) -> None:
    assert list(put(data).lines()) == LINES


@given(st.binary(max_size=300))
def test_any_bytes_have_lines(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "file"
    path.write_bytes(data)
    try:
        numbers = [number for number, _ in Source(path).lines()]
    except ReadError:
        assert data[:2] == b"\x1f\x8b"
    else:
        assert numbers == list(range(1, len(numbers) + 1))


def test_a_line_without_end_does_not_fill_the_memory(put: Put) -> None:
    source = put(b"x" * (64 * LONGEST) + b"\nshort\n")
    tracemalloc.start()
    lines = list(source.raw_lines())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert lines == [(1, b""), (2, b"short")]
    assert peak < 8 * LONGEST


def test_a_damaged_archive_says_so(put: Put) -> None:
    whole = gzip.compress(bytes(range(256)) * 1000)
    with pytest.raises(ReadError, match=r"file: the gzip data ends in the middle"):
        list(put(whole[:-20]).blocks())
    with pytest.raises(ReadError, match="file: damaged gzip"):
        list(put(whole[:40] + b"????????" + whole[48:]).blocks())


def test_a_document_has_a_limit(put: Put) -> None:
    assert put(b"short").text(100) == "short"
    with pytest.raises(ReadError, match="larger than 1 MiB"):
        put(b"x" * (2**20 + 1)).text(2**20)


def test_a_byte_string_over_the_edge_of_a_block_is_found(put: Put) -> None:
    source = put(b"x" * (2**20 - 3) + b"needle" + b"y" * 100)
    assert source.holds({b"needle", b"thread"}) == {b"needle"}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "the file is empty"),
        (b"\x7fELF\0\0\0", "no known format"),
        (b"Dear all,\nthe meeting is at ten.\n", "no known format"),
    ],
)
def test_what_is_no_data_is_refused_with_the_reason(put: Put, data: bytes, why: str) -> None:
    with pytest.raises(ReadError, match=f"file: {why}"):
        read(put(data))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"gone: No such file"):
        read(Source(tmp_path / "gone"))
