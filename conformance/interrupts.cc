// Interrupt remapping (hardware.md §3.5, §7): messages of the first probe, sent on command.
#include "conformance/bench.h"
#include "conformance/list.h"

namespace perdure::conformance {

using namespace vtd;

namespace {

constexpr u64 kSize = 7;  // 2^(7 + 1) entries: one page

u64 entry_for(Bench& b, u8 vector, u64 flags = kPresent) {
  return interrupt_entry(vector, static_cast<u8>(b.message(vector).address >> 12), flags);
}

void set_entry(Bench& b, u64 table, u16 index, u64 low, u64 high = 0) {
  b.store(table + u64{index} * 16 + 8, high);
  b.store(table + u64{index} * 16, low);
}

// A table set and empty, a queue, remapping on.
u64 start(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue();
  const u64 table = b.pages();
  b.write64(kInterruptTable, table | kSize);
  bool good = b.command(kSetInterruptTable, true);
  good = b.submit({interrupt_flush()}) && good;
  good = b.command(kRemapping, true) && good;
  b.require(good, "remapping on");
  return table;
}

void raise(Bench& b, u16 index) {
  b.interrupt(0, remappable_address(index), 0);
}

// The record of a blocked message of the first probe.
Observation fault_of(Bench& b, u16 index) {
  const Fault f = b.take_fault();
  if (!f.found) return lost();
  const bool right = f.source == b.source(0) && f.low >> 48 == index;
  return right ? faults(f.reason) : Observation{What::Wrong, f.reason};
}

Seen status_follows_the_commands(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue();
  const u64 table = b.pages();
  b.write64(kInterruptTable, table | kSize);
  const bool staged = b.read64(kInterruptTable) == (table | kSize);
  const bool set = b.command(kSetInterruptTable, true);
  b.submit({interrupt_flush()});
  const bool on = b.command(kRemapping, true);
  const bool both = (b.status() & (kTranslation | kRemapping)) == (kTranslation | kRemapping);
  const bool off = b.command(kTranslation, false) && b.command(kRemapping, false);
  return {yes_if(staged), yes_if(set), yes_if(on), yes_if(both), yes_if(off)};
}

Seen untouched_while_off(Bench& b) {
  b.start(Mode::Legacy);
  const u8 vector = b.fresh_vector();
  const MsiTarget to = b.message(vector);
  b.interrupt(0, static_cast<u32>(to.address), to.data);
  return {yes_if(b.came(vector))};
}

Seen goes_through_its_entry(Bench& b) {
  const u64 table = start(b);
  const u8 vector = b.fresh_vector();
  const u8 unused = b.fresh_vector();
  set_entry(b, table, 5, entry_for(b, vector));
  b.interrupt(0, remappable_address(5), unused);
  return {yes_if(b.came(vector)), yes_if(b.came(unused)), fault_of(b, 5)};
}

Seen subhandle_is_added(Bench& b) {
  const u64 table = start(b);
  const u8 vector = b.fresh_vector();
  set_entry(b, table, 19, entry_for(b, vector));
  b.interrupt(0, remappable_address(16, true), 3);
  return {yes_if(b.came(vector))};
}

Seen entry_not_present(Bench& b) {
  const u64 table = start(b);
  const u8 vector = b.fresh_vector();
  set_entry(b, table, 5, entry_for(b, vector, 0));
  raise(b, 5);
  return {yes_if(b.came(vector)), fault_of(b, 5)};
}

Seen entry_silent(Bench& b) {
  const u64 table = start(b);
  set_entry(b, table, 5, kSilent);
  raise(b, 5);
  return {fault_of(b, 5)};
}

Seen index_beyond_the_table(Bench& b) {
  start(b);
  raise(b, 256);
  return {fault_of(b, 256)};
}

Seen entry_reserved(Bench& b) {
  const u64 table = start(b);
  const u8 vector = b.fresh_vector();
  set_entry(b, table, 5, entry_for(b, vector) | bit(13));
  raise(b, 5);
  return {yes_if(b.came(vector)), fault_of(b, 5)};
}

Seen source_is_checked(Bench& b) {
  const u64 table = start(b);
  const u8 vector = b.fresh_vector();
  constexpr u64 kBySource = 1 << 18;
  set_entry(b, table, 5, entry_for(b, vector), kBySource | b.source(1));
  raise(b, 5);
  const bool foreign = b.came(vector);
  const Observation fault = fault_of(b, 5);
  set_entry(b, table, 5, entry_for(b, vector), kBySource | b.source(0));
  b.submit({interrupt_flush(5)});
  raise(b, 5);
  return {yes_if(foreign), fault, yes_if(b.came(vector))};
}

// SQ 3: function numbers are not compared.
Seen source_qualifier_ignores_functions(Bench& b) {
  const u64 table = start(b);
  const u8 vector = b.fresh_vector();
  constexpr u64 kBySource = 1 << 18;
  constexpr u64 kAnyFunction = 3 << 16;
  set_entry(b, table, 5, entry_for(b, vector), kBySource | kAnyFunction | b.source(1));
  raise(b, 5);
  return {yes_if(b.came(vector))};
}

// SVT 2: buses from the high byte to the low one.
Seen source_is_in_a_range_of_buses(Bench& b) {
  const u64 table = start(b);
  const u8 vector = b.fresh_vector();
  constexpr u64 kByBus = 2 << 18;
  const u64 bus = b.source(0) >> 8;
  set_entry(b, table, 5, entry_for(b, vector), kByBus | (bus + 1) << 8 | (bus + 2));
  raise(b, 5);
  const bool outside = b.came(vector);
  while (b.take_fault().found) {
  }
  set_entry(b, table, 5, entry_for(b, vector), kByBus | bus << 8 | bus);
  b.submit({interrupt_flush(5)});
  raise(b, 5);
  return {yes_if(outside), yes_if(b.came(vector))};
}

// 2^3 entries, aligned.
Seen flush_of_a_range_of_entries(Bench& b) {
  const u64 table = start(b);
  const u8 vector = b.fresh_vector();
  set_entry(b, table, 13, entry_for(b, vector));
  raise(b, 13);
  const bool before = b.came(vector);
  const u8 second = b.fresh_vector();
  set_entry(b, table, 13, entry_for(b, second));
  b.submit({interrupt_flush(8, 3)});
  raise(b, 13);
  return {yes_if(before), yes_if(b.came(second))};
}

Seen works_while_translation_is_off(Bench& b) {
  const u64 table = start(b);
  const u8 vector = b.fresh_vector();
  set_entry(b, table, 5, entry_for(b, vector));
  b.command(kTranslation, false);
  raise(b, 5);
  return {yes_if(b.came(vector))};
}

Seen compatible_message(Bench& b, bool allowed) {
  start(b);
  if (allowed) b.command(kCompatible, true);
  const bool shown = (b.status() & kCompatible) != 0;
  const u8 vector = b.fresh_vector();
  const MsiTarget to = b.message(vector);
  b.interrupt(0, static_cast<u32>(to.address), to.data);
  return {yes_if(shown), yes_if(b.came(vector)), yes_if(b.take_fault().reason == reason::kCompatibilityBlocked)};
}

Seen compatible_message_is_blocked(Bench& b) {
  return compatible_message(b, false);
}

Seen compatible_message_is_allowed(Bench& b) {
  return compatible_message(b, true);
}

template <bool kIndexed>
Seen entry_stays_until_its_flush(Bench& b) {
  const u64 table = start(b);
  const u8 first = b.fresh_vector();
  const u8 second = b.fresh_vector();
  const u8 third = b.fresh_vector();
  set_entry(b, table, 5, entry_for(b, first));
  raise(b, 5);
  const bool before = b.came(first);
  set_entry(b, table, 5, entry_for(b, second));
  raise(b, 5);
  const bool early = b.came(second);
  set_entry(b, table, 5, entry_for(b, third));
  b.submit({kIndexed ? interrupt_flush(5) : interrupt_flush()});
  raise(b, 5);
  return {yes_if(before), yes_if(early), yes_if(b.came(third))};
}

Seen new_entry_needs_no_flush(Bench& b) {
  const u64 table = start(b);
  raise(b, 5);
  b.take_fault();
  const u8 vector = b.fresh_vector();
  set_entry(b, table, 5, entry_for(b, vector));
  raise(b, 5);
  return {yes_if(b.came(vector))};
}

// §9.4, step 6: a copy, SIRTP, and a flush, with remapping on.
Seen table_is_replaced_live(Bench& b) {
  const u64 table = start(b);
  const u8 first = b.fresh_vector();
  set_entry(b, table, 5, entry_for(b, first));
  raise(b, 5);
  const bool before = b.came(first);
  const u64 copy = b.pages();
  b.copy_page(copy, table);
  const u8 second = b.fresh_vector();
  set_entry(b, copy, 6, entry_for(b, second));
  b.write64(kInterruptTable, copy | kSize);
  b.command(kSetInterruptTable, true);
  b.submit({interrupt_flush()});
  for (u64 i = 0; i < perdure::kPageSize; i += 8) b.store(table + i, 0);
  raise(b, 6);
  const bool remaps = (b.status() & (kTranslation | kRemapping)) == (kTranslation | kRemapping);
  return {yes_if(before), yes_if(b.came(second)), yes_if(remaps)};
}

// What must never happen while translating: messages then go where they say, past the table.
Seen dropped_while_translating(Bench& b) {
  const u64 table = start(b);
  const u8 vector = b.fresh_vector();
  const u8 said = b.fresh_vector();
  set_entry(b, table, 5, entry_for(b, vector));
  b.command(kRemapping, false);
  const MsiTarget to = b.message(said);
  b.interrupt(0, static_cast<u32>(to.address), to.data);
  return {yes_if(b.came(vector)), yes_if(b.came(said))};
}

// The unit's own messages are never remapped.
Seen fault_event_is_not_remapped(Bench& b) {
  start(b);
  const u8 vector = b.aim(kFaultControl, true);
  b.start_write(0, Bench::kIova);
  b.finish(0);
  return {yes_if(b.came(vector))};
}

constexpr std::string_view kReadEachTime = "entries are read each time: a forgotten flush does not show";
constexpr std::string_view kCompatible72 = "messages in compatibility format always pass, and CFIS stays 0";
constexpr std::string_view kNotRecorded = "the message is blocked, but no fault of interrupt remapping is recorded";

constexpr Behaviour kList[] = {
    {"interrupts.status_follows_the_commands",
     "§1 GCMD",
     kRemaps,
     Software::Right,
     status_follows_the_commands,
     {yes(), yes(), yes(), yes(), yes()}},
    {"interrupts.untouched_while_off", "§3.5", kRemaps, Software::Right, untouched_while_off, {yes()}},
    {"interrupts.goes_through_its_entry",
     "§3.5",
     kRemaps,
     Software::Right,
     goes_through_its_entry,
     {yes(), no(), lost()}},
    {"interrupts.subhandle_is_added", "§3.5", kRemaps, Software::Right, subhandle_is_added, {yes()}},
    {"interrupts.entry_not_present",
     "§7: 22",
     kRemaps,
     Software::Right,
     entry_not_present,
     {no(), faults(reason::kEntryNotPresent)},
     {{no(), lost()}, kNotRecorded, true}},
    {"interrupts.entry_silent", "§3.5 FPD", kRemaps, Software::Right, entry_silent, {lost()}},
    {"interrupts.index_beyond_the_table",
     "§7: 21",
     kRemaps,
     Software::Right,
     index_beyond_the_table,
     {faults(reason::kIndexBeyond)},
     {{lost()}, kNotRecorded, true}},
    {"interrupts.entry_reserved_bit",
     "§7: 24",
     kRemaps,
     Software::Wrong,
     entry_reserved,
     {no(), faults(reason::kEntryReserved)},
     {{no(), lost()}, kNotRecorded, true}},
    {"interrupts.source_is_checked",
     "§7: 26",
     kRemaps,
     Software::Right,
     source_is_checked,
     {no(), faults(reason::kWrongSource), yes()},
     {{no(), lost(), yes()}, kNotRecorded, true}},
    {"interrupts.source_qualifier_ignores_functions",
     "§3.5 SQ",
     kRemaps,
     Software::Right,
     source_qualifier_ignores_functions,
     {yes()}},
    {"interrupts.source_is_in_a_range_of_buses",
     "§3.5 SVT",
     kRemaps,
     Software::Right,
     source_is_in_a_range_of_buses,
     {no(), yes()}},
    {"interrupts.flush_of_a_range_of_entries",
     "§5 IM",
     kRemaps,
     Software::Right,
     flush_of_a_range_of_entries,
     {yes(), yes()}},
    {"interrupts.works_while_translation_is_off",
     "§1",
     kRemaps,
     Software::Right,
     works_while_translation_is_off,
     {yes()}},
    {"interrupts.compatible_message_is_blocked",
     "§7: 25",
     kRemaps,
     Software::Right,
     compatible_message_is_blocked,
     {no(), no(), yes()},
     {{no(), yes(), no()}, kCompatible72, true}},
    {"interrupts.compatible_message_is_allowed",
     "§1 CFI",
     kRemaps,
     Software::Right,
     compatible_message_is_allowed,
     {yes(), yes(), no()},
     {{no(), yes(), no()}, kCompatible72, true}},
    {"interrupts.entry_stays_until_its_flush",
     "§6 IRTE",
     kRemaps | kKeeps,
     Software::Right,
     entry_stays_until_its_flush<true>,
     {yes(), no(), yes()},
     {{yes(), yes(), yes()}, kReadEachTime, true}},
    {"interrupts.entry_stays_until_a_global_flush",
     "§6 IRTE",
     kRemaps | kKeeps,
     Software::Right,
     entry_stays_until_its_flush<false>,
     {yes(), no(), yes()},
     {{yes(), yes(), yes()}, kReadEachTime, true}},
    {"interrupts.new_entry_needs_no_flush",
     "§6 CM = 0",
     kRemaps | kNoCachingMode,
     Software::Right,
     new_entry_needs_no_flush,
     {yes()}},
    {"interrupts.table_is_replaced_live",
     "§9.4: 6",
     kRemaps,
     Software::Right,
     table_is_replaced_live,
     {yes(), yes(), yes()}},
    {"interrupts.dropped_while_translating",
     "§9.5",
     kRemaps,
     Software::Wrong,
     dropped_while_translating,
     {no(), yes()}},
    {"interrupts.fault_event_is_not_remapped", "§1", kRemaps, Software::Right, fault_event_is_not_remapped, {yes()}},
};

}  // namespace

std::span<const Behaviour> interrupt_behaviours() {
  return kList;
}

}  // namespace perdure::conformance
