// Taking over a unit that translates: hardware.md §9.3 (entry checks) and §9.4 (live re-initialisation). Translation
// stays on throughout; what a command does not name it does not change.
#include <cstring>

#include "core/base/scope_guard.h"
#include "core/vtd/legacy_tables.h"
#include "core/vtd/scalable_tables.h"
#include "core/vtd/unit_log.h"
#include "core/vtd/vtd_unit.h"

namespace perdure::vtd {
namespace {

QueueMemory queue_of(const abi::IommuUnitRecord& record) {
  QueueMemory memory;
  memory.base = Phys(Iqa::Base::in_place(record.iqa));
  memory.order = record.queue_order;
  memory.status = Phys(record.status_page);
  memory.wide = record.queue_descriptor_bytes == 32;
  return memory;
}

// One page block of the former kernel that is about to be taken over.
bool restorable(const Kho& kho, const EntryLimits& limits, Phys base, unsigned order) {
  if (!base || (base.value & ~limits.address_mask) != 0 || order > FrameAllocator::kMaxOrder) return false;
  const u64 length = kPageSize << order;
  const auto kept = kho.incoming_order(base);
  return kho.machine().in_window(base, length) && kho.incoming_covers(base, length) && kept && *kept == order;
}

}  // namespace

Result<void> VtdUnit::check_registers(const abi::IommuUnitRecord& record) const {
  bool good = true;
  const auto expect = [&](bool holds, const Line& what) {
    if (holds) return;
    log(heap_.machine(), LogLevel::Error, unit_line(info_.base) << "not taken over: " << what.view());
    good = false;
  };
  const auto equal = [&](u64 is, u64 was, std::string_view what) {
    expect(is == was, Line() << what << " is " << Hex{is} << ", the record says " << Hex{was});
  };

  equal(info_.cap, record.cap, "CAP");
  equal(info_.ecap, record.ecap, "ECAP");
  equal(info_.did_limit, record.did_limit, "the number of domain ids");

  const u32 status = registers_.status();
  expect(Global::Te::test(status), Line() << "translation is off: GSTS " << Hex{status});
  expect(Global::Srtp::test(status), Line() << "no root table is set: GSTS " << Hex{status});
  equal(status & Global::kEnables, record.gsts & Global::kEnables, "the set of enables in GSTS");

  const u64 rtaddr = registers_.read(reg::kRootTable);
  equal(rtaddr, record.rtaddr, "RTADDR");
  equal(Rtaddr::Base::in_place(rtaddr), record.root, "the root table");
  // The mode may never change while translation is on (§1), so this kernel goes on in it.
  expect(Rtaddr::Ttm::get(rtaddr) == static_cast<u64>(mode_),
         Line() << "table mode is " << Rtaddr::Ttm::get(rtaddr) << ", the record says " << static_cast<u32>(mode_));

  // Lost fault records (PFO) are no reason to refuse: a device that faults often enough could otherwise stop the update
  // of all others. They are reported when the records are drained.
  const u32 fsts = registers_.read(reg::kFaultStatus);
  expect((fsts & (Fsts::Iqe::kMask | Fsts::Ite::kMask | Fsts::Ice::kMask)) == 0,
         Line() << "its invalidation queue is in error: FSTS " << Hex{fsts});

  if (Global::Qie::test(status)) {
    const u64 iqa = registers_.read(reg::kQueueAddress);
    const bool wide = record.queue_descriptor_bytes == 32;
    equal(Iqa::Base::in_place(iqa), Iqa::Base::in_place(record.iqa), "the invalidation queue");
    equal(Iqa::Qs::get(iqa), record.queue_order, "the invalidation queue's size");
    equal(record.iqa, InvalidationQueue::address_register(queue_of(record)), "the record's IQA");
    expect(wide || record.queue_descriptor_bytes == 16,
           Line() << "descriptors of " << record.queue_descriptor_bytes << " bytes");
    // Not every unit lets its width bit be read (§12.1, 7): set, it must be right; clear, it proves nothing.
    expect(wide || !Iqa::Dw::test(iqa), Line() << "descriptors are wide, the record says narrow");
    const QueueMemory memory = queue_of(record);
    expect(registers_.read(reg::kQueueTail) < kPageSize << memory.order,
           Line() << "IQT " << Hex{registers_.read(reg::kQueueTail)} << " is beyond the queue");
  }
  if (Global::Ire::test(status)) equal(registers_.read(reg::kInterruptTable), record.irta, "IRTA");
  return good ? Result<void>() : fail(Errno::Einval);
}

Result<Owned<VtdUnit>> VtdUnit::adopt(Heap& heap, Kho& kho, const abi::IommuUnitRecord& record,
                                      const UnitConfig& config) {
  if (record.type != static_cast<u32>(abi::IommuUnitType::VtD)) return fail(Errno::Einval);
  TableMode mode = TableMode::Legacy;
  switch (static_cast<abi::IommuTranslationMode>(record.translation_mode)) {
    case abi::IommuTranslationMode::Legacy: break;
    case abi::IommuTranslationMode::Scalable: mode = TableMode::Scalable; break;
    default:
      log(heap.machine(), LogLevel::Error,
          unit_line(Phys(record.base)) << "not taken over: table mode " << record.translation_mode
                                       << " is not one that this kernel drives");
      return fail(Errno::Einval);
  }
  auto probed = probe(heap, Phys(record.base), static_cast<u16>(record.segment), config, &mode);
  // A mode that the hardware there does not have is a record that is wrong.
  if (!probed) return fail(probed.error() == Errno::Eopnotsupp ? Errno::Einval : probed.error());
  Owned<VtdUnit> unit = std::move(*probed);
  TRY(unit->check_registers(record));
  TRY(unit->take_over(kho, record, config.interrupt_owners));
  return unit;
}

Result<void> VtdUnit::take_over(Kho& kho, const abi::IommuUnitRecord& record, std::span<const InterruptOwner> owners) {
  MutexGuard guard(lock_);
  const u32 status = registers_.status();
  const bool has_queue = Global::Qie::test(status);
  const QueueMemory old_memory = has_queue ? queue_of(record) : QueueMemory();
  if (has_queue &&
      (!restorable(kho, limits_, old_memory.base, old_memory.order) ||
       !restorable(kho, limits_, old_memory.status, 0) ||
       ranges_overlap(old_memory.status.value, kPageSize, old_memory.base.value, kPageSize << old_memory.order))) {
    log(heap_.machine(), LogLevel::Error,
        unit_line(info_.base) << "not taken over: its invalidation queue at " << old_memory.base
                              << " or status page at " << old_memory.status << " is not in preserved memory");
    return fail(Errno::Einval);
  }

  // Everything that can fail for want of memory comes before anything is touched.
  const QueueMemory memory = TRY(InvalidationQueue::allocate(heap_.frames(), Ecap::Smts::test(info_.ecap)));
  ScopeGuard free_memory([&] { InvalidationQueue::release(heap_.frames(), memory); });
  const Phys root = renew_root_ ? TRY(heap_.frames().alloc_zeroed(0)) : Phys();
  ScopeGuard free_root([&] {
    if (root) heap_.frames().free(root, 0);
  });
  if (Global::Ire::test(status)) TRY(interrupts_.prepare(kho, record, owners));
  Handover from{Phys(record.root), record.context_tables, old_memory, info_.base, info_.segment};
  tables_ = TRY(
      (mode_ == TableMode::Scalable ? ScalableTables::adopt : LegacyTables::adopt)(heap_, kho, writer_, limits_, from));
  bind_adopted_ids_locked();

  // From here on the unit is ours: what goes wrong leaves it as it is, and its memory with it.
  state_ = State::Abandoned;
  free_memory.dismiss();
  free_root.dismiss();
  if (auto done = re_initialise_locked(kho, has_queue ? &old_memory : nullptr, memory, root); !done) {
    log(heap_.machine(), LogLevel::Error,
        unit_line(info_.base) << "translates, but cannot be driven (" << done.error() << "): GSTS "
                              << Hex{registers_.status()} << ", IQH " << Hex{registers_.read(reg::kQueueHead)}
                              << ", IQT " << Hex{registers_.read(reg::kQueueTail)} << "; quarantine what is behind it");
    return fail(Errno::Eio);
  }
  state_ = State::Running;
  return {};
}

Result<void> VtdUnit::re_initialise_locked(Kho& kho, const QueueMemory* old_memory, const QueueMemory& memory,
                                           Phys root) {
  // Before anything else: what a former kernel left armed would come at vectors that are this one's.
  mask_events();
  if (old_memory) {
    TRY(kho.restore(old_memory->base, old_memory->order));
    TRY(kho.restore(old_memory->status, 0));
    InvalidationQueue old(registers_, writer_);
    TRY(old.take_over(*old_memory));
    // The queue can be turned off only behind a wait. The record says that one is there; this one certainly is.
    TRY(old.submit({}));
    TRY(old.stop());
  }
  TRY(queue_.start(memory));
  // Not demanded, but it ends all doubt about flushes that the former kernel may have owed; it costs only refills.
  TRY(flush_all_locked());
  if (old_memory) InvalidationQueue::release(heap_.frames(), *old_memory);
  // Again, now that the former queue is off: its last waits may have asked for an event.
  mask_events();
  if (!defer_fault_event_) faults_.arm();
  if (root) TRY(renew_root_locked(root));
  if (interrupts_.set_up()) return interrupts_.move(kho);
  return remap_ ? interrupts_.start() : Result<void>();
}

Result<void> VtdUnit::renew_root_locked(Phys root) {
  const Phys former = tables_->root();
  std::memcpy(heap_.machine().virt(root), heap_.machine().virt(former), kPageSize);
  writer_.write_back_page(root);
  hw::fence();
  tables_->set_root(root);
  TRY(registers_.set_root(tables_->rtaddr()));
  // Only then is nothing read from the former one any more.
  TRY(flush_all_locked());
  if (Cap::Rwbf::test(info_.cap)) TRY(registers_.flush_write_buffer());
  heap_.frames().free(former, 0);
  return {};
}

}  // namespace perdure::vtd
