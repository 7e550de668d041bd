// Programs' halves of a live update, one device each: a memfd, a context, a device that streams into the memory, all in
// one session. What the streams scenario does with everything at once can be done here step by step.
#pragma once
#include <optional>
#include <string>

#include "client/iommufd.h"
#include "client/live_update.h"
#include "client/memfd.h"
#include "client/vfio_device.h"
#include "scenarios/drivers/streamer.h"
#include "tests/small_machine.h"

namespace perdure::tool {

class Tenant {
 public:
  static constexpr u64 kBytes = u64{4} << 20;
  static constexpr u64 kIova = u64{4} << 30;
  static constexpr u64 kMemory = 0x10, kContext = 0x20, kDevice = 0x30, kHwpt = 0x40;

  Tenant(InProcessRig& rig, u32 index) : rig_(&rig), device_index_(index), name_("tenant-" + std::to_string(index)) {}

  const std::string& name() const { return name_; }
  board::Bdf bdf() const { return rig_->board().config().devices[device_index_].bdf; }
  process::LocalProgram& sys() const { return rig_->sys(); }

  // Says which step it was that failed.
  template <class T>
  Result<T> told(std::string_view step, Result<T> result) {
    if (!result) rig_->add_problem(name_ + ": " + std::string(step) + ": " + std::string(errno_name(result.error())));
    return result;
  }

  // Memory, context, page table, device; the device streams from now on.
  Result<void> set_up() {
    memory = TRY(told("create memory", client::Memfd::create(sys(), "guest", kBytes)));
    context = TRY(told("open context", client::Iommufd::open(sys())));
    const std::string path = "/dev/vfio/devices/vfio" + std::to_string(device_index_);
    device = TRY(told("open device", client::VfioDevice::open(sys(), path)));
    device_id = TRY(told("bind", device.bind(context)));
    TRY(told("map", map()));
    TRY(told("attach", device.attach(hwpt)));
    TRY(told("mark", context.mark_preserve(hwpt, kHwpt)));
    const u64 id = TRY(memory.id());
    TRY(rig_->board().declare(
        bdf(),
        {.iova = kIova, .length = kBytes, .host_id = id, .offset = 0, .access = board::IntentAccess::ReadWrite}));
    const scenarios::Streamer streamer = TRY(told("find streamer", scenarios::Streamer::open(device)));
    TRY(told("bus master", device.set_bus_master(true)));
    scenarios::RingPlan ring;
    ring.base = kIova;
    ring.length = kBytes;
    ring.slots = 64;
    ring.seed = 77 + device_index_;
    ring.rate = rate;
    return told("start", streamer.start(0, ring));
  }
  // A new address space with the memory in it, and a page table for it.
  Result<void> map() {
    ioas = TRY(context.ioas_alloc());
    TRY(context.map_file(ioas, memory.number(), 0, kBytes, kIova));
    hwpt = TRY(context.hwpt_alloc(device_id, ioas));
    return {};
  }

  // --- old kernel -------------------------------------------------------------------------------------------------
  Result<void> begin_session() {
    session = TRY(TRY(client::LiveUpdate::open(sys())).create_session(name_));
    return {};
  }
  Result<void> preserve() {
    TRY(begin_session());
    TRY(session.preserve(memory.number(), kMemory));
    TRY(session.preserve(context.number(), kContext));
    return session.preserve(device.number(), kDevice);
  }

  // --- new kernel -------------------------------------------------------------------------------------------------
  Result<void> retrieve_session() {
    session = TRY(TRY(client::LiveUpdate::open(sys())).retrieve_session(name_));
    return {};
  }
  Result<void> retrieve_memory() {
    memory = client::Memfd(TRY(session.retrieve(kMemory)));
    return {};
  }
  Result<void> retrieve_context() {
    context = client::Iommufd(TRY(session.retrieve(kContext)));
    return {};
  }
  Result<void> retrieve_device() {
    device = client::VfioDevice(TRY(session.retrieve(kDevice)));
    return {};
  }
  Result<void> retrieve_all() {
    TRY(retrieve_session());
    TRY(retrieve_memory());
    TRY(retrieve_context());
    return retrieve_device();
  }
  // Takes the device over and keeps its page table as it is.
  Result<void> take_over() {
    device_id = TRY(device.bind(context));
    restored = TRY(context.hwpt_restore(kHwpt));
    return {};
  }
  // Replaces the page table by one of this kernel's, in place.
  Result<void> replace() {
    TRY(map());
    TRY(device.attach(hwpt));
    return context.destroy(restored);
  }
  Result<void> come_back() {
    TRY(retrieve_all());
    TRY(take_over());
    TRY(replace());
    return session.finish();
  }

  // --- the end --------------------------------------------------------------------------------------------------
  void close() {
    session = {};
    device = {};
    context = {};
    memory = {};
  }
  // The descriptors died with the kernel: closing them would be a call into it.
  void release() {
    for (client::Fd* fd : {&session.fd(), &device.fd(), &context.fd(), &memory.fd()}) fd->release();
  }

  u64 rate = 500'000;  // transfers a second
  client::Memfd memory;
  client::Iommufd context;
  client::VfioDevice device;
  client::Session session;
  u32 device_id = 0, ioas = 0, hwpt = 0, restored = 0;

 private:
  InProcessRig* rig_;
  u32 device_index_;
  std::string name_;
};

// Whether devices reach memory, by what the board counts in the phase During.
class Traffic {
 public:
  explicit Traffic(InProcessRig& rig, u64 stretch_ns = 1'000'000) : rig_(rig), stretch_(stretch_ns) {}
  // Done and refused so far.
  std::pair<u64, u64> of(usize device) {
    const board::AuditReport report = rig_.board().audit();
    const board::PhaseResult& p = report.devices[device].in(board::Phase::During);
    return {p.done, p.refused()};
  }
  void expect_stopped(usize device) {
    const u64 before = of(device).first;
    rig_.run_for(stretch_);
    EXPECT_EQ(of(device).first, before) << "device " << device << " still reaches memory";
  }
  // Nothing refused from now on; and, since it was healthy all along, nothing lost, moved or damaged before.
  void expect_running(usize device) {
    const auto before = of(device);
    rig_.run_for(stretch_);
    const auto after = of(device);
    EXPECT_GT(after.first, before.first) << "device " << device;
    EXPECT_EQ(after.second, before.second) << "device " << device;
  }
  void expect_lost_nothing(usize device) {
    const board::AuditReport report = rig_.board().audit();
    const board::PhaseResult& p = report.devices[device].in(board::Phase::During);
    EXPECT_TRUE(p.clean()) << "device " << device << ": lost " << p.lost << ", corrupted " << p.corrupted
                           << ", duplicated " << p.duplicated << ", misdirected " << p.misdirected << ", refused "
                           << p.refused() << ", resets " << p.resets;
    for (const board::Finding& f : report.findings) {
      if (f.bdf == report.devices[device].bdf) ADD_FAILURE() << f.to_string();
    }
  }

 private:
  InProcessRig& rig_;
  u64 stretch_;
};

// Two tenants on one machine, and what tests do with them.
class TenantTest : public testing::Test {
 protected:
  static constexpr u64 kStretch = 1'000'000;

  explicit TenantTest(const RigConfig& config = machine(), u64 stretch_ns = kStretch)
      : rig(config), traffic(rig, stretch_ns), stretch(stretch_ns) {}

  static RigConfig machine() {
    RigConfig config = small_machine({.devices = 4});
    config.board.devices.resize(2);
    return config;
  }
  void SetUp() override {
    ASSERT_DONE(rig.power_on("a"));
    rig.new_program();
    for (Tenant& t : tenants) ASSERT_DONE(t.set_up());
    rig.run_for(stretch);
    rig.board().enter_phase(board::Phase::During);
  }
  void TearDown() override {
    for (Tenant& t : tenants) t.close();
  }
  void preserve_all() {
    for (Tenant& t : tenants) ASSERT_DONE(t.preserve());
  }
  // Up to the last instruction of the old kernel; `arrive` is the rest.
  void leave(std::string_view kernel) {
    ASSERT_DONE(rig.leave(kernel));
    for (Tenant& t : tenants) t.release();
  }
  void arrive() {
    ASSERT_DONE(rig.arrive());
    rig.new_program();
  }
  void jump(std::string_view kernel) {
    leave(kernel);
    arrive();
  }
  void expect_nothing_lost() {
    rig.run_for(stretch);
    for (usize i = 0; i < 2; ++i) {
      traffic.expect_running(i);
      traffic.expect_lost_nothing(i);
    }
    EXPECT_EQ(rig.board().violation_count(), 0U);
  }
  bool said(std::string_view what) {
    bool found = false;
    std::string all;
    for (const std::string& p : rig.take_problems()) {
      found = found || p.find(what) != std::string::npos;
      all += "\n  " + p;
    }
    EXPECT_TRUE(found) << "not said: " << what << ", but:" << all;
    return found;
  }

  InProcessRig rig;
  Traffic traffic;
  u64 stretch;
  Tenant tenants[2] = {Tenant(rig, 0), Tenant(rig, 1)};
};

}  // namespace perdure::tool
