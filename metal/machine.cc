#include "metal/machine.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <new>

#include "core/base/log.h"
#include "metal/clock.h"
#include "metal/io.h"
#include "metal/layout.h"
#include "metal/pci_setup.h"
#include "metal/report.h"

extern "C" [[noreturn]] void metal_leave(perdure::u64 entry, perdure::u64 boot_info);

namespace perdure::metal {

namespace {

constexpr usize kMapEntries = 128;

// What a cold boot starts with; in the image, which is reserved memory.
constinit abi::MemoryMapEntry cold_map[kMapEntries] = {};
constinit abi::KhoScratch cold_scratch[2] = {};

u64 image_address(const void* in_image) {
  return reinterpret_cast<u64>(in_image);
}

}  // namespace

Result<void> MetalMachine::open(Phys boot_info) {
  facts_ = TRY(metal::facts());
  direct_map = reinterpret_cast<std::byte*>(kDirectMap);  // NOLINT(performance-no-int-to-ptr)
  window = map_memory(*facts_);
  for (Phys slot : kSlots) {
    if (slot.value != image_address(metal_image_begin)) map_slot(slot, false);
  }
  if (!boot_info) return start_cold();
  if (!in_window(boot_info, sizeof boot_)) return fail(Errno::Eproto);
  std::memcpy(&boot_, virt(boot_info), sizeof boot_);
  std::span<const abi::MemoryMapEntry> map;
  if (boot_.memory_map % alignof(abi::MemoryMapEntry) == 0 &&
      in_window(Phys(boot_.memory_map), u64{boot_.memory_map_count} * sizeof(abi::MemoryMapEntry))) {
    map = {virt<const abi::MemoryMapEntry>(Phys(boot_.memory_map)), boot_.memory_map_count};
  }
  share_.init(*this, Phys(facts_->share), facts_->share_bytes, map);
  return {};
}

Result<void> MetalMachine::start_cold() {
  share_.init(*this, Phys(facts_->share), facts_->share_bytes, {});
  boot_.memory_map = image_address(cold_map);
  boot_.memory_map_count = TRY(fill_memory_map(cold_map, nullptr));
  boot_.rsdp = facts_->rsdp;
  for (usize i = 0; i < std::size(kSlots); ++i) cold_scratch[i] = {kSlots[i].value, kSlotBytes};
  boot_.kho_scratch = image_address(cold_scratch);
  boot_.kho_scratch_length = sizeof cold_scratch;
  std::memcpy(boot_.command_line, facts_->command_line, sizeof boot_.command_line);
  abi::seal(boot_);
  set_up_pci(*this, Phys(boot_.rsdp));
  return {};
}

Result<u32> MetalMachine::fill_memory_map(std::span<abi::MemoryMapEntry> map, const Survivors* survivors) const {
  u32 count = 0;
  Result<void> filled;
  const auto add = [&](u64 base, u64 length, abi::MemoryType type, u64 host_id, u64 offset) {
    if (length == 0 || !filled) return;
    if (count == map.size()) {
      filled = fail(Errno::Enospc);
      return;
    }
    u32 at = count++;
    for (; at > 0 && map[at - 1].base > base; --at) map[at] = map[at - 1];
    map[at] = {.base = base,
               .length = length,
               .type = static_cast<u32>(type),
               .reserved = 0,
               .host_id = host_id,
               .host_offset = offset};
  };
  for (const Facts::Region& r : facts_->memory()) {
    if (r.usable == 0) {
      if (r.base < window) add(r.base, std::min(r.length, window - r.base), abi::MemoryType::Reserved, 0, 0);
      continue;
    }
    const u64 end = r.base + r.length;
    const bool shared = facts_->share >= r.base && facts_->share < end;
    add(r.base, (shared ? facts_->share : end) - r.base, abi::MemoryType::Ram, 0, 0);
    if (!shared) continue;
    const u64 behind = facts_->share + facts_->share_bytes;
    add(behind, end - behind, abi::MemoryType::Ram, 0, 0);
  }
  for (Phys slot : kSlots) add(slot.value, kImageBytes, abi::MemoryType::Reserved, 0, 0);
  add(facts_->archive, facts_->archive_bytes, abi::MemoryType::Reserved, 0, 0);
  for (const Bank& bank : share_.banks()) {
    if (survivors && !survivors->any(bank.base, bank.length)) continue;
    add(bank.base.value, bank.length, abi::MemoryType::Bank, bank.host_id, bank.offset);
  }
  TRY(filled);
  return count;
}

// --- registers -----------------------------------------------------------------------------------------------------

u64 MetalMachine::mmio_read(Phys at, Width width) {
  if (!in_window(at, static_cast<u64>(width))) return ~u64{0};
  switch (width) {
    case Width::W8: return *static_cast<volatile u8*>(reg(at));
    case Width::W16: return *static_cast<volatile u16*>(reg(at));
    case Width::W32: return *static_cast<volatile u32*>(reg(at));
    case Width::W64: return *static_cast<volatile u64*>(reg(at));
  }
  return ~u64{0};
}

void MetalMachine::mmio_write(Phys at, Width width, u64 value) {
  if (!in_window(at, static_cast<u64>(width))) return;
  if (meddler_) meddler_->before_store(at, width, value);
  switch (width) {
    case Width::W8: *static_cast<volatile u8*>(reg(at)) = static_cast<u8>(value); break;
    case Width::W16: *static_cast<volatile u16*>(reg(at)) = static_cast<u16>(value); break;
    case Width::W32: *static_cast<volatile u32*>(reg(at)) = static_cast<u32>(value); break;
    case Width::W64: *static_cast<volatile u64*>(reg(at)) = value; break;
  }
}

void MetalMachine::write_back(const void* at, usize bytes) {
  constexpr u64 kLine = 64;
  const u64 end = reinterpret_cast<u64>(at) + bytes;
  for (u64 line = align_down(reinterpret_cast<u64>(at), kLine); line < end; line += kLine) {
    __asm__ volatile("clflush (%0)" : : "r"(line) : "memory");
  }
  __asm__ volatile("mfence" : : : "memory");
}

u64 MetalMachine::now_ns() {
  return clock_ns();
}

void MetalMachine::relax() {
  cpu_relax();
}

void MetalMachine::log(LogLevel level, std::string_view line) {
  if (level >= least_logged_) metal::log(level, line);
}

// --- interrupts ----------------------------------------------------------------------------------------------------

// What was freed last is not the first to be given out again: a message may still be on its way.
Result<MsiTarget> MetalMachine::irq_alloc(IrqSink& sink) {
  for (u32 tried = kFirstVector; tried <= kLastVector; ++tried) {
    last_vector_ = last_vector_ == kLastVector ? kFirstVector : last_vector_ + 1;
    if (sinks_[last_vector_]) continue;
    sinks_[last_vector_] = &sink;
    return MsiTarget{kApic, last_vector_};
  }
  return fail(Errno::Enospc);
}

Result<void> MetalMachine::irq_claim(MsiTarget target, IrqSink& sink) {
  if (target.address != kApic || target.data < kFirstVector || target.data > kLastVector) return fail(Errno::Einval);
  if (sinks_[target.data]) return fail(Errno::Eexist);
  sinks_[target.data] = &sink;
  return {};
}

void MetalMachine::irq_free(MsiTarget target) {
  sinks_[target.data] = nullptr;
}

void MetalMachine::irq_raise(MsiTarget target) {
  send_to_self(target.data);
}

// What came and was not delivered goes back to where the next kernel finds it: the APIC's request bits.
void MetalMachine::irq_disable() {
  interrupts_off();
  for (u32 v = kFirstVector; v <= kLastVector; ++v) {
    if (take_pending(v)) send_to_self(v);
  }
}

void MetalMachine::irq_enable() {
  interrupts_on();
}

void MetalMachine::deliver_interrupts() {
  for (u32 v = kFirstVector; v <= kLastVector; ++v) {
    if (!take_pending(v)) continue;
    if (sinks_[v]) {
      sinks_[v]->raise();
    } else {
      ++spurious_;
    }
  }
}

// --- the next kernel -----------------------------------------------------------------------------------------------

Result<Ref<KernelImage>> MetalMachine::image_open(std::string_view name) {
  const std::string_view archive(virt<const char>(Phys(facts_->archive)), facts_->archive_bytes);
  const Member member = TRY(find_member(archive, name));
  const abi::ElfProgram program = TRY(abi::ElfProgram::open(member.contents));
  const Phys slot = TRY(slot_of(program));
  if (slot.value == image_address(metal_image_begin)) {
    perdure::log(*this, LogLevel::Error,
                 Line() << name << " goes where the running kernel is; load one that was linked for the other slot");
    return fail(Errno::Enoexec);
  }
  for (Image& place : images_) {
    if (place.used_) continue;
    auto* const image = new (&place) Image;
    image->program_ = program;
    image->slot_ = slot;
    image->name_ = member.name;
    image->used_ = true;
    return Ref<KernelImage>(Ref<Image>::adopt(image));
  }
  return fail(Errno::Enfile);
}

Result<void> MetalMachine::jump(KernelImage& image, const abi::BootInfo& next, Phys at) {
  const Image& loaded = static_cast<Image&>(image);
  Survivors survivors(*this, *facts_);
  survivors.keep_handover(Phys(next.kho_fdt));
  abi::BootInfo info = next;
  const std::span<abi::MemoryMapEntry> room(virt<abi::MemoryMapEntry>(Phys(next.memory_map)), next.memory_map_count);
  info.memory_map_count = TRY(fill_memory_map(room, &survivors));
  info.rsdp = facts_->rsdp;
  abi::seal(info);
  std::memcpy(virt(at), &info, sizeof info);

  if (meddler_) meddler_->before_jump();
  const auto map = room.first(info.memory_map_count);
  for (const abi::MemoryMapEntry& e : map) {
    if (e.type == static_cast<u32>(abi::MemoryType::Reserved)) survivors.keep(Phys(e.base), e.length);
  }
  survivors.keep(at, sizeof info);
  survivors.keep(Phys(info.memory_map), map.size_bytes());
  survivors.keep(Phys(info.kho_scratch), info.kho_scratch_length);
  survivors.poison_others(map, boot_);
  place(*loaded.program_, *this);
  map_slot(loaded.slot_, true);
  interrupts_off();
  metal_leave(loaded.program_->entry(), at.value);
}

}  // namespace perdure::metal
