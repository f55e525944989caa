// What ONNX Runtime gets of this library: the maker of providers.
#pragma once

#include "ort/api.h"

namespace sparse {

class ProviderFactory : public ort::Factory {
 public:
  explicit ProviderFactory(const ort::Api& api);

 private:
  size_t list_devices(const ort::Device* const* devices, size_t count, ort::EpDevice** ep_devices, size_t capacity);
  ort::Ep* make(const ort::SessionOptions* session) const;

  ort::Api api_;
};

}  // namespace sparse
