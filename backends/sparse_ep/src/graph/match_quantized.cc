// Layers of bytes without weights: between DequantizeLinear and QuantizeLinear, or as operators on bytes.
#include "graph/constants.h"
#include "graph/match.h"
#include "graph/match_window.h"

namespace sparse {
namespace {

Value bytes(const Quantization& quantization, int spatial, int64_t channels) {
  Value value;
  value.element = Element::Q8;
  value.quantization = quantization;
  value.spatial = spatial;
  value.channels = channels;
  return value;
}

// Kind, window and input image of a pool; the spatial dimensions, or 0 if it is none.
int match_pool(const Scope& scope, const Operator& op, int input, Layer& layer) {
  const int rank = scope.shapes.rank(input), spatial = rank - 2;
  if (rank != 3 && rank != 4) return 0;
  if (is_onnx(op, "GlobalAveragePool") || is_microsoft(op, "QLinearGlobalAveragePool")) {
    layer.kind = Layer::GlobalAveragePool;
    return op.integer("channels_last", 0) == 0 ? spatial : 0;
  }
  const bool maximum = is_onnx(op, "MaxPool");
  if (!maximum && !is_onnx(op, "AveragePool") && !is_microsoft(op, "QLinearAveragePool")) return 0;
  if (op.integer("storage_order", 0) != 0 || op.integer("channels_last", 0) != 0) return 0;
  const std::optional<Window> window = match_window(op, spatial, nullptr);
  if (!window) return 0;
  layer.kind = maximum ? Layer::MaxPool : Layer::AveragePool;
  layer.window = *window;
  return spatial;
}

// MaxPool of bytes, and the QLinear operators, which state all quantizations themselves.
bool match_bytes(const Scope& scope, const Operator& op, Match& match) {
  const auto quantization = [&](size_t scale, size_t zero_point, int tensor) -> std::optional<Quantization> {
    const int zero = scope.input(op, zero_point);
    if (scope.input(op, scale) < 0) return std::nullopt;
    return constant_quantization(scope.graph, op.inputs[scale], zero, scope.tensor(tensor).type);
  };
  const int input = op.inputs[0], output = op.outputs[0];
  match.layer.output = output;

  if (is_microsoft(op, "QLinearAdd")) {
    const int other = scope.input(op, 3);
    if (other < 0 || !scope.is_bytes(other) || scope.is_constant(other)) return false;
    const auto a = quantization(1, 2, input), b = quantization(4, 5, other), to = quantization(6, 7, output);
    if (!a || !b || !to || !scope.shapes.same(input, other)) return false;
    match.layer.kind = Layer::Sum;
    match.read(input, bytes(*a, kUnknownSpatial, 0));
    match.read(other, bytes(*b, kUnknownSpatial, 0));
    match.makes = bytes(*to, kUnknownSpatial, 0);
    return true;
  }

  const int spatial = match_pool(scope, op, input, match.layer);
  if (spatial == 0 || scope.shapes.size(input, 1) < 1) return false;
  const int64_t channels = scope.shapes.size(input, 1);
  if (op.domain == "com.microsoft") {
    const auto from = quantization(1, 2, input), to = quantization(3, 4, output);
    if (!from || !to) return false;
    match.read(input, bytes(*from, spatial, channels));
    match.makes = bytes(*to, spatial, channels);
    return true;
  }
  if (match.layer.kind != Layer::MaxPool || scope.tensor(input).type != scope.tensor(output).type) return false;
  Quantization unknown;
  unknown.is_signed = scope.tensor(input).type == DataType::Int8;
  match.read(input, bytes(unknown, spatial, channels));
  match.makes = bytes(unknown, spatial, channels);
  match.any_quantization = true;
  return true;
}

// Input `tensor` through its DequantizeLinear.
bool read_dequantized(const Scope& scope, int tensor, int spatial, int64_t channels, Match& match) {
  const std::optional<Dequantized> source = tensor < 0 ? std::nullopt : dequantized(scope, tensor);
  if (!source) return false;
  match.read(source->tensor, bytes(source->quantization, spatial, channels));
  match.dequantizers.push_back(source->op);
  return true;
}

// The operators on floats between DequantizeLinear and QuantizeLinear.
bool match_between(const Scope& scope, int index, Match& match) {
  const Operator& op = scope.op(index);
  int spatial = kUnknownSpatial;
  int64_t channels = 0;
  match.layer.output = op.outputs[0];
  if (const std::optional<ActivationMatch> found = match_activation(scope, index)) {
    match.layer.kind = Layer::Activate;
    match.layer.activation = found->activation;
    match.layer.output = found->output;
    match.operators = found->operators;
    const int input = op.inputs.size() > 1 && scope.is_constant(op.inputs[0]) ? op.inputs[1] : op.inputs[0];
    if (!read_dequantized(scope, input, spatial, channels, match)) return false;
  } else if (is_onnx(op, "Add") && op.inputs.size() == 2) {
    if (op.inputs[1] < 0 || !scope.shapes.same(op.inputs[0], op.inputs[1])) return false;
    match.layer.kind = Layer::Sum;
    for (const int input : op.inputs) {
      if (!read_dequantized(scope, input, spatial, channels, match)) return false;
    }
    swallow_activation(scope, match);
  } else {
    spatial = match_pool(scope, op, op.inputs[0], match.layer);
    if (spatial == 0) return false;
    channels = scope.shapes.size(op.inputs[0], 1);
    if (channels < 1 || !read_dequantized(scope, op.inputs[0], spatial, channels, match)) return false;
  }
  const std::optional<Requantized> target = requantized(scope, match.layer.output);
  if (!target) return false;
  // The maximum of bytes is only that of the numbers if nothing is scaled anew.
  if (match.layer.kind == Layer::MaxPool && !is_same(match.reads[0].quantization, target->quantization)) return false;
  match.operators.push_back(target->op);
  match.layer.output = target->tensor;
  match.makes = bytes(target->quantization, spatial, channels);
  return true;
}

}  // namespace

std::optional<Match> match_quantized_bridge(const Scope& scope, int index) {
  const Operator& op = scope.op(index);
  if (!scope.is_free(index) || op.subgraphs || op.inputs.empty() || op.inputs[0] < 0 || !makes_only_first(scope, op)) {
    return std::nullopt;
  }
  Match match;
  match.operators = {index};
  const bool on_bytes = scope.is_bytes(op.inputs[0]) && scope.is_bytes(op.outputs[0]);
  const bool found = (on_bytes && !scope.is_constant(op.inputs[0]) && match_bytes(scope, op, match)) ||
                     (scope.is_float(op.outputs[0]) && match_between(scope, index, match));
  if (!found) return std::nullopt;
  swallow_requantization(scope, match);
  return match;
}

}  // namespace sparse
