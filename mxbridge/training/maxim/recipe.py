"""Recipe of MAXIM models: from a laboratory's own good slides to weights that impute a marker from the others.

``mxbridge train maxim`` writes the weights, a card beside them, and a folder with curves, example patches and tables. Which
images are learned from and which are held back to choose the weights by is decided before anything is read
(``maxim_split``); scaling, linear start and baselines come from the training regions alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from mxbridge.errors import OutputError
from mxbridge.formats.atomic import make_folder, write_atomically
from mxbridge.models.card import ModelCard, read_card
from mxbridge.models.linear_start import LinearStart
from mxbridge.models.maxim_input import ScaledReader, field_at
from mxbridge.models.scaling import Scaling
from mxbridge.networks.maxim_unet import MaximUNet
from mxbridge.progress import SILENT, Progress
from mxbridge.training.frozen import code_hash
from mxbridge.training.loop import (
    Batch,
    Moment,
    Trained,
    choose_device,
    discard_checkpoint,
    drawing_threads,
    save_weights,
    train,
    training_precision,
)
from mxbridge.training.losses import masked_loss
from mxbridge.training.maxim import pictures
from mxbridge.training.maxim.adversary import opponent_of, prediction
from mxbridge.training.maxim.fields import Fields, judge
from mxbridge.training.maxim.findings import Findings, find_out, fit_baselines, fit_start
from mxbridge.training.maxim.images import (
    Panel,
    TrainingImage,
    choose_dtype,
    choose_panel,
    choose_scale,
    marker_channels,
    most_hidden,
)
from mxbridge.training.maxim.patches import DrawnAhead, MaximPatches, PixelStore
from mxbridge.training.maxim.scaling import Source, fit_scalings
from mxbridge.training.maxim.settings import MaximSettings
from mxbridge.training.maxim.split import (
    CaseRow,
    Region,
    Split,
    check_no_copies,
    split_cases,
    split_regions,
    take_fraction,
    with_cases,
)
from mxbridge.training.target import check_target

NAME = "MAXIM"
RECIPE = (
    "losses", "loop", "maxim/recipe", "maxim/adversary", "maxim/fields", "maxim/patches", "maxim/scaling",
    "maxim/settings", "maxim/split",
)  # fmt: skip
"""Modules that decide the numbers of a training; a checkpoint of another code is refused."""
JUDGED_WHILE_TRAINING, JUDGED_AT_THE_END = 8_000_000, 16_000_000
"""Pixel passes of a judgement (see :class:`~mxbridge.training.maxim.fields.Fields`): some 12 and 25 CPU seconds at width 12, and
about 35 more for the six views, however much is held back (1.5 to 2.5 µs per pixel, marker and view on one thread)."""


@dataclass(frozen=True)
class HoldBack:
    """What is held back: named cases, or of every image the lower ``region`` of its rows, or (neither) a fifth of the cases.

    table: which image is of which case, and perhaps on which side.
    """

    cases: tuple[str, ...] = ()
    region: float | None = None
    table: tuple[CaseRow, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """Everything that is decided before the first step. dtype: of the images, for the card; start: of models that have one."""

    settings: MaximSettings
    images: tuple[TrainingImage, ...]
    panel: Panel
    um_per_px: float
    dtype: str
    split: Split
    scalings: dict[str, Scaling]
    store: PixelStore
    start: LinearStart | None

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the numbers beside the schedule and the program."""
        return {
            "settings": self.settings.to_json(),
            "panel": [list(self.panel.inputs), list(self.panel.outputs)],
            "um_per_px": self.um_per_px,
            "images": [image.image.identity for image in self.images],
            "training": [[r.image, *r.box] for r in self.split.training],
            "validation": [[r.image, *r.box] for r in self.split.validation],
            "scaling": {m: s.to_json() for m, s in self.scalings.items()},
            "start": None if self.start is None else self.start.to_json(),
        }

    @property
    def digest(self) -> str:
        """Of the identity; a newer program does not make a finished model another one."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    def fields(self, most: int) -> Fields:
        return Fields(self.store, self.split.validation, self.panel, self.start, self.settings.seed, most)

    def patches(self) -> MaximPatches:
        s, hidden = self.settings, most_hidden(self.settings, len(self.panel.outputs))
        return MaximPatches(
            self.store, self.split.training, self.panel, s.seed, self.start, s.batch, s.side, hidden, s.jitter
        )


def train_maxim(
    images: Sequence[TrainingImage],
    settings: MaximSettings,
    out: Path,
    *,
    held_back: HoldBack = HoldBack(),
    name: str = NAME,
    licence: str = "",
    device: str = "auto",
    checkpoint: Path | None = None,
    restart: bool = False,
    progress: Progress = SILENT,
) -> ModelCard:
    """Train, judge on what was held back, write ``out`` (safetensors), its card and its folder; the card comes back.

    The same images, settings and kind of machine give the same weights. checkpoint: written at each validation, gone on from
    where it exists (restart: removed instead), removed when the weights are there. A training that is done already is not
    done again unless ``restart``. name: how the model's measurements are called. licence: of the weights, in the card.
    Raises UsageError, InputError, OutputError, NoPixelSize, UnknownName, ModelError and BrokenFile.
    """
    training_precision(settings.precision, choose_device(device))
    check_target(out, name, checkpoint)
    folder = check_folder(out, checkpoint)
    prepared = prepare(images, settings, held_back, progress)
    _check_same_markers(out, prepared.panel)
    done = None if restart else _done_already(out, prepared)
    if done is not None:
        progress.note("this training is done already; --restart does it again")
        return done
    if restart and checkpoint is not None:
        discard_checkpoint(checkpoint)
    make_folder(folder)
    pictures.write_table(folder / pictures.SPLIT, prepared.split.rows)
    network, trained = _learn(prepared, device, checkpoint, folder, progress)
    progress.note("judging the model on what was held back")
    baselines = fit_baselines(prepared.store, prepared.split.training, prepared.panel, prepared.scalings, settings.seed)
    network.to(choose_device(device))
    fields = prepared.fields(JUDGED_AT_THE_END)
    findings = find_out(network, fields, baselines, prepared.split, [i.name for i in prepared.images])
    network.to("cpu")
    baselines.save(folder / pictures.BASELINES)
    pictures.write_table(folder / pictures.VALIDATION, findings.rows)
    pictures.draw_curves(folder / pictures.CURVES, trained.history, trained.best_step)
    pictures.draw_patches(folder / pictures.PATCHES, findings.examples, prepared.panel.outputs)
    card = _card(prepared, trained, findings, name, licence)
    card = replace(card, sha256=save_weights(network, out, card.to_json()))
    with write_atomically(out.with_suffix(".json")) as part:
        part.write_text(card.to_json(), encoding="utf-8")
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return card


def training_folder(out: Path) -> Path:
    """Where pictures and tables of the weights ``out`` go."""
    return out.with_name(f"{out.stem}.training")


def check_folder(out: Path, checkpoint: Path | None) -> Path:
    """The folder beside the weights. Raises OutputError where something is there that no training left."""
    folder = training_folder(out)
    if folder.is_dir():
        foreign = sorted(
            p.name for p in folder.iterdir() if p.name not in pictures.OURS and ".mxbridge-part" not in p.name
        )
        begun = out.exists() or (checkpoint is not None and checkpoint.exists()) or (folder / pictures.SPLIT).exists()
        if foreign or (any(folder.iterdir()) and not begun):
            raise OutputError(
                f"{folder} is there already and holds {foreign[0] if foreign else 'files'} that no training left",
                hint="Give another place with --out",
            )
    elif folder.exists():
        raise OutputError(f"{folder} is no folder", hint="Give another place with --out")
    return folder


def prepare(
    images: Sequence[TrainingImage],
    settings: MaximSettings,
    held_back: HoldBack = HoldBack(),
    progress: Progress = SILENT,
) -> Prepared:
    """Panel, scale, split, scaling and linear start, in this order. Raises what :func:`train_maxim` raises."""
    panel, kept = choose_panel(images, settings, progress)
    um_per_px = choose_scale(kept, settings.um_per_px, progress)
    dtype = choose_dtype(kept)
    kept = with_cases(kept, held_back.table)
    shapes = [field_at(i.image, um_per_px).shape for i in kept]
    split = take_fraction(_split(kept, shapes, settings, held_back), settings.fraction, settings.seed)
    progress.note(f"split {split.line}")
    for inputs, what in ((panel.inputs, "from" if not panel.any_marker else "any of"), (panel.outputs, "predicted")):
        if what != "predicted" or not panel.any_marker:
            progress.note(f"{what}: {', '.join(inputs)}")
    sources = [_source(kept[r.image], r, panel, um_per_px) for r in split.training]
    scalings = fit_scalings(sources, panel.planes, settings.scaling, settings.cap, progress)
    in_order = [scalings[m] for m in panel.planes]
    readers = [ScaledReader(i.image, marker_channels(i, panel), in_order, um_per_px) for i in kept]
    check_no_copies(split, kept, readers)
    store = PixelStore(readers, len(panel.planes))
    start = fit_start(store, split.training, panel, settings.seed) if settings.start == "linear" else None
    prepared = Prepared(settings, tuple(kept), panel, um_per_px, dtype, split, scalings, store, start)
    prepared.patches().check()
    return prepared


def _split(
    images: Sequence[TrainingImage], shapes: Sequence[tuple[int, int]], settings: MaximSettings, held_back: HoldBack
) -> Split:
    if held_back.region is not None:
        return split_regions(images, shapes, held_back.region, settings.guard)
    return split_cases(images, shapes, held_back.cases, settings.seed)


def _source(image: TrainingImage, region: Region, panel: Panel, um_per_px: float) -> Source:
    """The full-resolution pixels of a training region."""
    owned = field_at(image.image, um_per_px).owned(region.box)
    return Source(image.image, tuple(marker_channels(image, panel)), owned)


def _check_same_markers(out: Path, panel: Panel) -> None:
    """Raises OutputError where ``out`` is a model of other markers, which nobody meant to replace."""
    card = read_card(out) if out.is_file() else None
    if card is not None and set(card.outputs) != set(panel.outputs):
        raise OutputError(
            f"{out} is a model of {', '.join(card.outputs)} and is not replaced by one of {', '.join(panel.outputs)}",
            hint="Give another place with --out, or remove it first",
        )


def _done_already(out: Path, prepared: Prepared) -> ModelCard | None:
    """The card of weights that this very training left, whole."""
    if not (out.is_file() and (training_folder(out) / pictures.PATCHES).is_file()):
        return None
    card = read_card(out)
    same = card is not None and card.settings_hash == prepared.digest
    whole = card is not None and card.sha256 == hashlib.sha256(out.read_bytes()).hexdigest()
    return card if same and whole else None


def first_network(prepared: Prepared) -> MaximUNet:
    """The network before its first step. With a linear start it corrects nothing yet."""
    settings, panel = prepared.settings, prepared.panel
    planes = len(panel.inputs) * (2 if panel.any_marker else 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = MaximUNet(planes, len(panel.outputs), settings.width)
    if settings.published_start:
        network.initialise(settings.seed)
    if prepared.start is not None:
        nn.init.zeros_(network.conv.weight)
        if network.conv.bias is not None:
            nn.init.zeros_(network.conv.bias)
    return network


def _learn(
    prepared: Prepared, device: str, checkpoint: Path | None, folder: Path, progress: Progress
) -> tuple[MaximUNet, Trained]:
    settings = prepared.settings
    network = first_network(prepared)
    fields = prepared.fields(JUDGED_WHILE_TRAINING)

    def loss(model: nn.Module, drawn: Batch) -> Tensor:
        return masked_loss(prediction(model, drawn), drawn[1], drawn[2], settings.alpha)

    def tell(moment: Moment) -> None:
        progress.step("training", moment.step, moment.steps)
        if moment.history:
            row = moment.history[-1]
            pictures.write_table(folder / pictures.LOG, pictures.summary_rows(moment.history))
            progress.note(
                f"step {moment.step}: loss {row['loss']:.4f}, held back MAE {row['mae']:.4f}, Pearson {row['pearson']:.3f}"
            )

    schedule = settings.schedule(prepared.split.training_pixels)
    with closing(DrawnAhead(prepared.patches(), schedule.steps, drawing_threads(device))) as batches:
        trained = train(
            network,
            batches,
            loss,
            lambda model: judge(cast(MaximUNet, model), fields, settings.alpha),
            schedule,
            device=device,
            precision=settings.precision,
            opponent=opponent_of(settings, network),
            checkpoint=checkpoint,
            identity=prepared.identity | {"recipe": code_hash(RECIPE)},
            layout=torch.channels_last,
            progress=tell,
        )
    pictures.write_table(folder / pictures.LOG, pictures.summary_rows(trained.history))
    return network, trained


def _card(prepared: Prepared, trained: Trained, findings: Findings, name: str, licence: str) -> ModelCard:
    panel, settings, split = prepared.panel, prepared.settings, prepared.split
    used = sorted({r.image for r in (*split.training, *split.validation)})
    names = [prepared.images[k].name for k in used]
    shown = f"{', '.join(names[:8])}{f' and {len(names) - 8} more' if len(names) > 8 else ''}"
    what = "any of its markers from the others" if panel.any_marker else f"{', '.join(panel.outputs)} from the others"
    return ModelCard(
        name=name,
        system="maxim",
        um_per_px=prepared.um_per_px,
        channels=panel.inputs,
        outputs=panel.outputs,
        any_marker=panel.any_marker,
        scaling={m: s.to_json() for m, s in prepared.scalings.items()},
        linear_start={} if prepared.start is None else prepared.start.to_json(),
        dtype=prepared.dtype,
        split=split.line,
        validation=findings.validation,
        description=f"Imputes {what}; U-Net of width {settings.width}, {trained.best_step} of {trained.steps} steps",
        training_data=f"{len(used)} images ({shown}), {split.training_pixels / 1e6:.2f} million training pixels",
        settings_hash=prepared.digest,
        seed=settings.seed,
        steps=trained.best_step,
        metrics=findings.metrics | {"validation_score": round(trained.best, 6)},
        licence=licence,
    )
