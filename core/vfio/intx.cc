#include "core/vfio/intx.h"

namespace perdure::vfio {

// The machine has masked the line.
void Intx::raise() {
  Ref<EventFd> event;
  {
    MutexGuard guard(lock_);
    masked_ = true;
    event = event_;
  }
  // The device's own reference outlives this: it is given up only after the line was disconnected, or by the caller of
  // set_event(), who drops it when no lock is held.
  if (event) event->host().signal(1);
}

Result<void> Intx::enable(Ref<EventFd> event, bool disabled) {
  if (!there()) return fail(Errno::Enodev);
  {
    MutexGuard guard(lock_);
    event_ = std::move(event);
    masked_ = disabled;
  }
  disabled_ = disabled;
  const Result<void> connected = machine_.line_connect(line_, *this);
  if (!connected) {
    MutexGuard guard(lock_);
    event = std::move(event_);
    event_ = nullptr;
    return connected;
  }
  on_ = true;
  if (!disabled) machine_.line_unmask(line_);
  return {};
}

Ref<EventFd> Intx::set_event(Ref<EventFd> event) {
  MutexGuard guard(lock_);
  std::swap(event, event_);
  return event;
}

void Intx::disable(Ref<EventFd>& event, Ref<EventFd>& unmask_event) {
  if (on_) machine_.line_disconnect(line_);
  on_ = false;
  unmask_event = std::move(unmask_event_);
  unmask_event_ = nullptr;
  MutexGuard guard(lock_);
  event = std::move(event_);
  event_ = nullptr;
  masked_ = false;
}

void Intx::trigger() {
  if (disabled_) return;
  Ref<EventFd> event;
  {
    MutexGuard guard(lock_);
    event = event_;
  }
  if (event) event->host().signal(1);
}

// Under no lock of its own: unmasking a line that is asserted interrupts at once.
void Intx::update_line(bool masked) {
  {
    MutexGuard guard(lock_);
    if (masked_ == masked) return;
    masked_ = masked;
  }
  masked ? machine_.line_mask(line_) : machine_.line_unmask(line_);
}

void Intx::mask() {
  update_line(true);
}

void Intx::unmask() {
  if (!disabled_) update_line(false);
}

void Intx::set_disabled(bool disabled) {
  if (disabled_ == disabled) return;
  disabled_ = disabled;
  if (on_) update_line(disabled);
}

Result<Ref<EventFd>> Intx::set_unmask_event(Ref<EventFd> event) {
  if (event && unmask_event_) return fail(Errno::Ebusy);
  std::swap(event, unmask_event_);
  return event;
}

void Intx::service() {
  if (on_ && unmask_event_ && unmask_event_->host().take() != 0) unmask();
}

}  // namespace perdure::vfio
