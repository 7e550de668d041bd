// Stores into memory that the unit reads: in order, visible, one at a time. Every table and queue write of the driver
// goes through here, so that a test can stand between any two of them as hardware would.
#pragma once
#include <span>

#include "core/base/hw.h"
#include "core/base/machine.h"

namespace perdure::vtd {

class HwWriter {
 public:
  // `coherent`: the unit's walks snoop the CPU's caches (ECAP.C).
  HwWriter(Machine& machine, bool coherent) : machine_(&machine), coherent_(coherent) {}

  bool coherent() const { return coherent_; }

  void store(u64* at, u64 value) const {
    hw::store(at, value);
    if (!coherent_) machine_->write_back(at, sizeof *at);
    if (machine_->steps) machine_->steps->stored(machine_->phys(at));
  }

  // Not present → present of an entry whose present bit is in its first word: the rest first, then a fence, then the
  // word that makes it true (hardware.md §3.2, "Write order").
  void publish(std::span<u64> entry, std::span<const u64> words) const {
    for (usize i = entry.size(); i-- > 1;) store(&entry[i], words[i]);
    hw::fence();
    store(&entry[0], words[0]);
  }

  // Present → not present is one store; the rest of the entry stays until the caches have forgotten it.
  void retract(u64* first_word, u64 present_bit) const {
    store(first_word, hw::load(first_word) & ~present_bit);
    hw::fence();
  }

  // Zeroes of a page that hardware does not look at yet.
  void write_back_page(Phys page) const {
    if (!coherent_) machine_->write_back(machine_->virt(page), kPageSize);
  }

 private:
  Machine* machine_;
  bool coherent_;
};

}  // namespace perdure::vtd
