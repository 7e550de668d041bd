#include "machine/board/pci_watch.h"

#include <cstdio>

#include "machine/board/bridge.h"

namespace perdure::board {
namespace {

// Offsets in capabilities (PCI Express Base 6.0, 7.5.3 and 7.7; PCI AF ECN).
constexpr u16 kDeviceControl = 8;
constexpr u16 kDeviceControlBytes = 2;
constexpr u32 kInitiateReset = 1u << 15;
constexpr u16 kMsiBytes = 24;
constexpr u16 kMsixControl = 2;
constexpr u16 kMsixControlBytes = 2;

bool within(u64 at, u64 bytes, u64 start, u64 length) {
  return at >= start && at + bytes <= start + length;
}

}  // namespace

std::string WatchedWrite::to_string() const {
  char text[256];
  const std::string place = config ? "configuration" : "BAR " + std::to_string(bar);
  std::snprintf(text, sizeof text, "%s (%s): %u bytes at %s+0x%llx = 0x%llx written%s%s at %llu ns",
                target->home().to_string().c_str(), target->name().c_str(), unsigned{width}, place.c_str(),
                static_cast<unsigned long long>(offset), static_cast<unsigned long long>(value),
                target == function ? " while it is at work" : " while below it works ",
                target == function ? "" : function->home().to_string().c_str(),
                static_cast<unsigned long long>(when_ns));
  return text;
}

void PciWatch::watch(const Device& function, Stage stage) {
  const DeviceGuard guard(lock_);
  watched_[&function] = stage;
}

void PciWatch::release(const Device& function) {
  const DeviceGuard guard(lock_);
  watched_.erase(&function);
}

void PciWatch::config_written(u64 now_ns, const Device& target, u16 offset, unsigned width, u32 value) {
  judge({.when_ns = now_ns,
         .target = &target,
         .function = nullptr,
         .config = true,
         .bar = 0,
         .offset = offset,
         .width = static_cast<u8>(width),
         .value = value,
         .allowed = false});
}

void PciWatch::register_written(u64 now_ns, const Device& target, unsigned bar, u64 offset, unsigned width, u64 value) {
  judge({.when_ns = now_ns,
         .target = &target,
         .function = nullptr,
         .config = false,
         .bar = bar,
         .offset = offset,
         .width = static_cast<u8>(width),
         .value = value,
         .allowed = false});
}

// What reaches a function when its program acts on it through vfio; all else there is virtual or refused.
bool PciWatch::program_may(const WatchedWrite& w) {
  if (!w.config) return true;
  const Device& d = *w.target;
  if (within(w.offset, w.width, pci_reg::kCommand, 2)) return true;
  if (const u16 at = d.pcie_capability(); at != 0) {
    const u64 control = u64{at} + kDeviceControl;
    // The bit that starts a reset, wherever in the write it is.
    const u64 shift = 8 * (w.offset - control);
    if (within(w.offset, w.width, control, kDeviceControlBytes)) return (w.value << shift & kInitiateReset) == 0;
  }
  if (const u16 at = d.msi_capability(); at != 0 && within(w.offset, w.width, at + 2u, kMsiBytes - 2)) return true;
  const u16 msix = d.msix_capability();
  return msix != 0 && within(w.offset, w.width, u64{msix} + kMsixControl, kMsixControlBytes);
}

void PciWatch::judge(WatchedWrite write) {
  const DeviceGuard guard(lock_);
  for (const auto& [function, stage] : watched_) {
    bool concerned = function == write.target;
    for (const Device* above = function->parent(); above != nullptr; above = above->parent()) {
      concerned = concerned || above == write.target;
    }
    if (!concerned) continue;
    write.function = function;
    write.allowed = function == write.target && stage == Stage::InProgramsHands && program_may(write);
    std::vector<WatchedWrite>& list = write.allowed ? allowed_ : broken_;
    if (list.size() < kKept) list.push_back(write);
    if (!write.allowed) ++broken_count_;
    // Of a bridge once, not for every function below it.
    return;
  }
}

std::vector<WatchedWrite> PciWatch::writes() const {
  const DeviceGuard guard(lock_);
  std::vector<WatchedWrite> all = allowed_;
  all.insert(all.end(), broken_.begin(), broken_.end());
  return all;
}

std::vector<std::string> PciWatch::violations() const {
  const DeviceGuard guard(lock_);
  std::vector<std::string> all;
  all.reserve(broken_.size());
  for (const WatchedWrite& w : broken_) all.push_back(w.to_string());
  return all;
}

u64 PciWatch::violation_count() const {
  const DeviceGuard guard(lock_);
  return broken_count_;
}

void PciWatch::clear() {
  const DeviceGuard guard(lock_);
  allowed_.clear();
  broken_.clear();
  broken_count_ = 0;
}

}  // namespace perdure::board
