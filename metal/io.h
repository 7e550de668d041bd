// Instructions that C++ has no words for.
#pragma once
#include "core/base/types.h"

namespace perdure::metal {

inline void out8(u16 port, u8 value) {
  __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}
inline void out32(u16 port, u32 value) {
  __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}
inline u8 in8(u16 port) {
  u8 value = 0;
  __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}
inline u64 read_cr2() {
  u64 value = 0;
  __asm__ volatile("movq %%cr2, %0" : "=r"(value));
  return value;
}
inline void interrupts_off() {
  __asm__ volatile("cli" : : : "memory");
}
inline void interrupts_on() {
  __asm__ volatile("sti" : : : "memory");
}
inline void halt() {
  __asm__ volatile("hlt" : : : "memory");
}
inline void cpu_relax() {
  __asm__ volatile("pause" : : : "memory");
}

}  // namespace perdure::metal
