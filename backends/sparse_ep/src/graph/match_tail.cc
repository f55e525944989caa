// What a Matrix layer takes in behind its product: bias, normalisation, residual, activation, quantization.
#include <cmath>

#include "graph/constants.h"
#include "graph/match.h"

namespace sparse {
namespace {

// The axis of the channels of the layer's output, or -1.
int channel_axis(const Scope& scope, const Match& match) {
  const int rank = scope.shapes.rank(match.layer.output);
  return match.makes.spatial > 0 ? 1 : rank - 1;
}

bool swallow_bias_add(const Scope& scope, int index, Match& match) {
  const Operator& op = scope.op(index);
  if (!is_onnx(op, "Add") || op.inputs.size() != 2) return false;
  Weights& weights = match.layer.weights;
  const int other = op.inputs[0] == match.layer.output ? op.inputs[1] : op.inputs[0];
  const std::optional<std::vector<float>> constant = channel_constant(
      scope, other, weights.outputs, scope.shapes.rank(match.layer.output), channel_axis(scope, match));
  if (!constant) return false;
  weights.bias.resize(constant->size());
  for (size_t i = 0; i < constant->size(); ++i) weights.bias[i] += (*constant)[i];
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

}  // namespace

void swallow_bias(const Scope& scope, MatrixMatch& matrix) {
  if (matrix.requantized || matrix.addend >= 0) return;
  Match& match = matrix.match;
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

std::optional<Residual> find_residual(const Scope& scope, const MatrixMatch& matrix) {
  if (matrix.requantized) return std::nullopt;
  if (matrix.addend >= 0) return Residual{-1, matrix.addend};
  const int tensor = matrix.match.layer.output, next = scope.only_reader(tensor);
  if (next < 0) return std::nullopt;
  const Operator& op = scope.op(next);
  if (!is_onnx(op, "Add") || op.inputs.size() != 2 || op.inputs[0] == op.inputs[1]) return std::nullopt;
  const int other = op.inputs[0] == tensor ? op.inputs[1] : op.inputs[0];
  if (other < 0 || scope.is_constant(other) || !scope.is_float(other) || !scope.is_float(op.outputs[0]) ||
      !scope.shapes.same(tensor, other)) {
    return std::nullopt;
  }
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

std::optional<Match> complete(const Scope& scope, MatrixMatch matrix, const std::optional<Residual>& residual) {
  Match& match = matrix.match;
  if (matrix.requantized) {
    swallow_requantization(scope, match);
    return std::move(match);
  }
  const bool quantized = !match.layer.weights.scales.empty();
  if (residual) {
    Value value = match.makes;
    int operand = residual->operand;
    if (quantized) {
      const std::optional<Dequantized> source = dequantized(scope, operand);
      if (!source) return std::nullopt;
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
  if (quantized) {
    const std::optional<Requantized> target = requantized(scope, match.layer.output);
    if (!target) return std::nullopt;
    match.operators.push_back(target->op);
    match.layer.output = target->tensor;
    match.makes.element = Element::Q8;
    match.makes.quantization = target->quantization;
    swallow_requantization(scope, match);
  }
  return std::move(match);
}

}  // namespace sparse
