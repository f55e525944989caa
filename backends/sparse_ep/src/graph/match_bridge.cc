// Layers without weights, worth taking between layers with weights: of floats, some of them also from and to bytes.
#include <cmath>
#include <utility>

#include "graph/constants.h"
#include "graph/match.h"
#include "graph/match_weights.h"
#include "graph/match_window.h"

namespace sparse {
namespace {

// Spatial dimensions of an image by its rank; 0 if it is none that layers know.
int image_dimensions(const Scope& scope, int tensor) {
  const int rank = scope.shapes.rank(tensor);
  return rank == 3 || rank == 4 ? rank - 2 : 0;
}

Value floats(int spatial, int64_t channels) {
  Value value;
  value.spatial = spatial;
  value.channels = channels;
  return value;
}

bool match_pool(const Scope& scope, const Operator& op, Match& match) {
  const int input = op.inputs[0], spatial = image_dimensions(scope, input);
  if (spatial == 0) return false;
  if (is_onnx(op, "GlobalAveragePool")) {
    match.layer.kind = Layer::GlobalAveragePool;
  } else {
    const bool maximum = is_onnx(op, "MaxPool");
    if (!maximum && !is_onnx(op, "AveragePool")) return false;
    if (maximum && op.integer("storage_order", 0) != 0) return false;
    const std::optional<Window> window = match_window(op, spatial, nullptr);
    // ONNX Runtime's releases do not agree on what such a window at the border is divided by.
    if (!window || (!maximum && window->ceil_mode && window->count_include_pad)) return false;
    match.layer.kind = maximum ? Layer::MaxPool : Layer::AveragePool;
    match.layer.window = *window;
  }
  const int64_t channels = scope.shapes.size(input, 1);
  if (channels < 1 || scope.shapes.rank(op.outputs[0]) != spatial + 2) return false;
  match.read(input, floats(spatial, channels));
  match.makes = floats(spatial, channels);
  match.layer.output = op.outputs[0];
  return true;
}

bool match_sum(const Scope& scope, const Operator& op, Match& match) {
  if ((!is_onnx(op, "Add") && !is_onnx(op, "Sum")) || op.inputs.size() != 2) return false;
  for (const int input : op.inputs) {
    if (input < 0 || weights_tensor(scope, input) != nullptr || scope.is_constant(input) || !scope.is_float(input)) {
      return false;
    }
  }
  if (!scope.shapes.same(op.inputs[0], op.inputs[1])) return false;
  match.layer.kind = Layer::Sum;
  for (const int input : op.inputs) read_either(scope, input, floats(kUnknownSpatial, 0), match);
  match.makes = floats(kUnknownSpatial, 0);
  match.layer.output = op.outputs[0];
  return true;
}

bool match_layer_norm(const Scope& scope, const Operator& op, Match& match) {
  if (!is_onnx(op, "LayerNormalization") || op.inputs.size() < 2 || op.integer("stash_type", 1) != 1) return false;
  const int rank = scope.shapes.rank(op.inputs[0]);
  const int64_t axis = op.integer("axis", -1);
  if (rank < 2 || (axis != -1 && axis != rank - 1)) return false;
  const std::optional<RealConstant> scale = real_constant(scope, op.inputs[1]);
  if (!scale || scale->shape.size() != 1) return false;
  const int64_t channels = static_cast<int64_t>(scale->values.size());
  const int64_t size = scope.shapes.size(op.inputs[0], rank - 1);
  if (size >= 0 && size != channels) return false;
  match.layer.scale = scale->values;
  match.layer.bias.resize(scale->values.size());
  if (scale->dequantizer >= 0) match.dequantizers.push_back(scale->dequantizer);
  if (scope.input(op, 2) >= 0) {
    const std::optional<RealConstant> bias = real_constant(scope, op.inputs[2]);
    if (!bias || bias->shape != scale->shape) return false;
    match.layer.bias = bias->values;
    if (bias->dequantizer >= 0) match.dequantizers.push_back(bias->dequantizer);
  }
  match.layer.epsilon = op.real("epsilon", 1e-5f);
  if (!std::isfinite(match.layer.epsilon) || match.layer.epsilon < 0.0f) return false;
  match.layer.kind = Layer::LayerNorm;
  read_either(scope, op.inputs[0], floats(0, channels), match);
  match.makes = floats(0, channels);
  match.layer.output = op.outputs[0];
  return true;
}

// An activation that stands alone, or nothing but a copy.
bool match_activate(const Scope& scope, int index, Match& match) {
  const Operator& op = scope.op(index);
  std::optional<ActivationMatch> found = match_activation(scope, index);
  if (!found && is_copy(scope, op)) found = ActivationMatch{Activation(), {index}, op.outputs[0]};
  if (!found) return false;
  // The input that is no constant, also of those that begin with an addition or a multiplication.
  const int input = op.inputs.size() > 1 && scope.is_constant(op.inputs[0]) ? op.inputs[1] : op.inputs[0];
  if (input < 0 || scope.is_constant(input) || !scope.is_float(input)) return false;
  match.layer.kind = Layer::Activate;
  match.layer.activation = found->activation;
  match.layer.output = found->output;
  match.operators = found->operators;
  read_either(scope, input, floats(kUnknownSpatial, 0), match);
  match.makes = floats(kUnknownSpatial, 0);
  return true;
}

Match made_either(const Scope& scope, Match match) {
  make_either(scope, match);
  swallow_requantization(scope, match);
  return match;
}

}  // namespace

std::optional<Match> match_bridge(const Scope& scope, int index) {
  const Operator& op = scope.op(index);
  if (!scope.is_free(index) || op.subgraphs || op.inputs.empty() || op.inputs[0] < 0 || !makes_only_first(scope, op) ||
      !scope.is_float(op.outputs[0]) || !scope.is_float(op.inputs[0])) {
    return std::nullopt;
  }
  Match match;
  if (match_activate(scope, index, match)) return made_either(scope, std::move(match));
  match = Match();
  match.operators = {index};
  if (match_sum(scope, op, match)) {
    swallow_activation(scope, match);
    return made_either(scope, std::move(match));
  }
  if (scope.is_constant(op.inputs[0])) return std::nullopt;
  if (match_layer_norm(scope, op, match)) return made_either(scope, std::move(match));
  if (match_pool(scope, op, match)) return match;
  return std::nullopt;
}

std::optional<Match> match_quantizer(const Scope& scope, int index) {
  const Operator& op = scope.op(index);
  if (!scope.is_free(index) || op.subgraphs || op.inputs.empty() || op.inputs[0] < 0 ||
      scope.is_constant(op.inputs[0]) || !makes_only_first(scope, op)) {
    return std::nullopt;
  }
  Match match;
  match.operators = {index};
  match.layer.kind = Layer::Activate;
  match.layer.output = op.outputs[0];
  Value real = floats(kUnknownSpatial, 0), bytes = real;
  bytes.element = Element::Q8;
  if (const std::optional<Dequantized> source = dequantized(scope, op.outputs[0])) {
    bytes.quantization = source->quantization;
    match.read(source->tensor, bytes);
    match.makes = real;
    return match;
  }
  if (!is_onnx(op, "QuantizeLinear") && !is_microsoft(op, "QuantizeLinear")) return std::nullopt;
  const std::optional<Quantization> to =
      constant_quantization(scope.graph, scope.input(op, 1), scope.input(op, 2), scope.tensor(op.outputs[0]).type);
  if (!to || !scope.is_float(op.inputs[0])) return std::nullopt;
  bytes.quantization = *to;
  match.read(op.inputs[0], real);
  match.makes = bytes;
  return match;
}

bool is_quantizer(const Match& match) {
  return match.layer.kind == Layer::Activate && match.layer.activation.kind == Activation::None &&
         match.reads[0].element != match.makes.element;
}

}  // namespace sparse
