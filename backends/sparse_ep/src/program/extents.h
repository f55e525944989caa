// Shapes inside a region: the windows of layers applied to concrete extents.
#pragma once

#include <cstdint>
#include <vector>

#include "graph/region.h"

namespace sparse {

// Images: n of h by w. Tokens: n = h = 1, w = how many.
struct Extent {
  int64_t n = 1, h = 1, w = 1;
  int64_t positions() const { return n * h * w; }
  bool operator==(const Extent& other) const { return n == other.n && h == other.h && w == other.w; }
};

// A window with its pads worked out for one input.
struct PlacedWindow {
  int64_t kernel[2], strides[2], dilations[2], begin[2];
  int64_t taps() const { return kernel[0] * kernel[1]; }
  bool pointwise() const;  // one tap, no stride, no pad: every output position reads the same input position
};

PlacedWindow place(const Window& window, const Extent& in);
// Throws std::runtime_error where nothing is left.
Extent window_output(const Window& window, const Extent& in);

// Extent of a value of the model's shape; throws std::runtime_error when rank, channels or a dimension do not fit.
Extent extent_of(const Value& value, const std::vector<int64_t>& shape);

}  // namespace sparse
