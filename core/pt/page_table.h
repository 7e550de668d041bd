// The page-table engine: every format and every way to reach memory share it. Tables have 512 entries of 8 bytes; what
// an entry looks like is the Format's (vtd_second_stage.h), how it is written the Memory's (direct_memory.h).
//
// How hardware sees a change. Every word of a live table changes by one 64-bit store, and between any two stores each
// address translates as before the operation or as after it:
//  * map() first looks whether the whole range is free. Then it builds each missing subtree where no entry leads to it,
//  and
//    remembers it in the slot it is for, parked: an entry that hardware takes for not present. Only when nothing can
//    fail any more it turns parked entries into links and writes leaves.
//  * unmap() cuts a subtree out by parking the one entry that leads to it. The subtree itself stays as it is, since
//    a walker may be in it, until release(), after the flush, walks it, frees it and clears the slot.
//
// Occupancy. No counts are kept, so that there is nothing that adopting a table would have to trust or rebuild. A table
// without a present entry is never left linked; whether unmap() emptied one is found by looking outwards from what it
// cleared: next neighbours first, which decides nearly always.
//
// Trust. In a table that was built here links lead to table pages. In an adopted one each link is checked against the
// arena before it is followed, and a walk ends when it has seen more tables than the arena has pages (a page linked
// twice). So a corrupt table can harm its own domain, which the former kernel let it map as it liked, and nothing else.
#pragma once
#include <utility>

#include "core/pt/io_page_table.h"
#include "core/pt/run_joiner.h"
#include "core/pt/slots.h"

namespace perdure::pt {

template <class Format, class Memory>
class PageTable final : public IoPageTable {
  struct Private {};

 public:
  // Only for create() and adopt().
  PageTable(Private, Heap& heap, const Geometry& geometry, Memory memory)
      : heap_(heap),
        geometry_(geometry),
        memory_(memory),
        arena_(heap),
        last_iova_((u64{1} << geometry.iova_bits) - 1),
        last_output_((u64{1} << geometry.output_bits) - 1) {}
  ~PageTable() override {
    if (top_) heap_.frames().free(top_, 0);
  }

  static constexpr bool supports(const Geometry& g) {
    return g.format == Format::kId && g.levels >= Format::kMinLevels && g.levels <= Format::kMaxLevels &&
           g.iova_bits >= kPageShift && g.iova_bits <= Format::max_iova_bits(g.levels) && g.output_bits >= kPageShift &&
           g.output_bits <= Format::kMaxOutputBits && (g.leaf_sizes & kPageSize) != 0 &&
           (g.leaf_sizes & ~Format::kLeafSizes) == 0;
  }

  static Result<Owned<PageTable>> create(Heap& heap, const Geometry& geometry, Memory memory) {
    if (!supports(geometry)) return fail(Errno::Einval);
    Owned<PageTable> table = TRY(heap.make<PageTable>(Private{}, heap, geometry, memory));
    table->top_ = TRY(heap.frames().alloc_zeroed(0));
    table->memory_.publish(table->entries(table->top_));
    return table;
  }

  static Result<Owned<PageTable>> adopt(Heap& heap, const Geometry& geometry, Memory memory, Phys top,
                                        Phys first_descriptor, FunctionRef<bool(Phys base, u64 length)> readable,
                                        FunctionRef<Result<void>(Phys base, unsigned order)> restore) {
    if (!supports(geometry) || !top || !top.aligned(kPageSize) || !readable(top, kPageSize)) {
      return fail(Errno::Einval);
    }
    Owned<PageTable> table = TRY(heap.make<PageTable>(Private{}, heap, geometry, memory));
    table->trusted_ = false;
    if (first_descriptor) TRY(table->arena_.adopt(first_descriptor, readable, restore));
    // A top inside the arena fails here, since its block was restored already.
    if (Result<void> restored = restore(top, 0); !restored) {
      table->arena_.abandon();
      return fail(restored.error());
    }
    table->top_ = top;
    return table;
  }

  const Geometry& geometry() const override { return geometry_; }
  Phys top() const override { return top_; }

  Result<void> map(Iova iova, Phys phys, u64 length, Access access) override {
    const u64 first = iova.value;
    const u64 last = first + (length - 1);
    if (length == 0 || ((first | phys.value | length) & (kPageSize - 1)) != 0) return fail(Errno::Einval);
    if (!includes(Access::ReadWrite, access) || access == Access{}) return fail(Errno::Einval);
    if (!Format::expresses(access)) return fail(Errno::Eopnotsupp);
    if (!fits(first, length, last_iova_) || !fits(phys.value, length, last_output_)) return fail(Errno::Erange);
    if (!Format::output_allowed(phys, length)) return fail(Errno::Einval);

    // A leaf size fits when both addresses agree in the bits below it: sizes up to the lowest bit they differ in.
    const u64 differ = first ^ phys.value;
    const Request request{phys.value - first, geometry_.leaf_sizes & (differ ^ (differ - 1)), access};

    u64* table = entries(top_);
    for (unsigned level = geometry_.levels;; --level) {
      const unsigned from = index(first, level);
      const unsigned to = index(last, level);
      const bool leaf = request.leaf_fits(level);
      const u64 within_slot = slot_size(level) - 1;
      if (from != to || (leaf && last - first == within_slot)) {
        if (leaf && ((first | (last + 1)) & within_slot) == 0) return map_run(table, from, to, level, first, request);
        return map_spread(table, level, first, last, request);
      }
      u64* slot = table + from;
      const u64 entry = memory_.load(slot);
      if (!Format::present(entry)) {
        if (Format::parked(entry)) return fail(Errno::Ebusy);
        const Phys fresh = TRY(build(level - 1, first, last, request));
        memory_.store(slot, Format::table(fresh));
        return {};
      }
      if (Format::is_leaf(entry, level)) return fail(Errno::Eaddrinuse);
      table = below(entry);
      if (!table) [[unlikely]]
        return fail(Errno::Eio);
    }
  }

  u64 unmap(Iova iova, u64 length, Gather& gather) override {
    const u64 first = iova.value;
    if (length == 0 || first > last_iova_) return 0;
    const u64 last = clip(first, length);
    Budget budget = this->budget();

    // Down to the table where the range takes up a slot or needs several; way[level]: the slot that led on from
    // `level`.
    u64* way[kLevelLimit + 1];
    u64* table = entries(top_);
    unsigned level = geometry_.levels;
    while (level > 1 && index(first, level) == index(last, level) && last - first != slot_size(level) - 1) {
      u64* slot = table + index(first, level);
      const u64 entry = memory_.load(slot);
      if (!Format::present(entry)) return 0;
      if (Format::is_leaf(entry, level)) break;
      table = below(entry, budget);
      if (!table) [[unlikely]]
        return 0;
      way[level--] = slot;
    }
    const u64 bytes = clear(table, level, first, last, gather, budget);
    if (bytes == 0) return 0;

    if (level == geometry_.levels || !emptied(table, index(first, level), index(last, level))) return bytes;
    // Cut out as far up as nothing else is left, with one store.
    u64* cut;
    unsigned at;
    do {
      cut = way[++level];
      at = index(first, level);
    } while (level < geometry_.levels && !occupied_outside(cut - at, at, at));
    park(cut, level, first, gather);
    return bytes;
  }

  void release(Gather& gather) override {
    if (gather.count != 0) {
      Budget budget = this->budget();
      free_parked(entries(top_), geometry_.levels, gather.first.value, gather.last.value, budget);
    }
    gather = {};
  }

  Result<Leaf> leaf_at(Iova iova) const override {
    if (iova.value > last_iova_) return fail(Errno::Enoent);
    const u64* table = entries(top_);
    for (unsigned level = geometry_.levels;; --level) {
      const u64 entry = memory_.load(table + index(iova.value, level));
      if (!Format::present(entry)) return fail(Errno::Enoent);
      if (Format::is_leaf(entry, level)) return leaf(entry, level, iova.value);
      table = below(entry);
      if (!table) [[unlikely]]
        return fail(Errno::Eio);
    }
  }

  Result<void> each_leaf(Iova iova, u64 length, FunctionRef<Result<void>(const Leaf&)> visit) const override {
    const u64 first = iova.value;
    if (length == 0 || first > last_iova_) return {};
    const u64 last = clip(first, length);
    Budget budget = this->budget();
    return visit_leaves(entries(top_), geometry_.levels, first, last, visit, budget);
  }

  Result<void> each_run(Iova iova, u64 length, FunctionRef<Result<void>(const Leaf& run)> visit) const override {
    const u64 first = iova.value;
    if (length == 0 || first > last_iova_) return {};
    const u64 last = clip(first, length);
    Budget budget = this->budget();
    RunJoiner runs(visit);
    TRY(visit_runs(entries(top_), geometry_.levels, first, last, runs, budget));
    return runs.end();
  }

  Result<void> each_dirty(Iova iova, u64 length, FunctionRef<Result<bool>(const Leaf&)> unmark) override {
    const auto visit = [&](u64* slot, u64 entry, const Leaf& leaf) -> Result<void> {
      if ((entry & Format::kDirty) == 0) return {};
      if (TRY(unmark(leaf))) memory_.clear_bits(slot, Format::kDirty);
      return {};
    };
    return each_marked(iova, length, visit);
  }

  Result<void> mark_dirty(Iova iova, u64 length) override {
    const auto visit = [&](u64* slot, u64 entry, const Leaf& leaf) -> Result<void> {
      const bool marked = (entry & Format::kDirty) != 0;
      if (!marked && includes(leaf.access, Access::Write)) memory_.set_bits(slot, Format::kDirty);
      return {};
    };
    return each_marked(iova, length, visit);
  }

  Result<void> each_table(FunctionRef<Result<void>(Phys page, unsigned level)> visit) const override {
    Budget budget = this->budget();
    TRY(visit(top_, geometry_.levels));
    return visit_tables(entries(top_), geometry_.levels, visit, budget);
  }

  Result<void> graft_onto(IoPageTable& live) override {
    if (&live == this || live.engine() != engine() || live.geometry() != geometry_) return fail(Errno::Einval);
    auto& other = static_cast<PageTable&>(live);
    u64* mine = entries(top_);
    u64* theirs = entries(other.top_);
    for (unsigned i = 0; i < kEntries; ++i) {
      const u64 fresh = memory_.load(mine + i);
      const u64 old = memory_.load(theirs + i);
      if (fresh == old) continue;
      memory_.store(theirs + i, fresh);
      memory_.store(mine + i, old);
    }
    std::swap(top_, other.top_);
    return {};
  }

  Result<void> each_block(FunctionRef<Result<void>(Phys base, unsigned order)> visit) const override {
    TRY(visit(top_, 0));
    return arena_.each_block(visit);
  }
  TableArena& arena() override { return arena_; }
  void abandon() override {
    arena_.abandon();
    top_ = {};
  }
  const void* engine() const override { return &kEngine; }

 private:
  static constexpr unsigned kLevelLimit = 5;
  static constexpr char kEngine = 0;
  static_assert(Format::kMaxLevels <= kLevelLimit);

  // How many more tables a walk may enter; see "Trust".
  struct Budget {
    u64 tables;
  };
  // What map() was asked for, in a form that does not change on the way through the tree.
  struct Request {
    u64 delta;       // output address = IOVA + delta, modulo 2^64
    u64 leaf_sizes;  // that alignment allows
    Access access;
    bool leaf_fits(unsigned level) const { return (leaf_sizes & slot_size(level)) != 0; }
  };

  u64* entries(Phys page) const { return heap_.machine().template virt<u64>(page); }
  // The table that a present link or a parked entry leads to; null when it may not be followed.
  u64* below(u64 entry) const {
    const Phys page = Format::address(entry);
    if (!trusted_ && !arena_.owns(page)) [[unlikely]]
      return nullptr;
    return entries(page);
  }
  u64* below(u64 entry, Budget& budget) const {
    if (!trusted_ && budget.tables-- == 0) [[unlikely]] {
      budget.tables = 0;
      return nullptr;
    }
    return below(entry);
  }
  Budget budget() const { return {trusted_ ? 0 : arena_.pages_in_use()}; }

  // The last byte of a range from outside; `first` is mappable.
  u64 clip(u64 first, u64 length) const {
    return first + (length - 1 < last_iova_ - first ? length - 1 : last_iova_ - first);
  }

  static Leaf leaf(u64 entry, unsigned level, u64 iova) {
    return {Iova(slot_first(iova, level)), Phys(slot_first(Format::address(entry).value, level)), slot_size(level),
            Format::access(entry)};
  }

  // --- map -------------------------------------------------------------------------------------------------

  Result<void> map_run(u64* table, unsigned from, unsigned to, unsigned level, u64 first, const Request& request) {
    u64 any = 0;
    for (unsigned i = from; i <= to; ++i) any |= memory_.load(table + i);
    if (any != 0) [[unlikely]]
      TRY(check_free(table, from, to));
    memory_.store_run(table + from, to - from + 1, entry_for(first, level, request), slot_size(level));
    return {};
  }

  // A range that begins or ends inside slots, or needs subtrees in several.
  Result<void> map_spread(u64* table, unsigned level, u64 first, u64 last, const Request& request) {
    TRY(check_free(table, level, first, last));
    if (Result<void> reserved = reserve(table, level, first, last, request); !reserved) {
      Budget budget = this->budget();
      free_parked(table, level, first, last, budget);
      return reserved;
    }
    commit(table, level, first, last, request);
    return {};
  }

  static u64 entry_for(u64 iova, unsigned level, const Request& request) {
    return Format::leaf(Phys(iova + request.delta), level, request.access);
  }

  Result<void> check_free(const u64* table, unsigned from, unsigned to) const {
    for (unsigned i = from; i <= to; ++i) {
      const u64 entry = memory_.load(table + i);
      if (Format::present(entry)) return fail(Errno::Eaddrinuse);
      if (Format::parked(entry)) return fail(Errno::Ebusy);
    }
    return {};
  }
  // A linked table is never empty, so one whose slot is all inside the range holds a leaf of the range.
  Result<void> check_free(const u64* table, unsigned level, u64 first, u64 last) const {
    for (u64 at = first;; at = slot_last(at, level) + 1) {
      const u64 end = slot_end(at, last, level);
      const u64 entry = memory_.load(table + index(at, level));
      if (Format::present(entry)) {
        if (Format::is_leaf(entry, level) || end - at == slot_size(level) - 1) return fail(Errno::Eaddrinuse);
        const u64* child = below(entry);
        if (!child) return fail(Errno::Eio);
        TRY(check_free(child, level - 1, at, end));
      } else if (Format::parked(entry)) {
        return fail(Errno::Ebusy);
      }
      if (end == last) return {};
    }
  }

  // How many slots of `level`, from `at` on, become leaves of the request; 0 when the next one does not.
  static unsigned leaf_count(u64 at, u64 last, unsigned level, const Request& request) {
    if (!request.leaf_fits(level) || at != slot_first(at, level)) return 0;
    const u64 whole = (last - at + 1) >> slot_shift(level);
    const u64 left = kEntries - index(at, level);
    return static_cast<unsigned>(whole < left ? whole : left);
  }

  // A subtree with the leaves of [first, last], complete and published, that no entry leads to.
  Result<Phys> build(unsigned level, u64 first, u64 last, const Request& request) {
    const Phys page = TRY(arena_.alloc_page());
    u64* table = entries(page);
    for (u64 at = first;;) {
      if (const unsigned count = leaf_count(at, last, level, request)) {
        memory_.prepare_run(table + index(at, level), count, entry_for(at, level, request), slot_size(level));
        at += u64{count} << slot_shift(level);
        if (at - 1 == last) break;
        continue;
      }
      const u64 end = slot_end(at, last, level);
      Result<Phys> child = build(level - 1, at, end, request);
      if (!child) {
        free_fresh(page, level);
        return fail(child.error());
      }
      memory_.prepare(table + index(at, level), Format::table(*child));
      if (end == last) break;
      at = end + 1;
    }
    memory_.publish(table);
    return page;
  }
  // Undoes a build() that failed in the middle: hardware never saw it.
  void free_fresh(Phys page, unsigned level) {
    const u64* table = entries(page);
    for (unsigned i = 0; level > 1 && i < kEntries; ++i) {
      const u64 entry = memory_.load(table + i);
      if (Format::present(entry) && !Format::is_leaf(entry, level)) free_fresh(Format::address(entry), level - 1);
    }
    arena_.free_page(page);
  }

  // Parks a built subtree in every slot of the range that needs one. On failure what is parked stays for the caller.
  Result<void> reserve(u64* table, unsigned level, u64 first, u64 last, const Request& request) {
    for (u64 at = first;;) {
      if (const unsigned count = leaf_count(at, last, level, request)) {
        at += u64{count} << slot_shift(level);
        if (at - 1 == last) return {};
        continue;
      }
      const u64 end = slot_end(at, last, level);
      u64* slot = table + index(at, level);
      const u64 entry = memory_.load(slot);
      if (Format::present(entry)) {
        TRY(reserve(entries(Format::address(entry)), level - 1, at, end, request));  // check_free() has seen it
      } else {
        memory_.store(slot, Format::park(TRY(build(level - 1, at, end, request))));
      }
      if (end == last) return {};
      at = end + 1;
    }
  }
  // Makes the range present.
  void commit(u64* table, unsigned level, u64 first, u64 last, const Request& request) {
    for (u64 at = first;;) {
      u64* slot = table + index(at, level);
      if (const unsigned count = leaf_count(at, last, level, request)) {
        memory_.store_run(slot, count, entry_for(at, level, request), slot_size(level));
        at += u64{count} << slot_shift(level);
        if (at - 1 == last) return;
        continue;
      }
      const u64 end = slot_end(at, last, level);
      const u64 entry = memory_.load(slot);
      if (Format::present(entry)) {
        commit(entries(Format::address(entry)), level - 1, at, end, request);
      } else {
        memory_.store(slot, Format::table(Format::address(entry)));
      }
      if (end == last) return;
      at = end + 1;
    }
  }

  // --- unmap -----------------------------------------------------------------------------------------------

  // Makes what is present in the range not present, and returns its bytes. `table` itself may be left empty.
  u64 clear(u64* table, unsigned level, u64 first, u64 last, Gather& gather, Budget& budget) {
    const unsigned to = index(last, level);
    u64 bytes = 0;
    unsigned leaves = 0;  // directly before slot i
    for (unsigned i = index(first, level);; ++i) {
      const u64 entry = i <= to ? memory_.load(table + i) : 0;
      if (Format::present(entry) && Format::is_leaf(entry, level)) {
        ++leaves;
        continue;
      }
      if (leaves != 0) {
        memory_.store_run(table + i - leaves, leaves, 0, 0);
        bytes += u64{leaves} << slot_shift(level);
        leaves = 0;
      }
      if (i > to) return bytes;
      if (!Format::present(entry)) continue;
      const u64 slot_at = slot_first(first, level) + (u64{i - index(first, level)} << slot_shift(level));
      bytes += clear_below(table + i, level, slot_at, first, last, gather, budget);
    }
  }
  // The same for the table that `slot` leads to.
  u64 clear_below(u64* slot, unsigned level, u64 slot_at, u64 first, u64 last, Gather& gather, Budget& budget) {
    u64* child = below(memory_.load(slot), budget);
    if (!child) [[unlikely]]
      return 0;
    const u64 at = slot_at < first ? first : slot_at;
    const u64 end = slot_end(slot_at, last, level);
    u64 bytes;
    if (end - at == slot_size(level) - 1) {
      bytes = count_mapped(child, level - 1, budget);
      if (bytes != 0) park(slot, level, slot_at, gather);
    } else {
      bytes = clear(child, level - 1, at, end, gather, budget);
      if (bytes != 0 && emptied(child, index(at, level - 1), index(end, level - 1))) {
        park(slot, level, slot_at, gather);
      }
    }
    return bytes;
  }

  u64 count_mapped(const u64* table, unsigned level, Budget& budget) const {
    if (level == 1) {
      // What unmapping much costs: two sums, so that neither waits for the other.
      u64 even = 0;
      u64 odd = 0;
      for (unsigned i = 0; i < kEntries; i += 2) {
        even += Format::present(memory_.load(table + i));
        odd += Format::present(memory_.load(table + i + 1));
      }
      return (even + odd) << kPageShift;
    }
    u64 bytes = 0;
    for (unsigned i = 0; i < kEntries; ++i) {
      const u64 entry = memory_.load(table + i);
      if (!Format::present(entry)) continue;
      if (Format::is_leaf(entry, level)) {
        bytes += slot_size(level);
      } else if (const u64* child = below(entry, budget)) {
        bytes += count_mapped(child, level - 1, budget);
      }
    }
    return bytes;
  }

  // Whether nothing is left in a table after clear() of its slots from..to. A slot at an end was perhaps in the range
  // with a part only.
  bool emptied(const u64* table, unsigned from, unsigned to) const {
    return !Format::present(memory_.load(table + from)) && !Format::present(memory_.load(table + to)) &&
           !occupied_outside(table, from, to);
  }
  // Parked entries do not count: they go with their table.
  bool occupied_outside(const u64* table, unsigned from, unsigned to) const {
    const auto present = [&](unsigned i) { return Format::present(memory_.load(table + i)); };
    if ((to + 1 < kEntries && present(to + 1)) || (from > 0 && present(from - 1))) return true;
    for (unsigned i = to + 1; i < kEntries; ++i) {
      if (present(i)) return true;
    }
    for (unsigned i = from; i > 0; --i) {
      if (present(i - 1)) return true;
    }
    return false;
  }

  // Cuts the table out that `slot`, the one of `level` that serves `iova`, leads to.
  void park(u64* slot, unsigned level, u64 iova, Gather& gather) {
    memory_.store(slot, Format::park(Format::address(memory_.load(slot))));
    const Iova first(slot_first(iova, level));
    const Iova last(slot_last(iova, level));
    if (gather.count == 0 || first < gather.first) gather.first = first;
    if (gather.count == 0 || gather.last < last) gather.last = last;
    ++gather.count;
    gather.tables_removed = true;
  }

  // Frees what is parked in the range and empties the slots.
  void free_parked(u64* table, unsigned level, u64 first, u64 last, Budget& budget) {
    if (level == 1) return;  // parked entries stand for tables
    for (u64 at = first;; at = slot_last(at, level) + 1) {
      const u64 end = slot_end(at, last, level);
      u64* slot = table + index(at, level);
      const u64 entry = memory_.load(slot);
      if (Format::parked(entry)) {
        free_subtree(entry, level - 1);
        memory_.store(slot, 0);
      } else if (Format::present(entry) && !Format::is_leaf(entry, level)) {
        if (u64* child = below(entry, budget)) free_parked(child, level - 1, at, end, budget);
      }
      if (end == last) return;
    }
  }
  // `entry` leads to a table of `level` that no walker can hold.
  void free_subtree(u64 entry, unsigned level) {
    const u64* table = below(entry);
    if (!table) [[unlikely]]
      return;
    const Phys page = Format::address(entry);
    for (unsigned i = 0; level > 1 && i < kEntries; ++i) {
      const u64 inner = memory_.load(table + i);
      if (!Format::parked(inner) && (!Format::present(inner) || Format::is_leaf(inner, level))) continue;
      free_subtree(inner, level - 1);
      // In a table that is not sound the page may have been in a subtree of its own.
      if (!trusted_ && !arena_.owns(page)) [[unlikely]]
        return;
    }
    arena_.free_page(page);
  }

  // --- visits ----------------------------------------------------------------------------------------------

  Result<void> visit_leaves(const u64* table, unsigned level, u64 first, u64 last,
                            FunctionRef<Result<void>(const Leaf&)>& visit, Budget& budget) const {
    if (level == 1) {  // nearly all of the work
      u64 at = slot_first(first, 1);
      for (unsigned i = index(first, 1); i <= index(last, 1); ++i, at += kPageSize) {
        const u64 entry = memory_.load(table + i);
        if (Format::present(entry)) TRY(visit(leaf(entry, 1, at)));
      }
      return {};
    }
    for (u64 at = first;; at = slot_last(at, level) + 1) {
      const u64 end = slot_end(at, last, level);
      const u64 entry = memory_.load(table + index(at, level));
      if (Format::present(entry)) {
        if (Format::is_leaf(entry, level)) {
          TRY(visit(leaf(entry, level, at)));
        } else {
          const u64* child = below(entry, budget);
          if (!child) [[unlikely]]
            return fail(Errno::Eio);
          TRY(visit_leaves(child, level - 1, at, end, visit, budget));
        }
      }
      if (end == last) return {};
    }
  }
  template <class Visit>
  Result<void> each_marked(Iova iova, u64 length, const Visit& visit) {
    if (Format::kDirty == 0 || !geometry_.coherent) return fail(Errno::Eopnotsupp);
    const u64 first = iova.value;
    if (length == 0 || first > last_iova_) return {};
    Budget budget = this->budget();
    return visit_marked(entries(top_), geometry_.levels, first, clip(first, length), visit, budget);
  }
  template <class Visit>
  Result<void> visit_marked(u64* table, unsigned level, u64 first, u64 last, const Visit& visit, Budget& budget) {
    for (u64 at = first;; at = slot_last(at, level) + 1) {
      const u64 end = slot_end(at, last, level);
      u64* slot = table + index(at, level);
      const u64 entry = memory_.load(slot);
      if (Format::present(entry)) {
        if (Format::is_leaf(entry, level)) {
          TRY(visit(slot, entry, leaf(entry, level, at)));
        } else {
          u64* child = below(entry, budget);
          if (!child) [[unlikely]]
            return fail(Errno::Eio);
          TRY(visit_marked(child, level - 1, at, end, visit, budget));
        }
      }
      if (end == last) return {};
    }
  }
  Result<void> visit_runs(const u64* table, unsigned level, u64 first, u64 last, RunJoiner& runs,
                          Budget& budget) const {
    u64 at = slot_first(first, level);
    u64 expect = 0;  // the leaf that would continue the run in this slot; none is not present
    for (unsigned i = index(first, level); i <= index(last, level); ++i, at += slot_size(level)) {
      const u64 entry = memory_.load(table + i) & ~Format::kMarks;
      if (!Format::present(entry)) {
        expect = 0;
        TRY(runs.end());
      } else if (entry == expect) {
        runs.extend(slot_size(level));
        expect += slot_size(level);
      } else if (Format::is_leaf(entry, level)) {
        TRY(runs.add(leaf(entry, level, at)));
        expect = entry + slot_size(level);
      } else {
        expect = 0;
        const u64* child = below(entry, budget);
        if (!child) [[unlikely]]
          return fail(Errno::Eio);
        const u64 from = at < first ? first : at;
        const u64 to = slot_end(at, last, level);
        TRY(visit_runs(child, level - 1, from, to, runs, budget));
      }
    }
    return {};
  }
  Result<void> visit_tables(const u64* table, unsigned level, FunctionRef<Result<void>(Phys, unsigned)>& visit,
                            Budget& budget) const {
    for (unsigned i = 0; level > 1 && i < kEntries; ++i) {
      const u64 entry = memory_.load(table + i);
      if (!Format::present(entry) || Format::is_leaf(entry, level)) continue;
      const u64* child = below(entry, budget);
      if (!child) [[unlikely]]
        return fail(Errno::Eio);
      TRY(visit(Format::address(entry), level - 1));
      TRY(visit_tables(child, level - 1, visit, budget));
    }
    return {};
  }

  Heap& heap_;
  const Geometry geometry_;
  Memory memory_;
  TableArena arena_;
  Phys top_;
  const u64 last_iova_;
  const u64 last_output_;
  bool trusted_ = true;
};

}  // namespace perdure::pt
