#include "core/luo/memfd_record.h"

#include <cstring>

#include "core/file/shared_memory.h"

namespace perdure::luo {

namespace {

std::unexpected<Errno> refuse(std::string_view& problem, std::string_view what) {
  problem = what;
  return fail(Errno::Einval);
}

}  // namespace

Result<MemfdRecord> MemfdRecord::open(Kho& kho, Phys at, std::string_view& problem) {
  problem = "no memory to read it";
  if (!kho.restorable_ram(at, 0)) return refuse(problem, "its record is no preserved page");
  MemfdRecord record(kho, at);
  MemfdSer& h = record.header_;
  memcpy(&h, kho.machine().virt(at), sizeof h);
  if (h.flags != 0) return refuse(problem, "its record has unknown flags");
  if ((h.seals & ~seal::kKnown) != 0) return refuse(problem, "its record has unknown seals");
  if (h.size > kMemfdMaxPages << kPageShift) return refuse(problem, "its record has an impossible size");
  if (h.folio_count > record.pages()) return refuse(problem, "its record counts more folios than pages");
  if (h.folio_count == 0) {
    const auto& d = h.folios;
    if (d.first_chunk != 0 || d.total_pages != 0 || d.flags != 0 || d.order != 0)
      return refuse(problem, "its record counts no folios but lists some");
  } else {
    record.array_.emplace(TRY(kho::ArrayReader::open(kho, h.folios, h.folio_count * sizeof(FolioSer), problem)));
  }
  TRY(record.check(problem));
  return record;
}

FolioSer MemfdRecord::entry(u64 i) const {
  FolioSer e;
  memcpy(&e, array_->at(i * sizeof e), sizeof e);
  return e;
}

Result<void> MemfdRecord::check(std::string_view& problem) const {
  const u64 end = pages();
  u64 next = 0;
  for (u64 i = 0; i < header_.folio_count; ++i) {
    const FolioSer e = entry(i);
    if (FolioSer::Unknown::get(e.word) != 0) return refuse(problem, "a folio has unknown flags");
    if (FolioSer::Frame::get(e.word) == 0) continue;
    const Phys base(FolioSer::Frame::get(e.word) << kPageShift);
    const auto order = kho_->incoming_order(base);
    if (!order || !kho_->restorable(base, *order)) return refuse(problem, "a folio is no preserved block");
    const u64 count = u64{1} << *order;
    if (e.index % count != 0) return refuse(problem, "a folio is not aligned in the file");
    if (e.index < next) return refuse(problem, "folios overlap in the file");
    // A big folio may reach beyond the end of the file, but not begin there.
    if (e.index >= end) return refuse(problem, "a folio lies beyond the end of the file");
    next = e.index + count;
  }
  return {};
}

Result<void> MemfdRecord::each_folio(FunctionRef<Result<void>(const Folio&)> visit) const {
  for (u64 i = 0; i < header_.folio_count; ++i) {
    const FolioSer e = entry(i);
    if (FolioSer::Frame::get(e.word) == 0) continue;
    Folio folio;
    folio.base = Phys(FolioSer::Frame::get(e.word) << kPageShift);
    folio.order = TRY(kho_->incoming_order(folio.base));
    folio.index = e.index;
    folio.in_ram = kho_->frames().in_use(folio.base, folio.bytes());
    TRY(visit(folio));
  }
  return {};
}

Result<void> MemfdRecord::each_block(FunctionRef<Result<void>(Phys, unsigned)> visit) const {
  TRY(visit(at_, 0));
  if (array_) TRY(array_->each_block(visit));
  return each_folio([&](const Folio& folio) { return visit(folio.base, folio.order); });
}

Result<void> MemfdRecord::take() {
  return each_block([&](Phys base, unsigned order) -> Result<void> {
    if (!kho_->restore(base, order)) return fail(Errno::Einval);
    return {};
  });
}

void MemfdRecord::free() {
  (void)each_folio([&](const Folio& folio) -> Result<void> {
    if (folio.in_ram) kho_->frames().free(folio.base, folio.order);
    return {};
  });
  if (array_) array_->free();
  kho_->frames().free(at_, 0);
}

}  // namespace perdure::luo
