// One kind of records on the way out: slots in a chain of preserved blocks (abi/iommu.h).
#pragma once
#include "core/abi/iommu.h"
#include "core/kho/kho.h"
#include "core/mem/vec.h"

namespace perdure {

class RecordChain {
 public:
  RecordChain(Kho& kho, abi::IommuRecordKind kind, u32 version);
  ~RecordChain();  // frees the blocks
  RecordChain(const RecordChain&) = delete;
  RecordChain& operator=(const RecordChain&) = delete;

  // The lowest free slot: its index is stable until release(). Enomem, E2big beyond kIommuMaxRecords.
  Result<u32> reserve();
  void release(u32 index);
  bool used(u32 index) const { return index < used_.size() && used_[index]; }
  // The slot takes `record`, as much of it as this version knows, and its checksum.
  template <class Record>
  void write(u32 index, const Record& record) {
    write_bytes(index, std::as_bytes(std::span(&record, 1)));
  }
  // Block headers, for `generation`. Allocates nothing, so that freezing cannot fail for want of memory.
  void seal(u64 generation);

  Phys first() const { return blocks_.empty() ? Phys() : blocks_[0]; }
  u64 bytes() const { return blocks_.size() * abi::kIommuBlockBytes; }
  u32 slots() const { return static_cast<u32>(used_.size()); }
  u32 in_use() const { return in_use_; }

 private:
  void write_bytes(u32 index, std::span<const std::byte> record);
  std::span<std::byte> slot(u32 index) const;

  Kho& kho_;
  const abi::IommuRecordKind kind_;
  const u32 version_;
  const abi::Schema& schema_;
  const u32 capacity_;  // records of one block
  Vec<Phys> blocks_;
  Vec<u8> used_;
  u32 in_use_ = 0;
  u32 free_from_ = 0;  // no slot below it is free
};

}  // namespace perdure
