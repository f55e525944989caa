"""Samples: reading archives from strangers, fitting them to a model, cutting them into batches."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from surgery_ir.analysis import archive
from surgery_ir.analysis.inputs import InputSpec, input_specs
from surgery_ir.analysis.samples import Batch, Samples, check_samples, read_samples, require, split
from surgery_ir.errors import DataError
from tests.harness import graph

IMAGES = "g (float[n,3,4] x) => (float[n,3,4] y) { y = Relu(x) }"


def floats(*shape: int) -> NDArray[np.float32]:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def spec(*shape: int | str | None, dtype: Any = np.float32) -> InputSpec:
    return InputSpec(np.dtype(dtype), shape)


class TestReading:
    def test_arrays_and_labels(self, tmp_path: Path) -> None:
        np.savez_compressed(tmp_path / "d.npz", x=floats(5, 3), target=np.arange(5))
        samples = read_samples(tmp_path / "d.npz", labels="target")
        assert len(samples) == 5
        assert list(samples.feeds) == ["x"]
        assert np.array_equal(samples.feeds["x"], floats(5, 3))
        assert samples.labels is not None
        assert samples.labels.tolist() == [0, 1, 2, 3, 4]
        assert samples.source == str(tmp_path / "d.npz")
        assert read_samples(tmp_path / "d.npz").labels is None

    @pytest.mark.parametrize(
        ("arrays", "labels", "message"),
        [
            ({"x": floats(5, 3), "z": floats(4, 3)}, None, "'x' holds 5 samples, but 'z' holds 4"),
            ({"x": floats(5, 3), "t": np.arange(4)}, "t", "'x' holds 5 samples, but 'labels' holds 4"),
            ({"x": floats(5, 3), "z": floats(5)}, "t", "no array called 't' for the labels; there are 'x', 'z'"),
            ({"t": np.arange(4)}, "t", "holds no array for any input"),
            ({}, None, "holds no array for any input"),
            ({"x": floats(0, 3)}, None, "there are no samples"),
            ({"x": np.float32(1)}, None, "'x' is a scalar; the first axis must run over the samples"),
            ({"x": np.array([[1, 2], [3, np.nan]])}, None, r"input 'x' holds nan at \[1, 1\]"),
            ({"x": np.array([1, -np.inf, np.nan])}, None, r"input 'x' holds -inf at \[1\]"),
            ({"x": np.array([1, np.inf], np.float16)}, None, r"input 'x' holds inf at \[1\]"),
            ({"x": floats(2), "t": np.array([1, np.nan])}, "t", r"labels holds nan at \[1\]"),
            ({"x": np.array([1, "a", None], object)}, None, "'x' holds Python objects, which are never unpickled"),
        ],
    )
    def test_arrays_that_are_no_samples(
        self, arrays: dict[str, Any], labels: str | None, message: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "d.npz"
        np.savez(path, **arrays)
        with pytest.raises(DataError, match=message) as caught:
            read_samples(path, labels)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)

    def test_pickles_are_not_run(self, tmp_path: Path) -> None:
        class Bomb:
            def __reduce__(self) -> tuple[Any, ...]:
                return Path.touch, (tmp_path / "ran",)

        np.savez(tmp_path / "d.npz", x=np.array([Bomb()], object))
        with pytest.raises(DataError, match="never unpickled"):
            read_samples(tmp_path / "d.npz")
        np.save(tmp_path / "plain.npz", np.array([Bomb()], object))
        with pytest.raises(DataError, match=r"not an \.npz archive"):
            read_samples(tmp_path / "plain.npz.npy")
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda data: data[: len(data) // 2], "truncated or corrupt"),
            (lambda data: data[:100] + bytes(50) + data[150:], "'x' cannot be read, truncated or corrupt"),
            (lambda data: b"", "not an .npz archive"),
            (lambda data: b"x,y\n1,2\n", "not an .npz archive"),
            (lambda data: member("x.npy", b"no header"), "'x.npy' is not an array|'x' is not an array"),
            (lambda data: member("x.npy", b"\x93NUMPY\x01\x00\x06\x00{'a':"), "'x' cannot be read"),
            (lambda data: huge_header(), "'x' cannot be read"),
            (lambda data: encrypted(data), "'x' cannot be read"),
        ],
        ids=["truncated", "overwritten", "empty", "text", "no array", "bad header", "huge header", "encrypted"],
    )
    def test_files_that_are_no_archives(self, damage: Callable[[bytes], bytes], message: str, tmp_path: Path) -> None:
        path = tmp_path / "d.npz"
        np.savez_compressed(path, x=np.random.default_rng(0).standard_normal(400))
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(DataError, match=message) as caught:
            read_samples(path)
        assert str(caught.value).startswith(f"{path}: ")

    def test_archives_bigger_than_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        np.savez_compressed(tmp_path / "d.npz", x=np.zeros(100_000))
        monkeypatch.setattr(archive, "_memory", lambda: 500_000)
        with pytest.raises(DataError, match="more than this machine's memory"):
            read_samples(tmp_path / "d.npz")

    def test_paths_that_are_no_files(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no such file"):
            read_samples(tmp_path / "absent.npz")
        with pytest.raises(DataError, match="is not a file"):
            read_samples(tmp_path)


def member(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(name, content)
    return buffer.getvalue()


def huge_header() -> bytes:
    """An archive whose array claims a petabyte."""
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (140737488355328,), }"
    header += b" " * (117 - len(header)) + b"\n"
    return member("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(16))


def encrypted(data: bytes) -> bytes:
    """Set the flag of encryption in the local header and in the directory."""
    changed = bytearray(data)
    changed[6] |= 1
    changed[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(changed)


class TestFitting:
    @pytest.mark.parametrize(
        ("declared", "feeds"),
        [
            ("float[n,3,4] x", {"x": floats(5, 3, 4)}),
            ("float[?,3,?] x", {"x": floats(5, 3, 9)}),
            ("float[2,3,4] x", {"x": floats(5, 3, 4)}),
            ("float[2,3,4] x", {"x": floats(5, 2, 3, 4)}),
            ("float[n,3] x, int64 rate", {"x": floats(5, 1, 3), "rate": np.arange(5)}),
            ("float[1,3] x, float[2,1,8] state", {"x": floats(5, 3), "state": floats(5, 2, 1, 8)}),
            ("string[n] x", {"x": np.array(["a", "bc"])}),
            ("float[] x", {"x": floats(5)}),
        ],
    )
    def test_samples_that_fit(self, declared: str, feeds: dict[str, NDArray[Any]]) -> None:
        names = [item.split()[1] for item in declared.split(", ")]
        model = graph(f"g ({declared}) => (float y) {{ y = Shape({names[0]}) }}")
        check_samples(Samples.from_arrays(feeds), model)

    @pytest.mark.parametrize(
        ("declared", "feeds", "message"),
        [
            (
                "float[n,3] x, float[n,3] z",
                {"x": floats(2, 3), "q": floats(2, 3)},
                "no array for input 'z'; 'q' is no input .*; the model's inputs are 'x', 'z'",
            ),
            ("float[n,3] x", {"z": floats(2, 3)}, "no array for input 'x'; 'z' is no input"),
            (
                "float[n,3] x",
                {"x": np.zeros((2, 3))},
                r"'x' needs float32, the samples are float64; cast with \.astype\(np\.float32\)",
            ),
            ("int64[n] x", {"x": np.zeros(2, np.int32)}, r"'x' needs int64, .* int32; cast with \.astype\(np\.int64\)"),
            ("string[n] x", {"x": np.zeros(2)}, "'x' needs strings, the samples are float64"),
            (
                "float[n,3,w] x",
                {"x": floats(2, 4, 5)},
                r"'x' must be float32 \[n, 3, w\], but the samples have shape \[2, 4, 5\]: axis 1 is 4, not 3",
            ),
            ("float[2,3] x", {"x": floats(5, 2, 4)}, r"shape \[5, 2, 4\]: axis 2 is 4, not 3"),
            (
                "float[n,3,w] x",
                {"x": floats(6)},
                r"must be float32 \[n, 3, w\], but the samples have shape \[6\]; give it that many axes, or one more",
            ),
            ("float[n,3] x", {"x": floats(2, 1, 1, 3)}, "give it that many axes, or one more ahead"),
            (
                "float[2,3] x, float[4,3] z",
                {"x": floats(8, 3), "z": floats(8, 3)},
                r"take different numbers of samples \('x': 2, 'z': 4\)",
            ),
            (
                "float[2,3] x, float rate",
                {"x": floats(8, 3), "rate": floats(8)},
                r"take different numbers of samples \('x': 2, 'rate': 1\)",
            ),
            ("seq(float[3]) x", {"x": floats(8, 3)}, "input 'x' is no tensor but .*Sequence"),
        ],
    )
    def test_samples_that_do_not_fit(self, declared: str, feeds: dict[str, NDArray[Any]], message: str) -> None:
        model = graph(
            f"g ({declared}) => (int64[k] y) {{ y = Identity(k) }}".replace("Identity(k)", "Constant<value_ints=[1]>()")
        )
        with pytest.raises(DataError, match=message) as caught:
            check_samples(Samples.from_arrays(feeds, source="d.npz"), model)
        assert str(caught.value).startswith("d.npz: ")

    def test_too_few_samples(self) -> None:
        samples = Samples({"x": floats(5, 3)}, source="d.npz")
        require(samples, 5, "the repair")
        with pytest.raises(DataError, match=r"^d\.npz: the repair needs at least 6 samples, there are 5$"):
            require(samples, 6, "the repair")

    def test_specs_of_a_graph(self) -> None:
        specs = input_specs(
            graph("g (float[n,3] x, int64 k, string[2] s, float[2] w) => (float[n,3] y) <float[2] w> { y = Relu(x) }")
        )
        assert specs == {
            "x": spec("n", 3),
            "k": spec(dtype=np.int64),
            "s": spec(2, dtype=object),
        }
        assert [str(item) for item in specs.values()] == ["float32 [n, 3]", "int64 []", "string [2]"]


def batches(samples: Samples, specs: dict[str, InputSpec], size: int) -> list[Batch]:
    return list(samples.batches(specs, size))


class TestBatches:
    @pytest.mark.parametrize("shape", [("n", 3), (None, 3), ("n", "m")])
    def test_open_batch_size(self, shape: tuple[int | str | None, ...]) -> None:
        found = batches(Samples({"x": floats(5, 3)}), {"x": spec(*shape)}, 2)
        assert [(batch.count, batch.size, batch.stacked, batch.fixed) for batch in found] == [
            (2, 2, True, False),
            (2, 2, True, False),
            (1, 1, True, False),
        ]
        assert np.array_equal(np.concatenate([batch.feeds["x"] for batch in found]), floats(5, 3))

    def test_fixed_batch_size(self) -> None:
        found = batches(Samples({"x": floats(5, 3)}), {"x": spec(2, 3)}, 64)
        assert [(batch.count, batch.size, batch.fixed) for batch in found] == [(2, 2, True), (2, 2, True), (1, 2, True)]
        assert np.array_equal(found[-1].feeds["x"], floats(5, 3)[[4, 4]])
        assert np.array_equal(np.concatenate([batch.trim(batch.feeds["x"]) for batch in found]), floats(5, 3))

    def test_fewer_samples_than_the_fixed_size(self) -> None:
        (found,) = batches(Samples({"x": floats(1, 3)}), {"x": spec(4, 3)}, 64)
        assert found.feeds["x"].tolist() == [[0, 1, 2]] * 4
        assert found.trim(found.feeds["x"]).shape == (1, 3)

    def test_whole_inputs_are_run_alone(self) -> None:
        samples = Samples({"x": floats(3, 2, 4), "rate": np.array([7, 8, 9])})
        found = batches(samples, {"x": spec(2, 4), "rate": spec(dtype=np.int64)}, 64)
        assert [(batch.count, batch.size, batch.stacked) for batch in found] == [(1, 1, False)] * 3
        assert [batch.feeds["x"].shape for batch in found] == [(2, 4)] * 3
        assert [batch.feeds["rate"].shape for batch in found] == [()] * 3
        assert [int(batch.feeds["rate"]) for batch in found] == [7, 8, 9]

    def test_a_whole_input_beside_one_with_an_axis_of_samples(self) -> None:
        samples = Samples({"x": floats(2, 4), "state": floats(2, 3, 1, 5)})
        found = batches(samples, {"x": spec("n", 4), "state": spec(3, "n", 5)}, 64)
        assert [(batch.feeds["x"].shape, batch.feeds["state"].shape) for batch in found] == [((1, 4), (3, 1, 5))] * 2
        assert [batch.stacked for batch in found] == [True, True]

    def test_inputs_of_unknown_rank(self) -> None:
        (found,) = batches(Samples({"x": floats(2, 4)}), {"x": InputSpec(None, None)}, 64)
        assert found.feeds["x"].shape == (2, 4)

    def test_samples_that_do_not_fit(self) -> None:
        with pytest.raises(DataError, match="no array for input 'z'"):
            batches(Samples({"x": floats(2, 4)}), {"z": spec("n", 4)}, 64)


class TestTaking:
    samples = Samples({"x": floats(10, 2), "z": floats(10)}, np.arange(10))

    @pytest.mark.parametrize(
        ("which", "wanted"),
        [
            (3, [0, 1, 2]),
            (np.int64(2), [0, 1]),
            (99, list(range(10))),
            (slice(4, 8, 2), [4, 6]),
            ([7, 1], [7, 1]),
            (np.array([9, 9]), [9, 9]),
        ],
    )
    def test_parts(self, which: Any, wanted: list[int]) -> None:
        taken = self.samples.take(which)
        assert len(taken) == len(wanted)
        assert taken.labels is not None
        assert taken.labels.tolist() == wanted
        assert taken.feeds["z"].tolist() == wanted
        assert taken.feeds["x"][:, 0].tolist() == [2 * index for index in wanted]

    def test_a_count_shares_memory(self) -> None:
        assert np.shares_memory(self.samples.take(3).feeds["x"], self.samples.feeds["x"])


class TestSplitting:
    @pytest.mark.parametrize(
        ("length", "weights", "sizes"),
        [
            (10, (0.6, 0.2, 0.2), [6, 2, 2]),
            (7, (0.5, 0.5), [4, 3]),
            (1000, (3, 1), [750, 250]),
            (3, (0.9, 0.05, 0.05), None),
            (4, (1,), [4]),
            (2, (0.6, 0.2, 0.2), None),
        ],
    )
    def test_sizes(self, length: int, weights: tuple[float, ...], sizes: list[int] | None) -> None:
        samples = Samples({"x": floats(length, 2)}, np.arange(length), "d.npz")
        if sizes is None:
            with pytest.raises(DataError, match=f"^d.npz: {length} samples are too few to be split into 3 parts"):
                split(samples, weights, seed=0)
            return
        parts = split(samples, weights, seed=0)
        assert [len(part) for part in parts] == sizes
        members = [part.labels.tolist() for part in parts if part.labels is not None]
        assert sorted(index for part in members for index in part) == list(range(length))
        assert all(part == sorted(part) for part in members)
        assert all(
            part.feeds["x"][:, 0].tolist() == [2 * i for i in found] for part, found in zip(parts, members, strict=True)
        )

    def test_the_seed_decides(self) -> None:
        samples = Samples({"x": floats(100)})

        def members(seed: int) -> list[list[float]]:
            return [part.feeds["x"].tolist() for part in split(samples, (0.5, 0.5), seed)]

        assert members(1) == members(1)
        assert members(1) != members(2)

    @pytest.mark.parametrize("weights", [(), (0.5, 0.0), (1.0, -1.0), (float("nan"), 1.0), (float("inf"), 1.0)])
    def test_weights_that_are_no_weights(self, weights: tuple[float, ...]) -> None:
        with pytest.raises(ValueError, match="weights must be positive"):
            split(Samples({"x": floats(100)}), weights, 0)


def test_samples_need_an_array() -> None:
    with pytest.raises(DataError, match="there is no array for any input"):
        Samples({})
