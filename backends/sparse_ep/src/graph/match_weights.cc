#include "graph/match_weights.h"

#include <cmath>

#include "graph/constants.h"

namespace sparse {
namespace {

// So many products of two bytes fit into 32 bits whatever they are.
constexpr int64_t kLargestQuantizedRow = 65536;

bool is_dequantizer(const Operator& op) {
  return is_onnx(op, "DequantizeLinear") || is_microsoft(op, "DequantizeLinear");
}

// The DequantizeLinear of a constant that makes `tensor`, or -1.
int constant_dequantizer(const Scope& scope, int tensor) {
  if (!scope.is_float(tensor)) return -1;
  const int producer = scope.tensor(tensor).producer;
  if (producer < 0 || !is_dequantizer(scope.op(producer))) return -1;
  return constant_tensor(scope.graph, scope.op(producer).inputs[0]) != nullptr ? producer : -1;
}

}  // namespace

const Tensor* weights_tensor(const Scope& scope, int tensor) {
  if (tensor < 0) return nullptr;
  const int dequantizer = constant_dequantizer(scope, tensor);
  return constant_tensor(scope.graph, dequantizer < 0 ? tensor : scope.op(dequantizer).inputs[0]);
}

std::optional<Weights> quantized_weights(const Scope& scope, int tensor, int scales, int zero_points,
                                         const DenseWeights& dense, double threshold) {
  const Tensor* data = constant_tensor(scope.graph, tensor);
  if (data == nullptr || (data->type != DataType::Int8 && data->type != DataType::Uint8)) return std::nullopt;
  const bool is_signed = data->type == DataType::Int8;

  // One for all outputs, or one for each of them.
  const auto fits = [&](const Tensor& per_output) {
    const int64_t count = per_output.elements();
    return count == 1 || (count == dense.outputs && per_output.shape.size() == 1);
  };
  if (zero_points >= 0) {
    const Tensor* zeros = constant_tensor(scope.graph, zero_points);
    if (zeros == nullptr || zeros->type != data->type || !fits(*zeros)) return std::nullopt;
    if (!constant_equals(*zeros, is_signed ? 0 : 128)) return std::nullopt;
  } else if (!is_signed) {
    return std::nullopt;  // a zero point of 0: no weight below zero, and zero at the end of the range
  }
  const Tensor* steps = constant_tensor(scope.graph, scales);
  std::optional<std::vector<float>> values = constant_floats(scope.graph, scales);
  if (!values || !fits(*steps)) return std::nullopt;
  for (const float step : *values) {
    if (!std::isfinite(step) || step < 0.0f) return std::nullopt;
  }

  std::optional<Weights> weights;
  if (is_signed) {
    weights = compress(dense, static_cast<const int8_t*>(data->constant), threshold);
  } else {
    std::vector<int8_t> shifted(static_cast<size_t>(data->elements()));
    const uint8_t* bytes = static_cast<const uint8_t*>(data->constant);
    for (size_t i = 0; i < shifted.size(); ++i) shifted[i] = static_cast<int8_t>(bytes[i] - 128);
    weights = compress(dense, shifted.data(), threshold);
  }
  if (!weights) return std::nullopt;
  for (size_t i = 0; i + 1 < weights->row_begin.size(); ++i) {
    if (weights->row_begin[i + 1] - weights->row_begin[i] > kLargestQuantizedRow) return std::nullopt;
  }
  if (values->size() == 1) values->assign(static_cast<size_t>(dense.outputs), values->front());
  weights->scales = std::move(*values);
  return weights;
}

std::optional<WeightsMatch> match_weights(const Scope& scope, int tensor, const DenseWeights& dense, int output_axis,
                                          double threshold) {
  WeightsMatch match;
  match.dequantizer = constant_dequantizer(scope, tensor);
  if (match.dequantizer < 0) {
    const Tensor* data = constant_tensor(scope.graph, tensor);
    if (data == nullptr || data->type != DataType::Float) return std::nullopt;
    std::optional<Weights> weights = compress(dense, static_cast<const float*>(data->constant), threshold);
    if (!weights) return std::nullopt;
    match.weights = std::move(*weights);
    return match;
  }
  const Operator& op = scope.op(match.dequantizer);
  const Tensor* scales = constant_tensor(scope.graph, scope.input(op, 1));
  if (scales == nullptr || op.integer("block_size", 0) != 0) return std::nullopt;
  if (scales->elements() != 1) {
    const int64_t rank = static_cast<int64_t>(scope.tensor(op.inputs[0]).shape.size());
    const int64_t axis = op.integer("axis", 1);
    if ((axis < 0 ? axis + rank : axis) != output_axis) return std::nullopt;
  }
  std::optional<Weights> weights =
      quantized_weights(scope, op.inputs[0], scope.input(op, 1), scope.input(op, 2), dense, threshold);
  if (!weights) return std::nullopt;
  match.weights = std::move(*weights);
  match.quantized = true;
  return match;
}

}  // namespace sparse
