from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from surgery_ir.analysis.cost import cost, layer_costs
from surgery_ir.analysis.runtime import Session
from surgery_ir.analysis.shapes import infer_shapes
from surgery_ir.analysis.trace import sample_shapes
from surgery_ir.errors import DataError
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.graph.serialize import read_model, write_model
from tests import harness

HEAD = '<ir_version: 10, opset_import: ["" : 22, "com.microsoft" : 1]>\n'


def model(text: str) -> Graph:
    return Graph.from_proto(parser.parse_model(HEAD + text))


def text(inputs: str, node: str, weights: str = "", output: str = "float y") -> str:
    return f"g ({inputs}) => ({output}) <{weights}> {{ {node} }}"


def ones(dtype: str, *shape: int) -> str:
    size = int(np.prod(shape))
    return f"{dtype}[{','.join(map(str, shape))}] w = {{{','.join(['1'] * size)}}}"


MACS = [
    # an output scalar of a convolution reads (input channels / groups) x (kernel) scalars
    ("plain", "float[N,3,8,8] x", "y = Conv<pads=[1,1,1,1]>(x, w)", ones("float", 4, 3, 3, 3), 4 * 8 * 8 * 3 * 9),
    ("stride", "float[N,3,8,8] x", "y = Conv<strides=[2,2]>(x, w)", ones("float", 4, 3, 3, 3), 4 * 3 * 3 * 3 * 9),
    ("dilation", "float[N,3,9,9] x", "y = Conv<dilations=[2,2]>(x, w)", ones("float", 4, 3, 3, 3), 4 * 5 * 5 * 27),
    ("groups", "float[N,6,8,8] x", "y = Conv<group=3>(x, w)", ones("float", 9, 2, 1, 1), 9 * 64 * 2),
    ("depthwise", "float[N,6,8] x", "y = Conv<group=6>(x, w)", ones("float", 6, 1, 3), 6 * 6 * 3),
    ("transpose", "float[N,4,5,5] x", "y = ConvTranspose<strides=[2,2]>(x, w)", ones("float", 4, 3, 2, 2), 4 * 25 * 12),
    ("grouped transpose", "float[N,4,5] x", "y = ConvTranspose<group=2>(x, w)", ones("float", 4, 3, 2), 4 * 5 * 6),
    ("gemm", "float[N,6] x", "y = Gemm(x, w)", ones("float", 6, 5), 30),
    ("gemm, transposed weight", "float[N,6] x", "y = Gemm<transB=1>(x, w)", ones("float", 5, 6), 30),
    ("gemm, transposed input", "float[6,2] x", "y = Gemm<transA=1>(x, w)", ones("float", 6, 5), 60),
    ("matmul", "float[N,7,6] x", "y = MatMul(x, w)", ones("float", 6, 5), 7 * 30),
    ("matmul, vector", "float[N,7,6] x", "y = MatMul(x, w)", ones("float", 6), 7 * 6),
    ("matmul, weight on the left", "float[N,6,7] x", "y = MatMul(w, x)", ones("float", 5, 6), 7 * 30),
    ("matmul of activations", "float[N,2,7,6] x, float[N,2,6,3] z", "y = MatMul(x, z)", "", 2 * 7 * 6 * 3),
    ("integer convolution", "uint8[N,3,4,4] x", "y = ConvInteger(x, w)", ones("uint8", 2, 3, 1, 1), 16 * 6),
    ("integer product", "uint8[N,4] x", "y = MatMulInteger(x, w)", ones("uint8", 4, 3), 12),
    ("recurrent", "float[5,N,3] x", "y = RNN<hidden_size=2>(x, w, r)", None, 5 * (2 * 3 + 2 * 2)),
    ("einsum", "float[N,7,6] x", 'y = Einsum<equation="bij,jk->bik">(x, w)', ones("float", 6, 5), 7 * 30),
    ("einsum, implicit", "float[2,6] x", 'y = Einsum<equation="ij, jk">(x, w)', ones("float", 6, 5), 2 * 30),
    ("no product", "float[N,6] x", "y = Relu(x)", "", 0),
]


@pytest.mark.parametrize(
    ("inputs", "node", "weights", "expected"), [row[1:] for row in MACS], ids=[row[0] for row in MACS]
)
def test_macs_of_one_sample(inputs: str, node: str, weights: str | None, expected: int) -> None:
    if weights is None:
        weights = "float[1,2,3] w = {1,1,1,1,1,1}, float[1,2,2] r = {1,1,1,1}"
        inputs = inputs.replace("N", "1")
    output = "int32 y" if "Integer" in node else "float y"
    graph = model(text(inputs, node, weights, output))
    assert cost(graph).macs == expected
    assert cost(graph).sparse_macs == expected


@pytest.mark.parametrize(
    ("inputs", "node", "weights"),
    [
        ("float[N,L,6] x", "y = MatMul(x, w)", ones("float", 6, 5)),
        ("float[N,6] x", "y = com.microsoft.FusedGemm(x, w)", ones("float", 6, 5)),
        ("float[2,6] x", 'y = Einsum<equation="...j,jk->...k">(x, w)', ones("float", 6, 5)),
        ("float[2,6] x", 'y = Einsum<equation="ij,kl->il">(x, w)', ones("float", 6, 5)),
        (
            "float[2,6] x, bool c",
            "y = If(c) <then_branch = a () => (float u) { u = MatMul(x, w) }, else_branch = b () => (float v) "
            "{ v = Relu(x) }>",
            ones("float", 6, 6),
        ),
    ],
    ids=["open axis", "foreign operator", "ellipsis", "summed before multiplying", "subgraph"],
)
def test_what_cannot_be_known_is_not_guessed(inputs: str, node: str, weights: str) -> None:
    graph = model(text(inputs, node, weights))
    found = cost(graph)
    assert found.macs is None
    assert found.sparse_macs is None
    assert found.unknown == tuple(item.name for item in graph.model.graph)
    assert found.params == len(weights.partition("{")[2].split(","))


def test_a_subgraph_that_does_not_multiply_is_free() -> None:
    bodies = "then_branch = a () => (float u) { u = Relu(x) }, else_branch = b () => (float v) { v = Tanh(x) }"
    assert cost(model(text("float[2,6] x, bool c", f"y = If(c) <{bodies}>"))).macs == 0


@pytest.mark.parametrize(
    ("declared", "given", "expected"),
    [
        ("float[N,L,6] x", {"x": (1, 4, 6)}, 4 * 30),
        ("float[N,L,6] x", {}, None),
        ("float[?,7,6] x", {}, 7 * 30),
        ("float[8,7,6] x", {}, 8 * 7 * 30),  # a batch that the model fixes counts as it stands
        ("float[] x", {"x": (1, 7, 6)}, 7 * 30),
    ],
)
def test_open_axes_come_from_the_sample(declared: str, given: dict[str, tuple[int, ...]], expected: int | None) -> None:
    assert cost(model(text(declared, "y = MatMul(x, w)", ones("float", 6, 5))), given).macs == expected


def test_the_batch_symbol_is_one_wherever_it_stands() -> None:
    node = "s = MatMul(x, w) u = MatMul(z, v) y = Concat<axis=0>(s, u)"
    constants = f"{ones('float', 6, 5)}, float[3,1] v = {{1,1,1}}"
    graph = model(text("float[N,6] x, float[2,N,3] z", node, constants))
    assert cost(graph).macs == 30 + 2 * 3


def test_declared_inner_shapes_do_not_contradict_the_batch_of_one() -> None:
    node = "h = MatMul(x, w) y = MatMul(h, v)"
    inner = f"float[16,5] h, {ones('float', 6, 5)}, float[5,1] v = {{1,1,1,1,1}}"
    graph = model(text("float[N,6] x", node, inner, "float[16,1] y"))
    assert cost(graph).macs == 35


def test_sample_of_another_rank_is_refused() -> None:
    with pytest.raises(DataError, match="'x': the model declares 2 axes, the sample has 3"):
        cost(model(text("float[N,6] x", "y = Relu(x)")), {"x": (1, 2, 6)})


def test_zeros_save_sparse_macs_in_proportion() -> None:
    graph = model(text("float[N,3,8,8] x", "y = Conv(x, w) ", ones("float", 4, 3, 3, 3)))
    kept = np.ones((4, 3, 3, 3))
    kept[:, 1:] = 0
    Editor(graph, "test").set_weights("w", kept)
    found = cost(graph)
    assert (found.params, found.nonzeros) == (108, 36)
    assert (found.macs, found.sparse_macs) == (36 * 108, 36 * 36)


def test_shared_and_derived_weights_count_once_for_their_reader() -> None:
    graph = model(
        text(
            "float[N,2] x",
            "d = DequantizeLinear(q, scale) h = MatMul(x, d) u = MatMul(h, w) y = MatMul(u, w)",
            "int8[2,2] q = {1,0,3,4}, float scale = {0.5}, float[2,2] w = {1,2,0,0}",
        )
    )
    rows = [
        (layer.op_type, layer.params, layer.nonzeros, layer.macs, layer.sparse_macs) for layer in layer_costs(graph)
    ]
    assert rows == [("MatMul", 5, 4, 4, 3), ("MatMul", 4, 2, 4, 2), ("MatMul", 0, 0, 4, 2)]
    found = cost(graph)
    assert (found.params, found.nonzeros) == (9, 6)


def test_integers_that_are_no_weights_are_no_parameters() -> None:
    graph = model(text("float[2,6] x", "y = Reshape(x, s)", "int64[2] s = {3,4}"))
    assert (cost(graph).params, layer_costs(graph)) == (0, ())


def test_layers_add_up_to_the_whole(samples_dir: Path) -> None:
    graph = read_model(samples_dir / "fashion_resnet.onnx")
    layers, whole = layer_costs(graph), cost(graph)
    assert sum(layer.params for layer in layers) == whole.params
    assert sum(layer.nonzeros for layer in layers) == whole.nonzeros
    assert sum(layer.macs or 0 for layer in layers) == whole.macs
    assert whole.macs == 12_299_616
    assert sum(layer.bytes for layer in layers) == pytest.approx(whole.bytes, rel=0.03)


def weights(kind: str) -> onnx.TensorProto:
    """A 100 x 100 weight with 1,000 nonzeros, stored in one of the ways that protobuf offers."""
    array = np.zeros((100, 100), np.float32)
    array.flat[::10] = np.arange(1, 1001)
    if kind == "float_data":
        return helper.make_tensor("w", TensorProto.FLOAT, array.shape, array.reshape(-1).tolist())
    if kind == "int32_data":
        half = array.astype(np.float16)
        return helper.make_tensor("w", TensorProto.FLOAT16, array.shape, half.reshape(-1).tolist())
    return numpy_helper.from_array(array, "w")


@pytest.mark.parametrize("kind", ["raw", "float_data", "int32_data", "external", "sparse", "small and sparse"])
def test_bytes_are_those_of_the_file(kind: str, tmp_path: Path) -> None:
    tensor = weights(kind)
    if kind == "small and sparse":
        tensor = numpy_helper.from_array(np.eye(15, dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", tensor.data_type, ["N", tensor.dims[0]])],
        [helper.make_tensor_value_info("y", tensor.data_type, ["N", tensor.dims[1]])],
        [tensor],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    source = tmp_path / "in.onnx"
    onnx.save(proto, source, save_as_external_data=kind == "external", size_threshold=0)
    loaded = read_model(source)
    if "sparse" in kind:
        Editor(loaded, "test").store_sparse("w")
    out = tmp_path / "out"
    out.mkdir()
    write_model(loaded, out / "out.onnx")
    written = sum(file.stat().st_size for file in out.iterdir())
    assert cost(loaded).bytes == pytest.approx(written, rel=0.01)
    assert len(list(out.iterdir())) == (2 if kind == "external" else 1)


SPARSE_INDICES = """
net (float[1,5] x) => (float[n,3] y) <float[2,3] w> {
  [find] i = NonZero(x)
  [cast] f = Cast<to=1>(i)
  [turn] t = Transpose(f)
  [product] y = MatMul(t, w)
}
"""


def test_shapes_that_only_a_run_tells() -> None:
    loaded = harness.graph(SPARSE_INDICES)
    feeds = {"x": np.array([[1, 0, 2, 3, 0]], np.float32)}
    assert cost(loaded, {"x": (1, 5)}).unknown == ("product",)
    shapes = sample_shapes(loaded, harness.RUNTIME, feeds)
    assert cost(loaded, shapes).macs == 3 * 2 * 3


def test_nothing_runs_where_inference_suffices() -> None:
    loaded = model(text("float[N,6] x", "y = Gemm(x, w)", ones("float", 6, 5)))

    class Untouchable:
        name = "untouchable"

        def load(self, graph: Graph, *, threads: int = 0) -> Session:
            raise AssertionError

    assert sample_shapes(loaded, Untouchable(), {"x": np.zeros((1, 6), np.float32)}) == {"x": (1, 6)}


def test_a_placeholder_is_no_name() -> None:
    proto = model(text("float[N,6] x", "y = Relu(x)")).to_proto()
    for dim, symbol in zip(proto.graph.input[0].type.tensor_type.shape.dim, "??", strict=True):
        dim.dim_param = symbol
    assert infer_shapes(Graph.from_proto(proto))["y"] == (1, None)


def test_minus_one_is_an_open_axis() -> None:
    proto = model(text("float[N,6] x", "y = Relu(x)")).to_proto()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    assert infer_shapes(Graph.from_proto(proto))["y"] == (1, 6)
