"""Folders of published DeepLIIF models: which networks lie there, under which names, and what their options say.

Nothing is evaluated: ``train_opt.txt`` is read as text, values as plain Python literals of a bounded length, and only those
that mean something here. Layers and sizes are read from the weights, not from the options. Importing this module is cheap.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mxbridge.errors import ModelError
from mxbridge.models.card import ModelCard

SYSTEM = "deepliif"
UM_PER_PX = 0.25
"""Scale of the windows: DeepLIIF's 512 pixels at 40x."""
KINDS = ("DeepLIIF", "DeepLIIFKD", "DeepLIIFExt", "SDG", "CycleGAN")
OPTION_FILES = ("test_opt.txt", "train_opt.txt")
"""The first that is there."""
OPTION_BYTES, OPTION_LINE = 1_000_000, 1000
MOST_IMAGES = 32

DEEPLIIF_NAMES = ("Hematoxylin", "DAPI", "Lap2", "Marker")
OFFICIAL_NAMES = {"Hema": "Hematoxylin"}
"""Names in option files -> names of images here."""
DEEPLIIF_FILLS = ((201, 211, 208), (10, 10, 10), (0, 0, 0), (10, 10, 10))
BLACK = (0, 0, 0)
SEG = "Seg"

CARD = ModelCard(
    name="DeepLIIF",
    system=SYSTEM,
    um_per_px=UM_PER_PX,
    channels=("RGB",),
    description="Immunofluorescence images, nuclei and scores inferred from brightfield IHC; windows of 512 px, blended (approximate)",
    licence="Apache 2.0 with Commons Clause, non-commercial academic use: see the project's own terms",
)
HOW_TO_GET = (
    "Download the official model (Zenodo record 4751737; for non-commercial use) by hand and `mxbridge models add FOLDER --name "
    "deepliif`; or do without weights: --model deconvolution"
)

_NET_FILE = re.compile(
    r"(?:(?P<prefix>[A-Za-z0-9_.-]{1,60})_net_)?(?P<net>G(?:[AB]_|S_|_|S)?\d{1,3})\.(?P<suffix>pth|pt)"
)
_OPTION = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]{0,60})\s*:(.*)")
_DEFAULT = re.compile(r"\[default[^\]]*\]")
_LITERAL = re.compile(r"[\[({'\"+\-.\d]|True$|False$|None$")
_CODE = re.compile(r"[A-Za-z_][\w.]*\s*\(|\blambda\b|__")


@dataclass(frozen=True)
class DeepliifFolder:
    """A model folder that is complete.

    kind: of KINDS. prefix: of its files (``latest``, ``100``, ``iter_500``), None for TorchScript. nets: file of every network.
    mods: networks of the images, in order; seg_nets: of the segmentations, the one that sees the input first (DeepLIIF, KD) or
    one per image (Ext). names, fills: of the images. input_no: RGB pictures in one input. window: side of the fixed windows.
    seg_weights: of the option file, None where it has none. old_options: four images without names, as officially published.
    padding: what the options say of it, ``""`` where nothing. warnings: what people should know of the options.
    """

    path: Path
    kind: str
    prefix: str | None
    nets: Mapping[str, Path]
    mods: tuple[str, ...]
    seg_nets: tuple[str, ...]
    names: tuple[str, ...]
    fills: tuple[tuple[int, int, int], ...]
    input_no: int
    window: int
    seg_weights: tuple[float, ...] | None = None
    old_options: bool = False
    padding: str = ""
    option_file: Path | None = field(default=None)
    warnings: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that belongs to the model, sorted by name."""
        there = [*self.nets.values(), *([self.option_file] if self.option_file else [])]
        return tuple(sorted(there, key=lambda path: path.name))

    @property
    def card(self) -> ModelCard:
        return ModelCard(**{**vars(CARD), "name": self.kind, "outputs": self.names})


def is_deepliif(path: Path) -> bool:
    """Whether a folder, or the folder of a file, holds networks under these names."""
    return bool(_nets_in(path)) if path.is_dir() else bool(_NET_FILE.fullmatch(path.name)) and path.is_file()


def read_folder(path: Path) -> DeepliifFolder:
    """A folder, or one of its files, whose prefix is then the one that is used. Raises ModelError.

    Several prefixes: ``latest``; eager files before TorchScript ones.
    """
    wanted: str | None = None
    if path.is_file() and (match := _NET_FILE.fullmatch(path.name)):
        wanted, path = match["prefix"] or "", path.parent
    sets = _nets_in(path)
    if not sets:
        raise ModelError(
            f"{path} holds no networks of a published model", hint="Expected latest_net_G1.pth ... or G1.pt ..."
        )
    prefix = _chosen_prefix(path, sets, wanted)
    nets = sets[prefix]
    option_file = next((path / name for name in OPTION_FILES if (path / name).is_file()), None)
    options, warnings = read_options(option_file) if option_file else ({}, ())
    kind = _kind(path, nets, options, option_file)
    if kind in ("DeepLIIF", "DeepLIIFKD"):
        mods, seg_nets = _deepliif_nets(path, nets, options)
    else:
        mods, seg_nets = _numbered_nets(nets, kind, options)
    suffix = next(iter(nets.values())).suffix
    missing = [net for net in (*mods, *seg_nets) if net not in nets]
    if missing:
        lacking = ", ".join(f"{prefix}_net_{net}{suffix}" if prefix else f"{net}{suffix}" for net in missing)
        raise ModelError(f"{path} is not complete: it lacks {lacking}", hint="Download or copy the whole model again")
    used = {net: nets[net] for net in (*mods, *seg_nets)}
    names, old = _image_names(kind, len(mods), options, option_file)
    window = _number(options, "scale_size", 1024 if kind == "DeepLIIFExt" and option_file else 512, option_file)
    if window % 256 or not 256 <= window <= 4096:
        raise ModelError(f"{option_file}: scale_size {window} is no side of windows", hint="Expected 512 or 1024")
    return DeepliifFolder(
        path,
        kind,
        prefix or None,
        used,
        mods,
        seg_nets,
        names,
        _fills(kind, len(mods), options, option_file),
        _number(options, "input_no", 1, option_file),
        window,
        _weights(options, option_file),
        old,
        str(options.get("padding", "")) if isinstance(options.get("padding"), str) else "",
        option_file,
        warnings,
    )


def digest(folder: DeepliifFolder) -> str:
    """sha256 over the names and the sha256 of all files, in the order of their names. Raises ModelError."""
    whole = hashlib.sha256()
    for file in folder.files:
        try:
            with file.open("rb") as stream:
                one = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise ModelError(f"{file} cannot be read ({error.strerror})") from error
        whole.update(f"{file.name}\0{one}\n".encode())
    return whole.hexdigest()


def read_options(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Keys and values of an option file: plain literals, else the text itself, and warnings. Never evaluated. Raises ModelError."""
    try:
        if path.stat().st_size > OPTION_BYTES:
            raise ModelError(f"{path}: too long for a file of options")
        lines = path.read_text("utf-8", errors="replace").splitlines()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror})") from error
    found: dict[str, Any] = {}
    warnings = []
    for number, line in enumerate(lines, 1):
        match = _OPTION.fullmatch(line[: OPTION_LINE + 1])
        if match is None:
            continue
        if len(line) > OPTION_LINE:
            raise ModelError(f"{path}, line {number}: too long for an option")
        text = _DEFAULT.sub("", match[2]).strip()
        if _CODE.search(text):
            warnings.append(f"{path}, line {number}: {match[1]} looks like code; it is taken as text and never run")
        found[match[1]] = _literal(text)
    if not found:
        warnings.append(f"{path} holds no options; those that the weights show are taken")
    return found, tuple(warnings)


def _literal(text: str) -> Any:
    """Numbers, names, lists and tuples of them; whatever else stays text."""
    if not _LITERAL.match(text):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _nets_in(path: Path) -> dict[str, dict[str, Path]]:
    """prefix -> network -> file; TorchScript files have the prefix ``""``."""
    sets: dict[str, dict[str, Path]] = {}
    try:
        inside = sorted(path.iterdir())
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror})") from error
    for file in inside:
        match = _NET_FILE.fullmatch(file.name)
        if match and file.is_file() and (match["prefix"] is not None) == (match["suffix"] == "pth"):
            sets.setdefault(match["prefix"] or "", {})[match["net"]] = file
    return sets


def _chosen_prefix(path: Path, sets: Mapping[str, Any], wanted: str | None) -> str:
    if wanted is not None:
        return wanted
    eager = [prefix for prefix in sets if prefix]
    if "latest" in sets or not eager:
        return "latest" if "latest" in sets else ""
    if len(eager) == 1:
        return eager[0]
    raise ModelError(
        f"{path} holds several states of a model: {', '.join(eager[:10])}",
        hint=f"Name a file of the one you mean: --model {next(iter(sets[eager[0]].values()))}",
    )


def _kind(path: Path, nets: Mapping[str, Path], options: Mapping[str, Any], option_file: Path | None) -> str:
    """What the names of the files say, refined by the options. Raises ModelError where they contradict each other."""
    families = {_family(net) for net in nets}
    if len(families) > 1:
        first = {_family(net): nets[net].name for net in reversed(list(nets))}
        raise ModelError(
            f"{path} mixes networks of different kinds of models: {', '.join(sorted(first.values()))}",
            hint="Keep one model in one folder",
        )
    family = families.pop()
    possible = {
        "plain": ("DeepLIIF", "DeepLIIFKD"),
        "numbered": ("DeepLIIFExt", "SDG"),
        "cycle": ("CycleGAN",),
    }[family]
    said = options.get("model")
    if said is None:
        return "SDG" if family == "numbered" and not any(net.startswith("GS_") for net in nets) else possible[0]
    if said not in possible:
        known = said if isinstance(said, str) and said in KINDS else repr(said)[:60]
        raise ModelError(
            f"{option_file}: says model {known}, but the files beside it are those of {' or '.join(possible)}",
            hint="Keep one model in one folder",
        )
    return str(said)


def _family(net: str) -> str:
    if net.startswith(("GA_", "GB_")):
        return "cycle"
    return "numbered" if "_" in net else "plain"


def _deepliif_nets(
    path: Path, nets: Mapping[str, Path], options: Mapping[str, Any]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Networks that must be there: G1.., then the segmentations, G51.. or GS0.., the input's first."""
    lettered = [net for net in nets if net.startswith("GS")]
    longest = max(nets, key=len)
    letter = "S" if lettered else longest[1] if len(longest) > 2 else ""
    segs = [net for net in nets if letter and len(net) > 2 and net[1] == letter]
    others = [net for net in nets if net[1:].isdigit() and int(net[1:]) > MOST_IMAGES]  # G51 ...
    if lettered and others:
        raise ModelError(
            f"{path} mixes networks of different kinds of models: {nets[lettered[0]].name}, {nets[others[0]].name}",
            hint="Keep one model in one folder",
        )
    plain = [int(net[1:]) for net in nets if net not in segs and net[1:].isdigit()]
    count = _number(options, "modalities_no", -1, None)
    if count < 0:
        targets = _number(options, "targets_no", 0, None)
        count = targets - 1 if targets else max(plain, default=0)
    if count > MOST_IMAGES:
        raise ModelError(f"{path}: {count} images are more than any model of this kind makes")
    if options.get("seg_gen") is False or not segs:
        return tuple(f"G{at}" for at in range(1, count + 1)), ()
    first = 0 if f"G{letter}0" in nets else 1
    return tuple(f"G{at}" for at in range(1, count + 1)), tuple(f"G{letter}{first + at}" for at in range(count + 1))


def _numbered_nets(
    nets: Mapping[str, Path], kind: str, options: Mapping[str, Any]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Networks that must be there: G_1.. (and GS_1..), or those of one direction of a CycleGAN."""
    stem = "G_"
    if kind == "CycleGAN":
        both = [stem for stem in ("GA_", "GB_") if any(net.startswith(stem) for net in nets)]
        wanted = "GB_" if options.get("BtoA") is True else "GA_"
        stem = wanted if wanted in both else both[0]
    numbers = [int(net.removeprefix(stem)) for net in nets if net.startswith(stem)]
    count = min(MOST_IMAGES, max(_number(options, "modalities_no", 0, None), max(numbers, default=1)))
    segs = kind == "DeepLIIFExt" and options.get("seg_gen") is not False and any(n.startswith("GS_") for n in nets)
    segs = segs or (kind == "DeepLIIFExt" and options.get("seg_gen") is True)
    mods = tuple(f"{stem}{at}" for at in range(1, count + 1))
    return mods, tuple(f"GS_{at}" for at in range(1, count + 1)) if segs else ()


def _image_names(kind: str, count: int, options: Mapping[str, Any], where: Path | None) -> tuple[tuple[str, ...], bool]:
    """Names of the inferred images, and whether they are those of the official model because nothing else is said."""
    numbered = tuple(f"mod{at}" for at in range(1, count + 1))
    if kind not in ("DeepLIIF", "DeepLIIFKD"):
        return numbered, False
    given = options.get("modalities_names")
    if not given:
        return (DEEPLIIF_NAMES, True) if count == len(DEEPLIIF_NAMES) else (numbered, False)
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given) or len(given) < count:
        raise ModelError(f"{where}: modalities_names {str(given)[:60]!r} is not a list of {count + 1} names")
    own = [str(name).strip() for name in given[len(given) - count :]]
    names = tuple(OFFICIAL_NAMES.get(name, name) for name in own)
    sound = all(
        0 < len(n) <= 60 and n.isprintable() and not set(n) & set(':/\\"<>|*?') and n not in (".", "..") for n in names
    )
    if not sound or len({name.casefold() for name in (*names, SEG)}) <= count:
        raise ModelError(f"{where}: modalities_names {str(list(names))[:80]} cannot be the names of images")
    return names, False


def _fills(kind: str, count: int, options: Mapping[str, Any], where: Path | None) -> tuple[tuple[int, int, int], ...]:
    """Colours of blank windows: those of the option file or of the published program."""
    if kind not in ("DeepLIIF", "DeepLIIFKD"):
        return (BLACK,) * count
    given = options.get("background_colors")
    if given is None:
        return DEEPLIIF_FILLS[:count] + (BLACK,) * (count - len(DEEPLIIF_FILLS))
    if not isinstance(given, list | tuple) or len(given) < count or not all(map(_is_colour, given)):
        raise ModelError(f"{where}: background_colors {str(given)[:60]!r} is not a list of {count} colours")
    return tuple((int(r), int(g), int(b)) for r, g, b in given[:count])


def _is_colour(value: Any) -> bool:
    whole = isinstance(value, list | tuple) and len(value) == 3
    return whole and all(isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= 255 for v in value)


def _weights(options: Mapping[str, Any], where: Path | None) -> tuple[float, ...] | None:
    """``seg_weights`` of the option file."""
    given = options.get("seg_weights")
    if given is None:
        return None
    if not isinstance(given, Sequence) or not all(type(v) in (int, float) and 0 <= v <= 1 for v in given):
        raise ModelError(f"{where}: seg_weights {str(given)[:60]!r} is not a list of numbers 0..1")
    return tuple(float(v) for v in given)


def _number(options: Mapping[str, Any], key: str, default: int, where: Path | None) -> int:
    """A whole number of at least zero. Raises ModelError for anything else under this key."""
    value = options.get(key, default)
    if type(value) is not int or value < min(0, default):
        raise ModelError(
            f"{where or 'options'}: {key} is {str(value)[:60]!r}, expected a whole number",
            hint="Options are text; nothing in them is run",
        )
    return value
