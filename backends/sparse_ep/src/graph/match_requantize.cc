// Bytes that are quantized once more, with nothing but a limit in between, as static quantization leaves an activation
// behind its layer: QuantizeLinear, DequantizeLinear, Relu, QuantizeLinear.
#include <algorithm>
#include <cfloat>

#include "graph/match.h"

namespace sparse {
namespace {

// What is left out rounds to its quantum, so results move by half of that at most. Far above the quantum of the result
// it may be meant, so that has to be beyond one part in so many.
constexpr float kCoarsest = 4.0f;

struct Limits {
  float low = -FLT_MAX, high = FLT_MAX;

  // These limits first, then the others.
  Limits then(const Limits& next) const {
    return {std::clamp(low, next.low, next.high), std::clamp(high, next.low, next.high)};
  }
};

// The activation as limits, if it is nothing else.
std::optional<Limits> limits_of(const Activation& activation) {
  if (activation.kind == Activation::None) return Limits();
  if (activation.kind == Activation::Relu) return Limits{0.0f, FLT_MAX};
  if (activation.kind == Activation::Clip) return Limits{activation.alpha, activation.beta};
  return std::nullopt;
}

Limits limits_of(const Quantization& bytes) {
  return {static_cast<float>(-bytes.zero_point) * bytes.scale,
          static_cast<float>(255 - bytes.zero_point) * bytes.scale};
}

Activation activation_of(const Limits& limits, const Quantization& result) {
  const Limits held = limits_of(result);
  if (limits.high < held.high || (limits.low > held.low && limits.low != 0.0f)) {
    return {Activation::Clip, limits.low, limits.high};
  }
  return {limits.low > held.low ? Activation::Relu : Activation::None, 0.0f, 0.0f};
}

}  // namespace

void swallow_requantization(const Scope& scope, Match& match) {
  const bool active =
      match.layer.kind == Layer::Matrix || match.layer.kind == Layer::Sum || match.layer.kind == Layer::Activate;
  while (active && match.makes.element == Element::Q8) {
    const Quantization& first = match.makes.quantization;
    const std::optional<Limits> own = limits_of(match.layer.activation);
    const int reader = scope.only_reader(match.layer.output);
    if (!own || reader < 0) return;
    int tensor = scope.op(reader).outputs[0];
    const std::optional<Dequantized> source = tensor < 0 ? std::nullopt : dequantized(scope, tensor);
    if (!source || !is_same(source->quantization, first)) return;
    std::optional<Limits> further = Limits();
    std::vector<int> operators = {reader};
    if (const std::optional<ActivationMatch> activation = match_activation_of(scope, tensor)) {
      further = limits_of(activation->activation);
      operators.insert(operators.end(), activation->operators.begin(), activation->operators.end());
      tensor = activation->output;
    }
    const std::optional<Requantized> target = requantized(scope, tensor);
    if (!further || !target || first.scale > kCoarsest * target->quantization.scale) return;
    const Limits limits = own->then(limits_of(first)).then(*further);
    operators.push_back(target->op);
    match.operators.insert(match.operators.end(), operators.begin(), operators.end());
    match.layer.activation = activation_of(limits, target->quantization);
    match.layer.output = target->tensor;
    match.makes.quantization = target->quantization;
  }
}

}  // namespace sparse
