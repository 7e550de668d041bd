#include "core/vfio/interrupts.h"

#include <bit>

#include "core/base/scope_guard.h"

namespace perdure::vfio {

Interrupts::~Interrupts() {
  free_targets();
}

unsigned Interrupts::vectors() const {
  unsigned n = 0;
  for (const Vector& vector : vectors_) n += vector.allocated ? 1 : 0;
  return mode_ == Mode::Msi && n > msi_usable_ ? msi_usable_ : n;
}

Result<void> Interrupts::make_vectors(unsigned count) {
  TRY(vectors_.reserve(count));
  while (vectors_.size() < count) TRY(vectors_.push_back({}));
  return {};
}

Result<void> Interrupts::reserve_entries(unsigned count) {
  InterruptRemapper* const table = remapper();
  if (!table) return {};
  irte_first_ = TRY(table->alloc(device_.aliases(), count));
  irte_count_ = count;
  return {};
}

Result<void> Interrupts::allocate(unsigned index) {
  Vector& vector = vectors_[index];
  if (vector.allocated) return {};
  // A former kernel's device may have fewer than its function has vectors.
  if (irte_count_ != 0 && index >= irte_count_) return fail(Errno::Einval);
  if (!vector.link) vector.link = TRY(heap_.make<IrqLink>());
  vector.target = TRY(heap_.machine().irq_alloc(*vector.link));
  if (irte_count_ != 0) {
    if (auto set = remapper()->set(irte_first_ + index, vector.target, *vector.link); !set) {
      heap_.machine().irq_free(vector.target);
      return set;
    }
  }
  vector.allocated = true;
  return {};
}

// The device does not send it any more. The entry goes first, so that nothing is on its way to a vector that somebody
// else may be given.
void Interrupts::release(unsigned index) {
  Vector& vector = vectors_[index];
  if (!vector.allocated) return;
  if (irte_count_ != 0) static_cast<void>(remapper()->clear(irte_first_ + index));
  heap_.machine().irq_free(vector.target);
  vector.allocated = false;
}

void Interrupts::free_targets() {
  // All entries with one flush.
  if (irte_count_ != 0) remapper()->free(irte_first_, irte_count_);
  irte_first_ = irte_count_ = 0;
  for (unsigned i = 0; i < vectors_.size(); ++i) release(i);
}

MsiTarget Interrupts::message(unsigned vector) const {
  if (irte_count_ == 0) return vectors_[vector].target;
  const MsiTarget first = remapper()->message(irte_first_);
  return {first.address, first.data + vector};
}

// MSI has one address and one run of data values for all vectors, so they are all made here; MSI-X vectors one by one,
// when they are connected.
Result<void> Interrupts::enable(Mode mode, unsigned count) {
  ScopeGuard undo([this] {
    free_targets();
    vectors_.clear();
  });
  if (mode == Mode::Msix) {
    TRY(reserve_entries(function_.msix_vectors()));
    TRY(function_.msix_enable());
    undo.dismiss();
    mode_ = mode;
    return {};
  }
  const unsigned enabled = std::bit_ceil(count);
  TRY(make_vectors(enabled));
  TRY(reserve_entries(enabled));
  for (unsigned i = 0; i < enabled; ++i) {
    TRY(allocate(i));
    if (irte_count_ != 0) continue;
    const MsiTarget& first = vectors_[0].target;
    const MsiTarget& target = vectors_[i].target;
    // What the machine gives out need not be a run; then this many vectors cannot be had.
    if (target.address != first.address || target.data != first.data + i || first.data % enabled != 0) {
      return fail(Errno::Enospc);
    }
  }
  TRY(function_.msi_enable(message(0), enabled));
  undo.dismiss();
  msi_usable_ = count;
  mode_ = mode;
  return {};
}

Result<void> Interrupts::install(unsigned index, const Ref<EventFd>& event, Vec<Ref<EventFd>>& dropped) {
  remove(index, dropped);
  Vector& vector = vectors_[index];
  TRY(allocate(index));
  vector.event = event;
  vector.link->connect(Ref<HostEvent>(&event->host()));
  taken_over_ = false;
  if (mode_ == Mode::Msix && !vector.programmed) {
    const Result<void> set = function_.msix_set(index, message(index));
    if (!set) {
      remove(index, dropped);
      return set;
    }
    vector.programmed = true;
  }
  return {};
}

void Interrupts::remove(unsigned index, Vec<Ref<EventFd>>& dropped) {
  Vector& vector = vectors_[index];
  if (!vector.event) return;
  if (mode_ == Mode::Msix) static_cast<void>(function_.msix_mask(index));
  vector.programmed = false;
  vector.link->connect(nullptr);
  // The caller made room.
  static_cast<void>(dropped.push_back(std::move(vector.event)));
  vector.event = nullptr;
  if (mode_ == Mode::Msix) release(index);
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
  taken_over_ = false;
}

void Interrupts::reprogram() {
  if (mode_ == Mode::Msi) static_cast<void>(function_.msi_enable(message(0), size()));
  for (Vector& vector : vectors_) vector.programmed = false;
  if (mode_ != Mode::Msix || !function_.msix_enable()) return;
  for (unsigned i = 0; i < vectors_.size(); ++i) {
    if (vectors_[i].event) vectors_[i].programmed = function_.msix_set(i, message(i)).has_value();
  }
}

// --- live update ------------------------------------------------------------------------------------------------

CarriedInterrupts Interrupts::state() const {
  return {static_cast<u32>(mode_), msi_usable_, irte_first_, irte_count_};
}

Result<void> Interrupts::take_over(const CarriedInterrupts& carried) {
  if (static_cast<Mode>(carried.mode) == Mode::None) return {};
  InterruptRemapper* const table = remapper();
  if (!table || carried.irte_count == 0) return fail(Errno::Enoent);
  ScopeGuard undo([this] { vectors_.clear(); });
  TRY(make_vectors(carried.irte_count));
  TRY(table->take(device_.aliases(), carried.irte_first, carried.irte_count,
                  [this](unsigned i, Owned<IrqLink> link, const MsiTarget& target) {
                    Vector& vector = vectors_[i];
                    vector.link = std::move(link);
                    vector.target = target;
                    vector.allocated = vector.programmed = true;
                  }));
  undo.dismiss();
  mode_ = static_cast<Mode>(carried.mode);
  msi_usable_ = carried.usable;
  irte_first_ = carried.irte_first;
  irte_count_ = carried.irte_count;
  taken_over_ = true;
  return {};
}

void Interrupts::hand_back() {
  if (!taken_over_) return;
  for (unsigned i = 0; i < vectors_.size(); ++i) remapper()->give_back(irte_first_ + i, std::move(vectors_[i].link));
  vectors_.clear();
  mode_ = Mode::None;
  msi_usable_ = irte_first_ = irte_count_ = 0;
  taken_over_ = false;
}

}  // namespace perdure::vfio
