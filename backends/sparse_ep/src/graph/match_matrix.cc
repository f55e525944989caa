// Conv, Gemm and MatMul with constant weights: the product itself, with the bias that the operator has.
#include <cmath>
#include <utility>

#include "graph/constants.h"
#include "graph/match.h"
#include "graph/match_weights.h"
#include "graph/match_window.h"

namespace sparse {
namespace {

// A bias: floats, or integers behind a DequantizeLinear. Nothing if it is not understood; empty if left out.
std::optional<std::vector<float>> match_bias(const Scope& scope, int tensor, int64_t outputs, Match& match) {
  if (tensor < 0) return std::vector<float>();
  const std::optional<RealConstant> bias = real_constant(scope, tensor);
  if (!bias) return std::nullopt;
  if (bias->dequantizer >= 0) match.dequantizers.push_back(bias->dequantizer);
  return channel_constant(*bias, outputs, 2, 1);
}

// The input of the product, in floats or, where the weights are bytes, behind a DequantizeLinear.
bool match_input(const Scope& scope, int tensor, bool quantized, Value value, Match& match) {
  if (tensor < 0 || scope.is_constant(tensor) || !scope.is_float(tensor)) return false;
  if (quantized) {
    const std::optional<Dequantized> source = dequantized(scope, tensor);
    if (!source) return false;
    value.element = Element::Q8;
    value.quantization = source->quantization;
    tensor = source->tensor;
    match.dequantizers.push_back(source->op);
  }
  match.read(tensor, value);
  return true;
}

// Sets weights, input and output of the match; the bias too.
bool finish(const Scope& scope, const Operator& op, int spatial, WeightsMatch weights, int bias, MatrixMatch& matrix) {
  Match& match = matrix.match;
  Value value;
  value.spatial = spatial;
  value.channels = weights.weights.inputs;
  if (!match_input(scope, op.inputs[0], weights.quantized, value, match)) return false;
  value.channels = weights.weights.outputs;
  match.makes = value;
  match.layer.output = op.outputs[0];
  if (weights.dequantizer >= 0) match.dequantizers.push_back(weights.dequantizer);
  std::optional<std::vector<float>> values = match_bias(scope, bias, weights.weights.outputs, match);
  if (!values) return false;
  match.layer.weights = std::move(weights.weights);
  match.layer.weights.bias = std::move(*values);
  return true;
}

// Are the sizes that the graph states those that the weights imply?
bool fits(const Scope& scope, int tensor, int rank, int axis, int64_t channels) {
  if (scope.shapes.rank(tensor) != rank) return false;
  const int64_t size = scope.shapes.size(tensor, axis);
  return size < 0 || size == channels;
}

std::optional<DenseWeights> conv_weights(const Tensor& weights, int64_t groups) {
  const std::vector<int64_t>& shape = weights.shape;
  if (shape.size() != 3 && shape.size() != 4) return std::nullopt;
  DenseWeights dense;
  dense.outputs = shape[0];
  dense.channels = shape[1];
  for (size_t i = 2; i < shape.size(); ++i) dense.taps *= shape[i];
  dense.groups = groups;
  dense.output_stride = dense.channels * dense.taps;
  dense.channel_stride = dense.taps;
  if (groups < 1 || dense.outputs % groups != 0) return std::nullopt;
  return dense;
}

// Colours, and one more.
constexpr int64_t kStemChannels = 4;

// The least share of zeros that the weights of a convolution need.
double threshold_of(const DenseWeights& dense, double threshold) {
  const bool is_stem = dense.channels * dense.groups <= kStemChannels && dense.taps > 1;
  return is_stem ? 0.0 : threshold;
}

bool match_conv(const Scope& scope, const Operator& op, double threshold, MatrixMatch& matrix) {
  const Tensor* tensor = weights_tensor(scope, scope.input(op, 1));
  if (tensor == nullptr) return false;
  const std::optional<DenseWeights> dense = conv_weights(*tensor, op.integer("group", 1));
  if (!dense) return false;
  const int rank = static_cast<int>(tensor->shape.size()), spatial = rank - 2;
  const std::optional<Window> window = match_window(op, spatial, tensor->shape.data() + 2);
  if (!window || !fits(scope, op.inputs[0], rank, 1, dense->channels * dense->groups) ||
      !fits(scope, op.outputs[0], rank, 1, dense->outputs)) {
    return false;
  }
  std::optional<WeightsMatch> weights = match_weights(scope, op.inputs[1], *dense, 0, threshold_of(*dense, threshold));
  if (!weights) return false;
  matrix.match.dense = 1.0 - weights->weights.density() < threshold;
  const int bias = scope.input(op, 2);
  const Tensor* constant = weights_tensor(scope, bias);
  if (constant != nullptr && constant->shape != std::vector<int64_t>{dense->outputs}) return false;
  matrix.match.layer.window = *window;
  return finish(scope, op, spatial, std::move(*weights), bias, matrix);
}

// [K, N], or [N, K] if transposed.
std::optional<DenseWeights> token_weights(const Tensor& weights, bool transposed) {
  if (weights.shape.size() != 2) return std::nullopt;
  DenseWeights dense;
  dense.outputs = weights.shape[transposed ? 0 : 1];
  dense.channels = weights.shape[transposed ? 1 : 0];
  dense.output_stride = transposed ? dense.channels : 1;
  dense.channel_stride = transposed ? 1 : dense.outputs;
  return dense;
}

bool fits_tokens(const Scope& scope, int input, int output, const DenseWeights& dense) {
  const int rank = scope.shapes.rank(input);
  return rank >= 2 && fits(scope, input, rank, rank - 1, dense.channels) &&
         fits(scope, output, rank, rank - 1, dense.outputs);
}

bool match_matmul(const Scope& scope, const Operator& op, double threshold, MatrixMatch& matrix) {
  const Tensor* tensor = weights_tensor(scope, scope.input(op, 1));
  if (tensor == nullptr) return false;
  const std::optional<DenseWeights> dense = token_weights(*tensor, false);
  if (!dense || !fits_tokens(scope, op.inputs[0], op.outputs[0], *dense)) return false;
  std::optional<WeightsMatch> weights = match_weights(scope, op.inputs[1], *dense, 1, threshold);
  return weights && finish(scope, op, 0, std::move(*weights), -1, matrix);
}

bool multiply(std::vector<float>& values, double factor) {
  bool finite = true;
  for (float& value : values) {
    value = static_cast<float>(value * factor);
    finite &= std::isfinite(value);
  }
  return finite;
}

bool match_gemm(const Scope& scope, const Operator& op, double threshold, MatrixMatch& matrix) {
  const Tensor* tensor = weights_tensor(scope, scope.input(op, 1));
  const bool transposed = op.integer("transB", 0) != 0;
  if (tensor == nullptr || op.integer("transA", 0) != 0 || scope.shapes.rank(op.inputs[0]) != 2) return false;
  const std::optional<DenseWeights> dense = token_weights(*tensor, transposed);
  if (!dense || !fits_tokens(scope, op.inputs[0], op.outputs[0], *dense)) return false;
  std::optional<WeightsMatch> weights = match_weights(scope, op.inputs[1], *dense, transposed ? 0 : 1, threshold);
  if (!weights) return false;
  const float alpha = op.real("alpha", 1.0f), beta = op.real("beta", 1.0f);
  int bias = scope.input(op, 2);
  if (beta == 1.0f && bias >= 0 && weights_tensor(scope, bias) == nullptr && scope.is_float(bias) &&
      scope.shapes.same(op.outputs[0], bias)) {
    matrix.addend = std::exchange(bias, -1);
  }
  if (!finish(scope, op, 0, std::move(*weights), bias, matrix)) return false;
  Weights& result = matrix.match.layer.weights;
  if (!std::isfinite(alpha) || !std::isfinite(beta) || (alpha < 0.0f && !result.scales.empty())) return false;
  return multiply(result.scales.empty() ? result.values : result.scales, alpha) && multiply(result.bias, beta);
}

bool match_qlinear_conv(const Scope& scope, const Operator& op, double threshold, MatrixMatch& matrix) {
  const Tensor* tensor = constant_tensor(scope.graph, scope.input(op, 3));
  if (tensor == nullptr || op.inputs.size() < 8 || op.inputs[0] < 0) return false;
  const std::optional<DenseWeights> dense = conv_weights(*tensor, op.integer("group", 1));
  if (!dense) return false;
  const int rank = static_cast<int>(tensor->shape.size()), spatial = rank - 2;
  const std::optional<Window> window = match_window(op, spatial, tensor->shape.data() + 2);
  const std::optional<Quantization> from =
      constant_quantization(scope.graph, op.inputs[1], op.inputs[2], scope.tensor(op.inputs[0]).type);
  const std::optional<Quantization> to =
      constant_quantization(scope.graph, op.inputs[6], op.inputs[7], scope.tensor(op.outputs[0]).type);
  if (!window || !from || !to || !fits(scope, op.inputs[0], rank, 1, dense->channels * dense->groups) ||
      !fits(scope, op.outputs[0], rank, 1, dense->outputs)) {
    return false;
  }
  std::optional<Weights> weights =
      quantized_weights(scope, op.inputs[3], op.inputs[4], op.inputs[5], *dense, threshold_of(*dense, threshold));
  if (!weights) return false;
  matrix.match.dense = 1.0 - weights->density() < threshold;
  if (scope.input(op, 8) >= 0) {  // in steps of input times weights
    const Tensor* bias = constant_tensor(scope.graph, op.inputs[8]);
    if (bias == nullptr || bias->type != DataType::Int32 || bias->shape.size() != 1 ||
        bias->elements() != dense->outputs) {
      return false;
    }
    for (size_t i = 0; i < weights->scales.size(); ++i) {
      const double step = static_cast<double>(from->scale) * weights->scales[i];
      weights->bias.push_back(static_cast<float>(integer_at(*bias, static_cast<int64_t>(i)) * step));
    }
  }
  matrix.match.layer.window = *window;
  matrix.match.layer.weights = std::move(*weights);
  matrix.match.layer.output = op.outputs[0];
  matrix.match.read(op.inputs[0], Value{"", Element::Q8, *from, spatial, dense->channels * dense->groups});
  matrix.match.makes = Value{"", Element::Q8, *to, spatial, dense->outputs};
  return true;
}

bool match_qlinear_matmul(const Scope& scope, const Operator& op, double threshold, MatrixMatch& matrix) {
  const Tensor* tensor = constant_tensor(scope.graph, scope.input(op, 3));
  if (tensor == nullptr || op.inputs.size() != 8 || op.inputs[0] < 0) return false;
  const std::optional<DenseWeights> dense = token_weights(*tensor, false);
  const std::optional<Quantization> from =
      constant_quantization(scope.graph, op.inputs[1], op.inputs[2], scope.tensor(op.inputs[0]).type);
  const std::optional<Quantization> to =
      constant_quantization(scope.graph, op.inputs[6], op.inputs[7], scope.tensor(op.outputs[0]).type);
  if (!dense || !from || !to || !fits_tokens(scope, op.inputs[0], op.outputs[0], *dense)) return false;
  std::optional<Weights> weights =
      quantized_weights(scope, op.inputs[3], op.inputs[4], op.inputs[5], *dense, threshold);
  if (!weights) return false;
  matrix.match.layer.weights = std::move(*weights);
  matrix.match.layer.output = op.outputs[0];
  matrix.match.read(op.inputs[0], Value{"", Element::Q8, *from, 0, dense->channels});
  matrix.match.makes = Value{"", Element::Q8, *to, 0, dense->outputs};
  return true;
}

}  // namespace

std::optional<MatrixMatch> match_matrix(const Scope& scope, int index, double threshold) {
  const Operator& op = scope.op(index);
  if (op.subgraphs || !makes_only_first(scope, op) || op.inputs.empty()) return std::nullopt;
  MatrixMatch matrix;
  matrix.match.operators.push_back(index);
  bool found = false;
  if (is_onnx(op, "QLinearConv") || is_onnx(op, "QLinearMatMul")) {
    matrix.requantized = true;
    found = !scope.is_constant(op.inputs[0]) &&
            (op.type == "QLinearConv" ? match_qlinear_conv(scope, op, threshold, matrix)
                                      : match_qlinear_matmul(scope, op, threshold, matrix));
  } else if (scope.is_float(op.outputs[0])) {
    found = (is_onnx(op, "Conv") && match_conv(scope, op, threshold, matrix)) ||
            (is_onnx(op, "MatMul") && match_matmul(scope, op, threshold, matrix)) ||
            (is_onnx(op, "Gemm") && match_gemm(scope, op, threshold, matrix));
  }
  if (!found) return std::nullopt;
  return matrix;
}

}  // namespace sparse
