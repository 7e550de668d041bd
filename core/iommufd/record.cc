#include "core/iommufd/record.h"

#include <algorithm>
#include <cstring>

#include "core/base/log.h"

namespace perdure::iommufd {

using abi::IommufdBlock;
using abi::IommufdHeader;
using abi::IommufdRecordKind;

static_assert(abi::kIommufdBlockBytes == kPageSize);

namespace {

template <class T>
std::span<std::byte> bytes_of(T& object) {
  return std::as_writable_bytes(std::span(&object, 1));
}

std::unexpected<Errno> unreadable(Machine& machine, Phys at, std::string_view what, std::string_view field) {
  Line line;
  line << "iommufd record at " << at << ": " << what;
  if (!field.empty()) line << " '" << field << "'";
  log(machine, LogLevel::Error, line << "; its devices stay held");
  return fail(Errno::Eproto);
}

}  // namespace

// --- writing ----------------------------------------------------------------------------------------------------

RecordWriter::~RecordWriter() {
  give_back_chain(kho_, hwpts_.first);
  give_back_chain(kho_, areas_.first);
}

void RecordWriter::give_back_chain(Kho& kho, Phys first) {
  while (first) {
    const Phys next(kho.machine().virt<IommufdBlock>(first)->next);
    kho.unpreserve_free(first, kPageSize);
    first = next;
  }
}

void RecordWriter::seal_block(Phys block) {
  abi::seal(abi::kIommufdBlockSchema, bytes_of(*kho_.machine().virt<IommufdBlock>(block)));
}

Result<void> RecordWriter::add(Chain& chain, std::span<const std::byte> record) {
  if (chain.count == chain.max_records) return fail(Errno::E2big);
  const abi::Schema& schema = abi::iommufd_schema(chain.kind, version_);
  const u32 capacity = abi::iommufd_block_capacity(chain.kind, version_);
  const u32 place = chain.count % capacity;
  if (place == 0) {
    const Phys fresh = TRY(kho_.alloc_preserved(kPageSize));
    *kho_.machine().virt<IommufdBlock>(fresh) = {.magic = abi::kIommufdBlockMagic,
                                                 .version = version_,
                                                 .checksum = 0,
                                                 .generation = generation_,
                                                 .next = 0,
                                                 .kind = static_cast<u32>(chain.kind),
                                                 .first_index = chain.count,
                                                 .count = 0,
                                                 .record_bytes = schema.size};
    if (chain.last) {
      kho_.machine().virt<IommufdBlock>(chain.last)->next = fresh.value;
      seal_block(chain.last);
    } else {
      chain.first = fresh;
    }
    chain.last = fresh;
    ++chain.blocks;
  }
  std::byte* const at = kho_.machine().virt(chain.last + sizeof(IommufdBlock) + static_cast<u64>(place) * schema.size);
  const std::span<std::byte> stored(at, schema.size);
  std::memcpy(stored.data(), record.data(), stored.size());
  abi::seal(schema, stored);
  ++kho_.machine().virt<IommufdBlock>(chain.last)->count;
  ++chain.count;
  return {};
}

Result<void> RecordWriter::add_hwpt(const abi::IommufdHwptRecord& record) {
  return add(hwpts_, std::as_bytes(std::span(&record, 1)));
}

Result<void> RecordWriter::add_area(const abi::IommufdAreaRecord& record) {
  return add(areas_, std::as_bytes(std::span(&record, 1)));
}

Result<Phys> RecordWriter::release() {
  const Phys header = TRY(kho_.alloc_preserved(kPageSize));
  for (const Chain* chain : {&hwpts_, &areas_}) {
    if (chain->last) seal_block(chain->last);
  }
  *kho_.machine().virt<IommufdHeader>(header) = {.magic = abi::kIommufdMagic,
                                                 .version = version_,
                                                 .checksum = 0,
                                                 .generation = generation_,
                                                 .hwpt_chain = hwpts_.first.value,
                                                 .area_chain = areas_.first.value,
                                                 .hwpt_bytes = hwpts_.blocks * kPageSize,
                                                 .area_bytes = areas_.blocks * kPageSize,
                                                 .hwpt_count = hwpts_.count,
                                                 .area_count = areas_.count};
  unseal(kho_.machine(), header);
  hwpts_.first = areas_.first = Phys();
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
  give_back_chain(kho, Phys(h->hwpt_chain));
  give_back_chain(kho, Phys(h->area_chain));
  kho.unpreserve_free(header, kPageSize);
}

// --- reading ----------------------------------------------------------------------------------------------------

template <class Record>
Result<void> IncomingRecord::read_chain(Kho& kho, const IommufdHeader& header, IommufdRecordKind kind, u64 first,
                                        u32 count, u64 bytes, Vec<Record>& out) {
  Machine& machine = kho.machine();
  const abi::Schema& schema = abi::iommufd_schema(kind, header.version);
  const u32 capacity = abi::iommufd_block_capacity(kind, header.version);
  if (bytes != u64{count / capacity + (count % capacity != 0)} * kPageSize) {
    return unreadable(machine, Phys(first), "length of a chain does not fit its count", {});
  }
  TRY(out.reserve(count));
  Phys at(first);
  for (u32 done = 0; done < count;) {
    // Bounded by `count`, and no block can be met twice: it would have the wrong first_index.
    if (!at || !at.aligned(kPageSize) || !kho.restorable_ram(at, 0)) {
      return unreadable(machine, at, "block is not preserved memory", {});
    }
    // Copied before it is judged, so that what was judged is what is used.
    IommufdBlock block;
    std::memcpy(&block, machine.virt(at), sizeof(block));
    const abi::FieldDef* bad = nullptr;
    if (!abi::validate(abi::kIommufdBlockSchema, bytes_of(block), &bad)) {
      return unreadable(machine, at, "bad block field", bad ? bad->name : "");
    }
    const u32 expected = std::min(capacity, count - done);
    if (block.version != header.version || block.generation != header.generation ||
        block.kind != static_cast<u32>(kind) || block.first_index != done || block.count != expected ||
        block.record_bytes != schema.size || (block.next == 0) != (done + expected == count)) {
      return unreadable(machine, at, "block does not belong to this chain", {});
    }
    for (u32 i = 0; i < expected; ++i) {
      Record record{};
      std::memcpy(&record, machine.virt(at + sizeof(IommufdBlock) + u64{i} * schema.size), schema.size);
      if (!abi::validate(schema, bytes_of(record).first(schema.size), &bad)) {
        return unreadable(machine, at, "bad record field", bad ? bad->name : "");
      }
      TRY(out.push_back(record));
    }
    TRY(blocks_.push_back(at));
    done += expected;
    at = Phys(block.next);
  }
  if (count == 0 && first != 0) return unreadable(machine, at, "chain without records", {});
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
  if (!at || !at.aligned(kPageSize) || !kho.restorable_ram(at, 0)) {
    return unreadable(machine, at, "header is not preserved memory", {});
  }
  IommufdHeader header;
  std::memcpy(&header, machine.virt(at), sizeof(header));
  const abi::FieldDef* bad = nullptr;
  if (!abi::validate(abi::kIommufdHeaderSchema, bytes_of(header), &bad)) {
    return unreadable(machine, at, "bad header field", bad ? bad->name : "");
  }
  if (header.generation != generation) return unreadable(machine, at, "is of another update", {});

  IncomingRecord record(kho.heap());
  record.version_ = header.version;
  TRY(record.blocks_.push_back(at));
  TRY(record.read_chain(kho, header, IommufdRecordKind::Hwpt, header.hwpt_chain, header.hwpt_count, header.hwpt_bytes,
                        record.hwpts_));
  TRY(record.read_chain(kho, header, IommufdRecordKind::Area, header.area_chain, header.area_count, header.area_bytes,
                        record.areas_));
  TRY(record.check_references(kho));
  return record;
}

void IncomingRecord::discard(Kho& kho) {
  for (Phys block : blocks_) {
    if (kho.restore(block, 0)) kho.frames().free(block, 0);
  }
  blocks_.clear();
}

}  // namespace perdure::iommufd
