#include "program/gather.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <unordered_map>

namespace sparse {
namespace {

struct Pixel {
  int64_t n, y, x;
};

// What a lane holds; n = -1 if nothing. In tiles, images count on past the last one.
Pixel pixel_of(const Layout& layout, int64_t block, int64_t lane) {
  if (layout.lanes == Layout::Tiles) {
    const Layout::Grid& grid = layout.grid;
    if (lane >= grid.lanes()) return {-1, 0, 0};
    const int64_t tile = lane % (grid.down * grid.across), at = block % layout.tile_blocks();
    const int64_t y = tile / grid.across * layout.tile_h() + at / layout.tile_w();
    const int64_t x = tile % grid.across * layout.tile_w() + at % layout.tile_w();
    if (y >= layout.h || x >= layout.w) return {-1, 0, 0};
    return {block / layout.tile_blocks() * grid.images + lane / (grid.down * grid.across), y, x};
  }
  const int64_t position = block * kLanes + lane, pixels = layout.h * layout.w;
  if (position >= layout.n * pixels) return {-1, 0, 0};
  return {position / pixels, position % pixels / layout.w, position % layout.w};
}

struct Place {
  int32_t block;
  uint8_t lane;
};

Place place_of(const Layout& layout, const Pixel& pixel) {
  if (layout.lanes == Layout::Tiles) {
    const Layout::Grid& grid = layout.grid;
    const int64_t y = pixel.y % layout.tile_h(), x = pixel.x % layout.tile_w();
    const int64_t tile = pixel.y / layout.tile_h() * grid.across + pixel.x / layout.tile_w();
    return {static_cast<int32_t>(pixel.n / grid.images * layout.tile_blocks() + y * layout.tile_w() + x),
            static_cast<uint8_t>(pixel.n % grid.images * grid.down * grid.across + tile)};
  }
  const int64_t position = (pixel.n * layout.h + pixel.y) * layout.w + pixel.x;
  return {static_cast<int32_t>(position / kLanes), static_cast<uint8_t>(position % kLanes)};
}

bool is_live(const Pixel& pixel, int64_t images) { return pixel.n >= 0 && pixel.n < images; }

// Sources of one panel, of the first `images`: one input block for each distinct block among the lanes.
void sources_of(const Layout& in, const Layout& out, const PlacedWindow& window, int64_t images, int64_t block,
                int64_t tap, std::vector<PackSource>* sources) {
  sources->clear();
  const int64_t dy = tap / window.kernel[1] * window.dilations[0] - window.begin[0];
  const int64_t dx = tap % window.kernel[1] * window.dilations[1] - window.begin[1];
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    const Pixel at = pixel_of(out, block, lane);
    const int64_t y = at.y * window.strides[0] + dy, x = at.x * window.strides[1] + dx;
    if (!is_live(at, images) || y < 0 || y >= in.h || x < 0 || x >= in.w) continue;
    const Place from = place_of(in, {at.n, y, x});
    auto source =
        std::find_if(sources->begin(), sources->end(), [&](const PackSource& s) { return s.block == from.block; });
    if (source == sources->end()) {
      PackSource fresh;
      std::memset(&fresh, 0, sizeof fresh);  // padding too: sources are compared as bytes
      fresh.block = from.block;
      source = sources->insert(source, fresh);
    }
    source->mask = static_cast<uint16_t>(source->mask | 1u << lane);
    source->lane[lane] = from.lane;
  }
}

// Lanes past the last position may hold anything, so they do not count against a block that otherwise lines up.
bool lines_up(const PackSource& source, uint16_t live) {
  if (source.mask != live) return false;
  for (int64_t lane = 0; lane < kLanes; ++lane)
    if ((source.mask >> lane & 1) && source.lane[lane] != lane) return false;
  return true;
}

uint16_t live_lanes(const Layout& layout, int64_t images, int64_t block) {
  uint16_t live = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane)
    if (is_live(pixel_of(layout, block, lane), images)) live = static_cast<uint16_t>(live | 1u << lane);
  return live;
}

// As many images side by side in both: then one group of them is like the next, also the last one, where lanes may be
// without an image and what they compute is no one's.
bool in_step(const Layout& in, const Layout& out) {
  return in.lanes == Layout::Tiles && out.lanes == Layout::Tiles && in.grid.images == out.grid.images;
}

// Tiles that hold the same part of the image in both, as windows without an offset see it, and no lanes of a tile that
// end before the others: where a window stays within its tile, all lanes find it in the same block.
class Aligned {
 public:
  Aligned(const Layout& in, const Layout& out, const PlacedWindow& window) : in_(in), out_(out), window_(window) {
    const Layout::Grid& grid = in.grid;
    holds_ = in_step(in, out) && grid == out.grid && fits(grid.down, in.h, out.h, window.strides[0]) &&
             fits(grid.across, in.w, out.w, window.strides[1]);
  }

  // The block of the first images side by side that a tap of a block finds, or padding; nothing where lanes differ.
  std::optional<int32_t> panel(int64_t block, int64_t tap) const {
    if (!holds_) return std::nullopt;
    const int64_t y =
        block / out_.tile_w() * window_.strides[0] + tap / window_.kernel[1] * window_.dilations[0] - window_.begin[0];
    const int64_t x =
        block % out_.tile_w() * window_.strides[1] + tap % window_.kernel[1] * window_.dilations[1] - window_.begin[1];
    const bool in_row = y >= 0 && y < in_.tile_h(), in_column = x >= 0 && x < in_.tile_w();
    if (in_row && in_column) return static_cast<int32_t>(y * in_.tile_w() + x);
    const bool outside = (!in_row && in_.grid.down == 1) || (!in_column && in_.grid.across == 1);
    return outside ? std::optional<int32_t>(Gather::kPadding) : std::nullopt;
  }

 private:
  static bool fits(int64_t tiles, int64_t in, int64_t out, int64_t stride) {
    return tiles == 1 || (out % tiles == 0 && in == out * stride);
  }

  const Layout &in_, &out_;
  const PlacedWindow& window_;
  bool holds_;
};

// Continues the gather of the first images side by side with those of the others.
void repeat(int64_t groups, int64_t in_blocks, Gather* gather) {
  const size_t panels = gather->panels.size(), copies = gather->copies.size(), sources = gather->sources.size(),
               blocks = gather->reach.size();
  gather->copies.reserve(copies * static_cast<size_t>(groups));
  gather->sources.reserve(sources * static_cast<size_t>(groups));
  for (int64_t group = 1; group < groups; ++group) {
    const auto shift = static_cast<int32_t>(group * in_blocks);
    const auto first_copy = static_cast<int32_t>(gather->copies.size());
    const auto first_source = static_cast<int32_t>(gather->sources.size());
    for (size_t i = 0; i < panels; ++i) {
      const int32_t panel = gather->panels[i];
      gather->panels.push_back(panel >= 0 ? panel + shift : panel == Gather::kPadding ? panel : panel - first_copy);
    }
    for (size_t i = 0; i < copies; ++i)
      gather->copies.push_back({gather->copies[i].first + first_source, gather->copies[i].count});
    for (size_t i = 0; i < sources; ++i) {
      gather->sources.push_back(gather->sources[i]);
      gather->sources.back().block += shift;
    }
    for (size_t i = 0; i < blocks; ++i) gather->reach.push_back(gather->reach[i] + shift);
  }
}

}  // namespace

Gather make_gather(const Layout& in, const Layout& out, const PlacedWindow& window) {
  Gather gather;
  gather.taps = window.taps();
  const bool alike = in.lanes == out.lanes && (in.lanes == Layout::Pixels || in.grid == out.grid);
  if (window.pointwise() && alike && in.h == out.h && in.w == out.w) {  // pads at the end alone make the output larger
    gather.identity = true;
    return gather;
  }
  const bool repeats = in_step(in, out);
  const int64_t blocks = repeats ? out.tile_blocks() : out.blocks(), images = repeats ? out.grid.images : out.n;
  gather.panels.reserve(static_cast<size_t>(out.blocks() * gather.taps));
  gather.reach.reserve(static_cast<size_t>(out.blocks()));
  const Aligned aligned(in, out, window);
  std::unordered_map<std::string, int32_t> known;  // copies by their sources
  std::vector<PackSource> sources;
  int32_t reach = -1;
  for (int64_t block = 0; block < blocks; ++block) {
    const uint16_t live = live_lanes(out, images, block);
    for (int64_t tap = 0; tap < gather.taps; ++tap) {
      if (const std::optional<int32_t> panel = aligned.panel(block, tap)) {
        gather.panels.push_back(*panel);
        reach = std::max(reach, *panel);
        continue;
      }
      sources_of(in, out, window, images, block, tap, &sources);
      for (const PackSource& source : sources) reach = std::max(reach, source.block);
      if (sources.empty()) {
        gather.panels.push_back(Gather::kPadding);
      } else if (sources.size() == 1 && lines_up(sources[0], live)) {
        gather.panels.push_back(sources[0].block);
      } else {
        const std::string key(reinterpret_cast<const char*>(sources.data()), sources.size() * sizeof(PackSource));
        const auto [copy, fresh] = known.emplace(key, static_cast<int32_t>(gather.copies.size()));
        if (fresh) {
          gather.copies.push_back({static_cast<int32_t>(gather.sources.size()), static_cast<int32_t>(sources.size())});
          gather.sources.insert(gather.sources.end(), sources.begin(), sources.end());
        }
        gather.panels.push_back(-2 - copy->second);
      }
    }
    gather.reach.push_back(reach);
  }
  if (repeats && blocks > 0) repeat(out.blocks() / blocks, in.tile_blocks(), &gather);
  return gather;
}

std::shared_ptr<const Gather> GatherCache::get(const Layout& in, const Layout& out, const PlacedWindow& window) {
  const Key key{in.n,
                in.h,
                in.w,
                in.lanes,
                in.grid.images,
                in.grid.down,
                in.grid.across,
                out.h,
                out.w,
                out.lanes,
                out.grid.images,
                out.grid.down,
                out.grid.across,
                window.kernel[0],
                window.kernel[1],
                window.strides[0],
                window.strides[1],
                window.dilations[0],
                window.dilations[1],
                window.begin[0],
                window.begin[1]};
  auto& gather = known_[key];
  if (!gather) gather = std::make_shared<const Gather>(make_gather(in, out, window));
  return gather;
}

std::vector<float> inside_taps(const Layout& in, const Layout& out, const PlacedWindow& window) {
  std::vector<float> counts(static_cast<size_t>(out.blocks() * kLanes), 0.0f);
  std::vector<PackSource> sources;
  for (int64_t block = 0; block < out.blocks(); ++block)
    for (int64_t tap = 0; tap < window.taps(); ++tap) {
      sources_of(in, out, window, out.n, block, tap, &sources);
      for (const PackSource& source : sources)
        for (int64_t lane = 0; lane < kLanes; ++lane)
          if (source.mask >> lane & 1) counts[static_cast<size_t>(block * kLanes + lane)] += 1.0f;
    }
  return counts;
}

}  // namespace sparse
