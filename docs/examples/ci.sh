#!/usr/bin/env bash
# For the continuous integration of a repository that holds a model: compress it, and fail the build where that goes wrong.
#
#   ci.sh MODEL SAMPLES.npz FOLDER [further options of surgery-ir compile]
#
# MODEL is whatever surgery-ir reads. FOLDER receives small.onnx and report.json, to be kept as what the build made.
# Exit codes: 0 done; 3 nothing that was tried is small and accurate enough, nothing written; 4 the report breaks a
# threshold; others as surgery-ir gives them (1 error, 2 usage).
set -euo pipefail

model=$1 samples=$2 folder=$3
max_drop=${MAX_DROP:-0.02}    # of the metric: accuracy with --labels KEY, else agreement with the dense model
max_share=${MAX_SHARE:-0.5}   # of the weights that may be left

mkdir -p "$folder"
surgery-ir compile "$model" -o "$folder/small.onnx" --json "$folder/report.json" --data "$samples" \
    --max-drop "$max_drop" --target "nonzeros<=$max_share" "${@:4}"  # exits with 3 where the limits cannot be met

# The search chose by its selection samples. The report was measured on others, and it is what counts.
python3 - "$folder/report.json" "$max_drop" "$max_share" <<'PYTHON' || exit 4
import json
import sys

report, max_drop, max_share = json.load(open(sys.argv[1])), float(sys.argv[2]), float(sys.argv[3])
dense, small = report["baseline"], report["compressed"]
drop = dense["metric"]["value"] - small["metric"]["value"]
share = small["nonzeros"] / dense["nonzeros"]
print(f"{dense['metric']['name']}: drop {drop:.4f}, limit {max_drop}; share of weights: {share:.4f}, limit {max_share}")
if not (drop <= max_drop and share <= max_share):
    sys.exit("build failed: the report breaks a threshold")
PYTHON
