// The work of the steps.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/lane_ops.h"
#include "program/plan.h"

namespace sparse {

// Where a run keeps its values.
struct Memory {
  std::byte* base;
  const Plan* plan;
  const Region* region;

  // Where block 0 of a value is, or would be: a passing value has only the blocks of the item at hand.
  std::byte* of(int value, const Item& item) const {
    const auto v = static_cast<size_t>(value);
    return base + plan->offsets[v] - (plan->passing[v] ? item.first * plan->layouts[v].block_bytes() : 0);
  }
};

// A step on a range of its output blocks, cut into tasks that may run in any order and at the same time.
class MatrixWork {
 public:
  MatrixWork(const Step& step, const Item& item, const Memory& memory, const LaneOps& ops, int threads);
  size_t tasks() const { return static_cast<size_t>(tiles_ * splits_); }
  void run(size_t task) const;

 private:
  bool quantized() const { return step_.in.element == Element::Q8; }
  void gather(size_t chunk, int64_t first, int64_t last, std::byte* panels, const void** taps) const;
  void finish(const Group& group, int64_t first, int64_t last, const std::byte* sums) const;

  const Step& step_;
  const Item& item_;
  const KernelPlan& plan_;
  const Region& region_;
  const LaneOps& ops_;
  const std::byte* in_;
  std::byte* out_;
  const std::byte* residual_ = nullptr;
  const Value* residual_value_ = nullptr;
  int64_t tiles_ = 0, splits_ = 1;                           // of blocks, of groups of outputs
  int64_t panel_bytes_ = 0, tap_bytes_ = 0, sum_bytes_ = 0;  // of scratch memory; sums only where the output is bytes
};

class PoolWork {
 public:
  PoolWork(const Step& step, const Item& item, const Memory& memory, const LaneOps& ops);
  size_t tasks() const;
  void run(size_t task) const;

 private:
  void window(int64_t first, int64_t last) const;

  const Step& step_;
  const Item& item_;
  const LaneOps& ops_;
  const Quantization &from_, &to_;
  const std::byte* in_;
  std::byte* out_;
};

// Sum, Activate, LayerNorm.
class PointwiseWork {
 public:
  PointwiseWork(const Step& step, const Item& item, const Memory& memory, const LaneOps& ops)
      : step_(step), item_(item), memory_(memory), ops_(ops) {}
  size_t tasks() const;
  void run(size_t task) const;

 private:
  void alike(int64_t first, int64_t last) const;
  void mixed(int64_t first, int64_t last) const;

  const Step& step_;
  const Item& item_;
  const Memory& memory_;
  const LaneOps& ops_;
};

// Blocks out of the model's storage (Import) or into it (Export).
class ConversionWork {
 public:
  ConversionWork(const Step& step, const Item& item, const Memory& memory, const LaneOps& ops, const void* in,
                 void* out, int threads);
  size_t tasks() const;
  void run(size_t task) const;

 private:
  const Step& step_;
  const Item& item_;
  const LaneOps& ops_;
  const Value& value_;
  std::byte* blocks_;
  const void* in_;
  void* out_;
  int64_t share_;  // blocks of a task
};

// Scratch memory of the calling thread; valid until it asks again.
std::byte* scratch(size_t size);

// Panels of a tile: packs what has to be packed, and writes one pointer for each (block, tap of the range).
struct TileRequest {
  const Step* step;
  const std::byte* in;  // the whole input
  int64_t first, last;  // output blocks, within one tile
  size_t range;         // of step->packs
  int64_t tap_begin, tap_end, row_begin, row_end;
};
void gather_tile(const TileRequest& request, const LaneOps& ops, std::byte* panels, const void** taps);

}  // namespace sparse
