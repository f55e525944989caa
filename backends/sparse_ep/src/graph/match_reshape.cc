// Reshape and its like where they keep the channels of tokens: nothing but another name for the same bytes.
#include "graph/match.h"

namespace sparse {
namespace {

// The shape of a tensor with at most one -1, which the number of elements settles; or nothing.
std::optional<std::vector<int64_t>> target_shape(const Scope& scope, int tensor) {
  std::vector<int64_t> shape;
  int unknown = 0, empty = 0;
  for (int axis = 0; axis < scope.shapes.rank(tensor); ++axis) {
    shape.push_back(scope.shapes.size(tensor, axis));
    unknown += shape.back() < 0;
    empty += shape.back() == 0;
  }
  if (shape.empty() || unknown > 1 || (unknown == 1 && empty > 0)) return std::nullopt;
  return shape;
}

// Is the shape of a tensor of as many elements this one but for the last dimension?
bool has_rows(const Scope& scope, int tensor, const std::vector<int64_t>& shape) {
  if (scope.shapes.rank(tensor) != static_cast<int>(shape.size())) return false;
  for (size_t axis = 0; axis + 1 < shape.size(); ++axis) {
    if (scope.shapes.size(tensor, static_cast<int>(axis)) != shape[axis]) return false;
  }
  return true;
}

// What the input `from` is reshaped to first, for the output to be `to`; nothing if that cannot be said. The shape is
// empty if the input has it already.
std::optional<std::vector<int64_t>> shape_first(const Scope& scope, const Match& match, int from, int to) {
  std::optional<std::vector<int64_t>> shape = target_shape(scope, to);
  if (!shape) return std::nullopt;
  shape->back() = match.reads.front().channels;
  if (has_rows(scope, from, *shape)) shape->clear();
  return shape;
}

}  // namespace

bool keeps_channels(const Scope& scope, const Operator& op) {
  const bool known =
      is_onnx(op, "Reshape") || is_onnx(op, "Flatten") || is_onnx(op, "Squeeze") || is_onnx(op, "Unsqueeze");
  if (!known) return false;
  for (size_t i = 1; i < op.inputs.size(); ++i) {
    if (op.inputs[i] >= 0 && !scope.is_constant(op.inputs[i])) return false;
  }
  const int from = op.inputs[0], to = op.outputs[0];
  if ((!scope.is_float(from) && !scope.is_bytes(from)) || scope.is_constant(from)) return false;
  const int rank = scope.shapes.rank(from), new_rank = scope.shapes.rank(to);
  if (rank < 2 || new_rank < 2) return false;
  const int64_t channels = scope.shapes.size(from, rank - 1);
  return channels >= 1 && scope.shapes.size(to, new_rank - 1) == channels && scope.shapes.same_elements(from, to);
}

bool swallow_reshape_before(const Scope& scope, Match& match) {
  int& input = match.layer.inputs.front();
  const int index = scope.tensor(input).producer;
  if (match.makes.spatial != 0 || !scope.is_free(index) || scope.only_reader(input) != match.operators.front()) {
    return false;
  }
  const Operator& op = scope.op(index);
  if (!keeps_channels(scope, op)) return false;
  std::optional<std::vector<int64_t>> shape = shape_first(scope, match, op.inputs[0], match.layer.output);
  if (!shape) return false;
  match.shape = std::move(*shape);
  match.operators.insert(match.operators.begin(), index);
  input = op.inputs[0];
  return true;
}

bool swallow_reshape_behind(const Scope& scope, int index, Match& match) {
  const Operator& op = scope.op(index);
  if (match.makes.spatial != 0 || !keeps_channels(scope, op)) return false;
  std::optional<std::vector<int64_t>> shape = shape_first(scope, match, match.layer.inputs.front(), op.outputs[0]);
  if (!shape) return false;
  match.shape = std::move(*shape);
  return true;
}

std::optional<Match> match_reshape(const Scope& scope, int index) {
  const Operator& op = scope.op(index);
  if (!scope.is_free(index) || op.inputs.empty() || !keeps_channels(scope, op)) return std::nullopt;
  std::optional<std::vector<int64_t>> shape = target_shape(scope, op.outputs[0]);
  if (!shape) return std::nullopt;
  Match match;
  match.operators = {index};
  match.layer.kind = Layer::Reshape;
  match.layer.shape = std::move(*shape);
  match.layer.output = op.outputs[0];
  match.makes.spatial = kUnknownSpatial;
  if (scope.is_bytes(op.inputs[0])) {
    match.makes.element = Element::Q8;
    match.makes.quantization.is_signed = scope.tensor(op.inputs[0]).type == DataType::Int8;
    match.any_quantization = true;
    match.read(op.inputs[0], match.makes);
    return match;
  }
  Match bytes = match;  // if they are the same before and behind it
  read_either(scope, op.inputs[0], bytes.makes, bytes);
  make_either(scope, bytes);
  if (is_same_form(bytes.reads[0], bytes.makes) && bytes.makes.element == Element::Q8) return bytes;
  match.read(op.inputs[0], match.makes);
  return match;
}

}  // namespace sparse
