// The old kernel's side of a live update, and its way back when the jump fails.
#include <cstring>

#include "core/base/scope_guard.h"
#include "core/vtd/unit_log.h"
#include "core/vtd/vtd_unit.h"

namespace perdure::vtd {

Result<void> VtdUnit::each_block_locked(FunctionRef<Result<void>(Phys base, unsigned order)> visit) const {
  TRY(tables_->each_page([&](Phys page) { return visit(page, 0); }));
  TRY(visit(queue_.memory().base, queue_.memory().order));
  return visit(queue_.memory().status, 0);
}

Result<void> VtdUnit::preserve(Kho& kho) {
  MutexGuard guard(lock_);
  if (preserved_in_ || state_ != State::Running) return fail(Errno::Ebusy);
  if (!queue_.alive()) return fail(Errno::Eio);
  TRY(interrupts_.preserve(kho));
  ScopeGuard undo_interrupts([&] { interrupts_.unpreserve(kho); });
  usize done = 0;
  const auto preserved = each_block_locked([&](Phys base, unsigned order) -> Result<void> {
    TRY(kho.preserve(base, order));
    ++done;
    return {};
  });
  if (!preserved) {
    // In the same order, as far as it went.
    (void)each_block_locked([&](Phys base, unsigned order) -> Result<void> {
      if (done == 0) return fail(Errno::Enoent);
      --done;
      kho.unpreserve(base, order);
      return {};
    });
    return preserved;
  }
  undo_interrupts.dismiss();
  preserved_in_ = &kho;
  return {};
}

void VtdUnit::unpreserve(Kho& kho) {
  MutexGuard guard(lock_);
  PERDURE_ASSERT(preserved_in_ == &kho);
  (void)each_block_locked([&](Phys base, unsigned order) -> Result<void> {
    kho.unpreserve(base, order);
    return {};
  });
  interrupts_.unpreserve(kho);
  preserved_in_ = nullptr;
}

bool VtdUnit::preserved() const {
  MutexGuard guard(lock_);
  return preserved_in_ != nullptr;
}

Result<void> VtdUnit::quiesce(FunctionRef<bool(SourceId)> keep) {
  Vec<SavedEntry> leaving(heap_);
  Result<void> collected;
  each_present_entry([&](SourceId source, const EntryState&) {
    if (!collected || keep(source)) return;
    SavedEntry entry;
    entry.source = source;
    collected = leaving.push_back(entry);
  });
  TRY(collected);
  Vec<SourceId> owners(heap_);
  TRY(interrupts_.owners(owners));
  for (usize i = owners.size(); i-- > 0;) {
    if (keep(owners[i])) owners.erase_at(i);
  }

  MutexGuard guard(lock_);
  if (state_ != State::Running || !preserved_in_) return fail(Errno::Ebusy);
  if (!queue_.alive()) return fail(Errno::Eio);
  saved_ = std::move(leaving);
  for (SavedEntry& entry : saved_) {
    tables_->save(entry.source.bdf, entry);
    tables_->retract(entry.source.bdf);
  }
  const auto finish = [&]() REQUIRES(lock_) -> Result<void> {
    if (!saved_.empty()) TRY(flush_all_locked());
    for (const SavedEntry& entry : saved_) tables_->put_aside(entry.source.bdf, *preserved_in_);
    TRY(interrupts_.quiesce(owners.span()));
    // What is recorded so far is this kernel's to report; what comes now is its successor's.
    mask_events();
    faults_.drain();
    // The last thing that the queue sees is a wait, so that the next kernel can turn it off (§9.2).
    TRY(queue_.submit({}));
    return read_back_locked();
  };
  if (auto finished = finish(); !finished) {
    restore_saved_locked();
    interrupts_.resume();
    faults_.unmask();
    return finished;
  }
  state_ = State::Quiesced;
  return {};
}

// What the record will say is what hardware answers now; a difference from what this driver set would be found only by
// the next kernel, too late to refuse the jump.
Result<void> VtdUnit::read_back_locked() {
  const u32 status = registers_.status();
  const u64 rtaddr = registers_.read(reg::kRootTable);
  const u64 irta = Global::Ire::test(status) ? registers_.read(reg::kInterruptTable) : 0;
  constexpr u32 kWanted = Global::Te::value() | Global::Qie::value();
  if (rtaddr == tables_->rtaddr() && irta == interrupts_.address_register() && status != ~u32{0} &&
      (status & kWanted) == kWanted) {
    at_rest_ = {rtaddr, irta, status};
    return {};
  }
  log(heap_.machine(), LogLevel::Error,
      unit_line(info_.base) << "answers RTADDR " << Hex{rtaddr} << ", IRTA " << Hex{irta} << ", GSTS " << Hex{status}
                            << "; set were RTADDR " << Hex{tables_->rtaddr()} << ", IRTA "
                            << Hex{interrupts_.address_register()}
                            << ", translation and the queue; it cannot be handed over");
  return fail(Errno::Eio);
}

void VtdUnit::restore_saved_locked() {
  for (const SavedEntry& entry : saved_) {
    if (tables_->restore(entry.source.bdf, entry, preserved_in_)) continue;
    log(heap_.machine(), LogLevel::Error,
        unit_line(info_.base) << "the entry of " << entry.source << " cannot be put back: its DMA is blocked");
  }
  if (!saved_.empty()) {
    bool settled = true;
    if (Cap::Cm::test(info_.cap)) {
      settled = flush_all_locked().has_value();
    } else if (Cap::Rwbf::test(info_.cap)) {
      settled = registers_.flush_write_buffer().has_value();
    }
    if (!settled) {
      log(heap_.machine(), LogLevel::Error,
          unit_line(info_.base) << "entries were put back, but the unit may still hold them for not present");
    }
  }
  saved_.clear();
}

void VtdUnit::disable() {
  MutexGuard guard(lock_);
  PERDURE_ASSERT(!preserved_in_);
  if (state_ != State::Running) return;
  mask_events();
  faults_.drain();
  // The queue may be dead; translation goes off all the same, else the next kernel would find it on without an image.
  const bool off = registers_.disable(Global::Te::value()).has_value();
  // While the queue runs, and after translation: nobody sends any more.
  const bool plain = interrupts_.stop().has_value();
  const bool queue_off = queue_.stop().has_value();
  state_ = off && plain && queue_off ? State::Suspended : State::Abandoned;
  if (state_ == State::Abandoned) {
    log(heap_.machine(), LogLevel::Error,
        unit_line(info_.base) << "does not turn off: GSTS " << Hex{registers_.status()}
                              << "; the next kernel will block it");
  }
}

void VtdUnit::resume() {
  MutexGuard guard(lock_);
  switch (state_) {
    case State::Quiesced:
      restore_saved_locked();
      interrupts_.resume();
      faults_.unmask();
      state_ = State::Running;
      return;
    case State::Suspended: {
      const QueueMemory memory = queue_.memory();
      std::memset(heap_.machine().virt(memory.base), 0, kPageSize << memory.order);
      std::memset(heap_.machine().virt(memory.status), 0, kPageSize);
      const auto start = [&]() REQUIRES(lock_) -> Result<void> {
        TRY(queue_.start(memory));
        TRY(registers_.set_root(tables_->rtaddr()));
        TRY(flush_all_locked());
        if (interrupts_.set_up()) TRY(interrupts_.start());
        return registers_.enable(Global::Te::value());
      };
      state_ = State::Abandoned;
      if (!start()) {
        log(heap_.machine(), LogLevel::Error, unit_line(info_.base) << "does not come up again");
        return;
      }
      faults_.unmask();
      state_ = State::Running;
      return;
    }
    case State::Off:
    case State::Running:
    case State::Abandoned: return;
  }
}

void VtdUnit::fill_record(abi::IommuUnitRecord& record) const {
  MutexGuard guard(lock_);
  const QueueMemory& memory = queue_.memory();
  record.base = info_.base.value;
  record.type = static_cast<u32>(abi::IommuUnitType::VtD);
  record.segment = info_.segment;
  record.translation_mode = static_cast<u32>(mode_ == TableMode::Scalable ? abi::IommuTranslationMode::Scalable
                                                                          : abi::IommuTranslationMode::Legacy);
  record.did_limit = info_.did_limit;
  record.cap = info_.cap;
  record.ecap = info_.ecap;
  record.rtaddr = at_rest_.rtaddr;
  record.root = tables_->root().value;
  record.gsts = at_rest_.gsts;
  // As it was written: the width bit does not read back from every unit (§12.1, 7).
  record.iqa = InvalidationQueue::address_register(memory);
  record.queue_order = memory.order;
  record.queue_descriptor_bytes = memory.wide ? 32 : 16;
  record.status_page = memory.status.value;
  record.irta = at_rest_.irta;
  tables_->linked_tables(std::span<u64, 8>(record.context_tables));
}

}  // namespace perdure::vtd
