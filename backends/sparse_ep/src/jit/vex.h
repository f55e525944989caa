// The few VEX-encoded (AVX2, FMA) and general-purpose instructions that the AVX2 kernel is made of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace sparse {

class VexAssembler {
 public:
  // Those that need no prefix and no SIB byte, by their number in the encoding.
  enum Register : uint8_t { Rax = 0, Rcx = 1, Rdx = 2, Rsi = 6, Rdi = 7 };

  // A vector register, ymm0 to ymm15.
  struct Ymm {
    int number;
  };

  // [base + displacement]
  struct Memory {
    Register base;
    int32_t displacement;
  };

  const std::vector<uint8_t>& code() const { return code_; }

  // Functions start on cache lines; the gap is never executed.
  size_t align() {
    while (code_.size() % 64 != 0) byte(0xCC);
    return code_.size();
  }

  void load(Register to, Memory from) {  // mov
    byte(0x48);
    byte(0x8B);
    operand(to, from);
  }
  void add(Register to, int32_t value) {
    byte(0x48);
    byte(0x81);
    byte(0xC0 | to);
    word(value);
  }
  void ret() { byte(0xC3); }

  void load(Ymm to, Memory from) { memory({0x0F, None, 0x10}, to, {0}, from); }           // vmovups
  void store(Memory to, Ymm from) { memory({0x0F, None, 0x11}, from, {0}, to); }          // vmovups
  void move(Ymm to, Ymm from) { registers({0x0F, None, 0x28}, to, {0}, from); }           // vmovaps
  void broadcast(Ymm to, Memory from) { memory({0x38, Prefix66, 0x18}, to, {0}, from); }  // vbroadcastss
  void clear(Ymm ymm) { registers({0x0F, None, 0x57}, ymm, ymm, ymm); }                   // vxorps
  void add(Ymm sum, Memory value) { memory({0x0F, None, 0x58}, sum, sum, value); }        // vaddps
  // ymm = max(other, ymm); where either is NaN, ymm stays
  void max_keeping_nan(Ymm ymm, Ymm other) { registers({0x0F, None, 0x5F}, ymm, other, ymm); }
  // sum += a * b (vfmadd231ps)
  void multiply_add(Ymm sum, Ymm a, Ymm b) { registers({0x38, Prefix66, 0xB8}, sum, a, b); }
  void multiply_add(Ymm sum, Ymm a, Memory b) { memory({0x38, Prefix66, 0xB8}, sum, a, b); }
  void zero_upper() {  // vzeroupper
    byte(0xC5);
    byte(0xF8);
    byte(0x77);
  }

 private:
  enum PrefixBits : uint8_t { None = 0, Prefix66 = 1 };
  struct Opcode {
    uint8_t map;  // 0x0F or 0x38 (0F 38)
    PrefixBits prefix;
    uint8_t op;
  };

  void byte(int value) { code_.push_back(static_cast<uint8_t>(value)); }
  void word(int32_t value) {
    for (int shift = 0; shift < 32; shift += 8) byte((static_cast<uint32_t>(value) >> shift) & 0xFF);
  }

  // C5 | ~R ~vvvv L pp, or C4 | ~R ~X ~B mmmmm | W ~vvvv L pp, all with X = W = 0 and L = 256 bits. The short form is
  // of the map 0F alone, with B = 0.
  void prefix(Opcode opcode, Ymm reg, Ymm vvvv, bool b_bit) {
    const int r = reg.number & 8 ? 0 : 0x80;
    const int tail = (~vvvv.number & 15) << 3 | 4 | opcode.prefix;
    if (opcode.map == 0x0F && !b_bit) {
      byte(0xC5);
      byte(r | tail);
    } else {
      byte(0xC4);
      byte(r | 0x40 | (b_bit ? 0 : 0x20) | (opcode.map == 0x38 ? 2 : 1));
      byte(tail);
    }
    byte(opcode.op);
  }
  void registers(Opcode opcode, Ymm reg, Ymm vvvv, Ymm rm) {
    prefix(opcode, reg, vvvv, rm.number & 8);
    byte(0xC0 | (reg.number & 7) << 3 | (rm.number & 7));
  }
  void memory(Opcode opcode, Ymm reg, Ymm vvvv, Memory rm) {
    prefix(opcode, reg, vvvv, false);
    operand(reg.number & 7, rm);
  }

  void operand(int reg, Memory rm) {
    const int32_t displacement = rm.displacement;
    if (displacement == 0) {
      byte(reg << 3 | rm.base);
    } else if (displacement >= -128 && displacement <= 127) {
      byte(0x40 | reg << 3 | rm.base);
      byte(displacement & 0xFF);
    } else {
      byte(0x80 | reg << 3 | rm.base);
      word(displacement);
    }
  }

  std::vector<uint8_t> code_;
};

}  // namespace sparse
