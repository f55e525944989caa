// Constant weights of an operator: floats, or bytes with their scales behind a DequantizeLinear.
#pragma once

#include <optional>

#include "graph/compress.h"
#include "graph/match.h"

namespace sparse {

struct WeightsMatch {
  Weights weights;
  bool quantized = false;
  int dequantizer = -1;
};

// The weights that input `tensor` of an operator is, laid out as `dense` says; `output_axis` is the axis of the
// outputs.
std::optional<WeightsMatch> match_weights(const Scope& scope, int tensor, const DenseWeights& dense, int output_axis,
                                          double threshold);

// Bytes with scales and zero points as three tensors, as the QLinear operators have them.
std::optional<Weights> quantized_weights(const Scope& scope, int tensor, int scales, int zero_points,
                                         const DenseWeights& dense, double threshold);

// The constant that `tensor` is, behind a DequantizeLinear or not; null if it is none.
const Tensor* weights_tensor(const Scope& scope, int tensor);

}  // namespace sparse
