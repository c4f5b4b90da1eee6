"""The catalogue of settings: whole, honest, and careful about what it calls a slip."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commbench import knobs
from commbench.lint import values

ROWS = list(knobs.table().values())
NCCL = [knob for knob in ROWS if knob.library == "nccl"]


def test_every_documented_variable_of_nccl_is_there() -> None:
    documented = [knob for knob in NCCL if knob.kept in ("production", "debug")]
    assert len(documented) >= 110
    assert len({knob.name for knob in ROWS}) == len(ROWS)
    assert {knob.kept for knob in ROWS} <= {"production", "debug", "internal", ""}
    assert {knob.level for knob in ROWS} == {"call", "communicator", "process"}


@pytest.mark.parametrize("prefix", knobs.PREFIXES)
def test_every_prefix_has_rows(prefix: str) -> None:
    if prefix != "RCCL_":  # known to be settings, not catalogued: never called unknown
        assert any(knob.name.startswith(prefix) for knob in ROWS)


def test_versions_are_versions() -> None:
    for knob in ROWS:
        for text in (knob.since, knob.gone, knob.deprecated):
            assert text in ("", "yes") or knobs.version(text), knob
        if knob.since and knob.gone not in ("", "yes"):
            assert knobs.version(knob.since) < knobs.version(knob.gone), knob  # type: ignore[operator]


def test_kinds_and_values_can_be_read() -> None:
    for knob in ROWS:
        assert knob.kind in {*values.KINDS, "text", "path"}, knob
        if knob.kind in ("int", "bytes", "uint"):
            assert re.fullmatch(r"(-?\d+)?\.\.(\d+)?|-?\d+( -?\d+)*|", knob.values), knob
        if knob.kind in ("choice", "choices", "level", "enum", "flags", "algorithms"):
            assert len(knob.choices) > 1, knob
        assert bool(knob.danger) == bool(knob.danger_when), knob


def test_the_replacement_of_a_setting_exists() -> None:
    for knob in ROWS:
        name = knob.instead.partition("=")[0]
        assert not name or name.endswith("*") or knobs.find(name), knob


@pytest.mark.parametrize("knob", [k for k in NCCL if k.default and k.kind != "text"], ids=lambda k: k.name)
def test_a_default_is_a_value_that_is_taken(knob: knobs.Knob) -> None:
    from commbench.lint import judge
    from commbench.lint.setting import Document, Setting

    setting = Setting(name=knob.name, value=knob.default, line=1, how="shell")
    said = judge(Document(path="x", how="shell", settings=[setting]), (2, 30, 7))
    assert [s.finding for s in said if s.finding.severity == "error"] == []


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("NCCL_ALGO", "2.5"), ("NCCL_MAX_CTAS", "2.17"), ("NCCL_PXN_DISABLE", "2.12"), ("NCCL_CUMEM_ENABLE", "2.18"),
        ("NCCL_IB_SPLIT_DATA_ON_QPS", "2.18"), ("NCCL_NETDEVS_POLICY", "2.28"), ("NCCL_CHECK_MODE", "2.29.7"),
    ],
)  # fmt: skip
def test_since_as_nvidia_writes_it(name: str, version: str) -> None:
    knob = knobs.find(name)
    assert knob is not None
    assert knob.since == version


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("NCCL_DEBG", "NCCL_DEBUG"),
        ("NCCL_IB_HAC", "NCCL_IB_HCA"),
        ("NCCL_SOCKET_IFNAMES", "NCCL_SOCKET_IFNAME"),
        ("NCCL_DISABLE_P2P", "NCCL_P2P_DISABLE"),
        ("NCCL_IB_GIDINDEX", "NCCL_IB_GID_INDEX"),
        ("NCCL_BUFSIZE", "NCCL_BUFFSIZE"),
        ("NCCL_AVOID_RECORD_STREAMS", "TORCH_NCCL_AVOID_RECORD_STREAMS"),
        ("OMPI_MCA_coll_tuned_allreduce_algoritm", "OMPI_MCA_coll_tuned_allreduce_algorithm"),
        ("MPIR_CVAR_ALLREDUCE_INTRA_ALGORTHM", "MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM"),
        ("TORCH_NCCL_BLOCKING_WIAT", "TORCH_NCCL_BLOCKING_WAIT"),
    ],
)
def test_a_slip_has_its_name(wrong: str, right: str) -> None:
    assert knobs.find(wrong) is None
    assert knobs.nearest(wrong) == right


@pytest.mark.parametrize(
    "name", ["NCCL_TIMEOUT", "NCCL_IB_ENABLE", "NCCL_MYPLUGIN_SPEED", "NCCL_P2P_CHUNKSIZE", "OMPI_MCA_foo_bar", "PATH"]
)
def test_what_only_looks_alike_is_not_called_a_slip(name: str) -> None:
    assert knobs.nearest(name) is None


def test_families() -> None:
    found = [knobs.find(name) for name in ("NCCL_FASTRAK_NUM_FLOWS", "UCX_RC_MLX5_TM_ENABLE", "PRTE_MCA_x_y")]
    assert [knob.name if knob else None for knob in found] == ["NCCL_FASTRAK_*", "UCX_RC_MLX5_*", "PRTE_MCA_*"]
    assert knobs.find("NCCL_FASTRAK_*") is not None
    assert knobs.find("NCCL_FAST") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2.18.5", (2, 18, 5)), ("v2.18.5-1", (2, 18, 5)), ("2.18.5+cuda12.1", (2, 18, 5)), ("21805", (2, 18, 5)),
        ("2708", (2, 7, 8)), ("2.23", (2, 23)), ("", None), ("two", None), ("2", None), ("2.18.x", None),
    ],
)  # fmt: skip
def test_versions(text: str, expected: tuple[int, ...] | None) -> None:
    assert knobs.version(text) == expected


@settings(max_examples=60, deadline=None)
@given(st.text("ABC_", max_size=8), st.text("ABC_", max_size=8))
def test_edits_are_a_distance(a: str, b: str) -> None:
    assert knobs.edits(a, b, 20) == knobs.edits(b, a, 20)
    assert (knobs.edits(a, b, 20) == 0) == (a == b)
    assert abs(len(a) - len(b)) <= knobs.edits(a, b, 20) <= max(len(a), len(b))
    assert knobs.edits(a, b, 1) == min(knobs.edits(a, b, 20), 2)
