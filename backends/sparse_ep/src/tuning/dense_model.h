// A layer as an ONNX model of one dense operator, to be timed in ONNX Runtime's own kernels.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "graph/region.h"

namespace sparse {

// Serialised model with input "x" of `shape` and output "y": Conv or MatMul for floats, QLinearConv or QLinearMatMul
// for eight bits; bias included, activation and residual not.
std::string dense_model(const Layer& layer, const Value& input, const std::vector<int64_t>& shape);

}  // namespace sparse
