// What the parts of the emulator share: an instruction at work. A step that returns false has filled `outcome`.
#pragma once
#include "machine/intercept/trap/emulator.h"

namespace perdure::intercept {

class Emulation {
 public:
  Emulation(const Instruction& instruction, CpuState& cpu, VectorState& vectors, Memory& memory)
      : head_(instruction.head), operands_(instruction.operands), cpu_(cpu), vectors_(vectors), memory_(memory) {}

  Outcome run();

 private:
  using Operand = ZydisDecodedOperand;

  bool unsupported();
  bool failed(Errno why, u64 address, bool write);

  bool address_of(const Operand& operand, u64& out);
  bool load(u64 address, std::span<std::byte> to);
  bool store(u64 address, std::span<const std::byte> from);
  bool load(u64 address, unsigned bytes, u64& out);
  bool store(u64 address, unsigned bytes, u64 value);

  bool general(ZydisRegister reg, u64& out);
  bool set_general(ZydisRegister reg, u64 value);
  // A register, memory or an immediate, as an unsigned number of the operand's width.
  bool get(const Operand& operand, unsigned bytes, u64& out);
  bool set(const Operand& operand, unsigned bytes, u64 value);
  static unsigned bytes_of(const Operand& operand) { return operand.size / 8u; }

  bool execute();
  bool move(bool sign);
  bool arithmetic();
  bool increment();
  bool exchange();
  bool exchange_add();
  bool compare_exchange();
  bool compare_exchange_pair(unsigned half);
  bool bit();
  bool string();
  bool string_step(unsigned bytes, u64 from, u64 to);
  bool move_block();

  // vector_moves.cc; `handled` false: not one of these.
  bool vector_move(bool& handled);
  bool vector_load(unsigned kind, unsigned bytes);
  bool vector_store(unsigned kind, unsigned bytes);
  bool masked(unsigned element);
  bool vector_lane();

  const ZydisDecodedInstruction& head_;
  const Operand* operands_;
  CpuState& cpu_;
  VectorState& vectors_;
  Memory& memory_;
  Outcome outcome_;
  bool again_ = false;  // repetitions are left
};

}  // namespace perdure::intercept
