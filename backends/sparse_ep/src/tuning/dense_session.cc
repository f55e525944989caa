#include "tuning/dense_session.h"

namespace sparse {
namespace {

using ort::Env;
using ort::MemoryInfo;
using ort::OrtValue;
using ort::Session;
using ort::SessionOptions;
using ort::Slot;
using ort::Status;
struct RunOptions;

constexpr Slot<Status*(int, const char*, Env**)> kCreateEnv{3};
constexpr Slot<Status*(const Env*, const void*, size_t, const SessionOptions*, Session**)> kCreateSession{8};
constexpr Slot<Status*(Session*, const RunOptions*, const char* const*, const OrtValue* const*, size_t,
                       const char* const*, size_t, OrtValue**)>
    kRun{9};
constexpr Slot<Status*(SessionOptions**)> kCreateSessionOptions{10};
constexpr Slot<Status*(SessionOptions*, int)> kSetIntraOpThreads{24};
constexpr Slot<Status*(const MemoryInfo*, void*, size_t, const int64_t*, size_t, int, OrtValue**)> kCreateTensor{49};
constexpr Slot<Status*(int, int, MemoryInfo**)> kCreateCpuMemory{69};
constexpr Slot<void(Env*)> kReleaseEnv{92};
constexpr Slot<void(MemoryInfo*)> kReleaseMemory{94};
constexpr Slot<void(Session*)> kReleaseSession{95};
constexpr Slot<void(OrtValue*)> kReleaseValue{96};
constexpr Slot<void(SessionOptions*)> kReleaseSessionOptions{100};

constexpr int kOnlyErrors = 3, kArenaAllocator = 1, kDefaultMemory = 0;

}  // namespace

DenseSession::DenseSession(const ort::Api& api, const std::string& model) : api_(api) {
  SessionOptions* options = nullptr;
  try {
    api.call(kCreateEnv, kOnlyErrors, "onnxruntime_ep_sparse", &env_);  // the process has one already: this shares it
    api.call(kCreateSessionOptions, &options);
    api.call(kSetIntraOpThreads, options, 1);
    api.call(kCreateSession, env_, model.data(), model.size(), options, &session_);
    api.call(kCreateCpuMemory, kArenaAllocator, kDefaultMemory, &memory_);
  } catch (...) {
    if (options) api.get(kReleaseSessionOptions, options);
    release();
    throw;
  }
  api.get(kReleaseSessionOptions, options);
}

DenseSession::~DenseSession() { release(); }

void DenseSession::release() {
  if (memory_) api_.get(kReleaseMemory, memory_);
  if (session_) api_.get(kReleaseSession, session_);
  if (env_) api_.get(kReleaseEnv, env_);
}

void DenseSession::run(void* data, size_t bytes, DataType type, const std::vector<int64_t>& shape) {
  OrtValue* input = nullptr;
  OrtValue* output = nullptr;
  api_.call(kCreateTensor, memory_, data, bytes, shape.data(), shape.size(), static_cast<int>(type), &input);
  const char* const in_names[] = {"x"};
  const char* const out_names[] = {"y"};
  const OrtValue* const inputs[] = {input};
  const RunOptions* defaults = nullptr;
  try {
    api_.call(kRun, session_, defaults, in_names, inputs, size_t{1}, out_names, size_t{1}, &output);
  } catch (...) {
    api_.get(kReleaseValue, input);
    throw;
  }
  api_.get(kReleaseValue, input);
  api_.get(kReleaseValue, output);
}

}  // namespace sparse
