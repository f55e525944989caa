// The few EVEX-encoded (AVX-512) instructions that generated kernels are made of.
//
// Displacements are compressed: a signed byte counts units of what the operand reads (64 bytes, or 4 for an embedded
// broadcast), so a kernel keeps its pointers close and most instructions stay at 7 bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace sparse {

// General-purpose registers by their number in the encoding.
enum class Reg : uint8_t { rax = 0, rcx = 1, rdx = 2, rsi = 6, rdi = 7, r8 = 8, r9 = 9, r10 = 10, r11 = 11 };

class EvexAssembler {
 public:
  void load(int zmm, Reg base, int32_t displacement) { memory({0x0F, None, 0x10}, zmm, 0, base, displacement, kRow); }
  void store(int zmm, Reg base, int32_t displacement) { memory({0x0F, None, 0x11}, zmm, 0, base, displacement, kRow); }
  void broadcast(int zmm, Reg base, int32_t displacement) {
    memory({0x38, Prefix66, 0x18}, zmm, 0, base, displacement, kWord);
  }
  void clear(int zmm) { registers({0x0F, Prefix66, 0xEF}, zmm, zmm, zmm); }  // vpxord

  // accumulator += x * broadcast(float at memory)
  void multiply_add(int accumulator, int x, Reg base, int32_t displacement) {
    memory({0x38, Prefix66, 0xB8}, accumulator, x, base, displacement, kEmbedded);
  }
  // accumulator[lane] += sum of four u8(x) * s8(memory) (vpdpbusd, AVX-512 VNNI)
  void dot_add(int accumulator, int x, Reg base, int32_t displacement) {
    memory({0x38, Prefix66, 0x50}, accumulator, x, base, displacement, kEmbedded);
  }
  void add(int zmm, Reg base, int32_t displacement) { memory({0x0F, None, 0x58}, zmm, zmm, base, displacement, kRow); }
  // zmm = max(other, zmm); where either is NaN, zmm stays
  void max_keeping_nan(int zmm, int other) { registers({0x0F, None, 0x5F}, zmm, other, zmm); }

  // Bring the line at base + displacement into the second-level cache (prefetcht1).
  void prefetch(Reg base, int32_t displacement) {
    if (high(base)) byte(0x41);
    byte(0x0F);
    byte(0x18);
    byte(0x90 | low(base));
    word(displacement);
  }
  void move(Reg to, Reg base, int32_t displacement) {  // mov to, [base + displacement]
    byte(0x48 | high(to) << 2 | high(base));
    byte(0x8B);
    byte(0x80 | low(to) << 3 | low(base));
    word(displacement);
  }
  void add(Reg reg, int32_t value) {
    byte(0x48 | high(reg));
    byte(0x81);
    byte(0xC0 | low(reg));
    word(value);
  }
  void set(Reg reg, int32_t value) {
    if (high(reg)) byte(0x41);
    byte(0xB8 | low(reg));
    word(value);
  }
  // Take one from the register, and unless nothing is left go on at `target`, an earlier size of the code.
  void repeat(Reg reg, size_t target) {
    byte(0x48 | high(reg));
    byte(0xFF);
    byte(0xC8 | low(reg));
    byte(0x0F);
    byte(0x85);
    word(static_cast<int32_t>(static_cast<int64_t>(target) - static_cast<int64_t>(code_.size() + 4)));
  }
  void leave() {  // vzeroupper, lest the SSE code that follows is slow; ret
    for (const int value : {0xC5, 0xF8, 0x77, 0xC3}) byte(value);
  }

  // Functions start on cache lines; the gap is never executed.
  size_t align() {
    while (code_.size() % 64 != 0) byte(0xCC);
    return code_.size();
  }
  size_t size() const { return code_.size(); }
  void data(const std::vector<uint32_t>& words) {
    for (const uint32_t value : words) word(static_cast<int32_t>(value));
  }
  const std::vector<uint8_t>& code() const { return code_; }

 private:
  enum PrefixBits : uint8_t { None = 0, Prefix66 = 1 };
  struct Opcode {
    uint8_t map;  // 0x0F or 0x38 (0F 38)
    PrefixBits prefix;
    uint8_t op;
  };

  // What a memory operand reads: a row of 64 bytes, a word, or a word that the instruction itself broadcasts.
  enum Operand : uint8_t { kRow, kWord, kEmbedded };

  static uint8_t high(Reg reg) { return static_cast<uint8_t>(reg) >> 3; }
  static uint8_t low(Reg reg) { return static_cast<uint8_t>(reg) & 7; }

  void byte(int value) { code_.push_back(static_cast<uint8_t>(value)); }
  void word(int32_t value) {
    for (int shift = 0; shift < 32; shift += 8) byte((static_cast<uint32_t>(value) >> shift) & 0xFF);
  }

  // 62 | ~R ~X ~B ~R' 0 mmm | W ~vvvv 1 pp | z L'L b ~V' aaa, all with W = 0, L'L = 512 bits, no mask.
  void prefix(Opcode opcode, int reg, int vvvv, int x_bit, int b_bit, bool broadcasting) {
    byte(0x62);
    byte((reg & 8 ? 0 : 0x80) | (x_bit ? 0 : 0x40) | (b_bit ? 0 : 0x20) | (reg & 16 ? 0 : 0x10) |
         (opcode.map == 0x38 ? 2 : 1));
    byte((~vvvv & 15) << 3 | 4 | opcode.prefix);
    byte(0x40 | (broadcasting ? 0x10 : 0) | (vvvv & 16 ? 0 : 8));
    byte(opcode.op);
  }
  void registers(Opcode opcode, int reg, int vvvv, int rm) {
    prefix(opcode, reg, vvvv, rm & 16, rm & 8, false);
    byte(0xC0 | (reg & 7) << 3 | (rm & 7));
  }
  // `base` is neither rsp nor r12, whose encodings need one byte more.
  void memory(Opcode opcode, int reg, int vvvv, Reg base, int32_t displacement, Operand operand) {
    prefix(opcode, reg, vvvv, 0, high(base), operand == kEmbedded);
    const int32_t unit = operand == kRow ? 64 : 4;
    if (displacement % unit == 0 && displacement / unit >= -128 && displacement / unit <= 127) {
      byte(0x40 | (reg & 7) << 3 | low(base));
      byte((displacement / unit) & 0xFF);
    } else {
      byte(0x80 | (reg & 7) << 3 | low(base));
      word(displacement);
    }
  }

  std::vector<uint8_t> code_;
};

}  // namespace sparse
