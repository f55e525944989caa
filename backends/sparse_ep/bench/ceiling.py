"""What the machine can do at most on one core, measured by a small C++ program."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("ceiling.cc")


def measure() -> dict[str, float]:
    """Rates of one core: GFLOP/s from registers and with an embedded broadcast, GB/s from each level of memory."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise RuntimeError("the ceiling needs a C++ compiler: install g++ or set CXX")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "ceiling")
        subprocess.run([compiler, "-std=c++17", "-O2", SOURCE, "-o", program], check=True)
        done = subprocess.run([program], check=True, capture_output=True, text=True)
    rates: dict[str, float] = json.loads(done.stdout)
    return rates


def markdown(rates: dict[str, float]) -> str:
    """The rates as a table."""
    names = {
        "fma_gflops": "FMA from registers, GFLOP/s",
        "fma_broadcast_gflops": "FMA with a broadcast weight, GFLOP/s",
        "int8_broadcast_gops": "vpdpbusd with a broadcast quad, GOP/s",
        "l1_gbytes": "L1 read, GB/s",
        "l2_gbytes": "L2 read, GB/s",
        "l3_gbytes": "L3 read, GB/s",
        "dram_gbytes": "DRAM read, GB/s",
    }
    lines = [f"| {title} | {rates[name]:.0f} |" for name, title in names.items() if name in rates]
    return "\n".join(["| one core | |", "| --- | ---: |", *lines])
