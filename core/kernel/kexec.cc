// Kernel::kexec_load() and Kernel::kexec(): from this kernel to the next.
#include <cstring>

#include "core/abi/kernel_note.h"
#include "core/base/scope_guard.h"
#include "core/kernel/kernel.h"

namespace perdure {

namespace {
constexpr unsigned kMemoryMapOrder = 4;  // 64 KiB
constexpr u32 kMemoryMapEntries = static_cast<u32>((kPageSize << kMemoryMapOrder) / sizeof(abi::MemoryMapEntry));
}  // namespace

Result<void> Kernel::kexec_load(std::string_view name) {
  if (leaving_.exchange(true)) return fail(Errno::Ebusy);
  const ScopeGuard done([this] { leaving_ = false; });
  const u64 begin = machine_.now_ns();
  Ref<KernelImage> image = TRY(machine_.image_open(name));
  // Before anything is frozen: will that kernel understand what this one writes?
  std::string_view why = "there is no note";
  const auto note = abi::parse_kernel_note(image->note(), &why);
  if (!note) {
    report(LogLevel::Error, Line() << name << " is not a kernel that can take over: its note \"Perdure\": " << why
                                   << "; nothing was frozen");
    return fail(Errno::Enoexec);
  }
  const abi::KernelNote current = abi::kernel_note(config_.release, config_.write_version);
  const abi::FormatVersions* misfit = nullptr;
  if (auto fits = abi::check_compatible(*note, current, &misfit); !fits) {
    report(LogLevel::Error, Line() << name << " (" << note->release << ") cannot read what " << config_.release
                                   << " writes: format " << (misfit ? misfit->name : "?")
                                   << "; nothing was frozen, load another kernel");
    return fits;
  }
  unload();
  ScopeGuard undo([this] { unload(); });
  next_boot_info_ = TRY(frames_.alloc_scratch(0));
  next_memory_map_ = TRY(frames_.alloc_scratch(kMemoryMapOrder));
  next_scratch_table_ = TRY(frames_.alloc_scratch(0));
  TRY(outgoing_timeline_.reserve(kho_));
  if (bus_) TRY(stopped_.reserve(bus_->size()));
  next_ = std::move(image);
  next_is_loaded_ = true;
  undo.dismiss();
  outgoing_timeline_.clear();
  outgoing_timeline_.add(UpdatePhase::Load, begin, machine_.now_ns());
  return {};
}

void Kernel::unload() {
  next_is_loaded_ = false;
  next_ = nullptr;
  outgoing_timeline_.unreserve(kho_);
  if (next_boot_info_) frames_.free(std::exchange(next_boot_info_, Phys()), 0);
  if (next_memory_map_) frames_.free(std::exchange(next_memory_map_, Phys()), kMemoryMapOrder);
  if (next_scratch_table_) frames_.free(std::exchange(next_scratch_table_, Phys()), 0);
}

Result<void> Kernel::kexec() {
  if (leaving_.exchange(true)) return fail(Errno::Ebusy);
  ScopeGuard stay([this] { leaving_ = false; });
  if (!next_) return fail(Errno::Enoexec);
  const usize loaded = outgoing_timeline_.phases().size();
  ScopeGuard forget([&] { outgoing_timeline_.cut(loaded); });
  u64 begin = machine_.now_ns();
  const auto phase = [&](UpdatePhase p) {
    const u64 now = machine_.now_ns();
    outgoing_timeline_.add(p, begin, now);
    begin = now;
  };

  // Tables are immutable from preserve on, so the whole audit is made before anybody waits for it.
  TRY(kho_.check_outgoing());
  TRY(live_update_->audit());
  TRY(iommufd_handler_->audit());
  phase(UpdatePhase::Audit);

  TRY(luo_->serialize());
  ScopeGuard thaw([this] { luo_->unfreeze_all(); });
  phase(UpdatePhase::Freeze);

  // What comes from here on is the next kernel's, also what this one has not looked at yet.
  machine_.irq_disable();
  ScopeGuard enable([this] { machine_.irq_enable(); });
  stop_functions();
  ScopeGuard restart([this] { restart_functions(); });
  TRY(live_update_->quiesce());
  ScopeGuard resume([this] { live_update_->resume(); });
  phase(UpdatePhase::Quiesce);
  outgoing_timeline_.store(machine_);

  TRY(jump());
  // Gone. Where control comes back (in process) nothing of this kernel may be touched any more.
  resume.dismiss();
  restart.dismiss();
  enable.dismiss();
  thaw.dismiss();
  forget.dismiss();
  stay.dismiss();
  return {};
}

void Kernel::stop_functions() {
  // Children before their bridges: these stand before them in the list.
  for (usize i = bus_ ? bus_->size() : 0; i-- > 0;) {
    pci::Function& function = bus_->at(i);
    if (pci_live_update_->keeps(function) || !function.bus_master()) continue;
    function.set_bus_master(false);
    if (!stopped_.push_back(&function)) return;  // reserved when the next kernel was loaded
  }
}

void Kernel::restart_functions() {
  for (usize i = stopped_.size(); i-- > 0;) stopped_[i]->set_bus_master(true);
  stopped_.clear();
}

Result<void> Kernel::jump() {
  const std::span<const Extent> scratch = frames_.scratch();
  PERDURE_ASSERT(scratch.size() * sizeof(abi::KhoScratch) <= kPageSize);
  auto* table = machine_.virt<abi::KhoScratch>(next_scratch_table_);
  for (usize i = 0; i < scratch.size(); ++i) table[i] = {scratch[i].base.value, scratch[i].length};

  abi::BootInfo next;
  next.memory_map = next_memory_map_.value;
  next.memory_map_count = kMemoryMapEntries;
  next.hop = boot_.hop + 1;
  next.kho_fdt = kho_.outgoing_fdt().value;
  next.kho_scratch = next_scratch_table_.value;
  next.kho_scratch_length = scratch.size() * sizeof(abi::KhoScratch);
  std::memcpy(next.command_line, boot_.command_line, sizeof next.command_line);
  next.jump_ns = machine_.now_ns();
  return machine_.jump(*next_, next, next_boot_info_);
}

}  // namespace perdure
