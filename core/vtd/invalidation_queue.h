// The invalidation queue: every batch ends in a wait descriptor and is complete, drained, when submit() returns. A
// unit whose queue does not answer in time is dead for good: nothing that it may have cached can be proven gone.
#pragma once
#include <span>

#include "core/base/function_ref.h"
#include "core/mem/frame_allocator.h"
#include "core/vtd/descriptors.h"
#include "core/vtd/hw_writer.h"
#include "core/vtd/register_file.h"

namespace perdure::vtd {

// Where a queue lives: 2^order contiguous pages of descriptors, and a page whose first word the wait descriptors write.
struct QueueMemory {
  Phys base;
  unsigned order = 0;
  Phys status;
  bool wide = false;  // 32-byte descriptors (IQA.DW)
};

// A batch under construction. Large enough for everything that one operation asks for.
class Batch {
 public:
  static constexpr usize kCapacity = 16;
  void add(const Descriptor& d) {
    PERDURE_ASSERT(size_ < kCapacity);
    descriptors_[size_++] = d;
  }
  bool empty() const { return size_ == 0; }
  std::span<const Descriptor> span() const { return {descriptors_, size_}; }

 private:
  Descriptor descriptors_[kCapacity];
  usize size_ = 0;
};

class InvalidationQueue {
 public:
  InvalidationQueue(RegisterFile& registers, const HwWriter& writer) : registers_(registers), writer_(writer) {}
  InvalidationQueue(const InvalidationQueue&) = delete;
  InvalidationQueue& operator=(const InvalidationQueue&) = delete;

  // Zeroed pages for a queue; Enomem with nothing taken.
  static Result<QueueMemory> allocate(FrameAllocator& frames, bool wide);
  static void release(FrameAllocator& frames, const QueueMemory& memory);

  // Turns queued invalidation on with this memory, zeroed. Translation goes on unharmed (§1). Etimedout.
  Result<void> start(const QueueMemory& memory) EXCLUDES(lock_);
  // Takes charge of a queue that a former kernel left running and empty in this memory. Eio when it is not empty.
  Result<void> take_over(const QueueMemory& memory) EXCLUDES(lock_);
  // Empty, last descriptor a wait: off. Eio or Etimedout, and the memory must not be freed then.
  Result<void> stop() EXCLUDES(lock_);

  // Everything in `batch` done and drained on return. Eio when the unit does not do it; it is dead afterwards.
  // An empty batch submits the wait alone.
  Result<void> submit(std::span<const Descriptor> batch) EXCLUDES(lock_);

  // The same, with nobody else's batch between `first` and this one.
  Result<void> submit_after(FunctionRef<Result<void>()> first, std::span<const Descriptor> batch) EXCLUDES(lock_);

  bool alive() const { return alive_.load(std::memory_order_acquire); }
  // From start() or take_over() until stop() succeeded: hardware may touch the memory, also when the queue is dead.
  bool in_use() const { return in_use_.load(std::memory_order_acquire); }
  const QueueMemory& memory() const { return memory_; }
  // As written to IQA; its width bit does not read back from every unit (§12.1, 7).
  static u64 address_register(const QueueMemory& memory);

 private:
  enum class Outcome : u8 { Done, Retry, Dead };

  unsigned shift_locked() const REQUIRES(lock_) { return memory_.wide ? 5 : 4; }
  u32 slots_locked() const REQUIRES(lock_) { return static_cast<u32>((kPageSize << memory_.order) >> shift_locked()); }
  void write_slot_locked(u32 slot, const Descriptor& d) REQUIRES(lock_);
  void ring_locked() REQUIRES(lock_);
  bool empty_locked() const REQUIRES(lock_);
  Result<void> submit_locked(std::span<const Descriptor> batch) REQUIRES(lock_);
  Outcome run_locked(std::span<const Descriptor> batch) REQUIRES(lock_);
  // Clears what FSTS says about the queue. True when a descriptor or a wait was lost.
  bool recover_locked(u32 fsts) REQUIRES(lock_);
  void die_locked(std::string_view why) REQUIRES(lock_);

  RegisterFile& registers_;
  const HwWriter writer_;
  std::atomic<bool> alive_{false};
  std::atomic<bool> in_use_{false};
  Mutex lock_{LockRank::VtdQueue};
  QueueMemory memory_;  // set by start() and take_over() alone
  u32 tail_ GUARDED_BY(lock_) = 0;
  u32 sequence_ GUARDED_BY(lock_) = 0;  // of the last wait; 0 is never a wait's
};

}  // namespace perdure::vtd
