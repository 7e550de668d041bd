#include "core/mem/table_arena.h"

#include <cstring>

#include "core/base/bits.h"
#include "core/base/log.h"
#include "core/base/scope_guard.h"
#include "core/base/sort.h"

namespace perdure {

using abi::kTableArenaEntries;
using abi::TableArenaChunk;
using abi::TableArenaPage;

TableArena::TableArena(Heap& heap) : heap_(heap), lists_(heap) {}

TableArena::~TableArena() {
  const MutexGuard guard(lock_);
  for (const Chunk& c : lists_.chunks) heap_.frames().free(Phys(c.base), c.order);
  for (const Phys at : lists_.pages) heap_.frames().free(at, 0);
}

// --- chunks -------------------------------------------------------------------------------------------------

TableArenaPage& TableArena::page(usize i) const {
  return *heap_.machine().virt<TableArenaPage>(lists_.pages[i]);
}

TableArenaChunk& TableArena::entry(u32 chunk) const {
  return page(chunk / kTableArenaEntries).chunks[chunk % kTableArenaEntries];
}

// How many chunks start at or below `at`: the last of them, if any, is the only one that can contain it.
usize TableArena::place_of(const Lists& lists, u64 at) {
  usize low = 0, high = lists.sorted.size();
  while (low < high) {
    const usize middle = (low + high) / 2;
    if (lists.sorted[middle].base <= at) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

u32 TableArena::chunk_of(const Lists& lists, Phys page) {
  const usize place = place_of(lists, page.value);
  if (place == 0) return kNone;
  const u32 chunk = lists.sorted[place - 1].chunk;
  return page.value - lists.chunks[chunk].base < lists.chunks[chunk].bytes() ? chunk : kNone;
}

void TableArena::link(u32 chunk) {
  Chunk& c = lists_.chunks[chunk];
  c.prev = kNone;
  c.next = partial_;
  if (partial_ != kNone) lists_.chunks[partial_].prev = chunk;
  partial_ = chunk;
}

void TableArena::unlink(u32 chunk) {
  const Chunk& c = lists_.chunks[chunk];
  if (c.next != kNone) lists_.chunks[c.next].prev = c.prev;
  (c.prev != kNone ? lists_.chunks[c.prev].next : partial_) = c.next;
}

// A chunk as large as all so far together, so that a domain of few pages costs little memory and one of many costs
// few chunks; smaller where memory is short or in pieces.
Result<Phys> TableArena::alloc_chunk(unsigned& order) {
  order = total_ == 0 ? kMinOrder : 63 - static_cast<unsigned>(__builtin_clzll(total_));
  if (order < kMinOrder) order = kMinOrder;
  if (order > abi::kTableArenaMaxOrder) order = abi::kTableArenaMaxOrder;
  for (;; --order) {
    auto at = heap_.frames().alloc(order);
    if (at || order == 0) return at;
  }
}

Result<void> TableArena::add_chunk() {
  const u32 number = static_cast<u32>(lists_.chunks.size());
  TRY(lists_.chunks.reserve(number + 1));
  TRY(lists_.sorted.reserve(number + 1));
  if (number % kTableArenaEntries == 0) {
    TRY(lists_.pages.reserve(lists_.pages.size() + 1));
    const Phys descriptor = TRY(heap_.frames().alloc_zeroed(0));
    TRY(lists_.pages.push_back(descriptor));
  }
  unsigned order = 0;
  auto base = alloc_chunk(order);
  if (!base) {
    if (number % kTableArenaEntries == 0) {
      heap_.frames().free(lists_.pages.back(), 0);
      lists_.pages.pop_back();
    }
    return fail(base.error());
  }

  TableArenaPage& p = page(number / kTableArenaEntries);
  if (number % kTableArenaEntries == 0) {
    const Phys self = lists_.pages.back();
    p.magic = abi::kTableArenaMagic;
    p.version = abi::kTableArenaVersion;
    p.self = self.value;
    p.first = lists_.pages[0].value;
    p.index = number / kTableArenaEntries;
    if (p.index != 0) page(p.index - 1).next = self.value;
  }
  p.chunks[p.count++] = {.base = base->value, .order = order};
  const Chunk chunk{base->value, kNone, kNone, static_cast<u16>(1u << order), static_cast<u8>(order), 0};
  // Cannot fail: reserved above.
  const usize place = place_of(lists_, base->value);
  PERDURE_ASSERT(lists_.chunks.push_back(chunk) && lists_.sorted.insert_at(place, {base->value, number}));
  total_ += chunk.pages();
  link(number);
  return {};
}

// Renumbers a chunk, into a number that is free.
void TableArena::move_chunk(u32 from, u32 to) {
  const Chunk& c = lists_.chunks[from];
  lists_.sorted[place_of(lists_, c.base) - 1].chunk = to;
  if (spare_ == from) {
    spare_ = to;
  } else if (c.free != 0) {
    if (c.next != kNone) lists_.chunks[c.next].prev = to;
    (c.prev != kNone ? lists_.chunks[c.prev].next : partial_) = to;
  }
  entry(to) = entry(from);
  lists_.chunks[to] = c;
}

// The chunk is empty and in no list. The last one takes its number.
void TableArena::remove_chunk(u32 chunk) {
  const Chunk c = lists_.chunks[chunk];
  lists_.sorted.erase_at(place_of(lists_, c.base) - 1);
  const u32 last = static_cast<u32>(lists_.chunks.size()) - 1;
  if (chunk != last) move_chunk(last, chunk);
  lists_.chunks.pop_back();
  entry(last) = {};
  if (--page(last / kTableArenaEntries).count == 0) {
    heap_.frames().free(lists_.pages.back(), 0);
    lists_.pages.pop_back();
    if (!lists_.pages.empty()) page(lists_.pages.size() - 1).next = 0;
  }
  total_ -= c.pages();
  heap_.frames().free(Phys(c.base), c.order);
}

// --- pages --------------------------------------------------------------------------------------------------

Result<Phys> TableArena::alloc_page() {
  Phys at;
  {
    const MutexGuard guard(lock_);
    if (partial_ == kNone) {
      if (spare_ != kNone) {
        link(std::exchange(spare_, kNone));
      } else {
        TRY(add_chunk());
      }
    }
    const u32 number = partial_;
    Chunk& c = lists_.chunks[number];
    TableArenaChunk& e = entry(number);
    while (e.used[c.hint] == ~u64{0}) ++c.hint;
    const unsigned bit = static_cast<unsigned>(__builtin_ctzll(~e.used[c.hint]));
    const unsigned index = c.hint * 64u + bit;
    PERDURE_ASSERT(index < c.pages());
    e.used[c.hint] |= u64{1} << bit;
    if (--c.free == 0) unlink(number);
    ++in_use_;
    at = Phys(c.base + index * kPageSize);
  }
  std::memset(heap_.machine().virt(at), 0, kPageSize);
  return at;
}

void TableArena::free_page(Phys page) {
  const MutexGuard guard(lock_);
  const u32 number = chunk_of(lists_, page);
  PERDURE_ASSERT(number != kNone && page.aligned(kPageSize));
  Chunk& c = lists_.chunks[number];
  const unsigned index = static_cast<unsigned>((page.value - c.base) >> kPageShift);
  u64& word = entry(number).used[index / 64];
  const u64 bit = u64{1} << (index % 64);
  PERDURE_ASSERT((word & bit) != 0);
  word &= ~bit;
  --in_use_;
  if (index / 64 < c.hint) c.hint = static_cast<u8>(index / 64);
  if (++c.free == 1) link(number);
  if (c.free != c.pages()) return;
  unlink(number);
  if (spare_ == kNone) {
    spare_ = number;
  } else {
    remove_chunk(number);
  }
}

bool TableArena::owns(Phys page) const {
  if (!page.aligned(kPageSize)) return false;
  const MutexGuard guard(lock_);
  const u32 number = chunk_of(lists_, page);
  if (number == kNone) return false;
  const u64 index = (page.value - lists_.chunks[number].base) >> kPageShift;
  return ((entry(number).used[index / 64] >> (index % 64)) & 1) != 0;
}

u64 TableArena::pages_in_use() const {
  const MutexGuard guard(lock_);
  return in_use_;
}

u64 TableArena::chunk_count() const {
  const MutexGuard guard(lock_);
  return lists_.chunks.size();
}

void TableArena::trim() {
  const MutexGuard guard(lock_);
  if (spare_ != kNone) remove_chunk(std::exchange(spare_, kNone));
}

// --- handover -----------------------------------------------------------------------------------------------

Result<void> TableArena::each_block(FunctionRef<Result<void>(Phys base, unsigned order)> visit) const {
  for (usize i = 0;; ++i) {
    Phys at;
    unsigned order = 0;
    {
      const MutexGuard guard(lock_);
      const usize pages = lists_.pages.size();
      if (i >= pages + lists_.chunks.size()) return {};
      if (i < pages) {
        at = lists_.pages[i];
      } else {
        at = Phys(lists_.chunks[i - pages].base);
        order = lists_.chunks[i - pages].order;
      }
    }
    TRY(visit(at, order));
  }
}

void TableArena::seal() {
  const MutexGuard guard(lock_);
  for (usize i = 0; i < lists_.pages.size(); ++i) {
    TableArenaPage& p = page(i);
    p.used_pages = 0;
    for (u32 k = 0; k < p.count; ++k) {
      const Chunk& c = lists_.chunks[i * kTableArenaEntries + k];
      p.used_pages += u32{c.pages()} - c.free;
    }
    abi::seal(abi::kTableArenaPageSchema, std::as_writable_bytes(std::span(&p, 1)));
  }
}

Phys TableArena::first_descriptor() const {
  const MutexGuard guard(lock_);
  return lists_.pages.empty() ? Phys() : lists_.pages[0];
}

void TableArena::forget() {
  lists_.pages.clear();
  lists_.chunks.clear();
  lists_.sorted.clear();
  partial_ = spare_ = kNone;
  in_use_ = total_ = 0;
}

void TableArena::abandon() {
  const MutexGuard guard(lock_);
  forget();
}

namespace {

std::unexpected<Errno> refuse(Machine& machine, Phys at, std::string_view what, std::string_view field = {}) {
  log(machine, LogLevel::Warn, Line() << "table arena: descriptor page " << at << ": " << what << field);
  return fail(Errno::Einval);
}

}  // namespace

// The chunks of one descriptor page, whose checksum is right. Bounds, form and free maps; not yet overlap.
Result<void> TableArena::read_page(Lists& lists, const TableArenaPage& page) const {
  const Phys self(page.self);
  u32 used_pages = 0;
  for (u32 i = 0; i < kTableArenaEntries; ++i) {
    const TableArenaChunk& e = page.chunks[i];
    if (i >= page.count) {
      constexpr TableArenaChunk kUnused;
      if (std::memcmp(&e, &kUnused, sizeof(e)) != 0) return refuse(heap_.machine(), self, "unused entry is not zero");
      continue;
    }
    const abi::FieldDef* bad = nullptr;
    if (!abi::validate(abi::kTableArenaChunkSchema, std::as_bytes(std::span(&e, 1)), &bad)) {
      return refuse(heap_.machine(), self, "chunk with bad field ", bad->name);
    }
    Chunk c{e.base, kNone, kNone, 0, static_cast<u8>(e.order), 0};
    if (!Phys(c.base).aligned(c.bytes()) || !heap_.machine().in_window(Phys(c.base), c.bytes())) {
      return refuse(heap_.machine(), self, "chunk is unaligned or beyond the physical address space");
    }
    u32 used = 0;
    for (u32 w = 0; w < 8; ++w) {
      const u32 pages = c.pages();
      const u64 valid = pages >= (w + 1) * 64 ? ~u64{0} : pages <= w * 64 ? 0 : (u64{1} << (pages - w * 64)) - 1;
      if ((e.used[w] & ~valid) != 0) return refuse(heap_.machine(), self, "pages in use beyond the end of a chunk");
      used += popcount(e.used[w]);
    }
    c.free = static_cast<u16>(c.pages() - used);
    used_pages += used;
    TRY(lists.sorted.push_back({c.base, static_cast<u32>(lists.chunks.size())}));
    TRY(lists.chunks.push_back(c));
  }
  if (used_pages != page.used_pages) return refuse(heap_.machine(), self, "number of pages in use is wrong");
  return {};
}

// Ends on any chain: each page says which index it has, so a page that comes up again is the wrong one.
Result<void> TableArena::read_chain(Lists& lists, Phys first, FunctionRef<bool(Phys base, u64 length)> readable) const {
  Machine& machine = heap_.machine();
  for (Phys at = first; at; at = Phys(machine.virt<TableArenaPage>(at)->next)) {
    if (!at.aligned(kPageSize) || !machine.in_window(at, kPageSize) || !readable(at, kPageSize)) {
      return refuse(machine, at, "not in preserved memory");
    }
    const auto& p = *machine.virt<TableArenaPage>(at);
    const abi::FieldDef* bad = nullptr;
    if (!abi::validate(abi::kTableArenaPageSchema, std::as_bytes(std::span(&p, 1)), &bad)) {
      return refuse(machine, at, "bad field ", bad->name);
    }
    if (p.self != at.value || p.first != first.value || p.index != lists.pages.size()) {
      return refuse(machine, at, "belongs to another chain or another place in it");
    }
    if (p.next != 0 && p.count != kTableArenaEntries) return refuse(machine, at, "not full, but not the last");
    TRY(lists.pages.push_back(at));
    const usize before = lists.chunks.size();
    TRY(read_page(lists, p));
    for (usize i = before; i < lists.chunks.size(); ++i) {
      const Chunk& c = lists.chunks[i];
      if (!readable(Phys(c.base), c.bytes())) return refuse(machine, at, "chunk is not in preserved memory");
    }
  }
  return check_overlap(lists);
}

Result<void> TableArena::check_overlap(Lists& lists) const {
  sort(lists.sorted.span(), [](const Place& a, const Place& b) { return a.base < b.base; });
  for (usize i = 1; i < lists.sorted.size(); ++i) {
    const Chunk& before = lists.chunks[lists.sorted[i - 1].chunk];
    if (lists.sorted[i].base - before.base < before.bytes()) {
      return refuse(heap_.machine(), Phys(before.base), "chunk overlaps another");
    }
  }
  for (const Phys at : lists.pages) {
    if (chunk_of(lists, at) != kNone) return refuse(heap_.machine(), at, "descriptor page lies in a chunk");
  }
  return {};
}

Result<void> TableArena::adopt(Phys first_descriptor, FunctionRef<bool(Phys base, u64 length)> readable,
                               FunctionRef<Result<void>(Phys base, unsigned order)> restore) {
  PERDURE_ASSERT(chunk_count() == 0);
  Lists lists(heap_);
  TRY(read_chain(lists, first_descriptor, readable));
  for (const Phys at : lists.pages) TRY(restore(at, 0));
  for (const Chunk& c : lists.chunks) TRY(restore(Phys(c.base), c.order));

  const MutexGuard guard(lock_);
  lists_ = std::move(lists);
  for (u32 i = 0; i < lists_.chunks.size(); ++i) {
    const Chunk& c = lists_.chunks[i];
    in_use_ += c.pages() - c.free;
    total_ += c.pages();
    if (c.free != 0) link(i);
  }
  // What the former kernel left empty; it leaves one at most, but need not.
  for (u32 i = static_cast<u32>(lists_.chunks.size()); i > 0; --i) {
    if (lists_.chunks[i - 1].free != lists_.chunks[i - 1].pages()) continue;
    unlink(i - 1);
    remove_chunk(i - 1);
  }
  return {};
}

}  // namespace perdure
