// A context that came from a former kernel: its record, and the HWPTs that are taken over one by one (iommu-liveupdate
// §5).
#include "core/base/log.h"
#include "core/base/scope_guard.h"
#include "core/iommufd/iommufd.h"

namespace perdure::iommufd {

IommufdFile::Incoming::~Incoming() {
  for (const Memory& m : memories) m.memory->unpin();
}

SharedMemory* IommufdFile::Incoming::memory(u64 memory_token) const {
  for (const Memory& m : memories) {
    if (m.token == memory_token) return m.memory.get();
  }
  return nullptr;
}

Result<Owned<IommufdFile::Incoming>> IommufdFile::find_memory(Heap& heap, luo::Session& session, u64 token,
                                                              IncomingRecord record) {
  Owned<Incoming> incoming = TRY(heap.make<Incoming>(heap, session.generation(), token, std::move(record)));
  const auto refuse = [&](u64 memory_token, std::string_view what) -> std::unexpected<Errno> {
    log(heap.machine(), LogLevel::Error,
        Line() << "iommufd " << token << " of session '" << session.name() << "': memfd " << memory_token << " " << what
               << "; its devices stay held");
    return fail(Errno::Eproto);
  };
  for (const abi::IommufdAreaRecord& area : incoming->record.areas()) {
    SharedMemory* memory = incoming->memory(area.memory_token);
    if (!memory) {
      const Result<Ref<File>> file = session.file_of(area.memory_token);
      if (!file) {
        static_cast<void>(refuse(area.memory_token, "cannot be retrieved"));
        return fail(file.error());
      }
      SharedMemory* const found = file_cast<SharedMemory>(file->get());
      if (!found) return refuse(area.memory_token, "is no memfd");
      TRY(incoming->memories.push_back({area.memory_token, Ref<SharedMemory>(found)}));
      found->pin();
      memory = found;
    }
    if (area.memory_phys == 0) continue;
    bool same = false;
    const Result<void> found = memory->extents(area.offset, kPageSize, [&](const FileExtent& e) -> Result<void> {
      same = e.base.value == area.memory_phys;
      return {};
    });
    if (!found && found.error() == Errno::Enomem) return fail(found.error());
    if (!same) return refuse(area.memory_token, "is not the memory that was mapped");
  }
  for (usize i = 0; i < incoming->record.hwpts().size(); ++i) {
    TRY(incoming->reclaimed.push_back(Incoming::Reclaim::No));
  }
  return incoming;
}

Result<void> IommufdFile::inherit(luo::Session& session, u64 token, IncomingRecord record) {
  Owned<Incoming> incoming = TRY(find_memory(heap_, session, token, std::move(record)));
  MutexGuard guard(lock_);
  incoming_ = std::move(incoming);
  return {};
}

// What stands for a record that is taken over; finalized by restore_locked().
struct IommufdFile::Restore {
  usize index = 0;  // of the record
  u32 hwpt_id = 0;
  Ref<Ioas> ioas;  // that it joins; with a use taken
  u32 new_ioas_id = 0;
};

Ioas* IommufdFile::rebuilt_ioas_locked(u32 recorded) const {
  for (Object* object = objects_.next(0); object; object = objects_.next(object->id())) {
    Ioas* const ioas = object_cast<Ioas>(object);
    if (ioas && ioas->rebuilt && ioas->recorded_number == recorded) return ioas;
  }
  return nullptr;
}

// An IOAS whose page tables are not all in its hands yet cannot be changed: those that follow would not follow suit.
void IommufdFile::update_awaiting_locked(u32 recorded) {
  Ioas* const ioas = rebuilt_ioas_locked(recorded);
  if (!ioas) return;
  bool awaits = false;
  for (usize i = 0; incoming_ && i < incoming_->record.hwpts().size(); ++i) {
    const abi::IommufdHwptRecord& hwpt = incoming_->record.hwpts()[i];
    if (hwpt.ioas != recorded || incoming_->reclaimed[i] == Incoming::Reclaim::Done) continue;
    awaits = awaits || module_.live_update.held_domain(hwpt.domain, incoming_->generation).has_value();
  }
  if (awaits == ioas->awaits_siblings) return;
  ioas->awaits_siblings = awaits;
  awaits ? ioas->hold_immutable() : ioas->release_immutable();
}

Result<void> IommufdFile::begin_restore_locked(u64 token, bool with_ioas, Restore& restore) {
  const std::span<const abi::IommufdHwptRecord> records = incoming_->record.hwpts();
  usize& index = restore.index;
  while (index < records.size() && records[index].token != token) ++index;
  if (index == records.size() || incoming_->reclaimed[index] != Incoming::Reclaim::No) return fail(Errno::Enoent);
  restore.hwpt_id = TRY(objects_.reserve());
  ScopeGuard release([&] {
    lock_.assert_held();
    objects_.release(restore.hwpt_id);
  });
  if (with_ioas) {
    if (Ioas* shared = rebuilt_ioas_locked(records[index].ioas)) {
      restore.ioas = Ref<Ioas>(shared);
    } else {
      // Another of its HWPTs may be about to make it, and has answered with its id already.
      for (usize i = 0; i < records.size(); ++i) {
        const bool under_way = incoming_->reclaimed[i] == Incoming::Reclaim::UnderWay;
        if (under_way && records[i].ioas == records[index].ioas) return fail(Errno::Ebusy);
      }
      restore.ioas = TRY(heap_.make_ref<Ioas>(heap_));
      restore.new_ioas_id = TRY(objects_.reserve());
    }
    ++restore.ioas->users;
  }
  release.dismiss();
  incoming_->reclaimed[index] = Incoming::Reclaim::UnderWay;
  return {};
}

void IommufdFile::cancel_restore_locked(const Restore& restore) {
  objects_.release(restore.hwpt_id);
  if (restore.ioas) --restore.ioas->users;
  if (restore.new_ioas_id != 0) objects_.release(restore.new_ioas_id);
  if (incoming_) incoming_->reclaimed[restore.index] = Incoming::Reclaim::No;
}

Result<void> IommufdFile::finish_restore_locked(Task& task, const Payer& payer, Restore& restore) {
  // Its session may have been finished meanwhile, if what was to be reclaimed is lost.
  if (!incoming_) return fail(Errno::Enotty);
  const abi::IommufdHwptRecord& record = incoming_->record.hwpts()[restore.index];
  Vec<RecordedArea> areas(heap_);
  for (const abi::IommufdAreaRecord& area : incoming_->record.areas(record)) {
    TRY(areas.push_back({Iova(area.iova), area.length, static_cast<Access>(area.access),
                         Ref<SharedMemory>(incoming_->memory(area.memory_token)), area.offset}));
  }
  Ref<PagingDomain> domain = TRY(module_.live_update.reclaim_domain(record.domain, incoming_->generation));
  ScopeGuard unreclaim([&] { module_.live_update.unreclaim_domain(*domain); });
  Ref<HwptPaging> hwpt;
  if (Ioas* ioas = restore.ioas.get()) {
    hwpt = TRY(heap_.make_ref<HwptPaging>(heap_, restore.ioas, domain, false));
    if (restore.new_ioas_id != 0) {
      TRY(ioas->take_areas(areas.span(), payer));
      ioas->rebuilt = true;
      ioas->recorded_number = record.ioas;
    }
  } else {
    hwpt = TRY(heap_.make_ref<HwptPaging>(domain, std::move(areas), record.ioas));
  }
  // Devices that were bound before now get an object for what they run on.
  ScopeGuard unlink([&] {
    lock_.assert_held();
    for (Object* o = objects_.next(0); o; o = objects_.next(o->id())) {
      Device* const device = object_cast<Device>(o);
      if (!device || device->hwpt != hwpt) continue;
      if (restore.ioas) restore.ioas->unreserve(device);
      device->hwpt = nullptr;
      --hwpt->users;
    }
  });
  for (Object* o = objects_.next(0); o; o = objects_.next(o->id())) {
    if (Device* device = object_cast<Device>(o)) TRY(link_attached_locked(*device, *hwpt));
  }
  // Last, since there is no way back from it.
  if (restore.ioas) TRY(restore.ioas->adopt_domain(task, *hwpt));
  unlink.dismiss();
  unreclaim.dismiss();
  if (restore.new_ioas_id != 0) objects_.finalize(restore.new_ioas_id, Ref<Object>(restore.ioas));
  objects_.finalize(restore.hwpt_id, std::move(hwpt));
  incoming_->reclaimed[restore.index] = Incoming::Reclaim::Done;
  update_awaiting_locked(record.ioas);
  return {};
}

Result<void> IommufdFile::hwpt_restore(Call<uapi::IommuHwptRestore>& call) {
  uapi::IommuHwptRestore& cmd = call.cmd;
  if ((cmd.flags & ~uapi::iommu_hwpt_restore::kKnown) != 0) return fail(Errno::Eopnotsupp);
  const Payer charged = TRY(payer(call.task));
  Restore restore;  // an IOAS that came to nothing goes with no lock held
  {
    MutexGuard guard(lock_);
    if (!incoming_) return fail(Errno::Enotty);
    TRY(begin_restore_locked(cmd.token, (cmd.flags & uapi::iommu_hwpt_restore::kIoas) != 0, restore));
    cmd.out_hwpt_id = restore.hwpt_id;
    cmd.out_ioas_id = restore.new_ioas_id != 0 ? restore.new_ioas_id : restore.ioas ? restore.ioas->id() : 0;
  }
  // The answer first: once a domain is adopted nothing is left that could fail.
  const Result<void> answered = call.respond();
  MutexGuard guard(lock_);
  const Result<void> restored = answered ? finish_restore_locked(call.task, charged, restore) : answered;
  if (!restored) cancel_restore_locked(restore);
  return restored;
}

bool IommufdFile::can_finish() {
  MutexGuard guard(lock_);
  if (!incoming_) return true;
  const std::span<const abi::IommufdHwptRecord> records = incoming_->record.hwpts();
  for (usize i = 0; i < records.size(); ++i) {
    if (incoming_->reclaimed[i] == Incoming::Reclaim::Done) continue;
    if (incoming_->reclaimed[i] == Incoming::Reclaim::UnderWay) return false;
    // A domain that was not restored has its devices quarantined: nothing is left to take over (design §8).
    const Result<Ref<PagingDomain>> domain = module_.live_update.held_domain(records[i].domain, incoming_->generation);
    if (!domain && (domain.error() == Errno::Enoent || domain.error() == Errno::Eio)) continue;
    return false;
  }
  return true;
}

void IommufdFile::finish() {
  Owned<Incoming> incoming;
  {
    MutexGuard guard(lock_);
    incoming = std::move(incoming_);
    // What was lost is not waited for any longer.
    for (usize i = 0; incoming && i < incoming->record.hwpts().size(); ++i) {
      update_awaiting_locked(incoming->record.hwpts()[i].ioas);
    }
  }
  if (incoming) incoming->record.discard(module_.kho);
}

}  // namespace perdure::iommufd
