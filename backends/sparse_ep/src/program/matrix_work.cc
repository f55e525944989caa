// A sparse matrix times the panels of a layer, tile by tile.
#include <algorithm>

#include "program/work.h"

namespace sparse {

namespace {

// So many for each, so that none waits long for the last one of another.
constexpr int64_t kSharesOfThread = 4;

}  // namespace

MatrixWork::MatrixWork(const Step& step, const Item& item, const Memory& memory, const LaneOps& ops, int threads)
    : step_(step),
      item_(item),
      plan_(step.kernel->plan()),
      region_(*memory.region),
      ops_(ops),
      in_(memory.of(step.layer->inputs[0], item)),
      out_(memory.of(step.layer->output, item)) {
  if (step.layer->inputs.size() > 1) {
    residual_ = memory.of(step.layer->inputs[1], item);
    residual_value_ = &region_.values[static_cast<size_t>(step.layer->inputs[1])];
  }
  tiles_ = (item.last - item.first + step.tile - 1) / step.tile;
  // Tiles that the threads cannot deal evenly are shared by groups of outputs; what they pack is then packed by each.
  if (tiles_ % threads != 0 && tiles_ < 4 * threads) {
    const int64_t shares = step.gather && step.gather->packed() ? threads : kSharesOfThread * threads;
    splits_ = std::min(static_cast<int64_t>(plan_.groups.size()), shares);
  }

  int64_t widest = 0;
  for (const Chunk& chunk : plan_.chunks) {
    widest = std::max(widest, chunk.tap_end - chunk.tap_begin);
    const int64_t rows = chunk.row_end - chunk.row_begin;
    for (const TilePacks& packs : step_.packs) panel_bytes_ = std::max(panel_bytes_, packs.most * rows * kRowBytes);
  }
  tap_bytes_ = (step_.tile * widest * static_cast<int64_t>(sizeof(void*)) + 63) / 64 * 64;
  if (step_.out.element == Element::Q8) sum_bytes_ = step_.tile * plan_.outputs * kRowBytes;
}

void MatrixWork::run(size_t task) const {
  const auto tile = static_cast<int64_t>(task) / splits_, split = static_cast<int64_t>(task) % splits_;
  const auto groups = static_cast<int64_t>(plan_.groups.size());
  const auto first_group = static_cast<size_t>(groups * split / splits_);
  const auto last_group = static_cast<size_t>(groups * (split + 1) / splits_);
  const int64_t first = item_.first + tile * step_.tile, last = std::min(item_.last, first + step_.tile);
  std::byte* memory = scratch(static_cast<size_t>(panel_bytes_ + tap_bytes_ + sum_bytes_));
  const void** taps = reinterpret_cast<const void**>(memory + panel_bytes_);
  // Sums are as large as floats, and become floats where they are.
  const int64_t stride = plan_.outputs * kRowBytes;
  std::byte* sums = sum_bytes_ > 0 ? memory + panel_bytes_ + tap_bytes_ : out_ + first * stride;
  for (size_t chunk = 0; chunk < plan_.chunks.size(); ++chunk) {
    gather(chunk, first, last, memory, taps);
    for (size_t group = first_group; group < last_group; ++group) {
      KernelCall call;
      call.chunk = chunk, call.group = group;
      call.count = last - first;
      call.taps = taps;
      call.out_stride = call.residual_stride = stride;
      call.out = sums;
      if (residual_ && !quantized()) call.residual = residual_ + first * stride;
      step_.kernel->run(call);
      if (quantized() && chunk + 1 == plan_.chunks.size()) finish(plan_.groups[group], first, last, sums);
    }
  }
}

void MatrixWork::gather(size_t chunk, int64_t first, int64_t last, std::byte* panels, const void** taps) const {
  const Chunk& part = plan_.chunks[chunk];
  const size_t range = step_.range_of_chunk.empty() ? 0 : step_.range_of_chunk[chunk];
  const TileRequest request{&step_,         in_,          first,          last,        range,
                            part.tap_begin, part.tap_end, part.row_begin, part.row_end};
  gather_tile(request, ops_, panels, taps);
}

void MatrixWork::finish(const Group& group, int64_t first, int64_t last, const std::byte* sums) const {
  const Layer& layer = *step_.layer;
  const Value& value = region_.values[static_cast<size_t>(layer.output)];
  Finish how;
  how.multiplier = step_.multipliers.data() + group.begin;
  how.bias = step_.biases.data() + group.begin;
  how.shift = step_.shifts.data() + group.begin;
  if (layer.rounding) how.rounding = &*layer.rounding;
  how.activation = layer.activation;
  if (residual_) {
    how.residual_element = residual_value_->element;
    how.residual_from = residual_value_->quantization;
  }
  // Where the group's rows of a block begin.
  const auto place = [&](int64_t block, Element element) {
    const bool bytes = element == Element::Q8;
    return (block * (bytes ? (plan_.outputs + 3) / 4 : plan_.outputs) + (bytes ? group.begin / 4 : group.begin)) *
           kRowBytes;
  };
  const int64_t outputs = group.end - group.begin;
  for (int64_t block = first; block < last; ++block) {
    const auto* from = reinterpret_cast<const int32_t*>(sums + place(block - first, Element::F32));
    std::byte* to = out_ + place(block, value.element);
    if (residual_) how.residual = residual_ + place(block, residual_value_->element);
    if (value.element == Element::F32) {
      ops_.finish(from, outputs, how, reinterpret_cast<float*>(to));
    } else {
      ops_.finish_q8(from, outputs, how, value.quantization, reinterpret_cast<uint8_t*>(to));
    }
  }
}

}  // namespace sparse
