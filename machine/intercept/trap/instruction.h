// One instruction of a program, decoded.
#pragma once
#include <Zydis/Zydis.h>

#include <span>

#include "core/base/types.h"

namespace perdure::intercept {

inline constexpr usize kMaxInstruction = 15;

struct Instruction {
  ZydisDecodedInstruction head;
  ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];

  // False when `bytes` are no whole instruction of 64-bit mode.
  bool decode(std::span<const u8> bytes);
  // Reads or writes vector or mask registers: the extended state is needed for it.
  bool uses_vectors() const;
  // As text, zero-terminated and cut to `to`, for messages: "mov eax, dword ptr [rdi+0x10]".
  void describe(u64 rip, std::span<char> to) const;
};

}  // namespace perdure::intercept
