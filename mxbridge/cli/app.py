"""The command line: one file per command, each a thin twin of a task. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from mxbridge.cli import (
    batch,
    calibrate,
    console,
    demo,
    doctor,
    evaluate,
    importance,
    impute,
    inspect,
    models,
    publish,
    qc,
    qupath,
    report,
    score,
    train,
    translate,
)
from mxbridge.cli.process import finish_process, prepare_process
from mxbridge.errors import Interrupted, MxbridgeError, UsageError

USAGE_ERRORS = typer.BadParameter.__mro__[2]
"""The base of all complaints about options, of whichever click this typer brings along."""

app = typer.Typer(
    name="mxbridge",
    help="Marker models for whole slides: QuPath projects, OMERO and OME files in, scores back where people look at them.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command("score")(score.score)
app.command("impute")(impute.impute)
app.command("translate")(translate.translate)
app.command("evaluate")(evaluate.evaluate)
app.command("calibrate")(calibrate.calibrate)
app.command("qc")(qc.qc)
app.command("importance")(importance.importance)
app.command("report")(report.report)
app.command("publish")(publish.publish)
app.command("undo")(publish.undo)
app.command("inspect")(inspect.inspect)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.add_typer(batch.app, name="batch")
app.add_typer(train.app, name="train")
app.add_typer(models.app, name="models")
app.add_typer(qupath.app, name="qupath")


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop", is_eager=True)] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors; may stand anywhere")] = False,
) -> None:
    """``--debug`` is taken out by :func:`run`, so that it may stand behind a command as well; here it is only explained."""
    del debug
    if version:
        from importlib.metadata import version as installed

        console.out.print(f"mxbridge {installed('mxbridge')}")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with the codes of ``mxbridge.errors``."""
    console.prepare_streams()
    prepare_process()
    code = run(sys.argv[1:] if arguments is None else arguments)
    console.finish_streams()
    finish_process()
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command; the exit code. ``--debug`` may stand anywhere and shows tracebacks of expected errors too."""
    debug = "--debug" in arguments
    try:
        result = app([a for a in arguments if a != "--debug"], standalone_mode=False)
        code = result if isinstance(result, int) else 0
        return _interrupted() if code == Interrupted.exit_code else code  # typer's answer to Ctrl-C
    except MxbridgeError as error:
        return _fail(error, debug)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except USAGE_ERRORS as error:
        error.show()
        return UsageError.exit_code
    except SystemExit as stop:  # what click and rich make of a broken pipe
        cause = stop.__context__ or stop
        return 0 if _was_printing(cause) else _bug(cause)
    except Exception as error:
        return _bug(error)


def _interrupted() -> int:
    console.errors.print("interrupted: what is done is kept; run the same command again to go on")
    return Interrupted.exit_code


def _was_printing(error: BaseException) -> bool:
    """Whether a reader went away while a help text was written (``mxbridge --help | head -1``), before any command ran."""
    rooms = [str(f.f_globals.get("__name__")) for f, _ in traceback.walk_tb(error.__traceback__)]
    return isinstance(error, OSError) and not any(r.startswith("mxbridge.") and r != __name__ for r in rooms)


def _bug(error: BaseException) -> int:
    traceback.print_exception(error)
    console.errors.print("This is a bug in mxbridge: please report it with the lines above.", style="red")
    return 1


def _fail(error: MxbridgeError, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    console.errors.print("error:", style="red", end=" ")
    console.errors.print(console.shown(str(error)), markup=False)
    return error.exit_code
