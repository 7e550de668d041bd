// First-stage tables, which are laid out as the processor's (hardware.md §3.4).
#include "conformance/bench.h"
#include "conformance/list.h"

namespace perdure::conformance {

using namespace vtd;

namespace {

constexpr u64 kUser = 4;  // with kRead (present) and kWrite (writable): an ordinary entry
constexpr u64 kOrdinary = kRead | kWrite | kUser;
constexpr unsigned kAccessedAt = 5;  // and dirty behind it
constexpr u64 kBeyondMemory = u64{1} << 51;

u64 index_at(u64 iova, unsigned level) {
  return (iova >> (12 + 9 * (level - 1)) & 0x1FF) * 8;
}

// Where the entry of `level` is; tables above are made as needed.
u64 entry_at(Bench& b, u64 top, u64 iova, unsigned level) {
  u64 at = top;
  for (unsigned l = 4; l > level; --l) {
    const u64 slot = at + index_at(iova, l);
    if ((b.load(slot) & kPresent) == 0) b.store(slot, b.pages() | kOrdinary);
    at = b.load(slot) & kAddress;
  }
  return at + index_at(iova, level);
}

// A table of four levels, attached, with kIova on target 0. The second stage's width is written, too: 48 bits.
u64 attach(Bench& b, u16 did = Bench::kDid) {
  const u64 top = b.pages();
  b.store(entry_at(b, top, Bench::kIova, 1), b.target(0) | kOrdinary);
  const u64 entry = b.pasid_at(0);
  b.store(entry + 16, top);
  b.store(entry + 8, did | ((b.ecap() & bit(48)) != 0 ? kSnoopWalks : 0));
  b.store(entry, kPresent | kGrantFirst | 2 << 2);
  return top;
}

u64 start(Bench& b) {
  b.start(Mode::Scalable);
  return attach(b);
}

void map_mailbox(Bench& b, u64 top) {
  b.store(entry_at(b, top, Bench::mailbox_iova(), 1), b.mailbox() | kOrdinary);
}

template <class Spoil>
Seen spoiled(Bench& b, Spoil spoil) {
  const u64 top = start(b);
  spoil(top);
  return {b.write(0, Bench::kIova)};
}

Seen page(Bench& b) {
  const u64 top = start(b);
  map_mailbox(b, top);
  return {b.write(0, Bench::kIova), b.read(0, Bench::kIova + 0x10)};
}

Seen page_of_2m(Bench& b) {
  const u64 top = start(b);
  constexpr u64 kLarge = u64{1} << 31;
  const u64 base = b.target(2) & ~u64{0x1F'FFFF};
  b.store(entry_at(b, top, kLarge, 2), base | kOrdinary | kPageSize);
  return {b.write(0, kLarge + (b.target(2) - base))};
}

Seen sets_accessed_and_dirty(Bench& b) {
  const u64 top = start(b);
  map_mailbox(b, top);
  const u64 leaf = entry_at(b, top, Bench::kIova, 1);
  const Observation read = b.read(0, Bench::kIova);
  const u64 after_read = b.load(leaf) >> kAccessedAt & 3;
  const Observation written = b.write(0, Bench::kIova);
  const u64 upper = b.load(entry_at(b, top, Bench::kIova, 2)) >> kAccessedAt & 1;
  return {read, number(after_read), written, number(b.load(leaf) >> kAccessedAt & 3), number(upper)};
}

// The field of second-stage tables says nothing about these.
Seen width_of_the_second_stage(Bench& b) {
  start(b);
  b.store(b.pasid_at(0), kPresent | kGrantFirst);
  return {b.write(0, Bench::kIova)};
}

Seen not_present(Bench& b) {
  start(b);
  return {b.write(0, Bench::kOther), b.read(0, Bench::kOther + perdure::kPageSize)};
}

Seen not_writable(Bench& b) {
  const u64 top = start(b);
  map_mailbox(b, top);
  b.store(entry_at(b, top, Bench::kIova, 1), b.target(0) | kRead | kUser);
  return {b.write(0, Bench::kIova), b.read(0, Bench::kIova)};
}

Seen not_for_users(Bench& b) {
  return spoiled(b, [&](u64 top) { b.store(entry_at(b, top, Bench::kIova, 1), b.target(0) | kRead | kWrite); });
}

Seen reserved(Bench& b) {
  return spoiled(b, [&](u64 top) { b.store(entry_at(b, top, Bench::kIova, 1), kBeyondMemory | kOrdinary); });
}

Seen table_unreadable(Bench& b) {
  return spoiled(b, [&](u64 top) { b.store(entry_at(b, top, Bench::kIova, 2), b.nothing() | kOrdinary); });
}

Seen top_unreadable(Bench& b) {
  return spoiled(b, [&](u64) { b.store(b.pasid_at(0) + 16, b.nothing()); });
}

Seen not_canonical(Bench& b) {
  start(b);
  return {b.write(0, Bench::kIova | bit(47)), b.write(0, Bench::kIova)};
}

Seen new_page_needs_no_flush(Bench& b) {
  const u64 top = start(b);
  const Observation blocked = b.write(0, Bench::kOther);
  b.store(entry_at(b, top, Bench::kOther, 1), b.target(2) | kOrdinary);
  return {yes_if(blocked != lands(2)), b.write(0, Bench::kOther)};
}

u64 remapped(Bench& b) {
  const u64 top = start(b);
  b.require(b.write(0, Bench::kIova) == lands(0), "DMA through the table");
  b.store(entry_at(b, top, Bench::kIova, 1), b.target(1) | kOrdinary);
  return top;
}

// Translations go with their own flush, of their own PASID.
Seen page_stays_until_its_flush(Bench& b) {
  remapped(b);
  const Observation stale = b.write(0, Bench::kIova);
  b.submit({pasid_iotlb_flush(Bench::kDid, 1)});
  const Observation foreign = b.write(0, Bench::kIova);
  b.submit({pasid_iotlb_flush(Bench::kDid, 0)});
  return {stale, foreign, b.write(0, Bench::kIova)};
}

Seen page_changes_with_a_page_flush(Bench& b) {
  remapped(b);
  b.submit({pasid_iotlb_flush(Bench::kDid, 0, Bench::kIova, 0)});
  return {b.write(0, Bench::kIova)};
}

Seen page_stays_with_another_pages_flush(Bench& b) {
  remapped(b);
  b.submit({pasid_iotlb_flush(Bench::kDid, 0, Bench::kOther, 0)});
  return {b.write(0, Bench::kIova)};
}

Seen root_replaced(Bench& b) {
  start(b);
  b.require(b.write(0, Bench::kIova) == lands(0), "DMA through the table");
  b.start_write(0, Bench::kIova);
  const u64 old = b.root();
  const u64 copy = b.pages();
  b.copy_page(copy, old);
  const bool on = b.set_root(b.root_value(copy)) && b.flush_all();
  b.poison(old);
  return {b.finish_write(0), b.write(0, Bench::kIova), yes_if(on)};
}

constexpr Behaviour kList[] = {
    {"first_stage.page", "§3.4", kFirstStage, Software::Right, page, {lands(0), lands(0)}},
    {"first_stage.page_of_2m", "§3.4", kFirstStage, Software::Right, page_of_2m, {lands(2)}},
    {"first_stage.sets_accessed_and_dirty",
     "§3.4 A, D",
     kFirstStage,
     Software::Right,
     sets_accessed_and_dirty,
     {lands(0), number(1), lands(0), number(3), number(1)},
     {},
     {{lands(0), number(1), lands(0), number(1), number(1)},
      "a write through a translation that a read has cached does not set D"}},
    {"first_stage.width_of_the_second_stage",
     "§3.2 AW",
     kFirstStage,
     Software::Right,
     width_of_the_second_stage,
     {lands(0)},
     {},
     {{faults(reason::kNotCanonical)}, "addresses are checked against the second stage's AW: write it, too"}},
    {"first_stage.not_present",
     "§7: 71",
     kFirstStage,
     Software::Right,
     not_present,
     {faults(reason::kFirstNotPresent), faults(reason::kFirstNotPresent)}},
    {"first_stage.not_writable",
     "§7: 85",
     kFirstStage,
     Software::Right,
     not_writable,
     {faults(reason::kFirstNoWrite), lands(0)}},
    {"first_stage.not_for_users",
     "§7: 81",
     kFirstStage,
     Software::Right,
     not_for_users,
     {faults(reason::kNotForUsers)}},
    {"first_stage.reserved_bit", "§7: 72", kFirstStage, Software::Wrong, reserved, {faults(reason::kFirstReserved)}},
    {"first_stage.table_unreadable",
     "§7: 70",
     kFirstStage,
     Software::Wrong,
     table_unreadable,
     {faults(reason::kFirstUnreadable)}},
    {"first_stage.top_unreadable",
     "§7: 73",
     kFirstStage,
     Software::Wrong,
     top_unreadable,
     {faults(reason::kFirstPointer)}},
    {"first_stage.not_canonical",
     "§7: 80",
     kFirstStage,
     Software::Right,
     not_canonical,
     {faults(reason::kNotCanonical), lands(0)}},
    {"first_stage.new_page_needs_no_flush",
     "§3.4, §6",
     kFirstStage,
     Software::Right,
     new_page_needs_no_flush,
     {yes(), lands(2)}},
    {"first_stage.page_stays_until_its_flush",
     "§6",
     kFirstStage | kKeeps,
     Software::Right,
     page_stays_until_its_flush,
     {lands(0), lands(0), lands(1)}},
    {"first_stage.page_changes_with_a_page_flush",
     "§6",
     kFirstStage,
     Software::Right,
     page_changes_with_a_page_flush,
     {lands(1)}},
    {"first_stage.page_stays_with_another_pages_flush",
     "§6",
     kFirstStage | kPageFlush | kKeeps,
     Software::Right,
     page_stays_with_another_pages_flush,
     {lands(0)}},
    {"first_stage.root_replaced", "§9.4: 5", kFirstStage, Software::Right, root_replaced, {lands(0), lands(0), yes()}},
};

}  // namespace

std::span<const Behaviour> first_stage_behaviours() {
  return kList;
}

}  // namespace perdure::conformance
