// What goes out on the serial line: log lines for people, and lines of JSON for the program at the other end.
#pragma once
#include <span>

#include "core/base/machine.h"

namespace perdure::metal {

// "[   0.001234] warn: text"
void log(LogLevel level, std::string_view text);

// One event, one line: Event("boot").field("hop", 0).field("release", "a"), written when it ends.
class Event {
 public:
  explicit Event(std::string_view name);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  Event& field(std::string_view key, std::string_view text);
  Event& field(std::string_view key, const char* text);
  Event& field(std::string_view key, u64 number);
  Event& flag(std::string_view key, bool value);
  // Between begin() and end() the fields are those of an object or the values of a list; a key may be empty in a list.
  Event& begin(std::string_view key, char bracket);  // '{' or '['
  Event& end(char bracket);                          // '}' or ']'

 private:
  void key(std::string_view key);
  void put(std::string_view text);
  void quoted(std::string_view text);
  void number(u64 value);
  char buffer_[256];
  usize used_ = 0;
  bool first_ = true;
};

}  // namespace perdure::metal
