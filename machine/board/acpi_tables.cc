#include "machine/board/acpi_tables.h"

#include <cstring>
#include <numeric>
#include <string_view>

namespace perdure::board {
namespace {

class Bytes {
 public:
  void u8v(unsigned v) { bytes_.push_back(static_cast<std::byte>(v)); }
  void u16v(unsigned v) { number(v, 2); }
  void u32v(u32 v) { number(v, 4); }
  void u64v(u64 v) { number(v, 8); }
  void text(std::string_view s) {
    for (char c : s) u8v(static_cast<unsigned char>(c));
  }
  void zeros(usize n) { bytes_.resize(bytes_.size() + n); }
  void patch(usize at, u64 v, unsigned width) {
    for (unsigned i = 0; i < width; ++i, v >>= 8) bytes_[at + i] = static_cast<std::byte>(v & 0xFF);
  }
  usize size() const { return bytes_.size(); }
  // Makes [from, from + length) sum to 0 with the byte at `at`.
  void checksum(usize at, usize from, usize length) {
    bytes_[at] = std::byte{0};
    unsigned sum = 0;
    for (usize i = from; i < from + length; ++i) sum += static_cast<unsigned>(bytes_[i]);
    bytes_[at] = static_cast<std::byte>(0x100 - (sum & 0xFF));
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  void number(u64 v, unsigned width) {
    const usize at = bytes_.size();
    zeros(width);
    patch(at, v, width);
  }
  std::vector<std::byte> bytes_;
};

constexpr std::string_view kOem = "PERDUR";
constexpr std::string_view kOemTable = "BOARD   ";
constexpr usize kChecksumAt = 9;

// The common header; length and checksum follow in finish().
usize begin(Bytes& b, std::string_view signature, unsigned revision) {
  b.zeros((16 - b.size() % 16) % 16);
  const usize at = b.size();
  b.text(signature);
  b.u32v(0);
  b.u8v(revision);
  b.u8v(0);
  b.text(kOem);
  b.text(kOemTable);
  b.u32v(1);
  b.text("PRDR");
  b.u32v(1);
  return at;
}

void finish(Bytes& b, AcpiImage& image, usize at, std::string_view signature) {
  const usize length = b.size() - at;
  b.patch(at + 4, length, 4);
  b.checksum(at + kChecksumAt, at, length);
  AcpiImage::Table t;
  std::memcpy(t.signature, signature.data(), 4);
  t.offset = static_cast<u32>(at);
  t.length = static_cast<u32>(length);
  image.tables.push_back(t);
}

// Type and length of a structure; patched to its length at its end.
class Structure {
 public:
  Structure(Bytes& bytes, u16 type) : bytes_(bytes), at_(bytes.size()) {
    bytes_.u16v(type);
    bytes_.u16v(0);
  }
  ~Structure() { bytes_.patch(at_ + 2, bytes_.size() - at_, 2); }
  Structure(const Structure&) = delete;
  Structure& operator=(const Structure&) = delete;

 private:
  Bytes& bytes_;
  usize at_;
};

void put_scopes(Bytes& b, const std::vector<DmarScope>& scopes) {
  for (const DmarScope& scope : scopes) {
    b.u8v(scope.bridge ? 2 : 1);
    b.u8v(static_cast<unsigned>(6 + 2 * scope.path.size()));
    b.u16v(0);  // flags, reserved
    b.u8v(0);   // enumeration id: for I/O APICs and HPETs
    b.u8v(0);   // start bus
    for (Bdf hop : scope.path) {
      b.u8v(hop.device());
      b.u8v(hop.function());
    }
  }
}

void drhd(Bytes& b, const DmarUnit& unit) {
  const Structure s(b, 0);
  b.u8v(unit.include_all ? 1 : 0);
  b.u8v(0);  // 2^0 pages of registers
  b.u16v(unit.segment);
  b.u64v(unit.base);
  put_scopes(b, unit.scopes);
}

void rmrr(Bytes& b, const DmarReserved& region) {
  const Structure s(b, 1);
  b.u16v(0);
  b.u16v(region.segment);
  b.u64v(region.base);
  b.u64v(region.base + region.length - 1);  // inclusive
  put_scopes(b, region.scopes);
}

void atsr(Bytes& b, const DmarAts& ports) {
  const Structure s(b, 2);
  b.u8v(0);  // not all ports
  b.u8v(0);
  b.u16v(ports.segment);
  put_scopes(b, ports.scopes);
}

void rhsa(Bytes& b, const DmarUnit& unit) {
  const Structure s(b, 3);
  b.u32v(0);
  b.u64v(unit.base);
  b.u32v(static_cast<u32>(unit.proximity));
}

void satc(Bytes& b, const DmarAts& functions) {
  const Structure s(b, 5);
  b.u8v(0);  // ATC_REQUIRED: they work without it
  b.u8v(0);
  b.u16v(functions.segment);
  put_scopes(b, functions.scopes);
}

}  // namespace

AcpiImage build_acpi(u64 at, const DmarTable& table, const std::vector<EcamSegment>& segments) {
  AcpiImage image;
  Bytes b;
  // RSDP, revision 2; addresses are filled in at the end.
  b.text("RSD PTR ");
  b.u8v(0);
  b.text(kOem);
  b.u8v(2);
  b.u32v(0);   // RSDT
  b.u32v(36);  // length
  b.u64v(0);   // XSDT
  b.zeros(4);  // extended checksum, reserved

  const usize dmar = begin(b, "DMAR", 1);
  b.u8v(table.host_address_width - 1);
  bool interrupt_remap = false;
  for (const DmarUnit& unit : table.units) interrupt_remap = interrupt_remap || unit.interrupt_remap;
  b.u8v(interrupt_remap ? 1 : 0);  // no opt-outs
  b.zeros(10);
  for (const DmarUnit& unit : table.units) {
    if (!unit.include_all) drhd(b, unit);
  }
  // INCLUDE_PCI_ALL must be the last of its segment.
  for (const DmarUnit& unit : table.units) {
    if (unit.include_all) drhd(b, unit);
  }
  for (const DmarReserved& region : table.reserved) rmrr(b, region);
  for (const DmarAts& ports : table.ats_ports) atsr(b, ports);
  for (const DmarUnit& unit : table.units) {
    if (unit.proximity >= 0) rhsa(b, unit);
  }
  for (const DmarAts& functions : table.ats_integrated) satc(b, functions);
  finish(b, image, dmar, "DMAR");

  const usize mcfg = begin(b, "MCFG", 1);
  b.zeros(8);
  for (const EcamSegment& s : segments) {
    b.u64v(s.base);
    b.u16v(s.segment);
    b.u8v(0);  // first bus
    b.u8v(s.last_bus);
    b.zeros(4);
  }
  finish(b, image, mcfg, "MCFG");

  const usize rsdt = begin(b, "RSDT", 1);
  b.u32v(static_cast<u32>(at + dmar));
  b.u32v(static_cast<u32>(at + mcfg));
  finish(b, image, rsdt, "RSDT");

  const usize xsdt = begin(b, "XSDT", 1);
  b.u64v(at + dmar);
  b.u64v(at + mcfg);
  finish(b, image, xsdt, "XSDT");

  b.patch(16, at + rsdt, 4);
  b.patch(24, at + xsdt, 8);
  b.checksum(8, 0, 20);
  b.checksum(32, 0, 36);
  image.bytes = b.take();
  return image;
}

}  // namespace perdure::board
