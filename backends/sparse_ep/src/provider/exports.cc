// The two functions that ONNX Runtime looks up in the library.

#include "provider/factory.h"

#define SPARSE_EXPORT extern "C" __attribute__((visibility("default")))

SPARSE_EXPORT sparse::ort::Status* CreateEpFactories(const char*, const sparse::ort::ApiBase* base,
                                                     const sparse::ort::Logger*, sparse::ort::Factory** factories,
                                                     size_t capacity, size_t* count) {
  *count = 0;
  try {
    if (capacity == 0) throw std::runtime_error("no room for a factory");
    factories[0] = new sparse::ProviderFactory(sparse::ort::Api(*base));
    *count = 1;
    return nullptr;
  } catch (const std::exception& error) {
    return sparse::ort::bare_status(*base, std::string("SparseExecutionProvider: ") + error.what());
  }
}

SPARSE_EXPORT sparse::ort::Status* ReleaseEpFactory(sparse::ort::Factory* factory) {
  delete static_cast<sparse::ProviderFactory*>(factory);
  return nullptr;
}
