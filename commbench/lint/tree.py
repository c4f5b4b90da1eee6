"""Reading YAML and JSON: maps and Kubernetes lists of variables, and the scripts and arguments inside strings."""

import re
from collections.abc import Iterator
from typing import Any

from commbench.lint import shell
from commbench.lint.setting import Document, Setting, is_name

_COMMAND = re.compile(r"(?:^|[\s;])(?:export |-[xe] ?|--mca |env )?[A-Z][A-Z]+_\w+=|--mca |--export")
_DEEP = 100


class Unreadable(Exception):
    """It is not YAML or JSON after all (templates, tabs, too deep)."""


def read(document: Document, text: str) -> None:
    """Adds what the file sets.

    Raises:
        Unreadable: the text does not parse.
    """
    import yaml  # 20 ms, and most files are scripts

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        depth = 0
        for event in yaml.parse(text, Loader=loader):  # composing recurses in C, and would end the process
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEP:
                raise Unreadable(f"nested more than {_DEEP} deep")
        roots = list(yaml.compose_all(text, Loader=loader))
        nodes = list(_nodes(roots))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise Unreadable(str(error)) from None
    for node in nodes:
        _node(document, node, yaml)


def _nodes(roots: list[Any]) -> Iterator[Any]:
    """Every node once: an alias is the node it names, so a bomb of aliases costs nothing."""
    seen, todo = set(), [root for root in reversed(roots) if root is not None]
    while todo:
        node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        value = node.value
        if isinstance(value, list):
            for part in reversed(value):
                todo.extend(reversed(part) if isinstance(part, tuple) else [part])


def _node(document: Document, node: Any, yaml: Any) -> None:
    scope = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode) and is_name(key.value):
                _set(document, key.value, value, key.start_mark.line + 1, scope, True)
    elif isinstance(node, yaml.SequenceNode):
        _sequence(document, node, scope, yaml)
    elif isinstance(node, yaml.ScalarNode) and "\n" in node.value.strip() and _COMMAND.search(node.value):
        block = node.style in ("|", ">")
        shell.read(document, node.value.splitlines(keepends=True), node.start_mark.line + (1 if block else 0))
    elif isinstance(node, yaml.ScalarNode) and " " in node.value and _COMMAND.search(node.value):
        shell.read(document, [node.value], node.start_mark.line)


def _sequence(document: Document, node: Any, scope: int, yaml: Any) -> None:
    """- name: A / value: "1" (Kubernetes), - A=1 (compose), ["-x", "A=1"] and ["--mca", "a", "1"] (arguments)."""
    before: list[str] = []
    for item in node.value:
        if isinstance(item, yaml.MappingNode):
            found = {k.value: v for k, v in item.value if isinstance(k, yaml.ScalarNode)}
            name, value = found.get("name"), found.get("value")
            if isinstance(name, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode) and is_name(name.value):
                text = value.tag == "tag:yaml.org,2002:str"
                _set(document, name.value, value, name.start_mark.line + 1, scope, text)
        elif isinstance(item, yaml.ScalarNode):
            name_, equals, text_ = item.value.partition("=")
            line = item.start_mark.line + 1
            if equals and is_name(name_):
                document.settings.append(
                    Setting(name=name_, value=_known(text_), line=line, how=document.how, scope=scope)
                )
            elif len(before) > 1 and before[-2] in ("--mca", "-mca", "-gmca") and is_name("OMPI_MCA_" + before[-1]):
                mca = "OMPI_MCA_" + before[-1]
                document.settings.append(
                    Setting(name=mca, value=_known(item.value), line=line, how=document.how, scope=scope)
                )
            before.append(item.value)


def _set(document: Document, name: str, value: Any, line: int, scope: int, text: bool) -> None:
    if value.tag == "tag:yaml.org,2002:null":
        return
    document.settings.append(
        Setting(name=name, value=_known(value.value), line=line, how=document.how, scope=scope, text=text)
    )


def _known(value: str) -> str | None:
    return None if "$" in value or "{{" in value else value
