// A region made concrete for given shapes: layouts, memory, gathers, and the order of work.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/buffer.h"
#include "core/layout.h"
#include "graph/region.h"
#include "kernels/sparse_kernel.h"
#include "program/extents.h"
#include "program/gather.h"

namespace sparse {

// What a tile of output blocks packs before one range of taps runs.
struct TilePacks {
  std::vector<int32_t> begin;   // [tiles + 1] into copies
  std::vector<int32_t> copies;  // of the gather, each once in its tile
  std::vector<int32_t> slots;  // [output blocks][taps of the range]: which of the tile's copies, where the panel is one
  int32_t most = 0;            // copies of a tile
};

// A layer, or the way of a value into the region (Import) or out of it (Export).
struct Step {
  enum Kind : uint8_t { Compute, Import, Export } kind = Compute;
  std::vector<int> inputs;               // values; of Import none
  int output = -1;                       // value; of Export none
  size_t port = 0;                       // Import and Export: which input or output of the region
  const Layer* layer = nullptr;          // Compute
  const SparseKernel* kernel = nullptr;  // of Matrix layers
  Layout in, out;                        // of inputs[0] and output; the same for Import and Export
  std::shared_ptr<const Gather> gather;  // of windowed layers
  std::vector<TilePacks> packs;          // one for each distinct range of taps, as tap_ranges has them
  std::vector<size_t> range_of_chunk;
  int64_t tile = 1;                        // output blocks that go through a part one after the other
  Buffer padding;                          // a panel of padding
  uint32_t fill = 0;                       // its word
  std::vector<float> lane_weights;         // AveragePool: [output blocks][16]
  std::vector<float> multipliers, biases;  // Matrix of Q8: how sums become real numbers, or steps of its rounding
  std::vector<float> shifts;               // and what is added behind the rounding
};

// Output blocks [first, last) of a step.
struct Item {
  size_t step = 0;
  int64_t first = 0, last = 0;
};

struct Plan {
  std::vector<std::vector<int64_t>> shapes;  // of values, as in the model
  std::vector<Layout> layouts;               // of values
  std::vector<int64_t> offsets;              // of values, in the memory of a run
  std::vector<char> passing;                 // values of which memory holds one item's blocks only, see place.h
  int64_t bytes = 0;
  std::vector<Step> steps;
  std::vector<Item> items;  // in the order of work
};

// kernels[i] belongs to region.layers[i], null unless that is a Matrix; `threads` share the work. Throws
// std::runtime_error if shapes do not fit.
std::unique_ptr<const Plan> make_plan(const Region& region, const std::vector<const SparseKernel*>& kernels,
                                      const std::vector<std::vector<int64_t>>& input_shapes, int threads);

}  // namespace sparse
