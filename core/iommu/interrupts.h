// Interrupts of devices as the IOMMU core has them: where one vector's messages end, and who decides which function may
// send which.
#pragma once
#include <span>

#include "core/base/function_ref.h"
#include "core/base/lock.h"
#include "core/base/machine.h"
#include "core/mem/heap.h"
#include "core/pci/source_id.h"

namespace perdure {

// One vector's messages: signals whatever event is there.
class IrqLink final : public IrqSink {
 public:
  // `keep`: of a device that went on working while kernels changed. What comes before the first connect() is kept,
  // once, as the processor would.
  explicit IrqLink(bool keep = false) : keep_(keep) {}

  void raise() override;
  // Null: nobody. What was kept is signalled to the first event, or dropped with none.
  void connect(Ref<HostEvent> event);
  // Something is kept.
  bool pending() const;

 private:
  mutable Mutex lock_{LockRank::Leaf};
  Ref<HostEvent> event_ GUARDED_BY(lock_);
  bool keep_ GUARDED_BY(lock_);
  bool pending_ GUARDED_BY(lock_) = false;
};

// Interrupt remapping of one unit: the driver's part. An entry of its table is used by one function alone; messages of
// others are blocked.
class InterruptRemapper {
 public:
  // `count` entries in a row for the function with these requester ids, its own first; none is present yet. Enospc,
  // Enomem, Eio.
  virtual Result<u32> alloc(std::span<const SourceId> requesters, unsigned count) = 0;
  // Entry → target, by which `link` is reached; present on return. A present one is replaced. `link` lives until
  // clear(). Eio.
  virtual Result<void> set(u32 index, const MsiTarget& target, const IrqLink& link) = 0;
  // Not present, and no message that it let pass is under way. Eio: it may be remembered still.
  virtual Result<void> clear(u32 index) = 0;
  // Gives entries back, clearing those that are present.
  virtual void free(u32 first, unsigned count) = 0;
  // What a device has to send to reach entry `first`; with `data` + i it reaches `first` + i.
  virtual MsiTarget message(u32 first) const = 0;

  // --- entries that a former kernel's devices go on using ---------------------------------------------------------
  // The function's entries [first, first + count), as alloc() gave them out then, pass to the caller, who calls free()
  // for them. `visit` is given each that is present. Enoent: they are not the function's, or passed already.
  virtual Result<void> take(std::span<const SourceId> requesters, u32 first, unsigned count,
                            FunctionRef<void(unsigned i, Owned<IrqLink> link, const MsiTarget& target)> visit) = 0;
  // Undoes take(): `link` of one entry, null for those that were not present, for each of them.
  virtual void give_back(u32 index, Owned<IrqLink> link) = 0;
  // The function's entries that were carried over and not taken: blocked and free.
  virtual void drop_carried(SourceId source) = 0;

 protected:
  ~InterruptRemapper() = default;
};

}  // namespace perdure
