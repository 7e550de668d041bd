// The board's IOMMU: descriptors, register writes in any order and width, tables that change under it, requests in
// between. It is the oracle of every other test, so it must itself hold: no input makes it hang or use memory that is
// not there, its queue works again once it is set up properly, nothing cached survives the flush that names it, a wait
// never completes before the transfers it stands behind, and what it translates is what the tables say.
#include <deque>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "core/base/hw.h"
#include "fuzz/input.h"
#include "machine/board/iommu/iommu_model.h"

namespace perdure::board {
namespace {

using fuzz::Input;

constexpr u64 kRam = 96 << 10;
constexpr u64 kOwnQueue = kRam - 0x2000;  // of this driver, for its checks
constexpr u64 kOwnStatus = kRam - 0x1000;
constexpr u64 kOwn = kOwnQueue;  // the input writes below
constexpr unsigned kMaxOps = 200;
constexpr unsigned kPatience = 4096;  // steps

constexpr u16 kSources[] = {0x0010, 0x0011, 0x0017, 0x0300, 0xFFFF};
constexpr u64 kIovas[] = {0,           0x1000,      0x20'0000, 0x4000'0000,    0x40'1000,        0x7F'FFFF'F000,
                          0xFEE0'0000, 0xFEDF'F000, 0x3000,    0x80'0000'0000, 0xFFFF'FFFF'F000, ~u64{0xFFF}};

class Memory final : public PhysMemory {
 public:
  Memory() : words_(kRam / 8) {}
  bool load64(u64 phys, u64& value) override {
    if (!is_ram(phys, 8)) return false;
    value = hw::load(&words_[phys / 8]);
    return true;
  }
  bool store32(u64 phys, u32 value) override {
    if (!is_ram(phys, 4)) return false;
    hw::store(reinterpret_cast<u32*>(words_.data()) + phys / 4, value);
    return true;
  }
  bool compare_exchange64(u64 phys, u64& expected, u64 desired) override {
    return is_ram(phys, 8) && hw::compare_exchange(&words_[phys / 8], expected, desired);
  }
  bool is_ram(u64 phys, u64 bytes) const override { return bytes <= kRam && phys <= kRam - bytes; }
  bool may_use(u64 phys, TableUse) override { return (phys >> 12) % 7 != 6; }

  u64 word(u64 phys) const { return words_[phys / 8]; }
  void set(u64 phys, u64 value) { words_[phys / 8] = value; }

 private:
  std::vector<u64> words_;
};

class Environment final : public IommuEnvironment {
 public:
  u64 now_ns() override { return ++clock_; }
  void msi(u64, u32) override {}
  void translation_enabled(bool, u64) override {}

 private:
  u64 clock_ = 0;
};

IommuModelConfig config_of(Input& in) {
  IommuModelConfig c;
  const u32 bits = in.number<u32>();
  const auto bit = [&](unsigned i) { return (bits >> i & 1) != 0; };
  c.scalable = bit(0);
  c.coherent = !bit(1);
  c.scalable_coherent = !bit(2);
  c.caching_mode = bit(3);
  c.rwbf = bit(4);
  c.esrtps = bit(5);
  c.device_tlb = bit(6);
  c.plmr = bit(7);
  c.phmr = bit(8);
  c.abort_mode = bit(9);
  c.psi = !bit(10);
  c.dwd = !bit(11);
  c.drd = !bit(12);
  c.interrupt_remap = !bit(13);
  c.step_on_access = bit(14);
  if (bit(15)) c.delay = {0, 3};
  c.nfr = bit(16) ? 1 : 8;
  c.sagaw = bit(17) ? 0b1110 : 0b0110;
  c.mgaw = bit(17) ? 57 : 48;
  c.haw = bit(18) ? 39 : 48;
  c.sslps = static_cast<u8>(bits >> 19 & 3);
  c.snoop_control = bit(21);
  c.second_stage_dirty = !bit(22);
  c.policy = bit(23) ? CachePolicy::Random : bit(24) ? CachePolicy::EvictAlways : CachePolicy::Sticky;
  c.nd = bit(25) ? 6 : 2;
  c.pass_through = !bit(26);
  // Quirks one by one, but not the one that refuses to disable the queue: checks need their own.
  c.quirks.psi_mask8 = bit(27);
  c.quirks.no_perm_check_on_hit = bit(28);
  c.quirks.iqa_dw_unreadable = bit(29);
  c.quirks.collapse_same_source = bit(30);
  c.quirks.scalable_legacy_codes = bit(31);
  c.seed = in.byte() + 1u;
  return c;
}

// A walk of legacy tables as VT-d §9.3 and §9.6 have them, without any check of reserved bits: what it does not find,
// the unit must not find either.
std::optional<u64> direct_walk(const Memory& memory, u64 root, u16 source, u64 iova, bool write) {
  constexpr u64 kAddress = 0x000F'FFFF'FFFF'F000;
  const auto load = [&](u64 at) -> std::optional<u64> {
    if (!memory.is_ram(at, 8)) return std::nullopt;
    return memory.word(at);
  };
  const auto root_entry = load((root & kAddress) + (source >> 8) * 16u);
  if (!root_entry || (*root_entry & 1) == 0) return std::nullopt;
  const u64 at = (*root_entry & kAddress) + (source & 0xFF) * 16u;
  const auto low = load(at);
  const auto high = load(at + 8);
  if (!low || !high || (*low & 1) == 0) return std::nullopt;
  if ((*low >> 2 & 3) == 2) return iova;  // pass-through
  unsigned level = static_cast<unsigned>(*high & 7) + 2;
  u64 table = *low & kAddress;
  for (;; --level) {
    const unsigned shift = 12 + 9 * (level - 1);
    const auto entry = load(table + (iova >> shift & 0x1FF) * 8);
    if (!entry || (*entry & (write ? 2 : 1)) == 0) return std::nullopt;
    if (level == 1 || (*entry & 0x80) != 0) {
      const u64 below = (u64{1} << shift) - 1;
      return (*entry & kAddress & ~below) | (iova & below);
    }
    table = *entry & kAddress;
  }
}

class Run {
 public:
  explicit Run(Input in) : in_(in), config_(config_of(in_)), shadow_(memory_) { start(); }

  void go() {
    for (unsigned i = 0; i < kMaxOps && !in_.empty(); ++i) {
      switch (in_.below(16)) {
        case 0: write_register(); break;
        case 1: (void)model_->read(offset(), width()); break;
        case 2: store(word_at(), value()); break;
        case 3: store_entry(); break;
        case 4: translate(); break;
        case 5: enqueue(); break;
        case 6: command(); break;
        case 7: descriptors_raw(); break;
        case 8: (void)step(in_.below(8)); break;
        case 9: release(); break;
        case 10: write_back(); break;
        case 11: others(); break;
        case 12: check_flush(); break;
        case 13: check_drain(); break;
        case 14: snapshot(); break;
        case 15: set_up(); break;
      }
    }
    check_all();
  }

 private:
  void start() { model_ = std::make_unique<IommuModel>(config_, memory_, environment_, &shadow_); }

  // --- what the input chooses -------------------------------------------------------------------------------------
  u64 offset() {
    static constexpr u64 kKnown[] = {0x00, 0x08, 0x0C, 0x10, 0x18, 0x1C, 0x20,  0x24,  0x28, 0x2C, 0x34,
                                     0x38, 0x3C, 0x40, 0x44, 0x64, 0x68, 0x6C,  0x70,  0x78, 0x80, 0x84,
                                     0x88, 0x8C, 0x90, 0x94, 0x9C, 0xA0, 0xA4,  0xA8,  0xAC, 0xB0, 0xB4,
                                     0xB8, 0xBC, 0xF0, 0xF4, 0xF8, 0xFC, 0x220, 0x22C, 0x228};
    const u8 which = in_.byte();
    return which < 0xF0 ? kKnown[which % std::size(kKnown)] : in_.number<u16>();
  }
  unsigned width() {
    static constexpr unsigned kWidths[] = {4, 8, 4, 8, 4, 8, 1, 2};
    return in_.one_of(kWidths);
  }
  u64 page() { return u64{in_.below(kOwn / kPageSize)} * kPageSize; }
  u64 word_at() { return page() + u64{in_.number<u16>() % 512u} * 8; }
  u64 value() {
    switch (in_.below(6)) {
      case 0: return 0;
      case 1: return in_.byte();
      case 2: return page() | in_.number<u16>() % 4096u;
      case 3: return u64{1} << in_.below(64);
      case 4: return ~u64{0};
      default: return in_.number<u64>();
    }
  }
  u64 iova() { return in_.one_of(kIovas) + in_.below(4) * kPageSize; }
  u16 did() { return static_cast<u16>(in_.below(4)); }

  // --- operations ---------------------------------------------------------------------------------------------------
  void store(u64 at, u64 v) {
    memory_.set(at, v);
    if (!lazy_) shadow_.write_back(at, 8);
  }
  void write_register() {
    const u64 at = offset();
    const unsigned w = width();
    model_->write(at, w, value());
    (void)step(0);
  }
  // One bit of GCMD on or off, as a driver does it.
  void command() {
    const u32 bit = u32{1} << (23 + in_.below(9));
    const u32 base = static_cast<u32>(model_->read(0x1C, 4)) & 0x96FF'FFFF;
    model_->write(0x18, 4, in_.flag() ? base | bit : base & ~bit);
    (void)step(in_.below(8));
  }
  // A whole way from a root table to a page for one request, so that walks go deep.
  void set_up() {
    const u16 source = in_.one_of(kSources);
    const u64 at_iova = iova();
    const u8 shape = in_.byte();
    const u64 root = page();
    const u64 context = page();
    const u64 top = page();
    const u16 domain = did();
    unsigned aw = 1 + shape % 3u;
    if (config_.scalable && (shape & 0x80) != 0) {
      const u64 directory = page();
      const u64 pasids = page();
      store(root + (source >> 8) * 16u + ((source & 0x80) != 0 ? 8 : 0), context | 1);
      const u64 at = context + (source & 0x7F) * 32u;
      for (unsigned i = 1; i < 4; ++i) store(at + 8 * i, 0);
      store(at, directory | 1);
      store(directory, pasids | 1);
      for (unsigned i = 1; i < 8; ++i)
        store(pasids + 8 * i, i == 1 ? domain | (config_.scalable_coherent ? 1u << 23 : 0) : 0u);
      store(pasids, top | 2 << 6 | aw << 2 | ((shape & 0x40) != 0 ? 1 << 9 : 0) | 1);
    } else {
      store(root + (source >> 8) * 16u, context | 1);
      store(root + (source >> 8) * 16u + 8, 0);
      const u64 at = context + (source & 0xFF) * 16u;
      store(at + 8, aw | u64{domain} << 8);
      store(at, top | 1);
    }
    u64 table = top;
    for (unsigned level = aw + 2; level >= 1; --level) {
      const u64 at = table + (at_iova >> (12 + 9 * (level - 1)) & 0x1FF) * 8;
      const bool leaf = level == 1 || (level <= 3 && in_.below(8) == 0);
      const u64 next = page();
      store(at, next | 3 | (leaf && level > 1 ? 0x80 : 0));
      if (leaf) break;
      table = next;
    }
    if ((shape & 0x20) != 0) {
      model_->write(0x20, 8, root | (config_.scalable && (shape & 0x80) != 0 ? u64{1} << 10 : 0));
      for (const u32 bit : {u32{1} << 30, u32{1} << 31}) {
        model_->write(0x18, 4, (static_cast<u32>(model_->read(0x1C, 4)) & 0x96FF'FFFF) | bit);
        (void)step(16);
      }
    }
  }
  void store_entry() {
    const u64 at = word_at();
    store(at, page() | (in_.number<u16>() & 0xFFF));
  }
  void translate() {
    static constexpr RequestType kTypes[] = {RequestType::Untranslated, RequestType::Untranslated,
                                             RequestType::TranslationRequest, RequestType::Translated};
    const u16 source = in_.one_of(kSources);
    const u64 at = iova() + in_.byte();
    const Access access = in_.flag() ? Access::Write : Access::Read;
    const RequestType type = in_.one_of(kTypes);
    Translation t = model_->translate(source, at, in_.number<u16>(), access, type);
    FUZZ_REQUIRE(t.ok() || t.length == 0, "a blocked request with a length");
    if (in_.flag() && held_.size() < 16) held_.push_back(std::move(t));
  }
  void release() {
    if (held_.empty()) return;
    held_.erase(held_.begin() + in_.below(static_cast<u32>(held_.size())));
  }
  // A descriptor at the tail, wherever the input has put the queue, and the tail moved on.
  void enqueue() {
    const u64 iqa = model_->read(0x90, 8);
    const u64 tail = model_->read(0x88, 8);
    const u64 bytes = (iqa & 0x800) != 0 ? 32 : 16;
    const u64 at = (iqa & ~u64{0xFFF}) + tail;
    u64 q[2] = {};
    switch (in_.below(8)) {
      case 0: q[0] = 0x01 | u64{in_.below(4)} << 4 | u64{did()} << 16 | u64{in_.one_of(kSources)} << 32; break;
      case 1:
        q[0] = 0x02 | u64{in_.below(16)} << 4 | u64{did()} << 16;
        q[1] = iova() | in_.below(128);
        break;
      case 2:
        q[0] = 0x03 | u64{in_.one_of(kSources)} << 32;
        q[1] = iova() | in_.below(2);
        break;
      case 3:
        q[0] = 0x05 | u64{in_.below(8)} << 4 | u64{in_.number<u32>()} << 32;
        q[1] = in_.flag() ? page() : in_.number<u64>();
        break;
      case 4:
        q[0] = 0x06 | u64{in_.below(4)} << 4 | u64{did()} << 16 | u64{in_.below(128)} << 32;
        q[1] = iova() | in_.below(128);
        break;
      case 5: q[0] = 0x07 | u64{in_.below(4)} << 4 | u64{did()} << 16 | u64{in_.below(128)} << 32; break;
      case 6:
        q[0] = 0x08 | u64{in_.one_of(kSources)} << 16;
        q[1] = iova() | in_.number<u16>() % 4096u;
        break;
      default:
        q[0] = in_.number<u64>();
        q[1] = in_.number<u64>();
        break;
    }
    for (unsigned i = 0; i < bytes / 8; ++i) {
      if (at < kOwn && at + i * 8 < kOwn) store(at + i * 8, i < 2 ? q[i] : 0);
    }
    if (in_.below(4) != 0) model_->write(0x88, 8, tail + bytes);
    (void)step(in_.below(4));
  }
  void descriptors_raw() {
    const u64 at = page();
    const std::span<const u8> raw = in_.take(in_.below(64));
    for (usize i = 0; i + 8 <= raw.size(); i += 8) {
      u64 w = 0;
      std::memcpy(&w, raw.data() + i, 8);
      store(at + i, w);
    }
  }
  void write_back() {
    lazy_ = in_.flag();
    const u64 at = page();
    shadow_.write_back(at, in_.number<u16>());
  }
  void others() {
    switch (in_.below(6)) {
      case 0: model_->drop_caches(); break;
      case 1: model_->set_policy(static_cast<CachePolicy>(in_.below(3)), in_.byte()); break;
      case 2: model_->inject_queue_error(static_cast<u8>(in_.below(6))); break;
      case 3: model_->inject_device_tlb_timeout(in_.one_of(kSources)); break;
      case 4: (void)model_->violations().size(); break;
      default: (void)model_->statistics(); break;
    }
  }
  bool step(unsigned n) {
    bool busy = true;
    for (unsigned i = 0; i < n && busy; ++i) busy = model_->step();
    return busy;
  }

  // --- checks
  // ---------------------------------------------------------------------------------------------------------
  u32 status() { return static_cast<u32>(model_->read(0x1C, 4)); }
  void command(u32 bit, bool on) {
    const u32 base = status() & 0x96FF'FFFF;
    model_->write(0x18, 4, on ? base | bit : base & ~bit);
    for (unsigned i = 0; i < kPatience && ((status() & bit) != 0) != on; ++i) model_->step();
    FUZZ_REQUIRE(((status() & bit) != 0) == on, "GSTS %08x does not follow GCMD bit %08x", status(), bit);
  }
  // A queue of this driver's own, whatever state the unit's was in.
  void own_queue() {
    constexpr u32 kQie = u32{1} << 26;
    held_.clear();  // a drain may wait for these
    for (unsigned i = 0; i < kPatience && (model_->read(0xF8, 8) >> 63 != 0 || model_->read(0x28, 8) >> 63 != 0); ++i) {
      model_->step();
    }
    FUZZ_REQUIRE(model_->read(0xF8, 8) >> 63 == 0 && model_->read(0x28, 8) >> 63 == 0, "a register flush never ends");
    model_->inject_queue_error(0);
    if ((status() & kQie) != 0) command(kQie, false);
    model_->write(0x34, 4, 0x7F);
    model_->write(0x88, 8, 0);
    wide_ = config_.scalable;
    model_->write(0x90, 8, kOwnQueue | (wide_ ? 0x800 : 0));
    command(kQie, true);
    tail_ = 0;
  }
  void push(u64 q0, u64 q1) {
    const u64 bytes = wide_ ? 32 : 16;
    for (unsigned i = 0; i < bytes / 8; ++i) {
      memory_.set(kOwnQueue + tail_ + i * 8, i == 0 ? q0 : i == 1 ? q1 : 0);
      shadow_.write_back(kOwnQueue + tail_ + i * 8, 8);
    }
    tail_ = (tail_ + bytes) % kPageSize;
  }
  bool done() const { return static_cast<u32>(memory_.word(kOwnStatus)) == cookie_; }
  // Submits what was pushed, with a wait behind it.
  void submit() {
    ++cookie_;
    push(u64{cookie_} << 32 | 0x25, kOwnStatus);
    model_->write(0x88, 8, tail_);
  }
  void complete() {
    for (unsigned i = 0; i < kPatience && !done(); ++i) model_->step();
    FUZZ_REQUIRE(
        done(), "a wait of a sound queue never completes: FSTS %llx, IQERCD %llx, IQH %llx, IQT %llx",
        static_cast<unsigned long long>(model_->read(0x34, 4)), static_cast<unsigned long long>(model_->read(0xB0, 8)),
        static_cast<unsigned long long>(model_->read(0x80, 8)), static_cast<unsigned long long>(model_->read(0x88, 8)));
  }
  static constexpr u64 kContextGlobal = 0x11;
  static constexpr u64 kIotlbGlobal = 0xD2;
  static constexpr u64 kPasidGlobal = 0x37;

  // Latches RTADDR if that makes a legacy root table in RAM current.
  bool latch_legacy_root() {
    const u64 rtaddr = model_->read(0x20, 8);
    if ((rtaddr >> 10 & 3) != 0 || !memory_.is_ram(rtaddr, kPageSize)) return false;
    model_->write(0x18, 4, (status() & 0x96FF'FFFF) | u32{1} << 30);
    for (unsigned i = 0; i < kPatience && (status() >> 30 & 1) == 0; ++i) model_->step();
    FUZZ_REQUIRE((status() >> 30 & 1) != 0, "a root pointer is never set");
    return true;
  }
  // `legacy`: RTADDR is what the unit uses, and its tables are legacy ones.
  void expect_as_tables(u16 source, u64 at, Access access, bool legacy, const char* flush) {
    // Asked before: tables that overlap may change by the accessed bits that the request itself sets.
    const Translation fresh = model_->probe(source, at, 64, access);
    const Translation asked = model_->translate(source, at, 64, access);
    FUZZ_REQUIRE(
        asked.verdict == fresh.verdict && asked.phys == fresh.phys && asked.fault == fresh.fault,
        "after %s: source %04x, iova %llx: answers verdict %d, fault %d, phys %llx; the tables say %d, %d, %llx", flush,
        source, static_cast<unsigned long long>(at), static_cast<int>(asked.verdict), asked.fault,
        static_cast<unsigned long long>(asked.phys), static_cast<int>(fresh.verdict), fresh.fault,
        static_cast<unsigned long long>(fresh.phys));
    if (legacy && asked.verdict == Verdict::Translated && config_.coherent) {
      const auto walked = direct_walk(memory_, model_->read(0x20, 8), source, at, access == Access::Write);
      FUZZ_REQUIRE(walked && *walked == asked.phys, "source %04x, iova %llx: translated to %llx, which no table says",
                   source, static_cast<unsigned long long>(at), static_cast<unsigned long long>(asked.phys));
    }
  }
  // Random loses entries and EvictAlways keeps none: any answer of theirs is a fresh one or a kept one, as with Sticky.
  void flush_all() {
    push(kContextGlobal, 0);
    if (config_.scalable) push(kPasidGlobal, 0);
    push(kIotlbGlobal, 0);
    submit();
    complete();
  }
  // One flush of the input's choice, then one request that it covers.
  void check_flush() {
    own_queue();
    const u16 source = in_.one_of(kSources);
    const u64 at = iova();
    const Access access = in_.flag() ? Access::Write : Access::Read;
    const bool legacy = latch_legacy_root();
    const u64 root = model_->read(0x20, 8) & ~u64{0xFFF};
    const u8 kind = in_.byte();
    push(kContextGlobal, 0);
    if (config_.scalable) push(kPasidGlobal, 0);
    // The domain id that the tables give this request now; only legacy tables are looked up here.
    u64 low = 0, high = 0;
    const bool known = legacy && config_.coherent && memory_.load64(root + (source >> 8) * 16u, low) &&
                       memory_.load64((low & ~u64{0xFFF}) + (source & 0xFF) * 16u + 8, high);
    const u64 domain = high >> 8 & 0xFFFF;
    if (known && kind % 3 == 0) {
      push(0xE2 | domain << 16, 0);
    } else if (known && kind % 3 == 1) {
      const unsigned order = in_.below(19);
      push(0xF2 | domain << 16, (at & ~((kPageSize << order) - 1)) | order);
    } else {
      push(kIotlbGlobal, 0);
    }
    submit();
    complete();
    expect_as_tables(source, at, access, legacy, known ? "a selective flush" : "a global flush");
  }
  // A draining flush waits for what was under way before it.
  void check_drain() {
    own_queue();
    flush_all();
    Translation t = model_->translate(in_.one_of(kSources), iova(), 64, in_.flag() ? Access::Write : Access::Read);
    const bool translated = t.ok();
    const bool write = !in_.empty() && in_.flag();
    Translation w = model_->translate(in_.one_of(kSources), iova(), 64, write ? Access::Write : Access::Read);
    const bool drains = w.ok() && (write ? config_.dwd : config_.drd);
    push(kIotlbGlobal, 0);
    submit();
    (void)step(64);
    FUZZ_REQUIRE(!drains || !done(), "a draining flush completed before the transfer that it waits for");
    // A later transfer does not hold it up.
    Translation later = model_->translate(in_.one_of(kSources), iova(), 64, Access::Write);
    if (translated) t = Translation();
    w = Translation();
    complete();
    (void)later;
  }
  void check_all() {
    own_queue();
    const bool legacy = latch_legacy_root();
    for (const u16 source : kSources) {
      for (const u64 at : {kIovas[0], kIovas[1], kIovas[2], kIovas[8]}) {
        flush_all();
        expect_as_tables(source, at, Access::Read, legacy, "a global flush");
        flush_all();
        expect_as_tables(source, at, Access::Write, legacy, "a global flush");
      }
    }
  }
  // Saved and restored into a fresh unit; or bytes that are no snapshot, which must be refused or taken without harm.
  void snapshot() {
    std::vector<std::byte> saved = model_->save();
    const u8 damage = in_.byte();
    if ((damage & 1) != 0) {
      for (u8 i = 0; i < damage >> 4; ++i) saved[in_.below(static_cast<u32>(saved.size()))] = std::byte{in_.byte()};
      if ((damage & 2) != 0) saved.resize(in_.below(static_cast<u32>(saved.size() + 1)));
      IommuModel other(config_, memory_, environment_, &shadow_);
      (void)other.restore(saved);
      for (unsigned i = 0; i < 16; ++i) (void)other.step();
      (void)other.translate(kSources[0], 0x1000, 8, Access::Read);
      return;
    }
    held_.clear();
    saved = model_->save();
    auto other = std::make_unique<IommuModel>(config_, memory_, environment_, &shadow_);
    FUZZ_REQUIRE(other->restore(saved), "a unit's own snapshot is refused");
    FUZZ_REQUIRE(other->save() == saved, "what was restored is not what was saved");
    model_ = std::move(other);
  }

  Input in_;
  IommuModelConfig config_;
  Memory memory_;
  Environment environment_;
  WriteBackShadow shadow_;
  std::unique_ptr<IommuModel> model_;
  std::deque<Translation> held_;  // transfers under way; they go before the model
  bool lazy_ = false;             // stores are not written back
  bool wide_ = false;
  u64 tail_ = 0;
  u32 cookie_ = 0;
};

}  // namespace
}  // namespace perdure::board

extern "C" int LLVMFuzzerTestOneInput(const perdure::u8* data, perdure::usize bytes) {
  perdure::board::Run(perdure::fuzz::Input(data, bytes)).go();
  return 0;
}
