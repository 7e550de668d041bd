// Moves between vector registers and memory, in the legacy, VEX and EVEX encodings.
#include <algorithm>
#include <cstring>

#include "machine/intercept/trap/emulation.h"

namespace perdure::intercept {
namespace {

enum Kind : u8 {
  kWhole,   // all of the register
  kScalar,  // the lowest element; a load clears what is above it
  kLow,     // 8 bytes at the bottom; a load keeps, or takes from another register, the 8 bytes above them
  kHigh,    // the 8 bytes above those
  kLane,    // 16 bytes at a place that an immediate tells
};

struct Row {
  ZydisMnemonic mnemonic;
  Kind kind;
  u8 element = 0;  // bytes that a bit of a mask stands for
};

constexpr Row kRows[] = {
    {ZYDIS_MNEMONIC_MOVAPS, kWhole},       {ZYDIS_MNEMONIC_MOVAPD, kWhole},       {ZYDIS_MNEMONIC_MOVUPS, kWhole},
    {ZYDIS_MNEMONIC_MOVUPD, kWhole},       {ZYDIS_MNEMONIC_MOVDQA, kWhole},       {ZYDIS_MNEMONIC_MOVDQU, kWhole},
    {ZYDIS_MNEMONIC_LDDQU, kWhole},        {ZYDIS_MNEMONIC_MOVNTPS, kWhole},      {ZYDIS_MNEMONIC_MOVNTPD, kWhole},
    {ZYDIS_MNEMONIC_MOVNTDQ, kWhole},      {ZYDIS_MNEMONIC_MOVNTDQA, kWhole},     {ZYDIS_MNEMONIC_VMOVAPS, kWhole, 4},
    {ZYDIS_MNEMONIC_VMOVAPD, kWhole, 8},   {ZYDIS_MNEMONIC_VMOVUPS, kWhole, 4},   {ZYDIS_MNEMONIC_VMOVUPD, kWhole, 8},
    {ZYDIS_MNEMONIC_VMOVDQA, kWhole},      {ZYDIS_MNEMONIC_VMOVDQU, kWhole},      {ZYDIS_MNEMONIC_VMOVDQA32, kWhole, 4},
    {ZYDIS_MNEMONIC_VMOVDQA64, kWhole, 8}, {ZYDIS_MNEMONIC_VMOVDQU8, kWhole, 1},  {ZYDIS_MNEMONIC_VMOVDQU16, kWhole, 2},
    {ZYDIS_MNEMONIC_VMOVDQU32, kWhole, 4}, {ZYDIS_MNEMONIC_VMOVDQU64, kWhole, 8}, {ZYDIS_MNEMONIC_VLDDQU, kWhole},
    {ZYDIS_MNEMONIC_VMOVNTPS, kWhole},     {ZYDIS_MNEMONIC_VMOVNTPD, kWhole},     {ZYDIS_MNEMONIC_VMOVNTDQ, kWhole},
    {ZYDIS_MNEMONIC_VMOVNTDQA, kWhole},    {ZYDIS_MNEMONIC_MOVD, kScalar},        {ZYDIS_MNEMONIC_MOVQ, kScalar},
    {ZYDIS_MNEMONIC_MOVSS, kScalar},       {ZYDIS_MNEMONIC_MOVSD, kScalar},       {ZYDIS_MNEMONIC_VMOVD, kScalar},
    {ZYDIS_MNEMONIC_VMOVQ, kScalar},       {ZYDIS_MNEMONIC_VMOVSS, kScalar},      {ZYDIS_MNEMONIC_VMOVSD, kScalar},
    {ZYDIS_MNEMONIC_MOVLPS, kLow},         {ZYDIS_MNEMONIC_MOVLPD, kLow},         {ZYDIS_MNEMONIC_VMOVLPS, kLow},
    {ZYDIS_MNEMONIC_VMOVLPD, kLow},        {ZYDIS_MNEMONIC_MOVHPS, kHigh},        {ZYDIS_MNEMONIC_MOVHPD, kHigh},
    {ZYDIS_MNEMONIC_VMOVHPS, kHigh},       {ZYDIS_MNEMONIC_VMOVHPD, kHigh},       {ZYDIS_MNEMONIC_VEXTRACTF128, kLane},
    {ZYDIS_MNEMONIC_VEXTRACTI128, kLane},  {ZYDIS_MNEMONIC_VINSERTF128, kLane},   {ZYDIS_MNEMONIC_VINSERTI128, kLane},
};

unsigned number(ZydisRegister reg) {
  return static_cast<unsigned>(ZydisRegisterGetId(reg));
}

}  // namespace

bool Emulation::vector_move(bool& handled) {
  const Row* row = std::ranges::find(kRows, head_.mnemonic, &Row::mnemonic);
  handled = row != std::end(kRows);
  if (!handled) return true;
  // The other operand of a move is memory here, or it would not have been trapped.
  const bool loads = operands_[0].type == ZYDIS_OPERAND_TYPE_REGISTER;
  // A mask, if any, stands in between.
  const Operand& reg = operands_[loads ? 0 : head_.operand_count_visible - 1];
  if (row->kind != kLane && (reg.type != ZYDIS_OPERAND_TYPE_REGISTER || !is_vector(reg.reg.value))) {
    return unsupported();  // MMX
  }
  const bool masked_move = head_.avx.mask.mode != ZYDIS_MASK_MODE_INVALID &&
                           head_.avx.mask.mode != ZYDIS_MASK_MODE_DISABLED && head_.avx.mask.reg != ZYDIS_REGISTER_K0;
  if (masked_move) return row->element == 0 ? unsupported() : masked(row->element);
  if (row->kind == kLane) return vector_lane();
  const unsigned bytes = bytes_of(operands_[loads ? head_.operand_count_visible - 1 : 0]);
  if (bytes > sizeof(Vector)) return unsupported();
  return loads ? vector_load(row->kind, bytes) : vector_store(row->kind, bytes);
}

bool Emulation::vector_load(unsigned kind, unsigned bytes) {
  const unsigned target = number(operands_[0].reg.value);
  const bool legacy = head_.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;
  Vector value = {};
  u64 address = 0;
  if (kind == kLow || kind == kHigh) {
    // The other half: of the target, or of the second operand of three.
    if (!vectors_.read(number(operands_[head_.operand_count_visible - 2].reg.value), value)) return unsupported();
    std::fill(value.begin() + 16, value.end(), std::byte{0});
  }
  const usize at = kind == kHigh ? 8 : 0;
  if (!vectors_ || !address_of(operands_[head_.operand_count_visible - 1], address)) return unsupported();
  if (!load(address, std::span(value).subspan(at, bytes))) return false;
  return (legacy ? vectors_.write_low(target, value) : vectors_.write(target, value)) || unsupported();
}

bool Emulation::vector_store(unsigned kind, unsigned bytes) {
  Vector value = {};
  u64 address = 0;
  if (!vectors_.read(number(operands_[head_.operand_count_visible - 1].reg.value), value)) return unsupported();
  const usize at = kind == kHigh ? 8 : 0;
  return address_of(operands_[0], address) && store(address, std::span<const std::byte>(value).subspan(at, bytes));
}

// Elements whose bit is clear are not accessed: a load keeps or clears them.
bool Emulation::masked(unsigned element) {
  const bool loads = operands_[0].type == ZYDIS_OPERAND_TYPE_REGISTER;
  const unsigned last = head_.operand_count_visible - 1U;
  const unsigned reg = number(operands_[loads ? 0 : last].reg.value);
  const unsigned bytes = bytes_of(operands_[loads ? 0 : last]);
  Vector value = {};
  u64 chosen = 0;
  u64 address = 0;
  if (!vectors_.read(reg, value) || !vectors_.mask(number(head_.avx.mask.reg), chosen)) return unsupported();
  if (!address_of(operands_[loads ? last : 0], address)) return false;
  const bool clears = head_.avx.mask.mode == ZYDIS_MASK_MODE_ZEROING;
  std::fill(value.begin() + bytes, value.end(), std::byte{0});
  for (unsigned i = 0; i < bytes / element; ++i) {
    const std::span<std::byte> one = std::span(value).subspan(usize{i} * element, element);
    if ((chosen >> i & 1) != 0) {
      if (loads ? !load(address + u64{i} * element, one) : !store(address + u64{i} * element, one)) return false;
    } else if (clears) {
      std::ranges::fill(one, std::byte{0});
    }
  }
  return !loads || vectors_.write(reg, value) || unsupported();
}

bool Emulation::vector_lane() {
  constexpr usize kLaneBytes = 16;
  const bool inserts = operands_[0].type == ZYDIS_OPERAND_TYPE_REGISTER;
  const u64 lane = operands_[inserts ? 3 : 2].imm.value.u & 1;
  Vector value = {};
  u64 address = 0;
  if (!vectors_.read(number(operands_[1].reg.value), value)) return unsupported();
  const std::span<std::byte> part = std::span(value).subspan(lane * kLaneBytes, kLaneBytes);
  if (!address_of(operands_[inserts ? 2 : 0], address)) return false;
  if (!inserts) return store(address, part);
  if (!load(address, part)) return false;
  std::fill(value.begin() + 32, value.end(), std::byte{0});
  return vectors_.write(number(operands_[0].reg.value), value) || unsupported();
}

}  // namespace perdure::intercept
