// What LUO leaves in memory for the next kernel, luo-v5 as of Linux 7.3, and what a generation is.
#pragma once
#include <string_view>

#include "core/base/types.h"

namespace perdure::luo {

inline constexpr std::string_view kSubtree = "LUO";  // name of KHO's blob
inline constexpr char kCompatible[8] = "luo-v5";     // compared over all 8 bytes

inline constexpr usize kNameSize = 64;        // of a session, with its NUL
inline constexpr usize kCompatibleSize = 48;  // of a file handler or FLB, with its NUL

struct LuoSer {
  char compatible[8] = {};
  u64 liveupdate_num = 0;  // of the update that this is the record of, from 1
  u64 sessions = 0;        // blocks of SessionSer; 0: no session
  u64 flbs = 0;            // the FLB page
};
static_assert(sizeof(LuoSer) == 32);

struct SessionSer {
  char name[kNameSize] = {};
  u64 files = 0;  // blocks of FileSer; 0: no file
  u64 count = 0;  // of all files
};
static_assert(sizeof(SessionSer) == 80);

struct FileSer {
  char compatible[kCompatibleSize] = {};
  u64 data = 0;
  u64 token = 0;
};
static_assert(sizeof(FileSer) == 64);

struct FlbHeader {
  u64 pages = 1;
  u64 count = 0;
};
static_assert(sizeof(FlbHeader) == 16);

struct FlbSer {
  char compatible[kCompatibleSize] = {};
  u64 data = 0;
  u64 count = 0;  // references when it was written
};
static_assert(sizeof(FlbSer) == 64);
inline constexpr u64 kMaxFlbs = (kPageSize - sizeof(FlbHeader)) / sizeof(FlbSer);
static_assert(kMaxFlbs == 63);

// The text of a fixed field, without its NUL; null data if there is no NUL in it.
template <usize N>
constexpr std::string_view text_of(const char (&field)[N]) {
  for (usize n = 0; n < N; ++n) {
    if (field[n] == '\0') return {field, n};
  }
  return {};
}
// `text` is shorter than the field; the rest becomes NUL.
template <usize N>
constexpr void set_text(char (&field)[N], std::string_view text) {
  for (usize n = 0; n < N; ++n) field[n] = n < text.size() ? text[n] : '\0';
}

// At least one character, fits a field of `size` with its NUL, and has no NUL in it.
constexpr bool is_name(std::string_view text, usize size) {
  for (char c : text) {
    if (c == '\0') return false;
  }
  return !text.empty() && text.size() < size;
}

constexpr u64 hash_of(std::string_view text) {
  u64 h = 0xcbf29ce484222325;  // FNV-1a
  for (char c : text) h = (h ^ static_cast<u8>(c)) * 0x100000001b3;
  return h;
}

// Ties the records of one session in one update together: both kernels derive it from what both know, since luo-v5 has
// no room for it. Within an update a new session whose generation is taken is refused; never 0.
constexpr u64 generation_of(u64 liveupdate_num, std::string_view session) {
  u64 x = hash_of(session) + liveupdate_num * 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  x ^= x >> 31;
  return x != 0 ? x : 1;
}

}  // namespace perdure::luo
