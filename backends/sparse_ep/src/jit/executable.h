// Memory for generated code: written first, then made executable, never both at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace sparse {

class Executable {
 public:
  // A private copy of `code` that can be called; null where the system refuses executable memory. Every Executable has
  // a mapping of its own, so that none is ever made writable again while another runs.
  static std::unique_ptr<const Executable> map(const std::vector<uint8_t>& code);
  ~Executable();
  Executable(const Executable&) = delete;
  Executable& operator=(const Executable&) = delete;

  const uint8_t* at(size_t offset) const { return code_ + offset; }
  size_t size() const { return size_; }

 private:
  Executable(uint8_t* code, size_t size, size_t mapped) : code_(code), size_(size), mapped_(mapped) {}
  uint8_t* code_;
  size_t size_, mapped_;
};

}  // namespace sparse
