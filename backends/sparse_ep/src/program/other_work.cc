// Pools, the operators that treat every position alike, and the ways into the region and out of it.
#include <algorithm>

#include "program/work.h"

namespace sparse {
namespace {

float* floats(std::byte* data) { return reinterpret_cast<float*>(data); }
const float* floats(const std::byte* data) { return reinterpret_cast<const float*>(data); }
uint8_t* bytes(std::byte* data) { return reinterpret_cast<uint8_t*>(data); }
const uint8_t* bytes(const std::byte* data) { return reinterpret_cast<const uint8_t*>(data); }

const Quantization& quantization(const Memory& memory, int value) {
  return memory.region->values[static_cast<size_t>(value)].quantization;
}

const Layout& layout(const Memory& memory, int value) { return memory.plan->layouts[static_cast<size_t>(value)]; }

size_t shares(const Item& item, int64_t share) {
  return static_cast<size_t>((item.last - item.first + share - 1) / share);
}

// Images that one task averages.
constexpr int64_t kImages = kLanes;

}  // namespace

PoolWork::PoolWork(const Step& step, const Item& item, const Memory& memory, const LaneOps& ops)
    : step_(step),
      item_(item),
      ops_(ops),
      from_(quantization(memory, step.layer->inputs[0])),
      to_(quantization(memory, step.layer->output)),
      in_(memory.of(step.layer->inputs[0], item)),
      out_(memory.of(step.layer->output, item)) {}

size_t PoolWork::tasks() const {
  if (step_.layer->kind == Layer::GlobalAveragePool) return static_cast<size_t>((step_.in.n + kImages - 1) / kImages);
  return shares(item_, step_.tile);
}

void PoolWork::run(size_t task) const {
  const auto index = static_cast<int64_t>(task);
  if (step_.layer->kind == Layer::GlobalAveragePool) {
    ops_.global_average(step_.in, in_, from_, to_, step_.out, index * kImages,
                        std::min(step_.in.n, (index + 1) * kImages), out_);
    return;
  }
  const int64_t first = item_.first + index * step_.tile;
  window(first, std::min(item_.last, first + step_.tile));
}

void PoolWork::window(int64_t first, int64_t last) const {
  const int64_t taps = step_.gather->taps, rows = step_.in.rows();
  const int64_t panel_bytes = step_.packs.empty() ? 0 : step_.packs[0].most * step_.in.block_bytes();
  const int64_t tap_bytes = step_.tile * taps * static_cast<int64_t>(sizeof(void*));
  std::byte* panels = scratch(static_cast<size_t>(panel_bytes + tap_bytes));
  const void** pointers = reinterpret_cast<const void**>(panels + panel_bytes);
  gather_tile({&step_, in_, first, last, 0, 0, taps, 0, rows}, ops_, panels, pointers);
  for (int64_t block = first; block < last; ++block, pointers += taps) {
    std::byte* result = out_ + block * step_.out.block_bytes();
    const float* weights = step_.lane_weights.data() + block * kLanes;
    if (step_.layer->kind == Layer::MaxPool) {
      ops_.max_pool(step_.in.element, pointers, taps, rows, result);
    } else if (step_.in.element == Element::F32) {
      ops_.average_pool(reinterpret_cast<const float* const*>(pointers), taps, rows, weights, floats(result));
    } else {
      ops_.average_pool_q8(reinterpret_cast<const uint8_t* const*>(pointers), taps, rows, weights, from_, to_,
                           bytes(result));
    }
  }
}

size_t PointwiseWork::tasks() const { return shares(item_, step_.tile); }

void PointwiseWork::run(size_t task) const {
  const Layer& layer = *step_.layer;
  const int64_t first = item_.first + static_cast<int64_t>(task) * step_.tile,
                last = std::min(item_.last, first + step_.tile);
  bool same = layer.kind != Layer::LayerNorm || step_.out.element == Element::F32;
  for (const int input : layer.inputs) same &= layout(memory_, input).element == step_.out.element;
  same ? alike(first, last) : mixed(first, last);
}

// Values of one form go by as they are.
void PointwiseWork::alike(int64_t first, int64_t last) const {
  const Layer& layer = *step_.layer;
  const int64_t rows = step_.out.rows(), size = step_.out.block_bytes();
  const int64_t all = (last - first) * rows;
  const std::byte* a = memory_.of(layer.inputs[0], item_) + first * size;
  const std::byte* b = layer.inputs.size() > 1 ? memory_.of(layer.inputs[1], item_) + first * size : nullptr;
  std::byte* out = memory_.of(layer.output, item_) + first * size;
  const Quantization& qa = quantization(memory_, layer.inputs[0]);
  const Quantization& to = quantization(memory_, layer.output);
  const bool real = step_.out.element == Element::F32;
  if (layer.kind == Layer::Sum && real) {
    ops_.sum(floats(a), floats(b), all, layer.activation, floats(out));
  } else if (layer.kind == Layer::Sum) {
    ops_.sum_q8(bytes(a), qa, bytes(b), quantization(memory_, layer.inputs[1]), all, layer.activation, to, bytes(out));
  } else if (layer.kind == Layer::Activate && real) {
    ops_.activate(floats(a), all, layer.activation, floats(out));
  } else if (layer.kind == Layer::Activate) {
    ops_.activate_q8(bytes(a), qa, all, layer.activation, to, bytes(out));
  } else {
    for (int64_t block = first; block < last; ++block, a += size, out += size)
      ops_.layer_norm(floats(a), rows, layer.scale.data(), layer.bias.data(), layer.epsilon, floats(out));
  }
}

// Others block by block, through floats that stay in the cache.
void PointwiseWork::mixed(int64_t first, int64_t last) const {
  const Layer& layer = *step_.layer;
  const int64_t channels = step_.out.channels, size = channels * kRowBytes;
  std::byte* memory = scratch(static_cast<size_t>(3 * size));
  for (int64_t block = first; block < last; ++block) {
    const float* in[2] = {};
    for (size_t i = 0; i < layer.inputs.size(); ++i) {
      const Layout& form = layout(memory_, layer.inputs[i]);
      const std::byte* from = memory_.of(layer.inputs[i], item_) + block * form.block_bytes();
      in[i] = floats(from);
      if (form.element == Element::F32) continue;
      float* real = floats(memory + static_cast<int64_t>(i) * size);
      ops_.dequantize(bytes(from), quantization(memory_, layer.inputs[i]), channels, real);
      in[i] = real;
    }
    const bool real = step_.out.element == Element::F32;
    std::byte* to = memory_.of(layer.output, item_) + block * step_.out.block_bytes();
    float* out = floats(real ? to : memory + 2 * size);
    if (layer.kind == Layer::Sum) {
      ops_.sum(in[0], in[1], channels, layer.activation, out);
    } else if (layer.kind == Layer::LayerNorm) {
      ops_.layer_norm(in[0], channels, layer.scale.data(), layer.bias.data(), layer.epsilon, out);
    } else if (real || layer.activation.kind != Activation::None) {
      ops_.activate(in[0], channels, layer.activation, out);
    }
    if (real) continue;
    const bool copy = layer.kind == Layer::Activate && layer.activation.kind == Activation::None;
    ops_.quantize(copy ? in[0] : out, channels, quantization(memory_, layer.output), bytes(to));
  }
}

ConversionWork::ConversionWork(const Step& step, const Item& item, const Memory& memory, const LaneOps& ops,
                               const void* in, void* out, int threads)
    : step_(step),
      item_(item),
      ops_(ops),
      value_(memory.region->values[static_cast<size_t>(step.kind == Step::Import ? step.output : step.inputs[0])]),
      blocks_(memory.of(step.kind == Step::Import ? step.output : step.inputs[0], item)),
      in_(in),
      out_(out) {
  // A few for each thread, in whole squares, or rows of tiles.
  const int64_t unit = step.out.lanes == Layout::Tiles && step.out.grid.across > 1 ? step.out.tile_w() : kLanes;
  const int64_t wanted = threads > 1 ? 2 * threads : 1, even = (item.last - item.first + wanted - 1) / wanted;
  share_ = std::max<int64_t>(1, (even + unit - 1) / unit) * unit;
}

size_t ConversionWork::tasks() const { return shares(item_, share_); }

void ConversionWork::run(size_t task) const {
  const Layout& layout = step_.out;
  Strides strides{0, 1, layout.channels};
  if (value_.spatial > 0) strides = {layout.channels * layout.h * layout.w, layout.h * layout.w, 1};
  const int64_t first = item_.first + static_cast<int64_t>(task) * share_, last = std::min(item_.last, first + share_);
  if (step_.kind == Step::Import) {
    ops_.to_blocks(layout, strides, in_, value_.quantization.is_signed, 0, first, last, blocks_);
  } else {
    ops_.from_blocks(layout, strides, blocks_, value_.quantization.is_signed, first, last, out_);
  }
}

}  // namespace sparse
