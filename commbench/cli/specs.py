"""`commbench specs`: what is shipped, and where to copy it from."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from commbench.spec.document import Kind


@click.command("specs")
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List the shipped specs and lab topologies with their first comment line, or print the one called NAME."""
    from pathlib import Path

    from commbench.spec.document import ACCEPTANCE, SPEC, TOPOLOGY, TUNING, find, shipped

    if name:
        kind = next((one for one in (SPEC, TOPOLOGY, TUNING, ACCEPTANCE) if name in shipped(one)), SPEC)
        click.echo(Path(find(name, kind)).read_text(encoding="utf-8"), nl=False)
        return
    click.echo("specs, for commbench sweep SPEC")
    _list(SPEC)
    click.echo("\nlab topologies, for commbench sweep SPEC --lab TOPOLOGY and commbench lab run TOPOLOGY")
    _list(TOPOLOGY)
    click.echo("\nfor commbench tune SPEC, and those of a model for commbench train SPEC")
    _list(TUNING)
    click.echo("\nfor commbench accept SPEC")
    _list(ACCEPTANCE)


def _list(kind: "Kind") -> None:
    from commbench.spec.document import shipped

    for known, path in sorted(shipped(kind).items()):
        first = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        click.echo(f"  {known:16} {first}")
