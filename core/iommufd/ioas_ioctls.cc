// The ioctls of IOASes (uapi §2.5).
#include "core/iommufd/iommufd.h"

namespace perdure::iommufd {

Result<Ref<Ioas>> IommufdFile::find_ioas(u32 id) const {
  MutexGuard guard(lock_);
  Ioas* const ioas = objects_.find_as<Ioas>(id);
  if (!ioas) return fail(Errno::Enoent);
  return Ref<Ioas>(ioas);
}

Result<void> IommufdFile::ioas_alloc(Call<uapi::IommuIoasAlloc>& call) {
  if (call.cmd.flags != 0) return fail(Errno::Eopnotsupp);
  Ref<Ioas> ioas = TRY(heap_.make_ref<Ioas>(heap_));
  {
    MutexGuard guard(lock_);
    call.cmd.out_ioas_id = TRY(objects_.reserve());
  }
  const Result<void> answered = call.respond();
  MutexGuard guard(lock_);
  if (!answered) {
    objects_.release(call.cmd.out_ioas_id);
    return answered;
  }
  objects_.finalize(call.cmd.out_ioas_id, std::move(ioas));
  return {};
}

Result<void> IommufdFile::ioas_iova_ranges(Call<uapi::IommuIoasIovaRanges>& call) {
  if (call.cmd.reserved != 0) return fail(Errno::Eopnotsupp);
  const Ref<Ioas> ioas = TRY(find_ioas(call.cmd.ioas_id));
  Vec<IovaRange> gaps(heap_);
  TRY(ioas->each_gap([&](IovaRange gap) { return gaps.push_back(gap); }));
  const u32 room = call.cmd.num_iovas;
  for (usize i = 0; i < gaps.size() && i < room; ++i) {
    const uapi::IommuIovaRange range{.start = gaps[i].first, .last = gaps[i].last};
    TRY(call.task.copy_out(UserAddr(call.cmd.allowed_iovas) + i * sizeof(range), range));
  }
  call.cmd.num_iovas = static_cast<u32>(gaps.size());
  call.cmd.out_iova_alignment = ioas->iova_alignment();
  TRY(call.respond());
  // After the answer: a program learns from it how many there are.
  if (gaps.size() > room) return fail(Errno::Emsgsize);
  return {};
}

namespace {

Result<Access> access_of(u32 flags) {
  const bool read = (flags & uapi::iommu_map::kReadable) != 0;
  const bool write = (flags & uapi::iommu_map::kWriteable) != 0;
  if (!read && !write) return fail(Errno::Einval);
  return read && write ? Access::ReadWrite : read ? Access::Read : Access::Write;
}

// What MAP and MAP_FILE check before they look at anything: flags, then numbers that cannot be.
template <class Cmd>
Result<Access> check_map(const Cmd& cmd, u32 reserved) {
  if ((cmd.flags & ~uapi::iommu_map::kKnown) != 0 || reserved != 0) return fail(Errno::Eopnotsupp);
  if (cmd.iova == ~u64{0} || cmd.length == ~u64{0}) return fail(Errno::Eoverflow);
  return access_of(cmd.flags);
}

template <class Cmd>
Result<void> answer_map(Call<Cmd>& call, Result<Iova> mapped) {
  call.cmd.iova = TRY(std::move(mapped))
  .value;
  return call.respond();
}

template <class Cmd>
bool is_fixed(const Cmd& cmd) {
  return (cmd.flags & uapi::iommu_map::kFixedIova) != 0;
}

}  // namespace

// Whom memory that is mapped now is charged to.
Result<Payer> IommufdFile::payer(Task& task) const {
  const auto mode = [this] {
    MutexGuard guard(lock_);
    return accounting_;
  };
  return module_.accounts.payer(task, mode());
}

// What lies behind the address is looked up when it has to be pinned, and is what devices reach from then on.
Result<Iova> IommufdFile::map_user(Task& task, Ioas& ioas, u64 from, u64 length, const Iova* fixed, Access access) {
  if (from + length < from) return fail(Errno::Eoverflow);
  if (length == 0) return fail(Errno::Einval);
  const bool writable = includes(access, Access::Write);
  const Ioas::Slice slice {
    TRY(heap_.make_ref<Pages>(heap_, from, length, writable, TRY(payer(task))))
    , 0, length
  };
  return ioas.map(task, {&slice, 1}, fixed, access);
}

Result<void> IommufdFile::ioas_map(Call<uapi::IommuIoasMap>& call) {
  const uapi::IommuIoasMap& cmd = call.cmd;
  const Access access = TRY(check_map(cmd, cmd.reserved));
  const Ref<Ioas> ioas = TRY(find_ioas(cmd.ioas_id));
  const Iova fixed(cmd.iova);
  return answer_map(call,
                    map_user(call.task, *ioas, cmd.user_va, cmd.length, is_fixed(cmd) ? &fixed : nullptr, access));
}

Result<void> IommufdFile::ioas_map_file(Call<uapi::IommuIoasMapFile>& call) {
  const uapi::IommuIoasMapFile& cmd = call.cmd;
  const Access access = TRY(check_map(cmd, 0));
  const Ref<Ioas> ioas = TRY(find_ioas(cmd.ioas_id));
  if (cmd.length == 0) return fail(Errno::Einval);
  if (cmd.start + cmd.length < cmd.start) return fail(Errno::Eoverflow);
  Ref<File> file = TRY(call.task.file(cmd.fd));
  SharedMemory* const memory = file_cast<SharedMemory>(file.get());
  const bool writable = includes(access, Access::Write);
  // Seals before anything is mapped: one that is there now stays, one that comes later does not count (R59).
  const Ioas::Slice slice {
    TRY(heap_.make_ref<Pages>(heap_, Ref<SharedMemory>(memory), memory ? memory->seals() : 0, cmd.start, cmd.length,
                              writable, TRY(payer(call.task))))
    , 0, cmd.length
  };
  const Iova fixed(cmd.iova);
  return answer_map(call, ioas->map(call.task, {&slice, 1}, is_fixed(cmd) ? &fixed : nullptr, access));
}

// Both may be one. The areas are taken down first: what is mapped is what was there then.
Result<void> IommufdFile::ioas_copy(Call<uapi::IommuIoasCopy>& call) {
  uapi::IommuIoasCopy& cmd = call.cmd;
  if ((cmd.flags & ~uapi::iommu_map::kKnown) != 0) return fail(Errno::Eopnotsupp);
  constexpr u64 kNone = ~u64{0};
  if (cmd.length == kNone || cmd.src_iova == kNone || cmd.dst_iova == kNone) return fail(Errno::Eoverflow);
  const Access access = TRY(access_of(cmd.flags));
  const Ref<Ioas> from = TRY(find_ioas(cmd.src_ioas_id));
  Vec<Ioas::Slice> slices(heap_);
  TRY(from->slices_of(cmd.src_iova, cmd.length, slices));
  const Ref<Ioas> to = TRY(find_ioas(cmd.dst_ioas_id));
  const Iova fixed(cmd.dst_iova);
  cmd.dst_iova = TRY(to->map(call.task, slices.span(), is_fixed(cmd) ? &fixed : nullptr, access))
  .value;
  return call.respond();
}

Result<void> IommufdFile::ioas_allow_iovas(Call<uapi::IommuIoasAllowIovas>& call) {
  if (call.cmd.reserved != 0) return fail(Errno::Eopnotsupp);
  const Ref<Ioas> ioas = TRY(find_ioas(call.cmd.ioas_id));
  Vec<IovaRange> ranges(heap_);
  for (u32 i = 0; i < call.cmd.num_iovas; ++i) {
    const UserAddr at = UserAddr(call.cmd.allowed_iovas) + i * sizeof(uapi::IommuIovaRange);
    const auto range = TRY(call.task.copy_in<uapi::IommuIovaRange>(at));
    if (range.start >= range.last) return fail(Errno::Einval);
    // Programs that give them in order pay for nothing but the look at the last one.
    usize place = ranges.size();
    while (place > 0 && ranges[place - 1].first > range.start) --place;
    if (place > 0 && ranges[place - 1].last >= range.start) return fail(Errno::Einval);
    if (place < ranges.size() && ranges[place].first <= range.last) return fail(Errno::Einval);
    TRY(ranges.insert_at(place, {range.start, range.last}));
  }
  return ioas->set_allowed(std::move(ranges));
}

Result<void> IommufdFile::ioas_unmap(Call<uapi::IommuIoasUnmap>& call) {
  const Ref<Ioas> ioas = TRY(find_ioas(call.cmd.ioas_id));
  u64 first = call.cmd.iova;
  u64 last = ~u64{0};
  if (first != 0 || call.cmd.length != ~u64{0}) {
    if (first == ~u64{0} || call.cmd.length == ~u64{0}) return fail(Errno::Eoverflow);
    if (call.cmd.length == 0) return fail(Errno::Einval);
    if (range_overflows(first, call.cmd.length)) return fail(Errno::Eoverflow);
    last = first + (call.cmd.length - 1);
  }
  Ioas::AreaList removed;
  const Result<u64> unmapped = ioas->unmap(Iova(first), Iova(last), removed);
  Ioas::release_areas(heap_, removed);
  call.cmd.length = TRY(Result<u64>(unmapped));
  return call.respond();
}

// --- options ----------------------------------------------------------------------------------------------------

Result<void> IommufdFile::option_rlimit_mode(Task& task, uapi::IommuOption& cmd) {
  if (cmd.object_id != 0) return fail(Errno::Eopnotsupp);
  if (cmd.op == uapi::iommu_option::kGet) {
    MutexGuard guard(lock_);
    cmd.val64 = accounting_ == Accounting::Process ? 1 : 0;
    return {};
  }
  if (cmd.op != uapi::iommu_option::kSet) return fail(Errno::Eopnotsupp);
  if (!task.creds().cap_sys_resource) return fail(Errno::Eperm);
  MutexGuard guard(lock_);
  TRY(immutability_.may_change());
  // A reserved id counts: its object is about to be.
  if (!objects_.empty()) return fail(Errno::Ebusy);
  if (cmd.val64 > 1) return fail(Errno::Einval);
  accounting_ = cmd.val64 == 1 ? Accounting::Process : Accounting::User;
  return {};
}

Result<void> IommufdFile::option_huge_pages(uapi::IommuOption& cmd) {
  const Ref<Ioas> ioas = TRY(find_ioas(cmd.object_id));
  if (cmd.op == uapi::iommu_option::kGet) {
    cmd.val64 = ioas->large_pages() ? 1 : 0;
    return {};
  }
  if (cmd.op != uapi::iommu_option::kSet) return fail(Errno::Eopnotsupp);
  if (cmd.val64 > 1) return fail(Errno::Einval);
  return ioas->set_large_pages(cmd.val64 == 1);
}

// Of the structure only the value is written back.
Result<void> IommufdFile::option(Call<uapi::IommuOption>& call) {
  uapi::IommuOption& cmd = call.cmd;
  if (cmd.reserved != 0) return fail(Errno::Eopnotsupp);
  switch (cmd.option_id) {
    case uapi::iommu_option::kRlimitMode: TRY(option_rlimit_mode(call.task, cmd)); break;
    case uapi::iommu_option::kHugePages: TRY(option_huge_pages(cmd)); break;
    default: return fail(Errno::Eopnotsupp);
  }
  return call.task.copy_out(call.arg + offsetof(uapi::IommuOption, val64), cmd.val64);
}

// Every area of the context is charged to the calling process from now on: all or none. One that is mapped meanwhile is
// charged to whoever maps it.
Result<void> IommufdFile::ioas_change_process(Call<uapi::IommuIoasChangeProcess>& call) {
  if (call.cmd.reserved != 0) return fail(Errno::Eopnotsupp);
  struct Changed {
    Ref<Pages> pages;
    Payer former;
  };
  Vec<Ref<Pages>> all(heap_);
  Vec<Changed> changed(heap_);
  const Payer caller = TRY(payer(call.task));
  MutexGuard guard(lock_);
  TRY(immutability_.may_change());
  for (Object* object = objects_.next(0); object; object = objects_.next(object->id())) {
    Ioas* const ioas = object_cast<Ioas>(object);
    if (!ioas) continue;
    TRY(ioas->each_area([&](const Area& area) -> Result<void> {
      if (area.pages->kind() != Pages::Kind::File) return fail(Errno::Einval);
      return all.push_back(area.pages);
    }));
  }
  // Twice the same pages: the second time the caller pays already.
  TRY(changed.reserve(all.size()));
  const auto change = [&]() -> Result<void> {
    for (Ref<Pages>& pages : all) {
      Payer next = caller;
      next.mode = pages->mode();
      TRY(pages->change_payer(call.task, next));
      static_cast<void>(changed.push_back({std::move(pages), std::move(next)}));  // reserved
    }
    return {};
  };
  const Result<void> done = change();
  for (usize i = changed.size(); i > 0 && !done; --i)
    changed[i - 1].pages->restore_payer(std::move(changed[i - 1].former));
  return done;
}

}  // namespace perdure::iommufd
