"""Opening the models of ``impute``, ``evaluate``, ``qc`` and ``importance``: with their card, or a bare published checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mxbridge.errors import ModelError, UsageError
from mxbridge.models import catalogue
from mxbridge.models.card import read_card
from mxbridge.models.maxim import SYSTEM, Maxim, load_checkpoint

COMPAT = ("maxim",)


def open_imputation_models(
    names: Sequence[str],
    *,
    compat: str | None = None,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    um_per_px: float | None = None,
) -> list[tuple[Path, Maxim]]:
    """The models and their files, in the order named. Raises ModelError, UsageError.

    inputs, outputs, um_per_px: panel and scale of a checkpoint without a card, which is only read under ``compat``; there the
    image's own scale is used, so um_per_px may be left out.
    """
    if not names:
        raise UsageError("no model was named", hint="Give one with --model FILE; `mxbridge train maxim` makes one")
    if compat is not None and compat not in COMPAT:
        raise UsageError(f"--compat {compat} is not known", hint=f"There is: {', '.join(COMPAT)}")
    if inputs and compat is None:
        raise UsageError("--inputs goes with --compat maxim", hint="A model with a card knows its inputs")
    opened = []
    for name in dict.fromkeys(names):
        path = Path(name)
        if compat and path.is_file() and read_card(path) is None:
            if not inputs or not outputs:
                raise UsageError(
                    f"{path} does not say which markers it was trained with",
                    hint="Name them in their order: --inputs DAPI,CD4,... --marker KI67",
                )
            opened.append((path, load_checkpoint(path, inputs, outputs, um_per_px or 1.0)))
            continue
        found = catalogue.resolve(name)
        if found.card.system != SYSTEM:  # what has no card counts as Nimbus, and is not even opened
            known = read_card(found.path)
            what = f"is a model of the system {known.system}, which" if known else "has no model card and"
            raise ModelError(
                f"{found.path} {what} imputes no markers",
                hint="Give one that `mxbridge train maxim` has made; a bare checkpoint.pt needs --compat maxim --inputs A,B,...",
            )
        if inputs:
            raise UsageError(f"{found.path} has a card, which names its inputs", hint="Leave --inputs away")
        opened.append((found.path, catalogue.open_model(found)))
    return opened


def labels_of(models: Sequence[tuple[Path, Maxim]]) -> list[str]:
    """A name for each model that no other has: its own, with the file's where several share it."""
    shared = Counter(model.name for _, model in models)
    labels = [model.name if shared[model.name] == 1 else f"{model.name} {path.stem}" for path, model in models]
    repeated = Counter(labels)
    return [f"{label} ({k})" if repeated[label] > 1 else label for k, label in enumerate(labels, start=1)]
