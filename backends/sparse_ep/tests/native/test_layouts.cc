// Which lanes values get, for shapes of known networks.
#include <memory>
#include <vector>

#include "check.h"
#include "kernels/sparse_kernel.h"
#include "program/layouts.h"
#include "program/shapes.h"

using namespace sparse;

namespace {

struct Chosen {
  std::vector<Layout> layouts;
  const Layout& operator[](size_t value) const { return layouts[value]; }
};

// A chain of convolutions over `channels`, each with so many nonzeros in a row, of these kernels and strides.
struct Chain {
  int64_t channels = 64, per_output = 50;
  int spatial = 2;
  struct Link {
    int64_t kernel, stride;
  };
  std::vector<Link> links;

  Chosen choose(const std::vector<int64_t>& shape, int threads = 1) const {
    Region region;
    std::vector<std::unique_ptr<const SparseKernel>> kernels;
    std::vector<const SparseKernel*> borrowed;
    Value value;
    value.channels = channels;
    value.spatial = spatial;
    region.values.push_back(value);
    region.inputs = {0};
    for (const Link& link : links) {
      Layer layer;
      layer.inputs = {static_cast<int>(region.values.size()) - 1};
      layer.output = static_cast<int>(region.values.size());
      for (int axis = 0; axis < 2 && spatial > 0; ++axis) {
        layer.window.kernel[axis] = link.kernel;
        layer.window.strides[axis] = link.stride;
        layer.window.begin[axis] = layer.window.end[axis] = link.kernel / 2;
      }
      Weights& weights = layer.weights;
      weights.outputs = weights.inputs = channels;
      weights.taps = link.kernel * link.kernel;
      weights.row_begin.push_back(0);
      for (int64_t output = 0; output < channels; ++output) {
        for (int64_t i = 0; i < per_output; ++i)
          weights.columns.push_back(static_cast<int32_t>(i * channels * weights.taps / per_output));
        weights.row_begin.push_back(static_cast<int64_t>(weights.columns.size()));
      }
      weights.values.assign(weights.columns.size(), 1.0f);
      kernels.push_back(make_kernel(weights, Element::F32, {}, false, Isa::Generic, false));
      borrowed.push_back(kernels.back().get());
      region.layers.push_back(layer);
      region.values.push_back(value);
    }
    region.outputs = {static_cast<int>(region.values.size()) - 1};
    GatherCache gathers;
    return {choose_layouts(region, borrowed, value_shapes(region, {shape}), threads, &gathers)};
  }
};

bool is_tiles(const Layout& layout, const Layout::Grid& grid) {
  return layout.lanes == Layout::Tiles && layout.grid == grid;
}

void images_that_tiles_divide_are_cut_into_them() {
  const Chosen chosen = Chain{64, 50, 2, {{3, 1}, {3, 2}}}.choose({1, 64, 56, 56});
  CHECK(is_tiles(chosen[0], {1, 4, 4}));
  CHECK(is_tiles(chosen[1], {1, 4, 4}));
  CHECK(is_tiles(chosen[2], {1, 4, 4}));
  CHECK(chosen[0].blocks() == 196 && chosen[2].blocks() == 49);
}

void sixteen_images_go_side_by_side() {
  const Chosen chosen = Chain{64, 50, 2, {{3, 1}}}.choose({32, 64, 14, 14});
  CHECK(is_tiles(chosen[0], {16, 1, 1}));
  CHECK(chosen[1].blocks() == 2 * 14 * 14);
}

void fewer_images_leave_few_lanes_unused() {
  for (const int64_t images : {3, 4, 6, 14}) {
    const Chosen chosen = Chain{64, 50, 2, {{3, 1}}}.choose({images, 64, 28, 28});
    CHECK(chosen[0].lanes == Layout::Tiles);
    CHECK(chosen[0].blocks() * 16 <= images * 28 * 28 * 8 / 7);
  }
}

// Where lanes that stay unused cost more than packing does.
void heavy_layers_take_pixels_where_tiles_do_not_fit() {
  CHECK((Chain{256, 2000, 2, {{3, 1}, {3, 1}, {3, 1}}}.choose({1, 256, 14, 14})[0].lanes == Layout::Pixels));
  CHECK((Chain{256, 20, 2, {{3, 1}, {3, 1}, {3, 1}}}.choose({1, 256, 14, 14})[0].lanes == Layout::Tiles));
}

void threads_that_all_pack_take_tiles() {
  const Chain chain{256, 700, 2, {{3, 1}, {3, 1}, {3, 1}}};
  CHECK(chain.choose({1, 256, 14, 14}, 1)[0].lanes == Layout::Pixels);
  CHECK(chain.choose({1, 256, 14, 14}, 4)[0].lanes == Layout::Tiles);
}

void large_images_stay_in_order() {
  const Chosen chosen = Chain{64, 50, 2, {{3, 1}, {3, 1}, {3, 1}}}.choose({1, 64, 400, 512});
  CHECK(is_tiles(chosen[0], {1, 1, 16}));
}

void what_has_no_windows_stays_as_it_is() {
  CHECK((Chain{64, 50, 2, {{1, 1}, {1, 1}}}.choose({1, 64, 56, 56})[0].lanes == Layout::Pixels));
  CHECK((Chain{64, 50, 0, {{1, 1}}}.choose({1, 128, 64})[0].lanes == Layout::Pixels));
  const Chosen single = Chain{64, 50, 2, {{3, 1}}}.choose({16, 64, 1, 1});
  CHECK(single[0].lanes == Layout::Pixels && single[1].lanes == Layout::Pixels);
}

void values_of_one_extent_are_alike() {
  const Chosen chosen = Chain{64, 50, 2, {{1, 1}, {3, 1}, {3, 2}, {1, 1}, {3, 1}}}.choose({2, 64, 30, 22});
  CHECK(chosen[0].lanes == chosen[2].lanes && chosen[0].grid == chosen[2].grid);
  CHECK(chosen[3].lanes == chosen[5].lanes && chosen[3].grid == chosen[5].grid);
}

}  // namespace

int main() {
  images_that_tiles_divide_are_cut_into_them();
  sixteen_images_go_side_by_side();
  fewer_images_leave_few_lanes_unused();
  heavy_layers_take_pixels_where_tiles_do_not_fit();
  threads_that_all_pack_take_tiles();
  large_images_stay_in_order();
  what_has_no_windows_stays_as_it_is();
  values_of_one_extent_are_alike();
  return failures != 0;
}
