from __future__ import annotations

import numpy as np
import pytest

from surgery_ir.analysis.inputs import InputSpec
from surgery_ir.analysis.synthetic import synthetic_feeds
from surgery_ir.errors import DataError


def spec(dtype: str, *shape: int | str | None) -> InputSpec:
    return InputSpec(np.dtype(dtype), shape)


def test_axes_come_from_declarations_batch_and_dims() -> None:
    specs = {
        "image": spec("float32", "N", 3, "H", "W"),
        "state": spec("float32", 2, "N", 8),
        "mask": spec("bool", None, 4),
        "rate": spec("int64"),
    }
    feeds = synthetic_feeds(specs, 5, {"H": 6, "W": 7})
    assert {name: array.shape for name, array in feeds.items()} == {
        "image": (5, 3, 6, 7),
        "state": (2, 5, 8),
        "mask": (5, 4),
        "rate": (),
    }
    assert {name: array.dtype for name, array in feeds.items()} == {name: item.dtype for name, item in specs.items()}


def test_values_are_seeded_and_valid_everywhere() -> None:
    specs = {"f": spec("float16", 64), "byte": spec("uint8", 999), "index": spec("int32", 9), "flag": spec("bool", 9)}
    one, two, other = (synthetic_feeds(specs, seed=seed) for seed in (0, 0, 1))
    assert all(np.array_equal(one[name], two[name]) for name in specs)
    assert not np.array_equal(one["f"], other["f"])
    assert (one["byte"].min(), one["byte"].max()) == (0, 255)
    assert not one["index"].any()
    assert one["flag"].all()


@pytest.mark.parametrize(
    ("given", "dims", "says"),
    [
        (spec("float32", "N", "L"), {}, r"axis 1 is not known; set it with --dim L=N"),
        (spec("float32", "N", None), {}, "axis 1 is not known; give samples"),
        (spec("float32", "N"), {"length": 3}, r"no symbolic axis called 'length' \(it has: N\)"),
        (spec("float32", "?", "?"), {}, "axis 1 is not known; set it with --dim"),
        (InputSpec(np.dtype("float32"), None), {}, "no random values"),
        (spec("object", 1), {}, "no random values"),
    ],
)
def test_what_cannot_be_made_up(given: InputSpec, dims: dict[str, int], says: str) -> None:
    with pytest.raises(DataError, match=says):
        synthetic_feeds({"x": given}, 1, dims)
