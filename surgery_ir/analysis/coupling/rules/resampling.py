"""Operators that resample or rearrange spatial axes: Resize, Pad, GridSample, DepthToSpace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.coupling.origins import origins
from surgery_ir.analysis.coupling.relations import Frozen, Mapped, Relation, Same
from surgery_ir.analysis.coupling.rule import OperatorRule
from surgery_ir.analysis.coupling.rules.reduce import along
from surgery_ir.analysis.coupling.site import Change, Kept, Site

__all__ = ["RULES"]

ROI, SCALES, SIZES = 1, 2, 3
"""Inputs of Resize since opset 11."""


def _resize(site: Site) -> Iterator[Relation]:
    """Axes that keep their size element by element pass."""
    rank = len(site.shape(0))
    listed = _listed_axes(site)
    kept = _kept_by_sizes(site, listed) if site.has(SIZES) else _kept_by_scales(site, listed)
    kept -= _shifted(site, listed)
    resized = [axis for axis in range(rank) if axis in listed and axis not in kept]
    yield from along(site, resized, "resizes it")


def _listed_axes(site: Site) -> list[int]:
    """Axes that the operands speak of: all of them before opset 18."""
    rank = len(site.shape(0))
    return [axis if axis >= 0 else axis + rank for axis in site.numbers("axes", tuple(range(rank)))]


def _kept_by_sizes(site: Site, listed: Sequence[int]) -> set[int]:
    if site.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        return set()  # the axis that fits worst sets the scale of all
    (sizes,) = _by_axis(site, SIZES, listed)
    return {axis for axis, size in zip(listed, sizes, strict=True) if size == site.shape(0)[axis]}


def _kept_by_scales(site: Site, listed: Sequence[int]) -> set[int]:
    """Scales stand in an attribute (Upsample 7), in the second operand (opset 9 and 10), or after the region."""
    if "scales" in site.node.attributes:
        scales = np.array(site.node.attributes["scales"].as_floats())
    else:
        (scales,) = _by_axis(site, SCALES if site.has(SCALES) else 1, listed)
    return {axis for axis, scale in zip(listed, scales, strict=True) if scale == 1}


def _shifted(site: Site, listed: Sequence[int]) -> set[int]:
    """Axes that are sampled between or beside their elements even if their size stays."""
    mode = site.text("coordinate_transformation_mode", "half_pixel")
    if mode == "tf_half_pixel_for_nn" and site.text("nearest_mode", "round_prefer_floor") not in (
        "floor",
        "round_prefer_floor",
    ):
        return set(listed)
    if mode == "tf_crop_and_resize":
        region = _by_axis(site, ROI, listed).T
        return {axis for axis, (start, end) in zip(listed, region, strict=True) if (start, end) != (0, 1)}
    return set()


def _by_axis(site: Site, index: int, listed: Sequence[int]) -> NDArray[np.float64]:
    """Values of an operand, one column for every axis; NaN where they may be others for another sample.

    They are certain where they are constant or computed from the size of the axis itself: that of an axis that can be
    cut is the same for every sample, and who computes with it does not notice the cut.
    """
    values = site.operand(index).astype(np.float64).reshape(-1, len(listed))
    if not site.is_constant(index):
        source = site.input(0, 0).value
        made_of = origins(site, index).reshape(values.shape)
        for place, axis in enumerate(listed):
            if not all(origin <= {(source, axis)} for origin in made_of[:, place]):
                values[:, place] = np.nan
    return values


def _write_sizes(site: Site, kept: Kept) -> Change:
    """Name the new sizes of axes that are listed."""
    if not site.has(SIZES):
        return Change()
    listed = _listed_axes(site)
    elements = {listed.index(axis): size for axis, size in kept.sizes().items() if axis in listed}
    return Change(elements={SIZES: elements} if elements else {})


def _pad(site: Site) -> Iterator[Relation]:
    """Axes that get nothing at either end pass; pads are an operand since opset 11, an attribute before."""
    rank = len(site.shape(0))
    listed = [int(axis) % rank for axis in site.operand(3)] if site.has(3) else list(range(rank))
    pads = _by_axis(site, 1, listed) if site.has(1) else np.array(site.numbers("pads")).reshape(2, -1)
    padded = [axis for axis, ends in zip(listed, pads.T, strict=True) if np.any(ends)]
    yield from along(site, padded, "pads it")


def _grid_sample(site: Site) -> Iterator[Relation]:
    """Positions in the grid are those of the output; every channel is sampled alike."""
    rank = len(site.shape(0))
    yield Same(site.input(0, 0), site.output(0))
    yield Same(site.input(0, 1), site.output(1))
    yield Same(site.input(1, 0), site.output(0))
    for axis in range(2, rank):
        yield Frozen(site.input(0, axis), "samples it between its elements")
        yield Same(site.input(1, axis - 1), site.output(axis))
    yield Frozen(site.input(1, rank - 1), "reads coordinates along it")


def _depth_to_space(site: Site) -> Iterator[Relation]:
    """A channel of the output is spread over one channel of the input for every position in a block."""
    deep, block = np.arange(site.shape(0)[1]), site.number("blocksize", 1) ** 2
    by_column = site.text("mode", "DCR") == "CRD"
    shallow = deep // block if by_column else deep % (len(deep) // block)
    yield Same(site.input(0, 0), site.output(0))
    yield Mapped(site.input(0, 1), deep, site.output(1), shallow)
    yield from _blocks(site)


def _space_to_depth(site: Site) -> Iterator[Relation]:
    """A channel of the input turns into one channel of the output for every position in a block."""
    deep = np.arange(site.output_shape()[1])
    yield Same(site.input(0, 0), site.output(0))
    yield Mapped(site.output(1), deep, site.input(0, 1), deep % site.shape(0)[1])
    yield from _blocks(site)


def _blocks(site: Site) -> Iterator[Relation]:
    for axis in (2, 3):
        yield Frozen(site.input(0, axis), "moves blocks of it")
        yield Frozen(site.output(axis), "moves blocks of it")


RULES: Mapping[str, OperatorRule] = {
    "Resize": OperatorRule(_resize, _write_sizes),
    "Upsample": OperatorRule(_resize),
    "Pad": OperatorRule(_pad),
    "GridSample": OperatorRule(_grid_sample),
    "DepthToSpace": OperatorRule(_depth_to_space),
    "SpaceToDepth": OperatorRule(_space_to_depth),
}
