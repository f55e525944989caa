// Where windows find their inputs, for layouts of every kind on both sides, against the definition of a window.
#include <iterator>
#include <random>

#include "check.h"
#include "places.h"
#include "program/gather.h"

using namespace sparse;

namespace {

std::mt19937 generator(5);
int64_t among(int64_t low, int64_t high) {
  return low + static_cast<int64_t>(generator() % static_cast<uint64_t>(high - low + 1));
}

Layout random_layout(int64_t n, int64_t h, int64_t w) {
  Layout layout;
  layout.lanes = among(0, 2) ? Layout::Tiles : Layout::Pixels;
  layout.grid = kGrids[among(0, std::size(kGrids) - 1)];
  layout.n = n, layout.h = h, layout.w = w;
  layout.channels = 1;
  return layout;
}

constexpr Place kPadding{-1, -1};

// What a tap of a block finds in a lane.
Place found(const Gather& gather, int64_t block, int64_t tap, int64_t lane) {
  if (gather.identity) return {block, lane};
  const int32_t panel = gather.panels[static_cast<size_t>(block * gather.taps + tap)];
  if (panel == Gather::kPadding) return kPadding;
  if (panel >= 0) return {panel, lane};
  const Gather::Copy& copy = gather.copies[static_cast<size_t>(-2 - panel)];
  for (int32_t i = copy.first; i < copy.first + copy.count; ++i) {
    const PackSource& source = gather.sources[static_cast<size_t>(i)];
    if (source.mask >> lane & 1) return {source.block, source.lane[lane]};
  }
  return kPadding;
}

// Everything that is read lies within the input, and what is reached is said.
void check_bounds(const Layout& in, const Layout& out, const Gather& gather) {
  if (gather.identity) {
    CHECK(out.blocks() <= in.blocks());
    return;
  }
  bool inside = true, reached = true;
  for (const PackSource& source : gather.sources) inside &= source.block >= 0 && source.block < in.blocks();
  for (int64_t block = 0; block < out.blocks(); ++block) {
    for (int64_t tap = 0; tap < gather.taps; ++tap) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const Place place = found(gather, block, tap, lane);
        inside &= place.block < in.blocks();
        reached &= place.block <= gather.reach[static_cast<size_t>(block)];
      }
    }
  }
  CHECK(inside && reached);
}

void check_random(int round) {
  const int64_t n = among(0, 2) ? among(1, 5) : among(1, 35);
  const Extent in_extent{n, among(1, 12), among(1, 17)};
  PlacedWindow window;
  for (int axis = 0; axis < 2; ++axis) {
    window.kernel[axis] = among(1, 3);
    window.strides[axis] = among(1, 3);
    window.dilations[axis] = among(1, 2);
    window.begin[axis] = among(0, 2);
  }
  if (round % 8 == 0) window = {{1, 1}, {1, 1}, {1, 1}, {0, 0}};
  // As large as the input, as much smaller as strides make it, or anything.
  const int64_t size = among(0, 2);
  const auto shrunk = [](int64_t in, int64_t stride) { return (in + stride - 1) / stride; };
  const int64_t h = size == 0 ? in_extent.h : size == 1 ? shrunk(in_extent.h, window.strides[0]) : among(1, 12);
  const int64_t w = size == 0 ? in_extent.w : size == 1 ? shrunk(in_extent.w, window.strides[1]) : among(1, 17);
  const Layout in = random_layout(n, in_extent.h, in_extent.w);
  Layout out = random_layout(n, h, w);
  if (among(0, 1)) out.lanes = in.lanes, out.grid = in.grid;
  const Gather gather = make_gather(in, out, window);
  check_bounds(in, out, gather);

  const std::vector<float> counts = inside_taps(in, out, window);
  bool right = true, counted = true;
  for (int64_t image = 0; image < n; ++image) {
    for (int64_t pixel = 0; pixel < h * w; ++pixel) {
      const Place to = place_of(out, image, pixel);
      int64_t taps_inside = 0;
      for (int64_t tap = 0; tap < window.taps(); ++tap) {
        const int64_t ky = tap / window.kernel[1], kx = tap % window.kernel[1];
        const int64_t y = pixel / w * window.strides[0] + ky * window.dilations[0] - window.begin[0];
        const int64_t x = pixel % w * window.strides[1] + kx * window.dilations[1] - window.begin[1];
        const bool inside = y >= 0 && y < in.h && x >= 0 && x < in.w;
        const Place expected = inside ? place_of(in, image, y * in.w + x) : kPadding;
        const Place actual = found(gather, to.block, tap, to.lane);
        right &= actual.block == expected.block && (!inside || actual.lane == expected.lane);
        taps_inside += inside;
      }
      counted &= counts[static_cast<size_t>(to.block * kLanes + to.lane)] == static_cast<float>(taps_inside);
    }
  }
  CHECK(right);
  CHECK(counted);
}

}  // namespace

int main() {
  for (int round = 0; round < 3000; ++round) check_random(round);
  return failures != 0;
}
