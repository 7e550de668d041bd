// The work bench of the behaviours: a small driver of the unit that can also do everything wrong, tables built word by
// word, and DMA with a report of where it went.
#pragma once
#include <initializer_list>
#include <string_view>

#include "conformance/behaviour.h"
#include "conformance/hardware.h"
#include "conformance/vtd.h"

namespace perdure::conformance {

enum class Mode : u8 { Legacy, Scalable };

// A second- or first-stage page table.
struct Table {
  u64 top = 0;
  unsigned levels = 0;
};

struct Fault {
  bool found = false;
  u8 reason = 0;
  u16 source = 0;
  u64 page = 0;
  bool of_read = false;
  u64 low = 0;
  u64 high = 0;
};

// What a unit with these capabilities has: Need bits. That it keeps what it has cached is taken for granted.
u64 offers(u64 cap, u64 ecap, unsigned requesters);

class Bench {
 public:
  // I/O addresses that are neither memory nor registers; page numbers differ in their low 8 bits, but for the last.
  static constexpr u64 kIova = 0x9000'1000;
  static constexpr u64 kOther = 0x9030'2000;
  static constexpr u64 kSameLow8 = kIova + 0x10'0000;
  static constexpr u16 kDid = 5;
  static constexpr u16 kOtherDid = 9;

  explicit Bench(Hardware& hardware);

  // Before each behaviour and after the last one: translation, queue and remapping off, caches empty, nothing pending,
  // memory free. False when the unit cannot be brought there.
  bool rest();
  u64 offers() const {
    return conformance::offers(cap_, ecap_, hardware_.requester_count) & ~(hardware_.keeps ? kNothing : kKeeps);
  }
  // Where what came so far was forgotten.
  void reuse_vectors() { next_vector_ = kFirstVector; }

  // What must hold for the behaviour to say anything; the first that does not is kept until rest().
  void require(bool holds, std::string_view what) {
    if (!holds && problem_.empty()) problem_ = what;
  }
  std::string_view problem() const { return problem_; }

  // --- memory --------------------------------------------------------------------------------------------------------
  u64 pages(u64 count = 1, u64 alignment = perdure::kPageSize);  // zeroed
  u64 load(u64 phys) const;
  void store(u64 phys, u64 value);       // and writes it back
  void store_only(u64 phys, u64 value);  // in the CPU's cache
  void write_back(u64 phys, u64 bytes) { hardware_.write_back(Phys(phys), bytes); }
  void copy_page(u64 to, u64 from);
  void poison(u64 page);  // no entry is legal any more
  u64 nothing() const { return hardware_.nothing.value; }
  // Where DMA goes in the end: pages 0 to 3.
  u64 target(unsigned n) const { return targets_ + n * perdure::kPageSize; }

  // --- registers -----------------------------------------------------------------------------------------------------
  u32 read32(u64 offset) { return static_cast<u32>(hardware_.mmio_read(hardware_.unit + offset, Width::W32)); }
  u64 read64(u64 offset) { return hardware_.mmio_read(hardware_.unit + offset, Width::W64); }
  void write32(u64 offset, u32 value) { hardware_.mmio_write(hardware_.unit + offset, Width::W32, value); }
  void write64(u64 offset, u64 value) { hardware_.mmio_write(hardware_.unit + offset, Width::W64, value); }
  u64 cap() const { return cap_; }
  u64 ecap() const { return ecap_; }
  unsigned mgaw() const { return vtd::mgaw(cap_); }
  unsigned records() const { return vtd::records(cap_); }
  unsigned largest_order() const { return static_cast<unsigned>(cap_ >> 48 & 0x3F); }
  unsigned widest() const;  // levels of the deepest table
  unsigned narrowest() const;
  u64 record_at(unsigned i) const { return (cap_ >> 24 & 0x3FF) * 16 + u64{16} * i; }
  u64 iotlb_at() const { return (ecap_ >> 8 & 0x3FF) * 16; }
  u32 status() { return read32(vtd::kStatus); }
  // Sets or clears one bit of GCMD, restating all others, and waits until GSTS says so.
  bool command(u32 bit, bool on);
  bool set_root(u64 value);
  // Waits until `ready` or the time is up.
  template <class Ready>
  bool wait(Ready ready, u64 limit_ns = 50'000'000) {
    const u64 until = hardware_.now_ns() + limit_ns;
    for (;;) {
      if (ready()) return true;
      if (hardware_.now_ns() >= until) return ready();
      hardware_.relax();
    }
  }

  // --- translation ---------------------------------------------------------------------------------------------------
  // An empty root table set, caches flushed, translation on. Scalable: with a queue of 256-bit descriptors.
  bool start(Mode mode);
  // The same without the last step.
  bool prepare(Mode mode);
  Mode mode() const { return mode_; }
  u64 root() const { return root_; }
  u64 root_value() const { return root_value(root_); }
  u64 root_value(u64 table) const { return table | (mode_ == Mode::Scalable ? vtd::kScalableRoot : 0); }
  u16 source(unsigned requester) const { return hardware_.requesters[requester].source; }
  // Where the entries of a requester are; tables above are made as needed.
  u64 root_entry_at(unsigned requester) const;
  u64 context_at(unsigned requester);
  u64 directory_at(unsigned requester, u32 pasid = 0);
  u64 pasid_at(unsigned requester, u32 pasid = 0);
  // `levels` 0: the widest.
  Table table(unsigned levels = 0);
  u64 entry_at(const Table& table, u64 iova, unsigned level = 1);
  void map(const Table& table, u64 iova, u64 phys, u64 flags = vtd::kReadWrite) {
    store(entry_at(table, iova), phys | flags);
  }
  // A page where read() leaves what it has read; the tables of read tests need it.
  void map_mailbox(const Table& table) { map(table, kMailbox, mailbox_); }
  u64 mailbox() const { return mailbox_; }
  static constexpr u64 mailbox_iova() { return kMailbox; }
  void mailbox_is_untranslated() { mailbox_iova_ = mailbox_; }
  // The entry that makes a requester's DMA go through `table`: of the context (legacy) or of PASID 0.
  void attach(unsigned requester, const Table& table, u16 did = kDid, u64 flags = vtd::kPresent);
  // A new table, attached, with kIova on target 0.
  Table simple(unsigned requester = 0, u16 did = kDid);

  // --- flushes: through the queue when it is on, else by registers ---------------------------------------------------
  bool flush_context(vtd::Grain grain, u16 did = 0, u16 source = 0, unsigned function_mask = 0);
  bool flush_iotlb(vtd::Grain grain, u16 did = 0, u64 iova = 0, unsigned order = 0, bool leaves_only = false);
  bool flush_all();
  // What the register-based flush says it has done.
  vtd::Grain done_context() { return static_cast<vtd::Grain>(read64(vtd::kContextFlush) >> 59 & 3); }
  vtd::Grain done_iotlb() { return static_cast<vtd::Grain>(read64(iotlb_at() + 8) >> 57 & 3); }

  // --- the queue -----------------------------------------------------------------------------------------------------
  bool start_queue(unsigned order = 0, bool wide = false);
  bool start_queue_at(u64 base, unsigned order, bool wide);
  void push(const vtd::Descriptor& d);
  // Descriptor slot `n` of the queue's memory.
  void put(u64 n, const vtd::Descriptor& d);
  void ring() { write64(vtd::kQueueTail, tail_); }
  // Pushes, rings, and waits for the status of a wait descriptor behind.
  bool submit(std::initializer_list<vtd::Descriptor> descriptors);
  // Only the wait for the last status.
  bool completed(u64 limit_ns = 5'000'000);
  u64 slot_bytes() const { return wide_ ? 32 : 16; }
  u64 tail() const { return tail_; }
  void set_tail(u64 bytes) { tail_ = bytes; }
  u64 queue_base() const { return queue_; }
  u64 status_word() const { return status_word_; }
  // The next cookie to wait for; push a wait with it.
  u32 next_cookie() { return ++cookie_; }
  bool queue_on() { return (status() & vtd::kQueue) != 0; }
  // QIE = 0; false when the unit refuses.
  bool stop_queue();

  // --- DMA -----------------------------------------------------------------------------------------------------------
  // 8 bytes; takes the fault record with it.
  Observation write(unsigned requester, u64 iova);
  Observation read(unsigned requester, u64 iova);
  // A write in two parts: the device moves its data when it likes in between, QEMU's after 100 ms.
  void start_write(unsigned requester, u64 iova, u64 bytes = 8);
  Observation finish_write(unsigned requester);
  // Four bytes of DMA to where messages go, that are a message of this vector.
  void start_message(unsigned requester, u8 vector);
  // The device has moved its data, whatever became of it.
  void finish(unsigned requester);
  // The word of the last write that was started, at its place in `bytes`.
  u64 stamp(unsigned requester, u64 offset = 0) const;
  // An interrupt of the device now, as a message with this address and data.
  void interrupt(unsigned requester, u32 address, u32 data);

  // --- faults --------------------------------------------------------------------------------------------------------
  // The oldest record, cleared, and overflow with it.
  Fault take_fault();
  Fault record(unsigned i);
  void clear_record(unsigned i) { write32(record_at(i) + 12, u32{1} << 31); }
  // The record of a request, or lost().
  Observation fault_of(unsigned requester, u64 iova, bool of_read);
  u32 fault_status() { return read32(vtd::kFaultStatus); }
  const Fault& last_fault() const { return last_fault_; }
  // A vector that no message was sent to so far.
  u8 fresh_vector();
  // Programs the event block at `control` (masked meanwhile) for a fresh vector.
  u8 aim(u64 control, bool unmask);
  MsiTarget message(u8 vector) { return hardware_.message(vector); }
  bool came(u8 vector) {
    return wait([&] { return hardware_.message_came(vector); }, 200'000);
  }

 private:
  static constexpr u64 kMailbox = 0x9FFA'B000;
  static constexpr u64 kTargets = 4;
  static constexpr u8 kFirstVector = 0x30;
  // Inside a probe: words to send from the buffer's start on, and where what it reads goes.
  static constexpr u64 kBuffer = 0x4'0000;
  static constexpr u64 kInbox = 0x800;
  static constexpr u64 kStamps = kInbox / 8;

  u64 stamp_word(unsigned requester, u64 n) const;
  void load_stamps(unsigned requester);
  u64 device_read(unsigned requester, u64 offset);
  void device_write(unsigned requester, u64 offset, u64 value);
  void transfer(unsigned requester, bool to_memory, u64 inside, u64 outside, u64 bytes);
  bool rest_queue();
  void rest_faults();
  u64 table_at(u64 slot, u64 flags);

  Hardware& hardware_;
  u64 cap_ = 0;
  u64 ecap_ = 0;
  std::string_view problem_;
  u64 next_page_ = 0;
  u64 targets_ = 0;
  u64 mailbox_ = 0;
  u64 mailbox_iova_ = kMailbox;
  Mode mode_ = Mode::Legacy;
  u64 root_ = 0;

  u64 queue_ = 0;
  u64 queue_bytes_ = 0;
  bool wide_ = false;
  u64 tail_ = 0;
  u64 status_word_ = 0;
  u32 cookie_ = 0;

  struct Probe {
    bool loaded = false;
    u64 next = 0;  // stamp
    u64 first = 0;
    u64 iova = 0;
    bool busy = false;
  };
  Probe probes_[Hardware::kMaxRequesters];
  Fault last_fault_;
  u8 next_vector_ = kFirstVector;
};

}  // namespace perdure::conformance
