// The interrupt remapping table's way through a live update: hardware.md §9.2, §9.4 step 6.
#include <algorithm>

#include "core/vtd/interrupt_table.h"
#include "core/vtd/unit_log.h"

namespace perdure::vtd {

// --- old kernel -------------------------------------------------------------------------------------------------

Result<void> InterruptTable::preserve(Kho& kho) {
  MutexGuard guard(lock_);
  if (!on_) return {};
  TRY(kho.preserve(memory_.base, memory_.order));
  preserved_in_ = &kho;
  return {};
}

void InterruptTable::unpreserve(Kho& kho) {
  MutexGuard guard(lock_);
  if (!preserved_in_) return;
  PERDURE_ASSERT(preserved_in_ == &kho);
  kho.unpreserve(memory_.base, memory_.order);
  preserved_in_ = nullptr;
}

Result<void> InterruptTable::owners(Vec<SourceId>& into) const {
  MutexGuard guard(lock_);
  for (const Entry& entry : entries_) {
    const SourceId source{segment_, entry.bdf};
    // Entries of one function stand together.
    if (entry.word[0] == 0 || (!into.empty() && into.back() == source)) continue;
    TRY(into.push_back(source));
  }
  return {};
}

Result<void> InterruptTable::quiesce(std::span<const SourceId> leaving) {
  MutexGuard guard(lock_);
  if (!on_) return {};
  quiesced_ = true;
  bool any = false;
  for (u32 i = 0; i < entries_.size(); ++i) {
    const Entry& entry = entries_[i];
    if (entry.word[0] == 0) continue;
    if (std::find(leaving.begin(), leaving.end(), SourceId{segment_, entry.bdf}) != leaving.end()) {
      writer_.store(words_locked(i), 0);
      any = true;
      continue;
    }
    const IrqLink* const link = entry.carried ? entry.carried : entry.link;
    // What came for a program that is not back yet waits for it in the next kernel: the processor keeps it till then.
    if (link && link->pending()) heap_.machine().irq_raise(InterruptEntry::target_of(entry.word[0]));
  }
  return any ? flush_locked() : Result<void>();
}

void InterruptTable::resume() {
  MutexGuard guard(lock_);
  if (!std::exchange(quiesced_, false)) return;
  bool any = false;
  for (u32 i = 0; i < entries_.size(); ++i) {
    if (entries_[i].word[0] == 0 || hw::load(words_locked(i)) == entries_[i].word[0]) continue;
    writer_.store(words_locked(i), entries_[i].word[0]);
    any = true;
  }
  if (any && !settle_locked()) {
    log(heap_.machine(), LogLevel::Error,
        unit_line(registers_.base()) << "interrupt entries were put back, but the unit may hold them for not present");
  }
}

// --- new kernel -------------------------------------------------------------------------------------------------

bool InterruptTable::sound(const Kho& kho, const Memory& memory) const {
  const u64 bytes = kPageSize << memory.order;
  const auto kept = kho.incoming_order(memory.base);
  return memory.base && memory.base.aligned(bytes) && kho.machine().in_window(memory.base, bytes) &&
         kho.incoming_covers(memory.base, bytes) && kept && *kept == memory.order;
}

Result<void> InterruptTable::prepare(Kho& kho, const abi::IommuUnitRecord& record,
                                     std::span<const InterruptOwner> owners) {
  MutexGuard guard(lock_);
  Machine& machine = heap_.machine();
  const u64 size = Irta::Size::get(record.irta);
  if (size < 7 || Irta::Extended::test(record.irta) || Field<10, 4>::get(record.irta) != 0 ||
      !sound(kho, {Phys(Irta::Base::in_place(record.irta)), static_cast<unsigned>(size - 7)})) {
    log(machine, LogLevel::Error,
        unit_line(registers_.base()) << "not taken over: its interrupt remapping table, IRTA " << Hex{record.irta}
                                     << ", is none that this kernel can continue, or not in preserved memory");
    return fail(Errno::Einval);
  }
  const Memory former{Phys(Irta::Base::in_place(record.irta)), static_cast<unsigned>(size - 7)};
  TRY(entries_.reserve(former.entries()));
  memory_ = TRY(allocate(former.order));
  while (entries_.size() < memory_.entries()) TRY(entries_.push_back({}));
  u32 blocked = 0;
  for (u32 i = 0; i < entries_.size(); ++i) {
    // Read once: what is judged is what is used.
    const auto* const from = machine.virt<const u64>(former.base + u64{i} * InterruptEntry::kBytes);
    const u64 word[2] = {hw::load(&from[0]), hw::load(&from[1])};
    TRY(carry_locked(i, word, owners));
    if (InterruptEntry::Present::test(word[0]) && entries_[i].word[0] == 0) ++blocked;
    u64* const to = words_locked(i);
    to[0] = entries_[i].word[0];
    to[1] = entries_[i].word[1];
  }
  for (unsigned page = 0; page < 1u << memory_.order; ++page) writer_.write_back_page(memory_.base + page * kPageSize);
  if (blocked != 0) {
    log(machine, LogLevel::Warn,
        unit_line(registers_.base()) << blocked
                                     << " interrupt entries are of no preserved function or not as a kernel writes "
                                        "them; they will be blocked");
  }
  former_ = former;
  return {};
}

// One entry of the former table. What its owner has is kept at its place, so that the owner's messages need not change.
Result<void> InterruptTable::carry_locked(u32 index, const u64 (&word)[2], std::span<const InterruptOwner> owners) {
  const InterruptOwner* owner = nullptr;
  for (const InterruptOwner& one : owners) {
    if (one.source == word[1]) owner = &one;
  }
  if (!owner) return {};
  Entry& entry = entries_[index];
  entry.word[1] = word[1];
  entry.bdf = owner->bdf;
  entry.waits = true;
  const MsiTarget target = InterruptEntry::target_of(word[0]);
  if (word[0] == 0 || InterruptEntry::target_word(target) != word[0]) return {};
  Owned<IrqLink> link = TRY(heap_.make<IrqLink>(true));
  if (auto claimed = heap_.machine().irq_claim(target, *link); !claimed) {
    log(heap_.machine(), LogLevel::Error,
        unit_line(registers_.base()) << "interrupt entry " << index << " names vector " << target.data << " of "
                                     << Hex{target.address} << ", which this kernel cannot have: " << claimed.error());
    return {};
  }
  entry.word[0] = word[0];
  entry.carried = link.release();
  return {};
}

bool InterruptTable::former_table(Phys& base, u64& bytes) const {
  MutexGuard guard(lock_);
  base = former_.base;
  bytes = kPageSize << former_.order;
  return static_cast<bool>(former_.base);
}

Result<void> InterruptTable::move(Kho& kho) {
  MutexGuard guard(lock_);
  PERDURE_ASSERT(static_cast<bool>(former_.base));
  TRY(kho.restore(former_.base, former_.order));
  hw::fence();
  TRY(point_at_locked(memory_));
  on_ = in_use_ = true;
  heap_.frames().free(former_.base, former_.order);
  former_ = {};
  return {};
}

}  // namespace perdure::vtd
