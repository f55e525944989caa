#include "jit/executable.h"

#include <sys/mman.h>

#include <cstring>

namespace sparse {
namespace {

// Code of several megabytes is walked from end to end in every run: in small pages it would miss the instruction TLB
// at every page. A mapping can only be backed by huge pages where it covers whole ones.
constexpr size_t kHugePage = size_t{2} << 20;

size_t round_up(size_t size, size_t unit) { return (size + unit - 1) / unit * unit; }

}  // namespace

std::unique_ptr<const Executable> Executable::map(const std::vector<uint8_t>& code) {
  const bool huge = code.size() > kHugePage / 4;
  const size_t size = round_up(code.empty() ? 1 : code.size(), huge ? kHugePage : 4096);
  const size_t mapped = huge ? size + kHugePage : size;
  void* memory = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  auto* start = static_cast<uint8_t*>(memory);
  if (huge) {  // keep the part that begins at a huge page
    const size_t before = round_up(reinterpret_cast<uintptr_t>(start), kHugePage) - reinterpret_cast<uintptr_t>(start);
    if (before > 0) munmap(start, before);
    start += before;
    if (const size_t after = mapped - before - size; after > 0) munmap(start + size, after);
    madvise(start, size, MADV_HUGEPAGE);  // a hint: without it the code only runs slower
  }
  std::memcpy(start, code.data(), code.size());
  if (mprotect(start, size, PROT_READ | PROT_EXEC) != 0) {
    munmap(start, size);
    return nullptr;
  }
  return std::unique_ptr<const Executable>(new Executable(start, code.size(), size));
}

Executable::~Executable() { munmap(code_, mapped_); }

}  // namespace sparse
