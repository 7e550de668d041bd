// Turning a unit on from cold, and blocking one that nobody can account for.
#include <cstring>

#include "core/vtd/legacy_tables.h"
#include "core/vtd/scalable_tables.h"
#include "core/vtd/unit_log.h"
#include "core/vtd/vtd_unit.h"

namespace perdure::vtd {
namespace {

constexpr u64 kEmptyTable = 7;  // IRTA.S: the 256 entries of one page

void mask_event(RegisterFile& registers, Reg32 control) {
  registers.write(control, EventControl::Mask::value());
  registers.read(control);  // posted until read back
}

// Completion of invalidations is waited for, as they are short and their callers hold locks; the event is for nobody.
// Masked it stays, and without what the firmware or a former kernel left in it: the message would come at a vector that
// is somebody else's by now.
void silence_completion_event(RegisterFile& registers) {
  mask_event(registers, reg::kCompletionControl);
  registers.write(reg::kCompletionStatus, Ics::Iwc::value());
  registers.write(reg::kCompletionData, 0);
  registers.write(reg::kCompletionAddress, 0);
  registers.write(reg::kCompletionUpperAddress, 0);
}

}  // namespace

void VtdUnit::mask_events() {
  faults_.mask();
  silence_completion_event(registers_);
  if (Ecap::Prs::test(info_.ecap)) mask_event(registers_, reg::kPageRequestControl);
}

Result<void> VtdUnit::protected_memory_off() {
  if (!Cap::Plmr::test(info_.cap) && !Cap::Phmr::test(info_.cap)) return {};
  if (!Pmen::Prs::test(registers_.read(reg::kProtectedMemory))) return {};
  registers_.write(reg::kProtectedMemory, 0);
  const auto off = registers_.poll([&] { return !Pmen::Prs::test(registers_.read(reg::kProtectedMemory)); });
  if (!off) return fail(Errno::Etimedout);
  return {};
}

Result<Owned<VtdUnit>> VtdUnit::create(Heap& heap, Phys base, u16 segment, const UnitConfig& config) {
  Owned<VtdUnit> unit = TRY(probe(heap, base, segment, config, nullptr));
  TRY(unit->bring_up());
  return unit;
}

Result<void> VtdUnit::bring_up() {
  Machine& machine = heap_.machine();
  const u32 status = registers_.status();
  if (Global::Te::test(status)) {
    log(machine, LogLevel::Error, unit_line(info_.base) << "translates already, and nobody handed it over; left alone");
    return fail(Errno::Ebusy);
  }
  MutexGuard guard(lock_);
  tables_ =
      TRY((mode_ == TableMode::Scalable ? ScalableTables::create : LegacyTables::create)(heap_, writer_, limits_));
  const QueueMemory memory = TRY(InvalidationQueue::allocate(heap_.frames(), Ecap::Smts::test(info_.ecap)));

  const auto start = [&]() REQUIRES(lock_) -> Result<void> {
    mask_events();
    TRY(protected_memory_off());
    // The firmware's, or a former kernel's that was not asked to hand anything over.
    if (Global::Ire::test(status)) TRY(registers_.disable(Global::Ire::value()));
    if (Global::Qie::test(status)) {
      // The firmware's queue.
      TRY(registers_.poll([&] { return registers_.read(reg::kQueueHead) == registers_.read(reg::kQueueTail); }));
      TRY(registers_.disable(Global::Qie::value()));
    }
    TRY(queue_.start(memory));
    TRY(registers_.set_root(tables_->rtaddr()));
    TRY(flush_all_locked());
    if (Cap::Rwbf::test(info_.cap)) TRY(registers_.flush_write_buffer());
    if (remap_) TRY(interrupts_.start());
    if (!defer_fault_event_) faults_.arm();
    return {};
  };
  if (auto started = start(); !started) {
    log(machine, LogLevel::Error,
        unit_line(info_.base) << "does not come up: GSTS " << Hex{registers_.status()} << ", FSTS "
                              << Hex{registers_.read(reg::kFaultStatus)});
    if (!queue_.memory().base) InvalidationQueue::release(heap_.frames(), memory);
    return fail(Errno::Eio);
  }
  if (!registers_.enable(Global::Te::value())) {
    state_ = State::Abandoned;  // it may come on at any time
    log(machine, LogLevel::Error, unit_line(info_.base) << "does not start to translate");
    return fail(Errno::Eio);
  }
  state_ = State::Running;
  return {};
}

Result<void> VtdUnit::block_all(FrameAllocator& frames, Phys base, const UnitConfig& config) {
  Machine& machine = frames.machine();
  RegisterFile registers(machine, base, config.timeout_ns);
  const u64 cap = registers.read(reg::kCap);
  const u64 ecap = registers.read(reg::kEcap);
  if (!reg::places_plausible(cap, ecap, config.register_bytes)) return fail(Errno::Enodev);
  if (!registers.translating()) return fail(Errno::Einval);
  // The mode may not change while translation is on; a root without a present entry blocks in either.
  const u64 mode = Rtaddr::Ttm::in_place(registers.read(reg::kRootTable));
  const bool scalable = mode == Rtaddr::Ttm::make(static_cast<u64>(TableMode::Scalable));
  const HwWriter writer(machine, Ecap::C::test(ecap) && !scalable);
  // None of this is ever given back: the unit goes on with it.
  const Phys root = TRY(frames.alloc_zeroed(0));
  writer.write_back_page(root);
  // The PASID cache can be flushed only by a queue.
  QueueMemory memory;
  if (scalable) memory = TRY(InvalidationQueue::allocate(frames, true));

  // Messages of the former kernel must not reach this one.
  mask_event(registers, reg::kFaultControl);
  silence_completion_event(registers);
  if (Ecap::Prs::test(ecap)) mask_event(registers, reg::kPageRequestControl);

  const bool remaps = Global::Ire::test(registers.status());
  const auto blocked = [&]() -> Result<void> {
    // The page has no present interrupt entry either. What the unit remembers of the former ones can only be dropped
    // through a queue; those messages end at vectors that nobody has.
    if (remaps) TRY(registers.set_interrupt_table(root.value | kEmptyTable));
    TRY(registers.set_root(root.value | mode));
    if (Cap::Esrtps::test(cap)) return {};
    // The former kernel's queue cannot be used: who knows what its memory holds now. Flushes by register need it off.
    if (Global::Qie::test(registers.status())) {
      TRY(registers.poll([&] { return registers.read(reg::kQueueHead) == registers.read(reg::kQueueTail); }));
      TRY(registers.disable(Global::Qie::value()));
    }
    if (scalable) {
      InvalidationQueue queue(registers, writer);
      TRY(queue.start(memory));
      Batch all;
      all.add(InvalidateContext());
      all.add(InvalidatePasidCache());
      all.add(InvalidateIotlb(Drain{Cap::Drd::test(cap), Cap::Dwd::test(cap)}));
      if (remaps) all.add(InvalidateInterrupts());
      return queue.submit(all.span());
    }
    registers.write(reg::kContextCommand, Ccmd::Icc::value() | Ccmd::Cirg::make(Ccmd::kGlobal));
    TRY(registers.poll([&] { return !Ccmd::Icc::test(registers.read(reg::kContextCommand)); }));
    const Reg64 iotlb = reg::iotlb(ecap);
    registers.write(iotlb, Iotlb::Ivt::value() | Iotlb::Iirg::make(Iotlb::kGlobal) |
                               Iotlb::DrainReads::make(Cap::Drd::get(cap)) |
                               Iotlb::DrainWrites::make(Cap::Dwd::get(cap)));
    TRY(registers.poll([&] { return !Iotlb::Ivt::test(registers.read(iotlb)); }));
    return {};
  };
  if (!blocked()) {
    log(machine, LogLevel::Error,
        unit_line(base) << "does not block: GSTS " << Hex{registers.status()} << ", IQH "
                        << Hex{registers.read(reg::kQueueHead)} << ", IQT " << Hex{registers.read(reg::kQueueTail)}
                        << "; only a reset of the machine stops its devices");
    return fail(Errno::Eio);
  }
  log(machine, LogLevel::Warn, unit_line(base) << "all DMA through it is blocked now");
  return {};
}

}  // namespace perdure::vtd
