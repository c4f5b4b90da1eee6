"""`commbench specs`: what is shipped, and where to copy it from."""

import click


@click.command("specs")
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List the shipped specs with their first comment line, or print the one called NAME."""
    from pathlib import Path

    from commbench.spec.document import find, shipped

    if name:
        click.echo(Path(find(name)).read_text(encoding="utf-8"), nl=False)
        return
    for known, path in sorted(shipped().items()):
        first = Path(path).read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        click.echo(f"{known:16} {first}")
