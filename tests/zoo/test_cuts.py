"""On every model of the zoo: the groups that ought to be found are found, and cutting all of them is exact."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from surgery_ir.analysis.cost import cost
from surgery_ir.analysis.coupling.facts import observe
from surgery_ir.analysis.coupling.groups import Coupling, find_groups
from surgery_ir.graph.editor import Editor
from surgery_ir.graph.model import Graph
from surgery_ir.graph.verify import verify
from surgery_ir.passes.base import PassContext, run_pass
from surgery_ir.passes.prune.cutting import cut, masked
from surgery_ir.passes.prune.kinds import is_heads, is_width
from surgery_ir.passes.spec import create
from tests.coupling import choose
from tests.harness import RUNTIME
from tests.zoo.load import NAMES, feeds, load

SHARE = 0.3

EXPECTED = {  # groups of channels, of heads, and of hidden neurons; one entry for all exporters
    "bert": (0, 2, 3), "convnext": (0, 0, 4), "densenet": (14, 0, 0), "efficientnet": (14, 0, 0),
    "encoder_decoder": (0, 3, 2), "espcn": (3, 0, 0), "gpt": (0, 2, 2), "gru": (0, 0, 2), "inception": (20, 0, 0),
    "keras_lstm_tagger": (1, 0, 2), "keras_mobilenet": (10, 0, 0), "keras_resnet": (7, 0, 0), "keras_vit": (0, 2, 2),
    "llama": (0, 2, 2), "llama_sdpa": (0, 2, 2), "lstm_tagger": (1, 0, 1), "mixer": (0, 0, 4),
    "mobilenet_v2": (9, 0, 0), "mobilenet_v3": (12, 0, 1), "resnet": (9, 0, 0), "resnet_bottleneck": (11, 0, 0),
    "resnet_groupnorm": (5, 0, 0), "resnext": (11, 0, 0), "shufflenet_v1": (1, 0, 0), "shufflenet_v2": (21, 0, 0),
    "swin": (0, 3, 3), "tcn": (4, 0, 0), "unet": (12, 0, 0), "unet_resize": (12, 0, 0), "vgg": (3, 0, 2),
    "vit": (0, 2, 2), "vit_sdpa": (0, 2, 2), "yolo": (22, 0, 0),
    "resnet__raw": (8, 0, 0),  # the axes of its pooling are computed at run time
}  # fmt: skip
TOLERANCE = 1e-4


def clean(name: str) -> Graph:
    dense = load(name)
    return run_pass(create("canonicalize", {}), dense, PassContext(dense, RUNTIME)).graph


def coupling_of(graph: Graph, name: str) -> Coupling:
    return find_groups(graph, observe(graph, RUNTIME, feeds(name, 2)))


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_of_everything_equals_the_masked_model(name: str) -> None:
    graph = clean(name)
    coupling = coupling_of(graph, name)
    removed = choose(coupling, SHARE, seed=1)
    editor = Editor(graph.clone(), "cut")
    cut(editor, coupling, removed)
    verify(editor.graph)
    small, dense = (RUNTIME.load(item, threads=1) for item in (editor.graph, masked(graph, coupling, removed)))
    whole = RUNTIME.load(graph, threads=1)
    for batch in (1, 3):
        inputs = feeds(name, batch)
        found, wanted, before = small.run(inputs), dense.run(inputs), whole.run(inputs)
        for output, expected in wanted.items():
            assert found[output].shape == expected.shape
            scale = np.abs(expected).max()
            assert np.abs(found[output].astype(np.float64) - expected).max() <= TOLERANCE * scale
        assert any(np.abs(before[key] - wanted[key]).max() > TOLERANCE for key in wanted), "nothing was cut"
    shapes = {key: value.shape for key, value in feeds(name, 1).items()}
    macs = [cost(item, shapes).macs for item in (editor.graph, graph)]
    assert None in macs or macs[0] < macs[1]  # type: ignore[operator]


@pytest.mark.parametrize("name", NAMES)
def test_the_groups_of_an_architecture_are_found_whoever_exported_it(name: str) -> None:
    graph = clean(name)
    kinds = Counter(
        "heads" if is_heads(graph, group) else "neurons" if is_width(graph, group) else "channels"
        for group in coupling_of(graph, name).groups
    )
    expected = EXPECTED.get(name) or EXPECTED[name.partition("__")[0]]
    assert (kinds["channels"], kinds["heads"], kinds["neurons"]) == expected
