// /dev/liveupdate (kho-luo §3): one opener at a time.
#pragma once
#include "core/luo/luo.h"

namespace perdure::luo {

class Device {
 public:
  explicit Device(Luo& luo) : luo_(luo) {}
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  // Ebusy: open already; Eio: what the former kernel left could not be read; Enomem; Ekilled.
  Result<Ref<File>> open();
  Luo& luo() const { return luo_; }

 private:
  friend class DeviceFile;
  Luo& luo_;
  std::atomic<bool> in_use_{false};
};

}  // namespace perdure::luo
