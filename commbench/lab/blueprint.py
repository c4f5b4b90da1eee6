"""lab.json in a lab's folder: what the tool that starts a lab tells its process 1, and everybody inside can read."""

from pathlib import Path

import msgspec

from commbench.errors import LaunchError
from commbench.records import Fabric
from commbench.spec.topology import ScriptedFault

_FILE = "lab.json"


class Blueprint(msgspec.Struct, frozen=True):
    id: str
    fabric: Fabric
    faults: tuple[ScriptedFault, ...] = ()


def write(folder: Path, blueprint: Blueprint) -> None:
    (folder / _FILE).write_bytes(msgspec.json.encode(blueprint))


def read(folder: Path) -> Blueprint:
    """Raises LaunchError where there is no lab, or no more."""
    try:
        return msgspec.json.decode((folder / _FILE).read_bytes(), type=Blueprint)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LaunchError(f"there is no lab in {folder} ({error})") from None
