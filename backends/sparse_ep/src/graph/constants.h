// Constants of the graph, read only where type and size are what they have to be.
#pragma once

#include <optional>
#include <vector>

#include "core/element.h"
#include "graph/view.h"

namespace sparse {

// The tensor if it is a constant with at least one element, else null. -1 for an input left out is no constant.
const Tensor* constant_tensor(const GraphView& graph, int tensor);

// Float constants.
std::optional<float> constant_scalar(const GraphView& graph, int tensor);  // of one element, whatever its rank
std::optional<std::vector<float>> constant_floats(const GraphView& graph, int tensor);

std::optional<std::vector<int64_t>> constant_integers(const GraphView& graph, int tensor);  // of 64 bits

// What one scale and one zero point (-1: zero) say about a tensor of `type`, uint8 or int8.
std::optional<Quantization> constant_quantization(const GraphView& graph, int scale, int zero_point, DataType type);

// Is every element of the constant `value`? Eight-bit and 32-bit integers.
bool constant_equals(const Tensor& constant, int32_t value);

// Element `index` of a constant of 8-bit or 32-bit integers; checked by nobody.
int32_t integer_at(const Tensor& constant, int64_t index);

}  // namespace sparse
