// Blocks from and to the model's storage, and packed panels, against loops over single elements.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <iterator>
#include <random>
#include <vector>

#include "check.h"
#include "every_set.h"
#include "kernels/lane_ops.h"
#include "places.h"

using namespace sparse;

namespace {

std::mt19937 generator(7);
int64_t below(int64_t limit) { return static_cast<int64_t>(generator() % static_cast<uint64_t>(limit)); }

// Bytes that end where the process may not read or write: whatever goes past them crashes.
class Fenced {
 public:
  explicit Fenced(int64_t bytes) : bytes_(bytes) {
    const int64_t page = sysconf(_SC_PAGESIZE);
    mapped_ = (bytes + page - 1) / page * page + page;
    start_ = static_cast<uint8_t*>(
        mmap(nullptr, static_cast<size_t>(mapped_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(start_ + mapped_ - page, static_cast<size_t>(page), PROT_NONE);
    data_ = start_ + mapped_ - page - bytes;
  }
  ~Fenced() { munmap(start_, static_cast<size_t>(mapped_)); }
  Fenced(const Fenced&) = delete;
  Fenced& operator=(const Fenced&) = delete;
  uint8_t* data() { return data_; }
  void randomise() {
    for (int64_t i = 0; i < bytes_; ++i) data_[i] = static_cast<uint8_t>(generator());
  }
  void set(uint8_t byte) { std::memset(data_, byte, static_cast<size_t>(bytes_)); }

 private:
  int64_t bytes_, mapped_;
  uint8_t *start_, *data_;
};

// One tensor, in ranges of blocks: what is in the blocks, what is behind the edges, and what comes back.
void check_tensor(const LaneOps& ops, const Layout& layout, const Strides& strides, bool is_signed) {
  const bool bytes = layout.element == Element::Q8;
  const int64_t size = bytes ? 1 : 4, pixels = layout.h * layout.w;
  const int64_t elements =
      (layout.n - 1) * strides.image + (layout.channels - 1) * strides.channel + (pixels - 1) * strides.position + 1;
  Fenced model(elements * size), blocks(layout.bytes()), back(elements * size);
  model.randomise();
  blocks.set(0xAB);
  back.set(0x5C);
  const uint32_t fill = bytes ? 0x83838383u : 0xFF7FFFFFu;
  std::vector<uint8_t> expected(static_cast<size_t>(layout.bytes()));
  for (size_t i = 0; i < expected.size(); i += 4) std::memcpy(&expected[i], &fill, 4);
  std::vector<uint8_t> returned(static_cast<size_t>(elements * size), 0x5C);

  // Two ranges of blocks, so that neither direction may touch what is not its own.
  const int64_t middle = below(layout.blocks() + 1);
  for (int64_t n = 0; n < layout.n; ++n) {
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      const Place place = place_of(layout, n, pixel);
      for (int64_t channel = 0; channel < layout.channels; ++channel) {
        const int64_t at = n * strides.image + channel * strides.channel + pixel * strides.position;
        uint8_t* block = &expected[static_cast<size_t>(place.block * layout.block_bytes())];
        if (bytes) {
          const int flip = is_signed ? 0x80 : 0;
          block[channel / 4 * 64 + place.lane * 4 + channel % 4] = static_cast<uint8_t>(model.data()[at] ^ flip);
        } else {
          std::memcpy(block + channel * 64 + place.lane * 4, model.data() + at * 4, 4);
        }
        if (place.block >= middle) {
          std::memcpy(&returned[static_cast<size_t>(at * size)], model.data() + at * size, static_cast<size_t>(size));
        }
      }
    }
  }
  const size_t half = static_cast<size_t>(middle * layout.block_bytes());
  ops.to_blocks(layout, strides, model.data(), is_signed, fill, 0, middle, blocks.data());
  CHECK(std::memcmp(blocks.data(), expected.data(), half) == 0);
  for (size_t i = half; i < expected.size(); ++i) {
    if (blocks.data()[i] == 0xAB) continue;
    CHECK(!"blocks past the range are untouched");
    break;
  }
  ops.to_blocks(layout, strides, model.data(), is_signed, fill, middle, layout.blocks(), blocks.data());
  const bool imported = std::memcmp(blocks.data(), expected.data(), expected.size()) == 0;
  CHECK(imported);
  ops.from_blocks(layout, strides, blocks.data(), is_signed, middle, layout.blocks(), back.data());
  const bool exported = std::memcmp(back.data(), returned.data(), returned.size()) == 0;
  CHECK(exported);
  ops.from_blocks(layout, strides, blocks.data(), is_signed, 0, middle, back.data());
  bool complete = true;
  for (int64_t n = 0; n < layout.n; ++n) {
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      for (int64_t channel = 0; channel < layout.channels; ++channel) {
        const int64_t at = (n * strides.image + channel * strides.channel + pixel * strides.position) * size;
        complete &= std::memcmp(back.data() + at, model.data() + at, static_cast<size_t>(size)) == 0;
      }
    }
  }
  CHECK(complete);
  if (!imported || !exported || !complete) {
    std::printf("  %s %ld %ld %ld %s%s n %ld h %ld w %ld channels %ld strides %ld %ld %ld middle %ld\n",
                layout.lanes == Layout::Tiles ? "tiles" : "pixels", long(layout.grid.images), long(layout.grid.down),
                long(layout.grid.across), bytes ? "bytes" : "floats", is_signed ? " signed" : "", long(layout.n),
                long(layout.h), long(layout.w), long(layout.channels), long(strides.image), long(strides.channel),
                long(strides.position), long(middle));
  }
}

void check_tensors(const LaneOps& ops) {
  for (int i = 0; i < 1000; ++i) {
    Layout layout;
    layout.lanes = below(2) ? Layout::Tiles : Layout::Pixels;
    layout.grid = kGrids[below(std::size(kGrids))];
    layout.element = below(2) ? Element::Q8 : Element::F32;
    layout.n = below(4) ? 1 + below(4) : 1 + below(36);
    layout.h = below(4) ? 1 + below(below(4) ? 8 : 40) : 1;
    layout.w = below(4) ? 1 + below(below(4) ? 8 : 40) : 1;
    layout.channels = below(3) ? 1 + below(12) : 1 + below(140);
    const int64_t pixels = layout.h * layout.w, gap = below(2) * below(5);
    const bool is_signed = layout.element == Element::Q8 && below(2);
    Strides strides;
    if (layout.lanes == Layout::Tiles) {  // of images whose pixels are neighbours
      strides = {layout.channels * pixels + gap, pixels, 1};
    } else if (below(3) == 0) {  // channels last
      strides = {pixels * (layout.channels + gap), 1, layout.channels + gap};
    } else if (below(8) == 0) {  // neither
      strides = {pixels * 3 * layout.channels, pixels * 3, 3};
    } else {
      strides = {layout.channels * pixels + gap, pixels, 1};
    }
    check_tensor(ops, layout, strides, is_signed);
  }
  Layout tokens;
  for (const Element element : {Element::F32, Element::Q8}) {
    for (const int64_t count : {1, 15, 16, 17, 64}) {
      for (const int64_t channels : {1, 3, 16, 17, 64, 65, 70, 128}) {
        tokens.element = element;
        tokens.w = count;
        tokens.channels = channels;
        check_tensor(ops, tokens, {0, 1, channels}, element == Element::Q8 && count % 2);
      }
    }
  }
}

void check_pack(const LaneOps& ops) {
  for (int i = 0; i < 2000; ++i) {
    const int64_t rows = 1 + below(20), blocks = 1 + below(20), count = below(3) ? below(5) : below(17);
    const int64_t block_bytes = (rows + below(3)) * 64;
    std::vector<uint32_t> storage(static_cast<size_t>(blocks * block_bytes / 4 + 32));
    for (uint32_t& word : storage) word = static_cast<uint32_t>(generator());
    auto* aligned = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(storage.data()) + 63) / 64 * 64);
    const auto fill = below(2) ? static_cast<uint32_t>(generator()) : 0u;
    std::vector<PackSource> sources(static_cast<size_t>(count));
    const bool shifted = below(2) && count;  // lanes of neighbouring blocks, as windows have them; else anything
    const int64_t shift = below(16);
    for (int64_t s = 0; s < count; ++s) {
      PackSource& source = sources[static_cast<size_t>(s)];
      source.block = static_cast<int32_t>(below(blocks));
      auto mask = static_cast<uint32_t>(generator()) & 0xFFFFu;
      if (shifted) mask = s == 0 ? 0xFFFFu >> shift : 0xFFFFu & ~(0xFFFFu >> shift);
      if (below(10) == 0) mask = s ? 0 : 0xFFFF;
      source.mask = static_cast<uint16_t>(mask);
      for (int64_t lane = 0; lane < 16; ++lane) {
        source.lane[lane] = static_cast<uint8_t>(shifted ? (lane + shift) % 16 : below(16));
      }
    }
    alignas(64) uint32_t panel[21 * 16], expected[21 * 16];
    for (int j = 0; j < 21 * 16; ++j) panel[j] = expected[j] = 0xDEADBEEFu;
    for (int64_t row = 0; row < rows; ++row) {
      for (int lane = 0; lane < 16; ++lane) {
        uint32_t& word = expected[row * 16 + lane];
        word = fill;
        for (const PackSource& source : sources) {  // where two set a lane, the later one does
          if (!(source.mask >> lane & 1)) continue;
          std::memcpy(&word, aligned + source.block * block_bytes + row * 64 + source.lane[lane] * 4, 4);
        }
      }
    }
    ops.pack(aligned, block_bytes, rows, sources.data(), count, fill, panel);
    CHECK(std::memcmp(panel, expected, sizeof panel) == 0);
  }
}

}  // namespace

int main() { return with_every_set({check_tensors, check_pack}); }
