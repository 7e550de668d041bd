// What one modelled IOMMU unit can do, how it ages its caches, and which deviations of QEMU it imitates.
#pragma once
#include "core/base/types.h"

namespace perdure::board {

// How long a translation cache keeps what it was told to drop by nobody. Every policy is legal hardware.
enum class CachePolicy : u8 {
  Sticky,       // never evicts: a missed flush shows
  EvictAlways,  // keeps nothing: a table that was not preserved shows
  Random,       // drops entries by seed
};

// How many steps (IommuModel::step) a command or a descriptor takes; drawn by seed from [min_steps, max_steps]. 0, 0:
// it has taken effect when the register write returns.
struct CompletionDelay {
  u32 min_steps = 0;
  u32 max_steps = 0;

  bool operator==(const CompletionDelay&) const = default;
};

// Deviations of QEMU's intel-iommu, so that a hosted test can predict the run on metal. All off: the architecture.
struct IommuQuirks {
  bool psi_mask8 = false;              // a page-selective flush compares page numbers in their low 8 bits only
  bool no_perm_check_on_hit = false;   // a cached translation of the wrong permission blocks without a record
  bool srtp_flushes = false;           // SRTP drops all caches although CAP.ESRTPS is 0
  bool iqa_dw_unreadable = false;      // IQA reads back DW = 0
  bool qi_disable_needs_wait = false;  // QIE = 0 is refused unless the last descriptor ever processed was a wait
  bool iqe_needs_tail_write = false;   // after an error the queue goes on with the next write to IQT, not before
  bool wait_pd_reserved = false;       // bits 31:7 of a wait descriptor are reserved
  bool pv_ones_without_pasid = false;  // FRCD.PV of a page table's fault is 0xFFFF for requests without a PASID
  bool collapse_same_source = false;   // a fault of a requester that already has a record pending is dropped
  bool scalable_legacy_codes = false;  // root, context and second-stage faults carry legacy codes in scalable mode
  bool iqa_base_latched = false;       // IQA reads back the base of the queue in use, or last in use
  // PASID directory and table: reserved bits, FPD without P and the nested type are not looked at, and whatever is
  // wrong is reason 0x58.
  bool pasid_unchecked = false;
  // The queue: descriptors for what the unit has not are taken, qw2 and qw3 are not looked at, bit 4 of IQT is cut off
  // with 256-bit descriptors, a status that cannot be written stops it, and IQERCD stays 0.
  bool queue_unchecked = false;
  bool fault_event_until_fsts = false;    // IP of the fault event drops with a write of FSTS, not when its causes go
  bool device_flush_of_any_did = false;   // a context flush of one requester does not compare the domain id
  bool interrupts_unrecorded = false;     // blocked messages leave no fault, and entries are read each time
  bool compatible_messages_pass = false;  // messages in compatibility format pass with IRES = 1; CFIS stays 0

  static constexpr IommuQuirks qemu_7_2() {
    return {true, true, true, true, true, true, true, true, true, true, true, true, true, true, true, true, true};
  }

  bool operator==(const IommuQuirks&) const = default;
};

struct IommuModelConfig {
  u64 base = 0xFED9'0000;  // of the register window, 4 KiB

  // --- capabilities ------------------------------------------------------------------------------------------
  u8 nd = 6;            // domain ids have 4 + 2*nd bits
  u8 sagaw = 0b0110;    // bit 1: 3 levels (39 bits), bit 2: 4 levels (48), bit 3: 5 levels (57)
  u8 mgaw = 48;         // bits of IOVA
  u8 haw = 48;          // bits of host physical address; bits above are reserved in every entry
  u8 sslps = 0b11;      // bit 0: 2 MiB pages, bit 1: 1 GiB pages
  u16 nfr = 1;          // fault records, 1..256
  u8 mamv = 18;         // largest address mask of a page-selective flush
  bool psi = true;      // page-selective flush
  bool dwd = true;      // drains writes
  bool drd = true;      // drains reads
  bool rwbf = false;    // needs GCMD.WBF after not-present to present
  bool plmr = false;    // protected low memory range
  bool phmr = false;    // protected high memory range
  bool esrtps = false;  // SRTP drops all caches
  bool caching_mode = false;
  bool coherent = true;             // ECAP.C: walks of root, context, PASID and legacy page tables snoop
  bool queued = true;               // ECAP.QI
  bool device_tlb = false;          // ECAP.DT
  bool pass_through = true;         // ECAP.PT
  bool snoop_control = true;        // ECAP.SC
  bool interrupt_remap = true;      // ECAP.IR
  bool extended_interrupts = true;  // ECAP.EIM
  bool esirtps = false;             // SIRTP drops the interrupt entry cache
  bool abort_mode = false;          // ECAP.ADMS

  // Scalable mode: tables with a PASID directory per function.
  bool scalable = false;           // ECAP.SMTS
  bool second_stage = true;        // ECAP.SSTS, in scalable mode
  bool second_stage_dirty = true;  // ECAP.SSADS
  bool first_stage = false;        // ECAP.FSTS: x86 tables of four levels
  bool first_stage_5 = false;      // CAP.FS5LP: and of five
  bool first_stage_1g = true;      // CAP.FS1GP: 1 GiB pages in them
  bool scalable_coherent = true;   // ECAP.SMPWCS
  u8 pasid_bits = 20;              // ECAP.PSS + 1

  u16 fro = 0x220;  // byte offset of the first fault record
  u16 iro = 0x0F0;  // byte offset of IVA and, 8 further, IOTLB

  // --- behaviour ---------------------------------------------------------------------------------------------
  CachePolicy policy = CachePolicy::Sticky;
  u64 seed = 1;           // of the random policy and of delays
  CompletionDelay delay;  // of commands and descriptors
  // Register reads and translations are steps, too: for machines without a driver of steps.
  bool step_on_access = true;
  IommuQuirks quirks;

  // Domain ids are below this.
  constexpr u32 did_limit() const { return u32{1} << (4 + 2 * nd); }
  constexpr u8 max_levels() const { return (sagaw & 8) ? 5 : (sagaw & 4) ? 4 : 3; }
  u64 cap() const;
  u64 ecap() const;

  bool operator==(const IommuModelConfig&) const = default;
};

}  // namespace perdure::board
