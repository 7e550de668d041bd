#include "core/vtd/invalidation_queue.h"

#include <cstring>

#include "core/base/log.h"

namespace perdure::vtd {
namespace {

// How often a batch is submitted again after the unit refused a descriptor or dropped a wait.
constexpr unsigned kAttempts = 3;

}  // namespace

Result<QueueMemory> InvalidationQueue::allocate(FrameAllocator& frames, bool wide) {
  QueueMemory memory;
  memory.wide = wide;
  // 256 narrow or 256 wide descriptors.
  memory.order = wide ? 1 : 0;
  memory.base = TRY(frames.alloc_zeroed(memory.order));
  auto status = frames.alloc_zeroed(0);
  if (!status) {
    frames.free(memory.base, memory.order);
    return fail(status.error());
  }
  memory.status = *status;
  return memory;
}

void InvalidationQueue::release(FrameAllocator& frames, const QueueMemory& memory) {
  frames.free(memory.base, memory.order);
  frames.free(memory.status, 0);
}

u64 InvalidationQueue::address_register(const QueueMemory& memory) {
  return Iqa::Base::in_place(memory.base.value) | Iqa::Dw::make(memory.wide ? 1 : 0) | Iqa::Qs::make(memory.order);
}

Result<void> InvalidationQueue::start(const QueueMemory& memory) {
  MutexGuard guard(lock_);
  memory_ = memory;
  tail_ = 0;
  sequence_ = 0;
  for (unsigned page = 0; page < 1u << memory.order; ++page) writer_.write_back_page(memory.base + page * kPageSize);
  writer_.write_back_page(memory.status);
  // The tail survives a disable; a stale one would be executed at once (§12.1, 9).
  registers_.write(reg::kQueueTail, 0);
  registers_.write(reg::kQueueAddress, address_register(memory));
  const auto refused = [&] {
    log(registers_.machine(), LogLevel::Error,
        Line() << "vtd " << registers_.base() << ": does not take its invalidation queue: IQT "
               << Hex{registers_.read(reg::kQueueTail)} << ", IQA " << Hex{registers_.read(reg::kQueueAddress)});
    return fail(Errno::Eio);
  };
  // A unit that did not take these would run through what the former queue left behind.
  if (registers_.read(reg::kQueueTail) != 0) return refused();
  in_use_.store(true, std::memory_order_release);
  TRY(registers_.enable(Global::Qie::value()));
  // Not every unit shows the new address before it is in use (§12.1, 7). Nothing is fetched yet: the queue is empty.
  if (Iqa::Base::in_place(registers_.read(reg::kQueueAddress)) != memory.base.value) {
    if (registers_.disable(Global::Qie::value())) in_use_.store(false, std::memory_order_release);
    return refused();
  }
  alive_.store(true, std::memory_order_release);
  return {};
}

Result<void> InvalidationQueue::take_over(const QueueMemory& memory) {
  MutexGuard guard(lock_);
  memory_ = memory;
  Machine& machine = registers_.machine();
  if (!registers_.poll([&] { return registers_.read(reg::kQueueHead) == registers_.read(reg::kQueueTail); })) {
    log(machine, LogLevel::Error,
        Line() << "vtd " << registers_.base() << ": the former kernel's invalidation queue is not empty: IQH "
               << Hex{registers_.read(reg::kQueueHead)} << ", IQT " << Hex{registers_.read(reg::kQueueTail)});
    return fail(Errno::Eio);
  }
  const u64 tail = IqIndex::Offset::in_place(registers_.read(reg::kQueueTail));
  if (tail >= kPageSize << memory.order || tail % (u64{1} << shift_locked()) != 0) {
    log(machine, LogLevel::Error,
        Line() << "vtd " << registers_.base() << ": IQT " << Hex{tail} << " is outside the queue");
    return fail(Errno::Eio);
  }
  tail_ = static_cast<u32>(tail >> shift_locked());
  // Continue the former kernel's numbers, so that its last wait cannot be taken for one of ours.
  sequence_ = hw::load(machine.virt<u32>(memory.status));
  in_use_.store(true, std::memory_order_release);
  alive_.store(true, std::memory_order_release);
  return {};
}

Result<void> InvalidationQueue::stop() {
  MutexGuard guard(lock_);
  if (!alive()) return fail(Errno::Eio);
  // Disabling waits for head == tail and a wait as the last descriptor, which every submit() leaves behind.
  TRY(registers_.poll([&] { return registers_.read(reg::kQueueHead) == registers_.read(reg::kQueueTail); }));
  TRY(registers_.disable(Global::Qie::value()));
  alive_.store(false, std::memory_order_release);
  in_use_.store(false, std::memory_order_release);
  return {};
}

bool InvalidationQueue::empty_locked() const {
  return registers_.read(reg::kQueueHead) == registers_.read(reg::kQueueTail);
}

void InvalidationQueue::write_slot_locked(u32 slot, const Descriptor& d) {
  const unsigned words = memory_.wide ? 4 : 2;
  u64* at = registers_.machine().virt<u64>(memory_.base + (u64{slot} << shift_locked()));
  for (unsigned i = words; i-- > 0;) writer_.store(&at[i], i < 2 ? d.word[i] : 0);
}

void InvalidationQueue::ring_locked() {
  hw::fence();
  registers_.write(reg::kQueueTail, u64{tail_} << shift_locked());
}

Result<void> InvalidationQueue::submit(std::span<const Descriptor> batch) {
  MutexGuard guard(lock_);
  return submit_locked(batch);
}

Result<void> InvalidationQueue::submit_after(FunctionRef<Result<void>()> first, std::span<const Descriptor> batch) {
  MutexGuard guard(lock_);
  TRY(first());
  return submit_locked(batch);
}

Result<void> InvalidationQueue::submit_locked(std::span<const Descriptor> batch) {
  PERDURE_ASSERT(batch.size() + 1 < slots_locked());
  if (!alive()) return fail(Errno::Eio);
  for (unsigned attempt = 0; attempt < kAttempts; ++attempt) {
    switch (run_locked(batch)) {
      case Outcome::Done: return {};
      case Outcome::Retry: continue;
      case Outcome::Dead: return fail(Errno::Eio);
    }
  }
  die_locked("refuses the same batch again and again");
  return fail(Errno::Eio);
}

InvalidationQueue::Outcome InvalidationQueue::run_locked(std::span<const Descriptor> batch) {
  const u32* status = registers_.machine().virt<u32>(memory_.status);
  if (++sequence_ == 0) ++sequence_;
  const u32 sequence = sequence_;
  const u32 mask = slots_locked() - 1;
  for (const Descriptor& d : batch) {
    write_slot_locked(tail_, d);
    tail_ = (tail_ + 1) & mask;
  }
  write_slot_locked(tail_, Wait(memory_.status.value, sequence));
  tail_ = (tail_ + 1) & mask;
  ring_locked();

  bool lost = false;
  // Runs inside poll() below, with the lock held here.
  const auto ended = [&]() NO_THREAD_SAFETY_ANALYSIS {
    if (!lost && hw::load(status) == sequence) return true;
    const u32 fsts = registers_.read(reg::kFaultStatus);
    if (fsts == ~u32{0}) return false;  // nobody answers
    if (fsts & (Fsts::Iqe::kMask | Fsts::Ite::kMask | Fsts::Ice::kMask)) {
      if (recover_locked(fsts)) lost = true;
      return false;
    }
    // A lost batch ends when the unit has run through what is left of it.
    return lost && empty_locked();
  };
  if (!registers_.poll(ended)) {
    die_locked("does not answer");
    return Outcome::Dead;
  }
  return lost ? Outcome::Retry : Outcome::Done;
}

bool InvalidationQueue::recover_locked(u32 fsts) {
  Machine& machine = registers_.machine();
  const u64 error = registers_.read(reg::kQueueError);
  bool lost = false;
  if (Fsts::Iqe::test(fsts)) {
    const u64 offset = IqIndex::Offset::in_place(registers_.read(reg::kQueueHead));
    const u32 slot = static_cast<u32>(offset >> shift_locked()) & (slots_locked() - 1);
    const u64* at = machine.virt<u64>(memory_.base + (u64{slot} << shift_locked()));
    log(machine, LogLevel::Error,
        Line() << "vtd " << registers_.base() << ": invalidation descriptor " << slot << " refused, reason "
               << Iqercd::Iqei::get(error) << ": " << Hex{hw::load(&at[0])} << " " << Hex{hw::load(&at[1])});
    // A harmless wait in its place: its number is nobody's.
    write_slot_locked(slot, Wait(memory_.status.value, 0));
    registers_.write(reg::kFaultStatus, Fsts::Iqe::value());
    ring_locked();  // some units go on only after another write of the tail (§12.1, 10)
    lost = true;
  }
  if (Fsts::Ite::test(fsts)) {
    log(machine, LogLevel::Error,
        Line() << "vtd " << registers_.base() << ": device TLB invalidation timed out, requester "
               << Hex{Iqercd::IteSid::get(error)});
    registers_.write(reg::kFaultStatus, Fsts::Ite::value());
    lost = true;  // pending waits were dropped with it
  }
  if (Fsts::Ice::test(fsts)) {
    log(machine, LogLevel::Warn, Line() << "vtd " << registers_.base() << ": unexpected device TLB completion");
    registers_.write(reg::kFaultStatus, Fsts::Ice::value());
  }
  return lost;
}

void InvalidationQueue::die_locked(std::string_view why) {
  alive_.store(false, std::memory_order_release);
  log(registers_.machine(), LogLevel::Error,
      Line() << "vtd " << registers_.base() << ": invalidation queue " << why << ": IQH "
             << Hex{registers_.read(reg::kQueueHead)} << ", IQT " << Hex{registers_.read(reg::kQueueTail)} << ", FSTS "
             << Hex{registers_.read(reg::kFaultStatus)} << "; the unit is dead, quarantine what is behind it");
}

}  // namespace perdure::vtd
