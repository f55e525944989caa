"""Export the zoo and write the structures to ``tests/zoo/graphs``.

Each framework in an environment of its own::

    python -m tests.zoo.make torch             # needs torch, onnxscript and onnxruntime
    python -m tests.zoo.make keras             # needs tensorflow and tf2onnx
    python -m tests.zoo.make torch resnet vit  # only these

PyTorch's files are the same every time. tf2onnx numbers its values anew in each run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.zoo.placeholders import strip

FOLDER = Path(__file__).resolve().parent / "graphs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("framework", choices=("torch", "keras"))
    parser.add_argument("names", nargs="*", help="what to export; everything if left out")
    given = parser.parse_args()
    if given.framework == "torch":
        from tests.zoo.models.torch_export import export, names
    else:
        from tests.zoo.models.keras_export import export, names
    FOLDER.mkdir(exist_ok=True)
    for name in given.names or names():
        model, limits = export(name)
        data = strip(model, limits).SerializeToString(deterministic=True)
        (FOLDER / f"{name}.onnx").write_bytes(data)
        print(f"{name}: {len(model.graph.node)} nodes, {len(data)} bytes", flush=True)


if __name__ == "__main__":
    main()
