#include "core/acpi/dmar.h"

#include "core/acpi/tables.h"
#include "core/base/log.h"

namespace perdure::acpi {
namespace {

constexpr u32 kFirstStructure = 48;
constexpr u32 kScopeHeader = 6;

enum StructureType : u16 { kDrhd = 0, kRmrr = 1, kAtsr = 2 };

class Reader {
 public:
  Reader(Heap& heap, Bytes table) : heap_(heap), table_(table) {}

  Result<Dmar> read() {
    Dmar dmar(heap_);
    if (table_.length() < kFirstStructure) return bad(0, "is too short");
    // 1 to 64 bits in the table; page tables reach 52.
    const unsigned bits = table_.get<u8>(36) + 1u;
    if (bits < 32 || bits > 64) return bad(36, "host address width");
    dmar.host_address_bits = static_cast<u8>(bits < 52 ? bits : 52);
    dmar.interrupt_remapping = (table_.get<u8>(37) & 1) != 0;
    for (u32 at = kFirstStructure; at < table_.length();) {
      const Bytes rest = table_.part(at, table_.length());
      const u16 length = rest.get<u16>(2);
      if (rest.length() < 4 || length < 4 || length > rest.length()) return bad(at, "structure length");
      TRY(read_structure(dmar, at, rest.part(0, length)));
      at += length;
    }
    return dmar;
  }

 private:
  std::unexpected<Errno> bad(u32 at, std::string_view what) const {
    log(heap_.machine(), LogLevel::Error, Line() << "ACPI: DMAR, offset " << at << ": " << what);
    return fail(Errno::Einval);
  }

  Result<void> read_structure(Dmar& dmar, u32 at, Bytes s) const {
    switch (s.get<u16>(0)) {
      case kDrhd: return read_unit(dmar, at, s);
      case kRmrr: return read_reserved(dmar, at, s);
      case kAtsr: return read_ats(dmar, at, s);
      default: return {};  // affinity, names, what later revisions add
    }
  }

  Result<void> read_unit(Dmar& dmar, u32 at, Bytes s) const {
    if (s.length() < 16) return bad(at, "DRHD is too short");
    DmarUnit unit(heap_);
    unit.include_all = (s.get<u8>(4) & 1) != 0;
    const unsigned size = s.get<u8>(5) & 15;
    unit.register_bytes = kPageSize << size;
    unit.segment = s.get<u16>(6);
    unit.base = Phys(s.get<u64>(8));
    if (!unit.base || !unit.base.aligned(kPageSize) || range_overflows(unit.base.value, unit.register_bytes)) {
      return bad(at, "DRHD: register base");
    }
    for (const DmarUnit& other : dmar.units) {
      if (ranges_overlap(other.base.value, other.register_bytes, unit.base.value, unit.register_bytes)) {
        return bad(at, "DRHD: registers of two units overlap");
      }
      if (other.segment == unit.segment && other.include_all) {
        return bad(at, "DRHD after the one that includes all of its segment");
      }
    }
    TRY(read_scopes(unit.scopes, at, s, 16));
    return dmar.units.push_back(std::move(unit));
  }

  Result<void> read_reserved(Dmar& dmar, u32 at, Bytes s) const {
    if (s.length() < 24) return bad(at, "RMRR is too short");
    ReservedRegion region(heap_);
    region.segment = s.get<u16>(6);
    region.base = Phys(s.get<u64>(8));
    const u64 limit = s.get<u64>(16);  // inclusive
    const bool good =
        region.base.aligned(kPageSize) && limit > region.base.value && limit != ~u64{0} && (limit + 1) % kPageSize == 0;
    if (!good) {
      // Seen on real machines. The region would be mapped for its devices; without it they are blocked, which is safe.
      log(heap_.machine(), LogLevel::Warn,
          Line() << "ACPI: DMAR, offset " << at << ": reserved region " << region.base << "-" << Hex{limit}
                 << " makes no sense, ignored");
      return {};
    }
    region.length = limit - region.base.value + 1;
    TRY(read_scopes(region.scopes, at, s, 24));
    return dmar.reserved.push_back(std::move(region));
  }

  Result<void> read_ats(Dmar& dmar, u32 at, Bytes s) const {
    if (s.length() < 8) return bad(at, "ATSR is too short");
    AtsPorts ports(heap_);
    ports.all = (s.get<u8>(4) & 1) != 0;
    ports.segment = s.get<u16>(6);
    TRY(read_scopes(ports.scopes, at, s, 8));
    return dmar.ats.push_back(std::move(ports));
  }

  Result<void> read_scopes(Vec<Scope>& scopes, u32 structure, Bytes s, u32 offset) const {
    while (offset < s.length()) {
      const Bytes entry = s.part(offset, s.length());
      const u8 length = entry.get<u8>(1);
      // The scope's own length, not its structure's: at least one hop, whole hops, inside the structure.
      if (entry.length() < kScopeHeader + 2 || length < kScopeHeader + 2 || length > entry.length() ||
          length % 2 != 0) {
        return bad(structure + offset, "device scope length");
      }
      Scope scope(heap_);
      const u8 type = entry.get<u8>(0);
      offset += length;
      if (type < 1 || type > 5) continue;  // of a later revision
      scope.type = static_cast<ScopeType>(type);
      scope.enumeration_id = entry.get<u8>(4);
      scope.start_bus = entry.get<u8>(5);
      for (u32 hop = kScopeHeader; hop < length; hop += 2) {
        const PathHop h{entry.get<u8>(hop), entry.get<u8>(hop + 1)};
        if (h.device > 31 || h.function > 7) return bad(structure + offset - length + hop, "device scope path");
        TRY(scope.path.push_back(h));
      }
      TRY(scopes.push_back(std::move(scope)));
    }
    return {};
  }

  Heap& heap_;
  Bytes table_;
};

}  // namespace

Result<Dmar> read_dmar(Heap& heap, Phys rsdp) {
  const Bytes table = TRY(find_table(heap.machine(), rsdp, "DMAR"));
  return Reader(heap, table).read();
}

}  // namespace perdure::acpi
