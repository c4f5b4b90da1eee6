"""Reading shell and batch scripts, Dockerfiles and env files: what they set, and for whom. Nothing is run."""

import re
from collections.abc import Iterable, Iterator

from commbench.lint.setting import Document, Launch, Setting, is_name
from commbench.lint.words import BREAK, Word, logical, words

_ASSIGN = re.compile(r"([A-Za-z_]\w*)\+?=")
_INNER = re.compile(r"(?:--?[\w-]+=|-[ex]|Environment=)?([A-Z][A-Z]\w*)=")
_EXPAND = re.compile(r"\$\{?!?([A-Z][A-Z]\w+)")
_BATCH = re.compile(r"#(?:SBATCH|PBS|\$)\s+(.*)")
_SKIP = frozenset(["then", "do", "else", "{", "time", "exec", "nohup", "sudo", "command", "eval", "!", "builtin"])
_EXPORTS = frozenset(["export", "ENV", "ARG", "setenv", "declare", "typeset"])
_OPEN = frozenset(["if", "case", "for", "while", "until", "select"])
_SHUT = frozenset(["fi", "esac", "done"])
_LAUNCHERS = frozenset(
    (
        "mpirun", "mpiexec", "orterun", "prterun", "srun", "torchrun", "deepspeed", "accelerate", "horovodrun",
        "jsrun", "aprun",
    )
)  # fmt: skip
_STARTS = _LAUNCHERS | frozenset(
    ["python", "python3", "docker", "podman", "apptainer", "singularity", "enroot", "bash", "sh", "sbatch", "numactl"]
)
_HOSTS = frozenset(["-H", "-host", "--host", "-hostfile", "--hostfile", "-machinefile", "--machinefile"])
_OPENMPI = frozenset(
    ["-x", "--mca", "-mca", "--allow-run-as-root", "--map-by", "-map-by", "--bind-to", "-bind-to", "--tag-output"]
)
_MCA = {
    "--mca": "OMPI_MCA_",
    "-mca": "OMPI_MCA_",
    "--gmca": "OMPI_MCA_",
    "-gmca": "OMPI_MCA_",
    "--prtemca": "PRTE_MCA_",
}
_PAIRS = frozenset(["-genv", "-env", "--genv", "--env"])


class Reader:
    """Reads one script line by line; `document` grows. Text inside quotes that holds a command is read as one."""

    def __init__(self, document: Document, offset: int = 0) -> None:
        self.document = document
        self.offset = offset
        self.scope = self.epoch = 0
        self.depth = 0

    def read(self, lines: Iterable[str]) -> None:
        for number, text in logical(self._watched(lines)):
            self.line(text, number + self.offset)

    def _watched(self, lines: Iterable[str]) -> Iterator[str]:
        for number, line in enumerate(lines, 1):
            if line.endswith("\r\n") and not self.document.crlf:
                self.document.crlf = number + self.offset
            yield line

    def line(self, text: str, number: int, deep: int = 0) -> None:
        self.document.used.update(_EXPAND.findall(text))
        if (batch := _BATCH.match(text)) is not None:
            text = "batch " + batch[1]
        if text.rstrip().endswith(("() {", "(){")):
            self.depth += 1
        command: list[Word] = []
        for word in [*words(text, number), Word(BREAK, number, False, True)]:
            if word.text != BREAK or word.quoted:
                command.append(word)
            elif command:
                self.command(command, deep)
                command = []

    def command(self, given: list[Word], deep: int) -> None:
        """One simple command."""
        rest = list(given)
        while rest and (rest[0].text in _SKIP or rest[0].text in _OPEN or rest[0].text in _SHUT or rest[0].text == "}"):
            head = rest.pop(0).text
            self.depth += head in _OPEN
            self.depth -= (head in _SHUT or head == "}") and self.depth > 0
        assigned = []
        while rest and _ASSIGN.match(rest[0].text):
            assigned.append(rest.pop(0))
        if not rest:
            for word in assigned:
                self.assign(word, 0)
            self.inside(assigned, deep)
            return
        program = rest[0].text.rpartition("/")[2]
        if program in _EXPORTS or program == "batch":
            for word in assigned:
                self.assign(word, 0)
            (self.batch if program == "batch" else self.export)(program, rest[1:])
            self.inside(rest[1:], deep)
            return
        self.scope += 1
        if program in ("source", "."):
            self.document.sourced = True
        if program == "set" and any(w.text in ("-a", "allexport") for w in rest[1:]):
            self.document.all_exported = True
        if program == "unset":
            self.epoch += 1
        for word in assigned:
            self.assign(word, self.scope)
            self.document.exported.add(word.text.partition("=")[0])
        self.options(program, rest)
        self.inside(rest, deep)
        if program in _STARTS or "/" in rest[0].text or program.endswith("_perf") or rest[0].text.startswith("$"):
            self.document.starts = True
            self.epoch += 1

    def inside(self, given: list[Word], deep: int) -> None:
        """`bash -c "export A=1; ..."` and the like: a quoted word that holds a command of its own."""
        for word in given:
            if word.quoted and deep < 3 and re.search(r"[\s;]", word.text) and _INNER.search(word.text):
                bare = _ASSIGN.match(word.text)
                if bare and is_name(bare[1]):
                    continue  # NAME="a b": a value, not a command
                depth, self.depth = self.depth, self.depth + 1
                for at, text in enumerate(word.text.split("\n")):
                    self.line(text[bare.end() :] if bare and not at else text, word.line + at, deep + 1)
                self.depth = depth

    def export(self, program: str, given: list[Word]) -> None:
        """export A=1 B; declare -x A=1; setenv A 1; Docker's ENV A=1 and ENV A 1."""
        marked = any(word.text.startswith("-") and "x" in word.text for word in given)
        if program == "ARG":
            return  # for the build alone
        if program in ("declare", "typeset") and not marked:
            for word in given:
                self.assign(word, 0)
            return
        names = [word for word in given if not word.text.startswith("-")]
        if program in ("setenv", "ENV") and names and "=" not in names[0].text:
            value = names[1].value if len(names) == 2 else None
            self.set(names[0].text, value, names[0], 0)
            self.document.exported.add(names[0].text)
            return
        for word in names:
            self.document.exported.add(word.text.partition("=")[0])
            self.assign(word, 0)

    def batch(self, _: str, given: list[Word]) -> None:
        """#SBATCH --export=ALL,A=1"""
        self.scope += 1
        self.options("sbatch", given)

    def assign(self, word: Word, scope: int) -> None:
        match = _ASSIGN.match(word.text)
        if match and is_name(match[1]):
            self.set(match[1], word.after(match.end()).value, word, scope)

    def set(self, name: str, value: str | None, word: Word, scope: int) -> None:
        if not is_name(name):
            return
        self.document.settings.append(
            Setting(
                name=name, value=value, line=word.line, how=self.document.how, scope=scope, epoch=self.epoch,
                sure=self.depth == 0, quoted=word.quoted,
            )
        )  # fmt: skip

    def options(self, program: str, given: list[Word]) -> None:
        """What the arguments of a command set: -x A=1, -e A=1, --env A=1, -genv A 1, --mca a 1, --export=A=1."""
        forwarded, export = set(), None
        at = 0
        while at < len(given):
            word, follow = given[at], given[at + 1 : at + 3]
            text = word.text
            if text in _MCA and len(follow) == 2:
                self.set(_MCA[text] + follow[0].text, follow[1].value, follow[0], self.scope)
                at += 2
            elif text in _PAIRS and len(follow) == 2 and "=" not in follow[0].text:
                self.set(follow[0].text, follow[1].value, follow[0], self.scope)
                at += 2
            elif text == "-x" and follow:
                forwarded.add(follow[0].text.partition("=")[0])
            elif text.startswith("--export") and program in ("srun", "sbatch", ""):
                joined = "=" in text
                export = text.partition("=")[2] if joined else follow[0].text if follow else ""
                self._listed(word.after(len("--export=")) if joined else follow[0] if follow else word)
                at += not joined
            elif (match := _INNER.match(text)) and at:
                self.set(match[1], word.after(match.end()).value, word, self.scope)
                if text.startswith("-x"):
                    forwarded.add(match[1])
            at += 1
        if program in _LAUNCHERS or export is not None:
            have = {w.text.partition("=")[0] for w in given}
            openmpi = program in ("mpirun", "mpiexec", "orterun", "prterun") and bool(have & _OPENMPI)
            self.document.launches.append(
                Launch(
                    line=given[0].line if given else 0, program=program, forwarded=frozenset(forwarded),
                    hosts=bool(have & _HOSTS), openmpi=openmpi, export=export, scope=self.scope,
                )
            )  # fmt: skip

    def _listed(self, word: Word) -> None:
        """A=1,B=2: a comma ends a value, whatever was meant."""
        for part in word.text.split(","):
            name, equals, value = part.partition("=")
            if equals:
                self.set(name, None if "$" in value else value, word, self.scope)


def read(document: Document, lines: Iterable[str], offset: int = 0) -> None:
    """Adds what a script sets; lines are numbered from 1 + offset."""
    Reader(document, offset).read(lines)
