#include "core/vtd/interrupt_table.h"

#include "core/base/scope_guard.h"
#include "core/vtd/unit_log.h"

namespace perdure::vtd {

InterruptTable::InterruptTable(Heap& heap, RegisterFile& registers, InvalidationQueue& queue, u16 segment, u64 cap,
                               u64 ecap)
    : heap_(heap),
      registers_(registers),
      queue_(queue),
      // Coherency of this table is the legacy tables', in scalable mode, too (hardware.md §2, ECAP.C).
      writer_(heap.machine(), Ecap::C::test(ecap)),
      segment_(segment),
      caching_mode_(Cap::Cm::test(cap)),
      write_buffer_(Cap::Rwbf::test(cap)),
      entries_(heap) {}

InterruptTable::~InterruptTable() {
  MutexGuard guard(lock_);
  for (Entry& entry : entries_) end_carried_locked(entry);
}

u64* InterruptTable::words_locked(u32 index) const {
  return heap_.machine().virt<u64>(memory_.base + u64{index} * InterruptEntry::kBytes);
}

Result<InterruptTable::Memory> InterruptTable::allocate(unsigned order) {
  const Memory memory {
    TRY(heap_.frames().alloc_zeroed(order))
    , order
  };
  for (unsigned page = 0; page < 1u << order; ++page) writer_.write_back_page(memory.base + page * kPageSize);
  return memory;
}

Result<void> InterruptTable::point_at_locked(const Memory& memory) {
  // Entries of the former table rule until then. Nothing of another thread may come in between: it would take a wait
  // for the end of this.
  Batch batch;
  batch.add(InvalidateInterrupts());
  return queue_.submit_after([&] { return registers_.set_interrupt_table(memory.irta()); }, batch.span());
}

Result<void> InterruptTable::flush_locked() {
  if (!on_) return {};
  Batch batch;
  batch.add(InvalidateInterrupts());
  return queue_.submit(batch.span());
}

Result<void> InterruptTable::settle_locked() {
  if (caching_mode_) return flush_locked();
  if (write_buffer_) return registers_.flush_write_buffer();
  return {};
}

Result<void> InterruptTable::start() {
  MutexGuard guard(lock_);
  if (!memory_.base) {
    TRY(entries_.reserve(Memory{}.entries()));
    memory_ = TRY(allocate(0));
    while (entries_.size() < memory_.entries()) TRY(entries_.push_back({}));
  }
  if (Global::Cfi::test(registers_.status())) TRY(registers_.disable(Global::Cfi::value()));
  TRY(point_at_locked(memory_));
  in_use_ = true;
  TRY(registers_.enable(Global::Ire::value()));
  on_ = true;
  return {};
}

bool InterruptTable::set_up() const {
  MutexGuard guard(lock_);
  return static_cast<bool>(memory_.base);
}

u64 InterruptTable::address_register() const {
  MutexGuard guard(lock_);
  return on_ ? memory_.irta() : 0;
}

Result<void> InterruptTable::stop() {
  MutexGuard guard(lock_);
  on_ = false;
  if (!in_use_) return {};
  TRY(registers_.disable(Global::Ire::value()));
  in_use_ = false;
  return {};
}

void InterruptTable::release() {
  MutexGuard guard(lock_);
  PERDURE_ASSERT(!preserved_in_);
  if (memory_.base && !in_use_) heap_.frames().free(memory_.base, memory_.order);
  memory_ = {};
  for (Entry& entry : entries_) end_carried_locked(entry);
  entries_.clear();
}

// --- entries --------------------------------------------------------------------------------------------------

bool InterruptTable::find_run_locked(unsigned count, u32& first) const {
  unsigned run = 0;
  for (u32 i = 0; i < entries_.size(); ++i) {
    run = entries_[i].word[1] == 0 ? run + 1 : 0;
    if (run < count) continue;
    first = i + 1 - count;
    return true;
  }
  return false;
}

Result<void> InterruptTable::grow_locked() {
  if (memory_.order == kMaxOrder) return fail(Errno::Enospc);
  TRY(entries_.reserve(2 * entries_.size()));
  const Memory grown = TRY(allocate(memory_.order + 1));
  ScopeGuard undo([&] { heap_.frames().free(grown.base, grown.order); });
  Kho* const kho = preserved_in_;
  if (kho) TRY(kho->preserve(grown.base, grown.order));
  auto* const to = heap_.machine().virt<u64>(grown.base);
  for (u32 i = 0; i < entries_.size(); ++i) {
    // Nobody looks at it yet, so the order does not matter.
    for (unsigned w = 0; w < 2; ++w) to[2 * i + w] = hw::load(words_locked(i) + w);
  }
  for (unsigned page = 0; page < 1u << memory_.order; ++page) writer_.write_back_page(grown.base + page * kPageSize);
  hw::fence();
  // Whether or not the unit confirms it, it may use the new memory from here on, and the old one until it does.
  undo.dismiss();
  TRY(point_at_locked(grown));
  if (kho) kho->unpreserve(memory_.base, memory_.order);
  heap_.frames().free(memory_.base, memory_.order);
  memory_ = grown;
  while (entries_.size() < memory_.entries()) static_cast<void>(entries_.push_back({}));
  return {};
}

Result<u32> InterruptTable::alloc(std::span<const SourceId> requesters, unsigned count) {
  MutexGuard guard(lock_);
  if (!on_ || quiesced_) return fail(Errno::Ebusy);
  if (count == 0 || count > Memory{Phys(), kMaxOrder}.entries()) return fail(Errno::Enospc);
  u32 first = 0;
  while (!find_run_locked(count, first)) TRY(grow_locked());
  for (u32 i = first; i < first + count; ++i) {
    Entry& entry = entries_[i];
    entry = {};
    entry.word[1] = InterruptEntry::source_of(requesters);
    entry.bdf = requesters[0].bdf;
    writer_.store(words_locked(i) + 1, entry.word[1]);
  }
  return first;
}

Result<void> InterruptTable::set(u32 index, const MsiTarget& target, const IrqLink& link) {
  MutexGuard guard(lock_);
  if (!on_ || quiesced_) return fail(Errno::Ebusy);
  PERDURE_ASSERT(index < entries_.size() && entries_[index].word[1] != 0);
  const u64 word = InterruptEntry::target_word(target);
  if (word == 0) return fail(Errno::Einval);
  Entry& entry = entries_[index];
  const u64 before = entry.word[0];
  // The owner stands there already; one store does the rest, whatever was there.
  hw::fence();
  writer_.store(words_locked(index), word);
  entry.word[0] = word;
  entry.link = &link;
  Batch batch;
  batch.add(InvalidateInterrupts(index));
  const auto settled = before != 0 ? queue_.submit(batch.span()) : settle_locked();
  if (!settled) {
    writer_.store(words_locked(index), 0);
    entry.word[0] = 0;
    entry.link = nullptr;
  }
  return settled;
}

Result<void> InterruptTable::clear(u32 index) {
  MutexGuard guard(lock_);
  Entry& entry = entries_[index];
  entry.link = nullptr;
  if (entry.word[0] == 0) return {};
  writer_.store(words_locked(index), 0);
  entry.word[0] = 0;
  if (!on_) return {};
  Batch batch;
  batch.add(InvalidateInterrupts(index));
  return queue_.submit(batch.span());
}

void InterruptTable::forget_locked(u32 index) {
  writer_.store(words_locked(index) + 1, 0);
  entries_[index] = {};
}

void InterruptTable::free(u32 first, unsigned count) {
  MutexGuard guard(lock_);
  PERDURE_ASSERT(first + count <= entries_.size());
  bool any = false;
  for (u32 i = first; i < first + count; ++i) {
    if (entries_[i].word[0] == 0) continue;
    writer_.store(words_locked(i), 0);
    entries_[i].word[0] = 0;
    any = true;
  }
  // What the unit may still remember is nobody's from now on.
  const bool forgotten = !any || flush_locked().has_value();
  for (u32 i = first; i < first + count; ++i) {
    entries_[i].link = nullptr;
    if (forgotten) forget_locked(i);
  }
}

// --- carried over ----------------------------------------------------------------------------------------------

void InterruptTable::end_carried_locked(Entry& entry) {
  if (!entry.carried) return;
  heap_.machine().irq_free(InterruptEntry::target_of(entry.word[0]));
  Owned<IrqLink>(heap_, std::exchange(entry.carried, nullptr)).reset();
}

Result<void> InterruptTable::take(std::span<const SourceId> requesters, u32 first, unsigned count,
                                  FunctionRef<void(unsigned i, Owned<IrqLink> link, const MsiTarget& target)> visit) {
  MutexGuard guard(lock_);
  if (count == 0 || count > entries_.size() || first > entries_.size() - count) return fail(Errno::Enoent);
  const u64 source = InterruptEntry::source_of(requesters);
  for (u32 i = first; i < first + count; ++i) {
    if (!entries_[i].waits || entries_[i].word[1] != source) return fail(Errno::Enoent);
  }
  for (u32 i = first; i < first + count; ++i) {
    Entry& entry = entries_[i];
    entry.waits = false;
    if (!entry.carried) continue;
    Owned<IrqLink> link(heap_, std::exchange(entry.carried, nullptr));
    visit(i - first, std::move(link), InterruptEntry::target_of(entry.word[0]));
  }
  return {};
}

void InterruptTable::give_back(u32 index, Owned<IrqLink> link) {
  MutexGuard guard(lock_);
  Entry& entry = entries_[index];
  PERDURE_ASSERT(!entry.waits && !entry.carried && static_cast<bool>(link) == (entry.word[0] != 0));
  entry.carried = link.release();
  entry.waits = true;
}

void InterruptTable::drop_carried(SourceId source) {
  MutexGuard guard(lock_);
  const auto dropped = [&](const Entry& entry) { return entry.waits && source == SourceId{segment_, entry.bdf}; };
  bool present = false;
  for (u32 i = 0; i < entries_.size(); ++i) {
    if (!dropped(entries_[i]) || entries_[i].word[0] == 0) continue;
    writer_.store(words_locked(i), 0);
    present = true;
  }
  const bool forgotten = !present || flush_locked().has_value();
  for (u32 i = 0; i < entries_.size(); ++i) {
    if (!dropped(entries_[i])) continue;
    end_carried_locked(entries_[i]);
    entries_[i].word[0] = 0;
    entries_[i].link = nullptr;
    entries_[i].waits = false;
    if (forgotten) forget_locked(i);
  }
}

}  // namespace perdure::vtd
