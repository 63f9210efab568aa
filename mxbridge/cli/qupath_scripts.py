"""``mxbridge qupath install-scripts`` and ``uninstall-scripts``: the buttons in QuPath's menus."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mxbridge.cli import console, options
from mxbridge.errors import UsageError

if TYPE_CHECKING:
    from mxbridge.workspaces.qupath.scripts.install import Places, Script

Project = Annotated[Path | None, typer.Option("--project", help="QuPath project (.qpproj): buttons for this project")]
User = Annotated[bool, typer.Option("--user", help="Buttons for all your projects, in QuPath's user directory")]
UserDir = Annotated[
    Path | None, typer.Option("--user-dir", help="QuPath's user directory, where it is not found (implies --user)")
]


def install_scripts(
    project: Project = None,
    user: User = False,
    user_dir: UserDir = None,
    python: Annotated[
        Path | None, typer.Option("--python", metavar="FILE", help="The Python that has mxbridge (else this one)")
    ] = None,
    json: options.Json = False,
) -> None:
    """Put mxbridge's buttons into QuPath's menus; settings that you changed in them are kept."""
    from mxbridge.workspaces.qupath.scripts.install import install_scripts as install

    places, how = _places(project, user, user_dir)
    done = install(places, python)
    if json:
        document = {"folder": places.folder, "shared": places.shared, "python": done.python, "known": how}
        console.print_json({**document, "scripts": _rows(done.scripts), "warnings": list(done.warnings)})
        return
    from mxbridge.workspaces.qupath.scripts.sources import menu_name

    teller = console.make_progress("text", quiet=False, verbose=False)
    for warning in done.warnings:
        teller.warning(warning)
    for script in done.scripts:
        kept = f" (keeps your {', '.join(script.kept)})" if script.kept else ""
        console.out.print(f"{script.state}: {script.file}{kept}", markup=False)
    console.out.print(f"The buttons call {done.python}", markup=False)
    names = [menu_name(script.file.name) for script in done.buttons]
    first = next((name for name in names if "Score" in name), names[0])
    console.out.print(
        f"In QuPath: open the project, choose Automate > {places.menu} > {first} (there are {len(names)}), press Run. "
        "If the menu does not show it yet, open the project again.",
        markup=False,
    )


def uninstall_scripts(
    project: Project = None, user: User = False, user_dir: UserDir = None, json: options.Json = False
) -> None:
    """Take mxbridge's buttons out of QuPath's menus; scripts that you changed beyond their settings stay."""
    from mxbridge.workspaces.qupath.scripts.install import uninstall_scripts as uninstall

    places, how = _places(project, user, user_dir)
    done = uninstall(places)
    if json:
        console.print_json({"folder": places.folder, "shared": places.shared, "known": how, "scripts": _rows(done)})
        return
    for script in done:
        why = " (somebody changed it: delete it yourself if you do not need it)" if script.state == "left" else ""
        console.out.print(f"{script.state}: {script.file}{why}", markup=False)
    if not done:
        console.out.print(f"No buttons of mxbridge in {places.folder}", markup=False)


def _places(project: Path | None, user: bool, user_dir: Path | None) -> tuple[Places, str]:
    from mxbridge.workspaces.qupath.scripts.install import Places

    if (project is not None) == (user or user_dir is not None):
        raise UsageError(
            "say where the buttons are to be, once",
            hint="Either --project P, for one project, or --user, for all of yours",
        )
    return (Places.of_project(project), "") if project is not None else Places.of_user(user_dir)


def _rows(scripts: tuple[Script, ...]) -> list[dict[str, object]]:
    return [
        {"file": s.file, "state": s.state, "kept": list(s.kept), "backup": None if s.backup is None else str(s.backup)}
        for s in scripts
    ]
