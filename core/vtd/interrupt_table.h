// Interrupt remapping of one unit: the table, who has which entry, and its way through a live update (hardware.md §1
// IRTA, §3.5, §6, §9.4 step 6).
//
// Messages are accepted in remappable format only (GCMD.CFI = 0): a function reaches the entries that name it and
// nothing else. Entries that are given out and not present carry their owner already, so that the table alone tells the
// next kernel which of them are taken.
#pragma once
#include "core/abi/iommu.h"
#include "core/iommu/interrupts.h"
#include "core/kho/kho.h"
#include "core/mem/vec.h"
#include "core/vtd/hw_writer.h"
#include "core/vtd/interrupt_entry.h"
#include "core/vtd/invalidation_queue.h"
#include "core/vtd/register_file.h"

namespace perdure::vtd {

// A function that a valid record says was preserved: entries that name it may be carried over.
struct InterruptOwner {
  u16 bdf = 0;
  u64 source = 0;  // InterruptEntry::source_of() its requester ids
};

class InterruptTable final : public InterruptRemapper {
 public:
  InterruptTable(Heap& heap, RegisterFile& registers, InvalidationQueue& queue, u16 segment, u64 cap, u64 ecap);
  ~InterruptTable();
  InterruptTable(const InterruptTable&) = delete;
  InterruptTable& operator=(const InterruptTable&) = delete;

  // Table set and remapping on, entries as they were before stop(). The queue runs. Enomem; Etimedout, Eio.
  Result<void> start() EXCLUDES(lock_);
  // There is a table: start() would set it again.
  bool set_up() const EXCLUDES(lock_);
  // What IRTA was set to, 0 while remapping is off.
  u64 address_register() const EXCLUDES(lock_);
  // Remapping off, while no device can send: the unit is about to be turned off, or to go on again by start().
  Result<void> stop() EXCLUDES(lock_);
  // Gives the table's memory back, unless the unit may be using it.
  void release() EXCLUDES(lock_);

  // --- InterruptRemapper --------------------------------------------------------------------------------------
  Result<u32> alloc(std::span<const SourceId> requesters, unsigned count) override EXCLUDES(lock_);
  Result<void> set(u32 index, const MsiTarget& target, const IrqLink& link) override EXCLUDES(lock_);
  Result<void> clear(u32 index) override EXCLUDES(lock_);
  void free(u32 first, unsigned count) override EXCLUDES(lock_);
  MsiTarget message(u32 first) const override { return InterruptEntry::message(first); }
  Result<void> take(std::span<const SourceId> requesters, u32 first, unsigned count,
                    FunctionRef<void(unsigned i, Owned<IrqLink> link, const MsiTarget& target)> visit) override
      EXCLUDES(lock_);
  void give_back(u32 index, Owned<IrqLink> link) override EXCLUDES(lock_);
  void drop_carried(SourceId source) override EXCLUDES(lock_);

  // --- live update, old kernel: calls are serialised by the unit's lock -----------------------------------------
  // The table's memory, when remapping is on.
  Result<void> preserve(Kho& kho) EXCLUDES(lock_);
  void unpreserve(Kho& kho) EXCLUDES(lock_);
  // Whoever has present entries, once each. Enomem.
  Result<void> owners(Vec<SourceId>& into) const EXCLUDES(lock_);
  // Entries of the functions `leaving` are not present on return, and not remembered. What is kept for vectors of
  // others that nobody listens to goes back to the machine. Undone by resume(). Eio.
  Result<void> quiesce(std::span<const SourceId> leaving) EXCLUDES(lock_);
  void resume() EXCLUDES(lock_);

  // --- live update, new kernel -----------------------------------------------------------------------------------
  // Reads the former kernel's table and makes a fresh one, with equal results at equal places for the functions of
  // `owners`; their vectors become this kernel's. Nothing of the unit is touched. Einval: the table cannot be taken
  // over; Enomem.
  Result<void> prepare(Kho& kho, const abi::IommuUnitRecord& record, std::span<const InterruptOwner> owners)
      EXCLUDES(lock_);
  // True between prepare() and move() when there was a table: [base, base + bytes) of it.
  bool former_table(Phys& base, u64& bytes) const EXCLUDES(lock_);
  // The unit moves to the fresh table, remapping being on all the time; then the former one is given back. Eio.
  Result<void> move(Kho& kho) EXCLUDES(lock_);

 private:
  // What the unit was told, and what stands behind it.
  struct Entry {
    u64 word[2] = {};  // word 0 also while quiesce() has it not present; word 1 is 0 for a free entry
    const IrqLink* link = nullptr;
    IrqLink* carried = nullptr;  // ours, until it is taken
    u16 bdf = 0;                 // whose it is, while word 1 is not 0
    bool waits = false;          // carried over, to be taken
  };
  struct Memory {
    Phys base;
    unsigned order = 0;  // pages
    usize entries() const { return (kPageSize << order) / InterruptEntry::kBytes; }
    u64 irta() const { return base.value | (order + 7); }
  };
  static constexpr unsigned kMaxOrder = 8;  // 65,536 entries

  // True for what may be a former kernel's table.
  bool sound(const Kho& kho, const Memory& memory) const;
  u64* words_locked(u32 index) const REQUIRES(lock_);
  Result<Memory> allocate(unsigned order);
  // Table pointer, then a global flush before anybody else's batch.
  Result<void> point_at_locked(const Memory& memory) REQUIRES(lock_);
  Result<void> grow_locked() REQUIRES(lock_);
  bool find_run_locked(unsigned count, u32& first) const REQUIRES(lock_);
  // After entries became present (hardware.md §6).
  Result<void> settle_locked() REQUIRES(lock_);
  // Of everything; a unit that does not remap now remembers nothing when it does again.
  Result<void> flush_locked() REQUIRES(lock_);
  void forget_locked(u32 index) REQUIRES(lock_);
  Result<void> carry_locked(u32 index, const u64 (&word)[2], std::span<const InterruptOwner> owners) REQUIRES(lock_);
  void end_carried_locked(Entry& entry) REQUIRES(lock_);

  Heap& heap_;
  RegisterFile& registers_;
  InvalidationQueue& queue_;
  const HwWriter writer_;
  const u16 segment_;
  const bool caching_mode_;
  const bool write_buffer_;

  mutable Mutex lock_{LockRank::VtdInterrupts};
  bool on_ GUARDED_BY(lock_) = false;
  bool in_use_ GUARDED_BY(lock_) = false;  // remapping is on, or may be
  bool quiesced_ GUARDED_BY(lock_) = false;
  Memory memory_ GUARDED_BY(lock_);
  Vec<Entry> entries_ GUARDED_BY(lock_);  // one for each of the table
  Kho* preserved_in_ GUARDED_BY(lock_) = nullptr;
  Memory former_ GUARDED_BY(lock_);  // between prepare() and move()
};

}  // namespace perdure::vtd
