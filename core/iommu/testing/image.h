// The IOMMU records of an image as bytes, found without the reader under test, to damage them.
#pragma once
#include <cstring>
#include <span>
#include <stdexcept>

#include "core/abi/iommu.h"
#include "core/base/machine.h"

namespace perdure::testing {

class Image {
 public:
  Image(Machine& machine, u64 data) : machine_(machine), data_(data) {}

  struct Part {
    const abi::Schema* schema;
    std::span<std::byte> bytes;
    abi::IommuRecordKind kind{};  // of records and blocks
    u32 index = 0;                // of a record; of a block's first record
    enum class What { Header, Block, Record } what = What::Record;
  };

  std::vector<Part> parts() {
    std::vector<Part> all;
    const auto* h = machine_.virt<const abi::IommuHeader>(Phys(data_));
    all.push_back({&abi::kIommuHeaderSchema, bytes(data_, sizeof *h), {}, 0, Part::What::Header});
    const std::pair<abi::IommuRecordKind, u64> chains[] = {{abi::IommuRecordKind::Unit, h->unit_chain},
                                                           {abi::IommuRecordKind::Domain, h->domain_chain},
                                                           {abi::IommuRecordKind::Attachment, h->attachment_chain},
                                                           {abi::IommuRecordKind::Device, h->device_chain}};
    for (auto [kind, at] : chains) {
      while (at != 0) {
        const auto* block = machine_.virt<const abi::IommuBlock>(Phys(at));
        all.push_back({&abi::kIommuBlockSchema, bytes(at, sizeof *block), kind, block->first_index, Part::What::Block});
        for (u32 i = 0; i < block->slots; ++i) {
          all.push_back({&abi::iommu_schema(kind, h->version),
                         bytes(at + sizeof *block + u64{i} * block->record_bytes, block->record_bytes), kind,
                         block->first_index + i, Part::What::Record});
        }
        at = block->next;
      }
    }
    return all;
  }

  Part part(abi::IommuRecordKind kind, u32 index) {
    for (const Part& p : parts()) {
      if (p.what == Part::What::Record && p.kind == kind && p.index == index) return p;
    }
    throw std::runtime_error("no such record");
  }
  // The record for changing; seal() makes the change look meant.
  template <class Record>
  Record& record(u32 index) {
    return *reinterpret_cast<Record*>(part(kind_of(static_cast<Record*>(nullptr)), index).bytes.data());
  }
  template <class Record>
  void seal(u32 index) {
    const Part p = part(kind_of(static_cast<Record*>(nullptr)), index);
    abi::seal(*p.schema, p.bytes);
  }
  abi::IommuHeader& header() { return *machine_.virt<abi::IommuHeader>(Phys(data_)); }
  void seal_header() { abi::seal(abi::kIommuHeaderSchema, bytes(data_, sizeof(abi::IommuHeader))); }

 private:
  static abi::IommuRecordKind kind_of(abi::IommuUnitRecord*) { return abi::IommuRecordKind::Unit; }
  static abi::IommuRecordKind kind_of(abi::IommuDomainRecord*) { return abi::IommuRecordKind::Domain; }
  static abi::IommuRecordKind kind_of(abi::IommuAttachmentRecord*) { return abi::IommuRecordKind::Attachment; }
  static abi::IommuRecordKind kind_of(abi::IommuDeviceRecord*) { return abi::IommuRecordKind::Device; }
  std::span<std::byte> bytes(u64 at, u64 length) { return {machine_.virt(Phys(at)), length}; }

  Machine& machine_;
  u64 data_;
};

}  // namespace perdure::testing
