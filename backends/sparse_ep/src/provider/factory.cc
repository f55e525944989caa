#include "provider/factory.h"

#include <map>
#include <memory>
#include <string>

#include "provider/options.h"
#include "provider/provider.h"

namespace sparse {

namespace {

std::map<std::string, std::string> configuration(const ort::Api& api, const ort::SessionOptions* session) {
  ort::KeyValues* entries = nullptr;
  api.call(ort::api::kSessionConfig, session, &entries);
  const auto release = [&api](ort::KeyValues* owned) { api.get(ort::api::kReleaseKeyValues, owned); };
  const std::unique_ptr<ort::KeyValues, decltype(release)> owner(entries, release);
  const char* const* keys = nullptr;
  const char* const* values = nullptr;
  size_t count = 0;
  api.get(ort::api::kKeyValues, entries, &keys, &values, &count);
  std::map<std::string, std::string> result;
  for (size_t i = 0; i < count; ++i) result.emplace(keys[i], values[i]);
  return result;
}

}  // namespace

ProviderFactory::ProviderFactory(const ort::Api& api) : api_(api) {
  name = [](const Factory*) { return static_cast<const char*>(kProviderName); };
  vendor = [](const Factory*) { return "surgery-ir"; };
  vendor_id = [](const Factory*) -> uint32_t { return 0; };  // no hardware vendor
  provider_version = [](const Factory*) { return SPARSE_EP_VERSION; };
  create_data_transfer = [](Factory*, ort::DataTransfer** transfer) -> ort::Status* {
    *transfer = nullptr;  // tensors stay in the processor's own memory
    return nullptr;
  };
  is_stream_aware = [](const Factory*) { return false; };
  get_supported_devices = [](Factory* self, const ort::Device* const* devices, size_t count, ort::EpDevice** ep_devices,
                             size_t capacity, size_t* found) {
    ProviderFactory& factory = *static_cast<ProviderFactory*>(self);
    *found = 0;
    return ort::guarded(factory.api_, [&] { *found = factory.list_devices(devices, count, ep_devices, capacity); });
  };
  create_ep = [](Factory* self, const ort::Device* const*, const ort::KeyValues* const*, size_t,
                 const ort::SessionOptions* session, const ort::Logger*, ort::Ep** ep) {
    const ProviderFactory& factory = *static_cast<ProviderFactory*>(self);
    *ep = nullptr;
    return ort::guarded(factory.api_, [&] { *ep = factory.make(session); });
  };
  release_ep = [](Factory*, ort::Ep* ep) { delete static_cast<Provider*>(ep); };
}

size_t ProviderFactory::list_devices(const ort::Device* const* devices, size_t count, ort::EpDevice** ep_devices,
                                     size_t capacity) {
  size_t found = 0;
  for (size_t i = 0; i < count && found < capacity; ++i) {
    if (api_.get(ort::api::kDeviceType, devices[i]) != ort::kCpuDevice) continue;
    const ort::KeyValues* none = nullptr;
    api_.call_ep(ort::ep_api::kCreateEpDevice, this, devices[i], none, none, &ep_devices[found]);
    ++found;
  }
  return found;
}

ort::Ep* ProviderFactory::make(const ort::SessionOptions* session) const {
  return new Provider(api_, parse_options(configuration(api_, session)));
}

}  // namespace sparse
