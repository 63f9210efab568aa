"""``mxbridge models``: list, show, add, fetch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mxbridge.cli import console, options

app = typer.Typer(help="Weights: what is here, what can be fetched, adding your own.", no_args_is_help=True)


@app.command("list")
def list_(json: options.Json = False) -> None:
    """What has a name, and where it is."""
    from mxbridge.models import catalogue

    entries = catalogue.list_models()
    if json:
        console.print_json([asdict(e) for e in entries])
        return
    rows = [(e.known_as, e.system, e.measures_as, e.source, f"{e.um_per_px:g}", (e.sha256 or "")[:12]) for e in entries]
    console.print_table(("name", "system", "measures as", "source", "µm/px", "sha256"), rows)
    if any(e.source == "not here" for e in entries):
        console.out.print("Not here: mxbridge models add FILE or FOLDER; nimbus also by mxbridge models fetch nimbus")


@app.command()
def show(name: str) -> None:
    """Everything known of one model, as JSON."""
    from mxbridge.models import catalogue

    console.print_json(catalogue.show(name))


@app.command()
def add(
    file: Annotated[
        Path,
        typer.Argument(
            help="Weights (.pt, .pth, .safetensors; a card FILE.json beside comes along), or a folder of DeepLIIF's"
        ),
    ],
    name: Annotated[str | None, typer.Option("--name", help="What to call it (else the file's stem)")] = None,
) -> None:
    """Take weights in, after opening them safely."""
    from mxbridge.models import catalogue

    added = catalogue.add(file, name)
    console.out.print(f"{added.known_as}: {added.path}\nsha256 {added.sha256}", markup=False)


@app.command()
def fetch(name: Annotated[str, typer.Argument(help="nimbus")] = "nimbus") -> None:
    """Download published weights; the sha256 is shown and pinned on first use."""
    from mxbridge.models import catalogue

    fetched = catalogue.fetch(name, say=lambda text: console.errors.print(text, markup=False))
    console.out.print(f"{fetched.known_as}: {fetched.path}\nsha256 {fetched.sha256}", markup=False)
