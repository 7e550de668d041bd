#include "core/vtd/vtd_unit.h"

#include <algorithm>
#include <bit>

#include "core/vtd/legacy_tables.h"
#include "core/vtd/unit_log.h"

namespace perdure::vtd {
namespace {

// Page-selective descriptors that one range may take before the whole domain is flushed instead.
constexpr unsigned kMaxPageFlushes = 8;

u32 did_limit_of(u64 cap) {
  // ND 7 is reserved, and entries have room for 16 bits.
  return u32{1} << std::min<u64>(16, 4 + 2 * Cap::Nd::get(cap));
}

EntryLimits limits_of(u64 cap, u64 ecap, const UnitConfig& config) {
  EntryLimits limits;
  limits.address_mask = ((u64{1} << config.host_address_bits) - 1) & ~(kPageSize - 1);
  limits.did_limit = did_limit_of(cap);
  limits.sagaw = static_cast<u8>(Cap::Sagaw::get(cap));
  limits.pass_through = Ecap::Pt::test(ecap);
  return limits;
}

// The smallest table that covers what the unit can address, or the largest it can walk.
pt::Geometry geometry_of(u64 cap, u64 ecap, const UnitConfig& config) {
  pt::Geometry g;
  const unsigned mgaw = static_cast<unsigned>(Cap::Mgaw::get(cap)) + 1;
  for (u8 levels = 3; levels <= 5; ++levels) {
    if ((Cap::Sagaw::get(cap) >> (levels - 2) & 1) == 0) continue;
    g.levels = levels;
    if (12u + 9u * levels >= mgaw) break;
  }
  if (g.levels == 0) return g;
  g.format = pt::FormatId::VtdSecondStage;
  g.iova_bits = static_cast<u8>(std::min(mgaw, 12u + 9u * g.levels));
  g.output_bits = config.host_address_bits;
  g.leaf_sizes = kPageSize;
  if ((Cap::Sslps::get(cap) & 1) != 0) g.leaf_sizes |= kHugePageSize;
  if ((Cap::Sslps::get(cap) & 2) != 0) g.leaf_sizes |= kGiantPageSize;
  g.coherent = Ecap::C::test(ecap);
  return g;
}

}  // namespace

VtdUnit::VtdUnit(Heap& heap, Phys base, u16 segment, u64 cap, u64 ecap, const UnitConfig& config)
    : heap_(heap),
      info_{base, segment, cap, ecap, did_limit_of(cap), geometry_of(cap, ecap, config)},
      registers_(heap.machine(), base, config.timeout_ns),
      writer_(heap.machine(), Ecap::C::test(ecap)),
      limits_(limits_of(cap, ecap, config)),
      drain_{Cap::Drd::test(cap), Cap::Dwd::test(cap)},
      faults_(registers_, segment, cap, config.faults),
      queue_(registers_, writer_),
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
  if (queue_.memory().base && (!queue_.in_use() || queue_.stop())) {
    InvalidationQueue::release(heap_.frames(), queue_.memory());
  }
  if (tables_) tables_->free_pages();
}

Result<Owned<VtdUnit>> VtdUnit::probe(Heap& heap, Phys base, u16 segment, const UnitConfig& config) {
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
  if (cap == ~u64{0} && ecap == ~u64{0}) {
    log(machine, LogLevel::Error, unit_line(base) << "no unit answers at this address");
    return fail(Errno::Enodev);
  }
  const u64 records_end = reg::fault_low(cap, reg::fault_records(cap)).offset;
  if (records_end > config.register_bytes || reg::iotlb(ecap).offset + sizeof(u64) > config.register_bytes) {
    log(machine, LogLevel::Error,
        unit_line(base) << "registers beyond the " << config.register_bytes
                        << " bytes that the DMAR table gives it: CAP " << Hex{cap} << ", ECAP " << Hex{ecap});
    return fail(Errno::Enodev);
  }
  if (!Ecap::Qi::test(ecap)) {
    log(machine, LogLevel::Error, unit_line(base) << "has no invalidation queue; such units are not driven");
    return fail(Errno::Eopnotsupp);
  }
  if (geometry_of(cap, ecap, config).levels == 0) {
    log(machine, LogLevel::Error, unit_line(base) << "walks no second-stage table: CAP " << Hex{cap});
    return fail(Errno::Eopnotsupp);
  }
  Owned<VtdUnit> unit = TRY(heap.make<VtdUnit>(heap, base, segment, cap, ecap, config));
  {
    MutexGuard guard(unit->lock_);
    TRY(unit->dids_.init(unit->info_.did_limit));
  }
  return unit;
}

bool VtdUnit::walks(const pt::Geometry& g) const {
  if (g.format != pt::FormatId::VtdSecondStage || g.levels < 3 || g.levels > 5) return false;
  const u64 extra_leaves = g.leaf_sizes & ~info_.geometry.leaf_sizes;
  return limits_.width_ok(g.levels - 2u) && extra_leaves == 0 && g.output_bits <= info_.geometry.output_bits &&
         // A table whose stores are not written back is invisible to a walker that does not snoop.
         (!g.coherent || writer_.coherent());
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
  if (u32 owed = 0; tables_->retracted(source.bdf, owed)) {
    Batch batch;
    tables_->flush_after_clear(source.bdf, owed, drain_, batch);
    TRY(submit(batch));
    tables_->wipe(source.bdf);
  }
  Kho* const kho = preserved_in_;
  const bool new_table = TRY(tables_->make_room(
      source.bdf, [kho](Phys page) -> Result<void> { return kho ? kho->preserve(page, 0) : Result<void>(); }));
  tables_->set(source.bdf, did, table.geometry().levels, table.top());
  if (auto settled = settle_set_locked(source.bdf, did, new_table); !settled) {
    tables_->retract(source.bdf);
    return settled;
  }
  return {};
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
  tables_->wipe(source.bdf);
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

void VtdUnit::add_page_flushes(u32 did, Iova iova, u64 length, bool leaves_only, Batch& batch) const {
  const u64 first = iova.page();
  const u64 last = range_overflows(iova.value, length) ? ~u64{0} >> kPageShift : (iova + (length - 1)).page();
  const unsigned largest = static_cast<unsigned>(Cap::Mamv::get(info_.cap));
  Batch pages;
  unsigned count = 0;
  // Naturally aligned blocks, the largest first that fits: exact, unlike one block around everything.
  for (u64 page = first; page <= last && Cap::Psi::test(info_.cap);) {
    const unsigned fits = static_cast<unsigned>(std::bit_width(last - page + 1)) - 1;
    const unsigned order = std::min({largest, fits, page == 0 ? 63u : static_cast<unsigned>(std::countr_zero(page))});
    if (++count > kMaxPageFlushes) break;
    pages.add(InvalidateIotlb(drain_, did, page << kPageShift, order, leaves_only));
    page += u64{1} << order;
  }
  if (count == 0 || count > kMaxPageFlushes) {
    batch.add(InvalidateIotlb(drain_, did));
    return;
  }
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
  batch.add(InvalidateIotlb(drain_, did));
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
  // New tables above the leaves may be cached as not present, too: IH = 0.
  if (Cap::Cm::test(info_.cap)) return flush_pages(did, iova, length, false);
  if (Cap::Rwbf::test(info_.cap) && !registers_.flush_write_buffer()) return fail(Errno::Eio);
  return {};
}

}  // namespace perdure::vtd
