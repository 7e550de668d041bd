#include "core/kho/fdt.h"

#include <cstring>

#include "core/kho/format.h"

namespace perdure::kho {

namespace {

constexpr u32 kMagic = 0xd00dfeed;
constexpr u32 kVersion = 17;
constexpr u32 kLastCompatible = 16;
constexpr u32 kHeaderSize = 40;
constexpr u32 kReserveEntry = 16;
constexpr u32 kMaxNesting = 16;

// Header words.
constexpr u32 kTotalSizeAt = 4, kStructAt = 8, kStringsAt = 12, kReserveAt = 16, kVersionAt = 20, kCompatibleAt = 24,
              kStringsSizeAt = 32, kStructSizeAt = 36;

constexpr u32 kBeginNode = 1, kEndNode = 2, kProp = 3, kNop = 4, kEnd = 9;

constexpr u32 pad4(u32 n) {
  return (n + 3) & ~u32{3};
}

u32 get_be32(const std::byte* p) {
  return u32{static_cast<u8>(p[0])} << 24 | u32{static_cast<u8>(p[1])} << 16 | u32{static_cast<u8>(p[2])} << 8 |
         static_cast<u8>(p[3]);
}

void put_be32(std::byte* p, u32 v) {
  p[0] = std::byte(v >> 24);
  p[1] = std::byte(v >> 16);
  p[2] = std::byte(v >> 8);
  p[3] = std::byte(v);
}

// Appends to the structure block under construction.
class Writer {
 public:
  explicit Writer(std::byte* at) : at_(at) {}
  void word(u32 v) {
    put_be32(at_, v);
    at_ += 4;
  }
  void bytes(const void* from, u32 n) {
    memset(at_, 0, pad4(n));
    memcpy(at_, from, n);
    at_ += pad4(n);
  }
  void text(std::string_view s) {
    const u32 n = static_cast<u32>(s.size());
    memset(at_, 0, pad4(n + 1));
    memcpy(at_, s.data(), n);
    at_ += pad4(n + 1);
  }
  void native(u32 name, u64 v) {
    word(kProp);
    word(sizeof v);
    word(name);
    bytes(&v, sizeof v);
  }
  std::byte* at() const { return at_; }

 private:
  std::byte* at_;
};

// The strings block is complete from the start, so that adding a blob never has to touch it.
constexpr u32 kMapName = 0;
constexpr u32 kCompatibleName = kMapName + kMapProperty.size() + 1;
constexpr u32 kDataName = kCompatibleName + 11;
constexpr u32 kSizeName = kDataName + kDataProperty.size() + 1;
constexpr u32 kStringsSize = kSizeName + kSizeProperty.size() + 1;
static_assert(kStringsSize == 57);

constexpr u32 kFixedStruct = kHeaderSize + kReserveEntry;

constexpr bool is_blob_name(std::string_view name) {
  for (char c : name) {
    if (c == '/' || c == '@' || c == '\0') return false;
  }
  return !name.empty();
}

constexpr u32 blob_node_size(std::string_view name) {
  return 4 + pad4(static_cast<u32>(name.size()) + 1) + 2 * (12 + 8) + 4;
}

}  // namespace

struct FdtReader::Token {
  u32 kind = 0;  // 0: not a token
  u32 next = 0;
  std::string_view name;  // of a node or property
  u32 data = 0;           // of a property
  u32 length = 0;
  std::string_view problem;
};

u32 FdtReader::be32(u32 at) const {
  return get_be32(bytes_.data() + at);
}

// The NUL-terminated text at `at`, which must end before `end`; null data when it does not.
std::string_view FdtReader::text(u32 at, u32 end) const {
  const char* start = reinterpret_cast<const char*>(bytes_.data()) + at;
  for (u32 n = 0; at + n < end; ++n) {
    if (start[n] == '\0') return {start, n};
  }
  return {};
}

FdtReader::Token FdtReader::token_at(u32 at) const {
  Token t;
  const u32 left = at <= struct_end_ ? struct_end_ - at : 0;
  if (left < 4) {
    t.problem = "structure block ends without an end token";
    return t;
  }
  const u32 kind = be32(at);
  switch (kind) {
    case kBeginNode:
      t.name = text(at + 4, struct_end_);
      if (t.name.data() == nullptr) {
        t.problem = "node name is not terminated";
        return t;
      }
      t.next = pad4(at + 4 + static_cast<u32>(t.name.size()) + 1);
      break;
    case kProp: {
      if (left < 12) {
        t.problem = "property is cut off";
        return t;
      }
      t.length = be32(at + 4);
      const u32 name = be32(at + 8);
      if (t.length > left - 12) {
        t.problem = "property value leaves the structure block";
        return t;
      }
      if (name >= strings_end_ - strings_begin_) {
        t.problem = "property name lies outside the strings block";
        return t;
      }
      t.name = text(strings_begin_ + name, strings_end_);
      if (t.name.data() == nullptr) {
        t.problem = "property name is not terminated";
        return t;
      }
      t.data = at + 12;
      t.next = pad4(t.data + t.length);
      break;
    }
    case kEndNode:
    case kNop:
    case kEnd: t.next = at + 4; break;
    default: t.problem = "unknown token"; return t;
  }
  if (t.next > struct_end_) {
    t.problem = "token leaves the structure block";
    return t;
  }
  t.kind = kind;
  return t;
}

Result<FdtReader> FdtReader::open(std::span<const std::byte> bytes, FdtProblem& problem) {
  const auto bad = [&](std::string_view what, u32 offset) {
    problem = {what, offset};
    return fail(Errno::Eproto);
  };
  if (bytes.size() < kHeaderSize) return bad("shorter than a header", 0);
  FdtReader r;
  r.bytes_ = bytes;
  if (r.be32(0) != kMagic) return bad("wrong magic", 0);
  const u32 total = r.be32(kTotalSizeAt);
  if (total < kHeaderSize || total > bytes.size()) return bad("total size out of range", kTotalSizeAt);
  if (r.be32(kVersionAt) < kVersion) return bad("version too old", kVersionAt);
  if (r.be32(kCompatibleAt) > kVersion) return bad("last compatible version too new", kCompatibleAt);

  const u32 reserve = r.be32(kReserveAt);
  if (reserve < kHeaderSize || reserve % 8 != 0) return bad("reserve map at a bad offset", kReserveAt);
  for (u32 at = reserve;; at += kReserveEntry) {
    if (at > total || total - at < kReserveEntry) return bad("reserve map has no end", at);
    bool zero = true;
    for (u32 i = 0; i < kReserveEntry; ++i) zero = zero && bytes[at + i] == std::byte{0};
    if (zero) break;
  }

  const u32 structure = r.be32(kStructAt), structure_size = r.be32(kStructSizeAt);
  if (structure < kHeaderSize || structure % 4 != 0 || structure > total || structure_size > total - structure)
    return bad("structure block out of range", kStructAt);
  const u32 strings = r.be32(kStringsAt), strings_size = r.be32(kStringsSizeAt);
  if (strings < kHeaderSize || strings > total || strings_size > total - strings)
    return bad("strings block out of range", kStringsAt);
  r.struct_begin_ = structure;
  r.struct_end_ = structure + structure_size;
  r.strings_begin_ = strings;
  r.strings_end_ = strings + strings_size;

  // One pass over all tokens, so that lookups afterwards can only meet what was checked.
  u32 depth = 0;
  bool had_root = false;
  bool after_child[kMaxNesting + 1] = {};
  for (u32 at = structure;;) {
    const Token t = r.token_at(at);
    switch (t.kind) {
      case kBeginNode:
        if (depth == 0) {
          if (had_root) return bad("second root node", at);
          if (!t.name.empty()) return bad("root node has a name", at);
          had_root = true;
          r.root_ = {at};
        } else if (t.name.empty()) {
          return bad("node without a name", at);
        }
        if (depth == kMaxNesting) return bad("nodes nest too deep", at);
        after_child[depth] = true;
        after_child[++depth] = false;
        break;
      case kEndNode:
        if (depth == 0) return bad("end of a node that never began", at);
        --depth;
        break;
      case kProp:
        if (depth == 0) return bad("property outside any node", at);
        if (after_child[depth]) return bad("property after a child node", at);
        break;
      case kNop: break;
      case kEnd:
        if (depth != 0 || !had_root) return bad("tree ends inside a node", at);
        return r;
      default: return bad(t.problem, at);
    }
    at = t.next;
  }
}

Result<FdtReader::Node> FdtReader::child(std::string_view name) const {
  Result<Node> found = fail(Errno::Enoent);
  each_child([&](std::string_view each, Node node) {
    if (!found && each == name) found = node;
  });
  return found;
}

void FdtReader::each_child(FunctionRef<void(std::string_view, Node)> visit) const {
  u32 depth = 0;
  for (u32 at = root_.at;;) {
    const Token t = token_at(at);
    if (t.kind == 0 || t.kind == kEnd) return;
    if (t.kind == kBeginNode && depth++ == 1) visit(t.name, Node{at});
    if (t.kind == kEndNode && --depth == 0) return;
    at = t.next;
  }
}

Result<std::span<const std::byte>> FdtReader::property(Node node, std::string_view name) const {
  // A node's properties come before its children.
  for (u32 at = token_at(node.at).next;;) {
    const Token t = token_at(at);
    if (t.kind != kProp && t.kind != kNop) return fail(Errno::Enoent);
    if (t.kind == kProp && t.name == name) return bytes_.subspan(t.data, t.length);
    at = t.next;
  }
}

Result<u64> FdtReader::word(Node node, std::string_view name) const {
  const auto value = TRY(property(node, name));
  u64 v = 0;
  if (value.size() != sizeof v) return fail(Errno::Einval);
  memcpy(&v, value.data(), sizeof v);
  return v;
}

void FdtPage::create(std::span<std::byte, kPageSize> page, Phys map_root) {
  memset(page.data(), 0, page.size());
  Writer w(page.data() + kFixedStruct);
  w.word(kBeginNode);
  w.text("");
  w.word(kProp);
  w.word(static_cast<u32>(kCompatible.size()) + 1);
  w.word(kCompatibleName);
  w.text(kCompatible);
  w.native(kMapName, map_root.value);
  w.word(kEndNode);
  w.word(kEnd);
  const u32 strings = static_cast<u32>(w.at() - page.data());
  for (std::string_view name : {kMapProperty, std::string_view("compatible"), kDataProperty, kSizeProperty}) {
    memcpy(w.at(), name.data(), name.size());
    w = Writer(w.at() + name.size() + 1);
  }
  const u32 words[] = {
      kMagic, strings + kStringsSize, kFixedStruct,          strings, kHeaderSize, kVersion, kLastCompatible,
      0,      kStringsSize,           strings - kFixedStruct};
  Writer header(page.data());
  for (u32 word : words) header.word(word);
}

Result<void> FdtPage::add_blob(std::string_view name, Phys at, u64 size) {
  if (!is_blob_name(name)) return fail(Errno::Einval);
  FdtProblem problem;
  const FdtReader reader = TRY(FdtReader::open(page_, problem));
  if (reader.child(name)) return fail(Errno::Eexist);
  const u32 total = get_be32(page_.data() + kTotalSizeAt);
  const u32 strings = get_be32(page_.data() + kStringsAt);
  if (name.size() > kPageSize || blob_node_size(name) > kPageSize - total) return fail(Errno::Enomem);

  // Before the root's end: the last two words of the structure block. What follows moves up.
  const u32 grown = blob_node_size(name);
  const u32 insert = strings - 8;
  memmove(page_.data() + insert + grown, page_.data() + insert, total - insert);
  Writer w(page_.data() + insert);
  w.word(kBeginNode);
  w.text(name);
  w.native(kSizeName, size);
  w.native(kDataName, at.value);
  w.word(kEndNode);
  put_be32(page_.data() + kTotalSizeAt, total + grown);
  put_be32(page_.data() + kStringsAt, strings + grown);
  put_be32(page_.data() + kStructSizeAt, get_be32(page_.data() + kStructSizeAt) + grown);
  return {};
}

bool FdtPage::remove_blob(std::string_view name) {
  FdtProblem problem;
  const auto reader = FdtReader::open(page_, problem);
  if (!reader) return false;
  const auto node = reader->child(name);
  if (!node) return false;
  const u32 total = get_be32(page_.data() + kTotalSizeAt);
  const u32 strings = get_be32(page_.data() + kStringsAt);
  const u32 gone = blob_node_size(name);
  const u32 after = node->at + gone;
  memmove(page_.data() + node->at, page_.data() + after, total - after);
  memset(page_.data() + total - gone, 0, gone);
  put_be32(page_.data() + kTotalSizeAt, total - gone);
  put_be32(page_.data() + kStringsAt, strings - gone);
  put_be32(page_.data() + kStructSizeAt, get_be32(page_.data() + kStructSizeAt) - gone);
  return true;
}

}  // namespace perdure::kho
