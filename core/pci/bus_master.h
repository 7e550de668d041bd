// How DMA is stopped at its source, for those who know a requester only by its id.
#pragma once
#include "core/pci/source_id.h"

namespace perdure {

// By requester id, since an entry that nobody owns names nothing else. Functions that are not there count as off
// and idle. May be called with core locks up to IommuGroup held; must not allocate.
class BusMasterSwitch {
 public:
  // Clears Bus Master Enable and reads it back; false when it does not stay off.
  virtual bool off_and_verify(SourceId source) = 0;
  virtual bool is_on(SourceId source) const = 0;
  // Requests that the function issued and that are not completed yet (PCI Express Device Status).
  virtual bool transactions_pending(SourceId source) const = 0;

 protected:
  ~BusMasterSwitch() = default;
};

}  // namespace perdure
