// Preservation of shared memory, in the format memfd-v2 of Linux 7.3 (kho-luo §4; memfd_record.h).
//
// Memory in banks stays where it is: the record names the blocks, and the next kernel finds the host memory behind them
// in its memory map. Blocks in ordinary RAM, as other kernels leave them, are moved into new host memory when they are
// retrieved. The host's own file calls cannot be refused from here: contents may change up to the jump, as in Linux;
// a size that changed meanwhile fails the freeze; seals are read again at the freeze, so late ones are not lost.
#pragma once
#include "core/file/host_files.h"
#include "core/kho/kho.h"
#include "core/luo/file_handler.h"

namespace perdure::luo {

class MemfdRecord;

class MemfdHandler final : public FileHandler {
 public:
  MemfdHandler(Kho& kho, HostFiles& files) : kho_(kho), files_(files) {}

  std::string_view compatible() const override;
  bool can_preserve(File& file) const override;
  u64 id(File& file) const override;

  // Eopnotsupp: unknown seals; Efbig: more than 2^32 - 1 pages; Enomem; the machine's error when it cannot attach a
  // bank (a file that is sealed against writing already, and that no device has ever reached, cannot be mapped
  // writable).
  Result<void> preserve(FileState& state) override;
  void unpreserve(FileState& state) override;
  // Ebusy: the size is not what it was; Eopnotsupp: unknown seals were added.
  Result<void> freeze(FileState& state) override;

  // Eproto: the record or what it names is not what it should be; Enoent: the host memory is gone; Enomem.
  Result<Ref<File>> retrieve(FileState& state) override;
  void finish(FileState& state) override;
  Result<u64> forward(FileState& state) override;
  void unforward(FileState& state, u64 outgoing) override;

 private:
  struct Preserved;
  Result<Ref<HostMemory>> copy_to_host(const MemfdRecord& record);
  Kho& kho_;
  HostFiles& files_;
};

}  // namespace perdure::luo
