// Operators that only change the shape. Dimensions that are products keep their factors, so that what is flattened and
// then split again is known to be what it was.
#include <algorithm>

#include "graph/constants.h"
#include "graph/dimensions.h"

namespace sparse {

// Nothing if the known part does not fit.
std::optional<Dimensions::Product> Dimensions::product(const Dimension* first, const Dimension* last) const {
  Product result;
  const auto multiply = [&](int64_t factor) { return !__builtin_mul_overflow(result.known, factor, &result.known); };
  for (const Dimension* at = first; at != last; ++at) {
    const auto factors = factors_.find(*at);
    if (*at >= 0) {
      if (!multiply(*at)) return std::nullopt;
    } else if (factors != factors_.end()) {
      if (!multiply(factors->second.known)) return std::nullopt;
      const std::vector<Dimension>& names = factors->second.unknown;
      result.unknown.insert(result.unknown.end(), names.begin(), names.end());
    } else {
      result.unknown.push_back(*at);
    }
  }
  std::sort(result.unknown.begin(), result.unknown.end());
  return result;
}

std::optional<Dimensions::Product> Dimensions::product(const std::vector<Dimension>& all) const {
  return product(all.data(), all.data() + all.size());
}

std::optional<Dimensions::Product> Dimensions::quotient(Product size, const Product& divisor) const {
  if (divisor.known == 0 || size.known % divisor.known != 0) return std::nullopt;
  size.known /= divisor.known;
  for (const Dimension name : divisor.unknown) {
    const auto found = std::find(size.unknown.begin(), size.unknown.end(), name);
    if (found == size.unknown.end()) return std::nullopt;
    size.unknown.erase(found);
  }
  return size;
}

// The dimension of this size.
Dimensions::Dimension Dimensions::dimension(const Product& size) {
  if (size.unknown.empty()) return size.known;
  if (size.known == 1 && size.unknown.size() == 1) return size.unknown.front();
  const auto [found, is_new] = named_.try_emplace(size, last_ - 1);
  if (is_new) factors_.emplace(fresh(), size);
  return found->second;
}

Dimensions::Shape Dimensions::derive_reshape(const Operator& op, const Shape& from) {
  const std::optional<std::vector<int64_t>> target =
      constant_integers(graph_, op.inputs.size() == 2 ? op.inputs[1] : -1);
  if (!target) return Shape();
  Shape result;
  result.known = true;
  result.dimensions = *target;
  std::vector<Dimension> others;
  size_t open = target->size();
  for (size_t i = 0; i < target->size(); ++i) {
    Dimension& size = result.dimensions[i];
    if (size == -1) {
      if (open != target->size()) return Shape();
      open = i;
      continue;
    }
    if (size == 0 && op.integer("allowzero", 0) == 0) {
      if (i >= from.dimensions.size()) return Shape();
      size = from.dimensions[i];
    } else if (size < 0) {
      return Shape();
    }
    others.push_back(size);
  }
  if (open == target->size()) return result;
  const std::optional<Product> all = product(from.dimensions), known = product(others);
  const std::optional<Product> rest = all && known ? quotient(*all, *known) : std::nullopt;
  result.dimensions[open] = rest ? dimension(*rest) : fresh();
  return result;
}

Dimensions::Shape Dimensions::derive_flatten(const Operator& op, const Shape& from) {
  const int64_t rank = static_cast<int64_t>(from.dimensions.size());
  int64_t axis = op.integer("axis", 1);
  if (axis < 0) axis += rank;
  if (axis < 0 || axis > rank) return Shape();
  const Dimension* first = from.dimensions.data();
  Shape result;
  result.known = true;
  for (const std::optional<Product>& side : {product(first, first + axis), product(first + axis, first + rank)}) {
    result.dimensions.push_back(side ? dimension(*side) : fresh());
  }
  return result;
}

// The axes of Squeeze and Unsqueeze, ascending, each once; they count in a shape of `rank` dimensions.
std::optional<std::vector<int64_t>> Dimensions::axes(const Operator& op, size_t rank) const {
  std::optional<std::vector<int64_t>> result =
      op.inputs.size() > 1 ? constant_integers(graph_, op.inputs[1]) : op.integers("axes");
  if (!result) return std::nullopt;
  for (int64_t& axis : *result) {
    if (axis < 0) axis += static_cast<int64_t>(rank);
    if (axis < 0 || axis >= static_cast<int64_t>(rank)) return std::nullopt;
  }
  std::sort(result->begin(), result->end());
  if (std::adjacent_find(result->begin(), result->end()) != result->end()) return std::nullopt;
  return result;
}

Dimensions::Shape Dimensions::derive_squeeze(const Operator& op, const Shape& from) {
  const std::optional<std::vector<int64_t>> gone = axes(op, from.dimensions.size());
  if (!gone || gone->empty()) return Shape();  // without axes, whatever happens to be 1
  Shape result;
  result.known = true;
  for (size_t i = 0; i < from.dimensions.size(); ++i) {
    if (!std::binary_search(gone->begin(), gone->end(), static_cast<int64_t>(i))) {
      result.dimensions.push_back(from.dimensions[i]);
    } else if (from.dimensions[i] != 1) {
      return Shape();
    }
  }
  return result;
}

Dimensions::Shape Dimensions::derive_unsqueeze(const Operator& op, const Shape& from) {
  const size_t given = op.inputs.size() > 1 && op.inputs[1] >= 0
                           ? constant_integers(graph_, op.inputs[1]).value_or(std::vector<int64_t>()).size()
                           : op.integers("axes").size();
  const std::optional<std::vector<int64_t>> added = axes(op, from.dimensions.size() + given);
  if (!added || added->empty()) return Shape();
  Shape result = from;
  for (const int64_t axis : *added) result.dimensions.insert(result.dimensions.begin() + axis, 1);
  return result;
}

}  // namespace sparse
