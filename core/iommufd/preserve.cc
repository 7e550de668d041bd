// A context on its way to the next kernel: marking and preserving (iommu-liveupdate §3.1, §6).
#include "core/base/log.h"
#include "core/base/scope_guard.h"
#include "core/iommufd/iommufd.h"

namespace perdure::iommufd {

// --- old kernel -------------------------------------------------------------------------------------------------

// There is no unmark: whoever pools HWPTs destroys marked ones after use (R62).
Result<void> IommufdFile::hwpt_mark_preserve(Call<uapi::IommuHwptMarkPreserve>& call) {
  MutexGuard guard(lock_);
  HwptPaging* const hwpt = objects_.find_as<HwptPaging>(call.cmd.hwpt_id);
  if (!hwpt) return fail(Errno::Enoent);
  // A mark that comes after the record was written would not be kept.
  if (hwpt->marked) return fail(Errno::Ebusy);
  TRY(immutability_.may_change());
  for (const Object* object = objects_.next(0); object; object = objects_.next(object->id())) {
    if (object->type() != ObjectType::HwptPaging) continue;
    const auto* const other = static_cast<const HwptPaging*>(object);
    if (other->marked && other->token == call.cmd.token) return fail(Errno::Eaddrinuse);
  }
  hwpt->marked = true;
  hwpt->token = call.cmd.token;
  return {};
}

void IommufdFile::release_marked(Vec<PreservedHwpt>& marked) {
  {
    MutexGuard guard(lock_);
    immutability_.release();
    for (PreservedHwpt& m : marked) {
      m.hwpt->immutability.release();
      // The vector keeps the object itself until no lock is held.
      static_cast<void>(drop_use_locked(*m.hwpt));
    }
  }
  marked.clear();
}

// What `hwpt` translates, by ascending address. Of an IOAS: only what can be preserved.
Result<void> IommufdFile::collect_areas(const HwptPaging& hwpt, Vec<RecordedArea>& areas) const {
  if (Ioas* ioas = hwpt.ioas()) {
    TRY(ioas->check_preservable());
    // The record has no place for any of them, and the next kernel's IOAS would be another one.
    const Result<void> none = ioas->each_allowed([](IovaRange) -> Result<void> { return fail(Errno::Eopnotsupp); });
    if (!none || !ioas->large_pages() || ioas->reserves_for_good()) {
      log(heap_.machine(), LogLevel::Error,
          Line() << "iommufd: IOAS " << ioas->id() << " of HWPT " << hwpt.id()
                 << (!none                  ? " has allowed ranges"
                     : !ioas->large_pages() ? " has large pages turned off"
                                            : " has ranges that a test reserved")
                 << ", which cannot be preserved; set it back, or use another one");
      return fail(Errno::Eopnotsupp);
    }
    const auto take = [&](const Area& area) {
      return areas.push_back(
          {area.iova, area.length, area.access, Ref<SharedMemory>(area.pages->memory()), area.source()});
    };
    return ioas->each_area(take);
  }
  for (const RecordedArea& area : hwpt.recorded_areas()) TRY(areas.push_back(area));
  return {};
}

// With no lock held: the IOAS is immutable.
Result<void> IommufdFile::write_areas(const luo::Session& session, std::span<const RecordedArea> areas,
                                      RecordWriter& writer, Vec<Memory>& tokens) const {
  for (const RecordedArea& area : areas) {
    const Memory* found = nullptr;
    for (const Memory& known : tokens) {
      if (known.memory == area.memory) found = &known;
    }
    if (!found) {
      // Enoent: the memfd has to be preserved first, in the same session.
      const u64 token = TRY(session.token_of(*area.memory));
      TRY(tokens.push_back({token, area.memory}));
      found = &tokens.back();
    }
    Phys place;
    TRY(area.memory->extents(area.offset, kPageSize, [&](const FileExtent& e) -> Result<void> {
      place = e.base;
      return {};
    }));
    TRY(writer.add_area({.iova = area.iova.value,
                         .length = area.length,
                         .memory_token = found->token,
                         .offset = area.offset,
                         .access = static_cast<u32>(area.access),
                         .checksum = 0,
                         .memory_phys = place.value}));
  }
  return {};
}

Result<Phys> IommufdFile::preserve(const luo::Session& session) {
  // The set of HWPTs is fixed in one go: marked ones cannot be destroyed, and no more can be marked (R41).
  Vec<PreservedHwpt> marked(heap_);
  {
    MutexGuard guard(lock_);
    TRY(immutability_.may_change());
    for (Object* object = objects_.next(0); object; object = objects_.next(object->id())) {
      HwptPaging* const hwpt = object_cast<HwptPaging>(object);
      if (!hwpt || !hwpt->marked) continue;
      Owned<HwptAudit> audit = TRY(heap_.make<HwptAudit>(heap_));
      TRY(marked.push_back({Ref<HwptPaging>(hwpt), std::move(audit)}));
    }
    for (PreservedHwpt& m : marked) {
      ++m.hwpt->users;
      m.hwpt->immutability.hold();
    }
    immutability_.hold();
  }
  ScopeGuard release([&] { release_marked(marked); });

  RecordWriter writer(module_.kho, module_.config.write_version, session.generation());
  Vec<Memory> tokens(heap_);
  // Areas are checked and written once an IOAS, not once a HWPT (R42); the next kernel's HWPTs share it by its place
  // here. Without IOAS they go on sharing the one that they had.
  struct Written {
    Ioas* ioas;
    u32 recorded_ioas;
    usize first_hwpt;
    u32 first_area;
    u32 area_count;
  };
  Vec<Written> written(heap_);
  usize held = 0;
  usize domains = 0;
  ScopeGuard undo([&] {
    while (domains > 0) module_.live_update.unpreserve_domain(marked[--domains].hwpt->domain());
    while (held > 0) {
      if (Ioas* ioas = marked[--held].hwpt->ioas()) ioas->release_immutable();
    }
  });
  for (usize i = 0; i < marked.size(); ++i) {
    HwptPaging& hwpt = *marked[i].hwpt;
    // First of all: what is checked below must not change any more.
    if (hwpt.ioas()) hwpt.ioas()->hold_immutable();
    ++held;
    usize place = 0;
    while (place < written.size() &&
           (written[place].ioas != hwpt.ioas() || written[place].recorded_ioas != hwpt.recorded_ioas())) {
      ++place;
    }
    if (place < written.size()) {
      TRY(marked[i].audit->expect_same(*marked[written[place].first_hwpt].audit));
    } else {
      Vec<RecordedArea> collected(heap_);
      TRY(collect_areas(hwpt, collected));
      const u32 first = writer.area_count();
      TRY(write_areas(session, collected.span(), writer, tokens));
      TRY(marked[i].audit->expect(collected.span()));
      TRY(written.push_back({hwpt.ioas(), hwpt.recorded_ioas(), i, first, writer.area_count() - first}));
    }
    const u32 domain =
        TRY(module_.live_update.preserve_domain(hwpt.domain(), session.generation(), marked[i].audit.get()));
    ++domains;
    TRY(writer.add_hwpt({.token = hwpt.token,
                         .domain = domain,
                         .checksum = 0,
                         .first_area = written[place].first_area,
                         .area_count = written[place].area_count,
                         .ioas = static_cast<u32>(place)}));
  }
  const Phys record = TRY(writer.release());
  undo.dismiss();
  release.dismiss();
  MutexGuard guard(lock_);
  preserved_hwpts_ = std::move(marked);
  return record;
}

void IommufdFile::unpreserve(Phys record) {
  Vec<PreservedHwpt> marked(heap_);
  {
    MutexGuard guard(lock_);
    PERDURE_ASSERT(immutability_.held());
    std::swap(marked, preserved_hwpts_);
  }
  for (PreservedHwpt& m : marked) {
    module_.live_update.unpreserve_domain(m.hwpt->domain());
    if (Ioas* ioas = m.hwpt->ioas()) ioas->release_immutable();
  }
  release_marked(marked);
  RecordWriter::give_back(module_.kho, record);
}

// Every leaf was compared by then; what is left is whether there was one for every page.
void IommufdFile::each_preserved(FunctionRef<void(const HwptPaging& hwpt, const HwptAudit& areas)> visit) const {
  MutexGuard guard(lock_);
  for (const PreservedHwpt& preserved : preserved_hwpts_) visit(*preserved.hwpt, *preserved.audit);
}

Result<void> IommufdFile::check_audit() const {
  MutexGuard guard(lock_);
  for (const PreservedHwpt& preserved : preserved_hwpts_) {
    if (preserved.audit->complete()) continue;
    log(heap_.machine(), LogLevel::Error,
        Line() << "iommufd: HWPT " << preserved.hwpt->id() << " (token " << preserved.hwpt->token
               << ") was not seen to map all of its areas; the update is refused");
    return fail(Errno::Efault);
  }
  return {};
}

Result<u64> IommufdFile::preserve_device(Device& device, const luo::Session& session) {
  {
    MutexGuard guard(lock_);
    if (!device.hwpt) return fail(Errno::Enoent);
  }
  const u64 token = TRY(session.token_of(*this));
  MutexGuard guard(lock_);
  if (!device.hwpt) return fail(Errno::Enoent);
  TRY(device.immutability.may_change());
  if (!device.hwpt->immutability.held()) return fail(Errno::Einval);
  TRY(module_.live_update.preserve_device(device.iommu_device(), *owner_, session.generation(), token));
  device.immutability.hold();
  return token;
}

void IommufdFile::unpreserve_device(Device& device) {
  MutexGuard guard(lock_);
  module_.live_update.unpreserve_device(device.iommu_device());
  device.immutability.release();
}

}  // namespace perdure::iommufd
