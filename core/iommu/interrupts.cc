#include "core/iommu/interrupts.h"

namespace perdure {

void IrqLink::raise() {
  Ref<HostEvent> event;
  {
    MutexGuard guard(lock_);
    event = event_;
    pending_ = pending_ || (keep_ && !event);
  }
  if (event) event->signal(1);
}

void IrqLink::connect(Ref<HostEvent> event) {
  bool owed = false;
  HostEvent* const fresh = event.get();
  {
    MutexGuard guard(lock_);
    owed = pending_ && fresh;
    pending_ = keep_ = false;
    std::swap(event, event_);
  }
  // The caller's reference, or event_'s that only the caller takes away, keeps it.
  if (owed) fresh->signal(1);
}

bool IrqLink::pending() const {
  MutexGuard guard(lock_);
  return pending_;
}

}  // namespace perdure
