// What a program holds of an access that a test made: its descriptor stands for the kernel's own user of an IOAS.
#pragma once
#include "core/iommufd/iommufd_file.h"

namespace perdure::iommufd {

class AccessFile final : public File {
 public:
  static constexpr FileType kType{"anon_inode:[iommufd_test_staccess]"};
  // Of this context, whose object `access` is, or is about to be.
  AccessFile(Ref<IommufdFile> context, Ref<IoasAccess> access)
      : context_(std::move(context)), access_(std::move(access)) {}
  const FileType& type() const override { return kType; }
  IommufdFile& context() const { return *context_; }
  IoasAccess& access() const { return *access_; }

 protected:
  void last_close() override { context_->end_access(*access_); }

 private:
  const Ref<IommufdFile> context_;  // stays open for as long as this is
  const Ref<IoasAccess> access_;
};

}  // namespace perdure::iommufd
