// Aligned memory, and a pool of it for runs that overlap.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace sparse {

// Bytes on a cache line of their own; not initialised.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t size) : size_(size) {
    if (size == 0) return;
    // Blocks are walked in long strides, which small pages make expensive.
    const size_t alignment = size >= kHugePage ? kHugePage : 64;
    const size_t rounded = (size + alignment - 1) / alignment * alignment;
    data_.reset(static_cast<std::byte*>(std::aligned_alloc(alignment, rounded)));
    if (!data_) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (alignment == kHugePage) madvise(data_.get(), rounded, MADV_HUGEPAGE);  // a hint
#endif
  }
  std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }

 private:
  static constexpr size_t kHugePage = size_t{2} << 20;
  struct Free {
    void operator()(std::byte* data) const { std::free(data); }
  };
  std::unique_ptr<std::byte, Free> data_;
  size_t size_ = 0;
};

// Buffers between runs. Holds as many as ever were in use at once, at most `kept`.
class BufferPool {
 public:
  Buffer take(size_t size) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (Buffer& buffer : idle_) {
        if (buffer.size() < size) continue;
        std::swap(buffer, idle_.back());
        Buffer taken = std::move(idle_.back());
        idle_.pop_back();
        return taken;
      }
      if (!idle_.empty()) idle_.pop_back();  // too small for what is asked now: grow instead of hoarding
    }
    return Buffer(size);
  }
  void give(Buffer buffer) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (idle_.size() < kept) idle_.push_back(std::move(buffer));
  }

 private:
  static constexpr size_t kept = 8;
  std::mutex mutex_;
  std::vector<Buffer> idle_;
};

}  // namespace sparse
