#include "core/iommufd/iommufd_file.h"

#include "core/base/log.h"
#include "core/base/scope_guard.h"
#include "core/iommufd/iommufd.h"

namespace perdure::iommufd {

Result<Ref<IommufdFile>> Iommufd::open(Accounting accounting) {
  Ref<DmaOwner> owner = TRY(heap().make_ref<DmaOwner>());
  return heap().make_ref<IommufdFile>(*this, std::move(owner), accounting);
}

IommufdFile::IommufdFile(Iommufd& module, Ref<DmaOwner> owner, Accounting accounting)
    : module_(module),
      heap_(module.heap()),
      owner_(std::move(owner)),
      objects_(heap_),
      preserved_hwpts_(heap_),
      accounting_(accounting) {
  module_.add(*this);
}

void IommufdFile::log_line(LogLevel level, std::string_view text) const {
  log(heap_.machine(), level, Line() << "iommufd: " << text);
}

// No device is bound: each would hold a reference. HWPTs go before the IOASes that they use.
void IommufdFile::last_close() {
  module_.remove(*this);
  {
    MutexGuard guard(lock_);
    compat_ioas_ = nullptr;
  }
  for (const bool hwpts : {true, false}) {
    for (u32 id = 0;;) {
      Ref<Object> drop;
      MutexGuard guard(lock_);
      Object* const object = objects_.next(id);
      if (!object) break;
      id = object->id();
      if (HwptPaging* hwpt = object_cast<HwptPaging>(object)) {
        drop = retire_hwpt_locked(*hwpt);
      } else if (!hwpts) {
        drop = objects_.remove(id);
      }
    }
  }
  Owned<Incoming> incoming;
  MutexGuard guard(lock_);
  incoming = std::move(incoming_);
}

// --- dispatch (uapi §2.1) ---------------------------------------------------------------------------------------

struct IommufdFile::Dispatch {
  struct Op {
    u32 command;
    u32 min_size;
    Result<void> (*run)(IommufdFile& file, Task& task, UserAddr arg, u32 caller_size, u32 min_size);
  };

  template <class T, Result<void> (IommufdFile::*Handler)(Call<T>&)>
  static Result<void> run(IommufdFile& file, Task& task, UserAddr arg, u32 caller_size, u32 min_size) {
    Call<T> call{.task = task, .arg = arg, .caller_size = caller_size};
    call.cmd = TRY(ioctl_copy_in<T>(task, arg, caller_size, min_size));
    return (file.*Handler)(call);
  }
  template <class T, Result<void> (IommufdFile::*Handler)(Call<T>&)>
  static constexpr Op op(u32 command, u32 min_size = sizeof(T)) {
    return {command, min_size, &run<T, Handler>};
  }
  // It changes the object that this member names, so that is asked first; what is committed asks once more, under its
  // own lock. Also for what is not supported: a program is told to wait, not that it is wrong.
  template <class T, Result<void> (IommufdFile::*Handler)(Call<T>&), u32 T::* Changed>
  static Result<void> run_change(IommufdFile& file, Task& task, UserAddr arg, u32 caller_size, u32 min_size) {
    Call<T> call{.task = task, .arg = arg, .caller_size = caller_size};
    call.cmd = TRY(ioctl_copy_in<T>(task, arg, caller_size, min_size));
    TRY(file.may_change(call.cmd.*Changed));
    return (file.*Handler)(call);
  }
  template <class T, Result<void> (IommufdFile::*Handler)(Call<T>&), u32 T::* Changed>
  static constexpr Op change(u32 command, u32 min_size = sizeof(T)) {
    return {command, min_size, &run_change<T, Handler, Changed>};
  }
  // A feature that this kernel does not have.
  template <class T>
  static constexpr Op no(u32 command, u32 min_size = sizeof(T)) {
    return op<T, &IommufdFile::unsupported<T>>(command, min_size);
  }
};

Result<u64> IommufdFile::ioctl(Task& task, u32 cmd, UserAddr arg) {
  using D = Dispatch;
  static constexpr u32 kFirst = 0x80;
  static constexpr D::Op kOps[] = {
      D::change<uapi::IommuDestroy, &IommufdFile::destroy, &uapi::IommuDestroy::id>(uapi::kIommuDestroy),
      D::op<uapi::IommuIoasAlloc, &IommufdFile::ioas_alloc>(uapi::kIommuIoasAlloc),
      D::change<uapi::IommuIoasAllowIovas, &IommufdFile::ioas_allow_iovas, &uapi::IommuIoasAllowIovas::ioas_id>(
          uapi::kIommuIoasAllowIovas),
      D::change<uapi::IommuIoasCopy, &IommufdFile::ioas_copy, &uapi::IommuIoasCopy::dst_ioas_id>(uapi::kIommuIoasCopy),
      D::op<uapi::IommuIoasIovaRanges, &IommufdFile::ioas_iova_ranges>(uapi::kIommuIoasIovaRanges),
      D::change<uapi::IommuIoasMap, &IommufdFile::ioas_map, &uapi::IommuIoasMap::ioas_id>(uapi::kIommuIoasMap),
      D::change<uapi::IommuIoasUnmap, &IommufdFile::ioas_unmap, &uapi::IommuIoasUnmap::ioas_id>(uapi::kIommuIoasUnmap),
      D::op<uapi::IommuOption, &IommufdFile::option>(uapi::kIommuOption),
      D::op<uapi::IommuVfioIoas, &IommufdFile::vfio_ioas>(uapi::kIommuVfioIoas),
      D::op<uapi::IommuHwptAlloc, &IommufdFile::hwpt_alloc>(uapi::kIommuHwptAlloc, uapi::kIommuHwptAllocMin),
      D::op<uapi::IommuHwInfo, &IommufdFile::get_hw_info>(uapi::kIommuGetHwInfo, uapi::kIommuHwInfoMin),
      D::change<uapi::IommuHwptSetDirtyTracking, &IommufdFile::hwpt_set_dirty_tracking,
                &uapi::IommuHwptSetDirtyTracking::hwpt_id>(uapi::kIommuHwptSetDirtyTracking),
      D::change<uapi::IommuHwptGetDirtyBitmap, &IommufdFile::hwpt_get_dirty_bitmap,
                &uapi::IommuHwptGetDirtyBitmap::hwpt_id>(uapi::kIommuHwptGetDirtyBitmap),
      D::op<uapi::IommuHwptInvalidate, &IommufdFile::hwpt_invalidate>(uapi::kIommuHwptInvalidate),
      D::no<uapi::IommuFaultAlloc>(uapi::kIommuFaultQueueAlloc),
      D::change<uapi::IommuIoasMapFile, &IommufdFile::ioas_map_file, &uapi::IommuIoasMapFile::ioas_id>(
          uapi::kIommuIoasMapFile),
      D::no<uapi::IommuViommuAlloc>(uapi::kIommuViommuAlloc, uapi::kIommuViommuAllocMin),
      D::no<uapi::IommuVdeviceAlloc>(uapi::kIommuVdeviceAlloc),
      D::op<uapi::IommuIoasChangeProcess, &IommufdFile::ioas_change_process>(uapi::kIommuIoasChangeProcess),
      D::no<uapi::IommuVeventqAlloc>(uapi::kIommuVeventqAlloc, uapi::kIommuVeventqAllocMin),
      D::no<uapi::IommuHwQueueAlloc>(uapi::kIommuHwQueueAlloc),
      D::no<uapi::IommuIoasNoiommuGetPa>(uapi::kIommuIoasNoiommuGetPa),
  };
  static_assert(std::size(kOps) == 0x16);
  // Wherever a configuration puts these two, they are looked at first.
  const D::Op mark = D::op<uapi::IommuHwptMarkPreserve, &IommufdFile::hwpt_mark_preserve>(module_.config.mark_preserve);
  const D::Op restore = D::op<uapi::IommuHwptRestore, &IommufdFile::hwpt_restore>(module_.config.restore);
  const D::Op* op = nullptr;
  if (cmd != 0 && cmd == mark.command) {
    op = &mark;
  } else if (cmd != 0 && cmd == restore.command) {
    op = &restore;
  } else {
    const u32 index = (cmd & 0xff) - kFirst;
    if (index >= std::size(kOps)) return vfio_ioctl(task, cmd, arg);
    op = &kOps[index];
  }
  const u32 caller_size = TRY(ioctl_size(task, arg));
  if (op->command != cmd) return fail(Errno::Enotty);
  TRY(op->run(*this, task, arg, caller_size, op->min_size));
  return u64{0};
}

// --- IOAS (uapi §2.5) -------------------------------------------------------------------------------------------

Result<void> IommufdFile::may_change(u32 id) const {
  MutexGuard guard(lock_);
  const Object* const object = objects_.find(id);
  return object ? object->immutability.may_change() : Result<void>();
}

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

Result<void> IommufdFile::ioas_allow_iovas(Call<uapi::IommuIoasAllowIovas>& call) {
  const uapi::IommuIoasAllowIovas& cmd = call.cmd;
  if (cmd.reserved != 0) return fail(Errno::Eopnotsupp);
  const Ref<Ioas> ioas = TRY(find_ioas(cmd.ioas_id));
  Vec<IovaRange> ranges(heap_);
  for (u32 i = 0; i < cmd.num_iovas; ++i) {
    const auto range =
        TRY(call.task.copy_in<uapi::IommuIovaRange>(UserAddr(cmd.allowed_iovas) + i * sizeof(uapi::IommuIovaRange)));
    const IovaRange allowed{range.start, range.last};
    if (allowed.first >= allowed.last) return fail(Errno::Einval);
    const auto at = std::lower_bound(ranges.begin(), ranges.end(), allowed,
                                     [](IovaRange a, IovaRange b) { return a.first < b.first; });
    const usize index = static_cast<usize>(at - ranges.begin());
    // Ranges that do not meet are in order by their ends, too: only the neighbours can be in the way.
    if (index < ranges.size() && ranges_meet(ranges[index], allowed)) return fail(Errno::Einval);
    if (index > 0 && ranges_meet(ranges[index - 1], allowed)) return fail(Errno::Einval);
    TRY(ranges.insert_at(index, allowed));
  }
  return ioas->allow(std::move(ranges));
}

namespace {

// What MAP, MAP_FILE and COPY check before they look at anything: flags, then numbers that cannot be.
Result<Access> check_map(u32 flags, u32 reserved, std::initializer_list<u64> numbers) {
  if ((flags & ~uapi::iommu_map::kKnown) != 0 || reserved != 0) return fail(Errno::Eopnotsupp);
  for (const u64 number : numbers) {
    if (number == ~u64{0}) return fail(Errno::Eoverflow);
  }
  const bool read = (flags & uapi::iommu_map::kReadable) != 0;
  const bool write = (flags & uapi::iommu_map::kWriteable) != 0;
  if (!read && !write) return fail(Errno::Einval);
  return read && write ? Access::ReadWrite : read ? Access::Read : Access::Write;
}

// Where it was mapped, in the member for it.
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

// What lies behind the address is taken down now, and is what devices reach from then on, whatever the program maps
// there later. (Linux looks only when it has to pin; where nothing can be pinned, that is when it fails here, too.)
Result<Iova> IommufdFile::map_user(Task& task, Ioas& ioas, u64 from, u64 length, const Iova* fixed, Access access) {
  if (from + length < from) return fail(Errno::Eoverflow);
  if (length == 0) return fail(Errno::Einval);
  Source source(heap_);
  source.kind = Source::Kind::User;
  source.start = from;
  source.writable = includes(access, Access::Write);
  const Access wanted = includes(access, Access::Write) ? Access::Write : Access::Read;
  u64 found = 0;
  const Result<void> resolved = task.resolve(UserAddr(from), length, wanted,
                                             [&](Ref<SharedMemory> memory, u64 offset, u64 bytes) -> Result<void> {
                                               found += bytes;
                                               return source.pieces.push_back({std::move(memory), offset, bytes});
                                             });
  if (!resolved && resolved.error() != Errno::Efault) return fail(resolved.error());
  if (!resolved || found != length) {
    source.pieces.clear();
    source.unpinnable = Errno::Efault;
  }
  return ioas.map(std::move(source), length, fixed, access);
}

Result<void> IommufdFile::ioas_map(Call<uapi::IommuIoasMap>& call) {
  const uapi::IommuIoasMap& cmd = call.cmd;
  const Access access = TRY(check_map(cmd.flags, cmd.reserved, {cmd.iova, cmd.length}));
  const Ref<Ioas> ioas = TRY(find_ioas(cmd.ioas_id));
  const Iova fixed(cmd.iova);
  return answer_map(call,
                    map_user(call.task, *ioas, cmd.user_va, cmd.length, is_fixed(cmd) ? &fixed : nullptr, access));
}

Result<void> IommufdFile::ioas_map_file(Call<uapi::IommuIoasMapFile>& call) {
  const uapi::IommuIoasMapFile& cmd = call.cmd;
  const Access access = TRY(check_map(cmd.flags, 0, {cmd.iova, cmd.length}));
  const Ref<Ioas> ioas = TRY(find_ioas(cmd.ioas_id));
  if (cmd.length == 0) return fail(Errno::Einval);
  if (cmd.start + cmd.length < cmd.start) return fail(Errno::Eoverflow);
  Ref<File> file = TRY(call.task.file(cmd.fd));
  Source source(heap_);
  source.kind = Source::Kind::File;
  source.start = cmd.start;
  source.writable = includes(access, Access::Write);
  if (SharedMemory* memory = file_cast<SharedMemory>(file.get())) {
    // Before anything is mapped: a seal that is there now stays, one that comes later does not count (R59).
    source.seals = memory->seals();
    TRY(source.pieces.push_back({Ref<SharedMemory>(memory), cmd.start, cmd.length}));
  } else {
    source.unpinnable = Errno::Einval;
  }
  const Iova fixed(cmd.iova);
  return answer_map(call, ioas->map(std::move(source), cmd.length, is_fixed(cmd) ? &fixed : nullptr, access));
}

// The same memory a second time, here or in another address space. What the source's areas refer to is shared, so the
// copy stays when they are unmapped.
Result<void> IommufdFile::ioas_copy(Call<uapi::IommuIoasCopy>& call) {
  uapi::IommuIoasCopy& cmd = call.cmd;
  const Access access = TRY(check_map(cmd.flags, 0, {cmd.length, cmd.src_iova, cmd.dst_iova}));
  Ioas::AreaList copies;
  ScopeGuard release([&] { Ioas::release_areas(heap_, copies); });
  {
    const Ref<Ioas> source = TRY(find_ioas(cmd.src_ioas_id));
    if (cmd.length == 0) return fail(Errno::Einval);
    if (range_overflows(cmd.src_iova, cmd.length)) return fail(Errno::Eoverflow);
    TRY(source->copy(Iova(cmd.src_iova), cmd.length, access, copies));
  }
  const Ref<Ioas> target = TRY(find_ioas(cmd.dst_ioas_id));
  const Iova fixed(cmd.dst_iova);
  cmd.dst_iova = TRY(target->map(copies, is_fixed(cmd) ? &fixed : nullptr))
  .value;
  return call.respond();
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

}  // namespace perdure::iommufd
