// Element types, quantization and activations of the values that layers exchange.
#pragma once

#include <cstdint>

namespace sparse {

// F32: 32-bit floats. Q8: eight-bit integers, inside the provider always unsigned (signed ones are shifted by 128).
enum class Element : uint8_t { F32, Q8 };

// real = scale * (stored - zero_point), in the unsigned domain: 0 <= zero_point <= 255.
struct Quantization {
  float scale = 1.0f;
  int32_t zero_point = 0;
  bool is_signed = false;  // the model stores int8: outside the provider every value and zero point is 128 lower
};

// Elementwise functions that can follow a layer. alpha and beta:
// LeakyRelu alpha = slope; Clip alpha = low, beta = high; HardSigmoid max(0, min(1, alpha * x + beta)).
struct Activation {
  enum Kind : uint8_t { None, Relu, LeakyRelu, Clip, HardSwish, HardSigmoid, Sigmoid, Gelu, GeluTanh } kind = None;
  float alpha = 0.0f;
  float beta = 0.0f;
};

}  // namespace sparse
