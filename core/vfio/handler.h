// VFIO devices in a live update session (iommu-liveupdate §3.3, §5.4; design §7).
//
// A preserved device goes on working through the jump: no callback here resets it, masters it off, or writes to its
// configuration. Its interrupts stay enabled at the device when its unit remaps them: their entries travel with the
// unit, and what comes is kept until the program connects its eventfds again (iommu/interrupts.h). Where nothing remaps
// them the program has to disable them before the jump, as with Linux.
#pragma once
#include "core/luo/file_handler.h"
#include "core/vfio/vfio.h"

namespace perdure::vfio {

class VfioHandler final : public luo::FileHandler {
 public:
  explicit VfioHandler(Vfio& module) : module_(module) {}
  VfioHandler(const VfioHandler&) = delete;
  VfioHandler& operator=(const VfioHandler&) = delete;

  std::string_view compatible() const override { return abi::kVfioPciCompatible; }
  // Of those that were opened through their group, too, so that whoever tries is told.
  bool can_preserve(File& file) const override;

  // After the device's iommufd in the same session (Enoent otherwise); see VfioFile::preserve().
  Result<void> preserve(luo::FileState& state) override;
  void unpreserve(luo::FileState& state) override;
  Result<void> freeze(luo::FileState& state) override;
  void unfreeze(luo::FileState& state) override;

  // Eproto: record and device do not fit each other, and the device stays held; Eio: it is blocked; Enodev: it is not
  // there.
  Result<Ref<File>> retrieve(luo::FileState& state) override;
  // A device that was bound again, or that is blocked or gone and so nobody's; or a record that says nothing.
  bool can_finish(luo::FileState& state) override;
  void finish(luo::FileState& state) override;

  Result<u64> forward(luo::FileState& state) override;
  void unforward(luo::FileState& state, u64 outgoing) override;

 private:
  Result<abi::VfioPciRecord> read(const luo::FileState& state) const;
  // The function with the recorded id; null: not there.
  PciDevice* device_of(const abi::VfioPciRecord& record) const;
  // It must look as recorded. Eproto.
  Result<void> compare(const abi::VfioPciRecord& record, const pci::Function& function) const;
  Result<void> forward_held(PciDevice& device, const abi::VfioPciRecord& record, u64 next_generation);
  void unforward_held(PciDevice& device);
  Kho& kho() const { return module_.iommufd.kho; }
  Vfio& module_;
};

}  // namespace perdure::vfio
