#include "graph/constants.h"

#include <cmath>
#include <cstring>

namespace sparse {
namespace {

bool is_integer(DataType type) { return type == DataType::Uint8 || type == DataType::Int8 || type == DataType::Int32; }

}  // namespace

const Tensor* constant_tensor(const GraphView& graph, int tensor) {
  if (tensor < 0) return nullptr;
  const Tensor& found = graph.tensors[static_cast<size_t>(tensor)];
  return found.constant != nullptr && found.elements() > 0 ? &found : nullptr;
}

std::optional<std::vector<float>> constant_floats(const GraphView& graph, int tensor) {
  const Tensor* found = constant_tensor(graph, tensor);
  if (found == nullptr || found->type != DataType::Float) return std::nullopt;
  std::vector<float> values(static_cast<size_t>(found->elements()));
  std::memcpy(values.data(), found->constant, values.size() * sizeof(float));
  return values;
}

std::optional<float> constant_scalar(const GraphView& graph, int tensor) {
  const Tensor* found = constant_tensor(graph, tensor);
  if (found == nullptr || found->type != DataType::Float || found->elements() != 1) return std::nullopt;
  float value;
  std::memcpy(&value, found->constant, sizeof(value));
  return value;
}

std::optional<std::vector<int64_t>> constant_integers(const GraphView& graph, int tensor) {
  const Tensor* found = constant_tensor(graph, tensor);
  if (found == nullptr || found->type != DataType::Int64) return std::nullopt;
  std::vector<int64_t> values(static_cast<size_t>(found->elements()));
  std::memcpy(values.data(), found->constant, values.size() * sizeof(int64_t));
  return values;
}

std::optional<Quantization> constant_quantization(const GraphView& graph, int scale, int zero_point, DataType type) {
  if (type != DataType::Uint8 && type != DataType::Int8) return std::nullopt;
  const std::optional<float> step = constant_scalar(graph, scale);
  if (!step || !std::isfinite(*step) || *step <= 0.0f) return std::nullopt;
  Quantization result;
  result.scale = *step;
  result.is_signed = type == DataType::Int8;
  if (zero_point >= 0) {
    const Tensor* zero = constant_tensor(graph, zero_point);
    if (zero == nullptr || zero->type != type || zero->elements() != 1) return std::nullopt;
    result.zero_point = integer_at(*zero, 0);
  }
  if (result.is_signed) result.zero_point += 128;
  return result;
}

bool constant_equals(const Tensor& constant, int32_t value) {
  if (!is_integer(constant.type)) return false;
  const int64_t count = constant.elements();
  for (int64_t i = 0; i < count; ++i) {
    if (integer_at(constant, i) != value) return false;
  }
  return true;
}

int32_t integer_at(const Tensor& constant, int64_t index) {
  if (constant.type == DataType::Uint8) return static_cast<const uint8_t*>(constant.constant)[index];
  if (constant.type == DataType::Int8) return static_cast<const int8_t*>(constant.constant)[index];
  int32_t value;
  std::memcpy(&value, static_cast<const char*>(constant.constant) + index * 4, sizeof(value));
  return value;
}

}  // namespace sparse
