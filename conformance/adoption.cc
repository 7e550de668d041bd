// What a new kernel does to a unit that keeps translating (hardware.md §9.4): each step with a transfer under way,
// which must arrive where the old kernel's tables said.
#include "conformance/bench.h"
#include "conformance/list.h"

namespace perdure::conformance {

using namespace vtd;

namespace {

bool translating(Bench& b) {
  return (b.status() & (kTranslation | kSetRoot)) == (kTranslation | kSetRoot);
}

// As the old kernel leaves it: tables, a queue whose last descriptor was a wait, and DMA.
template <Mode M>
Table left_behind(Bench& b) {
  b.start(M);
  if (M == Mode::Legacy && (b.offers() & kQueued) != 0) b.start_queue();
  const Table table = b.simple();
  if (b.queue_on()) b.submit({iotlb_flush(Grain::Global)});
  b.require(b.write(0, Bench::kIova) == lands(0), "DMA through the table");
  b.start_write(0, Bench::kIova);
  return table;
}

// The transfer that was under way, a new one, and whether translation was on throughout.
Seen arrives(Bench& b, bool on) {
  const Observation under_way = b.finish_write(0);
  const Observation later = b.write(0, Bench::kIova);
  return {under_way, later, yes_if(on && translating(b))};
}

constexpr Seen kArrives{lands(0), lands(0), yes()};

template <Mode M>
Seen registers_tell_the_tables(Bench& b) {
  left_behind<M>(b);
  b.finish(0);
  constexpr u32 kExpected = kTranslation | kSetRoot | kQueue;
  return {yes_if(b.read64(kRoot) == b.root_value()), yes_if((b.status() & kExpected) == kExpected),
          yes_if((b.read64(kQueueAddress) & kAddress) == b.queue_base()),
          yes_if(b.read64(kQueueHead) == b.read64(kQueueTail))};
}

template <Mode M>
Seen queue_replaced(Bench& b) {
  left_behind<M>(b);
  const u64 old = b.queue_base();
  bool on = b.stop_queue() && translating(b);
  on = b.start_queue(0, M == Mode::Scalable) && on && translating(b);
  b.poison(old);
  on = b.flush_all() && on;
  return arrives(b, on);
}

Seen queue_changes_width(Bench& b) {
  left_behind<Mode::Legacy>(b);
  bool on = b.stop_queue();
  on = b.start_queue(1, true) && on;
  on = b.submit({context_flush(Grain::Global), pasid_flush_global(), iotlb_flush(Grain::Global)}) && on;
  return arrives(b, on);
}

template <Mode M>
Seen root_replaced(Bench& b) {
  left_behind<M>(b);
  const u64 old = b.root();
  const u64 copy = b.pages();
  b.copy_page(copy, old);
  bool on = b.set_root(b.root_value(copy)) && translating(b);
  on = b.flush_all() && on;
  b.poison(old);
  return arrives(b, on);
}

template <Mode M>
Seen contexts_replaced(Bench& b) {
  left_behind<M>(b);
  const u64 at = b.root_entry_at(0);
  const u64 old = b.load(at) & kAddress;
  const u64 copy = b.pages();
  b.copy_page(copy, old);
  b.store(at, copy | kPresent);
  const bool on = b.flush_all();
  b.poison(old);
  return arrives(b, on);
}

// One 64-bit store changes the root of a page table, with equal results.
template <Mode M>
Seen page_table_replaced(Bench& b) {
  const Table table = left_behind<M>(b);
  const u64 copy = b.pages();
  b.copy_page(copy, table.top);
  const u64 at = M == Mode::Legacy ? b.context_at(0) : b.pasid_at(0);
  b.store(at, (b.load(at) & ~kAddress) | copy);
  const bool on = b.flush_all();
  b.poison(table.top);
  return arrives(b, on);
}

Seen pasid_tables_replaced(Bench& b) {
  left_behind<Mode::Scalable>(b);
  const u64 at = b.context_at(0);
  const u64 old_directory = b.load(at) & kAddress;
  const u64 old_table = b.load(old_directory) & kAddress;
  const u64 directory = b.pages();
  const u64 entries = b.pages();
  b.copy_page(entries, old_table);
  b.store(directory, entries | kPresent);
  b.store(at, (b.load(at) & ~kAddress) | directory);
  const bool on = b.flush_all();
  b.poison(old_directory);
  b.poison(old_table);
  return arrives(b, on);
}

// All of it, in the order of §9.4.
template <Mode M>
Seen everything_replaced(Bench& b) {
  left_behind<M>(b);
  const u64 old_queue = b.queue_base();
  const u64 old_root = b.root();
  const u64 old_contexts = b.load(b.root_entry_at(0)) & kAddress;
  bool on = b.stop_queue() && translating(b);
  on = b.start_queue(1, M == Mode::Scalable) && on && translating(b);
  on = b.flush_all() && on;
  b.aim(kFaultControl, true);
  const u64 contexts = b.pages();
  b.copy_page(contexts, old_contexts);
  const u64 root = b.pages();
  b.copy_page(root, old_root);
  b.store(b.root_entry_at(0) - old_root + root, contexts | kPresent);
  on = b.set_root(b.root_value(root)) && on && translating(b);
  on = b.flush_all() && on;
  for (u64 page : {old_queue, old_root, old_contexts}) b.poison(page);
  return arrives(b, on);
}

// All requesters at once, and a chain of updates: the tables of each are the ones before, copied.
Seen root_replaced_again_and_again(Bench& b) {
  const Table table = left_behind<Mode::Legacy>(b);
  b.attach(1, table);
  b.flush_context(Grain::Fine, 0, b.source(1));
  b.start_write(1, Bench::kIova + 0x40);
  u64 old = b.root();
  u64 next = b.pages();
  bool on = true;
  for (int hop = 0; hop < 20; ++hop) {
    b.copy_page(next, old);
    on = b.set_root(next) && translating(b) && b.flush_all() && on;
    b.poison(old);
    const u64 free = old;
    old = next;
    next = free;
  }
  return {b.finish_write(1), b.finish_write(0), b.write(0, Bench::kIova), yes_if(on)};
}

// A unit without a queue, or one that is off: registers flush.
Seen root_replaced_without_a_queue(Bench& b) {
  b.start(Mode::Legacy);
  b.simple();
  b.require(b.write(0, Bench::kIova) == lands(0), "DMA through the table");
  b.start_write(0, Bench::kIova);
  const u64 old = b.root();
  const u64 copy = b.pages();
  b.copy_page(copy, old);
  bool on = b.set_root(copy) && translating(b);
  on = b.flush_all() && on;
  b.poison(old);
  return arrives(b, on);
}

// Flushes of the new queue know the old kernel's domains.
template <Mode M>
Seen adopted_domain_can_be_flushed(Bench& b) {
  const Table table = left_behind<M>(b);
  b.stop_queue();
  b.start_queue(0, M == Mode::Scalable);
  const Observation under_way = b.finish_write(0);
  b.map(table, Bench::kIova, b.target(1));
  const Observation stale = b.write(0, Bench::kIova);
  b.flush_iotlb(Grain::Fine, Bench::kDid, Bench::kIova);
  return {under_way, stale, b.write(0, Bench::kIova)};
}

Seen new_device_beside_adopted_ones(Bench& b) {
  const Table table = left_behind<Mode::Legacy>(b);
  b.attach(1, table);
  b.flush_context(Grain::Fine, 0, b.source(1));
  b.flush_context(Grain::Fine, Bench::kDid, b.source(1));
  const Observation other = b.write(1, Bench::kIova + 0x40);
  return {b.finish_write(0), other};
}

Seen fault_outlives_the_queue(Bench& b) {
  left_behind<Mode::Legacy>(b);
  b.finish(0);
  b.start_write(0, Bench::kOther);
  b.finish(0);
  const bool before = (b.fault_status() & kPending) != 0;
  b.stop_queue();
  b.start_queue();
  b.flush_all();
  return {yes_if(before), b.fault_of(0, Bench::kOther, false)};
}

// A fault while the old kernel had masked its event is the new one's to hear of.
Seen masked_fault_reaches_the_successor(Bench& b) {
  left_behind<Mode::Legacy>(b);
  b.finish(0);
  const u8 old = b.aim(kFaultControl, false);
  b.start_write(0, Bench::kOther);
  b.finish(0);
  const u8 successor = b.aim(kFaultControl, true);
  return {yes_if(b.came(old)), yes_if(b.came(successor))};
}

Seen cleared_fault_does_not(Bench& b) {
  left_behind<Mode::Legacy>(b);
  b.finish(0);
  b.aim(kFaultControl, false);
  b.start_write(0, Bench::kOther);
  b.finish(0);
  const u8 successor = b.aim(kFaultControl, false);
  b.take_fault();
  b.write32(kFaultStatus, kOverflow);  // QEMU looks at what is left then
  b.write32(kFaultControl, 0);
  const bool inherited = b.came(successor);
  b.start_write(0, Bench::kOther + perdure::kPageSize);
  b.finish(0);
  return {yes_if(inherited), yes_if(b.came(successor))};
}

// What must never happen, and what it looks like: a moment without translation loses what moves in it, silently.
Seen transfer_in_a_gap_is_lost(Bench& b) {
  left_behind<Mode::Legacy>(b);
  b.command(kTranslation, false);
  const Observation gap = b.finish_write(0);
  b.command(kTranslation, true);
  return {gap, b.write(0, Bench::kIova)};
}

// Old tables may go only once the flush is complete: until then the unit may walk them.
Seen poisoned_tables_fault(Bench& b) {
  left_behind<Mode::Legacy>(b);
  b.finish(0);
  b.poison(b.load(b.root_entry_at(0)) & kAddress);
  b.flush_all();
  return {yes_if(b.write(0, Bench::kIova).what == What::Faults)};
}

constexpr u32 kLegacyQueue = kQueued;

constexpr Behaviour kList[] = {
    {"adopt.legacy.registers_tell_the_tables",
     "§9.1, §9.3",
     kLegacyQueue,
     Software::Right,
     registers_tell_the_tables<Mode::Legacy>,
     {yes(), yes(), yes(), yes()}},
    {"adopt.scalable.registers_tell_the_tables",
     "§9.1, §9.3",
     kScalable,
     Software::Right,
     registers_tell_the_tables<Mode::Scalable>,
     {yes(), yes(), yes(), yes()}},
    {"adopt.legacy.queue_replaced", "§9.4: 2", kLegacyQueue, Software::Right, queue_replaced<Mode::Legacy>, kArrives},
    {"adopt.scalable.queue_replaced", "§9.4: 2", kScalable, Software::Right, queue_replaced<Mode::Scalable>, kArrives},
    {"adopt.queue_changes_width", "§9.4: 2, §1 DW", kScalable, Software::Right, queue_changes_width, kArrives},
    {"adopt.legacy.root_replaced", "§9.4: 5", kLegacyQueue, Software::Right, root_replaced<Mode::Legacy>, kArrives},
    {"adopt.scalable.root_replaced", "§9.4: 5", kScalable, Software::Right, root_replaced<Mode::Scalable>, kArrives},
    {"adopt.root_replaced_again_and_again",
     "§9.4: 5",
     kLegacyQueue,
     Software::Right,
     root_replaced_again_and_again,
     {lands(0), lands(0), lands(0), yes()}},
    {"adopt.root_replaced_without_a_queue", "§9.4: 2, 5", kNothing, Software::Right, root_replaced_without_a_queue,
     kArrives},
    {"adopt.legacy.contexts_replaced", "§9.4: 5", kLegacyQueue, Software::Right, contexts_replaced<Mode::Legacy>,
     kArrives},
    {"adopt.scalable.contexts_replaced", "§9.4: 5", kScalable, Software::Right, contexts_replaced<Mode::Scalable>,
     kArrives},
    {"adopt.legacy.page_table_replaced", "§9.5", kLegacyQueue, Software::Right, page_table_replaced<Mode::Legacy>,
     kArrives},
    {"adopt.scalable.page_table_replaced", "§9.5", kScalable, Software::Right, page_table_replaced<Mode::Scalable>,
     kArrives},
    {"adopt.scalable.pasid_tables_replaced", "§9.5", kScalable, Software::Right, pasid_tables_replaced, kArrives},
    {"adopt.legacy.everything_replaced", "§9.4", kLegacyQueue, Software::Right, everything_replaced<Mode::Legacy>,
     kArrives},
    {"adopt.scalable.everything_replaced", "§9.4", kScalable, Software::Right, everything_replaced<Mode::Scalable>,
     kArrives},
    {"adopt.legacy.adopted_domain_can_be_flushed",
     "§9.4: 7",
     kLegacyQueue | kKeeps,
     Software::Right,
     adopted_domain_can_be_flushed<Mode::Legacy>,
     {lands(0), lands(0), lands(1)}},
    {"adopt.scalable.adopted_domain_can_be_flushed",
     "§9.4: 7",
     kScalable | kKeeps,
     Software::Right,
     adopted_domain_can_be_flushed<Mode::Scalable>,
     {lands(0), lands(0), lands(1)}},
    {"adopt.new_device_beside_adopted_ones",
     "§9.4: 7",
     kLegacyQueue,
     Software::Right,
     new_device_beside_adopted_ones,
     {lands(0), lands(0)}},
    {"adopt.fault_outlives_the_queue",
     "§9.4: 2",
     kLegacyQueue,
     Software::Right,
     fault_outlives_the_queue,
     {yes(), faults(reason::kNoWrite)}},
    {"adopt.masked_fault_reaches_the_successor",
     "§9.2, §9.4: 4",
     kLegacyQueue,
     Software::Right,
     masked_fault_reaches_the_successor,
     {no(), yes()}},
    {"adopt.cleared_fault_does_not", "§9.4: 4", kLegacyQueue, Software::Right, cleared_fault_does_not, {no(), yes()}},
    {"adopt.transfer_in_a_gap_is_lost",
     "§9.5, §13",
     kLegacyQueue,
     Software::Right,
     transfer_in_a_gap_is_lost,
     {lost(), lands(0)}},
    {"adopt.poisoned_tables_fault", "§9.1", kLegacyQueue, Software::Wrong, poisoned_tables_fault, {yes()}},
};

}  // namespace

std::span<const Behaviour> adoption_behaviours() {
  return kList;
}

}  // namespace perdure::conformance
