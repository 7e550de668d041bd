#include "core/iommu/record_chain.h"

#include <cstring>

namespace perdure {

RecordChain::RecordChain(Kho& kho, abi::IommuRecordKind kind, u32 version)
    : kho_(kho),
      kind_(kind),
      version_(version),
      schema_(abi::iommu_schema(kind, version)),
      capacity_(abi::iommu_block_capacity(kind, version)),
      blocks_(kho.heap()),
      used_(kho.heap()) {}

RecordChain::~RecordChain() {
  for (Phys block : blocks_) kho_.unpreserve_free(block, abi::kIommuBlockBytes);
}

Result<u32> RecordChain::reserve() {
  for (; free_from_ < used_.size(); ++free_from_) {
    if (used_[free_from_]) continue;
    used_[free_from_] = 1;
    ++in_use_;
    return free_from_++;
  }
  const u32 index = slots();
  if (index >= abi::kIommuMaxRecords) return fail(Errno::E2big);
  TRY(used_.reserve(index + 1));
  if (index / capacity_ >= blocks_.size()) {
    TRY(blocks_.reserve(blocks_.size() + 1));
    static_cast<void>(blocks_.push_back(TRY(kho_.alloc_preserved(abi::kIommuBlockBytes))));
  }
  static_cast<void>(used_.push_back(1));
  free_from_ = index + 1;
  ++in_use_;
  return index;
}

void RecordChain::release(u32 index) {
  PERDURE_ASSERT(used(index));
  const std::span<std::byte> at = slot(index);
  std::memset(at.data(), 0, at.size());
  used_[index] = 0;
  --in_use_;
  if (index < free_from_) free_from_ = index;
}

std::span<std::byte> RecordChain::slot(u32 index) const {
  const Phys block = blocks_[index / capacity_];
  std::byte* start = kho_.machine().virt(block) + sizeof(abi::IommuBlock);
  return {start + usize{index % capacity_} * schema_.size, schema_.size};
}

void RecordChain::write_bytes(u32 index, std::span<const std::byte> record) {
  PERDURE_ASSERT(used(index) && record.size() >= schema_.size);
  const std::span<std::byte> at = slot(index);
  std::memcpy(at.data(), record.data(), at.size());
  abi::seal(schema_, at);
}

void RecordChain::seal(u64 generation) {
  for (u32 i = 0; i < blocks_.size(); ++i) {
    abi::IommuBlock header;
    header.magic = abi::kIommuBlockMagic;
    header.version = version_;
    header.generation = generation;
    header.next = i + 1 < blocks_.size() ? blocks_[i + 1].value : 0;
    header.kind = static_cast<u32>(kind_);
    header.first_index = i * capacity_;
    const u32 rest = slots() - header.first_index;
    header.slots = rest < capacity_ ? rest : capacity_;
    header.record_bytes = schema_.size;
    std::byte* at = kho_.machine().virt(blocks_[i]);
    std::memcpy(at, &header, sizeof header);
    abi::seal(abi::kIommuBlockSchema, {at, sizeof header});
  }
}

}  // namespace perdure
