"""The house rules, read from the source: imports run downward, heavy libraries stay in their files."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "commbench"

# Each floor may import from its own and from those below it. A room is a module or a package; of two rooms
# that fit, the longer name counts. `world` and `backends` have a ground floor of their own: the protocols,
# which everything that measures speaks.
FLOORS: list[tuple[str, ...]] = [
    ("errors", "units"),
    ("layouts", "matchings", "collectives", "allowlist"),
    ("records", "knobs", "world", "world.protocol", "world.discover", "backends", "backends.base"),
    ("stats", "store", "model", "readers", "lint", "reference"),
    ("spec", "report", "tune", "emit", "accept", "traps", "lab.addresses"),
    (
        "world.join",
        "world.mpi",
        "world.rollcall",
        "world.single",
        "world.torch",
        "backends.mpi",
        "backends.simulated",
        "backends.torchdist",
    ),
    ("measure", "lab", "training"),
    ("jobs",),
    ("cli", "__main__"),
]
FLOOR_OF = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}

# Only here; everybody else goes through these files.
HEAVY = {
    "torch": {"backends.torchdist", "world.torch", "training.job", "training.models"},
    "mpi4py": {"backends.mpi", "world.mpi"},
}


class Import(NamedTuple):
    importer: str  # module without `commbench.`; "" is the package itself
    target: str
    line: int
    lazy: bool  # inside a function or under TYPE_CHECKING: not while modules load


@cache
def sources() -> dict[str, ast.Module]:
    """Every module of the package by its name without `commbench.`."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text())
    return found


def walk(node: ast.AST, lazy: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes below, and whether they run later than the module's loading."""
    for child in ast.iter_child_nodes(node):
        inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            inside = True
        yield child, inside
        yield from walk(child, inside)


def imported(node: ast.AST) -> list[str]:
    """Full names of what an import statement may load."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert not node.level, "relative imports hide where things come from"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def resolve(name: str) -> str | None:
    """The module of the package that a full name lies in; None for other packages."""
    if name.split(".")[0] != "commbench":
        return None
    inside = name.split(".")[1:]
    while inside and ".".join(inside) not in sources():
        inside.pop()
    return ".".join(inside)


@cache
def imports() -> list[Import]:
    """Every import of a module of this package by another."""
    return [
        Import(importer, target, getattr(node, "lineno", 0), lazy)
        for importer, tree in sources().items()
        for node, lazy in walk(tree)
        for name in imported(node)
        if (target := resolve(name)) is not None and target != importer
    ]


def room(module: str) -> str:
    parts = module.split(".")
    while parts and ".".join(parts) not in FLOOR_OF:
        parts.pop()
    return ".".join(parts)


def calls(module: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a module with the dotted name of what is called."""
    for node in ast.walk(sources()[module]):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_there_is_something_to_read() -> None:
    assert len(sources()) > 30
    arrows = {(room(one.importer), room(one.target)) for one in imports()}
    assert {("cli", "jobs"), ("jobs", "measure"), ("measure", "stats"), ("stats", "records")} <= arrows


def test_every_module_has_a_floor() -> None:
    assert [module for module in sources() if module and room(module) not in FLOOR_OF] == []
    assert [room for room in FLOOR_OF if room not in sources()] == []


def test_imports_run_downward() -> None:
    upward = [
        f"commbench.{one.importer}:{one.line}: {room(one.importer)} -> {room(one.target)} ({one.target})"
        for one in imports()
        if one.target and FLOOR_OF[room(one.importer)] < FLOOR_OF[room(one.target)]
    ]
    assert not upward, "\n".join(upward)


def test_every_import_names_a_module_that_exists() -> None:
    """Also those for the type checker alone, which nobody runs."""
    missing = [
        f"commbench.{importer}:{node.lineno}: {node.module}"
        for importer, tree in sources().items()
        for node, _ in walk(tree)
        if isinstance(node, ast.ImportFrom)
        and (module := node.module or "").split(".")[0] == "commbench"
        and module.partition(".")[2] not in sources()
    ]
    assert not missing, "\n".join(missing)


def test_no_circles_while_modules_load() -> None:
    graph: dict[str, set[str]] = {module: set() for module in sources()}
    for one in imports():
        if not one.lazy:
            graph[one.importer].add(one.target)
            # a package's __init__ runs before what is in it
            parents = one.target.split(".")[:-1]
            graph[one.importer] |= {".".join(parents[:k]) for k in range(1, len(parents) + 1)}
    for module, targets in graph.items():
        targets -= {module, *(".".join(module.split(".")[:k]) for k in range(len(module.split("."))))}
    state: dict[str, int] = {}
    circles = []

    def visit(module: str, path: tuple[str, ...]) -> None:
        if state.get(module) == 1:
            circles.append(" -> ".join((*path[path.index(module) :], module)))
        elif module not in state:
            state[module] = 1
            for target in sorted(graph[module]):
                visit(target, (*path, module))
            state[module] = 2

    for module in sorted(graph):
        visit(module, ())
    assert not circles, "\n".join(circles)


@pytest.mark.parametrize("library", HEAVY)
def test_heavy_libraries_stay_in_their_files(library: str) -> None:
    found = {
        module
        for module, tree in sources().items()
        for node, _ in walk(tree)
        for name in imported(node)
        if name.split(".")[0] == library
    }
    assert found == HEAVY[library]


# Programs of their own beside the command line: what they are started for is to print and to exit.
PROGRAMS = {"lab.agent", "lab.keeper", "lab.stream"}
PRINTS = {"print", "pprint", "sys.stdout.write", "sys.stderr.write", "click.echo", "click.secho"}
# An uncaught error ends the job from the roll call, by os._exit: the command line never gets to print it.
MAY_PRINT = {"jobs.inside: traceback.print_exc"}
EXITS = {"sys.exit", "exit", "quit", "SystemExit"}
CLOCKS = {
    "time.time",
    "time.time_ns",
    "time.ctime",
    "time.localtime",
    "time.gmtime",
    "time.asctime",
    "time.strftime",
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "date.today",
    "datetime.datetime.now",
    "datetime.datetime.utcnow",
    "datetime.date.today",
}


@pytest.mark.parametrize(("what", "names"), [("prints", PRINTS), ("exits", EXITS), ("reads the time of day", CLOCKS)])
def test_nothing_below_the_command_line(what: str, names: set[str]) -> None:
    found = [
        f"commbench.{module}:{call.lineno}: {name}"
        for module in sources()
        if room(module) not in ("cli", "__main__") and module not in PROGRAMS
        for name, call in calls(module)
        if (name in names or (what == "prints" and name.startswith("traceback.print")))
        and f"{module}: {name}" not in MAY_PRINT
    ]
    assert not found, f"{what}:\n" + "\n".join(found)


def test_nothing_below_the_command_line_gets_hold_of_the_clock_under_another_name() -> None:
    bare = {
        "time.time",
        "time.time_ns",
        "time.localtime",
        "time.gmtime",
        "datetime.datetime",
        "datetime.date",
        "datetime",
    }
    found = [
        f"commbench.{module}:{getattr(node, 'lineno', 0)}: {name}"
        for module, tree in sources().items()
        if room(module) != "cli"
        for node, _ in walk(tree)
        for name in imported(node)
        if name in bare
    ]
    assert not found, "\n".join(found)


DANGEROUS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "yaml.load_all",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
}
PICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}


def test_no_pickle() -> None:
    found = [
        f"commbench.{module}:{getattr(node, 'lineno', 0)}: {name}"
        for module, tree in sources().items()
        for node, _ in walk(tree)
        for name in imported(node)
        if name.split(".")[0] in PICKLING
    ]
    # torch's and numpy's own ways to unpickle what comes over the wire or from a file
    found += [
        f"commbench.{module}:{call.lineno}: {name}"
        for module in sources()
        for name, call in calls(module)
        if name.split(".")[-1].endswith("_object") or name in ("torch.load", "torch.save", "np.load", "np.save")
    ]
    assert not found, "\n".join(found)


def test_nothing_runs_text() -> None:
    found = [
        f"commbench.{module}:{call.lineno}: {name}"
        for module in sources()
        for name, call in calls(module)
        if name in DANGEROUS
        or any(word.arg == "shell" and ast.unparse(word.value) != "False" for word in call.keywords)
    ]
    assert not found, "\n".join(found)


def test_files_are_short() -> None:
    long = {
        str(path.relative_to(PACKAGE.parent)): lines
        for path in sorted(PACKAGE.rglob("*.py"))
        if (lines := len(path.read_text().splitlines())) > 400
    }
    assert long == {}


def test_functions_are_short() -> None:
    long = {
        f"commbench.{module}.{node.name}": lines
        for module, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > 60
    }
    assert long == {}


def test_every_function_says_its_types() -> None:
    untyped = [
        f"commbench.{module}.{node.name}:{node.lineno}"
        for module, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (
            node.returns is None
            or any(
                argument.annotation is None
                for argument in (*node.args.args, *node.args.kwonlyargs)
                if argument.arg not in ("self", "cls")
            )
        )
    ]
    assert untyped == []
