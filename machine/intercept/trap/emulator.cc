#include "machine/intercept/trap/emulator.h"

#include <cstring>

#include "machine/intercept/trap/alu.h"
#include "machine/intercept/trap/emulation.h"

namespace perdure::intercept {
namespace {

// One access of a program lasts no longer than this many; a signal may come in between.
constexpr unsigned kRepetitions = 1024;

bool high_byte(ZydisRegister reg) {
  return reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH;
}

}  // namespace

Outcome emulate(const Instruction& instruction, CpuState& cpu, VectorState& vectors, Memory& memory) {
  return Emulation(instruction, cpu, vectors, memory).run();
}

Outcome Emulation::run() {
  const u64 flags = cpu_.flags;
  if (!execute()) {
    cpu_.flags = flags;
  } else if (!again_) {
    cpu_.rip += head_.length;
  }
  return outcome_;
}

bool Emulation::unsupported() {
  outcome_ = {Verdict::Unsupported, 0, false};
  return false;
}

bool Emulation::failed(Errno why, u64 address, bool write) {
  outcome_ = {why == Errno::Efault ? Verdict::Fault : Verdict::Bus, address, write};
  return false;
}

// --- memory ----------------------------------------------------------------------------------------------------------

bool Emulation::address_of(const Operand& operand, u64& out) {
  const ZydisDecodedOperandMem& m = operand.mem;
  if (operand.type != ZYDIS_OPERAND_TYPE_MEMORY || m.type != ZYDIS_MEMOP_TYPE_MEM) return unsupported();
  u64 address = m.disp.has_displacement ? static_cast<u64>(m.disp.value) : 0;
  if (m.base == ZYDIS_REGISTER_RIP || m.base == ZYDIS_REGISTER_EIP) {
    address += cpu_.rip + head_.length;
  } else if (m.base != ZYDIS_REGISTER_NONE) {
    u64 base = 0;
    if (!general(m.base, base)) return false;
    address += base;
  }
  if (m.index != ZYDIS_REGISTER_NONE) {
    u64 index = 0;
    if (!general(m.index, index)) return false;  // a vector of indices
    address += index * m.scale;
  }
  if (head_.address_width == 32) address &= mask_of(4);
  if (m.segment == ZYDIS_REGISTER_FS) address += cpu_.fs_base;
  if (m.segment == ZYDIS_REGISTER_GS) address += cpu_.gs_base;
  out = address;
  return true;
}

bool Emulation::load(u64 address, std::span<std::byte> to) {
  const Result<void> done = memory_.read(address, to);
  return done || failed(done.error(), address, false);
}

bool Emulation::store(u64 address, std::span<const std::byte> from) {
  const Result<void> done = memory_.write(address, from);
  return done || failed(done.error(), address, true);
}

bool Emulation::load(u64 address, unsigned bytes, u64& out) {
  out = 0;
  return load(address, std::as_writable_bytes(std::span(&out, 1)).first(bytes));
}

bool Emulation::store(u64 address, unsigned bytes, u64 value) {
  return store(address, std::as_bytes(std::span(&value, 1)).first(bytes));
}

// --- registers -------------------------------------------------------------------------------------------------------

bool Emulation::general(ZydisRegister reg, u64& out) {
  const ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
  if (ZydisRegisterGetClass(whole) != ZYDIS_REGCLASS_GPR64) return unsupported();
  const u64 value = cpu_.general[ZydisRegisterGetId(whole)];
  const unsigned bytes = ZydisRegisterGetWidth(ZYDIS_MACHINE_MODE_LONG_64, reg) / 8u;
  out = (high_byte(reg) ? value >> 8 : value) & mask_of(bytes);
  return true;
}

bool Emulation::set_general(ZydisRegister reg, u64 value) {
  const ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
  if (ZydisRegisterGetClass(whole) != ZYDIS_REGCLASS_GPR64) return unsupported();
  u64& target = cpu_.general[ZydisRegisterGetId(whole)];
  const unsigned bytes = ZydisRegisterGetWidth(ZYDIS_MACHINE_MODE_LONG_64, reg) / 8u;
  if (bytes >= 4) {
    target = value & mask_of(bytes);  // 32-bit results are zero-extended
  } else {
    const unsigned shift = high_byte(reg) ? 8 : 0;
    const u64 mask = mask_of(bytes) << shift;
    target = (target & ~mask) | (value << shift & mask);
  }
  return true;
}

bool Emulation::get(const Operand& operand, unsigned bytes, u64& out) {
  switch (operand.type) {
    case ZYDIS_OPERAND_TYPE_REGISTER: return general(operand.reg.value, out);
    case ZYDIS_OPERAND_TYPE_IMMEDIATE: out = operand.imm.value.u & mask_of(bytes); return true;
    case ZYDIS_OPERAND_TYPE_MEMORY: {
      u64 address = 0;
      return address_of(operand, address) && load(address, bytes, out);
    }
    default: return unsupported();
  }
}

bool Emulation::set(const Operand& operand, unsigned bytes, u64 value) {
  if (operand.type == ZYDIS_OPERAND_TYPE_REGISTER) return set_general(operand.reg.value, value);
  u64 address = 0;
  return address_of(operand, address) && store(address, bytes, value);
}

// --- instructions ----------------------------------------------------------------------------------------------------

bool Emulation::execute() {
  if (head_.meta.category == ZYDIS_CATEGORY_STRINGOP) return string();
  bool handled = true;
  if (!vector_move(handled)) return false;
  if (handled) return true;
  // From here on operands are general registers; whatever else is refused where it is read or written.
  switch (head_.mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_MOVNTI:
    case ZYDIS_MNEMONIC_MOVDIRI: return move(false);
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD: return move(true);
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_ADC:
    case ZYDIS_MNEMONIC_SUB:
    case ZYDIS_MNEMONIC_SBB:
    case ZYDIS_MNEMONIC_CMP:
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_XOR:
    case ZYDIS_MNEMONIC_TEST: return arithmetic();
    case ZYDIS_MNEMONIC_INC:
    case ZYDIS_MNEMONIC_DEC:
    case ZYDIS_MNEMONIC_NEG:
    case ZYDIS_MNEMONIC_NOT: return increment();
    case ZYDIS_MNEMONIC_XCHG: return exchange();
    case ZYDIS_MNEMONIC_XADD: return exchange_add();
    case ZYDIS_MNEMONIC_CMPXCHG: return compare_exchange();
    case ZYDIS_MNEMONIC_CMPXCHG8B: return compare_exchange_pair(4);
    case ZYDIS_MNEMONIC_CMPXCHG16B: return compare_exchange_pair(8);
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC: return bit();
    case ZYDIS_MNEMONIC_MOVDIR64B: return move_block();
    default: return unsupported();
  }
}

bool Emulation::move(bool sign) {
  const unsigned from = bytes_of(operands_[1]);
  const unsigned to = bytes_of(operands_[0]);
  // A register that cannot be written is to be found out before registers of a device are read.
  if (operands_[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
      ZydisRegisterGetClass(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, operands_[0].reg.value)) !=
          ZYDIS_REGCLASS_GPR64) {
    return unsupported();
  }
  u64 value = 0;
  if (!get(operands_[1], operands_[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? to : from, value)) return false;
  return set(operands_[0], to, sign ? sign_extend(value, from) : value);
}

bool Emulation::arithmetic() {
  const unsigned bytes = bytes_of(operands_[0]);
  u64 a = 0;
  u64 b = 0;
  if (!get(operands_[0], bytes, a) || !get(operands_[1], bytes, b)) return false;
  const bool carry = (cpu_.flags & flag::kCarry) != 0;
  u64 result = 0;
  switch (head_.mnemonic) {
    case ZYDIS_MNEMONIC_ADD: result = alu_add(a, b, false, bytes, cpu_.flags); break;
    case ZYDIS_MNEMONIC_ADC: result = alu_add(a, b, carry, bytes, cpu_.flags); break;
    case ZYDIS_MNEMONIC_SBB: result = alu_subtract(a, b, carry, bytes, cpu_.flags); break;
    case ZYDIS_MNEMONIC_SUB: result = alu_subtract(a, b, false, bytes, cpu_.flags); break;
    case ZYDIS_MNEMONIC_CMP: alu_subtract(a, b, false, bytes, cpu_.flags); return true;
    case ZYDIS_MNEMONIC_TEST: alu_logic(a & b, bytes, cpu_.flags); return true;
    case ZYDIS_MNEMONIC_AND: result = a & b; break;
    case ZYDIS_MNEMONIC_OR: result = a | b; break;
    default: result = a ^ b; break;
  }
  const bool logic = head_.mnemonic == ZYDIS_MNEMONIC_AND || head_.mnemonic == ZYDIS_MNEMONIC_OR ||
                     head_.mnemonic == ZYDIS_MNEMONIC_XOR;
  if (logic) alu_logic(result, bytes, cpu_.flags);
  return set(operands_[0], bytes, result);
}

bool Emulation::increment() {
  const unsigned bytes = bytes_of(operands_[0]);
  u64 value = 0;
  if (!get(operands_[0], bytes, value)) return false;
  switch (head_.mnemonic) {
    case ZYDIS_MNEMONIC_INC: value = alu_increment(value, bytes, cpu_.flags); break;
    case ZYDIS_MNEMONIC_DEC: value = alu_decrement(value, bytes, cpu_.flags); break;
    case ZYDIS_MNEMONIC_NEG: value = alu_subtract(0, value, false, bytes, cpu_.flags); break;
    default: value = ~value; break;
  }
  return set(operands_[0], bytes, value);
}

bool Emulation::exchange() {
  const bool memory_first = operands_[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
  const Operand& memory = operands_[memory_first ? 0 : 1];
  const Operand& reg = operands_[memory_first ? 1 : 0];
  const unsigned bytes = bytes_of(memory);
  u64 address = 0;
  u64 old = 0;
  u64 value = 0;
  return address_of(memory, address) && get(reg, bytes, value) && load(address, bytes, old) &&
         store(address, bytes, value) && set(reg, bytes, old);
}

bool Emulation::exchange_add() {
  const unsigned bytes = bytes_of(operands_[0]);
  u64 old = 0;
  u64 value = 0;
  if (!get(operands_[1], bytes, value) || !get(operands_[0], bytes, old)) return false;
  const u64 sum = alu_add(old, value, false, bytes, cpu_.flags);
  return set(operands_[0], bytes, sum) && set(operands_[1], bytes, old);
}

// The destination is written in any case, with what it held when the comparison failed (SDM, CMPXCHG).
bool Emulation::compare_exchange() {
  const unsigned bytes = bytes_of(operands_[0]);
  const u64 accumulator = cpu_.general[CpuState::kRax] & mask_of(bytes);
  u64 address = 0;
  u64 old = 0;
  u64 value = 0;
  if (!address_of(operands_[0], address) || !get(operands_[1], bytes, value) || !load(address, bytes, old))
    return false;
  alu_subtract(accumulator, old, false, bytes, cpu_.flags);
  const bool equal = accumulator == old;
  if (!store(address, bytes, equal ? value : old)) return false;
  if (equal) return true;
  constexpr ZydisRegister kAccumulator[] = {ZYDIS_REGISTER_AL, ZYDIS_REGISTER_AX, ZYDIS_REGISTER_EAX,
                                            ZYDIS_REGISTER_RAX};
  return set_general(kAccumulator[bytes == 8 ? 3 : bytes / 2], old);
}

bool Emulation::compare_exchange_pair(unsigned half) {
  u64 address = 0;
  u64 low = 0;
  u64 high = 0;
  if (!address_of(operands_[0], address)) return false;
  std::byte block[16];
  const std::span<std::byte> whole = std::span(block).first(2 * half);
  if (!load(address, whole)) return false;
  std::memcpy(&low, block, half);
  std::memcpy(&high, block + half, half);
  u64* const g = cpu_.general;
  const bool equal = low == (g[CpuState::kRax] & mask_of(half)) && high == (g[CpuState::kRdx] & mask_of(half));
  if (equal) {
    std::memcpy(block, &g[CpuState::kRbx], half);
    std::memcpy(block + half, &g[CpuState::kRcx], half);
  }
  if (!store(address, whole)) return false;
  cpu_.flags = equal ? cpu_.flags | flag::kZero : cpu_.flags & ~flag::kZero;
  if (!equal) {
    g[CpuState::kRax] = low;
    g[CpuState::kRdx] = high;
  }
  return true;
}

// A bit number in a register reaches beyond the operand, in units of its width and in both directions.
bool Emulation::bit() {
  const unsigned bytes = bytes_of(operands_[0]);
  u64 address = 0;
  u64 number = 0;
  if (!address_of(operands_[0], address) || !get(operands_[1], bytes, number)) return false;
  const unsigned bits = 8 * bytes;
  if (operands_[1].type == ZYDIS_OPERAND_TYPE_REGISTER) {
    const auto offset = static_cast<s64>(sign_extend(number, bytes));
    const s64 unit = (offset - static_cast<s64>(number % bits)) / static_cast<s64>(bits);
    address += static_cast<u64>(unit) * bytes;
    if (head_.address_width == 32) address &= mask_of(4);
  }
  const u64 bit = u64{1} << (number % bits);
  u64 value = 0;
  if (!load(address, bytes, value)) return false;
  const bool was = (value & bit) != 0;
  switch (head_.mnemonic) {
    case ZYDIS_MNEMONIC_BTS: value |= bit; break;
    case ZYDIS_MNEMONIC_BTR: value &= ~bit; break;
    case ZYDIS_MNEMONIC_BTC: value ^= bit; break;
    default: break;
  }
  if (head_.mnemonic != ZYDIS_MNEMONIC_BT && !store(address, bytes, value)) return false;
  cpu_.flags = was ? cpu_.flags | flag::kCarry : cpu_.flags & ~flag::kCarry;
  return true;
}

bool Emulation::move_block() {
  u64 from = 0;
  u64 to = 0;
  std::byte block[64];
  // The destination is an address in a register, in the segment ES, whose base is 0.
  if (operands_[0].type == ZYDIS_OPERAND_TYPE_REGISTER ? !general(operands_[0].reg.value, to)
                                                       : !address_of(operands_[0], to)) {
    return false;
  }
  return address_of(operands_[1], from) && load(from, block) && store(to, block);
}

// --- strings ---------------------------------------------------------------------------------------------------------

bool Emulation::string_step(unsigned bytes, u64 from, u64 to) {
  u64 value = 0;
  switch (head_.mnemonic) {
    case ZYDIS_MNEMONIC_MOVSB:
    case ZYDIS_MNEMONIC_MOVSW:
    case ZYDIS_MNEMONIC_MOVSD:
    case ZYDIS_MNEMONIC_MOVSQ: return load(from, bytes, value) && store(to, bytes, value);
    default: return store(to, bytes, cpu_.general[CpuState::kRax]);
  }
}

bool Emulation::string() {
  bool reads = false;
  switch (head_.mnemonic) {
    case ZYDIS_MNEMONIC_MOVSB:
    case ZYDIS_MNEMONIC_MOVSW:
    case ZYDIS_MNEMONIC_MOVSD:
    case ZYDIS_MNEMONIC_MOVSQ: reads = true; break;
    case ZYDIS_MNEMONIC_STOSB:
    case ZYDIS_MNEMONIC_STOSW:
    case ZYDIS_MNEMONIC_STOSD:
    case ZYDIS_MNEMONIC_STOSQ: break;
    default: return unsupported();
  }
  for (unsigned i = 0; i < head_.raw.prefix_count; ++i) {
    if (head_.raw.prefixes[i].value == 0xF2) return unsupported();  // REPNE means nothing here
  }
  const bool repeated = (head_.attributes & ZYDIS_ATTRIB_HAS_REP) != 0;
  const u64 addresses = mask_of(head_.address_width / 8u);
  const unsigned bytes = bytes_of(operands_[0]);
  const u64 step = (cpu_.flags & flag::kDirection) != 0 ? u64{0} - bytes : bytes;
  u64 from_base = 0;
  for (unsigned i = 0; reads && i < head_.operand_count; ++i) {
    if (operands_[i].type != ZYDIS_OPERAND_TYPE_MEMORY) continue;
    if (operands_[i].mem.segment == ZYDIS_REGISTER_FS) from_base = cpu_.fs_base;
    if (operands_[i].mem.segment == ZYDIS_REGISTER_GS) from_base = cpu_.gs_base;
  }
  u64& count = cpu_.general[CpuState::kRcx];
  u64& source = cpu_.general[CpuState::kRsi];
  u64& target = cpu_.general[CpuState::kRdi];
  for (unsigned i = 0; !repeated || (count & addresses) != 0; ++i) {
    if (i == kRepetitions) {
      again_ = true;
      break;
    }
    if (!string_step(bytes, from_base + (source & addresses), target & addresses)) return false;
    if (reads) source = (source + step) & addresses;
    target = (target + step) & addresses;
    if (!repeated) break;
    count = (count - 1) & addresses;
  }
  return true;
}

}  // namespace perdure::intercept
