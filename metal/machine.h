// The core's Machine on a PC: one processor, identity-mapped images, everything else behind the direct map.
#pragma once
#include <optional>

#include "core/abi/boot_info.h"
#include "core/base/machine.h"
#include "metal/archive.h"
#include "metal/cpu.h"
#include "metal/firmware.h"
#include "metal/host_memory.h"
#include "metal/survivors.h"

namespace perdure::metal {

// Stands between the kernel and the hardware, to break what the kernel does (docs/metal.md, negative controls).
class Meddler {
 public:
  // Before the store is made.
  virtual void before_store(Phys at, Width width, u64 value) = 0;
  // Everything is ready and nothing can fail any more.
  virtual void before_jump() = 0;

 protected:
  ~Meddler() = default;
};

class MetalMachine final : public Machine {
 public:
  MetalMachine() = default;
  // `boot_info`: as jump() left it; null: a cold boot, where firmware's facts were just kept.
  Result<void> open(Phys boot_info);
  bool cold() const { return boot_.kho_fdt == 0; }
  const Facts& facts() const { return *facts_; }
  HostShare& share() { return share_; }
  void meddle(Meddler* meddler) { meddler_ = meddler; }
  // Warnings and errors only.
  void be_quiet() { least_logged_ = LogLevel::Warn; }

  const abi::BootInfo& boot() override { return boot_; }
  u64 mmio_read(Phys at, Width width) override;
  void mmio_write(Phys at, Width width, u64 value) override;
  u64 now_ns() override;
  void relax() override;
  void log(LogLevel level, std::string_view line) override;

  Result<MsiTarget> irq_alloc(IrqSink& sink) override;
  void irq_free(MsiTarget target) override;
  Result<void> irq_claim(MsiTarget target, IrqSink& sink) override;
  void irq_raise(MsiTarget target) override;
  void irq_disable() override;
  void irq_enable() override;
  // Calls the sinks of what came. With no lock held.
  void deliver_interrupts();

  void write_back(const void* at, usize bytes) override;
  Result<Bank> bank_attach(HostMemory& memory, u64 offset, u64 length) override {
    return share_.attach(memory.id(), offset, length);
  }
  void bank_detach(const Bank& bank) override { share_.detach(bank); }
  Result<Ref<HostMemory>> bank_memory(u64 host_id) override { return share_.find(host_id); }
  Result<Ref<HostMemory>> host_memory_create(u64 bytes) override { return share_.create(bytes); }

  // Of the archive that the loader brought. The kernel of the slot that this one runs in cannot be loaded: Enoexec.
  Result<Ref<KernelImage>> image_open(std::string_view name) override;
  // Does not come back.
  Result<void> jump(KernelImage& image, const abi::BootInfo& next, Phys at) override;

 private:
  class Image final : public KernelImage {
   public:
    std::string_view name() const override { return name_; }
    std::string_view note() const override { return program_->note(); }

   private:
    friend class MetalMachine;
    void dispose() override { used_ = false; }
    std::optional<abi::ElfProgram> program_;
    Phys slot_;
    std::string_view name_;
    bool used_ = false;
  };

  // Sorted, as abi::check_memory_map() wants it. Enospc.
  // `survivors`: banks of which none survive are left out.
  Result<u32> fill_memory_map(std::span<abi::MemoryMapEntry> map, const Survivors* survivors) const;
  Result<void> start_cold();
  volatile void* reg(Phys at) const { return virt(at); }

  abi::BootInfo boot_;
  const Facts* facts_ = nullptr;
  HostShare share_;
  Meddler* meddler_ = nullptr;
  LogLevel least_logged_ = LogLevel::Info;
  IrqSink* sinks_[kVectors] = {};
  u32 last_vector_ = kLastVector;
  u64 spurious_ = 0;
  Image images_[2];  // one loaded, one about to be
};

}  // namespace perdure::metal
