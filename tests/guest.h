// A program with one device, made to be driven at random: it knows what each of its calls must answer in the state that
// it is in, and the board's ledger knows what its device must find.
#pragma once
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "client/iommufd.h"
#include "client/live_update.h"
#include "client/memfd.h"
#include "client/vfio_device.h"
#include "scenarios/drivers/streamer.h"
#include "scenarios/streams.h"
#include "tests/small_machine.h"

namespace perdure::tool {

class Guest {
 public:
  enum class State : u8 {
    Absent,
    Up,
    Held,  // in a session that nobody retrieved in this kernel
  };

  Guest(InProcessRig& rig, u32 device) : rig_(&rig), index_(device) {}

  State state() const { return state_; }
  bool preserved() const { return preserved_; }
  // Has an address space: its own, or one that was adopted; without one, the page table is as the former kernel left
  // it.
  bool can_map() const { return state_ == State::Up && ioas_ != 0; }
  std::string name() const { return "guest-" + std::to_string(index_); }

  // --- a life ----------------------------------------------------------------------------------------------------
  void set_up() {
    memory_ = must("create memory", client::Memfd::create(sys(), "guest", kBytes));
    context_ = must("open /dev/iommu", client::Iommufd::open(sys()));
    device_ = must("open device", client::VfioDevice::open(sys(), "/dev/vfio/devices/vfio" + std::to_string(index_)));
    device_id_ = must("bind", device_.bind(context_));
    ioas_ = must("allocate address space", context_.ioas_alloc());
    areas_.clear();
    state_ = State::Up;
    preserved_ = false;
    must("map", context_.map_file(ioas_, memory_.number(), 0, kBase.length, kBase.iova));
    areas_.push_back(kBase);
    declare(kBase);
    hwpt_ = allocate_page_table();
    must("attach", device_.attach(hwpt_));
    must("mark", context_.mark_preserve(hwpt_, kHwpt));
    must("bus master", device_.set_bus_master(true));
    start();
  }
  // In the order in which programs end.
  void close() {
    if (state_ != State::Up) return;
    stop();
    session_ = {};
    device_ = {};
    context_ = {};
    memory_ = {};
    gone();
  }

  // --- before a jump -----------------------------------------------------------------------------------------------
  void preserve() {
    const client::LiveUpdate lu = must("open /dev/liveupdate", client::LiveUpdate::open(sys()));
    session_ = must("create session", lu.create_session(name()));
    must("preserve memory", session_.preserve(memory_.number(), kMemory));
    must("preserve context", session_.preserve(context_.number(), kContext));
    must("preserve device", session_.preserve(device_.number(), kDevice));
    preserved_ = true;
  }
  void unpreserve() {
    session_ = {};
    preserved_ = false;
  }
  // Not preserved: its device must be quiet when the kernel goes.
  void give_up() {
    if (state_ == State::Up && !preserved_) stop();
  }
  // The kernel did not go.
  void carry_on() {
    if (state_ == State::Up && !preserved_) start();
  }
  // The kernel is gone; descriptors with it.
  void jumped() {
    for (client::Fd* fd : {&session_.fd(), &device_.fd(), &context_.fd(), &memory_.fd()}) fd->release();
    if (state_ != State::Up) return;
    if (preserved_) {
      state_ = State::Held;
    } else {
      gone();
    }
  }

  // --- after it ------------------------------------------------------------------------------------------------------
  void come_back(scenarios::Take take) {
    const client::LiveUpdate lu = must("open /dev/liveupdate", client::LiveUpdate::open(sys()));
    session_ = must("retrieve session", lu.retrieve_session(name()));
    memory_ = client::Memfd(must("retrieve memory", session_.retrieve(kMemory)));
    context_ = client::Iommufd(must("retrieve context", session_.retrieve(kContext)));
    device_ = client::VfioDevice(must("retrieve device", session_.retrieve(kDevice)));
    device_id_ = must("bind retrieved device", device_.bind(context_));
    ioas_ = 0;
    state_ = State::Up;
    preserved_ = false;
    if (take == scenarios::Take::Adopt) {
      const client::Iommufd::Adopted adopted = must("adopt page table", context_.hwpt_adopt(kHwpt));
      hwpt_ = adopted.hwpt;
      ioas_ = adopted.ioas;
    } else {
      hwpt_ = must("reclaim page table", context_.hwpt_restore(kHwpt));
    }
    if (take == scenarios::Take::Replace) {
      ioas_ = must("allocate address space", context_.ioas_alloc());
      for (const Area& a : areas_) {
        must("map again", context_.map_file(ioas_, memory_.number(), a.offset, a.length, a.iova));
      }
      replace();  // under the running device
    }
    must("finish", session_.finish());
    session_ = {};
    if (take != scenarios::Take::Replace) must("mark", context_.mark_preserve(hwpt_, kHwpt));
  }

  // --- things that programs do, with what must come of them ---------------------------------------------------------
  void map(u64 page, u64 pages, u64 from_page) {
    if (!can_map()) return;
    const Area a{kOthers + page * kPageSize, pages * kPageSize, from_page % (kBytes / kPageSize - pages) * kPageSize};
    const bool taken =
        std::ranges::any_of(areas_, [&](const Area& b) { return ranges_overlap(a.iova, a.length, b.iova, b.length); });
    const auto done = context_.map_file(ioas_, memory_.number(), a.offset, a.length, a.iova);
    if (preserved_) return refused("map while preserved", done, Errno::Ebusy);
    if (taken) return refused("map twice", done, Errno::Eexist);
    must("map", done);
    areas_.push_back(a);
    declare(a);
  }
  void unmap(u64 which) {
    if (!can_map()) return;
    if (preserved_)
      return refused("unmap while preserved", context_.unmap(ioas_, kBase.iova, kBase.length), Errno::Ebusy);
    if (areas_.size() < 2) return;
    const usize i = 1 + which % (areas_.size() - 1);
    EXPECT_EQ(must("unmap", context_.unmap(ioas_, areas_[i].iova, areas_[i].length)), areas_[i].length) << name();
    withdraw(areas_[i]);
    areas_.erase(areas_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  void detach_and_attach() {
    if (!can_map()) return;
    if (preserved_) return refused("detach while preserved", device_.detach(), Errno::Ebusy);
    stop();
    must("detach", device_.detach());
    must("attach", device_.attach(hwpt_));
    start();
  }
  // Between two tables of this kernel an entry goes through not present; only a former kernel's is replaced without a
  // gap.
  void change_page_tables() {
    if (!can_map()) return;
    if (preserved_) return refused("attach while preserved", device_.attach(hwpt_), Errno::Ebusy);
    stop();
    replace();
    start();
  }
  // Dirty tracking on, off, or what was written.
  void watch_writes(u64 how) {
    u64 bits[kBase.length / kPageSize / 64] = {};
    const Result<void> done = how < 2
                                  ? context_.track_dirty(hwpt_, how == 0)
                                  : context_.dirty_bitmap(hwpt_, kBase.iova, kBase.length, kPageSize, bits, how == 2);
    if (preserved_) return refused("track while preserved", done, Errno::Ebusy);
    if (!can_map()) return refused("track what a former kernel left", done, Errno::Einval);
    if (!can_track_) return refused("track without the unit", done, Errno::Eopnotsupp);
    must("track", done);
    if (how < 2) tracks_ = how == 0;
    if (how != 2 || !tracks_) return;
    // The device goes on, and so do its marks, whatever happened to entries and tables since it was turned on.
    rig_->run_for(400'000);
    std::ranges::fill(bits, 0);
    must("track", context_.dirty_bitmap(hwpt_, kBase.iova, kBase.length, kPageSize, bits));
    EXPECT_TRUE(std::ranges::any_of(bits, [](u64 word) { return word != 0; })) << name() << ": writes without a mark";
  }
  void mark() { refused("mark again", context_.mark_preserve(hwpt_, kHwpt), Errno::Ebusy); }
  void restart() {
    stop();
    start();
  }
  // A device before what it depends on; a second session over a first.
  void preserve_wrongly() {
    const client::LiveUpdate lu = must("open /dev/liveupdate", client::LiveUpdate::open(sys()));
    if (preserved_) return refused("session of the same name", lu.create_session(name()), Errno::Eexist);
    const client::Session other = must("create another session", lu.create_session(name() + "-other"));
    refused("device before its context", other.preserve(device_.number(), kDevice), Errno::Enoent);
    refused("context before its memory", other.preserve(context_.number(), kContext), Errno::Enoent);
    must("memory alone", other.preserve(memory_.number(), kMemory));
    refused("token twice", other.preserve(context_.number(), kMemory), Errno::Eexist);
  }

 private:
  struct Area {
    u64 iova;
    u64 length;
    u64 offset;
  };
  static constexpr u64 kBytes = u64{4} << 20;
  static constexpr Area kBase{u64{4} << 30, u64{1} << 20, 0};  // where the device streams
  static constexpr u64 kOthers = u64{8} << 30;
  static constexpr u64 kMemory = 0x10, kContext = 0x20, kDevice = 0x30, kHwpt = 0x40;

  process::LocalProgram& sys() const { return rig_->sys(); }
  board::Bdf bdf() const { return rig_->board().config().devices[index_].bdf; }

  // GoogleTest reports what is thrown, and nothing is made of a state that nobody expected.
  template <class T>
  T must(const char* what, Result<T> result) {
    if (!result) {
      throw std::runtime_error(name() + ": " + what + ": " + std::string(errno_name(result.error())) +
                               problems_of(*rig_));
    }
    if constexpr (!std::is_void_v<T>) return std::move(*result);
  }
  template <class T>
  void refused(const char* what, const Result<T>& result, Errno why) {
    ASSERT_FALSE(result.has_value()) << name() << ": " << what;
    EXPECT_EQ(result.error(), why) << name() << ": " << what << ": " << errno_name(result.error());
  }

  // One that can be tracked, where the unit can do that.
  u32 allocate_page_table() {
    const Result<u32> tracking = context_.hwpt_alloc_tracking(device_id_, ioas_);
    can_track_ = tracking.has_value();
    tracks_ = false;
    if (can_track_) return *tracking;
    refused("allocate page table for tracking", tracking, Errno::Eopnotsupp);
    return must("allocate page table", context_.hwpt_alloc(device_id_, ioas_));
  }
  // Another page table of the same address space.
  void replace() {
    const u32 next = allocate_page_table();
    must("replace", device_.attach(next));
    must("destroy the former page table", context_.destroy(hwpt_));
    hwpt_ = next;
    must("mark", context_.mark_preserve(hwpt_, kHwpt));
  }
  void declare(const Area& a) {
    const u64 id = must("identity of memory", memory_.id());
    EXPECT_TRUE(rig_->board().declare(bdf(), {.iova = a.iova,
                                              .length = a.length,
                                              .host_id = id,
                                              .offset = a.offset,
                                              .access = board::IntentAccess::ReadWrite}));
  }
  void withdraw(const Area& a) { EXPECT_TRUE(rig_->board().withdraw(bdf(), a.iova, a.length)); }
  void gone() {
    for (const Area& a : areas_) withdraw(a);
    areas_.clear();
    state_ = State::Absent;
    preserved_ = false;
  }
  void start() {
    const scenarios::Streamer streamer = *scenarios::Streamer::open(device_);
    scenarios::RingPlan ring;
    ring.base = kBase.iova;
    ring.length = kBase.length;
    ring.slots = 32;
    ring.seed = ++seed_;
    ring.rate = 100'000;
    must("start", streamer.start(0, ring));
    ring.read = true;
    ring.source = *streamer.source_of(0);
    must("start reading", streamer.start(1, ring));
  }
  void stop() {
    const scenarios::Streamer streamer = *scenarios::Streamer::open(device_);
    must("stop reading", streamer.stop(1));
    must("stop", streamer.stop(0));
  }

  InProcessRig* rig_;
  u32 index_;
  State state_ = State::Absent;
  bool preserved_ = false;
  bool can_track_ = false, tracks_ = false;  // the page table
  u64 seed_ = 0;
  std::vector<Area> areas_;
  client::Memfd memory_;
  client::Iommufd context_;
  client::VfioDevice device_;
  client::Session session_;
  u32 device_id_ = 0;
  u32 ioas_ = 0;
  u32 hwpt_ = 0;
};

}  // namespace perdure::tool
