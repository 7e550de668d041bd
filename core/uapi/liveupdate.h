// Linux's live update user API (7.3), /dev/liveupdate and its sessions: layouts and numbers, as facts.
#pragma once
#include <cstddef>

#include "core/base/types.h"

namespace perdure::uapi {

// _IO(0xba, nr). On the device:
inline constexpr u32 kLiveupdateCreateSession = 0xba00;
inline constexpr u32 kLiveupdateRetrieveSession = 0xba01;
// On a session:
inline constexpr u32 kLiveupdateSessionPreserveFd = 0xba40;
inline constexpr u32 kLiveupdateSessionRetrieveFd = 0xba41;
inline constexpr u32 kLiveupdateSessionFinish = 0xba42;
inline constexpr u32 kLiveupdateSessionGetName = 0xba43;

inline constexpr usize kLiveupdateNameLength = 64;  // with its NUL

struct LiveupdateSession {  // create and retrieve
  u32 size = 0;
  s32 fd = 0;  // out
  char name[kLiveupdateNameLength] = {};
};
static_assert(sizeof(LiveupdateSession) == 72);

struct LiveupdatePreserveFd {
  u32 size = 0;
  s32 fd = 0;
  u64 token = 0;
};
static_assert(sizeof(LiveupdatePreserveFd) == 16);

struct LiveupdateRetrieveFd {
  u32 size = 0;
  s32 fd = 0;  // out
  u64 token = 0;
};
static_assert(sizeof(LiveupdateRetrieveFd) == 16);

struct LiveupdateFinish {
  u32 size = 0;
  u32 reserved = 0;
};
static_assert(sizeof(LiveupdateFinish) == 8);

struct LiveupdateGetName {
  u32 size = 0;
  u32 reserved = 0;
  char name[kLiveupdateNameLength] = {};  // out
};
static_assert(sizeof(LiveupdateGetName) == 72);

}  // namespace perdure::uapi
