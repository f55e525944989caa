// What the matchers share: readers, quantizers, constants along channels.
#include "graph/match.h"

#include <algorithm>

#include "graph/constants.h"

namespace sparse {

bool Scope::is_bytes(int tensor) const {
  if (tensor < 0) return false;
  const DataType type = this->tensor(tensor).type;
  return type == DataType::Uint8 || type == DataType::Int8;
}

int Scope::only_reader(int tensor) const {
  const Tensor& found = this->tensor(tensor);
  if (found.graph_output || found.consumers.size() != 1) return -1;
  const int reader = found.consumers.front();
  return is_free(reader) && !op(reader).subgraphs ? reader : -1;
}

bool is_onnx(const Operator& op, const char* type) {
  return op.type == type && (op.domain.empty() || op.domain == "ai.onnx") && !op.inputs.empty() && !op.outputs.empty();
}

bool is_microsoft(const Operator& op, const char* type) {
  return op.type == type && op.domain == "com.microsoft" && !op.inputs.empty() && !op.outputs.empty();
}

bool makes_only_first(const Scope& scope, const Operator& op) {
  if (op.outputs.empty() || op.outputs.front() < 0) return false;
  for (size_t i = 1; i < op.outputs.size(); ++i) {
    if (op.outputs[i] < 0) continue;
    const Tensor& further = scope.tensor(op.outputs[i]);
    if (further.graph_output || !further.consumers.empty()) return false;
  }
  return true;
}

bool is_copy(const Scope& scope, const Operator& op) {
  if (is_onnx(op, "Identity")) return true;
  // Dropout does nothing unless it is told to train.
  return is_onnx(op, "Dropout") && op.since_version >= 7 && scope.input(op, 2) < 0 && makes_only_first(scope, op);
}

std::optional<Dequantized> dequantized(const Scope& scope, int tensor) {
  if (!scope.is_float(tensor)) return std::nullopt;
  Dequantized result;
  result.op = scope.tensor(tensor).producer;
  if (result.op < 0) return std::nullopt;
  const Operator& op = scope.op(result.op);
  if (!is_onnx(op, "DequantizeLinear") && !is_microsoft(op, "DequantizeLinear")) return std::nullopt;
  result.tensor = op.inputs[0];
  if (result.tensor < 0 || scope.is_constant(result.tensor)) return std::nullopt;
  const std::optional<Quantization> found =
      constant_quantization(scope.graph, scope.input(op, 1), scope.input(op, 2), scope.tensor(result.tensor).type);
  if (!found) return std::nullopt;
  result.quantization = *found;
  return result;
}

std::optional<Requantized> requantized(const Scope& scope, int tensor) {
  Requantized result;
  result.op = scope.only_reader(tensor);
  if (result.op < 0) return std::nullopt;
  const Operator& op = scope.op(result.op);
  if (!is_onnx(op, "QuantizeLinear") && !is_microsoft(op, "QuantizeLinear")) return std::nullopt;
  result.tensor = op.outputs[0];
  if (op.inputs[0] != tensor || result.tensor < 0) return std::nullopt;
  const std::optional<Quantization> found =
      constant_quantization(scope.graph, scope.input(op, 1), scope.input(op, 2), scope.tensor(result.tensor).type);
  if (!found) return std::nullopt;
  result.quantization = *found;
  return result;
}

bool is_same(const Quantization& a, const Quantization& b) {
  return a.scale == b.scale && a.zero_point == b.zero_point && a.is_signed == b.is_signed;
}

std::optional<RealConstant> real_constant(const Scope& scope, int tensor) {
  if (tensor < 0 || !scope.is_float(tensor)) return std::nullopt;
  RealConstant result;
  if (const std::optional<std::vector<float>> values = constant_floats(scope.graph, tensor)) {
    result.shape = scope.tensor(tensor).shape;
    result.values = *values;
    return result;
  }
  result.dequantizer = scope.tensor(tensor).producer;
  if (result.dequantizer < 0) return std::nullopt;
  const Operator& op = scope.op(result.dequantizer);
  if (!is_onnx(op, "DequantizeLinear") && !is_microsoft(op, "DequantizeLinear")) return std::nullopt;
  const Tensor* codes = constant_tensor(scope.graph, op.inputs[0]);
  const std::optional<std::vector<float>> scales = constant_floats(scope.graph, scope.input(op, 1));
  if (codes == nullptr || !scales || op.integer("block_size", 0) != 0) return std::nullopt;
  if (codes->type != DataType::Uint8 && codes->type != DataType::Int8 && codes->type != DataType::Int32) {
    return std::nullopt;
  }
  const size_t count = static_cast<size_t>(codes->elements());
  if (scales->size() != 1 && (codes->shape.size() != 1 || scales->size() != count)) return std::nullopt;
  const Tensor* zeros = nullptr;
  if (scope.input(op, 2) >= 0) {
    zeros = constant_tensor(scope.graph, op.inputs[2]);
    if (zeros == nullptr || zeros->type != codes->type) return std::nullopt;
    if (zeros->elements() != static_cast<int64_t>(scales->size())) return std::nullopt;
    if (zeros->type == DataType::Int32 && !constant_equals(*zeros, 0)) return std::nullopt;
  }
  result.shape = codes->shape;
  for (size_t i = 0; i < count; ++i) {
    const size_t at = scales->size() == 1 ? 0 : i;
    const int64_t zero = zeros == nullptr ? 0 : integer_at(*zeros, static_cast<int64_t>(at));
    const int64_t steps = integer_at(*codes, static_cast<int64_t>(i)) - zero;
    result.values.push_back(static_cast<float>(static_cast<double>(steps) * static_cast<double>((*scales)[at])));
  }
  return result;
}

std::optional<std::vector<float>> channel_constant(const RealConstant& constant, int64_t channels, int rank, int axis) {
  const std::vector<int64_t>& shape = constant.shape;
  if (static_cast<int>(shape.size()) > rank) return std::nullopt;
  const int lead = rank - static_cast<int>(shape.size());
  for (size_t i = 0; i < shape.size(); ++i) {
    const bool along = lead + static_cast<int>(i) == axis;
    if (shape[i] != 1 && (!along || shape[i] != channels)) return std::nullopt;
  }
  std::vector<float> values = constant.values;
  if (values.size() == 1) values.assign(static_cast<size_t>(channels), values.front());
  return values;
}

void read_either(const Scope& scope, int tensor, Value form, Match& match) {
  const std::optional<Dequantized> source = dequantized(scope, tensor);
  const std::vector<int>& readers = scope.tensor(tensor).consumers;
  const bool alone = std::all_of(readers.begin(), readers.end(), [&](int reader) {
    return std::find(match.operators.begin(), match.operators.end(), reader) != match.operators.end();
  });
  if (source && alone && !scope.tensor(tensor).graph_output) {
    form.element = Element::Q8;
    form.quantization = source->quantization;
    tensor = source->tensor;
    match.dequantizers.push_back(source->op);
  }
  match.read(tensor, form);
}

void make_either(const Scope& scope, Match& match) {
  const std::optional<Requantized> target = requantized(scope, match.layer.output);
  if (!target) return;
  match.operators.push_back(target->op);
  match.layer.output = target->tensor;
  match.makes.element = Element::Q8;
  match.makes.quantization = target->quantization;
}

}  // namespace sparse
