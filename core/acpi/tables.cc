#include "core/acpi/tables.h"

#include "core/base/log.h"

namespace perdure::acpi {
namespace {

constexpr u32 kRsdpBytes = 20;  // revision 0: to the RSDT's address
constexpr u32 kExtendedRsdpBytes = 36;
constexpr u32 kMaxEntries = 1024;

Result<Bytes> physical(Machine& machine, u64 at, u32 length) {
  if (at == 0 || !machine.in_window(Phys(at), length)) return fail(Errno::Einval);
  return Bytes(machine.virt(Phys(at)), length);
}

// A whole table. Einval when it is not sound.
Result<Bytes> table_at(Machine& machine, u64 at) {
  const Bytes header = TRY(physical(machine, at, kHeaderBytes));
  const u32 length = header.get<u32>(4);
  if (length < kHeaderBytes || length > kMaxTableBytes) return fail(Errno::Einval);
  const Bytes table = TRY(physical(machine, at, length));
  if (!table.sums_to_zero()) return fail(Errno::Einval);
  return table;
}

// The table of tables, and how wide its entries are.
struct Root {
  Bytes table;
  u32 entry_bytes = 0;
};

Result<Root> root_table(Machine& machine, Phys rsdp) {
  const auto bad = [&](std::string_view what) {
    log(machine, LogLevel::Error, Line() << "ACPI: RSDP at " << rsdp << ": " << what);
    return fail(Errno::Einval);
  };
  const auto first = physical(machine, rsdp.value, kRsdpBytes);
  if (!first || first->text(0, 8) != "RSD PTR ") return bad("not there");
  if (!first->sums_to_zero()) return bad("checksum");
  if (first->get<u8>(15) >= 2) {
    const auto second = physical(machine, rsdp.value, kExtendedRsdpBytes);
    if (!second) return bad("reaches beyond memory");
    const u32 length = second->get<u32>(20);
    const auto whole = physical(machine, rsdp.value, length);
    if (length < kExtendedRsdpBytes || length > kPageSize || !whole || !whole->sums_to_zero()) {
      return bad("extended checksum or length");
    }
    if (const u64 xsdt = second->get<u64>(24); xsdt != 0) {
      const auto table = table_at(machine, xsdt);
      if (!table || table->text(0, 4) != "XSDT") return bad("XSDT is not sound");
      return Root{*table, 8};
    }
  }
  const auto table = table_at(machine, first->get<u32>(16));
  if (!table || table->text(0, 4) != "RSDT") return bad("RSDT is not sound");
  return Root{*table, 4};
}

}  // namespace

Result<Bytes> find_table(Machine& machine, Phys rsdp, std::string_view signature) {
  const Root root = TRY(root_table(machine, rsdp));
  u32 entries = (root.table.length() - kHeaderBytes) / root.entry_bytes;
  if (entries > kMaxEntries) entries = kMaxEntries;
  for (u32 i = 0; i < entries; ++i) {
    const u32 at = kHeaderBytes + i * root.entry_bytes;
    const u64 address = root.entry_bytes == 8 ? root.table.get<u64>(at) : root.table.get<u32>(at);
    const auto header = physical(machine, address, kHeaderBytes);
    if (!header || header->text(0, 4) != signature) continue;
    if (auto table = table_at(machine, address)) return *table;
    log(machine, LogLevel::Error,
        Line() << "ACPI: " << signature << " at " << Hex{address} << " is not sound: length " << header->get<u32>(4)
               << " or checksum");
  }
  return fail(Errno::Enoent);
}

}  // namespace perdure::acpi
