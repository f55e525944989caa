"""Store pruned weights in their sparse encoding, so that the file shrinks too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import onnx_ir as ir

from surgery_ir.graph import sparse
from surgery_ir.graph.editor import Editor
from surgery_ir.passes.base import Pass, PassContext, Refusal
from surgery_ir.passes.options import Help, Range

__all__ = ["StoreSparse"]

SUPPORTED = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)


@dataclass(frozen=True)
class StoreSparse(Pass):
    """Save weights as ``sparse_initializer`` where that takes fewer bytes: above about 67 % zeros for float32.

    ONNX Runtime reads such files and makes the weights dense while loading, so this saves disk and bandwidth, not
    time. Some other tools, onnx's own full checker among them, do not accept sparse weights of a Conv.
    """

    name: ClassVar[str] = "store-sparse"
    exact: ClassVar[bool] = True
    serves: ClassVar[frozenset[str]] = frozenset({"size"})

    saving: Annotated[float, Range(0.0, 1.0), Help("share of its bytes that a weight must save")] = 0.1

    def apply(self, editor: Editor, ctx: PassContext) -> Sequence[Refusal]:
        """Mark every weight that gets smaller."""
        marked = False
        dense: list[str] = []
        for name, value in editor.graph.initializers.items():
            tensor = value.const_value
            if tensor is None or value.is_graph_input() or tensor.dtype not in SUPPORTED or tensor.size < 1024:
                continue
            if sparse.is_sparse(value):
                marked = True
            elif sparse.sparse_nbytes(editor.graph.array(name)) <= (1 - self.saving) * tensor.nbytes:
                editor.store_sparse(name)
                marked = True
            else:
                dense.append(name)
        if editor.edits:
            return []
        if marked:
            return [Refusal("every weight that gets smaller is stored sparse already")]
        names = f": {', '.join(dense[:5])}" if dense else ""
        return [Refusal(f"no weight has enough zeros to take fewer bytes{names}")]
