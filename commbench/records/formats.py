"""Records in files of their own carry the number of their format; a newer one is refused before it is read."""

from pathlib import Path

import msgspec

from commbench.errors import FolderError


def refuse_newer(data: bytes, path: Path, newest: int) -> None:
    """FolderError: `data` has a newer format than `newest`. msgspec.MsgspecError: it is no such record at all."""
    told = msgspec.json.decode(data, type=dict[str, msgspec.Raw]).get("format", msgspec.Raw(b"1"))
    if msgspec.json.decode(told, type=int) > newest:
        raise FolderError(f"{path}: a newer commbench wrote it; upgrade to read it")
