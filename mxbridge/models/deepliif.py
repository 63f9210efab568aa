"""DeepLIIF: inferred immunofluorescence, nuclei and scores from brightfield IHC; and its relatives DeepLIIFKD, Ext, SDG, CycleGAN.

Source: Ghahremani et al., "Deep learning-inferred multiplex immunofluorescence for immunohistochemical image quantification"
(Nature Machine Intelligence 2022); order of passes, names and constants only. Every norm uses the statistics of the window at
hand, so that windows can share a batch; or, frozen, those of a sample of the slide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from mxbridge.errors import ModelError, UnknownName, UsageError
from mxbridge.models import catalogue
from mxbridge.models.card import ModelCard
from mxbridge.models.deepliif_files import BLACK, SEG, UM_PER_PX, DeepliifFolder, digest, is_deepliif, read_folder
from mxbridge.models.translators import WANTED, Weighting
from mxbridge.models.weights_files import read_tensors
from mxbridge.networks.attention_unet import AttentionUnet
from mxbridge.networks.resnet_generator import ResnetGenerator
from mxbridge.networks.unet_generator import UnetGenerator
from mxbridge.networks.window_norm import freeze

ALGORITHM = 1
"""Goes up when inferred images change for the same input; part of every fingerprint."""
OVERLAP = 64
INPUT = "input"
"""What passes call the picture of the slide itself."""

Generator = ResnetGenerator | UnetGenerator | AttentionUnet


@dataclass(frozen=True)
class Step:
    """One network: ``net`` sees the images ``sees`` stacked, and makes ``makes``; its output counts ``weight`` (None: as it is)."""

    net: str
    sees: tuple[str, ...]
    makes: str
    weight: float | None = None


@dataclass(frozen=True)
class DeepLIIF:
    """A folder of published networks as a :class:`~mxbridge.models.translators.Translator`; nothing is loaded before ``passes``."""

    folder: DeepliifFolder
    weights_sha256: str
    name: str = "DeepLIIF"
    um_per_px: float = UM_PER_PX
    overlap: int = OVERLAP
    samples_slide: bool = False
    card: ModelCard = field(default_factory=ModelCard, repr=False)

    @property
    def kind(self) -> str:
        return self.folder.kind

    @property
    def window(self) -> int:
        return self.folder.window

    @property
    def warnings(self) -> tuple[str, ...]:
        """What people should know of its files."""
        return self.folder.warnings

    @property
    def input_images(self) -> int:
        return self.folder.input_no

    @cached_property
    def segs(self) -> tuple[str, ...]:
        if not self.folder.seg_nets:
            return ()
        if self.kind == "DeepLIIFExt":
            return tuple(f"{SEG}{at}" for at in range(1, len(self.folder.seg_nets) + 1))
        return (SEG,)

    @property
    def n_segs(self) -> int:
        """Segmentations that are averaged into one; 0 where none are."""
        return len(self.folder.seg_nets) if self.segs == (SEG,) else 0

    @property
    def marker_image(self) -> str | None:
        return "Marker" if "Marker" in self.folder.names else None

    @property
    def separating_image(self) -> tuple[str, ...]:
        return tuple(name for name in ("Lap2", "DAPI") if name in self.folder.names)

    @property
    def fluorescence(self) -> tuple[str, ...]:
        return () if self.kind in ("SDG", "CycleGAN") else tuple(n for n in self.folder.names if n != "Hematoxylin")

    @property
    def brightfield(self) -> tuple[str, ...]:
        return tuple(name for name in self.folder.names if name not in self.fluorescence)

    @property
    def images(self) -> tuple[str, ...]:
        """Everything it can make."""
        return (*self.folder.names, *self.segs)

    def images_for(self, wanted: str, *, separate: bool = False) -> tuple[str, ...]:
        """Images that must be made for ``--outputs``; scores and nuclei take the marker's image along, as the published program does."""
        if wanted not in WANTED:
            raise UnknownName("outputs", wanted, WANTED)
        if wanted in ("channels", "all") or not self.segs:
            if wanted in ("score", "cells"):
                raise UsageError(
                    f"{self.name} makes no segmentation, so there are no nuclei to find", hint="Use --outputs channels"
                )
            return self.images
        needed = {
            *self.segs,
            *([self.marker_image] if self.marker_image else []),
            *(self.separating_image[:1] * separate),
        }
        return tuple(name for name in self.images if name in needed)

    def fills(self) -> Mapping[str, tuple[int, int, int]]:
        return dict(zip(self.folder.names, self.folder.fills, strict=True)) | dict.fromkeys(self.segs, BLACK)

    def peer_weighting(self) -> Weighting | None:
        """What the published program averages with when it is not told; None where it averages nothing."""
        if not self.n_segs:
            return None
        if self.folder.old_options:
            return Weighting.parse("test", self.n_segs)
        given = self.folder.seg_weights
        if given is not None and len(given) == self.n_segs:
            return Weighting("options", given)
        return Weighting.parse("paper" if self.kind == "DeepLIIF" and self.n_segs == 5 else "uniform", self.n_segs)

    def plan(self, images: Sequence[str], weighting: Weighting | None) -> tuple[Step, ...]:
        """Networks that must run for ``images``, in order; those that count nothing are left out. Raises UnknownName, UsageError."""
        for image in images:
            if image not in self.images:
                raise UnknownName("inferred image", image, self.images, where=self.name)
        names, nets, seg_nets = self.folder.names, self.folder.mods, self.folder.seg_nets
        needed, segmenting = set(images) & set(names), []
        if self.n_segs and SEG in images:
            used = weighting or Weighting.parse(None, self.n_segs)
            if len(used.values) != self.n_segs:
                raise UsageError(
                    f"the weighting has {len(used.values)} numbers, {self.name} has {self.n_segs} segmentations"
                )
            # summed as the published program does: those of the inferred images first, that of the input last
            order = [*zip(seg_nets[1:], names, used.values[1:], strict=True), (seg_nets[0], INPUT, used.values[0])]
            segmenting = [Step(net, (seen,), SEG, weight) for net, seen, weight in order if weight]
        elif not self.n_segs:
            for net, image, seg in zip(seg_nets, names, self.segs, strict=True) if seg_nets else ():
                if seg in images:
                    segmenting.append(Step(net, (INPUT, names[0], image), seg))
        needed |= {seen for step in segmenting for seen in step.sees} - {INPUT}
        making = [Step(net, (INPUT,), name) for net, name in zip(nets, names, strict=True) if name in needed]
        return (*making, *segmenting)

    def passes(self, images: Sequence[str], weighting: Weighting | None = None) -> DeepliifPasses:
        """The networks that ``images`` need, and no other; each is loaded when it first runs. Raises UnknownName, UsageError."""
        return DeepliifPasses(tuple(images), self.plan(images, weighting), self._load)

    def check(self) -> None:
        """Load every network once, one after the other. Raises ModelError for the first that is not what it should be."""
        uniform = Weighting.parse("uniform", self.n_segs) if self.n_segs else None
        for step in self.plan(self.images, uniform):
            self._load(step)

    def _load(self, step: Step) -> Generator:
        file = self.folder.nets[step.net]
        network = load_generator(file, self.folder.padding if step.net in self.folder.mods else "")
        planes = sum(3 * self.input_images if image == INPUT else 3 for image in step.sees)
        if network.in_channels != planes or network.out_channels != 3:
            raise ModelError(
                f"{file}: takes {network.in_channels} planes and makes {network.out_channels}, expected {planes} and 3",
                hint="Is this file of another model?",
            )
        if self.window % network.stride:
            raise ModelError(
                f"{file}: its sides are multiples of {network.stride}, the model's windows are {self.window}"
            )
        return network

    def describe(self) -> dict[str, Any]:
        """For run.json and fingerprints."""
        return {
            "name": self.name,
            "kind": self.kind,
            "um_per_px": self.um_per_px,
            "weights_sha256": self.weights_sha256,
            "images": list(self.images),
            "networks": {net: path.name for net, path in sorted(self.folder.nets.items())},
            "window_px": self.window,
            "algorithm": ALGORITHM,
        }


class DeepliifPasses:
    """Networks in the order in which they run; see :class:`~mxbridge.models.translators.Passes`.

    Each is loaded when it first runs (``load`` raises ModelError), so that freezing, which holds many windows, need not hold
    the weights of those that come later as well.
    """

    def __init__(self, images: tuple[str, ...], steps: tuple[Step, ...], load: Callable[[Step], Generator]) -> None:
        self.images, self.steps, self._load = images, steps, load
        self.networks = tuple(step.net for step in steps)
        self._loaded: dict[str, Generator] = {}
        self._device = torch.device("cpu")
        self.sampled = 0
        """Windows whose pooled statistics are in the weights; 0: every window has its own."""

    def to(self, device: torch.device) -> Self:
        self._device = device
        for network in self._loaded.values():
            self._moved(network)
        return self

    def _network(self, step: Step) -> Generator:
        if step.net not in self._loaded:
            self._loaded[step.net] = self._moved(self._load(step))
        return self._loaded[step.net]

    def _moved(self, network: Generator) -> Generator:
        if self._device.type != "cpu":  # where weights lie as its convolutions like them best
            network.to(device=self._device, memory_format=torch.contiguous_format)
        return network

    def __call__(self, windows: Tensor) -> dict[str, Tensor]:
        made = {INPUT: windows}
        for step in self.steps:
            seen = [made[image] for image in step.sees]
            out = self._network(step)(seen[0] if len(seen) == 1 else torch.cat(seen, dim=1))
            self._take(made, step, out)
        return {image: made[image] for image in self.images}

    @staticmethod
    def _take(made: dict[str, Tensor], step: Step, out: Tensor) -> None:
        if step.weight is None:
            made[step.makes] = out
        elif step.makes in made:
            made[step.makes] += out * step.weight
        else:
            made[step.makes] = out * step.weight

    @torch.inference_mode()
    def frozen(self, sample: Tensor) -> DeepliifPasses:
        """One pass of the whole sample through all networks, side by side; each network's norms end up in its convolutions."""
        if self.sampled:
            raise RuntimeError("passes are frozen once")
        made = {INPUT: sample}
        for step in self.steps:
            seen = [torch.cat([made[image][at : at + 1] for image in step.sees], dim=1) for at in range(len(sample))]
            self._take(made, step, torch.cat(freeze(self._network(step), seen)))
        self.sampled = len(sample)
        return self

    def describe(self) -> dict[str, Any]:
        weights = {step.net: step.weight for step in self.steps if step.weight is not None}
        statistics = f"pooled over {self.sampled} windows" if self.sampled else "of each window"
        return {"networks": list(self.networks), "segmentation_weights": weights, "statistics": statistics}


def load_generator(path: Path, padding: str = "") -> Generator:
    """A network of the kind that the keys of its weights say. padding: what the options say. Raises ModelError."""
    weights = read_tensors(path)
    kinds: tuple[tuple[str, type[Generator]], ...] = (
        ("model.model.", UnetGenerator),
        ("Conv1.", AttentionUnet),
        ("", ResnetGenerator),
    )
    plain = {key.removeprefix("module.") for key in weights}
    kind = next(kind for start, kind in kinds if any(key.startswith(start) for key in plain))
    try:
        network = kind.from_state_dict(weights)
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error
    if isinstance(network, ResnetGenerator) and padding == "replicate":
        raise ModelError(f"{path}: was trained with replicated borders, which are not supported")
    return network


def from_card(path: Path, card: ModelCard) -> DeepLIIF:
    """The model of a folder; the entry point of this system. Raises ModelError."""
    folder = read_folder(Path(path))
    return DeepLIIF(folder, card.sha256 or digest(folder), card.name or folder.kind, card=card)


def open_deepliif(name_or_path: str | Path) -> DeepLIIF:
    """A name of the catalogue or a folder. Raises ModelError, also for weights of another system."""
    found = catalogue.resolve(name_or_path)
    if not is_deepliif(found.path):
        raise ModelError(
            f"{found.path}: {found.card.system} weights do not translate slides",
            hint="Use --model deepliif or deconvolution",
        )
    return from_card(found.path, found.card)
