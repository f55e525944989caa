#include "program/extents.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace sparse {
namespace {

constexpr int64_t kMostPositions = int64_t{1} << 31;

int64_t effective(const Window& window, int axis) { return (window.kernel[axis] - 1) * window.dilations[axis] + 1; }

// Pads before and after along one axis.
void pads(const Window& window, int axis, int64_t size, int64_t* before, int64_t* after) {
  *before = window.begin[axis];
  *after = window.end[axis];
  if (window.auto_pad == AutoPad::NotSet) return;
  *before = *after = 0;
  if (window.auto_pad == AutoPad::Valid) return;
  const int64_t outputs = (size + window.strides[axis] - 1) / window.strides[axis];
  const int64_t total = std::max<int64_t>(0, (outputs - 1) * window.strides[axis] + effective(window, axis) - size);
  *before = window.auto_pad == AutoPad::SameLower ? (total + 1) / 2 : total / 2;
  *after = total - *before;
}

int64_t output_size(const Window& window, int axis, int64_t size) {
  int64_t before, after;
  pads(window, axis, size, &before, &after);
  const int64_t room = size + before + after - effective(window, axis);
  if (room < 0)
    throw std::runtime_error("a window of " + std::to_string(effective(window, axis)) + " does not fit an input of " +
                             std::to_string(size));
  const int64_t stride = window.strides[axis];
  if (!window.ceil_mode) return room / stride + 1;
  const int64_t outputs = (room + stride - 1) / stride + 1;
  return (outputs - 1) * stride >= size + before ? outputs - 1 : outputs;  // no window starts in the pad at the end
}

}  // namespace

bool PlacedWindow::pointwise() const {
  return taps() == 1 && strides[0] == 1 && strides[1] == 1 && begin[0] == 0 && begin[1] == 0;
}

PlacedWindow place(const Window& window, const Extent& in) {
  PlacedWindow placed;
  for (int axis = 0; axis < 2; ++axis) {
    placed.kernel[axis] = window.kernel[axis];
    placed.strides[axis] = window.strides[axis];
    placed.dilations[axis] = window.dilations[axis];
    int64_t after;
    pads(window, axis, axis == 0 ? in.h : in.w, &placed.begin[axis], &after);
  }
  return placed;
}

Extent window_output(const Window& window, const Extent& in) {
  return {in.n, output_size(window, 0, in.h), output_size(window, 1, in.w)};
}

Extent extent_of(const Value& value, const std::vector<int64_t>& shape) {
  const auto refuse = [&](const std::string& why) { throw std::runtime_error("'" + value.name + "' " + why); };
  const size_t rank = shape.size();
  if (value.spatial == 0 ? rank < 1 : rank != static_cast<size_t>(value.spatial) + 2)
    refuse("has " + std::to_string(rank) + " dimensions, which do not fit its layer");
  Extent extent;
  const size_t channel_axis = value.spatial == 0 ? rank - 1 : 1;
  if (shape[channel_axis] != value.channels)
    refuse("has " + std::to_string(shape[channel_axis]) + " channels, its layer takes " +
           std::to_string(value.channels));
  int64_t positions = 1;
  for (size_t axis = 0; axis < rank; ++axis) {
    if (axis == channel_axis) continue;
    if (shape[axis] < 0 || (shape[axis] > 0 && positions > kMostPositions / shape[axis])) refuse("is too large");
    positions *= shape[axis];
  }
  if (value.spatial == 0) {
    extent.w = positions;
  } else {
    extent.n = shape[0];
    extent.h = value.spatial == 2 ? shape[2] : 1;
    extent.w = shape.back();
  }
  return extent;
}

}  // namespace sparse
