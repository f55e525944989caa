// Where every output block of a windowed layer finds its panels.
//
// For each output block and tap: the panel is a block of the input itself where all sixteen lanes line up, the padding
// panel where all lanes lie outside, else a copy that has to be packed from a few input blocks.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "core/layout.h"
#include "kernels/lane_ops.h"
#include "program/extents.h"

namespace sparse {

struct Gather {
  static constexpr int32_t kPadding = -1;

  int64_t taps = 1;
  bool identity = false;        // every panel is the input block of the output block's number; nothing else is set
  std::vector<int32_t> panels;  // [output blocks][taps]: input block, kPadding, or -2 - index into copies
  struct Copy {
    int32_t first = 0, count = 0;  // of `sources`
  };
  std::vector<Copy> copies;
  std::vector<PackSource> sources;
  std::vector<int32_t> reach;  // [output blocks]: highest input block that this block or one before it reads
  bool packed() const { return !copies.empty(); }
};

Gather make_gather(const Layout& in, const Layout& out, const PlacedWindow& window);

// Layers of one geometry share their gather.
class GatherCache {
 public:
  std::shared_ptr<const Gather> get(const Layout& in, const Layout& out, const PlacedWindow& window);

 private:
  using Key = std::array<int64_t, 21>;
  std::map<Key, std::shared_ptr<const Gather>> known_;
};

// Number of taps that lie inside the input, for every lane of every output block: [blocks][16].
std::vector<float> inside_taps(const Layout& in, const Layout& out, const PlacedWindow& window);

}  // namespace sparse
