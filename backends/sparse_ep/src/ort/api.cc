#include "ort/api.h"

#include <cstdio>

namespace sparse::ort {

Api::Api(const ApiBase& base)
    : version_(base.version_string()), table_(nullptr), ep_table_(nullptr), minor_(0), patch_(0) {
  // "1.31.1", or "1.31.0-dev"
  const bool read = std::sscanf(version_.c_str(), "1.%d.%d", &minor_, &patch_) == 2;
  // The table is asked for only then: an older ONNX Runtime prints a complaint of its own.
  if (read && minor_ >= kOldestMinor && minor_ <= kNewestMinor) table_ = base.table(kApiVersion);
  if (table_ == nullptr) {
    throw std::runtime_error("ONNX Runtime 1." + std::to_string(kOldestMinor) + " to 1." +
                             std::to_string(kNewestMinor) + " is needed, this is " + version_);
  }
  ep_table_ = get(api::kEpTable);
}

bool Api::older_than(int minor, int patch) const { return minor_ < minor || (minor_ == minor && patch_ < patch); }

Status* Api::status(ErrorCode code, const std::string& message) const {
  return get(api::kCreateStatus, code, message.c_str());
}

void Api::release(Status* status) const {
  if (status != nullptr) get(api::kReleaseStatus, status);
}

void Api::check(Status* status) const {
  if (status == nullptr) return;
  const std::string message = get(api::kGetErrorMessage, status);
  release(status);
  throw std::runtime_error(message);
}

Status* bare_status(const ApiBase& base, const std::string& message) {
  // The first version of the table has had this slot, so that every ONNX Runtime has it.
  const Table* table = base.table(1);
  if (table == nullptr) return nullptr;
  const auto create = reinterpret_cast<const AnyFunction*>(table)[api::kCreateStatus.index];
  return reinterpret_cast<Status* (*)(ErrorCode, const char*)>(create)(kFail, message.c_str());
}

}  // namespace sparse::ort
