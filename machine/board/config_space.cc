#include "machine/board/config_space.h"

namespace perdure::board {

void ConfigSpace::define(u16 offset, unsigned width, u32 reset, u32 writable, u32 clear_by_one) {
  for (unsigned i = 0; i < width; ++i) {
    const unsigned shift = 8 * i;
    bytes_[offset + i] = reset_[offset + i] = static_cast<u8>(reset >> shift);
    writable_[offset + i] = static_cast<u8>(writable >> shift);
    clear_by_one_[offset + i] = static_cast<u8>(clear_by_one >> shift);
  }
}

u16 ConfigSpace::add_capability(u8 id, u8 length) {
  const u16 at = next_capability_;
  next_capability_ = static_cast<u16>((at + length + 3) & ~3);
  define(at, 2, id);
  define(last_link_, 1, at);
  last_link_ = static_cast<u16>(at + 1);
  define(pci_reg::kStatus, 2, read(pci_reg::kStatus, 2) | 1 << 4, 0, 0xF900);
  return at;
}

u16 ConfigSpace::add_extended_capability(u16 id, u8 version, u16 length) {
  const u16 at = next_extended_;
  next_extended_ = static_cast<u16>((at + length + 3) & ~3);
  define(at, 4, u32{id} | u32{version} << 16);
  if (last_extended_ != 0) define(last_extended_, 4, read(last_extended_, 4) | u32{at} << 20);
  last_extended_ = at;
  return at;
}

u32 ConfigSpace::read(u16 offset, unsigned width) const {
  if (!valid(offset, width)) return ~u32{0} >> (width >= 4 ? 0 : 32 - 8 * width);
  u32 value = 0;
  for (unsigned i = 0; i < width; ++i) value |= u32{bytes_[offset + i]} << (8 * i);
  return value;
}

void ConfigSpace::write(u16 offset, unsigned width, u32 value) {
  if (!valid(offset, width)) return;
  for (unsigned i = 0; i < width; ++i) {
    const auto byte = static_cast<u8>(value >> (8 * i));
    u8& b = bytes_[offset + i];
    b = static_cast<u8>((b & ~writable_[offset + i]) | (byte & writable_[offset + i]));
    b = static_cast<u8>(b & ~(byte & clear_by_one_[offset + i]));
  }
}

void ConfigSpace::set(u16 offset, unsigned width, u32 value) {
  for (unsigned i = 0; i < width; ++i) bytes_[offset + i] = static_cast<u8>(value >> (8 * i));
}

}  // namespace perdure::board
