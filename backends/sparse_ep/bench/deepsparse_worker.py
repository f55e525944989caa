"""Runs DeepSparse on request: ``python deepsparse_worker.py MODEL X.npy THREADS CLOCK``.

Started by bench/contestants.py with the Python of DeepSparse's own environment (3.8 to 3.11). Requests come one a line
on stdin: a number of runs to time, or a path to save the output to; answers go to stdout as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the engine greets on stdout

    def answer(value: object) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    model, data, threads, clock_name = sys.argv[1:]
    clock = time.process_time if clock_name == "cpu" else time.perf_counter
    inputs = [np.load(data)]
    try:
        import deepsparse  # type: ignore[import-not-found]

        engine = deepsparse.compile_model(model, batch_size=len(inputs[0]), num_cores=int(threads))
        engine.run(inputs)
    except Exception as error:  # noqa: BLE001 - whatever it is, the benchmark reports it and goes on without
        answer({"error": f"{type(error).__name__}: {error}"})
        return
    answer(deepsparse.__version__)
    for line in sys.stdin:
        request = json.loads(line)
        if isinstance(request, str):
            np.save(request, engine.run(inputs)[0])
            answer(0)
            continue
        times = []
        for _ in range(request):
            begin = clock()
            engine.run(inputs, val_inp=False)
            times.append(clock() - begin)
        answer(times)


if __name__ == "__main__":
    main()
