// Eventfds that write to a BAR when they are signalled (uapi §3.2, VFIO_DEVICE_IOEVENTFD).
#pragma once
#include "core/file/shared_memory.h"
#include "core/mem/vec.h"

namespace perdure::vfio {

// Serialised by the device's lock.
class IoEvents {
 public:
  static constexpr usize kMost = 1000;
  explicit IoEvents(Heap& heap) : events_(heap) {}

  struct Doorbell {
    u32 bar = 0;
    u32 bytes = 0;
    u64 offset = 0;
    u64 data = 0;
    bool operator==(const Doorbell&) const = default;
  };
  // Enospc: too many; Enomem.
  Result<void> add(const Doorbell& doorbell, Ref<EventFd> event);
  bool contains(const Doorbell& doorbell) const { return find(doorbell) < events_.size(); }
  // Its event, for the caller to drop; null: there is none like it.
  Ref<EventFd> remove(const Doorbell& doorbell);
  // All of them, for the caller to drop.
  struct Entry {
    Doorbell doorbell;
    Ref<EventFd> event;
  };
  Vec<Entry> clear();
  bool full() const { return events_.size() >= kMost; }
  bool empty() const { return events_.empty(); }
  // `ring` for each that was signalled since.
  template <class Ring>
  void service(Ring ring) {
    for (Entry& entry : events_) {
      if (entry.event->host().take() != 0) ring(entry.doorbell);
    }
  }

 private:
  usize find(const Doorbell& doorbell) const;
  Vec<Entry> events_;
};

}  // namespace perdure::vfio
