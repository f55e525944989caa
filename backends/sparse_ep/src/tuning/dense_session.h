// Runs a small model in ONNX Runtime's own CPU kernels, from inside the provider.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "graph/view.h"
#include "ort/api.h"

namespace sparse::ort {
struct Env;
struct MemoryInfo;
struct Session;
}  // namespace sparse::ort

namespace sparse {

// A session on the CPU provider with one thread. Throws std::runtime_error with ONNX Runtime's message.
class DenseSession {
 public:
  DenseSession(const ort::Api& api, const std::string& model);
  ~DenseSession();
  DenseSession(const DenseSession&) = delete;
  DenseSession& operator=(const DenseSession&) = delete;

  // One run on `data` of the given shape as input "x".
  void run(void* data, size_t bytes, DataType type, const std::vector<int64_t>& shape);

 private:
  void release();

  const ort::Api& api_;
  ort::Env* env_ = nullptr;
  ort::Session* session_ = nullptr;
  ort::MemoryInfo* memory_ = nullptr;
};

}  // namespace sparse
