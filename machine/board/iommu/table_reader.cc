#include "machine/board/iommu/table_reader.h"

namespace perdure::board {

bool TableReader::load(u64 phys, TableUse use, bool snoop, bool silent, u16 source, u64& value) {
  value = 0;
  bool never_written = false;
  snoop = snoop || shadow_ == nullptr;
  if (snoop) {
    if (!memory_.load64(phys, value)) {
      if (!silent) checker_.note(ViolationKind::TableNotRam, phys, static_cast<u64>(use), source);
      return false;
    }
  } else {
    const auto seen = shadow_->load64(phys, value);
    if (seen == WriteBackShadow::Seen::NotRam) {
      if (!silent) checker_.note(ViolationKind::TableNotRam, phys, static_cast<u64>(use), source);
      return false;
    }
    never_written = seen == WriteBackShadow::Seen::NeverWritten;
  }
  if (silent) return true;
  ++reads_;
  if (never_written) checker_.note(ViolationKind::NotWrittenBack, phys, static_cast<u64>(use), source);
  if (!memory_.may_use(phys, use)) checker_.note(ViolationKind::TableNotUsable, phys, static_cast<u64>(use), source);
  if (value == kPoisonWord) checker_.note(ViolationKind::Poison, phys, static_cast<u64>(use), source);
  return true;
}

TableReader::Updated TableReader::set_bits(u64 phys, u64 expected, u64 bits, bool snoop) {
  snoop = snoop || shadow_ == nullptr;
  u64 found = expected;
  if (memory_.compare_exchange64(phys, found, expected | bits)) {
    if (!snoop) shadow_->unit_stored(phys, expected | bits);
    return Updated::Yes;
  }
  if (!memory_.is_ram(phys, 8)) return Updated::NotRam;
  if (snoop) return Updated::Changed;
  // DRAM is changed; the CPU's newer line, not written back yet, stays what it is.
  shadow_->unit_stored(phys, expected | bits);
  return Updated::Yes;
}

}  // namespace perdure::board
