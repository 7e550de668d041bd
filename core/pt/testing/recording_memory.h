// The Memory policy that shows a test each single store, in the order in which hardware can see them.
#pragma once
#include <functional>

#include "core/pt/direct_memory.h"

namespace perdure::pt::testing {

struct Recorder {
  enum class Kind { Live, Prepared };
  struct Store {
    u64 at;
    u64 old;
    u64 value;
    Kind kind;
  };
  // After the word changed, before it is written back.
  std::function<void(const Store&)> stored;
  // After a run of prepared entries.
  std::function<void()> prepared;
  std::vector<Store> log;
};

class RecordingMemory {
 public:
  RecordingMemory(Machine& machine, bool coherent, Recorder& recorder)
      : machine_(&machine), inner_(machine, coherent), recorder_(&recorder) {}

  u64 load(const u64* entry) const { return inner_.load(entry); }
  void store(u64* entry, u64 value) {
    set(entry, value, Recorder::Kind::Live);
    inner_.store(entry, value);
  }
  void store_run(u64* entry, unsigned count, u64 first, u64 step) {
    // Last first: the policy promises no order.
    for (unsigned i = count; i-- > 0;) store(entry + i, first + i * step);
  }
  void set_bits(u64* entry, u64 bits) { store(entry, hw::load(entry) | bits); }
  void clear_bits(u64* entry, u64 bits) { store(entry, hw::load(entry) & ~bits); }
  void prepare(u64* entry, u64 value) {
    set(entry, value, Recorder::Kind::Prepared);
    if (recorder_->prepared) recorder_->prepared();
  }
  void prepare_run(u64* entry, unsigned count, u64 first, u64 step) {
    for (unsigned i = 0; i < count; ++i) set(entry + i, first + i * step, Recorder::Kind::Prepared);
    if (recorder_->prepared) recorder_->prepared();
  }
  void publish(const u64* table) { inner_.publish(table); }

 private:
  void set(u64* entry, u64 value, Recorder::Kind kind) {
    const Recorder::Store store{machine_->phys(entry).value, hw::load(entry), value, kind};
    hw::store(entry, value);
    recorder_->log.push_back(store);
    if (recorder_->stored) recorder_->stored(store);
  }

  Machine* machine_;
  DirectMemory inner_;
  Recorder* recorder_;
};

}  // namespace perdure::pt::testing
