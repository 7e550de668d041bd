// Driver of one Intel VT-d unit: cold bring-up, taking over a unit that translates, and everything in between.
//
// Lock order: lock_ (ids and tables) → the queue's lock → the command register's. No lock is held while a visitor or
// predicate of the caller runs.
#pragma once
#include "core/iommu/unit.h"
#include "core/mem/vec.h"
#include "core/vtd/capabilities.h"
#include "core/vtd/did_space.h"
#include "core/vtd/faults.h"
#include "core/vtd/interrupt_table.h"
#include "core/vtd/invalidation_queue.h"
#include "core/vtd/register_file.h"
#include "core/vtd/translation_tables.h"

namespace perdure::vtd {

// What the unit's registers do not tell.
struct UnitConfig {
  u64 register_bytes = kRegisterPage;  // of the window that the DRHD names
  u8 host_address_bits = 0;            // the DMAR's host address width
  // For a command or a batch of invalidations; what Linux gives them, too.
  u64 timeout_ns = u64{10} * 1'000'000'000;
  FaultListener* faults = nullptr;  // must outlive the unit
  TableModePolicy mode = TableModePolicy::Auto;
  StagePolicy stage = StagePolicy::SecondStage;
  // Interrupts are remapped if the unit can. A unit that is taken over goes on doing what it does, whatever this says:
  // remapping is never dropped under devices at work.
  bool interrupt_remapping = true;
  // adopt(): whose interrupt entries may be carried over.
  std::span<const InterruptOwner> interrupt_owners = {};
  // adopt(): the root table is copied and RTADDR set anew, with translation on (hardware.md §9.4, 5). Otherwise it
  // stays where the former kernel had it (R29).
  bool renew_root_table = false;
  // The fault event stays masked until arm_faults(). For a machine of several units: vectors that the devices of one
  // bring along must be taken before another's event is given one.
  bool defer_fault_event = false;
};

class VtdUnit final : public IommuUnit {
 public:
  // Cold bring-up: on return every DMA through the unit is blocked until set_entry(). Enodev: no unit answers there.
  // Ebusy: translation is already on, so that somebody's devices may be running through tables nobody handed over; it
  // was left alone, see block_all(). Eopnotsupp: no queued invalidation, no table width in common, or not the mode that
  // `config` asks for. Enomem, Eio with the unit off.
  static Result<Owned<VtdUnit>> create(Heap& heap, Phys base, u16 segment, const UnitConfig& config);

  // Takes over a unit that a former kernel left translating (hardware.md §9.3, §9.4). `record` is validated against
  // its schema; here it is compared with the hardware, and each difference is logged. Translation is never dropped. No
  // id is reserved and no entry is changed: each_present_entry() tells the IOMMU core what hardware says. The unit
  // stays in the table mode that the record names, whatever `config` prefers. Einval: the entry checks failed; nothing
  // was touched, no page was taken over. Enomem: the same. Eio: the unit did not answer while it was re-initialised; it
  // still translates, and its pages are lost on purpose.
  static Result<Owned<VtdUnit>> adopt(Heap& heap, Kho& kho, const abi::IommuUnitRecord& record,
                                      const UnitConfig& config);

  // For a unit that translates although nobody can say what: every DMA through it is blocked, without translation ever
  // being off (design §8). What it allocates stays with the unit. Eio when the unit does not prove that it forgot what
  // it had cached; Einval: it does not translate; Enodev, Enomem.
  static Result<void> block_all(FrameAllocator& frames, Phys base, const UnitConfig& config);

  ~VtdUnit() override;

  const UnitInfo& info() const override { return info_; }

  Result<u32> did_alloc() override EXCLUDES(lock_);
  Result<void> did_reserve(u64 did) override EXCLUDES(lock_);
  void did_free(u32 did) override EXCLUDES(lock_);
  bool did_taken(u64 did) const override EXCLUDES(lock_);

  // Einval besides: a foreign segment, an id that is not taken, a table that the unit cannot walk. Ebusy after
  // quiesce().
  Result<void> set_entry(SourceId source, u32 did, const pt::IoPageTable& table) override EXCLUDES(lock_);
  // Nothing happens when no entry is present and no flush is owed. Einval for a foreign segment.
  Result<void> clear_entry(SourceId source) override EXCLUDES(lock_);
  // Einval besides: an id that is not taken. Ebusy after quiesce().
  Result<void> set_dirty_tracking(u32 did, bool on) override EXCLUDES(lock_);
  EntryState read_entry(SourceId source) const override EXCLUDES(lock_);
  void each_present_entry(FunctionRef<void(SourceId source, const EntryState& state)> visit) const override
      EXCLUDES(lock_);

  Result<void> flush_pages(u32 did, Iova iova, u64 length, bool leaves_only) override;
  Result<void> flush_domain(u32 did) override;
  Result<void> flush_all() override EXCLUDES(lock_);
  Result<void> mapped_pages(u32 did, Iova iova, u64 length) override;

  // Ebusy when preserved already.
  Result<void> preserve(Kho& kho) override EXCLUDES(lock_);
  void unpreserve(Kho& kho) override EXCLUDES(lock_);
  bool preserved() const override EXCLUDES(lock_);
  Result<void> quiesce(FunctionRef<bool(SourceId)> keep) override EXCLUDES(lock_);
  void resume() override EXCLUDES(lock_);
  void disable() override EXCLUDES(lock_);
  void fill_record(abi::IommuUnitRecord& record) const override EXCLUDES(lock_);

  bool alive() const override { return queue_.alive(); }

  InterruptRemapper* interrupt_remapper() override { return interrupts_.set_up() ? &interrupts_ : nullptr; }
  // A storm of faults ends with nobody to notice: the event was masked for its sake.
  void service() override {
    if (faults_.storming()) faults_.drain();
  }

  FaultLog& faults() { return faults_; }
  void arm_faults() { faults_.arm(); }
  bool walks(const pt::Geometry& geometry) const override;
  TableMode mode() const { return mode_; }

 private:
  friend class perdure::Heap;
  enum class State : u8 {
    Off,  // translation is off, or was never on
    Running,
    Quiesced,   // ready for the jump
    Suspended,  // disable(): off, but set up to go on again
    Abandoned,  // the unit may still walk our pages, and cannot be asked
  };

  VtdUnit(Heap& heap, Phys base, u16 segment, const Capabilities& can, TableMode mode, const UnitConfig& config);

  // `recorded`, if not null, is the mode that the unit is in.
  static Result<Owned<VtdUnit>> probe(Heap& heap, Phys base, u16 segment, const UnitConfig& config,
                                      const TableMode* recorded);
  Result<void> bring_up();
  Result<void> check_registers(const abi::IommuUnitRecord& record) const;
  Result<void> take_over(Kho& kho, const abi::IommuUnitRecord& record, std::span<const InterruptOwner> owners);
  // `root`: memory for a copy of the root table; null address: it stays.
  Result<void> re_initialise_locked(Kho& kho, const QueueMemory* old_memory, const QueueMemory& memory, Phys root)
      REQUIRES(lock_);
  Result<void> renew_root_locked(Phys root) REQUIRES(lock_);
  Result<void> protected_memory_off();

  bool ours(SourceId source) const { return source.segment == info_.segment; }
  Result<void> submit(const Batch& batch) { return queue_.submit(batch.span()); }
  // After something not present became present (hardware.md §6).
  Result<void> settle_set_locked(u16 bdf, u32 did, bool new_table) REQUIRES(lock_);
  Result<void> flush_all_locked() REQUIRES(lock_);
  // Everything that has to survive the jump.
  Result<void> each_block_locked(FunctionRef<Result<void>(Phys base, unsigned order)> visit) const REQUIRES(lock_);
  void restore_saved_locked() REQUIRES(lock_);
  Result<void> read_back_locked() REQUIRES(lock_);
  void mask_events();
  void add_domain_flush(u32 did, bool first_stage, Batch& batch) const;
  void add_page_flushes(u32 did, Iova iova, u64 length, bool leaves_only, Batch& batch) const;
  // Does the id tag first-stage translations? They have flushes of their own.
  bool first_stage(u32 did) const EXCLUDES(lock_);
  void each_present_entry_locked(FunctionRef<void(u16 bdf, const EntryState& state)> visit) const REQUIRES(lock_);
  // Notes the stage of every id that a former kernel's entries use, and whether they track.
  void bind_adopted_ids_locked() REQUIRES(lock_);

  Heap& heap_;
  const Capabilities can_;
  const TableMode mode_;
  UnitInfo info_;
  RegisterFile registers_;
  const HwWriter writer_;
  const EntryLimits limits_;
  const Drain drain_;
  const bool remap_;  // interrupts, when the unit is set up anew
  const bool renew_root_;
  const bool defer_fault_event_;
  FaultLog faults_;
  InvalidationQueue queue_;
  InterruptTable interrupts_;

  mutable Mutex lock_{LockRank::VtdUnit};
  State state_ GUARDED_BY(lock_) = State::Off;
  DidSpace dids_ GUARDED_BY(lock_);
  Owned<TranslationTables> tables_ GUARDED_BY(lock_);
  Kho* preserved_in_ GUARDED_BY(lock_) = nullptr;
  Vec<SavedEntry> saved_ GUARDED_BY(lock_);  // by quiesce(), for resume()
  struct {
    u64 rtaddr = 0;
    u64 irta = 0;  // 0: interrupts are not remapped
    u32 gsts = 0;
  } at_rest_ GUARDED_BY(lock_);  // what hardware said when it was quiesced
};

}  // namespace perdure::vtd
