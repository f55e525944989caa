// What the matchers share: readers, quantizers, constants along channels.
#include "graph/match.h"

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

std::optional<std::vector<float>> channel_constant(const Scope& scope, int constant, int64_t channels, int rank,
                                                   int axis) {
  const Tensor* found = constant_tensor(scope.graph, constant);
  if (found == nullptr || static_cast<int>(found->shape.size()) > rank) return std::nullopt;
  const int lead = rank - static_cast<int>(found->shape.size());
  for (size_t i = 0; i < found->shape.size(); ++i) {
    const bool along = lead + static_cast<int>(i) == axis;
    if (found->shape[i] != 1 && (!along || found->shape[i] != channels)) return std::nullopt;
  }
  std::optional<std::vector<float>> values = constant_floats(scope.graph, constant);
  if (values && values->size() == 1) values->assign(static_cast<size_t>(channels), values->front());
  return values;
}

}  // namespace sparse
