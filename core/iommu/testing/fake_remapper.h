// Interrupt remapping of a FakeUnit: the table is hardware's and outlives kernels, who listens does not.
#pragma once
#include <map>

#include <gtest/gtest.h>

#include "core/iommu/interrupts.h"

namespace perdure::testing {

struct FakeInterruptTable {
  struct Entry {
    SourceId owner;
    MsiTarget target;
    bool present = false;
  };
  bool there = false;            // the unit remaps
  std::map<u32, Entry> entries;  // given out
  std::map<std::string, unsigned> calls;
  bool fail_set = false;
};

class FakeRemapper final : public InterruptRemapper {
 public:
  FakeRemapper(FakeInterruptTable& table, Heap& heap) : table_(table), heap_(heap) {}
  // A kernel that is abandoned frees nothing.
  void forget() { links_.clear(); }

  Result<u32> alloc(std::span<const SourceId> requesters, unsigned count) override {
    heap_.release(TRY(heap_.allocate(8)), 8);
    u32 first = 5;
    for (const auto& [index, entry] : table_.entries) {
      if (first + count > index) first = index + 1;
    }
    for (u32 i = first; i < first + count; ++i) table_.entries[i] = {requesters[0], {}, false};
    return first;
  }
  Result<void> set(u32 index, const MsiTarget& target, const IrqLink&) override {
    ++table_.calls["set"];
    if (table_.fail_set) return fail(Errno::Eio);
    table_.entries.at(index).target = target;
    table_.entries.at(index).present = true;
    return {};
  }
  Result<void> clear(u32 index) override {
    ++table_.calls["clear"];
    table_.entries.at(index).present = false;
    return {};
  }
  void free(u32 first, unsigned count) override {
    ++table_.calls["free"];
    for (u32 i = first; i < first + count; ++i) EXPECT_EQ(table_.entries.erase(i), 1u);
  }
  MsiTarget message(u32 first) const override { return {0xfee0'0010, first}; }

  Result<void> take(std::span<const SourceId> requesters, u32 first, unsigned count,
                    FunctionRef<void(unsigned i, Owned<IrqLink> link, const MsiTarget& target)> visit) override {
    for (u32 i = first; i < first + count; ++i) {
      const auto at = table_.entries.find(i);
      if (at == table_.entries.end() || at->second.owner != requesters[0]) return fail(Errno::Enoent);
    }
    for (u32 i = first; i < first + count; ++i) {
      if (!table_.entries.at(i).present) continue;
      IrqLink* link = links_[i];
      links_.erase(i);
      if (!link) {
        Owned<IrqLink> made = TRY(heap_.make<IrqLink>(true));
        EXPECT_TRUE(heap_.machine().irq_claim(table_.entries.at(i).target, *made));
        link = made.release();
      }
      visit(i - first, Owned<IrqLink>(heap_, link), table_.entries.at(i).target);
    }
    return {};
  }
  void give_back(u32 index, Owned<IrqLink> link) override {
    ++table_.calls["give back"];
    EXPECT_EQ(table_.entries.at(index).present, static_cast<bool>(link));
    if (link) links_[index] = link.release();
  }
  void drop_carried(SourceId source) override {
    std::erase_if(table_.entries, [&](const auto& e) { return e.second.owner == source; });
  }

 private:
  FakeInterruptTable& table_;
  Heap& heap_;
  std::map<u32, IrqLink*> links_;
};

}  // namespace perdure::testing
