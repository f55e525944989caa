// The part of ONNX Runtime's C ABI that the provider uses, declared by ourselves: no header of ONNX Runtime is needed
// to build. The function tables only ever grow at their end, so a slot keeps its place and signature in every version.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sparse::ort {

// The version of the tables and structs below, and the range of releases they have been tried with.
constexpr uint32_t kApiVersion = 24;
constexpr int kOldestMinor = 24, kNewestMinor = 31;  // of 1.x

// Types that only ONNX Runtime looks into.
struct DataTransfer;
struct Device;
struct EpDevice;
struct Logger;
struct Graph;
struct GraphSupportInfo;
struct KernelContext;
struct KeyValues;
struct NodeComputeContext;
struct Node;
struct OperatorAttribute;
struct SessionOptions;
struct Status;
struct TensorInfo;
struct TypeInfo;
struct OrtValue;
struct ValueInfo;

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2, kRuntimeException = 6, kEpFail = 11 };
enum AttributeType : int { kInt = 1, kInts = 2, kFloat = 3, kFloats = 4, kString = 5 };
enum DeviceType : int { kCpuDevice = 0 };

using AnyFunction = void (*)();

// A function table: nothing but function pointers.
struct Table;

struct ApiBase {
  const Table* (*table)(uint32_t version);  // null when the version is not known
  const char* (*version_string)();
};

// A place in a function table, and the function that is found there.
template <class Function>
struct Slot {
  size_t index;
};

namespace api {

// Errors.
constexpr Slot<Status*(ErrorCode, const char*)> kCreateStatus{0};
constexpr Slot<ErrorCode(const Status*)> kGetErrorCode{1};
constexpr Slot<const char*(const Status*)> kGetErrorMessage{2};
constexpr Slot<void(Status*)> kReleaseStatus{93};

// Tensors and their types.
constexpr Slot<Status*(OrtValue*, void**)> kGetTensorMutableData{51};
constexpr Slot<Status*(const TypeInfo*, const TensorInfo**)> kCastTypeInfoToTensorInfo{55};
constexpr Slot<Status*(const TensorInfo*, int*)> kGetTensorElementType{60};
constexpr Slot<Status*(const TensorInfo*, size_t*)> kGetDimensionsCount{61};
constexpr Slot<Status*(const TensorInfo*, int64_t*, size_t)> kGetDimensions{62};
constexpr Slot<Status*(const TensorInfo*, const char**, size_t)> kGetSymbolicDimensions{63};
constexpr Slot<Status*(const OrtValue*, const void**)> kGetTensorData{378};
constexpr Slot<bool(const TensorInfo*)> kTensorHasShape{390};
constexpr Slot<Status*(const OrtValue*, int*, const int64_t**, size_t*)> kGetTensorTypeAndShape{414};

// A run of a fused node.
constexpr Slot<Status*(const KernelContext*, size_t, const OrtValue**)> kKernelInput{90};
constexpr Slot<Status*(KernelContext*, size_t, const int64_t*, size_t, OrtValue**)> kKernelOutput{91};
constexpr Slot<Status*(const KernelContext*, void (*)(void*, size_t), size_t, size_t, void*)> kParallelFor{274};

// Graphs.
constexpr Slot<Status*(const ValueInfo*, const char**)> kValueName{289};
constexpr Slot<Status*(const ValueInfo*, const TypeInfo**)> kValueType{290};
constexpr Slot<Status*(const ValueInfo*, const OrtValue**)> kValueInitializer{326};
constexpr Slot<Status*(const ValueInfo*, bool*)> kValueIsGraphOutput{330};
constexpr Slot<Status*(const ValueInfo*, bool*)> kValueIsConstant{331};
constexpr Slot<Status*(const Graph*, size_t*)> kGraphNumNodes{344};
constexpr Slot<Status*(const Graph*, const Node**, size_t)> kGraphNodes{345};
constexpr Slot<Status*(const Graph*, const Node**)> kGraphParentNode{346};
constexpr Slot<Status*(const Node*, const char**)> kNodeName{349};
constexpr Slot<Status*(const Node*, const char**)> kNodeOperatorType{350};
constexpr Slot<Status*(const Node*, const char**)> kNodeDomain{351};
constexpr Slot<Status*(const Node*, int*)> kNodeSinceVersion{352};
constexpr Slot<Status*(const Node*, size_t*)> kNodeNumInputs{353};
constexpr Slot<Status*(const Node*, const ValueInfo**, size_t)> kNodeInputs{354};
constexpr Slot<Status*(const Node*, size_t*)> kNodeNumOutputs{355};
constexpr Slot<Status*(const Node*, const ValueInfo**, size_t)> kNodeOutputs{356};
constexpr Slot<Status*(const Node*, size_t*)> kNodeNumImplicitInputs{357};
constexpr Slot<Status*(const Node*, const ValueInfo**, size_t)> kNodeImplicitInputs{358};
constexpr Slot<Status*(const Node*, size_t*)> kNodeNumAttributes{359};
constexpr Slot<Status*(const Node*, const OperatorAttribute**, size_t)> kNodeAttributes{360};
constexpr Slot<Status*(const Node*, size_t*)> kNodeNumSubgraphs{365};
constexpr Slot<Status*(const Node*, const char**)> kNodeProvider{368};
constexpr Slot<Status*(const OperatorAttribute*, AttributeType, void*, size_t, size_t*)> kReadAttribute{272};
constexpr Slot<Status*(const OperatorAttribute*, int*)> kAttributeType{363};
constexpr Slot<Status*(const OperatorAttribute*, const char**)> kAttributeName{364};

// Options and devices.
constexpr Slot<void(const KeyValues*, const char* const**, const char* const**, size_t*)> kKeyValues{298};
constexpr Slot<void(KeyValues*)> kReleaseKeyValues{300};
constexpr Slot<DeviceType(const Device*)> kDeviceType{307};
constexpr Slot<Status*(const SessionOptions*, KeyValues**)> kSessionConfig{379};
constexpr Slot<const Table*()> kEpTable{317};

}  // namespace api

// Slots of the second table, for execution providers.
struct Factory;
struct FusionOptions;

namespace ep_api {

constexpr Slot<Status*(Factory*, const Device*, const KeyValues*, const KeyValues*, EpDevice**)> kCreateEpDevice{0};
constexpr Slot<Status*(GraphSupportInfo*, const Node* const*, size_t, const FusionOptions*)> kAddNodesToFuse{2};

}  // namespace ep_api

// Structs that the provider fills in. ONNX Runtime reads what belongs to `version` only; a null function is one that
// the provider leaves to it.
struct FusionOptions {
  uint32_t version = kApiVersion;
  bool drop_constant_initializers = false;
};

struct ComputeInfo {
  uint32_t version = kApiVersion;
  Status* (*create_state)(ComputeInfo*, NodeComputeContext*, void** state) = nullptr;
  Status* (*compute)(ComputeInfo*, void* state, KernelContext*) = nullptr;
  void (*release_state)(ComputeInfo*, void* state) = nullptr;
};

struct Ep {
  uint32_t version = kApiVersion;
  const char* (*name)(const Ep*) = nullptr;
  Status* (*get_capability)(Ep*, const Graph*, GraphSupportInfo*) = nullptr;
  Status* (*compile)(Ep*, const Graph** graphs, const Node** fused, size_t count, ComputeInfo** infos,
                     Node** context_nodes) = nullptr;
  void (*release_compute_infos)(Ep*, ComputeInfo** infos, size_t count) = nullptr;
  AnyFunction layout[2] = {};  // preferred layout, conversion of single operators
  AnyFunction set_options = nullptr;
  AnyFunction run_hooks[2] = {};  // start and end of a run
  AnyFunction memory[2] = {};     // allocator, stream
  AnyFunction compatibility = nullptr;
  AnyFunction kernel_registry = nullptr;
  AnyFunction concurrent_runs = nullptr;  // null: supported
};

struct Factory {
  uint32_t version = kApiVersion;
  const char* (*name)(const Factory*) = nullptr;
  const char* (*vendor)(const Factory*) = nullptr;
  Status* (*get_supported_devices)(Factory*, const Device* const* devices, size_t count, EpDevice** ep_devices,
                                   size_t capacity, size_t* found) = nullptr;
  Status* (*create_ep)(Factory*, const Device* const* devices, const KeyValues* const* metadata, size_t count,
                       const SessionOptions*, const Logger*, Ep**) = nullptr;
  void (*release_ep)(Factory*, Ep*) = nullptr;
  uint32_t (*vendor_id)(const Factory*) = nullptr;
  const char* (*provider_version)(const Factory*) = nullptr;
  AnyFunction compatibility = nullptr;
  AnyFunction allocator[2] = {};  // create, release
  Status* (*create_data_transfer)(Factory*, DataTransfer**) = nullptr;
  bool (*is_stream_aware)(const Factory*) = nullptr;
  AnyFunction stream = nullptr;
  AnyFunction incompatibility_details = nullptr;
  AnyFunction external_resources = nullptr;
  AnyFunction custom_operators[2] = {};  // number, domains
};

}  // namespace sparse::ort
