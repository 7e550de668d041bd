// One PCI function and some memory, for tests of drivers whose devices the board does not have. Registers are what a
// test makes of them; time passes when somebody waits or looks at the clock.
#pragma once
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "client/vfio_device.h"
#include "core/uapi/vfio.h"
#include "scenarios/drivers/bus_master.h"

namespace perdure::scenarios::testing {

class FakeDevice : public client::Syscalls {
 public:
  static constexpr u64 kIova = 0x9000'0000;

  explicit FakeDevice(u64 memory_bytes) : memory_(memory_bytes / 8) {}
  virtual ~FakeDevice() = default;

  // Of BAR 0.
  virtual u32 read_register(u64 offset) = 0;
  virtual void write_register(u64 offset, u32 value) = 0;

  DmaArea area(u64 offset, u64 bytes) {
    return {reinterpret_cast<std::byte*>(memory_.data()) + offset, kIova + offset, bytes};
  }
  std::byte* at(u64 iova) {
    EXPECT_GE(iova, kIova);
    EXPECT_LT(iova - kIova, memory_.size() * 8);
    return reinterpret_cast<std::byte*>(memory_.data()) + (iova - kIova);
  }
  bool bus_master() const { return (pci_command & 4) != 0; }

  u16 pci_command = 0;
  u16 pci_status = 0;
  u64 clock_ns = 1'000'000'000;

  // --- Syscalls ------------------------------------------------------------------------------------------------------
  Result<s32> open(std::string_view) override { return 3; }
  Result<void> close(s32) override { return {}; }
  Result<u64> ioctl(s32, u32 cmd, void* arg) override {
    EXPECT_EQ(cmd, uapi::kVfioDeviceGetRegionInfo);
    auto* const info = static_cast<uapi::VfioRegionInfo*>(arg);
    info->offset = u64{info->index} << 40;
    info->size = u64{1} << 20;
    return u64{0};
  }
  Result<usize> pread(s32, void* to, usize bytes, u64 pos) override {
    clock_ns += 500;
    u64 value = 0;
    if (pos >> 40 == uapi::vfio_region::kConfig) {
      value = (pos & 0xFFF) == 4 ? pci_command : pci_status;
    } else {
      EXPECT_EQ(bytes, 4U) << "registers are 4 bytes wide";
      value = read_register(pos);
    }
    std::memcpy(to, &value, bytes);
    return bytes;
  }
  Result<usize> pwrite(s32, const void* from, usize bytes, u64 pos) override {
    u64 value = 0;
    std::memcpy(&value, from, bytes);
    if (pos >> 40 == uapi::vfio_region::kConfig) {
      pci_command = static_cast<u16>(value);
    } else {
      EXPECT_EQ(bytes, 4U) << "registers are 4 bytes wide";
      write_register(pos, static_cast<u32>(value));
    }
    return bytes;
  }
  Result<s32> memfd_create(std::string_view) override { return fail(Errno::Eopnotsupp); }
  Result<void> ftruncate(s32, u64) override { return fail(Errno::Eopnotsupp); }
  Result<u64> file_size(s32) override { return fail(Errno::Eopnotsupp); }
  Result<void> add_seals(s32, u32) override { return fail(Errno::Eopnotsupp); }
  Result<u32> seals(s32) override { return fail(Errno::Eopnotsupp); }
  Result<u64> memory_id(s32) override { return fail(Errno::Eopnotsupp); }
  Result<std::byte*> mmap(s32, u64, u64) override { return fail(Errno::Eopnotsupp); }
  Result<void> munmap(std::byte*, u64) override { return fail(Errno::Eopnotsupp); }
  Result<s32> eventfd() override { return fail(Errno::Eopnotsupp); }
  Result<u64> eventfd_read(s32) override { return fail(Errno::Eopnotsupp); }
  u64 now_ns() override { return clock_ns += 100; }
  void pause() override { clock_ns += 1'000'000; }
  Result<void> kexec_load(std::string_view) override { return fail(Errno::Eopnotsupp); }
  Result<void> kexec() override { return fail(Errno::Eopnotsupp); }

 private:
  std::vector<u64> memory_;
};

// A witness of nothing: what drivers find wrong they say themselves.
struct Deaf final : Witness {
  void intend(const Intended&) override {}
  void problem(std::string_view, Errno) override {}
};

}  // namespace perdure::scenarios::testing
