#include "core/buffer.h"
#include "program/work.h"

namespace sparse {

std::byte* scratch(size_t size) {
  thread_local Buffer buffer;
  if (buffer.size() < size) {
    buffer = Buffer();  // first, so that old and new never exist together
    buffer = Buffer(size + size / 4);
  }
  return buffer.data();
}

void gather_tile(const TileRequest& request, const LaneOps& ops, std::byte* panels, const void** taps) {
  const Step& step = *request.step;
  const Gather& gather = *step.gather;
  const int64_t block_bytes = step.in.block_bytes(), offset = request.row_begin * kRowBytes;
  if (gather.identity) {
    for (int64_t block = request.first; block < request.last; ++block)
      *taps++ = request.in + block * block_bytes + offset;
    return;
  }
  const int64_t rows = request.row_end - request.row_begin, panel_bytes = rows * kRowBytes;
  const TilePacks* packs = gather.packed() ? &step.packs[request.range] : nullptr;
  if (packs) {
    const auto tile = static_cast<size_t>(request.first / step.tile);
    for (int32_t i = packs->begin[tile]; i < packs->begin[tile + 1]; ++i) {
      const Gather::Copy& copy = gather.copies[static_cast<size_t>(packs->copies[static_cast<size_t>(i)])];
      ops.pack(request.in + offset, block_bytes, rows, gather.sources.data() + copy.first, copy.count, step.fill,
               panels + (i - packs->begin[tile]) * panel_bytes);
    }
  }
  const int64_t width = request.tap_end - request.tap_begin;
  for (int64_t block = request.first; block < request.last; ++block)
    for (int64_t tap = request.tap_begin; tap < request.tap_end; ++tap) {
      const int32_t panel = gather.panels[static_cast<size_t>(block * gather.taps + tap)];
      if (panel >= 0) {
        *taps++ = request.in + panel * block_bytes + offset;
      } else if (panel == Gather::kPadding) {
        *taps++ = step.padding.data() + offset;
      } else {
        *taps++ = panels + packs->slots[static_cast<size_t>(block * width + tap - request.tap_begin)] * panel_bytes;
      }
    }
}

}  // namespace sparse
