"""What is known of a system without its weights: enough to read the images it made, so that nuclei can be found again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from mxbridge.errors import UsageError

if TYPE_CHECKING:
    from mxbridge.models.translators import Translator


@dataclass(frozen=True)
class System:
    """The facts of :class:`~mxbridge.models.translators.Translator` that say what its images are."""

    name: str
    um_per_px: float
    weights_sha256: str = ""
    segs: tuple[str, ...] = ("Seg",)
    marker_image: str | None = None
    separating_image: tuple[str, ...] = ()
    fluorescence: tuple[str, ...] = ()
    brightfield: tuple[str, ...] = ()
    window: int = 512

    @classmethod
    def of(cls, translator: Translator) -> Self:
        return cls(
            name=translator.name,
            um_per_px=translator.um_per_px,
            weights_sha256=translator.weights_sha256,
            segs=tuple(translator.segs),
            marker_image=translator.marker_image,
            separating_image=tuple(translator.separating_image),
            fluorescence=tuple(translator.fluorescence),
            brightfield=tuple(translator.brightfield),
            window=translator.window,
        )

    @classmethod
    def from_record(cls, record: Any) -> Self:
        """What :meth:`to_record` gave. Raises ValueError, TypeError, LookupError."""
        if not isinstance(record, Mapping):
            raise TypeError("no record of a system")
        names = {
            key: tuple(str(n) for n in record[key])
            for key in ("segs", "separating_image", "fluorescence", "brightfield")
        }
        marker = record["marker_image"]
        return cls(
            name=str(record["name"]),
            um_per_px=float(record["um_per_px"]),
            weights_sha256=str(record["weights_sha256"]),
            marker_image=None if marker is None else str(marker),
            window=int(record["window"]),
            **names,
        )

    def to_record(self) -> dict[str, Any]:
        return asdict(self)

    def require_segs(self, option: str) -> None:
        """Raise UsageError where there is nothing to find nuclei in."""
        if not self.segs:
            raise UsageError(
                f"{self.name} makes no segmentation image, so there are no nuclei for {option}",
                hint="Use --outputs channels",
            )

    def separating(self, images: tuple[str, ...]) -> str | None:
        """The best of the images there are by which touching nuclei can be parted."""
        return next((name for name in self.separating_image if name in images), None)
