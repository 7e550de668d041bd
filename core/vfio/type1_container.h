// /dev/vfio/vfio as Linux's own container has it, with the type 1 IOMMU (uapi §3.9): for kernels that do not let
// iommufd stand in for it.
#pragma once
#include "core/iommufd/iommufd_file.h"
#include "core/uapi/vfio.h"
#include "core/vfio/vfio_group.h"

namespace perdure::vfio {

class Vfio;

// Groups that translate alike. Below it is a context of iommufd that no program sees, with one device for each group,
// which stands for all of the group's, and one IOAS. What type 1 does otherwise is here: whole mappings are remembered,
// and how many a program may have is limited.
class Type1Container final : public File {
 public:
  static constexpr FileType kType{"/dev/vfio/vfio"};
  static constexpr u32 kMostMappings = 65535;

  Type1Container(Vfio& module, Ref<iommufd::IommufdFile> context);
  const FileType& type() const override { return kType; }
  Result<u64> ioctl(Task& task, u32 cmd, UserAddr arg) override;

  // --- groups, each under its own lock -----------------------------------------------------------------------------
  // The group's DMA is this container's. Eperm, Eio, Ebusy: it is somebody else's; with an IOMMU what attaching says.
  Result<void> add(Task& task, VfioGroup& group) EXCLUDES(lock_);
  // With the last one the IOMMU goes, and all mappings with it: what is returned is to be dropped with no lock held.
  [[nodiscard]] Ref<iommufd::Object> remove(VfioGroup& group) EXCLUDES(lock_);
  // It has an IOMMU: devices can be opened.
  bool ready() const EXCLUDES(lock_);

 private:
  enum class Kind : u8 { None, Type1, Type1v2 };
  struct Member {
    VfioGroup* group = nullptr;
    Ref<iommufd::Device> device;
  };
  struct Mapping {
    u64 iova = 0;
    u64 last = 0;
  };

  Result<void> set_iommu(Task& task, u64 type);
  Result<void> get_info(Task& task, UserAddr arg);
  Result<void> map(Task& task, UserAddr arg);
  Result<void> unmap(Task& task, UserAddr arg);
  // Memory of the program or, as only this container allows, registers that it has mapped.
  Result<void> map_locked(Task& task, const uapi::VfioDmaMap& cmd, Access access) REQUIRES(lock_);
  Result<void> attach_locked(Task& task, const Member& member) REQUIRES(lock_);
  [[nodiscard]] Ref<iommufd::Object> drop_iommu_locked() REQUIRES(lock_);
  // The first mapping that ends at or after `iova`.
  usize lower_bound_locked(u64 iova) const REQUIRES(lock_);

  Vfio& module_;
  const Ref<iommufd::IommufdFile> context_;
  mutable Mutex lock_{LockRank::VfioContainer};
  Kind kind_ GUARDED_BY(lock_) = Kind::None;
  Vec<Member> members_ GUARDED_BY(lock_);
  Ref<iommufd::Ioas> ioas_ GUARDED_BY(lock_);  // the context's one; null: no IOMMU
  Vec<Mapping> mappings_ GUARDED_BY(lock_);    // by address
};

}  // namespace perdure::vfio
