// Configuration space as a program with the device in its hands sees it (uapi §3.6): some registers are the device's,
// some are kept for the program here, some cannot be written.
#pragma once
#include <span>

#include "core/pci/function.h"

namespace perdure::vfio {

class ConfigView {
 public:
  static constexpr u32 kConventionalBytes = 256;
  static constexpr u32 kExpressBytes = 4096;
  // What exists for the program only, and travels with the device.
  struct VirtualState {
    u32 bars[pci::Function::kBars] = {};
    u16 command = 0;
    u8 interrupt_line = 0;
  };
  // What a write asks for that is more than a register.
  enum class Effect : u8 { None, Reset };

  explicit ConfigView(pci::Function& function) : function_(function) {}

  // The device gets a new user: capabilities are looked at, and what is kept here starts as the device has it. Reads
  // only. Again for each user. `pin`: its interrupt pin leads somewhere, and is shown.
  void begin(bool pin);
  const VirtualState& state() const { return state_; }
  void set_state(const VirtualState& state) { state_ = state; }
  // Vectors enabled through SET_IRQS: only then a program's MSI enable bit sticks. 0: none.
  void set_msi_vectors(unsigned vectors);

  // 256, or 4096 for a PCI Express function.
  u32 size() const { return express_ != 0 ? kExpressBytes : kConventionalBytes; }
  // [offset, offset + bytes) lies within size(). Any length and alignment.
  void read(u16 offset, std::span<std::byte> to);
  Effect write(u16 offset, std::span<const std::byte> from);

  // The program turned its wired interrupt off in the command register; the device does not know.
  bool interrupt_disabled() const { return (state_.command & pci::Command::kInterruptDisable) != 0; }
  bool memory_enabled() const;  // BARs answer: decoding is on and the device is not in D3hot

 private:
  enum class Owner : u8 { Raw, ReadOnly, Header, Power, Vpd, Express, Advanced, Msi, ErrorReporting };
  static constexpr unsigned kDwords = kExpressBytes / 4;

  void claim(u16 start, u16 bytes, Owner owner);
  void find_capabilities();
  void find_extended_capabilities();

  u32 read_dword(unsigned dword);
  Effect write_dword(unsigned dword, u32 value, u32 mask);
  void write_header(unsigned dword, u32 value, u32 mask);
  void write_bar(unsigned bar, u32 value, u32 mask);
  Effect write_express(u16 start, unsigned offset, u32 value, u32 mask);
  void write_vpd(unsigned offset, u32 value, u32 mask);
  void write_power(u16 start, u32 value, u32 mask);
  void write_msi(unsigned offset, u32 value, u32 mask);
  // To the device, only the bytes that `mask` covers, in naturally aligned pieces.
  void pass(unsigned dword, u32 value, u32 mask);
  u32 read_msi(unsigned offset) const;

  pci::Function& function_;
  u16 express_ = 0, power_ = 0, advanced_ = 0, msi_ = 0;  // capabilities, 0: none
  u8 first_capability_ = 0;
  bool msi_wide_ = false;
  u8 msi_log2_ = 0;  // of the enabled vectors
  bool msi_active_ = false;
  u16 msi_control_ = 0;
  u16 vpd_address_ = 0;
  u32 vpd_data_ = 0;
  u32 msi_words_[3] = {};   // address, upper address, data
  u16 device_control_ = 0;  // payload and read request sizes
  VirtualState state_;
  Owner owner_[kDwords] = {};
  u16 start_[kDwords] = {};  // of the capability that a dword belongs to
  // Of capability headers: the next one that the program gets to see. kNoHeader: not the start of a capability.
  static constexpr u16 kNoHeader = 1;
  u16 next_[kDwords] = {};
  bool first_extended_hidden_ = false;
  bool pin_ = false;
};

}  // namespace perdure::vfio
