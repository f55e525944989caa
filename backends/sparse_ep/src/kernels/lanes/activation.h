// Activations on vectors: branch-free, within 1e-6 of exact, and like ONNX Runtime's on infinities and NaN. Polynomials
// are summed pair by pair: their latency is what takes time.
#pragma once

#include "kernels/lanes/vector.h"

namespace sparse {
namespace SPARSE_ISA {

// 2^(whole + part): whole is integral and above -127 and below 128, |part| <= 0.5.
static inline Floats power_of_two(Floats whole, Floats part) {
  const Floats square = part * part;
  const Floats high = square * 1.534581e-4f + (part * 1.3399931e-3f + 9.618489e-3f);
  const Floats low = square * (part * 5.5503286e-2f + 2.4022646e-1f) + (part * 6.9314718e-1f + 1.0f);
  const Floats power = square * square * high + low;
  // NaN converts to an integer whose low bits are zeros, and so stays what it is.
  const Words exponent = reinterpret_cast<Words>(__builtin_convertvector(whole, Ints)) << 23;
  return reinterpret_cast<Floats>(reinterpret_cast<Words>(power) + exponent);
}

static inline Floats rounded(Floats value) { return (value + kRounder) - kRounder; }

// 1 / (1 + e^-x)
static inline Floats sigmoid(Floats x) {
  const float kLog2E = 1.44269502f, kLog2ELow = 1.92596299e-8f;
  const Floats negated = smaller(all(87.0f), larger(all(-87.0f), -x));
  const Floats whole = rounded(negated * kLog2E);
  const Floats part = negated * kLog2ELow + (negated * kLog2E - whole);
  const Floats result = 1.0f / (1.0f + power_of_two(whole, part));
  return x < -87.0f ? all(0.0f) : result;
}

// x * (1 + erf(x / sqrt 2)) / 2, by a polynomial for the logarithm of the normal distribution's tail.
static inline Floats gelu(Floats x) {
  const Floats magnitude = larger(x, -x);
  const Floats near = smaller(all(6.0f), magnitude);
  const Floats square = near * near, fourth = square * square;
  const Floats high = square * (near * 2.4749712e-5f - 1.1284482e-4f) + (near * -3.2739592e-4f + 7.3390105e-3f);
  const Floats low = square * (near * -5.2718502e-2f - 4.5911375e-1f) + (near * -1.1511235f - 9.9999887e-1f);
  const Floats logarithm = fourth * (fourth * -1.6627976e-6f + high) + low;
  const Floats whole = rounded(logarithm);
  const Floats tail = magnitude > 6.0f ? all(0.0f) : power_of_two(whole, logarithm - whole);
  return x * (x > 0.0f ? 1.0f - tail : tail);
}

struct Same {
  Floats operator()(Floats x) const { return x; }
};

struct Relu {
  Floats operator()(Floats x) const { return larger(all(0.0f), x); }
};

struct LeakyRelu {
  float slope;
  Floats operator()(Floats x) const { return x < 0.0f ? x * slope : x; }
};

struct Clip {
  float low, high;
  Floats operator()(Floats x) const { return smaller(all(high), larger(all(low), x)); }
};

struct HardSigmoid {
  float slope, offset;
  Floats operator()(Floats x) const { return smaller(all(1.0f), larger(all(0.0f), x * slope + offset)); }
};

struct HardSwish {
  Floats operator()(Floats x) const { return x * HardSigmoid{1.0f / 6.0f, 0.5f}(x); }
};

struct Sigmoid {
  Floats operator()(Floats x) const { return sigmoid(x); }
};

struct Gelu {
  Floats operator()(Floats x) const { return gelu(x); }
};

// x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2
struct GeluTanh {
  Floats operator()(Floats x) const { return x * sigmoid(x * (x * x * 0.0713548163f + 1.59576912f)); }
};

// body(function) with the activation's own function, so that a loop within `body` has no choice left to make.
template <class Body>
static inline void with_function(const Activation& activation, const Body& body) {
  switch (activation.kind) {
    case Activation::None:
      return body(Same{});
    case Activation::Relu:
      return body(Relu{});
    case Activation::LeakyRelu:
      return body(LeakyRelu{activation.alpha});
    case Activation::Clip:
      return body(Clip{activation.alpha, activation.beta});
    case Activation::HardSwish:
      return body(HardSwish{});
    case Activation::HardSigmoid:
      return body(HardSigmoid{activation.alpha, activation.beta});
    case Activation::Sigmoid:
      return body(Sigmoid{});
    case Activation::Gelu:
      return body(Gelu{});
    case Activation::GeluTanh:
      return body(GeluTanh{});
  }
}

}  // namespace SPARSE_ISA
}  // namespace sparse
