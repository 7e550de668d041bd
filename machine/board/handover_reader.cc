#include "machine/board/handover_reader.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <unordered_set>

namespace perdure::board {
namespace {

// The flattened device tree's container is big-endian (Devicetree Specification, chapter 5); what KHO puts into
// properties is native.
constexpr u32 kFdtMagic = 0xD00D'FEED;
constexpr u32 kBeginNode = 1;
constexpr u32 kEndNode = 2;
constexpr u32 kProperty = 3;
constexpr u32 kNop = 4;
constexpr u32 kEnd = 9;

class Fdt {
 public:
  explicit Fdt(std::span<const std::byte> bytes) : bytes_(bytes) {}

  bool well_formed() const {
    if (word(0) != kFdtMagic) return false;
    const u32 total = word(4);
    return total >= 40 && total <= bytes_.size() && word(8) < total && word(12) < total && word(24) <= 17 &&
           word(20) >= 16;
  }
  // A property of the root node.
  std::optional<std::span<const std::byte>> root_property(std::string_view name) const {
    const u32 total = word(4);
    u32 at = word(8);
    unsigned depth = 0;
    while (at + 4 <= total) {
      const u32 token = word(at);
      at += 4;
      if (token == kNop) continue;
      if (token == kEnd) return std::nullopt;
      if (token == kBeginNode) {
        while (at < total && bytes_[at] != std::byte{0}) ++at;
        at = (at + 4) & ~u32{3};
        ++depth;
        continue;
      }
      if (token == kEndNode) {
        if (depth == 0) return std::nullopt;
        --depth;
        continue;
      }
      if (token != kProperty || at + 8 > total) return std::nullopt;
      const u32 length = word(at);
      const u32 name_at = word(at + 4);
      at += 8;
      if (length > total - at) return std::nullopt;
      if (depth == 1 && string(u64{word(12)} + name_at, total) == name) return bytes_.subspan(at, length);
      at = (at + length + 3) & ~u32{3};
    }
    return std::nullopt;
  }

 private:
  u32 word(u32 at) const {
    if (bytes_.size() < 4 || at > bytes_.size() - 4) return 0;
    u32 v = 0;
    for (unsigned i = 0; i < 4; ++i) v = v << 8 | static_cast<u32>(bytes_[at + i]);
    return v;
  }
  std::string_view string(u64 at, u32 total) const {
    if (at >= total) return {};
    const char* s = reinterpret_cast<const char*>(bytes_.data() + at);
    return {s, strnlen(s, total - at)};
  }
  std::span<const std::byte> bytes_;
};

// kho-v4 with 4 KiB pages: keys of 53 bits, six levels; five of tables with 512 addresses, then bitmaps of 32768 keys.
constexpr unsigned kTableBits = 9;
constexpr unsigned kLeafBits = 15;
constexpr unsigned kRootLevel = 5;
constexpr unsigned kKeyBits = 53;

class TreeReader {
 public:
  TreeReader(const PhysicalMemory& memory, HandoverImage& image) : memory_(memory), image_(image) {}

  bool table(u64 node, unsigned level, u64 prefix) {
    if (!claim(node)) return false;
    for (unsigned i = 0; i < (1u << kTableBits); ++i) {
      u64 child = 0;
      if (!load(node + 8 * i, child)) return false;
      if (child == 0) continue;
      const u64 key = prefix | u64{i} << ((level - 1) * kTableBits + kLeafBits);
      if (key >> kKeyBits != 0) return broken("a table entry for a key wider than 53 bits", node);
      if (level > 1 ? !table(child, level - 1, key) : !leaf(child, key)) return false;
    }
    return true;
  }

 private:
  bool leaf(u64 node, u64 prefix) {
    if (!claim(node)) return false;
    for (unsigned w = 0; w < kPageSize / 8; ++w) {
      u64 bits = 0;
      if (!load(node + 8 * w, bits)) return false;
      for (; bits != 0; bits &= bits - 1) {
        if (!key(prefix | (64 * w + static_cast<unsigned>(std::countr_zero(bits))), node)) return false;
      }
    }
    return true;
  }

  // The highest set bit says the order, what is below it the block.
  bool key(u64 key, u64 node) {
    if (key == 0) return broken("key 0", node);
    const unsigned marker = static_cast<unsigned>(std::bit_width(key)) - 1;
    if (marker > 52) return broken("a key wider than 53 bits", node);
    const unsigned shift = kPageShift + (52 - marker);
    if (shift >= 64) return broken("a block of the whole address space", node);
    const u64 base = (key ^ (u64{1} << marker)) << shift;
    const u64 length = u64{1} << shift;
    if (base >= memory_.window() || length > memory_.window() - base) {
      return broken("a block outside the physical address space", base);
    }
    ++image_.keys;
    image_.preserved.push_back({base, length});
    return true;
  }

  bool claim(u64 node) {
    if (node % kPageSize != 0 || !memory_.is_kernel_ram(node, kPageSize)) return broken("a node outside RAM", node);
    if (!seen_.insert(node).second) return broken("a node that is linked twice", node);
    image_.nodes.push_back(node);
    return true;
  }

  bool load(u64 at, u64& value) const { return memory_.read(at, std::as_writable_bytes(std::span(&value, 1))); }

  bool broken(const char* what, u64 where) {
    char text[128];
    std::snprintf(text, sizeof(text), "radix tree: %s at 0x%llx", what, static_cast<unsigned long long>(where));
    image_.problem = text;
    return false;
  }

  const PhysicalMemory& memory_;
  HandoverImage& image_;
  std::unordered_set<u64> seen_;
};

bool names_version(std::span<const std::byte> list) {
  // A list of strings, each with its terminator.
  std::string_view rest(reinterpret_cast<const char*>(list.data()), list.size());
  while (!rest.empty()) {
    const usize end = rest.find('\0');
    if (end == std::string_view::npos) return false;
    if (rest.substr(0, end) == "kho-v4") return true;
    rest.remove_prefix(end + 1);
  }
  return false;
}

}  // namespace

std::vector<PhysRange> merge_ranges(std::vector<PhysRange> ranges) {
  std::erase_if(ranges, [](const PhysRange& r) { return r.length == 0; });
  std::sort(ranges.begin(), ranges.end(), [](const PhysRange& a, const PhysRange& b) { return a.base < b.base; });
  std::vector<PhysRange> merged;
  for (const PhysRange& r : ranges) {
    if (!merged.empty() && r.base <= merged.back().end()) {
      merged.back().length = std::max(merged.back().end(), r.end()) - merged.back().base;
    } else {
      merged.push_back(r);
    }
  }
  return merged;
}

HandoverImage read_handover(const PhysicalMemory& memory, u64 fdt) {
  HandoverImage image;
  if (fdt == 0) {
    image.valid = true;
    return image;
  }
  std::array<std::byte, kPageSize> page;
  if (fdt % kPageSize != 0 || !memory.is_kernel_ram(fdt, kPageSize) || !memory.read(fdt, page)) {
    image.problem = "the FDT is not a page of RAM";
    return image;
  }
  const Fdt tree(page);
  if (!tree.well_formed()) {
    image.problem = "the FDT's header is not one of a device tree of version 16 or 17 in one page";
    return image;
  }
  const auto compatible = tree.root_property("compatible");
  if (!compatible || !names_version(*compatible)) {
    image.problem = "the FDT is not compatible with kho-v4";
    return image;
  }
  const auto map = tree.root_property("preserved-memory-map");
  if (!map || map->size() != sizeof(u64)) {
    image.problem = "the FDT has no preserved-memory-map of 8 bytes";
    return image;
  }
  u64 root = 0;
  std::memcpy(&root, map->data(), sizeof(root));
  image.valid = TreeReader(memory, image).table(root, kRootLevel, 0);
  image.preserved = merge_ranges(std::move(image.preserved));
  for (const PhysRange& r : image.preserved) image.bytes += r.length;
  return image;
}

}  // namespace perdure::board
