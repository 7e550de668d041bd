// The choke point of immutability (R46, T8): what an update has written down stays as it is until the update is taken
// back.
#pragma once
#include <atomic>

#include "core/base/platform.h"
#include "core/base/result.h"
#include "core/base/types.h"

namespace perdure {

// Of one object that an update can carry. Counted, one hold a record that says how the object is (R43); taken and given
// back under the object's lock.
class Immutability {
 public:
  // Ebusy while held. Nothing else refuses a change for that reason, and every change asks: under the lock that it
  // holds to its end, so that what is under way when a hold comes is either in the record or refused. A change that
  // reaches further down asks there, too: user API (context, address space, page table, device), then IOMMU core
  // (domain, group).
  Result<void> may_change() const {
    if (held()) return fail(Errno::Ebusy);
    return {};
  }
  // Without a lock only at the jump, when nobody changes anything any more (R37).
  bool held() const { return holds_.load(std::memory_order_acquire) != 0; }
  void hold() { holds_.fetch_add(1, std::memory_order_acq_rel); }
  void release() {
    const u32 before = holds_.fetch_sub(1, std::memory_order_acq_rel);
    PERDURE_ASSERT(before > 0);
  }

 private:
  std::atomic<u32> holds_{0};
};

}  // namespace perdure
