#include "machine/process/board_steps.h"

#include <utility>

namespace perdure::process {

void BoardSteps::stored(Phys) {
  ++stores;
  if (step) board_.step();
  done();
}

bool BoardSteps::may_allocate() {
  const u64 n = ++allocations;
  if (step) board_.step();
  return n != fail_at.load();
}

bool BoardSteps::silent(Phys at) const {
  return stuck_ == at.value || dead_ == at.page();
}

u64 BoardSteps::mmio_read(Phys at, Width width) {
  const u64 n = ++accesses;
  if (witness) witness(at, false);
  if (step) board_.step();
  const u64 nobody = ~u64{0} >> (64 - 8 * static_cast<unsigned>(width));
  const auto last = [&] { return held_.contains(at.value) ? held_[at.value] : 0; };
  u64 value = nobody;
  if (n == silence_.access && !silent(at)) {
    switch (silence_.how) {
      case Silence::Stuck: stuck_ = at.value; [[fallthrough]];
      case Silence::Lost: value = last(); break;
      case Silence::Dead: dead_ = at.page(); break;
      case Silence::Ones: break;
    }
  } else if (stuck_ == at.value) {
    value = last();
  } else if (dead_ != at.page()) {
    value = board_.mmio_read(at, width);
    if (silence_.access != 0) held_[at.value] = value;
  }
  done();
  return value;
}

void BoardSteps::mmio_write(Phys at, Width width, u64 value) {
  const u64 n = ++accesses;
  if (witness) witness(at, true);
  if (step) board_.step();
  if (n == silence_.access) {
    if (silence_.how == Silence::Stuck) stuck_ = at.value;
    if (silence_.how == Silence::Dead) dead_ = at.page();
  } else if (!silent(at)) {
    board_.mmio_write(at, width, value);
  }
  done();
}

void BoardSteps::heal() {
  silence_ = {};
  stuck_.reset();
  dead_.reset();
}

void BoardSteps::stop_after(u64 deed, std::function<void()> stop) {
  stop_after_ = deed;
  stop_ = std::move(stop);
}

void BoardSteps::done() {
  if (++deeds == stop_after_) std::exchange(stop_, nullptr)();
}

}  // namespace perdure::process
