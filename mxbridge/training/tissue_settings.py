"""What a simulated tissue is made of: every setting of the simulator, with its unit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Marker:
    """One stained channel.

    membrane, cytoplasm, nucleus: where a positive cell carries it, relative brightness of each compartment.
    peak: counts above background of a typical positive pixel.
    spread: standard deviation of the log brightness between positive cells.
    leak: brightness of negative cells relative to positive ones (a cell draws between 0 and twice this).
    patchiness: 0 even, 1 strongly mottled within a cell.
    photons: counts detected at ``peak`` in this channel alone; None takes the camera's.
    """

    name: str
    membrane: float = 1.0
    cytoplasm: float = 0.0
    nucleus: float = 0.0
    peak: float = 4000.0
    spread: float = 0.35
    leak: float = 0.03
    patchiness: float = 0.35
    photons: float | None = None


@dataclass(frozen=True)
class CellType:
    """One kind of cell.

    share: relative frequency; diameter_um: mean diameter (each cell varies by ``diameter_spread`` of it);
    elongation: ratio of the long to the short axis; niche: number of the neighbourhood it seeks, -1 for anywhere.
    positive: pairs (marker name, share of these cells that express it).
    autofluorescence: relative to other types.
    """

    name: str
    share: float
    diameter_um: float = 9.0
    elongation: float = 1.15
    niche: int = -1
    positive: tuple[tuple[str, float], ...] = ()
    autofluorescence: float = 1.0


@dataclass(frozen=True)
class TissueSettings:
    """A field of tissue and the microscope that looks at it. Lengths in µm, brightness relative to a marker's ``peak``.

    Geometry
      height_um, width_um, um_per_px: the field. spacing_um: mean distance of neighbouring cells. filled: share of places
      that hold a cell. packing: factor on radii; from about 1.2 on cells touch. diameter_spread: relative. niches: number
      of neighbourhoods; niche_um: their size; niche_strength: 0 well mixed .. 3 separate. gaps: share of the field
      without tissue. segmentation_error_um: how far the outlines handed out are off the true ones.
    Spill-over
      psf_um: sigma of the sharp image. haze, haze_um: share and sigma of out-of-focus light. membrane_sharing: share of
      a membrane's brightness on the neighbour's side of a border. bleed: share of the previous channel seen in this one.
    Background
      background: even level. shading: relative fall of illumination across the field. matrix: bright fibrous texture
      between cells. autofluorescence: of cell bodies, granular, the same cells in every channel.
    Artefacts
      specks_per_mm2 (bright dots, 1 to 6 peaks, per channel), fibres_per_mm2 (bright curved lines, in all channels),
      folds (number of bands where everything is brighter and blurred).
    Camera
      photons: detected at a marker's peak (shot noise). read_noise: counts. offset: counts added everywhere.
    """

    markers: tuple[Marker, ...]
    types: tuple[CellType, ...]
    height_um: float = 320.0
    width_um: float = 320.0
    um_per_px: float = 0.5
    spacing_um: float = 10.0
    filled: float = 0.9
    packing: float = 1.15
    diameter_spread: float = 0.12
    niches: int = 3
    niche_um: float = 80.0
    niche_strength: float = 1.5
    gaps: float = 0.08
    segmentation_error_um: float = 0.3
    psf_um: float = 0.45
    haze: float = 0.08
    haze_um: float = 4.0
    membrane_sharing: float = 0.25
    bleed: float = 0.0
    background: float = 0.03
    shading: float = 0.15
    matrix: float = 0.04
    autofluorescence: float = 0.05
    specks_per_mm2: float = 60.0
    fibres_per_mm2: float = 8.0
    folds: int = 0
    photons: float = 150.0
    read_noise: float = 8.0
    offset: float = 100.0

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x) in pixels."""
        return max(8, round(self.height_um / self.um_per_px)), max(8, round(self.width_um / self.um_per_px))

    @property
    def marker_names(self) -> tuple[str, ...]:
        return tuple(m.name for m in self.markers)
