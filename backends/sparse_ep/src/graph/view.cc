// Accessors of the view.
#include "graph/view.h"

namespace sparse {

int64_t Tensor::elements() const {
  if (!has_shape) return -1;
  int64_t product = 1;
  for (const int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(product, size, &product)) return -1;
  }
  return product;
}

int64_t Operator::integer(const std::string& name, int64_t fallback) const {
  const auto found = attributes.find(name);
  return found == attributes.end() || found->second.ints.empty() ? fallback : found->second.ints.front();
}

float Operator::real(const std::string& name, float fallback) const {
  const auto found = attributes.find(name);
  return found == attributes.end() || found->second.floats.empty() ? fallback : found->second.floats.front();
}

std::vector<int64_t> Operator::integers(const std::string& name) const {
  const auto found = attributes.find(name);
  return found == attributes.end() ? std::vector<int64_t>() : found->second.ints;
}

}  // namespace sparse
