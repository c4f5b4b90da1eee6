"""The words: commands in them parse, specs in them load, what they point at exists, and nothing is left out."""

import json
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import get_args

import click
import pytest
from click.testing import CliRunner

from commbench import __version__, store
from commbench.backends.base import BACKENDS
from commbench.cli import COMMANDS, export, group
from commbench.collectives import COLLECTIVES, DTYPES, REDOPS
from commbench.jobs import query
from commbench.layouts import NAMES
from commbench.measure import launch, loop
from commbench.readers import MODULES
from commbench.records import Part
from commbench.records.measurement import Kind
from commbench.report import table
from commbench.spec import Stop, SweepSpec, Warmup, guess, load, topology
from commbench.spec.document import TOPOLOGY, shipped
from commbench.spec.sweep import AXES, REST
from commbench.spec.values import SETTINGS
from commbench.stats.rows import rows
from commbench.stats.spread import spread
from commbench.world import rollcall

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LAB = (ROOT / "docs/lab.md").read_text(encoding="utf-8")
METHOD = (ROOT / "docs/method.md").read_text(encoding="utf-8")
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for room in ("docs", "results", "benchmarks") for page in (ROOT / room).glob("*.md"))]
)
EXAMPLES = sorted((ROOT / "results").glob("example-*"))
# Options of the programs around commbench.
FOREIGN = {
    "--nproc-per-node",
    "--bind-to",
    "--mpi",
    "--allow-run-as-root",
    "--mca",
    "--export",
    "--ddp-bucket-size",
    "--overlap-grad-reduce",
    "--repeats",
}
# Sessions: commands with what they print. They are run.
SESSIONS = [ROOT / "README.md", ROOT / "docs/import.md"]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(text: str, language: str) -> list[str]:
    """What stands between fences of this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M)


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)


def quoted(text: str) -> list[str]:
    """Inline code."""
    return [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", prose(text))]


def command(verb: str) -> click.Command:
    with click.Context(group) as context:
        found = group.get_command(context, verb)
    assert found is not None
    return found


def options(verb: click.Command) -> set[str]:
    """Of a command and of those below it."""
    below = verb.commands.values() if isinstance(verb, click.Group) else ()
    return {opt for param in verb.params for opt in param.opts}.union(*map(options, below))


def commands() -> Iterator[tuple[str, str]]:
    """(where, line) of every command line in the pages and in the comments of the shipped specs."""
    for page in PAGES:
        for block in blocks(page.read_text(encoding="utf-8"), "sh"):
            yield from ((name(page), line) for line in block.splitlines() if "commbench" in line)
    for path in shipped().values():
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.match(r"#  +(mpirun|torchrun|srun|commbench) ", line):
                # Two blanks part the command from the remark behind it.
                yield name(path), re.split(r"\s{2,}", line.lstrip("# "))[0]


COMMAND_LINES = sorted(set(commands()))


def split(line: str) -> tuple[list[str], str, list[str]]:
    """(the launcher's words, commbench's command, its arguments)."""
    words = shlex.split(line, comments=True)
    at = words.index("commbench")
    return words[:at], words[at + 1], words[at + 2 :]


# ---- commands and options ---------------------------------------------------------------------------------


def test_every_command_is_in_the_readme() -> None:
    assert [verb for verb in COMMANDS if f"commbench {verb}" not in README] == []


def test_every_option_is_in_the_readme_or_explains_itself() -> None:
    """Those of sweep that do more than choose an output."""
    known = {max(p.opts, key=len) for p in command("sweep").params if isinstance(p, click.Option) and not p.hidden}
    assert {option for option in known if option not in README} <= {"--seed", "--quiet"}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_option_that_is_named_exists(page: Path) -> None:
    known = {opt for verb in COMMANDS for opt in options(command(verb))} | FOREIGN
    if page.parent.name == "benchmarks":
        known |= set(re.findall(r'"(--[\w-]+)"', "".join(p.read_text("utf-8") for p in page.parent.glob("*.py"))))
    for script in re.findall(r"python (benchmarks/\w+(?:\.py)?)", page.read_text(encoding="utf-8")):
        path = ROOT / script / "__main__.py" if (ROOT / script).is_dir() else ROOT / script
        known |= set(re.findall(r'"(--[\w-]+)"', path.read_text(encoding="utf-8")))
    if page.name == "CONTRIBUTING.md":
        known |= set(re.findall(r'addoption\("(--[\w-]+)"', (ROOT / "tests/conftest.py").read_text(encoding="utf-8")))
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w<!-])--[a-z][a-z-]*", "\n".join([prose(text), *blocks(text, "sh")])))
    assert named - known - {"--help"} == set()


@pytest.mark.parametrize(("where", "line"), COMMAND_LINES)
def test_a_command_line_is_accepted(where: str, line: str) -> None:
    if line.startswith("pip "):
        assert re.fullmatch(r"pip install '?commbench(\[mpi\])?'?\s*(#.*)?", line)
        return
    launcher, verb, arguments = split(line)
    if isinstance(found := command(verb), click.Group):
        below = found.commands[arguments[0]]
        topology = below.make_context(arguments[0], arguments[1:]).params.get("topology")
        assert topology is None or topology.endswith(".yaml") or topology in shipped(TOPOLOGY)
        return
    parsed = command(verb).make_context(verb, list(arguments)).params
    if verb == "sweep" and not str(parsed["spec"]).endswith(".yaml"):
        spec = load(parsed["spec"], parsed["overrides"])
        counts = [int(words[1]) for words in pairwise(launcher) if words[0] in ("-n", "--nproc-per-node")]
        assert guess(spec, parsed["ranks"] or (counts or [2])[0])
        assert spec.launches == 1 or parsed["ranks"], "launches need -n"


@pytest.mark.parametrize("page", SESSIONS, ids=name)
def test_a_session_prints_what_its_page_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of three dots in the page stands for any number of lines."""
    for room in ("docs", "results"):
        (tmp_path / room).symlink_to(ROOT / room)
    monkeypatch.chdir(tmp_path)
    text = "".join(blocks(page.read_text(encoding="utf-8"), "console"))
    steps = re.findall(r"^\$ (commbench .*)\n((?:(?!\$ ).*\n)*)", text, re.M)
    assert steps
    for line, said in steps:
        printed = CliRunner().invoke(group, [split(line)[1], *split(line)[2]]).output
        assert re.fullmatch(re.escape(said).replace(re.escape("...\n"), r"(?:.*\n)*?"), printed), f"{line}\n{printed}"


def test_every_way_to_start_is_in_the_readme() -> None:
    assert {*launch.LAUNCHERS, "commbench"} <= {
        line.split()[0] for where, line in COMMAND_LINES if where == "README.md"
    }


def test_the_two_commands_are_targets_of_make() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"make ([a-z]+)", "".join(blocks(README, "sh")))
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)


def test_the_exit_codes_are_explained() -> None:
    assert re.findall(r"^\| (\d) \| \S", README, re.M) == ["0", "1", "2", "3", "4"]


# ---- specs ------------------------------------------------------------------------------------------------


def test_the_specs_in_the_readme_are_valid(tmp_path: Path) -> None:
    written = blocks(README, "ya?ml")
    assert written
    for text in written:
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        assert guess(load(str(path)), 4)


@pytest.mark.parametrize("spec", sorted(shipped()))
def test_a_shipped_spec_loads_and_is_in_the_readme(spec: str) -> None:
    loaded = load(spec)
    assert loaded.name == spec
    assert guess(loaded, 8)
    assert f"| `{spec}` |" in README
    assert spec in CliRunner().invoke(group, ["specs"]).output
    assert CliRunner().invoke(group, ["specs", spec]).output == shipped()[spec].read_text(encoding="utf-8")


def test_everything_that_a_spec_may_say_is_in_the_readme() -> None:
    words = set(re.findall(r"\w+", README))
    values = {*COLLECTIVES, *DTYPES, *REDOPS, *NAMES, *BACKENDS, *SETTINGS}
    assert {*AXES, *REST, *Stop.__struct_fields__, *values, "cases", "as_given", "alone"} - words == set()


def test_the_defaults_in_the_readme() -> None:
    stop, spec = Stop(), SweepSpec(name="x", source="", cases=())
    said = (
        f"ci {stop.ci:.0%}, confidence {stop.confidence:.0%}, max_time {stop.max_time:g}s, "
        f"min_samples {stop.min_samples}, max_samples {stop.max_samples} |"
    )
    assert said in README
    assert f"| max_time {Warmup().max_time:g}s, {spec.deadline:g}s |" in README
    assert f"| {spec.launches}, {spec.order}, {spec.seed} |" in README
    assert f"`min_samples` ({stop.min_samples}) to `max_samples` ({stop.max_samples})" in re.sub(r"\s+", " ", METHOD)


# ---- files of other tools ---------------------------------------------------------------------------------


def test_everything_that_is_read_and_asked_is_in_the_page_of_import() -> None:
    text = (ROOT / "docs/import.md").read_text(encoding="utf-8")
    known = {part.__name__ for part in get_args(Part)} | set(query._TABLES) | set(export._FORMS) | set(get_args(Kind))
    assert {word for word in known if f"`{word}`" not in text} == set()
    assert text.count("\n|", text.index("## What is read"), text.index("## What a run becomes")) == 2 + len(MODULES)


# ---- the lab ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(shipped(TOPOLOGY)))
def test_a_shipped_topology_loads_and_is_in_its_page(name: str) -> None:
    assert topology.load(name).fabric.name == name
    assert f"| `{name}` |" in LAB
    assert name in CliRunner().invoke(group, ["specs"]).output
    assert CliRunner().invoke(group, ["specs", name]).output == shipped(TOPOLOGY)[name].read_text(encoding="utf-8")


def test_topologies_in_the_page_are_valid(tmp_path: Path) -> None:
    written = blocks(LAB, "ya?ml")
    assert written
    for text in written:
        (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
        assert topology.load(str(tmp_path / "mine.yaml")).fabric.links


def test_every_command_and_fault_of_the_lab_is_in_its_page() -> None:
    found = command("lab")
    assert isinstance(found, click.Group)
    assert [verb for verb in found.commands if f"commbench lab {verb}" not in LAB] == []
    assert [kind for kind in topology.FAULTS if not re.search(rf"^\|.*`{kind} ", LAB, re.M)] == []


# ---- what the words point at ------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    heads = re.findall(r"^#+ (.*)$", prose(page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8"))):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_are_named_exist(page: Path) -> None:
    named = [word for text in quoted(page.read_text(encoding="utf-8")) for word in text.split()]
    paths = [
        word for word in named if re.fullmatch(r"(?:commbench|tests|docs|sweeps|benchmarks|results)/[\w./-]+", word)
    ]
    assert [
        path
        for path in paths
        if "NAME" not in path and not path.startswith("results/mine") and not (ROOT / path).exists()
    ] == []


def test_every_room_is_in_the_architecture() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rooms = {
        path.stem for path in (ROOT / "commbench").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert {room for room in rooms - {"__init__"} if not re.search(rf"\b{room}\b", text)} == set()


def test_every_weakness_has_its_answer() -> None:
    assert re.findall(r"^\*\*W(\d+)\.", METHOD, re.M) == [str(k) for k in range(1, 12)]


def test_the_method_names_the_numbers_of_the_code() -> None:
    text = re.sub(r"\s+", " ", METHOD)
    for said in (
        f"{loop._STEADY:.0%} faster".replace("%", " %"),
        f"{1 / loop._CLOCK_SHARE:.0f} readings of the clock and {loop._MIN_SAMPLE * 1e6:.0f} us",
        f"at least {loop._PIPELINE} calls",
        f"longer than {loop._PIPELINE_TIME * 1e3:.0f} ms; at most {loop._MAX_CALLS:,}",
        f"the others have {loop._WINDOW} samples",
        f"{loop._SLOWEST_BANDWIDTH / 1e6:.0f} MB/s + {loop._PATIENCE:.0f} times",
        f"does not answer within {rollcall._ANSWER:.0f} s",
        f"find out {rollcall._LATER:.0f} s later",
        f"do not meet within {rollcall._TROUBLE:.0f} s",
    ):
        assert said in text


def test_the_changelog_has_this_version() -> None:
    assert f"## [{__version__}] - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_licence_is_the_one_that_is_declared() -> None:
    assert "Apache-2.0" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


# ---- example runs -----------------------------------------------------------------------------------------


def test_there_is_an_example_run() -> None:
    assert "example-quick" in {path.name for path in EXAMPLES}


@pytest.mark.parametrize("folder", EXAMPLES, ids=name)
def test_an_example_run_loads_and_is_shown(folder: Path) -> None:
    run, measurements = store.load(folder)
    found = rows(measurements, run.spec["stop"]["confidence"])
    assert found
    assert {row.status for row in found} <= {"ok", "skipped"}
    lines = list(table.table(run, found, spread(found)))
    assert lines[-1].startswith(f"# {len(found)} rows:")
    assert len(json.loads(table.as_json(run, found))["rows"]) == len(found)
    assert any(folder.name in page.read_text(encoding="utf-8") for page in PAGES)


def test_the_table_in_the_readme_is_that_of_the_example() -> None:
    shown = CliRunner().invoke(group, ["show", str(ROOT / "results/example-quick")]).output
    (block,) = re.findall(r"<!-- table:begin -->\n```(?:text)?\n(.*?)\n```\n<!-- table:end -->", README, re.S)
    assert block.strip("\n") == shown.strip("\n")


def test_the_markers_are_in_the_readme() -> None:
    marks = re.findall(r"<!-- (\w+:\w+) -->", README)
    assert marks == ["table:begin", "table:end", "figures:begin", "figures:end"]
