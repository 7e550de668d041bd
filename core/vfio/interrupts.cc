#include "core/vfio/interrupts.h"

#include <bit>

#include "core/base/scope_guard.h"

namespace perdure::vfio {

void IrqLink::raise() {
  Ref<HostEvent> event;
  {
    MutexGuard guard(lock_);
    event = event_;
  }
  if (event) event->signal(1);
}

void IrqLink::connect(Ref<HostEvent> event) {
  MutexGuard guard(lock_);
  std::swap(event, event_);
}

Interrupts::~Interrupts() {
  free_targets();
}

unsigned Interrupts::vectors() const {
  unsigned n = 0;
  for (const Vector& vector : vectors_) n += vector.event ? 1 : 0;
  return n;
}

Result<void> Interrupts::make_vectors(unsigned count) {
  TRY(vectors_.reserve(count));
  while (vectors_.size() < count) TRY(vectors_.push_back({}));
  return {};
}

Result<void> Interrupts::allocate(Vector& vector) {
  if (vector.allocated) return {};
  if (!vector.link) vector.link = TRY(heap_.make<IrqLink>());
  vector.target = TRY(heap_.machine().irq_alloc(*vector.link));
  vector.allocated = true;
  return {};
}

void Interrupts::free_targets() {
  for (Vector& vector : vectors_) {
    if (vector.allocated) heap_.machine().irq_free(vector.target);
    vector.allocated = false;
  }
}

// MSI has one address and one run of data values for all vectors, so they are all made here; MSI-X vectors one by one,
// when they are connected.
Result<void> Interrupts::enable(Mode mode, unsigned count) {
  if (mode == Mode::Msix) {
    TRY(function_.msix_enable());
    mode_ = mode;
    return {};
  }
  const unsigned enabled = std::bit_ceil(count);
  TRY(make_vectors(enabled));
  ScopeGuard undo([this] {
    free_targets();
    vectors_.clear();
  });
  for (unsigned i = 0; i < enabled; ++i) {
    TRY(allocate(vectors_[i]));
    const MsiTarget& first = vectors_[0].target;
    const MsiTarget& target = vectors_[i].target;
    // What the machine gives out need not be a run; then this many vectors cannot be had.
    if (target.address != first.address || target.data != first.data + i || first.data % enabled != 0) {
      return fail(Errno::Enospc);
    }
  }
  TRY(function_.msi_enable(vectors_[0].target, enabled));
  undo.dismiss();
  msi_usable_ = count;
  mode_ = mode;
  return {};
}

Result<void> Interrupts::install(unsigned index, const Ref<EventFd>& event, Vec<Ref<EventFd>>& dropped) {
  remove(index, dropped);
  Vector& vector = vectors_[index];
  TRY(allocate(vector));
  vector.event = event;
  vector.link->connect(Ref<HostEvent>(&event->host()));
  if (mode_ == Mode::Msix) {
    const Result<void> set = function_.msix_set(index, vector.target);
    if (!set) {
      remove(index, dropped);
      return set;
    }
  }
  return {};
}

void Interrupts::remove(unsigned index, Vec<Ref<EventFd>>& dropped) {
  Vector& vector = vectors_[index];
  if (!vector.event) return;
  if (mode_ == Mode::Msix) static_cast<void>(function_.msix_mask(index));
  vector.link->connect(nullptr);
  // The caller made room.
  static_cast<void>(dropped.push_back(std::move(vector.event)));
  vector.event = nullptr;
  if (mode_ == Mode::Msix) {
    heap_.machine().irq_free(vector.target);
    vector.allocated = false;
  }
}

Result<void> Interrupts::connect(Mode mode, unsigned start, Events events, Vec<Ref<EventFd>>& dropped) {
  if (mode_ != Mode::None && mode_ != mode) return fail(Errno::Einval);
  const unsigned count = static_cast<unsigned>(events.size());
  // At most what is connected now, and again what this call connects before it fails.
  TRY(dropped.reserve(dropped.size() + vectors_.size() + 2 * usize{count} + 1));
  const bool enabling = mode_ == Mode::None;
  if (mode == Mode::Msix) {
    TRY(make_vectors(start + count));
    if (enabling) TRY(enable(mode, start + count));
  } else if (enabling) {
    TRY(enable(mode, start + count));
  } else if (start + count > msi_usable_) {
    return fail(Errno::Einval);
  }
  for (unsigned i = 0; i < count; ++i) {
    Result<void> installed;
    if (!events[i]) {
      remove(start + i, dropped);
      installed = fail(events[i].error());
    } else if (!*events[i]) {
      remove(start + i, dropped);
    } else {
      installed = install(start + i, *events[i], dropped);
    }
    if (installed) continue;
    for (unsigned k = 0; k < i; ++k) remove(start + k, dropped);
    if (enabling) disable(dropped);
    return installed;
  }
  return {};
}

Result<void> Interrupts::trigger(Mode mode, unsigned start, unsigned count, FunctionRef<bool(unsigned)> chosen) {
  if (mode_ != mode || mode == Mode::None) return fail(Errno::Einval);
  for (unsigned i = 0; i < count && start + i < vectors_.size(); ++i) {
    if (vectors_[start + i].event && chosen(i)) vectors_[start + i].event->host().signal(1);
  }
  return {};
}

void Interrupts::disable(Vec<Ref<EventFd>>& dropped) {
  // At the device first, so that nothing is sent to a target that somebody else may be given.
  if (mode_ == Mode::Msi) function_.msi_disable();
  if (mode_ == Mode::Msix) function_.msix_disable();
  for (unsigned i = 0; i < vectors_.size(); ++i) {
    if (vectors_[i].link) vectors_[i].link->connect(nullptr);
    if (vectors_[i].event) static_cast<void>(dropped.push_back(std::move(vectors_[i].event)));
  }
  free_targets();
  vectors_.clear();
  mode_ = Mode::None;
  msi_usable_ = 0;
}

void Interrupts::reprogram() {
  if (mode_ == Mode::Msi) static_cast<void>(function_.msi_enable(vectors_[0].target, size()));
  if (mode_ != Mode::Msix || !function_.msix_enable()) return;
  for (unsigned i = 0; i < vectors_.size(); ++i) {
    if (vectors_[i].event) static_cast<void>(function_.msix_set(i, vectors_[i].target));
  }
}

}  // namespace perdure::vfio
