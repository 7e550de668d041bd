// When each phase of an update began and ended, on the machine's clock, which runs on across the jump. The former
// kernel's part crosses in a blob of its own ("perdure-timeline"), so the new kernel can show the whole.
#pragma once
#include <span>
#include <string_view>

#include "core/abi/schema.h"
#include "core/kho/kho.h"

namespace perdure {

enum class UpdatePhase : u32 {
  // former kernel
  Load = 1,  // the next kernel is opened, checked and pinned
  Audit,     // every leaf of every preserved table
  Freeze,    // sessions serialized
  Quiesce,   // units: unpreserved entries cleared, events masked, queues drained
  Jump,      // from the last instruction of the old kernel to the first of the new one
  // new kernel
  Carve,     // handover read, preserved memory set aside
  Records,   // sessions and IOMMU records read and validated
  Adopt,     // units taken over
  Scan,      // PCI
  Reattach,  // domains restored, groups held, entries reconciled
  Ready,     // files can be opened: begin = end
};
std::string_view phase_name(UpdatePhase phase);

struct PhaseTime {
  UpdatePhase phase{};
  u64 begin_ns = 0;
  u64 end_ns = 0;
};

class Timeline {
 public:
  static constexpr usize kMost = 32;
  void add(UpdatePhase phase, u64 begin_ns, u64 end_ns);
  std::span<const PhaseTime> phases() const { return {phases_, count_}; }
  void clear() { count_ = 0; }
  // Forgets all but the first `n`.
  void cut(usize n) {
    if (n < count_) count_ = n;
  }

  // Old kernel: makes room for the blob while allocation may still fail; Enomem. Then writes it, which cannot fail.
  Result<void> reserve(Kho& kho);
  void store(Machine& machine);
  void unreserve(Kho& kho);
  // New kernel: what the former one stored, before its own. Nothing if the blob is absent or malformed (logged).
  void load(Kho& kho);

 private:
  PhaseTime phases_[kMost];
  usize count_ = 0;
  Phys blob_;
};

}  // namespace perdure
