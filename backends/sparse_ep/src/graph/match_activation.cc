// Activations: single operators, and the spellings of HardSwish and Gelu as several.
#include <cfloat>
#include <cmath>

#include "graph/constants.h"
#include "graph/match.h"

namespace sparse {
namespace {

bool is_close(double value, double expected) { return std::fabs(value - expected) <= 1e-6 * std::fabs(expected); }

// A constant of one element that leaves the shape of `tensor` as it is.
std::optional<double> scalar_beside(const Scope& scope, int constant, int tensor) {
  const std::optional<float> value = constant_scalar(scope.graph, constant);
  if (!value || static_cast<int>(scope.tensor(constant).shape.size()) > scope.shapes.rank(tensor)) return std::nullopt;
  return *value;
}

// The other operand of a commutative operator of two; -1 if `tensor` is none of them or both.
int other_operand(const Operator& op, int tensor) {
  if (op.inputs.size() != 2 || op.inputs[0] == op.inputs[1]) return -1;
  if (op.inputs[0] == tensor) return op.inputs[1];
  return op.inputs[1] == tensor ? op.inputs[0] : -1;
}

// The number that the operator multiplies `tensor` by, if it is a multiplication or division by a constant.
std::optional<double> factor_of(const Scope& scope, const Operator& op, int tensor) {
  const int other = other_operand(op, tensor);
  if (other < 0) return std::nullopt;
  const std::optional<double> constant = scalar_beside(scope, other, tensor);
  if (!constant) return std::nullopt;
  if (is_onnx(op, "Mul")) return *constant;
  if (is_onnx(op, "Div") && op.inputs[0] == tensor && *constant != 0.0) return 1.0 / *constant;
  return std::nullopt;
}

// The operator, if all it does is add `addend` to `tensor`.
bool adds(const Scope& scope, const Operator& op, int tensor, double addend) {
  const int other = other_operand(op, tensor);
  if (!is_onnx(op, "Add") || other < 0) return false;
  const std::optional<double> constant = scalar_beside(scope, other, tensor);
  return constant && is_close(*constant, addend);
}

// Follows `factor` through multiplications, in whatever order, until they make scale * x * factor.
bool match_product(const Scope& scope, int x, int factor, double scale, ActivationMatch& match) {
  double product = 1.0;
  bool has_x = false;
  for (int steps = 0; steps < 3; ++steps) {
    const int reader = scope.only_reader(factor);
    if (reader < 0) return false;
    const Operator& op = scope.op(reader);
    if (const std::optional<double> constant = factor_of(scope, op, factor)) {
      product *= *constant;
    } else {
      const int other = other_operand(op, factor);
      if (!is_onnx(op, "Mul") || other < 0 || has_x) return false;
      has_x = true;
      if (other != x) {  // x, itself times a constant
        const int scaled = scope.tensor(other).producer;
        if (!scope.is_free(scaled) || scope.only_reader(other) != reader) return false;
        const std::optional<double> constant = factor_of(scope, scope.op(scaled), x);
        if (!constant) return false;
        product *= *constant;
        match.operators.push_back(scaled);
      }
    }
    match.operators.push_back(reader);
    factor = op.outputs[0];
    if (has_x && is_close(product, scale)) {
      match.output = factor;
      return true;
    }
  }
  return false;
}

// x * HardSigmoid(x) with slope 1/6.
std::optional<ActivationMatch> match_hard_swish_of_sigmoid(const Scope& scope, int index) {
  const Operator& op = scope.op(index);
  if (!is_onnx(op, "HardSigmoid") || !is_close(op.real("alpha", 0.2f), 1.0 / 6) ||
      !is_close(op.real("beta", 0.5f), 0.5)) {
    return std::nullopt;
  }
  ActivationMatch match{{Activation::HardSwish, 0.0f, 0.0f}, {index}, -1};
  if (!match_product(scope, op.inputs[0], op.outputs[0], 1.0, match)) return std::nullopt;
  return match;
}

std::optional<Activation> match_clip(const Scope& scope, const Operator& op) {
  Activation clip{Activation::Clip, -FLT_MAX, FLT_MAX};
  if (op.since_version < 11) {
    clip.alpha = op.real("min", clip.alpha);
    clip.beta = op.real("max", clip.beta);
  } else {
    float* bounds[] = {&clip.alpha, &clip.beta};
    for (size_t i = 0; i < 2; ++i) {
      const int input = scope.input(op, i + 1);
      if (input < 0) continue;
      const std::optional<float> bound = constant_scalar(scope.graph, input);
      if (!bound) return std::nullopt;
      *bounds[i] = *bound;
    }
  }
  if (!(clip.alpha <= clip.beta)) return std::nullopt;  // NaN too
  return clip;
}

// x * Clip(x + 3, 0, 6) / 6.
std::optional<ActivationMatch> match_hard_swish_of_clip(const Scope& scope, int index) {
  const Operator& op = scope.op(index);
  if (!is_onnx(op, "Add") || op.inputs.size() != 2) return std::nullopt;
  const int x = scope.is_constant(op.inputs[0]) ? op.inputs[1] : op.inputs[0];
  if (x < 0 || !adds(scope, op, x, 3.0)) return std::nullopt;
  const int next = scope.only_reader(op.outputs[0]);
  if (next < 0 || !is_onnx(scope.op(next), "Clip") || scope.op(next).inputs[0] != op.outputs[0]) return std::nullopt;
  const std::optional<Activation> clip = match_clip(scope, scope.op(next));
  if (!clip || clip->alpha != 0.0f || !is_close(clip->beta, 6.0)) return std::nullopt;
  ActivationMatch match{{Activation::HardSwish, 0.0f, 0.0f}, {index, next}, -1};
  if (!match_product(scope, x, scope.op(next).outputs[0], 1.0 / 6, match)) return std::nullopt;
  return match;
}

// x * (1 + Erf(x / sqrt(2))) / 2.
std::optional<ActivationMatch> match_gelu(const Scope& scope, int index) {
  const Operator& op = scope.op(index);
  if (op.inputs.size() != 2) return std::nullopt;
  const int x = scope.is_constant(op.inputs[0]) ? op.inputs[1] : op.inputs[0];
  if (x < 0) return std::nullopt;
  const std::optional<double> factor = factor_of(scope, op, x);
  if (!factor || !is_close(*factor, std::sqrt(0.5))) return std::nullopt;
  const int erf = scope.only_reader(op.outputs[0]);
  if (erf < 0 || !is_onnx(scope.op(erf), "Erf")) return std::nullopt;
  const int plus = scope.only_reader(scope.op(erf).outputs[0]);
  if (plus < 0 || !adds(scope, scope.op(plus), scope.op(erf).outputs[0], 1.0)) return std::nullopt;
  ActivationMatch match{{Activation::Gelu, 0.0f, 0.0f}, {index, erf, plus}, -1};
  if (!match_product(scope, x, scope.op(plus).outputs[0], 0.5, match)) return std::nullopt;
  return match;
}

std::optional<Activation> match_single(const Scope& scope, const Operator& op) {
  if (is_onnx(op, "Clip")) return match_clip(scope, op);
  if (is_microsoft(op, "FastGelu")) {
    if (scope.input(op, 1) >= 0) return std::nullopt;  // a bias
    return Activation{Activation::GeluTanh, 0.0f, 0.0f};
  }
  if (op.inputs.size() != 1) return std::nullopt;
  if (is_onnx(op, "Relu")) return Activation{Activation::Relu, 0.0f, 0.0f};
  if (is_onnx(op, "LeakyRelu")) {
    const float slope = op.real("alpha", 0.01f);
    if (std::isfinite(slope)) return Activation{Activation::LeakyRelu, slope, 0.0f};
  }
  if (is_onnx(op, "HardSwish")) return Activation{Activation::HardSwish, 0.0f, 0.0f};
  if (is_onnx(op, "HardSigmoid")) {
    const float slope = op.real("alpha", 0.2f), offset = op.real("beta", 0.5f);
    if (std::isfinite(slope) && std::isfinite(offset)) return Activation{Activation::HardSigmoid, slope, offset};
  }
  if (is_onnx(op, "Sigmoid")) return Activation{Activation::Sigmoid, 0.0f, 0.0f};
  if (is_microsoft(op, "Gelu")) return Activation{Activation::Gelu, 0.0f, 0.0f};
  if (is_onnx(op, "Gelu")) {
    const auto found = op.attributes.find("approximate");
    const std::string text = found == op.attributes.end() ? "none" : found->second.text;
    if (text == "none" || text.empty()) return Activation{Activation::Gelu, 0.0f, 0.0f};
    if (text == "tanh") return Activation{Activation::GeluTanh, 0.0f, 0.0f};
  }
  return std::nullopt;
}

}  // namespace

std::optional<ActivationMatch> match_activation(const Scope& scope, int index) {
  const Operator& op = scope.op(index);
  if (!scope.is_free(index) || op.subgraphs || op.inputs.empty() || !makes_only_first(scope, op)) return std::nullopt;
  std::optional<ActivationMatch> match = match_hard_swish_of_sigmoid(scope, index);
  if (!match) match = match_hard_swish_of_clip(scope, index);
  if (!match) match = match_gelu(scope, index);
  if (!match) {
    const std::optional<Activation> single = match_single(scope, op);
    if (!single) return std::nullopt;
    match = ActivationMatch{*single, {index}, op.outputs[0]};
  }
  for (const int part : match->operators) {
    if (!scope.is_float(scope.op(part).outputs[0])) return std::nullopt;
  }
  return match;
}

std::optional<ActivationMatch> match_activation_of(const Scope& scope, int tensor) {
  const Tensor& found = scope.tensor(tensor);
  if (found.graph_output || found.consumers.size() > 3) return std::nullopt;
  for (const int reader : found.consumers) {
    std::optional<ActivationMatch> match = match_activation(scope, reader);
    if (!match) continue;
    bool starts_here = false, swallows = true;
    for (const int input : scope.op(reader).inputs) starts_here |= input == tensor;
    for (const int other : found.consumers) {
      bool inside = false;
      for (const int part : match->operators) inside |= part == other;
      swallows &= inside;
    }
    if (starts_here && swallows) return match;
  }
  return std::nullopt;
}

}  // namespace sparse
