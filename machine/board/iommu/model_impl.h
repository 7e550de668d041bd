// Inside of IommuModel: state, lock, and who does what.
#pragma once
#include "machine/board/iommu/device_mutex.h"
#include "machine/board/iommu/interrupt_remap.h"
#include "machine/board/iommu/invalidation_queue.h"
#include "machine/board/iommu/iommu_model.h"
#include "machine/board/iommu/outbox.h"
#include "machine/board/iommu/walker.h"

namespace perdure::board {

class IommuModel::Impl {
 public:
  Impl(const IommuModelConfig& config, PhysMemory& memory, IommuEnvironment& environment, WriteBackShadow* shadow);

  // Holds the lock; at the end news is delivered without it.
  class SCOPED_CAPABILITY Scope {
   public:
    explicit Scope(Impl& impl) ACQUIRE(impl.mutex_) : impl_(impl) { impl_.mutex_.lock(); }
    ~Scope() RELEASE() {
      Outbox news;
      news.swap(impl_.outbox_);
      impl_.mutex_.unlock();
      deliver(news, impl_.environment_);
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Impl& impl_;
  };

  // --- model_registers.cc
  u64 read_locked(u64 offset, unsigned width) REQUIRES(mutex_);
  void write_locked(u64 offset, unsigned width, u64 value) REQUIRES(mutex_);

  // --- iommu_model.cc
  Answer resolve_locked(const Request& request) REQUIRES(mutex_);
  InterruptMessage interrupt_locked(u16 source, u64 address, u32 data) REQUIRES(mutex_);
  bool idle_locked() const REQUIRES(mutex_);
  // One step of time.
  void step_locked() REQUIRES(mutex_);
  // Lets everything run that takes no time; called after each cause.
  void settle_locked() REQUIRES(mutex_);

  // --- model_snapshot.cc
  std::vector<std::byte> save_locked() const REQUIRES(mutex_);
  bool restore_locked(std::span<const std::byte> bytes) REQUIRES(mutex_);

  const IommuModelConfig config_;
  PhysMemory& memory_;
  IommuEnvironment& environment_;
  mutable DeviceMutex mutex_;

  Outbox outbox_ GUARDED_BY(mutex_);
  Checker checker_ GUARDED_BY(mutex_);
  TranslationCaches caches_ GUARDED_BY(mutex_);
  DidTracker dids_ GUARDED_BY(mutex_);
  TableReader reader_ GUARDED_BY(mutex_);
  Walker walker_ GUARDED_BY(mutex_);
  InFlightTable in_flight_ GUARDED_BY(mutex_);
  FaultLog faults_ GUARDED_BY(mutex_);
  InterruptRemap interrupts_ GUARDED_BY(mutex_);
  Flusher flusher_ GUARDED_BY(mutex_);
  InvalidationQueue queue_ GUARDED_BY(mutex_);
  SeededRandom delays_ GUARDED_BY(mutex_);

  std::vector<DmaGap> gaps_ GUARDED_BY(mutex_);
  u64 translations_ GUARDED_BY(mutex_) = 0;
  u64 untranslated_ GUARDED_BY(mutex_) = 0;
  u64 blocked_ GUARDED_BY(mutex_) = 0;
  u64 faults_recorded_ GUARDED_BY(mutex_) = 0;
  u64 faults_dropped_ GUARDED_BY(mutex_) = 0;

 private:
  // Something that was asked for and takes its time.
  struct Command {
    bool pending = false;
    u32 countdown = 0;
  };
  bool immediate() const { return config_.delay.max_steps == 0; }
  u32 draw_delay() REQUIRES(mutex_) { return delays_.between(config_.delay.min_steps, config_.delay.max_steps); }
  void start(Command& command) REQUIRES(mutex_) { command = {true, draw_delay()}; }
  // Of a step: true when it is the command's turn.
  static bool due(Command& command) {
    if (!command.pending) return false;
    if (command.countdown != 0) {
      --command.countdown;
      return false;
    }
    return true;
  }
  bool scalable_tables() const REQUIRES(mutex_) { return root_.latched && root_.ttm == 1; }
  bool in_protected_memory(u64 phys, u64 length) const REQUIRES(mutex_);

  u32 read32(u64 offset) REQUIRES(mutex_);
  void write32(u64 offset, u32 value) REQUIRES(mutex_);
  u64 read64(u64 offset) REQUIRES(mutex_);
  // The bits of `written` come from a store of this register, or of half of it.
  void write64(u64 offset, u64 value, u64 written) REQUIRES(mutex_);
  void write_gcmd(u32 value) REQUIRES(mutex_);
  void finish_gcmd() REQUIRES(mutex_);
  void set_root() REQUIRES(mutex_);
  void set_interrupt_table() REQUIRES(mutex_);
  void set_remapping(bool on) REQUIRES(mutex_);
  void set_translation(bool on) REQUIRES(mutex_);
  void start_context_flush() REQUIRES(mutex_);
  void finish_context_flush() REQUIRES(mutex_);
  void start_iotlb_flush() REQUIRES(mutex_);
  // Flushes, if it is still to be done, and completes once drained.
  bool finish_iotlb_flush() REQUIRES(mutex_);

  u32 status_ GUARDED_BY(mutex_) = 0;      // GSTS
  u32 gcmd_value_ GUARDED_BY(mutex_) = 0;  // of the pending command
  Command gcmd_ GUARDED_BY(mutex_);
  u64 rtaddr_ GUARDED_BY(mutex_) = 0;    // as written
  RootPointer root_ GUARDED_BY(mutex_);  // as latched
  u64 irta_ GUARDED_BY(mutex_) = 0;
  u64 ccmd_ GUARDED_BY(mutex_) = 0;
  Command context_flush_ GUARDED_BY(mutex_);
  u64 iva_ GUARDED_BY(mutex_) = 0;
  u64 iotlb_ GUARDED_BY(mutex_) = 0;
  Command iotlb_flush_ GUARDED_BY(mutex_);
  bool iotlb_flushed_ GUARDED_BY(mutex_) = false;
  Flusher::Drain iotlb_drain_ GUARDED_BY(mutex_);
  Command queue_turn_ GUARDED_BY(mutex_);  // the next descriptor or wait
  u32 pmen_ GUARDED_BY(mutex_) = 0;
  u32 plm_base_ GUARDED_BY(mutex_) = 0;
  u32 plm_limit_ GUARDED_BY(mutex_) = 0;
  u64 phm_base_ GUARDED_BY(mutex_) = 0;
  u64 phm_limit_ GUARDED_BY(mutex_) = 0;
};

}  // namespace perdure::board
