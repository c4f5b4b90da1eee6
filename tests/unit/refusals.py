"""How a file that is not accepted is refused: in one line that can be printed, with the usage code."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from commbench.errors import SpecError


def refused(load: Callable[[str, Sequence[str]], Any], path: Path, text: str, *overrides: str) -> str:
    """The sentence about a file of this text, with FILE in place of its path."""
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        load(str(path), overrides)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.isprintable()
    assert caught.value.exit_code == 2
    return sentence.replace(str(path), "FILE")
