// One context of /dev/iommu: its objects, its ioctls (uapi §2), and the side that vfio sees.
#pragma once
#include "core/file/ioctl_copy.h"
#include "core/iommufd/device.h"
#include "core/iommufd/hwpt_audit.h"
#include "core/iommufd/ioas.h"
#include "core/iommufd/record.h"
#include "core/iommufd/status.h"
#include "core/luo/session.h"
#include "core/uapi/iommufd.h"
#include "core/uapi/iommufd_test.h"

namespace perdure::iommufd {

class Iommufd;

// One ioctl: its structure as read, and where the answer goes.
template <class T>
struct Call {
  Task& task;
  UserAddr arg;
  u32 caller_size = 0;
  T cmd{};
  Result<void> respond() const { return ioctl_copy_out(task, arg, caller_size, cmd); }
};

// Lock order: the context's lock, then an IOAS's, then the IOMMU core's. References to files are dropped with none
// held.
class IommufdFile final : public File {
 public:
  static constexpr FileType kType{"/dev/iommu"};

  IommufdFile(Iommufd& module, Ref<DmaOwner> owner, Accounting accounting);
  const FileType& type() const override { return kType; }
  Result<u64> ioctl(Task& task, u32 cmd, UserAddr arg) override;

  // --- devices, for the driver that drives them ---------------------------------------------------------------
  // The driver holds a reference to this file for as long as a device of it is bound. DMA of the device is blocked
  // until it is attached. Eperm: another context, or a session, owns the device; Ebusy: somebody else uses it; Eio: it
  // is quarantined; Enomem.
  Result<Ref<Device>> bind(IommuDevice& device) EXCLUDES(lock_);
  // The device stays attached to what it was preserved with. This context must be the one that was retrieved from the
  // session with this generation, under the token that the device is held for (Eperm); a failure leaves it held.
  Result<Ref<Device>> bind_held(IommuDevice& device, u64 generation, u64 token) EXCLUDES(lock_);
  // Undoes bind_held(): the device is held for its session again.
  void unbind_to_held(Device& device) EXCLUDES(lock_);
  void unbind(Device& device) EXCLUDES(lock_);
  // To a HWPT, or to an IOAS through an automatic HWPT; attached already: replaced in place, and on failure nothing
  // changed. Returns the HWPT's id. Enoent, Einval (wrong kind, incompatible, restored, or results differ from those of
  // the restored HWPT to be replaced), Eaddrinuse, Ebusy: preserved, or attached to what nobody reclaimed yet; Enomem.
  // `task`: whose call it is; memory of other processes may have to be pinned.
  Result<u32> attach(Task& task, Device& device, u32 pt_id) EXCLUDES(lock_);
  // Not attached: nothing happens. Ebusy as above.
  Result<void> detach(Device& device) EXCLUDES(lock_);
  u32 id_of(const Device& device) const { return device.id(); }

  // --- VFIO's container (uapi §2.13) -----------------------------------------------------------------------------
  // The IOAS that a container's ioctls mean: the one that VFIO_IOAS named, or that make_compat_ioas() made. Enodev.
  Result<Ref<Ioas>> compat_ioas() const EXCLUDES(lock_);
  // The same; if there is none, a new one, as when the first group is put into the container. Enomem.
  Result<Ref<Ioas>> make_compat_ioas() EXCLUDES(lock_);
  // The last group left the container: all mappings go, when what is returned is dropped, with no lock held.
  [[nodiscard]] Ref<Object> drop_compat_ioas() EXCLUDES(lock_);
  // Maps what the program has at `from`, at `fixed` or where it fits. The errors of MAP from "va+length" on.
  Result<Iova> map_user(Task& task, Ioas& ioas, u64 from, u64 length, const Iova* fixed, Access access);
  // Registers of a device for others, as VFIO's own container allows it. The errors of MAP from "length" on.
  Result<void> map_registers(Task& task, Ioas& ioas, Phys base, u64 length, Iova at, Access access);
  // A device of the group is bound to this context.
  bool owns(const Group& group) const EXCLUDES(lock_);

  // The last close of the access's file. Not an object yet: nothing to do.
  void end_access(IoasAccess& access) EXCLUDES(lock_);

  // --- for reports -------------------------------------------------------------------------------------------------
  u64 number() const { return number_; }  // no other context's of this kernel
  void describe(ContextVisitor& visitor) const EXCLUDES(lock_);

  // --- live update, old kernel (called by the handlers, under the session's lock) --------------------------------
  // Preserves every marked HWPT; returns the record. Ebusy: preserved already; Einval, Enoent: an area that cannot be
  // preserved (iommu-liveupdate §3.1). Everything is undone on failure.
  Result<Phys> preserve(const luo::Session& session) EXCLUDES(lock_);
  void unpreserve(Phys record) EXCLUDES(lock_);
  // After IommuLiveUpdate::audit(), which compares leaves: was there one for every page of every area? Efault, with the
  // HWPT logged; also when no audit ran since preserve().
  Result<void> check_audit() const EXCLUDES(lock_);
  // For reports: every preserved HWPT, and where its areas lead. Under this context's lock.
  void each_preserved(FunctionRef<void(const HwptPaging& hwpt, const HwptAudit& areas)> visit) const EXCLUDES(lock_);
  // The device must be attached (Enoent) to a HWPT that is preserved (Einval), this context in the session (Enoent).
  // Returns this context's token there.
  Result<u64> preserve_device(Device& device, const luo::Session& session) EXCLUDES(lock_);
  void unpreserve_device(Device& device) EXCLUDES(lock_);

  // --- live update, new kernel -------------------------------------------------------------------------------------
  // This fresh context stands for the one that was preserved under `token` of `session`, with this record. The memory
  // that its areas lead to is found through the session and pinned.
  Result<void> inherit(luo::Session& session, u64 token, IncomingRecord record) EXCLUDES(lock_);
  // Every HWPT of the record was reclaimed, or its domain is lost anyway.
  bool can_finish() EXCLUDES(lock_);
  void finish() EXCLUDES(lock_);

  ListNode preserved_node;  // the handler's

 protected:
  void last_close() override;

 private:
  friend class Iommufd;
  struct Dispatch;
  struct Memory {
    u64 token = 0;
    Ref<SharedMemory> memory;
  };
  // What came from the former kernel, until finish.
  struct Incoming {
    Incoming(Heap& heap, u64 of_generation, u64 of_token, IncomingRecord of)
        : generation(of_generation), token(of_token), record(std::move(of)), memories(heap), reclaimed(heap) {}
    ~Incoming();
    SharedMemory* memory(u64 memory_token) const;
    const u64 generation;
    const u64 token;
    IncomingRecord record;
    Vec<Memory> memories;  // each pinned
    enum class Reclaim : u8 { No, UnderWay, Done };
    Vec<Reclaim> reclaimed;  // by HWPT
  };

  struct PreservedHwpt {
    Ref<HwptPaging> hwpt;
    Owned<HwptAudit> audit;  // stays where it is: the IOMMU core calls it
  };

  // --- ioctls -----------------------------------------------------------------------------------------------------
  Result<void> destroy(Call<uapi::IommuDestroy>& call);
  Result<void> ioas_alloc(Call<uapi::IommuIoasAlloc>& call);
  Result<void> ioas_iova_ranges(Call<uapi::IommuIoasIovaRanges>& call);
  Result<void> ioas_map(Call<uapi::IommuIoasMap>& call);
  Result<void> ioas_map_file(Call<uapi::IommuIoasMapFile>& call);
  Result<void> ioas_unmap(Call<uapi::IommuIoasUnmap>& call);
  Result<void> ioas_copy(Call<uapi::IommuIoasCopy>& call);
  Result<void> ioas_allow_iovas(Call<uapi::IommuIoasAllowIovas>& call);
  Result<void> hwpt_alloc(Call<uapi::IommuHwptAlloc>& call);
  Result<void> get_hw_info(Call<uapi::IommuHwInfo>& call);
  Result<void> hwpt_set_dirty_tracking(Call<uapi::IommuHwptSetDirtyTracking>& call);
  Result<void> hwpt_get_dirty_bitmap(Call<uapi::IommuHwptGetDirtyBitmap>& call);
  Result<void> viommu_alloc(Call<uapi::IommuViommuAlloc>& call);
  Result<void> vdevice_alloc(Call<uapi::IommuVdeviceAlloc>& call);
  Result<void> veventq_alloc(Call<uapi::IommuVeventqAlloc>& call);
  Result<void> hw_queue_alloc(Call<uapi::IommuHwQueueAlloc>& call);
  Result<void> hwpt_invalidate(Call<uapi::IommuHwptInvalidate>& call);
  Result<void> hwpt_mark_preserve(Call<uapi::IommuHwptMarkPreserve>& call);
  Result<void> hwpt_restore(Call<uapi::IommuHwptRestore>& call);
  Result<void> option(Call<uapi::IommuOption>& call);
  Result<void> option_rlimit_mode(Task& task, uapi::IommuOption& cmd);
  Result<void> option_huge_pages(uapi::IommuOption& cmd);
  Result<Payer> payer(Task& task) const EXCLUDES(lock_);
  Result<void> vfio_ioas(Call<uapi::IommuVfioIoas>& call);
  // What is no number of iommufd's table is VFIO's, or nobody's (Enotty). `cmd` as the program passed it.
  Result<u64> vfio_ioctl(Task& task, u32 cmd, UserAddr arg) EXCLUDES(lock_);
  Result<u64> vfio_check_extension(u64 extension) const;
  Result<void> vfio_set_iommu(u64 type);
  Result<void> vfio_map(Task& task, UserAddr arg);
  Result<void> vfio_unmap(Task& task, UserAddr arg);
  Result<void> ioas_change_process(Call<uapi::IommuIoasChangeProcess>& call);
  // IOMMU_TEST_CMD, in test_ops.cc. Its accesses are those of their own context, whichever is asked.
  Result<void> test_cmd(Call<uapi::IommuTestCmd>& call);
  Result<void> test_add_reserved(Call<uapi::IommuTestCmd>& call);
  Result<void> test_check_map(Call<uapi::IommuTestCmd>& call);
  Result<void> test_check_refs(Call<uapi::IommuTestCmd>& call);
  Result<void> test_create_access(Call<uapi::IommuTestCmd>& call);
  Result<void> test_access_replace(Call<uapi::IommuTestCmd>& call);
  Result<void> test_access_pages(Call<uapi::IommuTestCmd>& call);
  Result<void> test_destroy_access_pages(Call<uapi::IommuTestCmd>& call);
  Result<void> test_access_rw(Call<uapi::IommuTestCmd>& call);
  Result<void> test_without_device(Call<uapi::IommuTestCmd>& call);
  Result<void> collect_pages(Vec<Ref<Pages>>& pages) const EXCLUDES(lock_);
  Result<void> attach_access_locked(IoasAccess& access, Ioas& ioas) REQUIRES(lock_);
  Result<void> replace_access(IoasAccess& access, u32 ioas_id) EXCLUDES(lock_);
  Result<Ref<Ioas>> ioas_of(const IoasAccess& access) const EXCLUDES(lock_);
  Result<u32> pin(Task& task, IoasAccess& access, u64 iova, u64 length, Access wanted) EXCLUDES(lock_);
  Result<void> unpin(IoasAccess& access, u32 number) EXCLUDES(lock_);
  // Immutability::may_change() of the object; there is none: nothing to say.
  Result<void> may_change(u32 id) const EXCLUDES(lock_);
  template <class T>
  Result<void> unsupported(Call<T>&) {
    return fail(Errno::Eopnotsupp);
  }

  Result<Ref<Ioas>> find_ioas(u32 id) const EXCLUDES(lock_);
  Result<Ref<HwptPaging>> make_hwpt_locked(Ref<Ioas> ioas, IommuDevice& device, bool automatic,
                                           bool track_dirty = false) REQUIRES(lock_);
  // Out of the table and of its IOAS; the reference is to be dropped with no lock held.
  [[nodiscard]] Ref<Object> retire_hwpt_locked(HwptPaging& hwpt) REQUIRES(lock_);
  // One use less; an automatic HWPT goes with the last.
  [[nodiscard]] Ref<Object> drop_use_locked(HwptPaging& hwpt) REQUIRES(lock_);

  Result<void> check_attach_locked(const Device& device) const REQUIRES(lock_);
  // The addresses that the device, and those that it is not isolated from, cannot use for memory of programs: messages,
  // and what firmware may still use. Eaddrinuse, with none reserved.
  Result<void> reserve_for(Ioas& ioas, Device& device) const;
  // Another device of its group that is attached; null: none.
  Device* attached_sibling_locked(const Device& device) const REQUIRES(lock_);
  Result<void> first_attach_locked(Device& device, HwptPaging& hwpt) REQUIRES(lock_);
  Result<void> replace_locked(Device& device, HwptPaging& hwpt, Ref<Object>& drop) REQUIRES(lock_);
  Result<void> attach_automatic_locked(Task& task, Device& device, Ioas& ioas, Ref<Object>& drop) REQUIRES(lock_);
  Result<void> switch_to_locked(Device& device, HwptPaging& hwpt, Ref<Object>& drop) REQUIRES(lock_);
  void set_hwpt_locked(Device& device, HwptPaging& hwpt) REQUIRES(lock_);
  Result<void> detach_locked(Device& device, Ref<Object>& drop) REQUIRES(lock_);
  // A device whose DMA goes through `hwpt` already is attached to it as an object, too.
  Result<void> link_attached_locked(Device& device, HwptPaging& hwpt) REQUIRES(lock_);

  void release_marked(Vec<PreservedHwpt>& marked) EXCLUDES(lock_);
  Result<void> collect_areas(const HwptPaging& hwpt, Vec<RecordedArea>& areas) const;
  Result<void> write_areas(const luo::Session& session, std::span<const RecordedArea> areas, RecordWriter& writer,
                           Vec<Memory>& tokens) const;
  struct Restore;
  Result<void> begin_restore_locked(u64 token, bool with_ioas, Restore& restore) REQUIRES(lock_);
  void cancel_restore_locked(const Restore& restore) REQUIRES(lock_);
  Result<void> finish_restore_locked(Task& task, const Payer& payer, Restore& restore) REQUIRES(lock_);
  // The IOAS that was rebuilt from the record with this number, or null.
  Ioas* rebuilt_ioas_locked(u32 recorded) const REQUIRES(lock_);
  void update_awaiting_locked(u32 recorded) REQUIRES(lock_);
  static Result<Owned<Incoming>> find_memory(Heap& heap, luo::Session& session, u64 token, IncomingRecord record);
  void log_line(LogLevel level, std::string_view text) const;

  ListNode in_module_;
  u64 number_ = 0;
  Iommufd& module_;
  Heap& heap_;
  const Ref<DmaOwner> owner_;
  mutable Mutex lock_{LockRank::Iommufd};
  ObjectTable objects_ GUARDED_BY(lock_);
  List<HwptPaging, &HwptPaging::automatic_node> automatic_ GUARDED_BY(lock_);  // in order of creation
  Immutability immutability_;  // of the set of marked HWPTs: held while preserved
  Vec<PreservedHwpt> preserved_hwpts_ GUARDED_BY(lock_);
  Owned<Incoming> incoming_ GUARDED_BY(lock_);
  Ioas* compat_ioas_ GUARDED_BY(lock_) = nullptr;  // an object of the table, without a use
  Accounting accounting_ GUARDED_BY(lock_);        // of what is mapped from now on
};

}  // namespace perdure::iommufd
