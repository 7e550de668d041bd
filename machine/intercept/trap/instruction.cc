#include "machine/intercept/trap/instruction.h"

#include "machine/intercept/trap/vector_state.h"

namespace perdure::intercept {

bool Instruction::decode(std::span<const u8> bytes) {
  ZydisDecoder decoder;
  return ZYAN_SUCCESS(ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64)) &&
         ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes.data(), bytes.size(), &head, operands));
}

bool Instruction::uses_vectors() const {
  for (unsigned i = 0; i < head.operand_count; ++i) {
    if (operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER && is_vector(operands[i].reg.value)) return true;
  }
  return false;
}

void Instruction::describe(u64 rip, std::span<char> to) const {
  ZydisFormatter formatter;
  if (to.empty()) return;
  to[0] = 0;
  if (ZYAN_SUCCESS(ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL))) {
    ZydisFormatterFormatInstruction(&formatter, &head, operands, head.operand_count_visible, to.data(), to.size(), rip,
                                    nullptr);
  }
}

}  // namespace perdure::intercept
