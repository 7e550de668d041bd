// One kind of records in a chain of preserved blocks (abi/record_block.h): written slot by slot, and read with
// distrust.
#pragma once
#include "core/abi/record_block.h"
#include "core/base/function_ref.h"
#include "core/kho/kho.h"
#include "core/mem/vec.h"

namespace perdure::kho {

class RecordChain {
 public:
  RecordChain(Kho& kho, const abi::ChainFormat& format);
  ~RecordChain();  // frees the blocks
  RecordChain(const RecordChain&) = delete;
  RecordChain& operator=(const RecordChain&) = delete;

  // The lowest free slot: its index is stable until release(). Enomem, E2big beyond the format's most.
  Result<u32> reserve();
  void release(u32 index);
  bool used(u32 index) const { return index < used_.size() && used_[index]; }
  // The slot takes `record`, as much of it as this version knows, and its checksum.
  template <class Record>
  void write(u32 index, const Record& record) {
    write_bytes(index, std::as_bytes(std::span(&record, 1)));
  }
  // The blocks are the caller's from now on, to be ended with give_back().
  void disown() { blocks_.clear(); }
  static void give_back(Kho& kho, Phys first);
  // Block headers, for `generation`. Allocates nothing, so that freezing cannot fail for want of memory.
  void seal(u64 generation);

  Phys first() const { return blocks_.empty() ? Phys() : blocks_[0]; }
  u64 bytes() const { return blocks_.size() * abi::kRecordBlockBytes; }
  u32 slots() const { return static_cast<u32>(used_.size()); }
  u32 in_use() const { return in_use_; }

 private:
  void write_bytes(u32 index, std::span<const std::byte> record);
  std::span<std::byte> slot(u32 index) const;

  Kho& kho_;
  const abi::ChainFormat format_;
  const u32 capacity_;  // records of one block
  Vec<Phys> blocks_;
  Vec<u8> used_;
  u32 in_use_ = 0;
  u32 free_from_ = 0;  // no slot below it is free
};

// A slot of the chain and its entry in the writer's own list. Enomem, E2big.
template <class Entry>
Result<u32> add_slot(RecordChain& chain, Vec<Entry>& entries) {
  TRY(entries.reserve(chain.slots() + 1));
  const u32 index = TRY(chain.reserve());
  while (entries.size() < chain.slots()) static_cast<void>(entries.push_back(Entry{}));
  return index;
}
template <class Entry>
void remove_slot(RecordChain& chain, Vec<Entry>& entries, u32 index) {
  entries[index] = Entry{};
  chain.release(index);
}

// What a header says of a chain.
struct ChainPlace {
  u64 first = 0;
  u64 bytes = 0;
  u32 slots = 0;
};

// True for a page that records may be read from: preserved by the former kernel, kept by this one from being given out,
// and never in a bank, where programs write.
bool readable_page(Kho& kho, u64 at);

// Copies the header at `at` to `out`, which has its size, validated by itself. Empty, or why it is refused: where it
// lies, or the name of a field.
std::string_view read_header(Kho& kho, u64 at, const abi::Schema& schema, std::span<std::byte> out);

// Visits the bytes of every slot, as far as the chain can be followed: what a header claims beyond that costs no
// memory. Empty, or what is wrong with it. `blocks`: pages of the image met so far, of which none may be met again;
// grows. Enomem, and what the visitor answers.
Result<std::string_view> read_chain(Kho& kho, const abi::ChainFormat& format, const ChainPlace& place, u64 generation,
                                    Vec<Phys>& blocks,
                                    FunctionRef<Result<void>(u32 index, std::span<const std::byte> bytes)> visit);
// Copies one slot's record, validated by itself and of this generation, to `out`, which has the newest version's size:
// fields of later versions stay as they are. Empty, or why it is refused. False in `used` for an unused slot.
std::string_view read_record(const abi::Schema& schema, std::span<const std::byte> bytes, std::span<std::byte> out,
                             bool& used);

// Ends the life of pages of a former kernel's image.
void discard_pages(Kho& kho, std::span<const Phys> pages);

}  // namespace perdure::kho
