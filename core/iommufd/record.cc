#include "core/iommufd/record.h"

#include <cstring>

#include "core/base/log.h"

namespace perdure::iommufd {

using abi::IommufdHeader;
using abi::IommufdRecordKind;

namespace {

template <class T>
std::span<std::byte> bytes_of(T& object) {
  return std::as_writable_bytes(std::span(&object, 1));
}

std::unexpected<Errno> unreadable(Machine& machine, Phys at, std::string_view what, std::string_view field) {
  Line line;
  line << "iommufd record at " << at << ": " << what;
  if (!field.empty()) line << " '" << field << "'";
  log(machine, LogLevel::Error, line);
  return fail(Errno::Eproto);
}

}  // namespace

// --- writing ----------------------------------------------------------------------------------------------------

Result<void> RecordWriter::add_hwpt(const abi::IommufdHwptRecord& record) {
  hwpts_.write(TRY(hwpts_.reserve()), record);
  return {};
}

Result<void> RecordWriter::add_area(const abi::IommufdAreaRecord& record) {
  areas_.write(TRY(areas_.reserve()), record);
  return {};
}

Result<Phys> RecordWriter::release() {
  const Phys header = TRY(kho_.alloc_preserved(kPageSize));
  hwpts_.seal(generation_);
  areas_.seal(generation_);
  *kho_.machine().virt<IommufdHeader>(header) = {.magic = abi::kIommufdMagic,
                                                 .version = version_,
                                                 .checksum = 0,
                                                 .generation = generation_,
                                                 .hwpt_chain = hwpts_.first().value,
                                                 .area_chain = areas_.first().value,
                                                 .hwpt_bytes = hwpts_.bytes(),
                                                 .area_bytes = areas_.bytes(),
                                                 .hwpt_count = hwpts_.slots(),
                                                 .area_count = areas_.slots()};
  unseal(kho_.machine(), header);
  hwpts_.disown();
  areas_.disown();
  return header;
}

void RecordWriter::seal(Machine& machine, Phys header) {
  abi::seal(abi::kIommufdHeaderSchema, bytes_of(*machine.virt<IommufdHeader>(header)));
}

// Any value but the right one.
void RecordWriter::unseal(Machine& machine, Phys header) {
  seal(machine, header);
  IommufdHeader* const h = machine.virt<IommufdHeader>(header);
  h->checksum = ~h->checksum;
}

void RecordWriter::give_back(Kho& kho, Phys header) {
  const IommufdHeader* const h = kho.machine().virt<IommufdHeader>(header);
  kho::RecordChain::give_back(kho, Phys(h->hwpt_chain));
  kho::RecordChain::give_back(kho, Phys(h->area_chain));
  kho.unpreserve_free(header, kPageSize);
}

// --- reading ----------------------------------------------------------------------------------------------------

template <class Record>
Result<void> IncomingRecord::read_chain(Kho& kho, const IommufdHeader& header, IommufdRecordKind kind,
                                        const kho::ChainPlace& place, Vec<Record>& out) {
  Machine& machine = kho.machine();
  const abi::ChainFormat format = abi::iommufd_chain(kind, header.version);
  const std::string_view broken = TRY(kho::read_chain(
      kho, format, place, header.generation, blocks_, [&](u32, std::span<const std::byte> stored) -> Result<void> {
        const abi::FieldDef* bad = nullptr;
        if (!abi::validate(*format.record, stored, &bad)) {
          return unreadable(machine, blocks_.back(), "bad record field", bad ? bad->name : "");
        }
        Record record;
        std::memcpy(&record, stored.data(), stored.size());
        return out.push_back(record);
      }));
  if (!broken.empty()) return unreadable(machine, Phys(place.first), broken, format.record->name);
  return {};
}

Result<void> IncomingRecord::check_references(Kho& kho) const {
  Machine& machine = kho.machine();
  for (const abi::IommufdAreaRecord& area : areas_) {
    if ((area.iova | area.length | area.offset) % kPageSize != 0 || range_overflows(area.iova, area.length) ||
        range_overflows(area.offset, area.length)) {
      return unreadable(machine, blocks_[0], "area out of range", {});
    }
  }
  for (usize i = 0; i < hwpts_.size(); ++i) {
    const abi::IommufdHwptRecord& hwpt = hwpts_[i];
    for (usize k = 0; k < i; ++k) {
      if (hwpts_[k].token == hwpt.token || hwpts_[k].domain == hwpt.domain) {
        return unreadable(machine, blocks_[0], "two HWPTs with one token or one domain", {});
      }
      if (hwpts_[k].ioas == hwpt.ioas &&
          (hwpts_[k].first_area != hwpt.first_area || hwpts_[k].area_count != hwpt.area_count)) {
        return unreadable(machine, blocks_[0], "two HWPTs of one address space with different areas", {});
      }
    }
    if (hwpt.first_area > areas_.size() || hwpt.area_count > areas_.size() - hwpt.first_area) {
      return unreadable(machine, blocks_[0], "HWPT with areas that are not there", {});
    }
    const std::span<const abi::IommufdAreaRecord> own = areas(hwpt);
    for (usize k = 1; k < own.size(); ++k) {
      if (own[k].iova <= own[k - 1].iova + (own[k - 1].length - 1)) {
        return unreadable(machine, blocks_[0], "areas overlap or are out of order", {});
      }
    }
  }
  return {};
}

Result<IncomingRecord> IncomingRecord::read(Kho& kho, Phys at, u64 generation) {
  Machine& machine = kho.machine();
  IommufdHeader header;
  const std::string_view why = kho::read_header(kho, at.value, abi::kIommufdHeaderSchema, bytes_of(header));
  if (!why.empty()) return unreadable(machine, at, "bad header", why);
  if (header.generation != generation) return unreadable(machine, at, "is of another update", {});

  IncomingRecord record(kho.heap());
  record.version_ = header.version;
  TRY(record.blocks_.push_back(at));
  TRY(record.read_chain(kho, header, IommufdRecordKind::Hwpt, {header.hwpt_chain, header.hwpt_bytes, header.hwpt_count},
                        record.hwpts_));
  TRY(record.read_chain(kho, header, IommufdRecordKind::Area, {header.area_chain, header.area_bytes, header.area_count},
                        record.areas_));
  TRY(record.check_references(kho));
  return record;
}

void IncomingRecord::discard(Kho& kho) {
  kho::discard_pages(kho, blocks_.span());
  blocks_.clear();
}

}  // namespace perdure::iommufd
