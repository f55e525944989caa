#include "program/layouts.h"

#include <algorithm>
#include <limits>

#include "program/extents.h"
#include "program/shapes.h"

namespace sparse {
namespace {

// Costs in cycles, roughly; of a row of sixteen lanes, where nothing else is said.
constexpr double kNonzero = 0.9;              // multiplied by a weight
constexpr double kTouched = 2.0;              // loaded and stored
constexpr double kCopy = 1.0, kSource = 1.0;  // packed, from so many blocks
constexpr double kPack = 60.0;                // once for a panel that is packed
constexpr double kTurned = 45.0;              // a square of lanes by blocks in a row of tiles, more than for pixels

// A block of a tile costs as much as so many panels that have to be packed because they cross its border.
constexpr int64_t kBlockInPanels = 8;

// What is so near to the ideal is taken at once.
constexpr double kNearly = 1.04;

// Pixels one after the other are for small images, which tiles may not fit, and for regions of so few windows that
// converting decides; for others trying them would only take time.
constexpr int64_t kSmallImage = 32 * 32, kFewWindows = 2;

// Layers of fewer blocks for each thread are shared by outputs, see tile_for in plan.cc.
constexpr int64_t kFewBlocks = 16;

// Windows at the upper border of a tile wait for the lower border of the one above, so that images cannot go through
// several layers band by band. Beyond any cache that would cost more than it saves.
constexpr int64_t kLargeImages = 8 << 20;

struct Arrangement {
  Layout::Lanes lanes = Layout::Pixels;
  Layout::Grid grid;
};

// Images, the largest value of which has so many bytes, cut into tiles, so that few lanes stay unused and few windows
// cross from tile to tile.
Arrangement tiles_of(const Extent& extent, int64_t images, int64_t bytes) {
  Arrangement best{Layout::Tiles, {images, 1, 1}};
  int64_t least = std::numeric_limits<int64_t>::max();
  const int64_t most_down = bytes * images > kLargeImages ? 1 : kLanes / images;
  for (int64_t down = 1; down <= most_down; ++down)
    for (int64_t across = 1; down * across * images <= kLanes; ++across) {
      const int64_t h = (extent.h + down - 1) / down, w = (extent.w + across - 1) / across;
      const int64_t border = (h + (down > 1 ? 2 : 0)) * (w + (across > 1 ? 2 : 0)) - h * w;
      const int64_t cost = kBlockInPanels * h * w + border;
      if (cost >= least) continue;
      least = cost;
      best.grid = {images, down, across};
    }
  return best;
}

class Chooser {
 public:
  Chooser(const Region& region, const std::vector<const SparseKernel*>& kernels,
          const std::vector<std::vector<int64_t>>& shapes, int threads, GatherCache* gathers)
      : region_(region), kernels_(kernels), threads_(threads), gathers_(gathers) {
    for (size_t v = 0; v < region.values.size(); ++v) {
      const Extent extent = extent_of(region.values[v], shapes[v]);
      const auto known = std::find(extents_.begin(), extents_.end(), extent);
      kinds_.push_back(static_cast<size_t>(known - extents_.begin()));
      if (known == extents_.end()) {
        extents_.push_back(extent);
        bytes_.push_back(0);
      }
      const Value& value = region.values[v];
      const int64_t size = value.element == Element::F32 ? 4 : 1;
      bytes_[kinds_[v]] = std::max(bytes_[kinds_[v]], extent.h * extent.w * value.channels * size);
    }
  }

  std::vector<Layout> run() {
    std::vector<Arrangement> best(extents_.size());
    if (!may_be_tiles()) return layouts(best);
    double least = std::numeric_limits<double>::infinity();
    const int64_t n = extents_[0].n;
    const double enough = kNearly * ideal_cost();
    for (int64_t images = kLanes; images > 0; images /= 2) {
      if (images > 1 && images / 2 >= n) continue;
      std::vector<Arrangement> tiles;
      for (size_t kind = 0; kind < extents_.size(); ++kind)
        tiles.push_back(tiles_of(extents_[kind], images, bytes_[kind]));
      const double cost = cost_of(tiles);
      if (cost < least) {
        least = cost;
        best = tiles;
      }
      if (least <= enough || (images == kLanes && n % kLanes == 0)) return layouts(best);
    }
    const bool few = std::count_if(region_.layers.begin(), region_.layers.end(), has_window) <= kFewWindows;
    const double pixels = few ? cost_of(std::vector<Arrangement>(extents_.size())) : least;
    if (pixels < least) {
      least = pixels;
      best.assign(extents_.size(), Arrangement());
    }
    for (size_t kind = 0; kind < extents_.size(); ++kind) {  // some of one, some of the other
      if (extents_[kind].h * extents_[kind].w > kSmallImage && !few) continue;
      std::vector<Arrangement> other = best;
      other[kind] = best[kind].lanes == Layout::Tiles ? Arrangement() : tiles_of(extents_[kind], 1, bytes_[kind]);
      const double cost = cost_of(other);
      if (cost >= least) continue;
      least = cost;
      best = other;
    }
    return layouts(best);
  }

 private:
  // Images throughout, as many everywhere, and windows that have neighbours.
  bool may_be_tiles() const {
    for (const Value& value : region_.values)
      if (value.spatial == 0) return false;
    for (const Extent& extent : extents_)
      if (extent.n != extents_[0].n || extent.positions() == 0) return false;
    return std::any_of(region_.layers.begin(), region_.layers.end(), [](const Layer& layer) {
      return has_window(layer) && (layer.window.kernel[0] * layer.window.kernel[1] > 1 || layer.window.strides[1] > 1);
    });
  }

  static bool has_window(const Layer& layer) { return windowed(layer) && layer.kind != Layer::GlobalAveragePool; }

  std::vector<Layout> layouts(const std::vector<Arrangement>& arrangements) const {
    std::vector<Layout> all;
    for (size_t v = 0; v < region_.values.size(); ++v) {
      const Extent& extent = extents_[kinds_[v]];
      const Arrangement& arrangement = arrangements[kinds_[v]];
      Layout layout;
      // Single pixels are as good as tokens, and the result of a global average.
      layout.lanes = extent.h * extent.w == 1 ? Layout::Pixels : arrangement.lanes;
      layout.grid = arrangement.grid;
      layout.element = region_.values[v].element;
      layout.n = extent.n, layout.h = extent.h, layout.w = extent.w;
      layout.channels = region_.values[v].channels;
      all.push_back(layout);
    }
    return all;
  }

  // With every lane in use, and nothing packed or converted.
  double ideal_cost() const {
    double cycles = 0.0;
    for (size_t i = 0; i < region_.layers.size(); ++i) {
      const auto output = static_cast<size_t>(region_.layers[i].output);
      const Value& value = region_.values[output];
      const double blocks = static_cast<double>(extents_[kinds_[output]].positions()) / kLanes;
      cycles +=
          blocks * static_cast<double>(value.element == Element::F32 ? value.channels : value.channels / 4) * kTouched;
      if (kernels_[i]) cycles += blocks * static_cast<double>(kernels_[i]->plan().nonzeros) * kNonzero;
    }
    return cycles;
  }

  double cost_of(const std::vector<Arrangement>& arrangements) const {
    const std::vector<Layout> all = layouts(arrangements);
    double cycles = 0.0;
    for (size_t i = 0; i < region_.layers.size(); ++i) {
      const Layer& layer = region_.layers[i];
      const Layout& in = all[static_cast<size_t>(layer.inputs[0])];
      const Layout& out = all[static_cast<size_t>(layer.output)];
      const double blocks = static_cast<double>(out.blocks()), rows = static_cast<double>(in.rows());
      cycles += blocks * static_cast<double>(out.rows()) * kTouched;
      if (kernels_[i]) cycles += blocks * static_cast<double>(kernels_[i]->plan().nonzeros) * kNonzero;
      if (!has_window(layer)) continue;
      const auto gather = gathers_->get(in, out, place(layer.window, {in.n, in.h, in.w}));
      if (!kernels_[i]) cycles += blocks * rows * static_cast<double>(gather->taps) * kNonzero;
      const auto copies = static_cast<double>(gather->copies.size());
      const double packing =
          copies * kPack + rows * (copies * kCopy + static_cast<double>(gather->sources.size()) * kSource);
      cycles += out.blocks() < kFewBlocks * threads_ ? packing * threads_ : packing;
    }
    for (const auto* ports : {&region_.inputs, &region_.outputs})
      for (const int value : *ports) {
        const Layout& layout = all[static_cast<size_t>(value)];
        if (layout.lanes == Layout::Pixels) continue;
        const bool whole_rows = layout.grid.across == 1;
        const int64_t width = whole_rows ? layout.tile_blocks() : layout.tile_w();
        const int64_t squares = (width + kLanes - 1) / kLanes * (layout.blocks() / width);
        cycles += static_cast<double>(squares * layout.rows()) * kTurned;
      }
    return cycles;
  }

  const Region& region_;
  const std::vector<const SparseKernel*>& kernels_;
  const int threads_;
  GatherCache* gathers_;
  std::vector<Extent> extents_;  // the different ones
  std::vector<int64_t> bytes_;   // of the largest value of each, one image
  std::vector<size_t> kinds_;    // of each value, into extents_
};

}  // namespace

std::vector<Layout> choose_layouts(const Region& region, const std::vector<const SparseKernel*>& kernels,
                                   const std::vector<std::vector<int64_t>>& shapes, int threads, GatherCache* gathers) {
  return Chooser(region, kernels, shapes, threads, gathers).run();
}

}  // namespace sparse
