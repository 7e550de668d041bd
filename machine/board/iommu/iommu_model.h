// Intel VT-d at register level: one DMA-remapping unit. Written from the facts of the architecture alone and sharing
// nothing with the driver under test (docs/architecture.md, "Independence").
//
// Threads: every function may be called from any thread; device threads call translate() while the kernel's thread
// writes registers. Interrupt messages and other news go to IommuEnvironment after the lock is released, on the
// thread that caused them.
//
// Time: commands and descriptors take config.delay steps. A step is a call of step() and, with config.step_on_access,
// every register read and translation.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/result.h"
#include "machine/board/iommu/config.h"
#include "machine/board/iommu/phys_memory.h"
#include "machine/board/iommu/translation.h"
#include "machine/board/iommu/violation.h"
#include "machine/board/iommu/write_back_shadow.h"

namespace perdure::board {

// A time during which the unit did not translate although it had done so before: DMA went to wrong places, or nowhere.
struct DmaGap {
  u64 begin_ns = 0;
  u64 end_ns = 0;     // 0 while it lasts
  u64 transfers = 0;  // that passed untranslated
};

struct IommuStatistics {
  u64 translations = 0;  // answered through a page table
  u64 untranslated = 0;
  u64 blocked = 0;
  u64 faults_recorded = 0;
  u64 faults_dropped = 0;  // overflow, collapsed, or silenced by FPD
  u64 iotlb_hits = 0;
  u64 iotlb_misses = 0;
  u64 table_reads = 0;  // words of tables read from memory
  u64 descriptors = 0;
  u64 context_entries = 0;  // cached now
  u64 iotlb_entries = 0;    // cached now
  u64 structure_entries = 0;
  u64 interrupts_remapped = 0;  // messages of devices with IRES = 1 that passed
  u64 interrupts_blocked = 0;
  u64 interrupt_entries = 0;  // cached now
};

// What is left of a device's message once the unit has seen it.
struct InterruptMessage {
  bool passes = false;
  u8 fault = 0;  // reason code, when it does not
  u64 address = 0;
  u32 data = 0;
};

class IommuModel {
 public:
  static constexpr u64 kWindow = kPageSize;  // bytes of the register window

  // `memory` and `environment` must outlive the model. `shadow` is required when some walk does not snoop
  // (config.coherent or, with config.scalable, config.scalable_coherent is false).
  IommuModel(const IommuModelConfig& config, PhysMemory& memory, IommuEnvironment& environment,
             WriteBackShadow* shadow = nullptr);
  ~IommuModel();
  IommuModel(const IommuModel&) = delete;
  IommuModel& operator=(const IommuModel&) = delete;

  const IommuModelConfig& config() const;

  // Registers; `offset` from the base of the window, `width` in bytes. A wrong width or place is a violation: the
  // read gives all ones, the write does nothing.
  u64 read(u64 offset, unsigned width);
  void write(u64 offset, unsigned width, u64 value);

  // One request of the function `source` (bus << 8 | devfn) for `length` bytes at `iova`. The answer covers at most
  // one page (4 KiB when nothing is translated, else the leaf's size): ask again for the rest.
  Translation translate(u16 source, u64 iova, u64 length, Access access, RequestType type = RequestType::Untranslated);

  // An interrupt message of the function `source`: a write of `data` to `address`, which lies in the interrupt window.
  InterruptMessage interrupt(u16 source, u64 address, u32 data);

  // Lets pending commands and descriptors advance by one step. False when nothing is pending.
  bool step();
  bool idle() const;

  // --- what the run is judged by -------------------------------------------------------------------------------
  std::vector<Violation> violations() const;  // the first 1024, in order
  u64 violation_count() const;
  u64 violation_count(ViolationKind kind) const;
  void clear_violations();
  std::vector<DmaGap> gaps() const;
  IommuStatistics statistics() const;

  // --- for tests and failure sweeps ------------------------------------------------------------------------------
  // Caches are dropped without a flush (legal at any time).
  void drop_caches();
  void set_policy(CachePolicy policy, u64 seed);
  // The queue stops at the next descriptor with IQE and this code (1..5).
  void inject_queue_error(u8 code);
  // The next device TLB invalidation of `source` is never answered: ITE.
  void inject_device_tlb_timeout(u16 source);
  // What the tables say now for a request, read from memory without using or filling any cache, without recording
  // anything: for auditors. `length` as in translate.
  Translation probe(u16 source, u64 iova, u64 length, Access access) const;

  // Registers and commands under way, without caches. restore() wants a unit of equal capabilities that is not in
  // use yet: Einval for bytes that are not a snapshot of such a unit, and nothing changed then.
  std::vector<std::byte> save() const;
  Result<void> restore(std::span<const std::byte> bytes);

 private:
  friend class InFlight;
  class Impl;

  std::unique_ptr<Impl> impl_;
};

}  // namespace perdure::board
