#include "sabotage/saboteur.h"

#include <cstring>

#include "core/abi/boot_info.h"
#include "core/abi/iommu.h"
#include "core/acpi/tables.h"
#include "core/base/hw.h"
#include "core/base/log.h"

namespace perdure::sabotage {

namespace {

constexpr std::string_view kNames[] = {"te-gap", "no-iotlb-flush", "no-context-flush", "wrong-did", "table-page",
                                       "record", "crash"};

// VT-d, hardware.md §1, §3 and §5.
constexpr u64 kEcap = 0x10, kGcmd = 0x18, kGsts = 0x1C, kRtaddr = 0x20, kIqt = 0x88, kIqa = 0x90;
constexpr u32 kTe = u32{1} << 31, kPersistent = 0x96FF'FFFF;
constexpr u64 kScalable = u64{1} << 43;  // of ECAP: the kernel's queue has descriptors of 32 bytes
constexpr u64 kAddress = 0x000F'FFFF'FFFF'F000;
constexpr u64 kContextFlush = 1, kIotlbFlush = 2, kPasidIotlbFlush = 6;  // the last: of first-stage domains
constexpr u64 kFirstStage = 1;                                           // PGTT
constexpr u64 kNobody = 0xFFFF;                                          // neither a domain nor a requester
constexpr u64 kGapNs = 5'000'000;
constexpr u64 kNowhere = 0x10;                  // where no machine has anything mapped
constexpr u64 kPoison = 0x0BAD'0BAD'0BAD'0F87;  // present, writable, reserved bits set

}  // namespace

bool Saboteur::known(std::string_view breakage) {
  for (std::string_view name : kNames) {
    if (name == breakage) return true;
  }
  return breakage.empty();
}

Saboteur::Saboteur(Machine& machine, std::string_view breakage) : machine_(machine), breakage_(breakage) {
  if (breakage.empty()) return;
  constexpr u32 kFirstUnit = 48, kBase = 8;  // the DRHD comes first
  const auto dmar = acpi::find_table(machine, Phys(machine.boot().rsdp), "DMAR");
  if (dmar) unit_ = Phys(dmar->get<u64>(kFirstUnit + kBase));
}

// The queue is empty before each batch: what lies between the old tail and the new one is what was just written.
void Saboteur::before_store(Phys at, Width, u64 value) {
  if (!unit_ || at != unit_ + kIqt) return;
  const u64 bytes = (read(kEcap, Width::W64) & kScalable) != 0 ? 32 : 16;
  const u64 iqa = read(kIqa, Width::W64);
  const u64 size = kPageSize << (iqa & 7);
  for (u64 slot = read(kIqt, Width::W64); slot != value; slot = (slot + bytes) % size) {
    u64* const words = machine_.virt<u64>(Phys((iqa & kAddress) + slot));
    u64 descriptor[2] = {words[0], words[1]};
    rewrite(descriptor);
    hw::store(&words[1], descriptor[1]);
    hw::store(&words[0], descriptor[0]);
  }
  hw::fence();
}

void Saboteur::rewrite(u64 (&descriptor)[2]) const {
  const u64 type = descriptor[0] & 0xF;
  const bool iotlb = type == kIotlbFlush || type == kPasidIotlbFlush;
  // In place of a flush, one that concerns nobody: of all of a domain, in both.
  if (breakage_ == "no-iotlb-flush" && iotlb) {
    descriptor[0] = type | 2 << 4 | kNobody << 16;
    descriptor[1] = 0;
  }
  if (breakage_ == "no-context-flush" && type == kContextFlush) {
    descriptor[0] = kContextFlush | 3 << 4 | kNobody << 32;
  }
  if (breakage_ == "wrong-did" && iotlb) descriptor[0] ^= u64{0x100} << 16;
}

void Saboteur::before_jump() {
  if (!unit_) return;
  if (breakage_ == "te-gap") open_gap();
  if (breakage_ == "crash") {
    const volatile u64 nowhere = kNowhere;
    // NOLINTNEXTLINE(performance-no-int-to-ptr): it shall fault
    static_cast<void>(hw::load(reinterpret_cast<const u64*>(nowhere)));
  }
  if (breakage_ == "table-page") poison_table();
  if (breakage_ == "record" && machine_.boot().hop == 0) damage_record();  // one device, and the others go on
}

void Saboteur::command(u32 bit, bool on) {
  const u32 status = static_cast<u32>(read(kGsts, Width::W32)) & kPersistent;
  machine_.mmio_write(unit_ + kGcmd, Width::W32, on ? status | bit : status & ~bit);
  while (((read(kGsts, Width::W32) & bit) != 0) != on) machine_.relax();
}

void Saboteur::open_gap() {
  command(kTe, false);
  const u64 begin = machine_.now_ns();
  while (machine_.now_ns() - begin < kGapNs) machine_.relax();
  command(kTe, true);
}

// Of the first requester on bus 0 that has an entry: a table page below its top one. 0: none.
u64 Saboteur::first_table() const {
  const auto word = [&](u64 at) { return *machine_.virt<u64>(Phys(at)); };
  const u64 rtaddr = read(kRtaddr, Width::W64);
  const bool scalable = (rtaddr >> 10 & 3) == 1;
  const u64 context_bytes = scalable ? 32 : 16;
  const u64 contexts = word(rtaddr & kAddress);
  if ((contexts & 1) == 0) return 0;
  for (u64 devfn = 0; devfn < 128; ++devfn) {
    u64 entry = word((contexts & kAddress) + devfn * context_bytes);
    if ((entry & 1) == 0) continue;
    // Scalable: PASID directory, then the entry of PASID 0, whose type says which word has the table.
    if (scalable) {
      const u64 pasid = word(entry & kAddress) & kAddress;
      entry = word(pasid);
      if ((entry >> 6 & 7) == kFirstStage) entry = word(pasid + 16);
    }
    for (u64 slot = 0; slot < 512; ++slot) {
      const u64 below = word((entry & kAddress) + slot * 8);
      if ((below & 3) != 0 && (below & 0x80) == 0) return below & kAddress;
    }
  }
  return 0;
}

void Saboteur::poison_table() {
  const u64 table = first_table();
  for (u64 at = table; table != 0 && at < table + kPageSize; at += 8) hw::store(machine_.virt<u64>(Phys(at)), kPoison);
  perdure::log(machine_, LogLevel::Info, Line() << "saboteur: table page " << Hex{table} << " is gone");
}

// The next kernel shall find another domain id in it.
void Saboteur::damage_record() {
  const auto* map = machine_.virt<const abi::MemoryMapEntry>(Phys(machine_.boot().memory_map));
  u32 victim = ~u32{0};
  for (u32 i = 0; i < machine_.boot().memory_map_count; ++i) {
    if (map[i].type != static_cast<u32>(abi::MemoryType::Ram)) continue;
    for (u64 at = map[i].base; at < map[i].base + map[i].length; at += kPageSize) {
      auto* const block = machine_.virt<abi::IommuBlock>(Phys(at));
      if (block->magic != abi::kIommuBlockMagic || block->kind != static_cast<u32>(abi::IommuRecordKind::Device)) {
        continue;
      }
      for (u32 n = 0; n < block->slots && block->record_bytes == sizeof(abi::IommuDeviceRecord); ++n) {
        auto* const record = reinterpret_cast<abi::IommuDeviceRecord*>(block + 1) + n;
        if (record->in_use != 1) continue;
        if (victim == ~u32{0}) victim = record->bdf;
        if (record->bdf == victim) record->did ^= 1;
      }
    }
  }
  perdure::log(machine_, LogLevel::Info, Line() << "saboteur: the record of " << Hex{victim} << " is damaged");
}

}  // namespace perdure::sabotage
