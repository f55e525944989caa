// Calls into ONNX Runtime, with error statuses as exceptions inside and exceptions as error statuses outside.
#pragma once

#include <exception>
#include <stdexcept>
#include <string>

#include "ort/abi.h"

namespace sparse::ort {

// An argument of the user's that cannot be used.
class InvalidArgument : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Api {
 public:
  // Throws std::runtime_error unless the ONNX Runtime that asks is of a known version.
  explicit Api(const ApiBase& base);

  // Call a function that returns no status.
  template <class Result, class... Parameters, class... Arguments>
  Result get(Slot<Result(Parameters...)> slot, Arguments... arguments) const {
    return function(table_, slot)(arguments...);
  }

  // Call a function and throw std::runtime_error with its message if it fails.
  template <class... Parameters, class... Arguments>
  void call(Slot<Status*(Parameters...)> slot, Arguments... arguments) const {
    check(function(table_, slot)(arguments...));
  }

  template <class... Parameters, class... Arguments>
  void call_ep(Slot<Status*(Parameters...)> slot, Arguments... arguments) const {
    check(function(ep_table_, slot)(arguments...));
  }

  // Of the running ONNX Runtime: "1.31.1".
  const std::string& version() const { return version_; }

  // Is the running ONNX Runtime older than 1.`minor`.`patch`?
  bool older_than(int minor, int patch) const;

  Status* status(ErrorCode code, const std::string& message) const;
  void release(Status* status) const;  // also null

 private:
  template <class Function>
  static Function* function(const Table* table, Slot<Function> slot) {
    return reinterpret_cast<Function*>(reinterpret_cast<const AnyFunction*>(table)[slot.index]);
  }

  void check(Status* status) const;

  std::string version_;
  const Table* table_;
  const Table* ep_table_;
  int minor_, patch_;  // of the running ONNX Runtime
};

// A status made without an Api, for when there is none.
Status* bare_status(const ApiBase& base, const std::string& message);

// Run `body`; what it throws becomes a status: one line that starts with the provider's name.
template <class Body>
Status* guarded(const Api& api, const Body& body) {
  const std::string provider = "SparseExecutionProvider: ";
  try {
    body();
    return nullptr;
  } catch (const InvalidArgument& error) {
    return api.status(kInvalidArgument, provider + error.what());
  } catch (const std::bad_alloc&) {
    return api.status(kEpFail, provider + "out of memory");
  } catch (const std::exception& error) {
    return api.status(kEpFail, provider + error.what());
  }
}

}  // namespace sparse::ort
