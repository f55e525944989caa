#include "program/gather.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <unordered_map>

namespace sparse {
namespace {

struct Place {
  int64_t n, y, x;
};

// Image and pixel of a lane; n = -1 past the last position.
Place place_of(const Layout& layout, int64_t block, int64_t lane) {
  if (layout.lanes == Layout::Images) {
    const int64_t pixels = layout.h * layout.w, group = block / pixels, pixel = block % pixels;
    const int64_t n = group * kLanes + lane;
    return {n < layout.n ? n : -1, pixel / layout.w, pixel % layout.w};
  }
  const int64_t position = block * kLanes + lane, pixels = layout.h * layout.w;
  if (position >= layout.n * pixels) return {-1, 0, 0};
  return {position / pixels, position % pixels / layout.w, position % layout.w};
}

// Sources of one panel: one input block for each distinct block among the lanes.
void sources_of(const Layout& in, const Layout& out, const PlacedWindow& window, int64_t block, int64_t tap,
                std::vector<PackSource>* sources) {
  sources->clear();
  const int64_t dy = tap / window.kernel[1] * window.dilations[0] - window.begin[0];
  const int64_t dx = tap % window.kernel[1] * window.dilations[1] - window.begin[1];
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    const Place at = place_of(out, block, lane);
    const int64_t y = at.y * window.strides[0] + dy, x = at.x * window.strides[1] + dx;
    if (at.n < 0 || y < 0 || y >= in.h || x < 0 || x >= in.w) continue;
    const int64_t pixel = y * in.w + x;
    const int64_t position = at.n * in.h * in.w + pixel;
    const auto source_block =
        static_cast<int32_t>(in.lanes == Layout::Images ? at.n / kLanes * in.h * in.w + pixel : position / kLanes);
    const auto source_lane = static_cast<uint8_t>(in.lanes == Layout::Images ? at.n % kLanes : position % kLanes);
    auto source =
        std::find_if(sources->begin(), sources->end(), [&](const PackSource& s) { return s.block == source_block; });
    if (source == sources->end()) {
      PackSource fresh;
      std::memset(&fresh, 0, sizeof fresh);  // padding too: sources are compared as bytes
      fresh.block = source_block;
      source = sources->insert(source, fresh);
    }
    source->mask = static_cast<uint16_t>(source->mask | 1u << lane);
    source->lane[lane] = source_lane;
  }
}

// Lanes past the last position may hold anything, so they do not count against a block that otherwise lines up.
bool lines_up(const PackSource& source, uint16_t live) {
  if (source.mask != live) return false;
  for (int64_t lane = 0; lane < kLanes; ++lane)
    if ((source.mask >> lane & 1) && source.lane[lane] != lane) return false;
  return true;
}

uint16_t live_lanes(const Layout& layout, int64_t block) {
  uint16_t live = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane)
    if (place_of(layout, block, lane).n >= 0) live = static_cast<uint16_t>(live | 1u << lane);
  return live;
}

}  // namespace

Gather make_gather(const Layout& in, const Layout& out, const PlacedWindow& window) {
  Gather gather;
  gather.taps = window.taps();
  if (window.pointwise() && in.h == out.h && in.w == out.w) {  // pads at the end alone make the output larger
    gather.identity = true;
    return gather;
  }
  const int64_t blocks = out.blocks();
  gather.panels.reserve(static_cast<size_t>(blocks * gather.taps));
  gather.reach.reserve(static_cast<size_t>(blocks));
  std::unordered_map<std::string, int32_t> known;  // copies by their sources
  std::vector<PackSource> sources;
  int32_t reach = -1;
  for (int64_t block = 0; block < blocks; ++block) {
    const uint16_t live = live_lanes(out, block);
    for (int64_t tap = 0; tap < gather.taps; ++tap) {
      sources_of(in, out, window, block, tap, &sources);
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
  return gather;
}

std::vector<float> inside_taps(const Layout& in, const Layout& out, const PlacedWindow& window) {
  std::vector<float> counts(static_cast<size_t>(out.blocks() * kLanes), 0.0f);
  std::vector<PackSource> sources;
  for (int64_t block = 0; block < out.blocks(); ++block)
    for (int64_t tap = 0; tap < window.taps(); ++tap) {
      sources_of(in, out, window, block, tap, &sources);
      for (const PackSource& source : sources)
        for (int64_t lane = 0; lane < kLanes; ++lane)
          if (source.mask >> lane & 1) counts[static_cast<size_t>(block * kLanes + lane)] += 1.0f;
    }
  return counts;
}

}  // namespace sparse
