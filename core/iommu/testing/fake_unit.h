// Units and functions as tests drive them: what hardware knows outlives the kernels, what a driver knows does not.
// Everything that happens is one line of one log, so that order can be checked.
#pragma once
#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "core/iommu/iommu.h"
#include "core/iommu/testing/fake_remapper.h"

namespace perdure::testing {

// One log of events, in the order in which they happened.
struct EventLog {
  std::mutex lock;
  std::vector<std::string> lines;
  void add(const std::string& line) {
    std::lock_guard guard(lock);
    lines.push_back(line);
  }
};

struct FakeHardware {
  struct Entry {
    u32 did = 0;
    u8 levels = 0;
    u64 top = 0;
    bool pass_through = false;
    pt::FormatId format = pt::FormatId::VtdSecondStage;
    bool tracks_dirty = false;
    bool operator==(const Entry&) const = default;
  };
  Phys base;
  u16 segment = 0;
  u64 cap = 0xc0de;
  u64 ecap = 0xecab;
  u32 did_limit = 256;
  pt::Geometry geometry{pt::FormatId::VtdSecondStage, 4, 48, 46, kPageSize | kHugePageSize | kGiantPageSize, true};
  bool marks_dirty = true;
  std::map<SourceId, Entry> entries;
  EventLog* log = nullptr;
  u64 entry_writes = 0;
  mutable std::recursive_mutex lock;  // of everything here

  FakeInterruptTable interrupts;

  // Driver state of the kernel that runs now.
  std::set<u64> dids;
  std::set<u64> tracked;  // ids
  u32 next_did = kFirstDynamicDid;
  Phys root, queue, status;
  std::map<SourceId, Entry> saved;  // by quiesce and disable
  bool preserved = false;
  std::atomic<bool> dead = false;
  std::map<std::string, int> fail_after;  // calls of that name that still succeed; then Eio (set_entry: Enomem)
  std::function<void(const std::string&)> on_call;

  void note(const std::string& what) {
    if (log) log->add(what);
    if (on_call) on_call(what);
  }
  bool fails(const std::string& name) {
    const auto at = fail_after.find(name);
    return at != fail_after.end() && at->second-- <= 0;
  }
};

inline std::string text(SourceId s) {
  return std::to_string(s.bus()) + ":" + std::to_string(s.device()) + "." + std::to_string(s.function());
}

class FakeUnit final : public IommuUnit {
 public:
  FakeUnit(FakeHardware& hardware, Heap& heap, Kho& kho)
      : hw_(hardware), heap_(heap), kho_(kho), remapper_(hardware.interrupts, heap) {
    info_.base = hw_.base;
    info_.segment = hw_.segment;
    info_.cap = hw_.cap;
    info_.ecap = hw_.ecap;
    info_.did_limit = hw_.did_limit;
    info_.geometry = hw_.geometry;
    if (hw_.marks_dirty && hw_.geometry.format == pt::FormatId::VtdSecondStage) info_.dirty_tracking = hw_.geometry;
    hw_.dids.clear();
    hw_.tracked.clear();
    hw_.next_did = kFirstDynamicDid;
    hw_.saved.clear();
    hw_.preserved = false;
    hw_.dead = false;
    hw_.fail_after.clear();
    hw_.root = hw_.queue = hw_.status = {};
  }
  ~FakeUnit() override {
    for (Phys page : {hw_.root, hw_.queue, hw_.status}) {
      if (page) heap_.frames().free(page, 0);
    }
  }
  // Its pages: fresh ones, or those of the record.
  Result<void> start(const abi::IommuUnitRecord* record) {
    Phys* const pages[] = {&hw_.root, &hw_.queue, &hw_.status};
    if (!record) {
      for (Phys* page : pages) *page = TRY(heap_.frames().alloc_zeroed(0));
      return {};
    }
    const u64 at[] = {record->root, record->iqa, record->status_page};
    for (unsigned i = 0; i < 3; ++i) {
      TRY(kho_.restore(Phys(at[i]), 0));
      *pages[i] = Phys(at[i]);
    }
    return {};
  }

  const UnitInfo& info() const override { return info_; }
  bool walks(const pt::Geometry& g) const override {
    const pt::Geometry& can = info_.geometry;
    return g.format == can.format && g.levels == can.levels && g.iova_bits <= can.iova_bits &&
           g.output_bits <= can.output_bits && (g.leaf_sizes & ~can.leaf_sizes) == 0 && (can.coherent || !g.coherent);
  }
  Result<u32> did_alloc() override {
    std::lock_guard guard(hw_.lock);
    if (hw_.fails("did_alloc")) return fail(Errno::Enospc);
    for (u32 did = kFirstDynamicDid; did < hw_.did_limit; ++did) {
      if (hw_.dids.insert(did).second) return did;
    }
    return fail(Errno::Enospc);
  }
  Result<void> did_reserve(u64 did) override {
    std::lock_guard guard(hw_.lock);
    hw_.note("did_reserve " + std::to_string(did));
    if (did < kFirstDynamicDid || did >= hw_.did_limit) return fail(Errno::Erange);
    if (!hw_.dids.insert(did).second) return fail(Errno::Eexist);
    for (const auto& [source, entry] : hw_.entries) {
      if (entry.did == did && entry.tracks_dirty) hw_.tracked.insert(did);
    }
    return {};
  }
  void did_free(u32 did) override {
    std::lock_guard guard(hw_.lock);
    hw_.note("did_free " + std::to_string(did));
    EXPECT_EQ(hw_.dids.erase(did), 1u);
    hw_.tracked.erase(did);
  }
  bool did_taken(u64 did) const override {
    std::lock_guard guard(hw_.lock);
    return hw_.dids.contains(did);
  }

  Result<void> set_entry(SourceId source, u32 did, const pt::IoPageTable& table) override {
    std::lock_guard guard(hw_.lock);
    hw_.note("set " + text(source) + " did " + std::to_string(did));
    if (hw_.dead) return fail(Errno::Eio);
    if (hw_.fails("set_entry")) return fail(Errno::Enomem);
    if (hw_.entries.contains(source)) return fail(Errno::Eexist);
    EXPECT_TRUE(hw_.dids.contains(did));
    hw_.entries[source] = {did,   table.geometry().levels, table.top().value,
                           false, table.geometry().format, hw_.tracked.contains(did)};
    ++hw_.entry_writes;
    return {};
  }
  Result<void> clear_entry(SourceId source) override {
    std::lock_guard guard(hw_.lock);
    hw_.note("clear " + text(source));
    if (hw_.entries.erase(source) != 0) ++hw_.entry_writes;
    if (hw_.dead || hw_.fails("clear_entry")) return fail(Errno::Eio);
    return {};
  }
  Result<void> set_dirty_tracking(u32 did, bool on) override {
    std::lock_guard guard(hw_.lock);
    hw_.note("track did " + std::to_string(did) + (on ? " on" : " off"));
    if (!hw_.marks_dirty) return fail(Errno::Eopnotsupp);
    if (hw_.dead) return fail(Errno::Eio);
    EXPECT_TRUE(hw_.dids.contains(did));
    on ? static_cast<void>(hw_.tracked.insert(did)) : static_cast<void>(hw_.tracked.erase(did));
    for (auto& [source, entry] : hw_.entries) {
      if (entry.did == did) entry.tracks_dirty = on;
    }
    return hw_.fails("set_dirty_tracking") ? fail(Errno::Eio) : Result<void>();
  }
  EntryState read_entry(SourceId source) const override {
    std::lock_guard guard(hw_.lock);
    const auto at = hw_.entries.find(source);
    return at == hw_.entries.end() ? EntryState() : state_of(at->second);
  }
  void each_present_entry(FunctionRef<void(SourceId source, const EntryState& state)> visit) const override {
    std::lock_guard guard(hw_.lock);
    for (const auto& [source, entry] : hw_.entries) visit(source, state_of(entry));
  }

  Result<void> flush_pages(u32 did, Iova iova, u64 length, bool leaves_only) override {
    return flush("flush_pages", "flush_pages did " + std::to_string(did) + " " + std::to_string(iova.value) + "+" +
                                    std::to_string(length) + (leaves_only ? " IH" : ""));
  }
  Result<void> flush_domain(u32 did) override {
    return flush("flush_domain", "flush_domain did " + std::to_string(did));
  }
  Result<void> flush_all() override { return flush("flush_all", "flush_all"); }
  Result<void> mapped_pages(u32 did, Iova iova, u64 length) override {
    return flush("mapped_pages", "mapped_pages did " + std::to_string(did) + " " + std::to_string(iova.value) + "+" +
                                     std::to_string(length));
  }

  Result<void> preserve(Kho& kho) override {
    EXPECT_FALSE(hw_.preserved);
    TRY(kho.preserve(hw_.root, 0));
    Result<void> rest = kho.preserve(hw_.queue, 0);
    if (rest) {
      rest = kho.preserve(hw_.status, 0);
      if (!rest) kho.unpreserve(hw_.queue, 0);
    }
    if (!rest) {
      kho.unpreserve(hw_.root, 0);
      return rest;
    }
    hw_.preserved = true;
    return {};
  }
  void unpreserve(Kho& kho) override {
    EXPECT_TRUE(hw_.preserved);
    for (Phys page : {hw_.root, hw_.queue, hw_.status}) kho.unpreserve(page, 0);
    hw_.preserved = false;
  }
  bool preserved() const override { return hw_.preserved; }
  Result<void> quiesce(FunctionRef<bool(SourceId)> keep) override {
    hw_.note("quiesce");
    EXPECT_TRUE(hw_.preserved);
    if (hw_.fails("quiesce")) return fail(Errno::Eio);
    hw_.saved.clear();
    for (auto at = hw_.entries.begin(); at != hw_.entries.end();) {
      if (keep(at->first)) {
        ++at;
        continue;
      }
      hw_.saved.insert(*at);
      at = hw_.entries.erase(at);
    }
    return {};
  }
  void resume() override {
    hw_.note("resume");
    hw_.entries.merge(hw_.saved);
    hw_.saved.clear();
  }
  void disable() override {
    hw_.note("disable");
    EXPECT_FALSE(hw_.preserved);
    hw_.saved = std::move(hw_.entries);
    hw_.entries.clear();
  }
  void fill_record(abi::IommuUnitRecord& record) const override {
    record.base = hw_.base.value;
    record.type = static_cast<u32>(abi::IommuUnitType::VtD);
    record.segment = hw_.segment;
    record.translation_mode = static_cast<u32>(abi::IommuTranslationMode::Legacy);
    record.did_limit = hw_.did_limit;
    record.cap = hw_.cap;
    record.ecap = hw_.ecap;
    record.rtaddr = record.root = hw_.root.value;
    record.iqa = hw_.queue.value;
    record.status_page = hw_.status.value;
    record.queue_descriptor_bytes = 16;
  }
  bool alive() const override { return !hw_.dead; }
  InterruptRemapper* interrupt_remapper() override { return hw_.interrupts.there ? &remapper_ : nullptr; }

 private:
  static EntryState state_of(const FakeHardware::Entry& e) {
    EntryState state;
    state.present = true;
    state.pass_through = e.pass_through;
    state.did = e.did;
    state.format = e.pass_through ? pt::FormatId::None : e.format;
    state.levels = e.levels;
    state.top = Phys(e.top);
    state.tracks_dirty = e.tracks_dirty;
    return state;
  }
  Result<void> flush(const std::string& name, const std::string& what) {
    std::lock_guard guard(hw_.lock);
    hw_.note(what);
    if (hw_.dead || hw_.fails(name)) return fail(Errno::Eio);
    return {};
  }

  FakeHardware& hw_;
  Heap& heap_;
  Kho& kho_;
  FakeRemapper remapper_;
  UnitInfo info_;
};

// Functions on the bus. One that is not there counts as off.
class FakeBus final : public BusMasterSwitch {
 public:
  bool off_and_verify(SourceId source) override {
    if (log) log->add("bus master off " + text(source));
    std::lock_guard guard(lock);
    if (stuck.contains(source)) return false;
    on.erase(source);
    return true;
  }
  bool is_on(SourceId source) const override {
    std::lock_guard guard(lock);
    return on.contains(source);
  }
  bool transactions_pending(SourceId source) const override {
    if (log) log->add("pending? " + text(source));
    return busy.contains(source);
  }
  mutable std::mutex lock;
  std::set<SourceId> on, stuck, busy;
  EventLog* log = nullptr;
};

}  // namespace perdure::testing
