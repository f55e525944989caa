#include "graph/match_window.h"

namespace sparse {
namespace {

// No model goes near it; products of a few such numbers stay far from overflow.
constexpr int64_t kLargest = 1 << 20;

// The attribute into the last `spatial` places of `to`; what is not stated keeps its default.
bool read(const Operator& op, const char* name, int spatial, int64_t smallest, int64_t* to) {
  const std::vector<int64_t> values = op.integers(name);
  if (values.empty()) return true;
  if (values.size() != static_cast<size_t>(spatial)) return false;
  for (int i = 0; i < spatial; ++i) {
    const int64_t value = values[static_cast<size_t>(i)];
    if (value < smallest || value > kLargest) return false;
    to[2 - spatial + i] = value;
  }
  return true;
}

bool read_pads(const Operator& op, int spatial, Window& window) {
  const std::vector<int64_t> pads = op.integers("pads");
  if (pads.empty()) return true;
  if (pads.size() != static_cast<size_t>(2 * spatial)) return false;
  for (int i = 0; i < spatial; ++i) {
    const int64_t begin = pads[static_cast<size_t>(i)], end = pads[static_cast<size_t>(i + spatial)];
    if (begin < 0 || begin > kLargest || end < 0 || end > kLargest) return false;
    window.begin[2 - spatial + i] = begin;
    window.end[2 - spatial + i] = end;
  }
  return true;
}

bool read_auto_pad(const Operator& op, Window& window) {
  const auto found = op.attributes.find("auto_pad");
  if (found == op.attributes.end()) return true;
  const std::string& text = found->second.text;
  if (text == "SAME_UPPER") {
    window.auto_pad = AutoPad::SameUpper;
  } else if (text == "SAME_LOWER") {
    window.auto_pad = AutoPad::SameLower;
  } else if (text == "VALID") {
    window.auto_pad = AutoPad::Valid;
  } else {
    return text.empty() || text == "NOTSET";
  }
  // Pads do not count beside it.
  for (int i = 0; i < 2; ++i) window.begin[i] = window.end[i] = 0;
  return true;
}

}  // namespace

std::optional<Window> match_window(const Operator& op, int spatial, const int64_t* kernel) {
  Window window;
  if (!read(op, "kernel_shape", spatial, 1, window.kernel) || !read(op, "strides", spatial, 1, window.strides) ||
      !read(op, "dilations", spatial, 1, window.dilations) || !read_pads(op, spatial, window) ||
      !read_auto_pad(op, window)) {
    return std::nullopt;
  }
  const bool stated = !op.integers("kernel_shape").empty();
  if (kernel != nullptr) {
    for (int i = 0; i < spatial; ++i) {
      int64_t& size = window.kernel[2 - spatial + i];
      if (kernel[i] < 1 || kernel[i] > kLargest || (stated && size != kernel[i])) return std::nullopt;
      size = kernel[i];
    }
    return window;
  }
  if (!stated) return std::nullopt;
  window.ceil_mode = op.integer("ceil_mode", 0) != 0;
  window.count_include_pad = op.integer("count_include_pad", 0) != 0;
  // A window of nothing but padding has no average and no maximum.
  for (int i = 0; i < 2; ++i) {
    if (window.begin[i] >= window.kernel[i] && window.begin[i] > 0) return std::nullopt;
    if (window.end[i] >= window.kernel[i] && window.end[i] > 0) return std::nullopt;
  }
  return window;
}

}  // namespace sparse
