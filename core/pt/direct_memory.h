// Table memory as hardware sees it at the same time: the Memory policy of every real page table.
//
// What a policy must have, where `entry` points into a table page:
//   load(entry)                            a word of a page that hardware may walk
//   store(entry, value)                    changes one: on return a walker that looks sees it
//   store_run(entry, count, first, step)   count entries, first + i * step; each as by store(), in any order
//   set_bits(entry, bits), clear_bits()    the same for bits of a present leaf, whose others hardware may be setting
//   prepare(entry, value), prepare_run()   the same in a page that no entry leads to yet
//   publish(table)                         before the entry that leads to a prepared page is stored: makes all of the
//                                          page visible, its zeroes too
//
// Order. The entry that leads to a new page is written by a release store (hw::store), and a walker finds the page only
// by loading that entry, so everything prepared before is seen: no prepared entry needs an order of its own. A walker
// that does not snoop the caches sees memory as of the last write_back, so publish() writes the page back before the
// entry is stored, and each stored entry is written back before store() returns.
#pragma once
#include "core/base/hw.h"
#include "core/base/machine.h"

namespace perdure::pt {

class DirectMemory {
 public:
  DirectMemory(Machine& machine, bool coherent) : machine_(&machine), coherent_(coherent) {}

  u64 load(const u64* entry) const { return hw::load(entry); }

  void store(u64* entry, u64 value) {
    hw::store(entry, value);
    if (!quiet()) [[unlikely]]
      show(entry);
  }

  void store_run(u64* entry, unsigned count, u64 first, u64 step) {
    if (machine_->steps != nullptr) [[unlikely]] {
      // Devices advance between any two stores.
      for (unsigned i = 0; i < count; ++i, first += step) store(entry + i, first);
      return;
    }
    prepare_run(entry, count, first, step);
    if (!coherent_) machine_->write_back(entry, count * sizeof(u64));
  }

  void set_bits(u64* entry, u64 bits) {
    hw::set_bits(entry, bits);
    if (!quiet()) [[unlikely]]
      show(entry);
  }
  void clear_bits(u64* entry, u64 bits) {
    hw::clear_bits(entry, bits);
    if (!quiet()) [[unlikely]]
      show(entry);
  }

  void prepare(u64* entry, u64 value) { hw::store(entry, value); }
  void prepare_run(u64* entry, unsigned count, u64 first, u64 step) {
    for (unsigned i = 0; i < count; ++i, first += step) hw::store(entry + i, first);
  }
  void publish(const u64* table) {
    if (!coherent_) [[unlikely]]
      machine_->write_back(table, kPageSize);
  }

 private:
  bool quiet() const { return coherent_ & (machine_->steps == nullptr); }
  void show(const u64* entry) {
    if (!coherent_) machine_->write_back(entry, sizeof *entry);
    if (machine_->steps) machine_->steps->stored(machine_->phys(entry));
  }

  Machine* machine_;
  bool coherent_;
};

}  // namespace perdure::pt
