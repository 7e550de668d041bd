#include "core/vfio/io_events.h"

namespace perdure::vfio {

usize IoEvents::find(const Doorbell& doorbell) const {
  usize i = 0;
  while (i < events_.size() && events_[i].doorbell != doorbell) ++i;
  return i;
}

Result<void> IoEvents::add(const Doorbell& doorbell, Ref<EventFd> event) {
  if (full()) return fail(Errno::Enospc);
  return events_.push_back({doorbell, std::move(event)});
}

Ref<EventFd> IoEvents::remove(const Doorbell& doorbell) {
  const usize at = find(doorbell);
  if (at == events_.size()) return nullptr;
  Ref<EventFd> event = std::move(events_[at].event);
  events_.erase_at(at);
  return event;
}

Vec<IoEvents::Entry> IoEvents::clear() {
  Vec<Entry> all = std::move(events_);
  return all;
}

}  // namespace perdure::vfio
