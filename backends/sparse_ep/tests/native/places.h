// Where layouts put a pixel, written down once more for the tests.
#pragma once

#include "core/layout.h"

namespace sparse {

struct Place {
  int64_t block, lane;
};

inline Place place_of(const Layout& layout, int64_t n, int64_t pixel) {
  if (layout.lanes == Layout::Pixels) {
    const int64_t position = n * layout.h * layout.w + pixel;
    return {position / 16, position % 16};
  }
  const Layout::Grid& grid = layout.grid;
  const int64_t tile_h = (layout.h + grid.down - 1) / grid.down, tile_w = (layout.w + grid.across - 1) / grid.across;
  const int64_t y = pixel / layout.w, x = pixel % layout.w;
  return {(n / grid.images * tile_h + y % tile_h) * tile_w + x % tile_w,
          ((n % grid.images) * grid.down + y / tile_h) * grid.across + x / tile_w};
}

// Images side by side, tiles side by side, and some lanes for nothing.
inline const Layout::Grid kGrids[] = {{16, 1, 1}, {1, 4, 4}, {1, 2, 7}, {1, 1, 16}, {1, 16, 1},
                                      {2, 2, 4},  {4, 3, 1}, {8, 1, 2}, {1, 5, 3},  {1, 1, 1}};

}  // namespace sparse
