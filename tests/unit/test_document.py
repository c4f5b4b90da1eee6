"""YAML to plain data: what is refused, with which line, and how overrides are put in."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commbench.errors import SpecError
from commbench.spec.document import MAX_FILE, find, one_line, read


def refusal(path: Path, content: str | bytes, *overrides: str) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SpecError) as caught:
        read(str(path), overrides)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.isprintable()
    return sentence.replace(str(path), "FILE")


def complaint(path: Path, overrides: Sequence[str]) -> str:
    try:
        read(str(path), overrides)
    except SpecError as error:
        return str(error)
    return ""


def plain(path: Path, content: str, *overrides: str) -> Any:
    path.write_text(content)
    return read(str(path), overrides).value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spec.yaml"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "FILE:1: is empty"),
        ("# only a comment\n", "FILE:1: is empty"),
        ("- a\n- b\n", "FILE:1: $: a list is not a spec"),
        ("text", "FILE:1: $: 'text' is not a spec"),
        ("op: a\nseed: 1\nop: b\n", "FILE:3: $.op: written twice, first in line 1"),
        ("stop:\n  ci: 1%\n  ci: 2%\n", "FILE:3: $.stop.ci: written twice, first in line 2"),
        ("a: 1\nb: [1, 2\n", "FILE:3: not YAML: "),
        ("a: b\n\tc: d", "FILE:2: not YAML: "),
        ("a: b: c", "FILE:1: not YAML: mapping values are not allowed here"),
        ("a: 1\n---\nb: 2\n", "FILE:2: not YAML: expected a single document"),
        ("a: &x [1]\nb: *x\n", "FILE:2: aliases are not accepted"),
        ("\n" + "[" * 100, "FILE:2: nested more than 20 deep"),
        ("a: " + "{b: " * 100, "FILE:1: nested more than 20 deep"),
        ("a:\n  !!python/object/apply:os.system ['true']", "FILE:1: $.a: the tag "),
        ("a: !!binary aGk=", "FILE:1: $.a: the tag "),
        ("a: 1\n? [b, c]\n: 2", "FILE:2: $: a key must be a word"),
        ('a: 1\nb: "\\UFFFFFFFF"', "FILE:2: not YAML: "),
        ("a: 1\nb: \x07", "FILE:2: not YAML: character '\\x07' is not accepted"),
        ("%YAML " + "1" * 5000 + ".1\n---\na: 1", "FILE:1: not YAML: "),
        (b"a: 1\nb: \xff\xfe", "FILE:2: is not UTF-8 text"),
        (b"a: 1\n" + b"#" * MAX_FILE, "FILE: is larger than 256 KiB"),
    ],
)
def test_refused_with_place(path: Path, content: str | bytes, sentence: str) -> None:
    assert refusal(path, content).startswith(sentence)


def test_billion_laughs(path: Path) -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]" for k in range(1, 40))]
    assert refusal(path, "\n".join(lines)).startswith("FILE:2: aliases are not accepted")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name, sentence in (
        (tmp_path, "is a folder"),
        (tmp_path / "no.yaml", "no such file"),
        ("a\0/b", "cannot be"),
    ):
        with pytest.raises(SpecError, match=sentence) as caught:
            read(str(name))
        assert "\n" not in str(caught.value)


def test_a_file_without_permission(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:  # root, as which CI may run, is never denied
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(SpecError, match=r"spec.yaml: cannot be read: Permission denied$"):
        read(str(path))


def test_scalars(path: Path) -> None:
    text = "a: 1\nb: 010\nc: 1:30\nd: 1.5\ne: .nan\nf: yes\ng: ~\nh: 2024-01-01\ni: 1_000\n"
    text += "j: -5\nk: 1e400\non: '7'"
    data = plain(path, "\ufeff" + text)
    assert math.isnan(data.pop("e"))
    assert data == {
        "a": 1,
        "b": "010",
        "c": "1:30",
        "d": 1.5,
        "f": True,
        "g": None,
        "h": "2024-01-01",
        "i": 1000,
        "j": -5,
        "k": "1e400",
        "on": "7",
    }


def test_overrides(path: Path) -> None:
    text = "op: a\nstop: {ci: 1%, max_time: 2s}\ncases: [{op: b}, {op: c}]\n"
    assert plain(path, text, "op=x")["op"] == "x"
    assert plain(path, text, "stop.ci=5%")["stop"] == {"ci": "5%", "max_time": "2s"}
    assert plain(path, text, "stop={ci: 5%}")["stop"] == {"ci": "5%"}
    assert plain(path, text, "cases[1].op=x")["cases"] == [{"op": "b"}, {"op": "x"}]
    assert plain(path, text, "warmup.max_time=1s")["warmup"] == {"max_time": "1s"}
    assert plain(path, text, "op=[x, y]", "op=z")["op"] == "z"
    assert "op" not in plain(path, text, "op=null")
    assert plain(path, text, "sizes=8B..1KiB x2")["sizes"] == "8B..1KiB x2"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("op", "--set op: write --set key=value"),
        ("=x", "--set =x: write --set key=value"),
        ("a b=x", "--set a b=x: write --set key=value"),
        ("op=[x", "--set op=[x: not YAML: "),
        ("op={a: 1, a: 2}", "--set op={a: 1, a: 2}: $.op.a: written twice"),
        ("op.x=1", "--set op.x=1: $.op.x: $.op is 'a', not a mapping"),
        ("op[0]=1", "--set op[0]=1: $.op[0]: $.op is no list"),
        ("cases[7].op=x", "--set cases[7].op=x: $.cases[7].op: $.cases has 1 entries"),
        ("op=*x", "--set op=*x: aliases are not accepted"),
    ],
)
def test_a_bad_override_is_named(path: Path, override: str, sentence: str) -> None:
    assert refusal(path, "op: a\ncases: [{op: b}]\n", override).startswith(sentence)


def test_places_of_values_and_of_what_is_missing(path: Path) -> None:
    path.write_text("op: a\nstop:\n  ci: 1%\nlist:\n  - 1\n  - 2\n")
    top = read(str(path), ["list[1]=7"])
    assert top.child("stop").child("ci").place == f"{path}:3: $.stop.ci"
    assert top.child("stop").child("max_time").place == f"{path}:2: $.stop.max_time"
    assert top.child("sizes").place == f"{path}:1: $.sizes"
    assert [entry.place for entry in top.child("list").entries()] == [
        f"{path}:5: $.list[0]",
        "--set list[1]=7: $.list[1]",
    ]


def test_shipped_specs_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quick").mkdir()  # a folder of that name does not hide the spec
    assert find("quick").endswith("sweeps/quick.yaml")
    (tmp_path / "mine").write_text("op: a")
    assert find("mine") == "mine"
    with pytest.raises(SpecError, match=r"unknown spec 'quik'; did you mean 'quick'\? known: fabric, latency, "):
        find("quik")
    for name in ("", "a\0b", "x" * 10_000):
        with pytest.raises(SpecError, match="unknown spec"):
            find(name)


def test_one_line_is_safe_to_print() -> None:
    assert one_line("a\nb\x1b[0m\u2028\ud800") == "a\\nb\\x1b[0m\\u2028\\ud800"
    assert len(one_line("x" * 10**6)) < 2000


structure = st.recursive(
    st.sampled_from(["1", "a", "*x", "&x 1", "!!set {a}", "!t a", '"\\ud800"', "<<", "~", "{", "- - -", "|", "? a"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda parts: f"[{', '.join(parts)}]"),
        st.lists(st.tuples(inner, inner), max_size=4).map(lambda p: f"{{{', '.join(f'{k}: {v}' for k, v in p)}}}"),
    ),
)


@settings(max_examples=250, deadline=None)
@given(
    st.one_of(st.text(), structure, st.text(alphabet="ab:-?[]{},&*!|>%@'\"\\#~ \n\t01.")),
    st.text(max_size=30),
)
def test_no_text_raises_anything_else(tmp_path_factory: pytest.TempPathFactory, text: str, value: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    for overrides in ([], [f"op={value}"], [value]):
        assert complaint(path, overrides).isprintable()
