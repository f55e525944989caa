// The matrix product at the heart of a layer: sparse weights times panels of sixteen positions.
//
// Outputs are split into groups, the reduction over taps and rows into chunks. A kernel holds what it needs for every
// (chunk, group): machine code and a stream of weights, or compressed rows. Chunks run in ascending order; the first
// starts from the bias, the others from what `out` holds, the last adds the residual and applies the activation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "core/layout.h"
#include "graph/region.h"
#include "kernels/lane_ops.h"

namespace sparse {

// Taps [tap_begin, tap_end) and, of each, rows [row_begin, row_end). More than one tap only with all rows.
struct Chunk {
  int64_t tap_begin = 0, tap_end = 0;
  int64_t row_begin = 0, row_end = 0;
};

// Outputs [begin, end).
struct Group {
  int64_t begin = 0, end = 0;
};

// One nonzero: row `row` of tap `tap` times `payload` (a float, or four int8 weights of a quad, as a 32-bit word)
// belongs to output `output`.
struct Nonzero {
  int32_t tap, row, output;
  uint32_t payload;
};

// Nonzeros of a layer dealt to chunks and groups; the common start of every kernel.
struct KernelPlan {
  Element element = Element::F32;
  int64_t outputs = 0, taps = 1, rows = 0;  // rows of one tap
  int64_t nonzeros = 0;                     // single weights, or quads
  std::vector<Chunk> chunks;
  std::vector<Group> groups;
  std::vector<std::vector<Nonzero>> parts;  // [chunk * groups + group], by (tap, row, output)
  std::vector<float> bias;                  // F32: outputs values; Q8: empty, the sums start from zero
  Activation activation;                    // F32 only; a Q8 layer applies it when it requantizes
  bool residual = false;                    // F32 only

  const std::vector<Nonzero>& part(size_t chunk, size_t group) const { return parts[chunk * groups.size() + group]; }
};

// `widest`: most outputs that a group may have.
KernelPlan plan_kernel(const Weights& weights, Element element, const Activation& activation, bool residual,
                       int64_t widest);

// One call of a kernel: `count` blocks.
struct KernelCall {
  size_t chunk = 0, group = 0;
  int64_t count = 0;
  const void* const* taps = nullptr;    // [count][chunk's taps]: row `row_begin` of the panel
  std::byte* out = nullptr;             // row 0 of the first block's outputs: float or int32 [outputs][16]
  int64_t out_stride = 0;               // bytes from block to block
  const std::byte* residual = nullptr;  // rows as `out`; read by the last chunk of F32 layers that have one
  int64_t residual_stride = 0;
};

class SparseKernel {
 public:
  virtual ~SparseKernel() = default;
  virtual void run(const KernelCall& call) const = 0;
  // Memory that one run over all parts reads besides the panels: code and weights.
  virtual int64_t bytes() const = 0;
  // Start to bring into the cache what the first call will read.
  virtual void warm() const {}
  const KernelPlan& plan() const { return plan_; }  // its `parts` may be gone

 protected:
  explicit SparseKernel(KernelPlan plan) : plan_(std::move(plan)) {}
  KernelPlan plan_;
};

// The fastest kernel of `isa`. Without `jit`, or where executable memory is refused, one compiled ahead of time.
std::unique_ptr<const SparseKernel> make_kernel(const Weights& weights, Element element, const Activation& activation,
                                                bool residual, Isa isa, bool jit);

// The kinds behind make_kernel. Those that compile at run time give null where executable memory is refused, or where
// the processor lacks an instruction (VNNI for Q8).
std::unique_ptr<const SparseKernel> make_avx512_kernel(KernelPlan plan);             // groups of at most 30
std::unique_ptr<const SparseKernel> make_avx2_kernel(KernelPlan plan);               // F32 only
std::unique_ptr<const SparseKernel> make_compiled_kernel(KernelPlan plan, Isa isa);  // ahead of time

}  // namespace sparse
