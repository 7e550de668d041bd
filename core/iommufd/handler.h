// iommufd contexts in a live update session (iommu-liveupdate §3.1, §5).
#pragma once
#include "core/iommufd/iommufd.h"
#include "core/luo/file_handler.h"

namespace perdure::iommufd {

class IommufdHandler final : public luo::FileHandler {
 public:
  explicit IommufdHandler(Iommufd& module) : module_(module) {}
  IommufdHandler(const IommufdHandler&) = delete;
  IommufdHandler& operator=(const IommufdHandler&) = delete;

  std::string_view compatible() const override { return abi::kIommufdCompatible; }
  bool can_preserve(File& file) const override { return file_cast<IommufdFile>(&file) != nullptr; }

  // The record is complete after preserve; freeze makes it valid. Efault for a context that no audit covered.
  Result<void> preserve(luo::FileState& state) override;
  void unpreserve(luo::FileState& state) override;
  Result<void> freeze(luo::FileState& state) override;
  void unfreeze(luo::FileState& state) override;

  // A record that cannot be trusted is an error for good: the devices stay held, and their session with them.
  Result<Ref<File>> retrieve(luo::FileState& state) override;
  // Only a context that was retrieved, and whose HWPTs were all reclaimed. They may stay as they are.
  bool can_finish(luo::FileState& state) override;
  void finish(luo::FileState& state) override;

  // The same record again, for the next update: domains that are still held are preserved as they are, those that were
  // lost are left out.
  Result<u64> forward(luo::FileState& state) override;
  void unforward(luo::FileState& state, u64 outgoing) override;

  // After IommuLiveUpdate::audit() and before anything is frozen: every preserved context translates all that its
  // record says. Efault, with the HWPT logged.
  Result<void> audit();
  // Every preserved context, with no lock held.
  Result<void> each_preserved(FunctionRef<Result<void>(IommufdFile&)> visit);

 private:
  Result<IncomingRecord> read(const luo::FileState& state) const;
  Iommufd& module_;
  Mutex lock_{LockRank::Leaf};
  List<IommufdFile, &IommufdFile::preserved_node> preserved_ GUARDED_BY(lock_);
};

}  // namespace perdure::iommufd
