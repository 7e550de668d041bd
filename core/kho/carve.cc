// The first look at what a former kernel left: everything in it is checked before anything is believed, with
// no heap and no recursion deeper than the tree's levels.
#include "core/base/log.h"
#include "core/kho/fdt.h"
#include "core/kho/kho.h"

namespace perdure {

namespace {

using namespace kho;

class Carver {
 public:
  Carver(FrameAllocator& frames, Phys fdt) : frames_(frames), machine_(frames.machine()), fdt_(fdt) {}

  Result<void> run() {
    const Phys root = TRY(read_fdt());
    TRY(check_page(root, "the root of the tree of preserved memory"));
    TRY(keep_nodes(root, kRootLevel, 0));
    TRY(keep_blocks(root));
    if (!RadixView(machine_, root).contains(key_of(fdt_, 0)) || !frames_.in_use(fdt_, kPageSize))
      return bad(Line() << "the page of the FDT at " << fdt_ << " is not preserved itself");
    perdure::log(machine_, LogLevel::Info,
                 Line() << "kho: " << blocks_ << " preserved blocks, " << bytes_ << " bytes, " << nodes_
                        << " tree pages, FDT at " << fdt_);
    return {};
  }

 private:
  std::unexpected<Errno> bad(const Line& why) {
    perdure::log(machine_, LogLevel::Error,
                 Line() << "kho: the handover is unreadable: " << why.view()
                        << "; memory of the former kernel is not known, do not go on");
    return fail(Errno::Eproto);
  }

  Result<void> check_page(Phys at, std::string_view what) {
    if (!at || !at.aligned(kPageSize)) return bad(Line() << what << " is at " << at << ", which is no page");
    if (!machine_.in_window(at, kPageSize)) return bad(Line() << what << " is at " << at << ", beyond all memory");
    if (!frames_.in_ram(at, kPageSize)) return bad(Line() << what << " at " << at << " lies outside RAM");
    return {};
  }

  Result<Phys> read_fdt() {
    TRY(check_page(fdt_, "the FDT"));
    FdtProblem problem;
    const auto reader = FdtReader::open({machine_.virt<const std::byte>(fdt_), kPageSize}, problem);
    if (!reader) return bad(Line() << "FDT at " << fdt_ << " offset " << problem.offset << ": " << problem.what);
    const auto compatible = reader->property(reader->root(), "compatible");
    if (!compatible) return bad(Line() << "FDT at " << fdt_ << " has no \"compatible\"");
    // Text list: strings one after the other, each with its NUL.
    if (!lists(*compatible, kCompatible))
      return bad(Line() << "FDT at " << fdt_ << " is not compatible with " << kCompatible
                        << ", the only version known");
    const auto root = reader->word(reader->root(), kMapProperty);
    if (!root) return bad(Line() << "FDT at " << fdt_ << ": \"" << kMapProperty << "\" is missing or no 8 bytes");
    return Phys(*root);
  }

  static bool lists(std::span<const std::byte> texts, std::string_view wanted) {
    std::string_view rest(reinterpret_cast<const char*>(texts.data()), texts.size());
    while (!rest.empty()) {
      usize end = 0;
      while (end < rest.size() && rest[end] != '\0') ++end;
      if (end == rest.size()) return false;
      if (rest.substr(0, end) == wanted) return true;
      rest.remove_prefix(end + 1);
    }
    return false;
  }

  // `prefix`: the key bits that the way down to this node has fixed. A node that is reached twice, by a cycle or by
  // sharing, fails keep() the second time, so the walk is bounded by the pages of RAM.
  Result<void> keep_nodes(Phys at, unsigned level, u64 prefix) {
    if (!frames_.keep(at, 0))
      return bad(Line() << "tree page " << at << " on level " << level << " for keys from " << Hex{prefix}
                        << " lies in scratch or reserved memory, or is linked twice");
    if (!frames_.in_use(at, kPageSize)) return bad(Line() << "tree page " << at << " lies outside RAM");
    ++nodes_;
    const u64* words = machine_.virt<const u64>(at);
    if (level == 0) {
      for (u64 word = 0; word < kLeafWords; ++word) {
        for (u64 bits = words[word]; bits != 0; bits &= bits - 1) {
          const u64 key = prefix + word * 64 + static_cast<unsigned>(std::countr_zero(bits));
          if (!is_block_key(key)) return bad(Line() << "tree page " << at << " holds the impossible key " << Hex{key});
          orders_ |= u64{1} << block_of(key).order;
        }
      }
      return {};
    }
    for (u64 slot = 0; slot < kTableEntries; ++slot) {
      const Phys child(words[slot]);
      if (!child) continue;
      const u64 below = prefix | slot << slot_shift(level);
      if (below >> kKeyBits != 0 || below >> slot_shift(level) != ((prefix >> slot_shift(level)) | slot))
        return bad(Line() << "tree page " << at << " slot " << slot << " is for keys wider than " << kKeyBits
                          << " bits");
      if (!child.aligned(kPageSize) || !machine_.in_window(child, kPageSize))
        return bad(Line() << "tree page " << at << " on level " << level << " slot " << slot << " points at " << child
                          << ", which is no page of memory");
      TRY(keep_nodes(child, level - 1, below));
    }
    return {};
  }

  Result<void> keep_blocks(Phys root) {
    const RadixView tree(machine_, root);
    return tree.each([&](u64 key) -> Result<void> {
      const Block block = block_of(key);
      if (!machine_.in_window(block.base, block.bytes()))
        return bad(Line() << "block " << block.base << " of order " << block.order << " is beyond all memory");
      // Two aligned blocks overlap only if the smaller lies within the bigger.
      for (u64 bigger = orders_ >> block.order >> 1 << 1 << block.order; bigger != 0; bigger &= bigger - 1) {
        const unsigned order = static_cast<unsigned>(std::countr_zero(bigger));
        const Phys around(align_down(block.base.value, kPageSize << order));
        if (tree.contains(key_of(around, order)))
          return bad(Line() << "block " << block.base << " of order " << block.order << " lies within block " << around
                            << " of order " << order);
      }
      if (!frames_.keep(block.base, block.order))
        return bad(Line() << "block " << block.base << " of order " << block.order
                          << " overlaps scratch memory, reserved memory or a page of the tree");
      ++blocks_;
      bytes_ += block.bytes();
      return {};
    });
  }

  FrameAllocator& frames_;
  Machine& machine_;
  Phys fdt_;
  u64 orders_ = 0;
  u64 nodes_ = 0;
  u64 blocks_ = 0;
  u64 bytes_ = 0;
};

}  // namespace

Result<void> Kho::carve(FrameAllocator& frames, Phys fdt) {
  return Carver(frames, fdt).run();
}

}  // namespace perdure
