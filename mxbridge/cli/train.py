"""``mxbridge train nimbus`` and ``mxbridge train maxim`` (see ``cli/train_maxim.py``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mxbridge.cli import console, options
from mxbridge.cli.process import keep_freed_memory
from mxbridge.cli.train_maxim import train_maxim
from mxbridge.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mxbridge.models.card import ModelCard
    from mxbridge.progress import Progress
    from mxbridge.training.loop import Moment

NETWORK = "Network"
TRAINING = "Training"

app = typer.Typer(help="Train a model: nimbus (demonstration network) or maxim (imputation).", no_args_is_help=True)
app.command("maxim")(train_maxim)


@app.command("nimbus")
def train_nimbus(
    out: Annotated[
        Path, typer.Option("--out", help="Weights to write (.safetensors), card beside", rich_help_panel=options.OUTPUT)
    ],
    demo: Annotated[
        bool, typer.Option("--demo", help="Train on simulated tissue, as the embedded weights were")
    ] = False,
    seed: Annotated[
        int, typer.Option("--seed", help="Of the first weights and the tissue", min=0, max=8, rich_help_panel=TRAINING)
    ] = 1,
    steps: Annotated[
        int, typer.Option("--steps", help="Batches to learn from", min=1, max=1_000_000, rich_help_panel=TRAINING)
    ] = 3200,
    batch: Annotated[
        int, typer.Option("--batch", help="Patches of 96 x 96 pixels per step", min=1, rich_help_panel=TRAINING)
    ] = 16,
    width: Annotated[
        int, typer.Option("--width", help="Filters of the first level", min=1, rich_help_panel=NETWORK)
    ] = 8,
    depth: Annotated[int, typer.Option("--depth", help="Levels", min=1, max=6, rich_help_panel=NETWORK)] = 4,
    device: Annotated[
        str, typer.Option("--device", help="auto (CUDA where there is one), cpu, cuda or cuda:N, mps")
    ] = "auto",
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint", help="Written every 200 steps (else OUT.checkpoint)", rich_help_panel=options.OUTPUT
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--restart", help="Go on from the checkpoint, or start anew", rich_help_panel=options.OUTPUT
        ),
    ] = True,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    progress: options.ProgressOption = options.ProgressKind.text,
) -> None:
    """Train the demonstration network of cell scoring, on simulated tissue (train nimbus --demo)."""
    if not demo:
        raise UsageError(
            "training nimbus on your own images is not possible yet",
            hint="`mxbridge train nimbus --demo` trains on simulated tissue; `mxbridge models add` takes weights trained elsewhere",
        )
    from mxbridge.training.nimbus import train_demo

    teller = console.make_progress(progress.value, quiet=quiet, verbose=verbose)
    keep_freed_memory()
    card = train_demo(
        out,
        seed=seed,
        steps=steps,
        width=width,
        depth=depth,
        batch=batch,
        device=device,
        checkpoint=checkpoint or out.with_name(f"{out.name}.checkpoint"),
        restart=not resume,
        progress=_tell(teller),
    )
    _say_result(out, card, json)


def _tell(teller: Progress) -> Callable[[Moment], None]:
    begun = False

    def tell(moment: Moment) -> None:
        nonlocal begun
        if not begun:  # a training that is refused has not begun
            teller.note("training on simulated tissue; no real image is seen")
            begun = True
        teller.step("training", moment.step, moment.steps)
        if moment.score is not None:
            teller.note(f"step {moment.step}: loss {moment.loss:.3f}, macro-F1 on held-out fields {moment.score:.3f}")

    return tell


def _say_result(out: Path, card: ModelCard, as_json: bool) -> None:
    if as_json:
        console.print_json({"weights": out.resolve(), "card": vars(card)})
        return
    rows = [
        (name, figures["macro_f1"], figures["macro_f1_best_intensity_threshold"], figures["auroc"])
        for name, figures in card.metrics.items()
        if isinstance(figures, dict) and "macro_f1" in figures
    ]
    console.print_table(("simulated", "macro-F1 at 0.5", "best intensity threshold", "AUROC"), rows)
    console.out.print(f"Weights and card: {out.resolve()}", markup=False)
    console.out.print(f"Score with them:  mxbridge score --model {out} ...", markup=False)
