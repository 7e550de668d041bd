#include "core/vtd/vtd_unit.h"

#include <algorithm>
#include <bit>

#include "core/vtd/unit_log.h"

namespace perdure::vtd {
namespace {

// Page-selective descriptors that one range may take before the whole domain is flushed instead.
constexpr unsigned kMaxPageFlushes = 8;

Result<TableMode> mode_for(const Capabilities& can, TableModePolicy policy) {
  switch (policy) {
    case TableModePolicy::Legacy: return TableMode::Legacy;
    case TableModePolicy::Auto: return can.scalable() ? TableMode::Scalable : TableMode::Legacy;
    case TableModePolicy::Scalable: break;
  }
  if (!can.scalable()) return fail(Errno::Eopnotsupp);
  return TableMode::Scalable;
}

}  // namespace

VtdUnit::VtdUnit(Heap& heap, Phys base, u16 segment, const Capabilities& can, TableMode mode, const UnitConfig& config)
    : heap_(heap),
      can_(can),
      mode_(mode),
      info_{base,
            segment,
            can.cap,
            can.ecap,
            can.did_limit(),
            can.geometry(mode, config.stage),
            can.dirty_tracking(mode)},
      registers_(heap.machine(), base, config.timeout_ns),
      writer_(heap.machine(), can.entries_coherent(mode)),
      limits_(can.limits(mode)),
      drain_{Cap::Drd::test(can.cap), Cap::Dwd::test(can.cap)},
      remap_(config.interrupt_remapping && Ecap::Ir::test(can.ecap)),
      renew_root_(config.renew_root_table),
      defer_fault_event_(config.defer_fault_event),
      faults_(registers_, segment, can.cap, config.faults),
      queue_(registers_, writer_),
      interrupts_(heap, registers_, queue_, segment, can.cap, can.ecap),
      dids_(heap),
      saved_(heap) {}

VtdUnit::~VtdUnit() {
  MutexGuard guard(lock_);
  if (state_ != State::Off && state_ != State::Suspended) {
    // Devices may be running through these tables: turning translation off would let them loose (design §7), and the
    // pages cannot be given to anybody else.
    log(heap_.machine(), LogLevel::Warn, unit_line(info_.base) << "left translating; its tables and its queue stay");
    return;
  }
  if (interrupts_.stop()) interrupts_.release();
  if (queue_.memory().base && (!queue_.in_use() || queue_.stop())) {
    InvalidationQueue::release(heap_.frames(), queue_.memory());
  }
  if (tables_) tables_->free_pages();
}

Result<Owned<VtdUnit>> VtdUnit::probe(Heap& heap, Phys base, u16 segment, const UnitConfig& config,
                                      const TableMode* recorded) {
  Machine& machine = heap.machine();
  if (!base || !base.aligned(kPageSize) || config.host_address_bits < 32 || config.host_address_bits > 52) {
    log(machine, LogLevel::Error,
        unit_line(base) << "registers must be page-aligned, the host address width in 32..52, not "
                        << config.host_address_bits);
    return fail(Errno::Einval);
  }
  const RegisterFile registers(machine, base, config.timeout_ns);
  const u64 cap = registers.read(reg::kCap);
  const u64 ecap = registers.read(reg::kEcap);
  if (cap == ~u64{0} || ecap == ~u64{0}) {
    log(machine, LogLevel::Error, unit_line(base) << "no unit answers at this address");
    return fail(Errno::Enodev);
  }
  if (!reg::places_plausible(cap, ecap, config.register_bytes)) {
    log(machine, LogLevel::Error,
        unit_line(base) << "fault or flush registers outside the " << config.register_bytes
                        << " bytes that the DMAR table gives it: CAP " << Hex{cap} << ", ECAP " << Hex{ecap});
    return fail(Errno::Enodev);
  }
  if (!Ecap::Qi::test(ecap)) {
    log(machine, LogLevel::Error, unit_line(base) << "has no invalidation queue; such units are not driven");
    return fail(Errno::Eopnotsupp);
  }
  const Capabilities can{cap, ecap, config.host_address_bits};
  const auto mode = recorded ? Result<TableMode>(*recorded) : mode_for(can, config.mode);
  if (!mode || (*mode == TableMode::Scalable && !can.scalable())) {
    log(machine, LogLevel::Error, unit_line(base) << "does no scalable table mode: ECAP " << Hex{ecap});
    return fail(Errno::Eopnotsupp);
  }
  if (can.geometry(*mode, config.stage).levels == 0) {
    log(machine, LogLevel::Error, unit_line(base) << "walks no second-stage table: CAP " << Hex{cap});
    return fail(Errno::Eopnotsupp);
  }
  Owned<VtdUnit> unit = TRY(heap.make<VtdUnit>(heap, base, segment, can, *mode, config));
  {
    MutexGuard guard(unit->lock_);
    TRY(unit->dids_.init(unit->info_.did_limit));
  }
  return unit;
}

bool VtdUnit::walks(const pt::Geometry& g) const {
  const bool first = g.format == pt::FormatId::X86FirstStage;
  const pt::Geometry most = first ? can_.first_stage(mode_) : can_.second_stage(mode_);
  if (most.levels == 0 || g.format != most.format || g.levels < (first ? 4 : 3) || g.levels > 5) return false;
  const bool width = first ? g.levels <= most.levels : limits_.width_ok(g.levels - 2u);
  return width && g.iova_bits <= most.iova_bits && (g.leaf_sizes & ~most.leaf_sizes) == 0 &&
         g.output_bits <= most.output_bits &&
         // A table whose stores are not written back is invisible to a walker that does not snoop.
         (!g.coherent || most.coherent);
}

// --- domain ids -----------------------------------------------------------------------------------------------

Result<u32> VtdUnit::did_alloc() {
  MutexGuard guard(lock_);
  return dids_.alloc();
}

Result<void> VtdUnit::did_reserve(u64 did) {
  MutexGuard guard(lock_);
  return dids_.reserve(did);
}

void VtdUnit::did_free(u32 did) {
  MutexGuard guard(lock_);
  dids_.free(did);
}

bool VtdUnit::did_taken(u64 did) const {
  MutexGuard guard(lock_);
  return dids_.taken(did);
}

// --- entries --------------------------------------------------------------------------------------------------

Result<void> VtdUnit::set_entry(SourceId source, u32 did, const pt::IoPageTable& table) {
  MutexGuard guard(lock_);
  if (!ours(source) || !dids_.taken(did) || !walks(table.geometry())) return fail(Errno::Einval);
  if ((table.top().value & ~limits_.address_mask) != 0 || !table.top()) return fail(Errno::Einval);
  if (state_ != State::Running) return fail(Errno::Ebusy);
  if (!queue_.alive()) return fail(Errno::Eio);
  if (tables_->read(source.bdf).present) return fail(Errno::Eexist);
  TRY(dids_.bind(did, table.geometry().format));
  if (u32 owed = 0; tables_->retracted(source.bdf, owed)) {
    Batch batch;
    tables_->flush_after_clear(source.bdf, owed, drain_, batch);
    TRY(submit(batch));
    tables_->wipe(source.bdf, preserved_in_);
  }
  const bool new_table = TRY(tables_->make_room(source.bdf, preserved_in_));
  tables_->set(source.bdf, did, table.geometry(), table.top(), dids_.tracked(did));
  if (auto settled = settle_set_locked(source.bdf, did, new_table); !settled) {
    tables_->retract(source.bdf);
    return settled;
  }
  return {};
}

// An entry of 64 bytes can be changed live by one store that matters, and SSADE is in one word with nothing else that
// changes (hardware.md §9.5). The flushes are those of an entry that was changed (§6).
Result<void> VtdUnit::set_dirty_tracking(u32 did, bool on) {
  MutexGuard guard(lock_);
  if (!dids_.taken(did)) return fail(Errno::Einval);
  if (!limits_.track_dirty || dids_.bound_to(did) == pt::FormatId::X86FirstStage) return fail(Errno::Eopnotsupp);
  if (state_ != State::Running) return fail(Errno::Ebusy);
  if (!queue_.alive()) return fail(Errno::Eio);
  if (dids_.tracked(did) == on) return {};
  dids_.set_tracked(did, on);
  bool changed = false;
  if (dids_.bound_to(did) != pt::FormatId::None) {
    each_present_entry_locked([&](u16 bdf, const EntryState& state) {
      lock_.assert_held();
      if (state.did != did || state.format != pt::FormatId::VtdSecondStage) return;
      tables_->set_track_dirty(bdf, on);
      changed = true;
    });
  }
  if (!changed) return {};
  Batch batch;
  batch.add(InvalidatePasidCache(did, kRidPasid));
  batch.add(InvalidateIotlb(drain_, did));
  return submit(batch);
}

Result<void> VtdUnit::settle_set_locked(u16 bdf, u32 did, bool new_table) {
  if (Cap::Cm::test(info_.cap)) {
    Batch batch;
    tables_->flush_after_set(bdf, did, new_table, drain_, batch);
    return submit(batch);
  }
  if (Cap::Rwbf::test(info_.cap) && !registers_.flush_write_buffer()) return fail(Errno::Eio);
  return {};
}

Result<void> VtdUnit::clear_entry(SourceId source) {
  MutexGuard guard(lock_);
  if (!ours(source)) return fail(Errno::Einval);
  const EntryState state = tables_->read(source.bdf);
  u32 did = state.did;
  // An entry whose flush failed before is flushed again.
  if (!state.present && !tables_->retracted(source.bdf, did)) return {};
  if (state.present) tables_->retract(source.bdf);
  Batch batch;
  tables_->flush_after_clear(source.bdf, did, drain_, batch);
  TRY(submit(batch));
  tables_->wipe(source.bdf, preserved_in_);
  return {};
}

EntryState VtdUnit::read_entry(SourceId source) const {
  MutexGuard guard(lock_);
  return ours(source) ? tables_->read(source.bdf) : EntryState();
}

void VtdUnit::each_present_entry(FunctionRef<void(SourceId source, const EntryState& state)> visit) const {
  for (unsigned bus = 0; bus < 256; ++bus) {
    {
      MutexGuard guard(lock_);
      if (!tables_->bus_in_use(static_cast<u8>(bus))) continue;
    }
    for (unsigned devfn = 0; devfn < 256; ++devfn) {
      const SourceId source{info_.segment, static_cast<u16>(bus << 8 | devfn)};
      const EntryState state = read_entry(source);
      if (state.present) visit(source, state);
    }
  }
}

// --- flushes --------------------------------------------------------------------------------------------------

bool VtdUnit::first_stage(u32 did) const {
  if (limits_.first_stage_levels == 0) return false;
  MutexGuard guard(lock_);
  return dids_.bound_to(did) == pt::FormatId::X86FirstStage;
}

void VtdUnit::each_present_entry_locked(FunctionRef<void(u16 bdf, const EntryState& state)> visit) const {
  for (unsigned bus = 0; bus < 256; ++bus) {
    if (!tables_->bus_in_use(static_cast<u8>(bus))) continue;
    for (unsigned devfn = 0; devfn < 256; ++devfn) {
      const u16 bdf = static_cast<u16>(bus << 8 | devfn);
      const EntryState state = tables_->read(bdf);
      if (state.present) visit(bdf, state);
    }
  }
}

void VtdUnit::bind_adopted_ids_locked() {
  each_present_entry_locked([&](u16, const EntryState& state) {
    lock_.assert_held();
    if (state.format == pt::FormatId::None) return;
    const Result<void> bound = dids_.bind(state.did, state.format);
    PERDURE_ASSERT(bound.has_value());  // that no id stands for two tables was checked
    if (state.tracks_dirty) dids_.set_tracked(state.did, true);
  });
}

void VtdUnit::add_domain_flush(u32 did, bool first_stage, Batch& batch) const {
  if (first_stage) {
    batch.add(InvalidatePasidIotlb(did, kRidPasid));
  } else {
    batch.add(InvalidateIotlb(drain_, did));
  }
}

void VtdUnit::add_page_flushes(u32 did, Iova iova, u64 length, bool leaves_only, Batch& batch) const {
  const u64 first = iova.page();
  const u64 last = range_overflows(iova.value, length) ? ~u64{0} >> kPageShift : (iova + (length - 1)).page();
  const unsigned largest = static_cast<unsigned>(Cap::Mamv::get(info_.cap));
  const bool first_stage = this->first_stage(did);
  Batch pages;
  unsigned count = 0;
  // Naturally aligned blocks, the largest first that fits: exact, unlike one block around everything.
  for (u64 page = first; page <= last && Cap::Psi::test(info_.cap);) {
    const unsigned fits = static_cast<unsigned>(std::bit_width(last - page + 1)) - 1;
    const unsigned order = std::min({largest, fits, page == 0 ? 63u : static_cast<unsigned>(std::countr_zero(page))});
    if (++count > kMaxPageFlushes) break;
    if (first_stage) {
      pages.add(InvalidatePasidIotlb(did, kRidPasid, page << kPageShift, order, leaves_only));
    } else {
      pages.add(InvalidateIotlb(drain_, did, page << kPageShift, order, leaves_only));
    }
    page += u64{1} << order;
  }
  if (count == 0 || count > kMaxPageFlushes) return add_domain_flush(did, first_stage, batch);
  for (const Descriptor& d : pages.span()) batch.add(d);
}

Result<void> VtdUnit::flush_pages(u32 did, Iova iova, u64 length, bool leaves_only) {
  if (length == 0) return {};
  Batch batch;
  add_page_flushes(did, iova, length, leaves_only, batch);
  return submit(batch);
}

Result<void> VtdUnit::flush_domain(u32 did) {
  Batch batch;
  add_domain_flush(did, first_stage(did), batch);
  return submit(batch);
}

Result<void> VtdUnit::flush_all() {
  MutexGuard guard(lock_);
  return flush_all_locked();
}

Result<void> VtdUnit::flush_all_locked() {
  Batch batch;
  tables_->flush_all(drain_, batch);
  return submit(batch);
}

Result<void> VtdUnit::mapped_pages(u32 did, Iova iova, u64 length) {
  // Not-present first-stage entries are never cached, nor do stores to them wait in a write buffer (hardware.md §6).
  if (first_stage(did)) return {};
  // New tables above the leaves may be cached as not present, too: IH = 0.
  if (Cap::Cm::test(info_.cap)) return flush_pages(did, iova, length, false);
  if (Cap::Rwbf::test(info_.cap) && !registers_.flush_write_buffer()) return fail(Errno::Eio);
  return {};
}

}  // namespace perdure::vtd
