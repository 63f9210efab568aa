"""Names of weights: what is here, what can be fetched, what the user added, and which file a name means.

- ``demo``: small, embedded, trained on simulated tissue; it measures as ``NimbusDemo`` and never poses as Nimbus.
- ``nimbus``: the official weights, from their public hub; not here until fetched or added.
- ``deepliif``: the official model folder of DeepLIIF, which people download and add themselves.
- ``deconvolution``: stain vectors and thresholds for ``mxbridge translate``; needs no weights.
- any other name: a file or a model folder that the user added.

Every file is known by its sha256, a folder by that of its files' names and sha256. What came from the network is pinned on first use: another content under the same name
is refused later. Nothing is unpickled: files are opened by the system's own safe loader before they are taken in.
Importing this module is cheap; torch is loaded only where a file is validated.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

from mxbridge.errors import ModelError, UsageError
from mxbridge.formats.atomic import output_error, write_atomically
from mxbridge.models import deepliif_files
from mxbridge.models.card import ModelCard, read_card
from mxbridge.models.translators import DECONVOLUTION

DEMO = "demo"
OFFICIAL = "nimbus"
EMBEDDED = Path(__file__).parent / "weights" / "nimbus-demo-1.safetensors"

HUB = "https://huggingface.co"
HUB_REPOSITORY = "JLrumberger/Nimbus-Inference"
OFFICIAL_FILE = re.compile(r"V(\d{1,6})\.pt")
OFFICIAL_CARD = ModelCard(
    description="Official Nimbus weights: positivity of one marker at a time in any panel",
    training_data="Pan-Multiplex (its authors' data set)",
    licence="see the hub page",
)

DEEPLIIF = "deepliif"
DECONVOLUTION_CARD = ModelCard(
    name="Deconvolution",
    system=DECONVOLUTION,
    um_per_px=0.5,
    channels=("RGB",),
    description="Nuclei and positivity by stain vectors and thresholds: the baseline that needs no weights",
    licence="part of mxbridge",
)
BUILT_IN = (DEMO, DECONVOLUTION)
"""Names that are always there and cannot be given to anything else."""

LONG_TABLES = ("linear_start", "validation")
"""Of a card; thousands of numbers that say nothing to people."""

SUFFIXES = (".pt", ".pth", ".safetensors")
DOWNLOAD_TRIES = 3
NO_OFFICIAL_HINT = (
    "Get them with `mxbridge models fetch nimbus`, or without a network `mxbridge models add FILE`; "
    "or use the embedded demonstration weights: --model demo"
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RECORD_LIMIT = 5_000_000


@dataclass(frozen=True)
class ModelFile:
    """Weights that are here and whose content is known.

    name: prefix of the measurements (``Nimbus``, ``NimbusDemo``, or what the card says).
    known_as: name in the catalogue, or None for a file given by path.
    """

    path: Path
    name: str
    sha256: str
    card: ModelCard
    known_as: str | None = None

    @property
    def um_per_px(self) -> float:
        return self.card.um_per_px


@dataclass(frozen=True)
class Entry:
    """One line of ``mxbridge models list``. ``path`` and ``sha256`` are None for weights that are not here yet."""

    known_as: str
    measures_as: str
    source: Literal["embedded", "built in", "fetched", "added", "not here"]
    path: Path | None
    sha256: str | None
    um_per_px: float
    licence: str
    description: str
    system: str = "nimbus"


def models_home() -> Path:
    """Folder of fetched and added weights: ``MXBRIDGE_MODELS``, else the user's data folder of this system."""
    chosen = os.environ.get("MXBRIDGE_MODELS")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("mxbridge", appauthor=False)) / "models"


def list_models() -> list[Entry]:
    """Everything that has a name, the embedded weights first. Hashes are those recorded, not computed anew."""
    records = _read_records()["models"]
    demo = _demo_card()
    entries = [
        _entry(DEMO, demo, "embedded", EMBEDDED, demo.sha256),
        _entry(DECONVOLUTION, DECONVOLUTION_CARD, "built in"),
    ]
    for known_as, card in ((OFFICIAL, OFFICIAL_CARD), (DEEPLIIF, deepliif_files.CARD)):
        if known_as not in records:
            entries.append(_entry(known_as, card, "not here"))
    for known_as in sorted(records, key=lambda n: (n != OFFICIAL, n)):
        record, path = records[known_as], models_home() / records[known_as]["file"]
        source: Literal["fetched", "added"] = "fetched" if str(record["source"]).startswith("http") else "added"
        entries.append(_entry(known_as, _card_of(path, known_as), source, path, record["sha256"]))
    return entries


def _entry(
    known_as: str,
    card: ModelCard,
    source: Literal["embedded", "built in", "fetched", "added", "not here"],
    path: Path | None = None,
    sha256: str | None = None,
) -> Entry:
    return Entry(known_as, card.name, source, path, sha256, card.um_per_px, card.licence, card.description, card.system)


def show(known_as: str) -> dict[str, Any]:
    """What people want to know of one entry, ready for JSON; long tables of numbers by their headings. Raises ModelError for a name that is not there."""
    for entry in list_models():
        if entry.known_as == known_as:
            card = _card_of(entry.path, known_as)
            record = _read_records()["models"].get(known_as, {})
            where = {"path": str(entry.path) if entry.path else None, "source": entry.source}
            facts = asdict(card) | {name: _in_short(table) for name in LONG_TABLES if (table := getattr(card, name))}
            return {"known_as": known_as} | where | record | {"card": facts} | {"sha256": entry.sha256}
    raise _unknown(known_as)


def _in_short(table: Mapping[str, Any]) -> str:
    return f"{', '.join(table)} (the numbers are in the card)"


def add(file: Path, name: str | None = None) -> ModelFile:
    """Take a weights file or a model folder in: opened safely, checked to be what its card names, copied, its sha256 recorded.

    ``name`` defaults to ``nimbus`` for an official file name (``V<digits>.pt``), else to the stem of the file or the name of the
    folder. A card beside the file comes along; of a folder only the model's own files. Raises ModelError (no such file, not weights, would run code, name taken) and OutputError.
    """
    given = by_path(Path(file))
    file = given.path
    if name is None:
        name = OFFICIAL if OFFICIAL_FILE.fullmatch(file.name) else file.absolute().stem
    if not _NAME.fullmatch(name) or name in BUILT_IN:
        raise UsageError(
            f"{name!r} cannot be the name of a model",
            hint=f"Use letters, digits, - and _ (but not {' or '.join(BUILT_IN)}): --name my-model",
        )
    with _locked_records() as records:
        there = records["models"].get(name)
        if there is not None and there["sha256"] != given.sha256:
            raise ModelError(f"a model called {name!r} is there already", hint="Give another name with --name")
        opened = open_model(given)
        if deepliif_files.is_deepliif(file):
            opened.check()
            folder = deepliif_files.read_folder(file)
            for one in folder.files:
                _copy(one, models_home() / name / one.name)
            _record(records, name, models_home() / name, given.sha256, source=str(file.absolute()))
            return ModelFile(models_home() / name, given.name, given.sha256, given.card, name)
        target = models_home() / name / file.name
        _copy(file, target)
        if (beside := file.with_suffix(".json")).is_file() and read_card(file) is not None:
            _copy(beside, target.with_suffix(".json"))
        _record(records, name, target, given.sha256, source=str(file.absolute()))
    return resolve(name)


def fetch(name: str = OFFICIAL, *, say: Callable[[str], None] = lambda _: None) -> ModelFile:
    """Download the newest official weights, unless they are here. ``say`` gets lines for people.

    The sha256 is pinned when a file is first seen. Raises ModelError without a network (with the ways round it), when the
    content of a pinned file differs, and when what came is not the network.
    """
    if name == DEMO:
        return resolve(DEMO)
    if name == DEEPLIIF:
        raise ModelError("the official DeepLIIF weights are not fetched by mxbridge", hint=deepliif_files.HOW_TO_GET)
    if name != OFFICIAL:
        raise _unknown(name)
    home = models_home()
    _make_folder(home)
    with tempfile.TemporaryDirectory(dir=home, prefix="download-") as scratch:
        newest = _newest_on_hub(Path(scratch))
        with _locked_records() as records:
            pin = records["pins"].get(f"{HUB_REPOSITORY}/{newest}")
            there = records["models"].get(OFFICIAL)
            if there and pin == there["sha256"] and Path(there["file"]).name == newest:
                say(f"{newest} is here already")
                return resolve(OFFICIAL)
            url = f"{HUB}/{HUB_REPOSITORY}/resolve/main/{newest}"
            say(f"fetching {url}")
            came = _download(url, Path(scratch) / newest)
            digest = sha256_of(came)
            say(f"sha256 {digest}")
            if pin is not None and pin != digest:
                raise ModelError(
                    f"{newest} on the hub is not the file fetched before (sha256 {digest}, pinned {pin})",
                    hint="If its authors changed it on purpose, download it by hand and use `mxbridge models add FILE --name NAME`",
                )
            open_model(ModelFile(came, OFFICIAL_CARD.name, digest, OFFICIAL_CARD))
            target = home / OFFICIAL / newest
            _copy(came, target)
            records["pins"][f"{HUB_REPOSITORY}/{newest}"] = digest
            _record(records, OFFICIAL, target, digest, source=url)
    return resolve(OFFICIAL)


def resolve(name_or_path: str | Path | None = None) -> ModelFile:
    """The file or model folder that a name or a path means (a folder with one file means the file); None: the official weights.

    Raises ModelError when it is not here, or no longer the file that was recorded.
    """
    wanted = str(name_or_path) if name_or_path is not None else OFFICIAL
    if wanted == DEMO:
        return _recorded(DEMO, EMBEDDED, _demo_card().sha256)
    record = _read_records()["models"].get(wanted)
    if record is not None:
        return _recorded(wanted, models_home() / record["file"], record["sha256"])
    if wanted == OFFICIAL and not Path(wanted).exists():
        raise ModelError("the official Nimbus weights are not here", hint=NO_OFFICIAL_HINT)
    if wanted == DEEPLIIF and not Path(wanted).exists():
        raise ModelError("the official DeepLIIF weights are not here", hint=deepliif_files.HOW_TO_GET)
    if wanted == DECONVOLUTION and not Path(wanted).exists():
        raise ModelError(f"{DECONVOLUTION} has no weights", hint="It is a model of `mxbridge translate`")
    if Path(wanted).exists() or wanted.endswith(SUFFIXES) or os.sep in wanted:
        return by_path(Path(wanted))
    raise _unknown(wanted)


def by_path(path: Path) -> ModelFile:
    """A weights file, a folder that holds one (of several ``V<digits>.pt`` the highest), or the folder of a published model
    of many files. Raises ModelError."""
    if path.exists() and deepliif_files.is_deepliif(path):
        folder = deepliif_files.read_folder(path)
        digest = deepliif_files.digest(folder)
        return ModelFile(path, folder.card.name, digest, replace(folder.card, sha256=digest))
    if path.is_dir():
        inside = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
        official = [p for p in inside if OFFICIAL_FILE.fullmatch(p.name)]
        if len(inside) != 1 and not official:
            hint = "Name the file itself: --model FILE" if inside else "Is this the folder of a model?"
            raise ModelError(f"{path} holds {len(inside)} weights files", hint=hint)
        path = max(official, key=_version) if official else inside[0]
    if not path.is_file():
        raise ModelError(f"no weights file {path}", hint="`mxbridge models list` shows the names there are")
    if path.suffix not in SUFFIXES:
        raise ModelError(f"{path} is not a weights file", hint=f"It should end in {', '.join(SUFFIXES)}")
    card = read_card(path) or ModelCard()
    digest = sha256_of(path)
    _check_digest(path, digest, card.sha256, "its card says")
    return ModelFile(path, card.name, digest, replace(card, sha256=digest))


def open_model(model: ModelFile) -> Any:
    """Load a file with the system that its card names (entry points ``mxbridge.models``). Raises ModelError."""
    systems = entry_points(group="mxbridge.models", name=model.card.system)
    if not systems:
        known = ", ".join(sorted(e.name for e in entry_points(group="mxbridge.models")))
        raise ModelError(f"{model.path}: no system {model.card.system!r} is installed", hint=f"There is: {known}")
    load = next(iter(systems)).load()
    return load(model.path, replace(model.card, name=model.name))


def sha256_of(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror})") from error


def _recorded(known_as: str, path: Path, recorded: str | None) -> ModelFile:
    if path.is_dir():
        digest = deepliif_files.digest(deepliif_files.read_folder(path))
    elif path.is_file():
        digest = sha256_of(path)
    else:
        raise ModelError(f"the weights of {known_as!r} are gone ({path})", hint="Add or fetch them again")
    _check_digest(path, digest, recorded, "recorded when it came")
    card = _card_of(path, known_as)
    return ModelFile(path, card.name, digest, replace(card, sha256=digest), known_as)


def _check_digest(path: Path, digest: str, expected: str | None, says: str) -> None:
    if expected is not None and digest != expected:
        raise ModelError(f"{path} has changed: its sha256 is {digest}, {says} {expected}", hint="Get the file again")


def _card_of(path: Path | None, known_as: str) -> ModelCard:
    """The card of a catalogue entry; a file that is gone or without a card has the plain one."""
    if known_as == DECONVOLUTION:
        return DECONVOLUTION_CARD
    if path is not None and path.is_dir():
        return deepliif_files.read_folder(path).card
    card = read_card(path) if path is not None and path.is_file() else None
    if card is not None:
        return card
    return {OFFICIAL: OFFICIAL_CARD, DEEPLIIF: deepliif_files.CARD}.get(known_as, ModelCard())


def _demo_card() -> ModelCard:
    card = read_card(EMBEDDED)
    if card is None:
        raise ModelError(
            "the embedded weights have no card", hint="The installation is damaged; install mxbridge again"
        )
    return card


def _unknown(wanted: str) -> ModelError:
    names = dict.fromkeys([*BUILT_IN, OFFICIAL, DEEPLIIF, *sorted(_read_records()["models"])])
    return ModelError(f"no model {wanted!r}", hint=f"There is: {', '.join(names)}; or give a weights file")


def _version(path: Path) -> int:
    match = OFFICIAL_FILE.fullmatch(path.name)
    return int(match[1]) if match else -1


# --- the record of what was fetched and added: one small JSON file in the models folder ---


def _read_records() -> dict[str, dict[str, Any]]:
    path = models_home() / "catalogue.json"
    if not path.exists():
        return {"models": {}, "pins": {}}
    try:
        if path.stat().st_size > _RECORD_LIMIT:
            raise ValueError("too large")
        records = json.loads(path.read_bytes())
        models, pins = dict(records["models"]), dict(records["pins"])
        for name, record in models.items():
            if not _NAME.fullmatch(name) or not all(isinstance(record[k], str) for k in ("file", "sha256", "source")):
                raise ValueError(f"entry {name!r}")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelError(
            f"{path} is damaged ({error})", hint="Move it away and add or fetch the models again"
        ) from error
    return {"models": models, "pins": pins}


@contextmanager
def _locked_records() -> Iterator[dict[str, dict[str, Any]]]:
    """The records, for changing: read under a lock, written in one step when the block ends without an error."""
    from filelock import FileLock, Timeout

    home = models_home()
    _make_folder(home)
    try:
        with FileLock(home / "catalogue.lock", timeout=30):
            records = _read_records()
            before = json.dumps(records)
            yield records
            if json.dumps(records) != before:
                with write_atomically(home / "catalogue.json") as part:
                    part.write_text(json.dumps(records, indent=2, sort_keys=True) + "\n")
    except Timeout as error:
        raise ModelError(f"another program is changing the models in {home}", hint="Try again in a minute") from error


def _record(records: dict[str, dict[str, Any]], name: str, target: Path, digest: str, *, source: str) -> None:
    records["models"][name] = {
        "file": target.relative_to(models_home()).as_posix(),
        "sha256": digest,
        "source": source,
        "added": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error


def _copy(source: Path, target: Path) -> None:
    _make_folder(target.parent)
    with write_atomically(target) as part:
        shutil.copyfile(source, part)


# --- the network ---


def _newest_on_hub(scratch: Path) -> str:
    """Name of the official file with the highest number."""
    listing = _download(f"{HUB}/api/models/{HUB_REPOSITORY}", scratch / "listing.json")
    try:
        if listing.stat().st_size > _RECORD_LIMIT:
            raise ValueError("listing too large")
        names = [str(sibling["rfilename"]) for sibling in json.loads(listing.read_bytes())["siblings"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelError(f"the model hub gave no usable list of files ({error})", hint=NO_OFFICIAL_HINT) from error
    official = [Path(name) for name in names if OFFICIAL_FILE.fullmatch(name)]
    if not official:
        raise ModelError(f"no V<number>.pt in {HUB_REPOSITORY} on the hub", hint=NO_OFFICIAL_HINT)
    return max(official, key=_version).name


def _download(url: str, target: Path) -> Path:
    """Fetch ``url`` to ``target``, a few tries. Raises ModelError with the ways to do without a network."""
    import pooch
    from requests import RequestException

    for attempt in range(DOWNLOAD_TRIES):
        try:
            quiet = pooch.HTTPDownloader(progressbar=False, timeout=(10, 60))
            pooch.get_logger().setLevel("WARNING")
            return Path(pooch.retrieve(url, None, fname=target.name, path=target.parent, downloader=quiet))
        except (RequestException, OSError, ValueError) as error:
            if attempt + 1 == DOWNLOAD_TRIES:
                raise ModelError(f"{url} cannot be fetched ({_reason(error)})", hint=NO_OFFICIAL_HINT) from error
            time.sleep(2.0**attempt)
    raise AssertionError("unreachable")


def _reason(error: Exception) -> str:
    """A short reason: the texts of connection errors are chains of objects that tell people nothing."""
    text = str(error).split("\n")[0]
    return text if text and len(text) <= 120 and "object at 0x" not in text else type(error).__name__
