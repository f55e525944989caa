// What a Matrix layer takes in behind its product: bias, normalisation, residual, activation, quantization.
#include <cmath>
#include <utility>

#include "graph/constants.h"
#include "graph/match.h"
#include "graph/match_weights.h"

namespace sparse {
namespace {

// The axis of the channels of the layer's output, or -1.
int channel_axis(const Scope& scope, const Match& match) {
  const int rank = scope.shapes.rank(match.layer.output);
  return match.makes.spatial > 0 ? 1 : rank - 1;
}

// What the operator adds to each channel of `tensor`, of the layer's shape, if that is constant; the operator that
// dequantizes it goes to `dequantizers`.
std::optional<std::vector<float>> added_constant(const Scope& scope, const Operator& op, int tensor, const Match& match,
                                                 std::vector<int>& dequantizers) {
  if (!is_onnx(op, "Add") || op.inputs.size() != 2) return std::nullopt;
  const std::optional<RealConstant> constant =
      real_constant(scope, op.inputs[0] == tensor ? op.inputs[1] : op.inputs[0]);
  if (!constant) return std::nullopt;
  if (constant->dequantizer >= 0) dequantizers.push_back(constant->dequantizer);
  return channel_constant(*constant, match.layer.weights.outputs, scope.shapes.rank(match.layer.output),
                          channel_axis(scope, match));
}

bool swallow_bias_add(const Scope& scope, int index, Match& match) {
  std::vector<int> dequantizers;
  const std::optional<std::vector<float>> constant =
      added_constant(scope, scope.op(index), match.layer.output, match, dequantizers);
  if (!constant) return false;
  std::vector<float>& bias = match.layer.rounding ? match.layer.bias : match.layer.weights.bias;
  bias.resize(constant->size());
  for (size_t i = 0; i < constant->size(); ++i) bias[i] += (*constant)[i];
  match.dequantizers.insert(match.dequantizers.end(), dequantizers.begin(), dequantizers.end());
  return true;
}

// Folds scale * (x - mean) / sqrt(variance + epsilon) + shift into weights and bias.
bool swallow_normalization(const Scope& scope, int index, Match& match) {
  const Operator& op = scope.op(index);
  const bool by_channels = match.makes.spatial > 0 || scope.shapes.rank(match.layer.output) == 2;
  if (!is_onnx(op, "BatchNormalization") || op.inputs.size() != 5 || !by_channels || !makes_only_first(scope, op) ||
      op.since_version < 9 || op.integer("training_mode", 0) != 0 || op.inputs[0] != match.layer.output ||
      !match.layer.weights.scales.empty()) {
    return false;
  }
  Weights& weights = match.layer.weights;
  const size_t outputs = static_cast<size_t>(weights.outputs);
  std::vector<float> constants[4];  // scale, shift, mean, variance
  for (size_t i = 0; i < 4; ++i) {
    std::optional<std::vector<float>> values = constant_floats(scope.graph, op.inputs[i + 1]);
    if (!values || values->size() != outputs) return false;
    constants[i] = std::move(*values);
  }
  std::vector<double> factors(outputs);
  for (size_t i = 0; i < outputs; ++i) {
    factors[i] = constants[0][i] / std::sqrt(static_cast<double>(constants[3][i]) + op.real("epsilon", 1e-5f));
    if (!std::isfinite(factors[i])) return false;
  }
  std::vector<float> values = weights.values, bias = weights.bias;
  bias.resize(outputs);
  for (size_t i = 0; i < outputs; ++i) {
    for (int64_t at = weights.row_begin[i]; at < weights.row_begin[i + 1]; ++at) {
      float& value = values[static_cast<size_t>(at)];
      value = static_cast<float>(value * factors[i]);
      if (!std::isfinite(value)) return false;
    }
    bias[i] = static_cast<float>((bias[i] - static_cast<double>(constants[2][i])) * factors[i] + constants[1][i]);
  }
  weights.values = std::move(values);
  weights.bias = std::move(bias);
  return true;
}

// The other operand of an addition to `tensor` alone, a value of the same shape; -1 if it is none.
int added_value(const Scope& scope, const Operator& op, int tensor) {
  if (!is_onnx(op, "Add") || op.inputs.size() != 2 || op.inputs[0] == op.inputs[1]) return -1;
  const int other = op.inputs[0] == tensor ? op.inputs[1] : op.inputs[0];
  if (other < 0 || weights_tensor(scope, other) != nullptr || !scope.is_float(other) || scope.is_constant(other) ||
      !scope.is_float(op.outputs[0])) {
    return -1;
  }
  return scope.shapes.same(tensor, other) ? other : -1;
}

// Does the layer have something to do with `tensor`, floats of its output's shape? Mere limits between two
// quantizations are better taken together with these.
bool goes_on(const Scope& scope, int tensor, const Match& match) {
  const int next = scope.only_reader(tensor);
  std::vector<int> dequantizers;
  if (next >= 0 && (added_constant(scope, scope.op(next), tensor, match, dequantizers) ||
                    added_value(scope, scope.op(next), tensor) >= 0)) {
    return true;
  }
  const std::optional<ActivationMatch> found = match_activation_of(scope, tensor);
  if (!found) return false;
  const Activation::Kind kind = found->activation.kind;
  const bool limits = kind == Activation::None || kind == Activation::Relu || kind == Activation::Clip;
  return !limits || !requantized(scope, found->output);
}

// Swallows QuantizeLinear and DequantizeLinear behind a product of bytes, if it goes on from there. Of what makes bytes
// by itself the DequantizeLinear alone.
bool swallow_rounding(const Scope& scope, MatrixMatch& matrix) {
  Match& match = matrix.match;
  if (match.layer.weights.scales.empty() || match.layer.rounding) return false;
  Requantized bytes{-1, match.layer.output, match.makes.quantization};
  if (!matrix.requantized) {
    const std::optional<Requantized> found = requantized(scope, match.layer.output);
    if (!found) return false;
    bytes = *found;
  }
  const int reader = scope.only_reader(bytes.tensor);
  const int real = reader < 0 ? -1 : scope.op(reader).outputs[0];
  const std::optional<Dequantized> source = real < 0 ? std::nullopt : dequantized(scope, real);
  if (!source || !is_same(source->quantization, bytes.quantization) || !goes_on(scope, real, match)) return false;
  if (bytes.op >= 0) match.operators.push_back(bytes.op);
  matrix.requantized = false;
  matrix.rounded = bytes.tensor;
  matrix.rounded_reader = reader;
  match.operators.push_back(reader);
  match.layer.output = real;
  match.layer.rounding = bytes.quantization;
  match.makes.element = Element::F32;
  match.makes.quantization = {};
  return true;
}

// The layer ends in the bytes that it was rounded to.
void stop_at_rounding(MatrixMatch& matrix) {
  Match& match = matrix.match;
  match.operators.pop_back();
  match.layer.output = matrix.rounded;
  match.makes.element = Element::Q8;
  match.makes.quantization = *std::exchange(match.layer.rounding, std::nullopt);
}

void swallow_constants(const Scope& scope, Match& match) {
  while (true) {
    const int next = scope.only_reader(match.layer.output);
    if (next < 0 || !scope.is_float(scope.op(next).outputs[0])) return;
    if (!is_copy(scope, scope.op(next)) && !swallow_bias_add(scope, next, match) &&
        !swallow_normalization(scope, next, match) && !swallow_reshape_behind(scope, next, match)) {
      return;
    }
    match.operators.push_back(next);
    match.layer.output = scope.op(next).outputs[0];
  }
}

}  // namespace

void swallow_bias(const Scope& scope, MatrixMatch& matrix) {
  if (matrix.addend >= 0) return;
  if (!matrix.requantized) swallow_constants(scope, matrix.match);
  if (swallow_rounding(scope, matrix)) swallow_constants(scope, matrix.match);
}

std::optional<Residual> find_residual(const Scope& scope, const MatrixMatch& matrix) {
  if (matrix.requantized) return std::nullopt;
  if (matrix.addend >= 0) return Residual{-1, matrix.addend};
  const int tensor = matrix.match.layer.output, next = scope.only_reader(tensor);
  if (next < 0) return std::nullopt;
  const int other = added_value(scope, scope.op(next), tensor);
  if (other < 0) return std::nullopt;
  // The product is read by the addition alone, so nothing that the other operand is made of depends on it.
  return Residual{next, other};
}

void swallow_activation(const Scope& scope, Match& match) {
  const std::optional<ActivationMatch> found = match_activation_of(scope, match.layer.output);
  if (!found) return;
  match.layer.activation = found->activation;
  match.operators.insert(match.operators.end(), found->operators.begin(), found->operators.end());
  match.layer.output = found->output;
}

Match complete(const Scope& scope, MatrixMatch matrix, const std::optional<Residual>& residual) {
  Match& match = matrix.match;
  if (matrix.requantized) {
    swallow_requantization(scope, match);
    return std::move(match);
  }
  const bool quantized = !match.layer.weights.scales.empty();
  if (residual) {
    Value value = match.makes;
    int operand = residual->operand;
    if (const std::optional<Dequantized> source = quantized ? dequantized(scope, operand) : std::nullopt) {
      value.element = Element::Q8;
      value.quantization = source->quantization;
      operand = source->tensor;
      match.dequantizers.push_back(source->op);
    }
    match.read(operand, value);
    if (residual->op >= 0) {
      match.operators.push_back(residual->op);
      match.layer.output = scope.op(residual->op).outputs[0];
    }
  }
  swallow_activation(scope, match);
  if (!quantized) return std::move(match);
  if (match.layer.rounding && match.operators.back() == matrix.rounded_reader) {
    stop_at_rounding(matrix);  // the addition that it was for belongs to another product
  } else {
    make_either(scope, match);
  }
  swallow_requantization(scope, match);
  return std::move(match);
}

}  // namespace sparse
