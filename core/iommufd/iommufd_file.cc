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
      D::op<uapi::IommuViommuAlloc, &IommufdFile::viommu_alloc>(uapi::kIommuViommuAlloc, uapi::kIommuViommuAllocMin),
      D::op<uapi::IommuVdeviceAlloc, &IommufdFile::vdevice_alloc>(uapi::kIommuVdeviceAlloc),
      D::op<uapi::IommuIoasChangeProcess, &IommufdFile::ioas_change_process>(uapi::kIommuIoasChangeProcess),
      D::op<uapi::IommuVeventqAlloc, &IommufdFile::veventq_alloc>(uapi::kIommuVeventqAlloc,
                                                                  uapi::kIommuVeventqAllocMin),
      D::op<uapi::IommuHwQueueAlloc, &IommufdFile::hw_queue_alloc>(uapi::kIommuHwQueueAlloc),
      D::no<uapi::IommuIoasNoiommuGetPa>(uapi::kIommuIoasNoiommuGetPa),
  };
  static_assert(std::size(kOps) == 0x16);
  static constexpr D::Op kTest =
      D::op<uapi::IommuTestCmd, &IommufdFile::test_cmd>(uapi::kIommuTestCmd, uapi::kIommuTestCmdMin);
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
    if (index < std::size(kOps)) {
      op = &kOps[index];
    } else if (module_.config.test_ops && index <= kTest.command % 0x100 - kFirst) {
      op = &kTest;  // with it the table has a gap
    } else {
      return vfio_ioctl(task, cmd, arg);
    }
  }
  const u32 caller_size = TRY(ioctl_size(task, arg));
  if (op->command != cmd) return fail(Errno::Enotty);
  TRY(op->run(*this, task, arg, caller_size, op->min_size));
  return u64{0};
}

Result<void> IommufdFile::may_change(u32 id) const {
  MutexGuard guard(lock_);
  const Object* const object = objects_.find(id);
  return object ? object->immutability.may_change() : Result<void>();
}

}  // namespace perdure::iommufd
