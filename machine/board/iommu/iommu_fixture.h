// For the tests of the register model: RAM in an array, tables built by hand, a driver of a few lines. Numbers, not the
// model's own names: a test that shared them would share their mistakes.
#pragma once
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "core/base/hw.h"
#include "machine/board/iommu/iommu_model.h"

namespace perdure::board::testing {

class FakeMemory final : public PhysMemory {
 public:
  explicit FakeMemory(u64 bytes = 8 << 20) : words_(bytes / 8) {}

  bool load64(u64 phys, u64& value) override {
    if (!is_ram(phys, 8)) return false;
    value = hw::load(&words_[phys / 8]);
    return true;
  }
  bool store32(u64 phys, u32 value) override {
    if (!is_ram(phys, 4)) return false;
    hw::store(reinterpret_cast<u32*>(words_.data()) + phys / 4, value);
    return true;
  }
  bool compare_exchange64(u64 phys, u64& expected, u64 desired) override {
    if (!is_ram(phys, 8)) return false;
    if (before_update) before_update(phys);
    return hw::compare_exchange(&words_[phys / 8], expected, desired);
  }
  bool is_ram(u64 phys, u64 bytes) const override {
    const u64 size = words_.size() * 8;
    return bytes <= size && phys <= size - bytes;
  }
  bool may_use(u64 phys, TableUse) override { return !forbidden_pages.contains(phys >> 12); }

  u64 word(u64 phys) const { return hw::load(&words_[phys / 8]); }
  u32 word32(u64 phys) const { return hw::load(reinterpret_cast<const u32*>(words_.data()) + phys / 4); }
  void set(u64 phys, u64 value) { hw::store(&words_[phys / 8], value); }

  std::set<u64> forbidden_pages;
  std::function<void(u64)> before_update;  // software that stores just before the unit does

 private:
  std::vector<u64> words_;
};

class FakeEnvironment final : public IommuEnvironment {
 public:
  struct Message {
    u64 address;
    u32 data;
    bool operator==(const Message&) const = default;
  };
  struct DeviceTlb {
    u16 source;
    u64 iova;
    u64 bytes;
    bool operator==(const DeviceTlb&) const = default;
  };

  u64 now_ns() override { return clock.fetch_add(1); }
  void msi(u64 address, u32 data) override {
    std::lock_guard guard(mutex);
    messages.push_back({address, data});
  }
  void translation_enabled(bool on, u64 when_ns) override { switches.push_back({on, when_ns}); }
  void device_tlb_invalidate(u16 source, u64 iova, u64 bytes) override { device_tlb.push_back({source, iova, bytes}); }

  std::atomic<u64> clock{1000};
  std::mutex mutex;
  std::vector<Message> messages;
  std::vector<std::pair<bool, u64>> switches;
  std::vector<DeviceTlb> device_tlb;
};

// Two functions of one bus and one of another.
inline constexpr u16 kDevice = 0x0010;
inline constexpr u16 kSibling = 0x0011;
inline constexpr u16 kOtherBus = 0x0300;

// One unit with its tables: legacy mode.
class IommuTest : public ::testing::Test {
 protected:
  static constexpr u64 kReadWrite = 3;
  static constexpr u64 kRead = 1;
  static constexpr u64 kWrite = 2;
  static constexpr u64 kQueue = 0x70'0000;
  static constexpr u64 kStatus = 0x7F'0000;

  void start(const IommuModelConfig& c = {}) {
    config = c;
    shadow = std::make_unique<WriteBackShadow>(memory);
    model = std::make_unique<IommuModel>(config, memory, environment, shadow.get());
    root = page();
  }
  // A fresh unit with its root table set and translation on.
  void start_translating(const IommuModelConfig& c = {}) {
    start(c);
    set_root(root);
    gcmd(kTe, true);
  }

  u64 page() {
    const u64 p = next_page_;
    next_page_ += 4096;
    return p;
  }
  void put(u64 phys, u64 value) {
    memory.set(phys, value);
    if (on_store) on_store(phys);
  }

  // --- tables
  u64 context_at(u16 source) {
    const u64 slot = root + (source >> 8) * 16;
    if ((memory.word(slot) & 1) == 0) put(slot, page() | 1);
    return (memory.word(slot) & ~u64{0xFFF}) + (source & 0xFF) * 16;
  }
  // tt 0; aw 1, 2, 3: 3, 4, 5 levels.
  void set_context(u16 source, u64 top, u16 did, unsigned aw = 2, u64 low_bits = 1) {
    const u64 at = context_at(source);
    put(at + 8, aw | u64{did} << 8);
    put(at, top | low_bits);
  }
  // Stores `entry` at `level` for iova, making tables above as needed.
  void set_entry(u64 top, unsigned levels, u64 iova, unsigned level, u64 entry) {
    put(entry_at(top, levels, iova, level), entry);
  }
  u64 entry_at(u64 top, unsigned levels, u64 iova, unsigned level) {
    u64 table = top;
    for (unsigned l = levels; l > level; --l) {
      const u64 slot = table + ((iova >> (12 + 9 * (l - 1))) & 0x1FF) * 8;
      if ((memory.word(slot) & 3) == 0) put(slot, page() | 3);
      table = memory.word(slot) & 0x000F'FFFF'FFFF'F000;
    }
    return table + ((iova >> (12 + 9 * (level - 1))) & 0x1FF) * 8;
  }
  void map(u64 top, u64 iova, u64 phys, u64 permission = kReadWrite, unsigned levels = 4) {
    set_entry(top, levels, iova, 1, phys | permission);
  }

  // --- registers
  static constexpr u32 kTe = u32{1} << 31, kSrtp = u32{1} << 30, kWbf = u32{1} << 27, kQie = u32{1} << 26;
  u32 gsts() { return static_cast<u32>(model->read(0x1C, 4)); }
  void gcmd(u32 bit, bool on) {
    const u32 base = gsts() & 0x96FF'FFFF;
    model->write(0x18, 4, on ? base | bit : base & ~bit);
    for (int i = 0; i < 1000 && !model->idle(); ++i) model->step();
  }
  void set_root(u64 table, u64 ttm = 0) {
    model->write(0x20, 8, table | ttm << 10);
    gcmd(kSrtp, true);
  }
  u32 fsts() { return static_cast<u32>(model->read(0x34, 4)); }
  u64 fault_low(unsigned i = 0) { return model->read(config.fro + 16 * i, 8); }
  u64 fault_high(unsigned i = 0) { return model->read(config.fro + 16 * i + 8, 8); }
  // The reason of record i; it must be valid.
  unsigned reason(unsigned i = 0) {
    EXPECT_TRUE(fault_high(i) >> 63);
    return (fault_high(i) >> 32) & 0xFF;
  }
  void clear_fault(unsigned i = 0) { model->write(config.fro + 16 * i + 12, 4, u64{1} << 31); }

  // --- queue
  void start_queue(unsigned qs = 0, bool wide = false) {
    wide_ = wide;
    model->write(0x88, 8, 0);
    model->write(0x90, 8, kQueue | (wide ? 0x800 : 0) | qs);
    gcmd(kQie, true);
    ASSERT_TRUE(gsts() & kQie);
    tail_ = 0;
    queue_bytes_ = u64{4096} << qs;
  }
  void push(u64 q0, u64 q1) {
    memory.set(kQueue + tail_, q0);
    memory.set(kQueue + tail_ + 8, q1);
    if (wide_) {
      memory.set(kQueue + tail_ + 16, 0);
      memory.set(kQueue + tail_ + 24, 0);
    }
    tail_ = (tail_ + (wide_ ? 32 : 16)) % queue_bytes_;
  }
  void ring() { model->write(0x88, 8, tail_); }
  // Submits with a wait behind; true when its status arrived.
  bool submit(std::initializer_list<std::pair<u64, u64>> descriptors) {
    const u32 cookie = ++cookie_;
    for (const auto& [q0, q1] : descriptors) push(q0, q1);
    push(u64{cookie} << 32 | 0x25, kStatus);  // wait, SW
    ring();
    for (int i = 0; i < 10000 && memory.word32(kStatus) != cookie && !model->idle(); ++i) model->step();
    return memory.word32(kStatus) == cookie;
  }
  bool flush_context_global() { return submit({{0x11, 0}}); }
  bool flush_iotlb_global() { return submit({{0xD2, 0}}); }
  bool flush_iotlb_domain(u16 did) { return submit({{0xE2 | u64{did} << 16, 0}}); }
  bool flush_pages(u16 did, u64 iova, unsigned am = 0, bool ih = false) {
    return submit({{0xF2 | u64{did} << 16, iova | (ih ? 0x40 : 0) | am}});
  }

  // --- requests
  Translation read(u16 source, u64 iova, u64 length = 8) {
    return model->translate(source, iova, length, Access::Read);
  }
  Translation write(u16 source, u64 iova, u64 length = 8) {
    return model->translate(source, iova, length, Access::Write);
  }
  u64 violations(ViolationKind kind) { return model->violation_count(kind); }
  void expect_clean() {
    for (const Violation& v : model->violations()) ADD_FAILURE() << v.to_string();
  }

  FakeMemory memory;
  FakeEnvironment environment;
  IommuModelConfig config;
  std::unique_ptr<WriteBackShadow> shadow;
  std::unique_ptr<IommuModel> model;
  u64 root = 0;
  std::function<void(u64)> on_store;  // after each store to a table

 private:
  u64 next_page_ = 0x1000;
  u64 tail_ = 0;
  u64 queue_bytes_ = 4096;
  bool wide_ = false;
  u32 cookie_ = 0;
};

}  // namespace perdure::board::testing
